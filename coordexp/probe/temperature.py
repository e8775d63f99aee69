"""The softmax temperature at which a candidate's expected coordinates are decoded.

Objectives leave coordinate distributions of different sharpness, and the expected coordinate
depends on it. At one temperature for all, part of what the fine-tune gains is calibration, and a
candidate that was trained at another temperature starts behind. At its fitted temperature each
candidate is as well calibrated as one number can make it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coordexp.config.schema import FITTED
from coordexp.detection.probe_manifest import TemperatureSource
from coordexp.storage.token_tables import read_fitted_temperature


@dataclass(frozen=True)
class DecodeTemperature:
    """A temperature, and where it comes from."""

    value: float
    source: TemperatureSource


def decode_temperature(setting: str, checkpoint: Path) -> DecodeTemperature:
    """The temperature for a checkpoint.

    Args:
        setting: `probe.temperature`: a number, or `fitted`: the temperature of the run's token
            table at the step of the checkpoint, which was fitted on one half of the validation
            images. A checkpoint without a token table is decoded at T = 1.
        checkpoint: `<run>/checkpoints/step-<step>`, or a directory elsewhere.

    Raises:
        UserError: the token table cannot be read.
    """
    if setting != FITTED:
        return DecodeTemperature(float(setting), "setting")
    table = checkpoint.parent.parent / "eval" / f"{checkpoint.name}.parquet"
    if not table.exists():
        return DecodeTemperature(1.0, "no token table")
    return DecodeTemperature(read_fitted_temperature(table), "token table")
