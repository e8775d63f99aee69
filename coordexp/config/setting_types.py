"""The types that settings of several groups share, with their limits."""

from __future__ import annotations

from typing import Annotated

from coordexp.config.limits import FRACTION, NAME, NOT_NEGATIVE, POSITIVE, at_least, at_most

# The upper limits are far beyond what can be used. They refuse a slip in one line, where it would
# otherwise fill the memory or never end.
Count = Annotated[int, at_least(1), at_most(10**9)]
CountOrZero = Annotated[int, NOT_NEGATIVE, at_most(10**9)]
Rank = Annotated[int, NOT_NEGATIVE, at_most(2**16)]  # of an adapter; 0: none
Width = Annotated[int, at_least(1), at_most(2**16)]
Layers = Annotated[int, at_least(1), at_most(1000)]
Images = Annotated[int, at_least(1), at_most(10**8)]
Objects = Annotated[int, at_least(1), at_most(1000)]
Positive = Annotated[float, POSITIVE]
NotNegative = Annotated[float, NOT_NEGATIVE]
Fraction = Annotated[float, FRACTION]
Name = Annotated[str, NAME]
Seed = Annotated[int, NOT_NEGATIVE, at_most(2**63 - 1, "the largest seed that torch takes")]

SPELLED_ONE_WAY = "a path: `coco/`, `./coco` and `.//coco` are written as `coco`"
# How a path counts in a hash (coordexp/storage/identity.py): by the bytes of its file, and:
RELEASE = "a path of a release: by the bytes of its files"
PICTURES = "a path of a directory of pictures: not at all"
ReleasePath = Annotated[str, SPELLED_ONE_WAY, RELEASE]
OptionalPath = Annotated[str | None, SPELLED_ONE_WAY]
PictureDirectory = Annotated[str | None, SPELLED_ONE_WAY, PICTURES]
