"""What the comparison of a study found: the types of comparison.json, its reader and its writer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from coordexp.analysis.comparison.statistics import Estimate
from coordexp.storage.files import write_csv
from coordexp.study.study_files import read_study_file, write_study_file


@dataclass(frozen=True)
class Window:
    """The declared window: the common steps in the last `share` of the way to the decision step."""

    share: float
    steps: list[int]


@dataclass(frozen=True)
class CurveRow:
    """The metrics of one run at one eval step, at the rule's temperature."""

    variant: str
    seed: int
    step: int
    values: dict[str, float]


@dataclass(frozen=True)
class SnapshotRow:
    """The metrics of one variant at one step, each averaged over the seeds that have it."""

    variant: str
    seeds: list[int]
    values: dict[str, float]


@dataclass(frozen=True)
class Snapshot:
    """Every variant at one step; `step` is None where no step is common to all runs."""

    step: int | None
    rows: list[SnapshotRow]


@dataclass(frozen=True)
class TemperatureRow:
    """A row of the decision snapshot, read at another temperature.

    used: the softmax temperature of each seed, where its log names it.
    """

    variant: str
    seeds: list[int]
    values: dict[str, float]
    used: list[float]


@dataclass(frozen=True)
class LoggedTemperature:
    """The softmax temperature of the values under `coord_diag/` in a log.

    value: None where it is unknown.
    by: the option or settings file that says so; None where the kind of log does.
    """

    value: float | None
    by: str | None = None


@dataclass(frozen=True)
class Band:
    """The 95 % interval of one variant's metric at one step."""

    variant: str
    step: int
    metric: str
    low: float
    high: float


@dataclass(frozen=True)
class StepWinner:
    """The best variant at one step; None where several are exactly equal."""

    step: int
    winner: str | None


@dataclass(frozen=True)
class Stability:
    """Which variant is best on one metric over a window of eval steps.

    settled_from: the earliest step from which `last_winner` is best without a break.
    leave_one_block_out: the best by the window's mean, with one block of its steps left out.
    share: of the steps of the window, those at which `last_winner` is best.
    """

    winners: list[StepWinner]
    last_winner: str | None
    settled_from: int | None
    leave_one_block_out: list[str | None]
    share: float


@dataclass(frozen=True)
class Plateau:
    """One metric of one run over the last third of its steps.

    collapse_ends: the step at which the run's MAE has arrived at its final level.
    from_step: the first step of the last third.
    level, spread: the mean, and the largest value minus the smallest, in the metric's unit.
    slope_percent_per_100_steps: of a least-squares line, in % of the level per 100 steps.
    """

    run: str
    variant: str
    seed: int
    metric: str
    collapse_ends: int
    from_step: int
    level: float
    spread: float
    slope_percent_per_100_steps: float
    flat: bool


@dataclass(frozen=True)
class Drift:
    """How far the variants' plateaus lie apart on a metric, and how far one run moves on its own.

    between: the largest difference of the variants' levels, each averaged over its seeds.
    within: the largest spread of a single run.
    """

    metric: str
    between: float
    within: float
    differ: bool


@dataclass(frozen=True)
class WindowSummary:
    """A difference (second minus first) over the common steps of the window; None where n is 0."""

    n: int
    median: float | None
    min: float | None
    max: float | None
    share_above_0: float | None


@dataclass(frozen=True)
class Difference:
    """Second minus first on one metric at the decision step, in the metric's unit.

    interval: None where a token table is missing or the images differ.
    """

    first: str
    second: str
    metric: str
    margin: float | None
    difference: float
    interval: Estimate | None
    window: WindowSummary | None


@dataclass(frozen=True)
class Slices:
    """MAE in bins, and the number of tokens, by coordinate slot and by box size."""

    by_slot: dict[str, float]
    n_by_slot: dict[str, int]
    by_box_size: dict[str, float]
    n_by_box_size: dict[str, int]


@dataclass(frozen=True)
class ResolutionLimit:
    """The best MAE in pixels and in cells of a visual token.

    side_px, best_mae_px: for the smallest, median and largest image side.
    cell_px: the side of what one visual token covers; None where it is not known.
    p90_bins, p90_px: of the same variant, on the median side.
    sentence: what the numbers suggest.  test: an experiment that would test it.
    """

    best_mae_bins: float
    side_px: list[float]
    best_mae_px: list[float]
    cell_px: int | None
    best_mae_cells: float | None
    p90_bins: float | None
    p90_px: float | None
    sentence: str
    test: str


