"""Pictures that are one: the same bytes, nearly the same, or augmented copies of one picture.

A model that has seen a validation picture in training is not validated by it. Copies of one picture
are found before train and val are split, and between two files that were split elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from tqdm import tqdm

from coordexp.data.parallel import in_parallel
from coordexp.data.pictures import ORIENTATION, LeftOutError, eight_bit, opened
from coordexp.storage.files import sha256_file

# Two pictures are nearly the same if their perceptual hashes (the signs of the 8 x 8 lowest
# frequencies) differ in few bits, and their thumbnails, standardised to mean 0 and deviation 1, by
# little. docs/data.md has the distances of copies and of different pictures.
HASH_SIDE, READ_SIDE_PX, THUMBNAIL_PX = 8, 64, 16
MAX_BITS = 7  # so two near hashes share one of their 8 bytes
MAX_DIFFERENCE = 0.2  # root of the mean square
MIN_CONTRAST = 16  # of 255: the signs of a picture without content are noise

SAME_BYTES = "the same file"
NEARLY = "nearly the same"
AUGMENTED = "augmented copies of one picture"

# Names that tools give to augmented copies. Roboflow: NAME_jpg.rf.HASH.jpg, in any directory.
# Augmentor: DIRECTORY_original_NAME.jpg_UUID.jpg. Others: NAME_aug_3.jpg beside NAME.jpg.
ROBOFLOW = re.compile(r"(.+[_.](?:jpe?g|png|bmp|webp|tiff?))\.rf\.[0-9A-Za-z]{16,}\.\w+", re.I)
AUGMENTOR = re.compile(r"(.+_original_.+\.\w+)_[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\.\w+")
NUMBERED = re.compile(r"(.+?)[_-]aug[_-]?\d+\.\w+", re.I)


@dataclass(frozen=True)
class Fingerprint:
    sha256: str | None  # of the file; None: not readable
    bits: bytes | None = None  # of the perceptual hash; None: not readable, or without content
    thumbnail: bytes = b""  # 16 x 16, grey


@dataclass(frozen=True)
class Link:
    """Two pictures of a list that are one, `first` before `second`."""

    first: int
    second: int
    kind: str


def fingerprints(
    sources: Sequence[Path | None], workers: int, label: str
) -> list[Fingerprint | None]:
    """Of each file; None where there is none."""
    files = [source for source in sources if source is not None]
    results: Iterator[Fingerprint] = iter(())
    if files:
        found = in_parallel(fingerprint, files, workers)
        bar = f"{label} look for copies"
        results = iter(tqdm(found, total=len(files), desc=bar, unit="img", mininterval=1.0))
    return [None if source is None else next(results) for source in sources]


def fingerprint(path: Path) -> Fingerprint:
    """Of a picture; without values where the conversion will leave it out as not readable."""
    try:
        with opened(path) as picture:
            # JPEG is decoded at a part of its size where that is enough.
            picture.draft("L", (2 * READ_SIDE_PX, 2 * READ_SIDE_PX))
            small = reduced(eight_bit(picture).convert("L"), READ_SIDE_PX)
            # Tools that turn a picture as its Exif orientation says drop the orientation.
            small = as_displayed(small, picture)
    except LeftOutError:
        return Fingerprint(None)
    sha256 = sha256_file(path)
    if np.ptp(np.asarray(small)) < MIN_CONTRAST:
        return Fingerprint(sha256)
    bits = imagehash.phash(small, HASH_SIDE, READ_SIDE_PX // HASH_SIDE).hash
    return Fingerprint(sha256, np.packbits(bits).tobytes(), reduced(small, THUMBNAIL_PX).tobytes())


def as_displayed(small: Image.Image, picture: Image.Image) -> Image.Image:
    """`small`, turned as the Exif orientation of the picture that it was made from says."""
    small.getexif()[ORIENTATION] = picture.getexif().get(ORIENTATION, 1)
    return ImageOps.exif_transpose(small)


def reduced(picture: Image.Image, side: int) -> Image.Image:
    return picture.resize((side, side), Image.Resampling.BOX)


def links(names: Sequence[str], prints: Sequence[Fingerprint | None]) -> Iterator[Link]:
    """The pairs of pictures that are one. Of equal files or siblings each is linked to the first.

    Args:
        names: path of each picture in its annotation file.
    """
    yield from _to_first((p.sha256 if p else None for p in prints), SAME_BYTES)
    yield from _to_first(siblings(names), AUGMENTED)
    for first, second in near_pairs(prints):
        yield Link(first, second, NEARLY)


def _to_first(keys: Iterable[str | None], kind: str) -> Iterator[Link]:
    """Link each picture that has a key to the first one of the same key."""
    first: dict[str, int] = {}
    for i, key in enumerate(keys):
        if key is not None and first.setdefault(key, i) != i:
            yield Link(first[key], i, kind)


def siblings(names: Sequence[str]) -> list[str | None]:
    """The picture that each name is a copy of; None for a name that is of no copy."""
    copies = [augmented_from(name) for name in names]
    originals = {copy for copy in copies if copy is not None}
    for i, name in enumerate(names):
        if copies[i] is None and (own := str(PurePosixPath(name).with_suffix(""))) in originals:
            copies[i] = own
    return copies


def augmented_from(name: str) -> str | None:
    path = PurePosixPath(name)
    if found := ROBOFLOW.fullmatch(path.name):
        return found[1]
    if found := AUGMENTOR.fullmatch(path.name):
        return str(path.parent / found[1])
    if found := NUMBERED.fullmatch(path.name):
        return str(path.parent / found[1])
    return None


def near_pairs(prints: Sequence[Fingerprint | None]) -> Iterator[tuple[int, int]]:
    """The pairs of pictures that are nearly the same, each once, the smaller index first.

    Only pictures that share a byte of their hash are compared: near hashes do, few others.
    """
    known = [i for i, p in enumerate(prints) if p and p.bits]
    if not known:
        return
    pictures = [p for p in prints if p and p.bits]
    bits = np.frombuffer(b"".join(p.bits or b"" for p in pictures), np.uint8)
    grey = np.frombuffer(b"".join(p.thumbnail for p in pictures), np.uint8)
    bits, thumbnails = bits.reshape(len(known), -1), standardised(grey.reshape(len(known), -1))
    for column in range(bits.shape[1]):
        order = np.argsort(bits[:, column], kind="stable")
        starts = np.flatnonzero(np.diff(bits[order, column])) + 1
        for bucket in np.split(order, starts):
            for i, j in _near_in(bits, thumbnails, bucket):
                # A pair that shares several bytes is reported for the first of them.
                if not (bits[i, :column] == bits[j, :column]).any():
                    yield known[i], known[j]


def standardised(grey: NDArray[np.uint8]) -> NDArray[np.float32]:
    values = grey.astype(np.float32)
    values -= values.mean(1, keepdims=True)
    return values / np.maximum(values.std(1, keepdims=True), 1e-6)


def _near_in(
    bits: NDArray[np.uint8], thumbnails: NDArray[np.float32], bucket: NDArray[np.int64]
) -> Iterator[tuple[int, int]]:
    """The near pairs among the pictures of a bucket, which is sorted."""
    for k, i in enumerate(bucket[:-1]):
        others = bucket[k + 1 :]
        near = others[np.bitwise_count(bits[others] ^ bits[i]).sum(1) <= MAX_BITS]
        differences = np.square(thumbnails[near] - thumbnails[i]).mean(1)
        yield from ((int(i), int(j)) for j in near[differences <= MAX_DIFFERENCE**2])


def groups(n: int, found: Iterable[Link]) -> list[int]:
    """The group of each of n pictures, named by its first member; alone, a group of its own."""
    group = list(range(n))

    def first_of(i: int) -> int:
        while group[i] != i:
            group[i] = group[group[i]]
            i = group[i]
        return i

    for link in found:
        a, b = sorted((first_of(link.first), first_of(link.second)))
        group[b] = a
    return [first_of(i) for i in range(n)]


def kinds_of_copies(found: Iterable[Link]) -> dict[int, str]:
    """How each picture that has a copy is linked first."""
    kinds: dict[int, str] = {}
    for link in found:
        kinds.setdefault(link.first, link.kind)
        kinds.setdefault(link.second, link.kind)
    return kinds
