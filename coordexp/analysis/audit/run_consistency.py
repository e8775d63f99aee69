"""Did the runs differ in nothing but their objective? Checks across runs, from manifests, configurations and token tables.

The value that most runs share is held to be the right one. Where two values tie, two runs that differ for one, nobody
can say which is: then every run is in question, and none passes.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coordexp.analysis.audit.findings import Check
from coordexp.config.digests import digest
from coordexp.metrics import REGISTRY, Metric, log_key
from coordexp.storage.files import sha256_file
from coordexp.storage.manifest import RunManifest, preflight_tolerance
from coordexp.storage.token_tables import read_columns, read_tokens
from coordexp.study.inputs import RunData

TABLE_TOLERANCE = 1e-5  # relative, between an eval row and its token table
TEMPERATURES = ("1", "own", "fitted")


def train_setting(run: RunData, key: str) -> Any:
    return run.config.train.get(key) if run.config else None


@dataclass(frozen=True)
class Validation:
    """What the runs were evaluated on, by run name."""

    digests: dict[str, str | None]  # of what the token table says of the data; None without a table
    sizes: dict[str, int]  # in samples, where the log gives runtime and speed


def validation_of(runs: Sequence[RunData]) -> Validation:
    """Raises UserError: a token table cannot be read."""
    return Validation({run.name: validation_digest(run) for run in runs}, validation_sizes(runs))


def consistency_checks(
    run: RunData, runs: Sequence[RunData], validation: Validation
) -> list[Check]:
    """Every check that the files of this run allow.

    Raises:
        UserError: a token table cannot be read.
    """
    found = [
        *completeness(run),
        *manifest_checks(run, runs),
        common("same validation set", run, validation.digests),
        common("same number of validation samples", run, validation.sizes),
        *eval_weighting(run),
    ]
    return [c for c in found if c is not None]


def not_checked(run: RunData) -> list[str]:
    """What could not be judged for want of a file, a line a file."""
    lines = []
    if run.manifest is None:
        lines.append(
            "no manifest: data, base model, tokens seen, training code, precision, versions and pre-flight"
        )
    if run.run is None or not run.run.table_steps():
        size = "" if eval_samples(run) is None else " (but for its size)"
        lines.append(f"no token tables: validation set{size} and the weighting of the evaluation")
    return lines


def completeness(run: RunData) -> list[Check]:
    """Whether log and manifest reach the planned end. A log alone may be of a run that was stopped: to know, no bar."""
    last, planned = max([*run.log.train, *run.log.evals], default=0), run.log.max_steps
    short = f"the log ends at step {last} of {planned}" if planned and last < planned else None
    if run.manifest is None:
        return (
            [Check("complete", None if short else True, short or f"step {last} of {planned}")]
            if planned
            else []
        )
    m = run.manifest
    reached = m.status == "complete" and m.step == m.max_steps
    checks = [
        Check(
            "complete",
            reached and not short,
            m.reason or short or f"step {m.step} of {m.max_steps}",
        )
    ]
    sealed = m.artifacts.get("logging.jsonl")
    if sealed and run.run and run.run.log.exists():
        same = sha256_file(run.run.log) == sealed
        checks.append(
            Check(
                "log as sealed",
                same,
                f"logging.jsonl is {'' if same else 'not '}what run.json vouches for",
            )
        )
    return checks


def manifest_checks(run: RunData, runs: Sequence[RunData]) -> list[Check | None]:
    """Inputs, code and precision against the other runs; the pre-flight against its bar."""
    mine, manifests = run.manifest, {r.name: r.manifest for r in runs if r.manifest}
    if mine is None:
        return []

    def same(name: str, pick: Callable[[RunManifest], Any]) -> Check | None:
        return common(name, run, {other: pick(manifest) for other, manifest in manifests.items()})

    allowed = preflight_tolerance(train_setting(run, "dtype"))
    difference = mine.preflight.relative_difference
    agreement = (
        "no pre-flight was recorded"
        if difference is None
        else f"the two paths agree to {difference:.1e}"
    )
    alike = {
        r.name: r.manifest.tokens_seen for r in runs if r.manifest and schedule(r) == schedule(run)
    }
    return [
        Check("pre-flight", difference is not None and difference <= allowed, agreement),
        same("same data", lambda m: m.inputs_sha256.data),
        same("same base model", lambda m: m.inputs_sha256.base),
        common("tokens seen", run, alike),
        same("same training code", lambda m: m.modules_sha256),
        common("same precision", run, {r.name: train_setting(r, "dtype") for r in runs}),
        same("same versions", lambda m: m.versions),
    ]


def schedule(run: RunData) -> tuple[Any, ...]:
    """What decides which tokens a run sees: the images a step takes follow from data and seed, their tokens from the base
    model's tokenizer. Only runs alike in all of this must have seen equally many."""
    assert run.manifest is not None
    inputs = run.manifest.inputs_sha256
    return (
        inputs.data,
        inputs.base,
        train_setting(run, "images_per_step"),
        run.manifest.step,
        run.seed,
    )


