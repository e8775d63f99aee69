"""Pictures of any size: the processor of an exported checkpoint resizes them as the data were.

A checkpoint of a run takes prepared pictures, and its processor resizes none.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coordexp.models.processor_files import PROCESSOR_FILE, read_settings
from coordexp.storage.files import write_json
from coordexp.storage.manifest import ImageSides
from coordexp.storage.run_config import Settings


@dataclass(frozen=True)
class Area:
    """Smallest and largest number of pixels that a picture is resized to."""

    smallest: int
    largest: int


def trained_area(data: Settings, sides: ImageSides | None, cell_px: int | None) -> Area | None:
    """The sizes of the pictures of a training; None where nothing tells them.

    Args:
        data: settings of the data. A pixel budget limits the size from above alone. Tiles have one
            size, whatever that of the pictures.
        sides: of the validation pictures.
        cell_px: side of the square that one visual token covers.
    """
    if tile := data.get("tile_px"):
        return Area(int(tile) ** 2, int(tile) ** 2)
    if (budget := data.get("pixel_budget")) and cell_px is not None:
        return Area(cell_px**2, int(budget))
    if sides is None:
        return None
    return Area(*(round(sides.width[i] * sides.height[i]) for i in (0, -1)))


def resize_pictures(directory: Path, area: Area) -> None:
    """Let the processor of a checkpoint resize pictures; one of a size within `area` stays."""
    content = read_settings(directory / PROCESSOR_FILE)
    size = {"shortest_edge": area.smallest, "longest_edge": area.largest}
    content["image_processor"] |= {"do_resize": True, "size": size}
    write_json(directory / PROCESSOR_FILE, content)
