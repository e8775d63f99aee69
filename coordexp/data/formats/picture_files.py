"""The pictures below a directory, found by the names that annotation files give them."""

from __future__ import annotations

import os
from collections import defaultdict
from functools import cached_property
from pathlib import Path, PurePosixPath

from coordexp.data.picture_paths import paths_of
from coordexp.data.pictures import ORIENTATION, TURNING, LeftOutError, opened
from coordexp.errors import UserError

JPEG_ENDINGS = (".jpg", ".jpeg", ".jpe")
OTHER_ENDINGS = (".png", ".webp", ".avif", ".jp2", ".tif", ".tiff", ".gif", ".bmp", ".ppm")
PICTURE_ENDINGS = frozenset(JPEG_ENDINGS + OTHER_ENDINGS)


class PictureFiles:
    """The pictures below `root`. Links to directories are followed once each."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def paths(self) -> list[str]:
        """Relative to the root, sorted."""
        found, seen = [], set()
        for directory, below, files in os.walk(self.root, followlinks=True):
            real = os.path.realpath(directory)
            if real in seen:
                below.clear()
                continue
            seen.add(real)
            relative = Path(directory).relative_to(self.root)
            found += [(relative / name).as_posix() for name in files if is_picture(name)]
        return sorted(found)

    @cached_property
    def by_stem(self) -> dict[str, list[str]]:
        """Paths by their last part without its ending."""
        stems: dict[str, list[str]] = defaultdict(list)
        for path in self.paths:
            stems[PurePosixPath(path).stem].append(path)
        return stems

    def find(self, name: str, near: Path) -> str | None:
        """The picture that `name` ends in, relative to the root; None where there is none.

        The longest end that some picture has decides. Of several pictures with this end, the one
        whose directory shares most parts with that of the annotation file `near` is taken; of
        equals none. A name without an ending of a picture matches any ending.
        """
        for end in paths_of(name):
            last = PurePosixPath(end)
            stem = last.stem if is_picture(last.name) else last.name
            matches = [path for path in self.by_stem.get(stem, ()) if ends_in(path, end)]
            if matches:
                return nearest(matches, near)
        return None

    def spelled(self, name: str) -> str:
        """How COCO's file_name calls a picture that is missing.

        Raises:
            UserError: the name has no part that a file could have.
        """
        paths = paths_of(name)
        if not paths:
            raise UserError(f"the picture name {name!r} names no file")
        return paths[0]

    def size(self, path: str) -> tuple[int, int] | None:
        """Width and height as displayed: annotation tools apply the Exif orientation.

        None for a picture that is not readable.
        """
        try:
            with opened(self.root / path) as picture:
                turned = picture.getexif().get(ORIENTATION) in TURNING
                return (picture.height, picture.width) if turned else picture.size
        except LeftOutError:
            return None


def is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in PICTURE_ENDINGS


def ends_in(path: str, end: str) -> bool:
    if not is_picture(end):
        path = path.removesuffix(PurePosixPath(path).suffix)
    return path == end or path.endswith(f"/{end}")


def nearest(paths: list[str], near: Path) -> str | None:
    parts = set(near.parent.parts)
    shared = [len(parts.intersection(PurePosixPath(path).parent.parts)) for path in paths]
    best = max(shared)
    return paths[shared.index(best)] if shared.count(best) == 1 else None