def common(name: str, run: RunData, values: dict[str, Any]) -> Check | None:
    """Whether a run's value is the one most runs share. `values` by run name; None where a run has none.

    No check without a value; nothing to judge (None) where no other run has one.
    """
    mine, known = values.get(run.name), [value for value in values.values() if value is not None]
    if mine is None:
        return None
    if all(value == mine for value in known):
        return Check(
            name,
            True if len(known) > 1 else None,
            brief(mine) if len(known) > 1 else f"{brief(mine)}; no other run",
        )
    (first, most), (_, next_most) = Counter(digest(value) for value in known).most_common(2)
    if most > next_most:
        leader = next(value for value in known if digest(value) == first)
        odd = f"{against(mine, leader)} of {most} of {len(known)} runs"
        return Check(name, mine == leader, brief(mine) if mine == leader else odd)
    other = next(value for value in known if value != mine)
    return Check(
        name, False, f"{against(mine, other)}; the runs differ and no majority tells which is right"
    )


def brief(value: Any) -> str:
    """A digest by its first twelve digits, a number with its thousands apart, a table by its entries or their number."""
    if isinstance(value, dict):
        return (
            ", ".join(f"{k} {brief(v)}" for k, v in value.items())
            if len(value) < 6
            else f"{len(value)} entries"
        )
    return f"{value:,}" if isinstance(value, int) else str(value)[:12]


def against(mine: Any, other: Any) -> str:
    """What differs: `torch 2.13.0 against 2.12.1`."""
    if not (isinstance(mine, dict) and isinstance(other, dict)):
        return f"{brief(mine)} against {brief(other)}"
    keys = [key for key in sorted(mine | other) if mine.get(key) != other.get(key)]
    shown = ", ".join(
        f"{key} {brief(mine.get(key))} against {brief(other.get(key))}" for key in keys[:3]
    )
    return shown + (f" and {len(keys) - 3} more" if keys[3:] else "")


# --- the validation set ---


def validation_digest(run: RunData) -> str | None:
    """sha256 over what the last token table says of the data, whatever the model made of it.

    Raises:
        UserError: the table cannot be read.
    """
    steps = run.run.table_steps() if run.run else []
    if not steps:
        return None
    assert run.run is not None
    columns = read_columns(run.run.table(steps[-1]), ("image_id", "object_index", "slot", "gt_bin"))
    sha256 = hashlib.sha256("\n".join(columns["slot"].tolist()).encode())
    for name in ("image_id", "object_index", "gt_bin"):
        sha256.update(np.ascontiguousarray(columns[name], dtype="<i8").tobytes())
    return sha256.hexdigest()


def validation_sizes(runs: Sequence[RunData]) -> dict[str, int]:
    """How many samples the evaluations took, by run name; sizes that rounding may have parted count as one."""
    sizes = {r.name: size for r in runs if (size := eval_samples(r))}
    return {
        name: next(
            round(n) for n, error in sizes.values() if abs(n - mine) <= max(error + own_error, 0.5)
        )
        for name, (mine, own_error) in sizes.items()
    }


