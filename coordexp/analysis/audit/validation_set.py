"""Were the runs evaluated on the same images, and are their eval rows averages over all tokens?"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coordexp.analysis.audit.findings import Check
from coordexp.metrics import REGISTRY, TEMPERATURE_PREFIX, Metric, log_key
from coordexp.storage.logs.log import Log
from coordexp.storage.token_tables import read_columns, read_tokens
from coordexp.study.inputs import RunData

TABLE_TOLERANCE = 1e-5  # relative, between an eval row and its token table


@dataclass(frozen=True)
class Validation:
    """What the runs were evaluated on, by run name.

    digests: of the data columns of the last token table; None without a table.
    sizes: samples per evaluation, where the log gives runtime and samples per second.
    """

    digests: dict[str, str | None]
    sizes: dict[str, int]

    def of(self, runs: Sequence[RunData]) -> Validation:
        """What these runs alone were evaluated on."""
        names = {run.name for run in runs}
        return Validation(
            {name: value for name, value in self.digests.items() if name in names},
            {name: value for name, value in self.sizes.items() if name in names},
        )


def validation_of(runs: Sequence[RunData]) -> Validation:
    """Raises UserError: a token table cannot be read."""
    digests = {run.name: validation_digest(run) for run in runs}
    return Validation(digests, validation_sizes(runs))


def validation_digest(run: RunData) -> str | None:
    """sha256 of the data columns of the last token table; the model's predictions do not enter.

    Raises:
        UserError: the table cannot be read.
    """
    steps = run.run.table_steps() if run.run else []
    if run.run is None or not steps:
        return None
    columns = read_columns(run.run.table(steps[-1]), ("image_id", "object_index", "slot", "gt_bin"))
    sha256 = hashlib.sha256("\n".join(columns["slot"].tolist()).encode())
    for name in ("image_id", "object_index", "gt_bin"):
        sha256.update(np.ascontiguousarray(columns[name], dtype="<i8").tobytes())
    return sha256.hexdigest()


def validation_sizes(runs: Sequence[RunData]) -> dict[str, int]:
    """Samples per evaluation, by run name.

    If rounding alone can explain the difference of two sizes, both get the first one's value.
    """
    sizes = {}
    for run in runs:
        if samples := eval_samples(run):
            sizes[run.name] = samples
    rounded = {}
    for name, (own, own_error) in sizes.items():
        alike = (
            other
            for other, error in sizes.values()
            if abs(other - own) <= max(error + own_error, 0.5)
        )
        rounded[name] = round(next(alike))
    return rounded


def eval_samples(run: RunData) -> tuple[float, float] | None:
    """Samples per evaluation, and the rounding error of that number. None where no row tells it."""
    by_step = samples_by_step(run.log)
    if not by_step:
        return None
    samples, errors = np.array(list(by_step.values())).T
    return float(np.median(samples)), float(np.median(errors))


def samples_by_step(log: Log) -> dict[int, tuple[float, float]]:
    """Samples of each evaluation (runtime x samples per second): (number, its rounding error).

    Hugging Face logs the two factors with four and three decimals.
    """
    rows = {
        step: row
        for step, row in sorted(log.evals.items())
        if 0 < row.get("runtime", 0) < math.inf and 0 < row.get("samples_per_second", 0) < math.inf
    }
    if not rows:
        return {}
    runtimes = np.array([row["runtime"] for row in rows.values()])
    speeds = np.array([row["samples_per_second"] for row in rows.values()])
    errors = runtimes * rounding(speeds, 3) + speeds * rounding(runtimes, 4)
    pairs = zip((runtimes * speeds).tolist(), errors.tolist(), strict=True)
    return dict(zip(rows, pairs, strict=True))


def rounding(values: np.ndarray, decimals: int) -> float:
    """The largest rounding error of values that all have at most `decimals` decimals.

    If all values have fewer decimals than that, the error is the larger one of that precision.
    """
    for kept in range(decimals):
        if np.abs(values - values.round(kept)).max() < 1e-9:
            return 0.5 * 10.0**-kept
    return 0.5 * 10.0**-decimals


# --- the weighting of the evaluation ---


def eval_weighting(run: RunData) -> list[Check]:
    """The first, middle and last eval row, recomputed over all tokens of their tables.

    Raises:
        UserError: a token table cannot be read.
    """
    steps = [step for step in (run.run.table_steps() if run.run else []) if step in run.log.evals]
    if not steps:
        return []
    chosen = sorted({steps[0], steps[len(steps) // 2], steps[-1]})
    wrong = []
    for step in chosen:
        for temperature in TEMPERATURE_PREFIX:
            wrong += mismatches(run, step, temperature)
    if wrong:
        return [Check("eval weighting", False, wrong[0])]
    steps_said = ", ".join(map(str, chosen))
    detail = f"token tables of steps {steps_said} give the log's values"
    return [Check("eval weighting", True, detail)]


def mismatches(run: RunData, step: int, temperature: str) -> list[str]:
    """One line for each metric of an eval row whose value its token table does not reproduce."""
    assert run.run is not None
    row = run.log.evals[step]
    metrics = [m for m in REGISTRY.values() if is_logged(m, row, temperature)]
    if not metrics:
        return []
    tokens = read_tokens(run.run.table(step), temperature, metrics)
    lines = []
    for m in metrics:
        if m.name not in tokens.values:
            continue  # a table of an earlier version
        key, per_token = log_key(m.name, temperature), tokens.values[m.name]
        logged, expected = row[key], over_tokens(m, per_token)
        if not math.isclose(logged, expected, rel_tol=TABLE_TOLERANCE, abs_tol=1e-9):
            how = weighting(m, logged, per_token, tokens.images[tokens.image_index], run)
            lines.append(
                f"eval_{key} at step {step} is {logged:.6g}, its tokens give {expected:.6g}{how}"
            )
    return lines


def is_logged(m: Metric, row: dict[str, float], temperature: str) -> bool:
    """Whether the eval row holds this metric at this temperature and a token table can give it.

    A metric that does not depend on the temperature is checked once, with T = 1.
    """
    if not m.per_token or not (m.has_temperature or temperature == "1"):
        return False
    return math.isfinite(row.get(log_key(m.name, temperature), math.nan))


def over_tokens(m: Metric, per_token: np.ndarray) -> float:
    return float(per_token.mean() if m.quantile is None else np.quantile(per_token, m.quantile))


def weighting(
    m: Metric, logged: float, per_token: np.ndarray, image_ids: np.ndarray, run: RunData
) -> str:
    """The common wrong weighting that gives the logged number, as a clause; "" if none does.

    Args:
        per_token, image_ids: [C]
    """
    what = "means" if m.quantile is None else f"{100 * m.quantile:.0f} % quantiles"
    groups = {f"per-image {what}": image_ids}
    if batch := run.train_setting("eval_micro_batch"):
        # Image i is evaluated by process i % ranks, in batches of consecutive images of that
        # process.
        ranks = run.manifest.processes if run.manifest else 1
        groups[f"{what} of batches"] = image_ids // ranks // batch * ranks + image_ids % ranks
    for name, ids in groups.items():
        values = [over_tokens(m, per_token[ids == one]) for one in np.unique(ids)]
        if math.isclose(logged, float(np.mean(values)), rel_tol=TABLE_TOLERANCE):
            return f": it is the mean of {name}"
    return ""
