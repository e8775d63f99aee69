"""Which wrong picture each image is shown, to measure what its own picture contributes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from coordexp.data.records import Record


def exchanged_pictures(records: Sequence[Record], image_ids: Iterable[int]) -> dict[int, int]:
    """For each image, another image of the same size whose picture it is shown.

    Within a group of one width and height, pictures move cyclically by half of the group: images
    that are neighbours in the file, such as two frames of a video, do not get each other's picture.
    Records that name one picture file count as one picture, so no image keeps its own.

    Returns:
        {image id: image id of the picture}, in the order of `image_ids`. An image without another
        picture of its size is left out.
    """
    image_ids = list(image_ids)
    groups: dict[tuple[int, int], dict[str, int]] = {}
    for image in image_ids:
        record = records[image]
        groups.setdefault((record.width, record.height), {}).setdefault(record.image, image)

    other: dict[str, int] = {}
    for pictures in groups.values():
        files = list(pictures)
        if len(files) < 2:
            continue
        shift = len(files) // 2
        for n, file in enumerate(files):
            other[file] = pictures[files[(n + shift) % len(files)]]
    return {image: other[file] for image in image_ids if (file := records[image].image) in other}