def eval_samples(run: RunData) -> tuple[float, float] | None:
    """How many samples an evaluation took, and the error that rounding leaves: runtime x samples per second.

    Hugging Face logs them with four and three decimals.
    """
    rows = [
        row
        for row in run.log.evals.values()
        if row.get("runtime", 0) > 0 and row.get("samples_per_second", 0) > 0
    ]
    if not rows:
        return None
    runtimes, speeds = (
        np.array([row[key] for row in rows]) for key in ("runtime", "samples_per_second")
    )
    errors = runtimes * rounding(speeds, 3) + speeds * rounding(runtimes, 4)
    return float(np.median(runtimes * speeds)), float(np.median(errors))


def rounding(values: np.ndarray, decimals: int) -> float:
    """How far off they may be, having been rounded to `decimals`, or to fewer, as all of them look."""
    kept = next(
        d
        for d in range(decimals + 1)
        if d == decimals or np.abs(values - values.round(d)).max() < 1e-9
    )
    return 0.5 * 10.0**-kept


# --- the weighting of the evaluation ---


def eval_weighting(run: RunData) -> list[Check]:
    """The metrics of the first, middle and last eval row, recomputed over all tokens of their tables.

    Raises:
        UserError: a token table cannot be read.
    """
    steps = [step for step in (run.run.table_steps() if run.run else []) if step in run.log.evals]
    chosen = sorted({steps[0], steps[len(steps) // 2], steps[-1]}) if steps else []
    wrong = [
        line
        for step in chosen
        for temperature in TEMPERATURES
        for line in mismatches(run, step, temperature)
    ]
    if not chosen:
        return []
    said = ", ".join(map(str, chosen))
    return [
        Check(
            "eval weighting",
            not wrong,
            wrong[0] if wrong else f"token tables of steps {said} give the log's values",
        )
    ]


def mismatches(run: RunData, step: int, temperature: str) -> list[str]:
    """The metrics of one eval row that its table does not give."""
    assert run.run is not None
    row = run.log.evals[step]
    metrics = [
        m
        for m in REGISTRY.values()
        if m.per_token and math.isfinite(row.get(log_key(m.name, temperature), math.nan))
    ]
    metrics = [m for m in metrics if m.has_temperature or temperature == "1"]
    if not metrics:
        return []
    tokens = read_tokens(run.run.table(step), temperature, metrics)
    lines = []
    for m in metrics:
        logged, per_token = row[log_key(m.name, temperature)], tokens.values[m.name]
        true = over_tokens(m, per_token)
        if not math.isclose(logged, true, rel_tol=TABLE_TOLERANCE, abs_tol=1e-9):
            how = weighting(m, logged, per_token, tokens.images[tokens.image_index], run)
            key = log_key(m.name, temperature)
            lines.append(
                f"eval_{key} at step {step} is {logged:.6g}, its tokens give {true:.6g}{how}"
            )
    return lines


def over_tokens(m: Metric, per_token: np.ndarray) -> float:
    return float(per_token.mean() if m.quantile is None else np.quantile(per_token, m.quantile))


def weighting(
    m: Metric, logged: float, per_token: np.ndarray, image_ids: np.ndarray, run: RunData
) -> str:
    """By what wrong weighting the logged number came about, if by one of the usual ones  # [C], [C]"""
    what = "means" if m.quantile is None else f"{100 * m.quantile:.0f} % quantiles"
    groups = {f"per-image {what}": image_ids}
    if batch := train_setting(run, "eval_micro_batch"):
        ranks = run.manifest.processes if run.manifest else 1
        groups[f"{what} of batches"] = image_ids // ranks // batch * ranks + image_ids % ranks
    for name, ids in groups.items():
        values = [over_tokens(m, per_token[ids == one]) for one in np.unique(ids)]
        if math.isclose(logged, float(np.mean(values)), rel_tol=TABLE_TOLERANCE):
            return f": it is the mean of {name}"
    return ""