Row = TypeVar("Row", SnapshotRow, TemperatureRow, CurveRow, Band, Plateau)


@dataclass(frozen=True)
class BlindMae:
    """The error of guesses that see no picture, fitted on other images, in bins.

    mae: of the median bin of a coordinate's slot and of its object's place in the list.
    mae_given_box: of a median regression on the coordinates that are written before it, as teacher
        forcing shows them to a model.
    """

    mae: float
    mae_given_box: float
    images: int
    coordinates: int


@dataclass(frozen=True)
class JudgedImages:
    """Validation images with coordinates, by what they serve for.

    judged: those that the metrics are of, at the rule's temperature.
    fitted_on: those that the fitted temperature was fitted on; with 0 it stayed at 1.
    """

    judged: int
    fitted_on: int


@dataclass(frozen=True)
class Comparison:
    """The comparison of a study under its rule.

    common_steps: the eval steps that all runs share.
    decision_step: None where no run has finished with an evaluation.
    snapshots: at the decision step, then at the later steps that only some runs have.
    temperatures: the decision snapshot at each temperature ("1", "own", "fitted").
    winners: the best variant of each metric, by temperature; None where several are equal.
    curves: at the rule's temperature.
    stability: by metric.  slices: by variant; empty without token tables.
    resolution_limit: None where image sizes or MAE are not known.
    blind: on the coordinates that are judged; None without token tables.
    controls: variants that are measured like the others (curves, snapshots, differences, …) and
        take no part in what picks a best one (common steps, winners, stability, drift).
    logged_temperatures: of the values that are read at temperature "1", by run.
    images: None without token tables.
    """

    temperature: str
    common_steps: list[int]
    decision_step: int | None
    window: Window
    snapshots: list[Snapshot]
    temperatures: dict[str, list[TemperatureRow]]
    winners: dict[str, dict[str, str | None]]
    curves: list[CurveRow]
    bands: list[Band]
    stability: dict[str, Stability]
    plateau: list[Plateau]
    drift: list[Drift]
    differences: list[Difference]
    slices: dict[str, Slices]
    resolution_limit: ResolutionLimit | None
    blind: BlindMae | None = None
    controls: list[str] = field(default_factory=list)
    logged_temperatures: dict[str, LoggedTemperature] = field(default_factory=dict)
    images: JudgedImages | None = None

    @property
    def none_to_fit(self) -> bool:
        """Whether no validation image was left to fit a temperature, as in a very small set."""
        return self.images is not None and self.images.fitted_on == 0

    @property
    def unfitted(self) -> str | None:
        """Why the fitted temperature is 1 and every image is judged, in words; None if neither."""
        if self.temperature != "fitted" or self.images is None or not self.none_to_fit:
            return None
        n = self.images.judged
        return f"all {n} images are judged; none was left to fit a temperature: T = 1"

    @property
    def logged_at(self) -> str:
        """The temperature of the values that are read at temperature "1", in words."""
        values = {logged.value for logged in self.logged_temperatures.values()} or {1.0}
        only = values.pop() if len(values) == 1 else None
        return "T as logged" if only is None else f"T = {only:g}"

    @property
    def of_candidates(self) -> Comparison:
        """The comparison without the controls."""

        def kept(rows: Sequence[Row]) -> list[Row]:
            return [row for row in rows if row.variant not in self.controls]

        pairs = self.differences
        return replace(
            self,
            snapshots=[Snapshot(at.step, kept(at.rows)) for at in self.snapshots],
            temperatures={t: kept(rows) for t, rows in self.temperatures.items()},
            curves=kept(self.curves),
            bands=kept(self.bands),
            plateau=kept(self.plateau),
            differences=[p for p in pairs if not {p.first, p.second} & {*self.controls}],
            slices={v: s for v, s in self.slices.items() if v not in self.controls},
            controls=[],
        )

    @property
    def decision_rows(self) -> list[SnapshotRow]:
        """The variants at the decision step; empty where there is no such step."""
        return self.snapshots[0].rows if self.snapshots else []


def read_comparison(study_dir: Path) -> Comparison:
    """Raises UserError: comparison.json is missing or of another form."""
    return read_study_file(study_dir / "comparison.json", Comparison)


def write_comparison(study_dir: Path, comparison: Comparison) -> None:
    """Write comparison.json, and comparison.csv with a row per run and eval step."""
    rows = [
        {"variant": row.variant, "seed": row.seed, "step": row.step, **row.values}
        for row in comparison.curves
    ]
    write_study_file(study_dir / "comparison.json", comparison)
    write_csv(study_dir / "comparison.csv", rows)
