"""Validation pictures that are in the training set as well: refused, or counted on request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from coordexp.config.schema import CocoConfig
from coordexp.data.coco.image_files import ImageFile
from coordexp.data.coco.shared_pictures import Link, fingerprints, links
from coordexp.data.coco.splits import Split
from coordexp.errors import UserError


@dataclass(frozen=True)
class Pictures:
    """The pictures of a split, as the file `path` names them."""

    path: Path
    names: list[str]
    files: list[Path | None]  # None: missing, or drawn


def check_leaks(
    splits: Mapping[str, Split],
    files: Mapping[str, list[ImageFile]],
    settings: CocoConfig,
    workers: int,
) -> None:
    """Count the validation pictures that are copies of training pictures.

    Raises:
        UserError: there are some, and `data.allow_shared_pictures` is not set.
    """
    if settings.annotations and not settings.allow_shared_pictures:
        return  # the split kept all copies of a picture together
    train, val = (
        Pictures(
            splits[name].coco.path,
            [image.paths[0] for image in splits[name].images],
            [file.source for file in files[name]],
        )
        for name in ("train", "val")
    )
    noted = leaks(train, val, settings.allow_shared_pictures, workers, settings.name)
    splits["val"].stats.noted.update(noted)


def leaks(
    train: Pictures, val: Pictures, are_allowed: bool, workers: int, label: str
) -> Counter[str]:
    """The number of validation pictures that are copies of training pictures, by a sentence.

    Raises:
        UserError: there are some, and they are not allowed.
    """
    n_train, names = len(train.names), [*train.names, *val.names]
    prints = fingerprints([*train.files, *val.files], workers, label)
    found: dict[int, Link] = {}  # by validation picture
    for link in links(names, prints):
        if link.first < n_train <= link.second:
            found.setdefault(link.second, link)
    kinds = Counter(link.kind for link in found.values())
    if found and not are_allowed:
        first = found[min(found)]
        listed = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
        raise UserError(
            f"{val.path}: {len(found)} of its pictures are copies of training pictures "
            f"({listed}), such as {names[first.second]!r} of {names[first.first]!r}: "
            "take them out of one, or set data.allow_shared_pictures=true"
        )
    return Counter({f"pictures that train holds as well ({k})": n for k, n in kinds.items()})
