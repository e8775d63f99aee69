"""Were the runs evaluated on the same images, and are their eval rows means over all tokens?"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coordexp.analysis.audit.findings import Check
from coordexp.metrics import REGISTRY, TEMPERATURE_PREFIX, Metric, log_key
from coordexp.storage.token_tables import read_columns, read_tokens
from coordexp.study.inputs import RunData

TABLE_TOLERANCE = 1e-5  # relative, between an eval row and its token table


@dataclass(frozen=True)
class Validation:
    """What the runs were evaluated on, by run name.

    digests: of what the last token table says of the data; None without a table.
    sizes: in samples, where the log gives runtime and speed.
    """

    digests: dict[str, str | None]
    sizes: dict[str, int]


def validation_of(runs: Sequence[RunData]) -> Validation:
    """Raises UserError: a token table cannot be read."""
    digests = {run.name: validation_digest(run) for run in runs}
    return Validation(digests, validation_sizes(runs))


def validation_digest(run: RunData) -> str | None:
    """sha256 of what the last token table says of the data, whatever the model made of it.

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
    """How many samples the evaluations took, by run name.

    Sizes that may differ by rounding alone count as the first of them.
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
    """How many samples an evaluation took (runtime x samples per second), and the rounding error.

    Hugging Face logs the two with four and three decimals. None where the log has neither.
    """
    rows = [
        row
        for row in run.log.evals.values()
        if row.get("runtime", 0) > 0 and row.get("samples_per_second", 0) > 0
    ]
    if not rows:
        return None
    runtimes = np.array([row["runtime"] for row in rows])
    speeds = np.array([row["samples_per_second"] for row in rows])
    errors = runtimes * rounding(speeds, 3) + speeds * rounding(runtimes, 4)
    return float(np.median(runtimes * speeds)), float(np.median(errors))


def rounding(values: np.ndarray, decimals: int) -> float:
    """The largest rounding error of values kept to `decimals`, or to fewer, as all of them look."""
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
    """The metrics of one eval row that its table does not give, a line each."""
    assert run.run is not None
    row = run.log.evals[step]
    metrics = [m for m in REGISTRY.values() if is_logged(m, row, temperature)]
    if not metrics:
        return []
    tokens = read_tokens(run.run.table(step), temperature, metrics)
    lines = []
    for m in metrics:
        key, per_token = log_key(m.name, temperature), tokens.values[m.name]
        logged, expected = row[key], over_tokens(m, per_token)
        if not math.isclose(logged, expected, rel_tol=TABLE_TOLERANCE, abs_tol=1e-9):
            how = weighting(m, logged, per_token, tokens.images[tokens.image_index], run)
            lines.append(
                f"eval_{key} at step {step} is {logged:.6g}, its tokens give {expected:.6g}{how}"
            )
    return lines


def is_logged(m: Metric, row: dict[str, float], temperature: str) -> bool:
    """Whether a token table can give a metric that the eval row holds at this temperature.

    A metric without a temperature is looked at once, with T = 1.
    """
    if not m.per_token or not (m.has_temperature or temperature == "1"):
        return False
    return math.isfinite(row.get(log_key(m.name, temperature), math.nan))


def over_tokens(m: Metric, per_token: np.ndarray) -> float:
    return float(per_token.mean() if m.quantile is None else np.quantile(per_token, m.quantile))


def weighting(
    m: Metric, logged: float, per_token: np.ndarray, image_ids: np.ndarray, run: RunData
) -> str:
    """Which of the usual wrong weightings gives the logged number; "" where none does.

    Args:
        per_token, image_ids: [C]
    """
    what = "means" if m.quantile is None else f"{100 * m.quantile:.0f} % quantiles"
    groups = {f"per-image {what}": image_ids}
    if batch := run.train_setting("eval_micro_batch"):
        # Images are dealt out to the processes in turn; each evaluates its own in batches.
        ranks = run.manifest.processes if run.manifest else 1
        groups[f"{what} of batches"] = image_ids // ranks // batch * ranks + image_ids % ranks
    for name, ids in groups.items():
        values = [over_tokens(m, per_token[ids == one]) for one in np.unique(ids)]
        if math.isclose(logged, float(np.mean(values)), rel_tol=TABLE_TOLERANCE):
            return f": it is the mean of {name}"
    return ""
