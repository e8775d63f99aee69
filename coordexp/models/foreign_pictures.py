"""How another program turned pictures into patches: what its checkpoint says of it.

    processor_config.json       under `image_processor`, else
    preprocessor_config.json    as processors were saved before

Mean and standard deviation of the pixel values are taken from it. What this project cannot do
otherwise is compared: a checkpoint that saw other patches, or values of another range, is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordexp.errors import UserError
from coordexp.storage.files import read_json

OWN = (0.5, 0.5, 0.5)  # mean and standard deviation of this project, and of published Qwen3-VL
FIXED = {"do_rescale": True, "do_normalize": True, "rescale_factor": 1 / 255}
TOLERANCE = 1e-6  # of the rescale factor, which some files round


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of each channel, of values from 0 to 1."""

    mean: tuple[float, ...] = OWN
    std: tuple[float, ...] = OWN
    source: str | None = None  # the file; None where the checkpoint says nothing

    def __str__(self) -> str:
        shown = [", ".join(f"{value:g}" for value in values) for values in (self.mean, self.std)]
        return f"pictures normalised by mean {shown[0]} and SD {shown[1]} ({self.source})"


def find_normalisation(directory: Path, vision: Any) -> Normalisation:
    """What a checkpoint says of its pictures; this project's where it says nothing.

    Args:
        vision: the vision configuration of the model.

    Raises:
        UserError: a file is damaged, or it says something that this project does otherwise.
    """
    settings, path = stored_settings(directory)
    for name in ("patch_size", "temporal_patch_size", "spatial_merge_size"):
        stored = settings.get(name.removeprefix("spatial_"), getattr(vision, name))
        if stored != getattr(vision, name):
            raise UserError(
                f"{path}: {name.removeprefix('spatial_')} {stored}, but config.json says "
                f"{getattr(vision, name)}: one of the two files is not of this training"
            )
    for name, value in FIXED.items():
        stored = settings.get(name)
        if stored is None:
            continue
        is_number = isinstance(stored, int | float)
        if not (is_number and value - TOLERANCE <= stored <= value + TOLERANCE):
            raise UserError(
                f"{path}: {name} is {stored!r}: pictures are rescaled to values from 0 to 1 and "
                "normalised here, and cannot be given to a checkpoint that was trained otherwise"
            )
    mean, std = (
        _channels(settings.get(key), f"{path}: {key}") for key in ("image_mean", "image_std")
    )
    if min(std) <= 0:
        raise UserError(f"{path}: image_std must be above 0")
    return Normalisation(mean, std, path.name if settings else None)


def stored_settings(directory: Path) -> tuple[dict[str, Any], Path]:
    """The settings of the image processor and their file; none where no file holds them."""
    path = directory / "processor_config.json"
    advice = "mend or remove it"
    if path.is_file():
        content = read_json(path, advice)
        settings = content.get("image_processor") if isinstance(content, dict) else None
        if isinstance(settings, dict):
            return settings, path
    path = directory / "preprocessor_config.json"
    if path.is_file():
        content = read_json(path, advice)
        if isinstance(content, dict):
            return content, path
    return {}, path


def _channels(values: Any, where: str) -> tuple[float, ...]:
    """Raises UserError: they are not three numbers."""
    if values is None:
        return OWN
    if not isinstance(values, list) or len(values) != len(OWN):
        raise UserError(f"{where} must be three numbers")
    if not all(isinstance(value, int | float) and abs(value) < 1e3 for value in values):
        raise UserError(f"{where} must be three numbers")
    return tuple(float(value) for value in values)
