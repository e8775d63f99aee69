"""probe.json of one checkpoint: its inputs, its settings and its results.

A finished probe has a `ProbeManifest`. If the run kept no checkpoint at the step, a `MissingProbe`
gives the reason, which the report shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from msgspec import UNSET, UnsetType

from coordexp.data.prompt_file import PromptFile
from coordexp.storage.typed import read_typed

PROBE_FILE = "probe.json"

Settings = dict[str, bool | int | float | str]  # of ProbeConfig
# Where the temperature of the decode comes from. Without a token table it is 1.
TemperatureSource = Literal["setting", "token table", "no token table"]


@dataclass(frozen=True)
class ProbeInputs:
    """What determines a probe: the same inputs give the same files."""

    checkpoint_sha256: str
    data_sha256: dict[str, str]  # by split
    settings: Settings
    temperature: float  # at which expected coordinates are decoded
    temperature_source: TemperatureSource


@dataclass(frozen=True)
class SwappedResult:
    """The checkpoint with the pictures of other images, before the fine-tune (probe/swapped.py).

    temperatures: of the softmax, for the two halves of the images (fit_half true, then false).
    """

    images: int  # that were shown another picture
    without_partner: int  # no other picture of their size: left out
    coordinates: int
    temperatures: list[float]
    mae_right: float  # bins, over these coordinates, with the right pictures
    mae_swapped: float  # the same with the other pictures
    rolled_out: int  # of the images


@dataclass(frozen=True)
class ProbeResult:
    """Losses on the validation images before and after the fine-tune; None after a divergence."""

    status: Literal["complete", "diverged"]
    reason: str | None  # why it diverged
    images: int
    boxes: int  # true boxes in them
    budget_tokens: int  # per rollout
    steps: int  # of the fine-tune that were taken
    before: dict[str, float]
    after: dict[str, float] | None
    swapped: SwappedResult | None  # None if no two images with objects have one size
    geo_loss_slope_per_step: float | None  # least squares; None with fewer than two steps
    after_sha256: str | None  # of the fine-tuned weights
    wall_s: dict[str, float]  # by part


@dataclass(frozen=True)
class ProbeManifest:
    """probe.json of a finished probe: the fields of its inputs, of its result, and of the job.

    prompt: of a checkpoint that was trained elsewhere; left out if it was asked this project's own.
        It is a file of the checkpoint, so checkpoint_sha256 covers it.
    """

    checkpoint: str
    records: str  # file of the validation records
    checkpoint_sha256: str
    data_sha256: dict[str, str]
    settings: Settings
    temperature: float
    temperature_source: TemperatureSource
    status: Literal["complete", "diverged"]
    reason: str | None
    images: int
    boxes: int
    budget_tokens: int
    steps: int
    before: dict[str, float]
    after: dict[str, float] | None
    swapped: SwappedResult | None
    geo_loss_slope_per_step: float | None
    after_sha256: str | None
    wall_s: dict[str, float]
    device: str
    finished_at: str  # UTC, ISO 8601
    versions: dict[str, str]
    artifacts: dict[str, str]  # file below the probe's directory -> sha256
    prompt: PromptFile | UnsetType = UNSET

    @property
    def inputs(self) -> ProbeInputs:
        return ProbeInputs(
            self.checkpoint_sha256,
            self.data_sha256,
            self.settings,
            self.temperature,
            self.temperature_source,
        )


@dataclass(frozen=True)
class MissingProbe:
    """probe.json where the run kept no checkpoint at the step."""

    status: Literal["no checkpoint"]
    reason: str
    settings: Settings


@dataclass(frozen=True)
class _Status:
    status: Literal["complete", "diverged", "no checkpoint"]


def read_probe_manifest(path: Path) -> ProbeManifest | MissingProbe:
    """Read a probe.json.

    Raises:
        UserError: the file is missing or damaged, or lacks a key; the message names file and key.
    """
    if read_typed(path, _Status).status == "no checkpoint":
        return read_typed(path, MissingProbe)
    return read_typed(path, ProbeManifest)
