"""Validation pictures that are in the training set as well: refused, or counted on request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from coordexp.config.schema import CocoConfig
from coordexp.data.coco.image_files import ImageFile
from coordexp.data.coco.shared_pictures import Link, fingerprints, links
from coordexp.data.coco.splits import Split
from coordexp.errors import UserError


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
    train, val = splits["train"].images, splits["val"].images
    names = [image.paths[0] for image in (*train, *val)]
    sources = [file.source for split in ("train", "val") for file in files[split]]
    leaks: dict[int, Link] = {}  # by validation picture
    for link in links(names, fingerprints(sources, workers, settings.name)):
        if link.first < len(train) <= link.second:
            leaks.setdefault(link.second, link)
    if not leaks:
        return
    kinds = Counter(link.kind for link in leaks.values())
    if not settings.allow_shared_pictures:
        first = leaks[min(leaks)]
        listed = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
        raise UserError(
            f"{splits['val'].coco.path}: {len(leaks)} of its pictures are copies of training "
            f"pictures ({listed}), such as {names[first.second]!r} of {names[first.first]!r}: "
            "take them out of one, or set data.allow_shared_pictures=true"
        )
    for kind, n in kinds.items():
        splits["val"].stats.noted[f"pictures that train holds as well ({kind})"] += n
