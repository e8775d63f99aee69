"""The paths under which an annotated picture may lie, from the name that its file gives it.

Exporters write where a picture lay on another machine: `../../upload/1/a.jpg` (Label Studio),
`images\\a.jpg` (Windows), `/home/me/a.jpg`, `/data/local-files/?d=set%2Fa.jpg`, a URL. Below the
directory of the pictures only the last parts of such a path are true. No path made here is
absolute or holds `..`; a link inside the directory is followed, because the user has put it there.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

# Of a path that does not lie below the directory. More are not tried: a path of a million parts
# would otherwise give a million candidates.
MOST_PARTS = 8
DRIVE = re.compile(r"^[A-Za-z]:(?=[/\\])")
LOCAL_FILE = "?d="  # how Label Studio names a file of its own machine
# Directories of annotation files: the pictures are around the directory above.
ANNOTATION_DIRECTORIES = ("annotations", "labels")


def lies_below(path: str) -> bool:
    """Whether a path, as it is written, names something below the directory it is relative to."""
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith("/") and ".." not in parts and can_be_a_path(path)


def can_be_a_path(path: str) -> bool:
    return "\0" not in path and is_text(path)


def is_text(value: str) -> bool:
    """Whether UTF-8 can encode the text; it cannot encode half of a surrogate pair."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def paths_of(name: str) -> list[str]:
    """The whole name where it lies below a directory, then its ends, the longest first.

    Empty where the name has no usable part, such as `..` or `/`.
    """
    if not can_be_a_path(name):
        return []
    paths = []
    if lies_below(name) and "://" not in name:
        paths.append(str(PurePosixPath(name)))  # ./1.jpg is 1.jpg
    for spelling in dict.fromkeys((name, unquote(name))):
        if can_be_a_path(spelling):
            paths += ends_of(spelling)
    return list(dict.fromkeys(paths))


def ends_of(path: str) -> list[str]:
    """The last parts of a path of any system, the longest end first; `..` ends them."""
    path = DRIVE.sub("", path.rpartition(LOCAL_FILE)[2])
    if "://" in path:
        path = url_path(path)
    parts: list[str] = []
    for part in path.replace("\\", "/").split("/"):
        if part == "..":
            parts = []
        elif part not in ("", "."):
            parts.append(part)
    parts = parts[-MOST_PARTS:]
    return ["/".join(parts[i:]) for i in range(len(parts))]


def url_path(url: str) -> str:
    """The path of a URL; empty where it is none."""
    try:
        return urlsplit(url).path
    except ValueError:  # a broken host, such as http://[
        return ""
