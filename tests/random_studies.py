"""Studies with random numbers: all that a decision is made from, without files.

One to six seeds, unequal and disjoint ones, exact ties, missing metrics, diverged runs, two to six
variants, temperatures that disagree, with and without token tables and a probe, doubtful logs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from conftest import composed
from random_logs import KINDS, LAST, STEPS, Entry, random_rows, read_rows
from studies import NOTE_RULE, registration, run_manifest

from coordexp.analysis.audit.doubts import copies, run_doubts
from coordexp.analysis.audit.findings import Audit, RunAudit
from coordexp.analysis.comparison.blind import BlindProbe
from coordexp.analysis.comparison.compare import stability, window_steps
from coordexp.analysis.comparison.curves import mean_curves, winners
from coordexp.analysis.comparison.findings import (
    Comparison,
    CurveRow,
    Difference,
    LoggedTemperature,
    Snapshot,
    SnapshotRow,
    TemperatureRow,
    Window,
)
from coordexp.analysis.comparison.pairs import (
    Measured,
    paired_estimates,
    value_estimate,
    variant_pairs,
)
from coordexp.analysis.comparison.probe_findings import (
    Aggregates,
    Candidate,
    HandedOver,
    HandedOverFile,
    StudyProbe,
)
from coordexp.analysis.comparison.probes import fine_tune_effects
from coordexp.analysis.comparison.stability import window_summary
from coordexp.analysis.recommendation.recommend import recommend
from coordexp.config.digests import plain
from coordexp.config.schema import RuleConfig
from coordexp.resampling import image_weights
from coordexp.storage.logs.log import Log
from coordexp.storage.run_config import RunConfig
from coordexp.study.inputs import RunData, by_variant

N_IMAGES = 12
LONGER = (200, 240)  # evaluations that not every run has
WEIGHTS = image_weights(N_IMAGES)[:200]  # [D, I]
SHARES = WEIGHTS / WEIGHTS.sum(1, keepdims=True)
# Typical size of each metric, and how far variants, seeds and images move it.
SCALES = {
    "crps": (12.0, 1.0),
    "nll": (4.0, 0.2),
    "expected_bin_mae": (22.0, 2.0),
    "expected_bin_abs_err_p90": (50.0, 4.0),
    "w1_to_delta": (35.0, 2.0),
    "coord_token_acc": (0.2, 0.04),
    "p_gt_mean": (0.1, 0.03),
    "entropy": (4.0, 0.3),
}
PROBE_SCALES = {
    "f1_agnostic": (0.5, 0.1),
    "f1_agnostic_after": (0.5, 0.1),
    "f1_after": (0.45, 0.1),
    "f1_50_agnostic": (0.3, 0.2),
    "mae_right": (40.0, 10.0),
    "visual_contribution": (5.0, 5.0),
    "geo_loss_before": (0.4, 0.05),
    "geo_loss_after": (0.3, 0.05),
}
# Rollouts that were handed over are without a fine-tune, and no pictures were exchanged.
HANDED_OVER_SCALES = {name: PROBE_SCALES[name] for name in ("f1_agnostic", "f1_50_agnostic")} | {
    "f1": (0.45, 0.1)
}


@dataclass(frozen=True)
class Facts:
    """A study as its files hold it, as plain data."""

    recommendation: dict[str, Any]
    comparison: dict[str, Any]
    probe: dict[str, Any]
    registration: dict[str, Any]
    audit: dict[str, Any]
    runs: list[dict[str, Any]]


def random_study(seed: int) -> Facts:
    """The study of this seed of the generator, with its recommendation."""
    rng = np.random.default_rng(seed)
    rule = composed().study.rule if rng.random() < 0.7 else NOTE_RULE
    rule = replace(rule, temperature=str(rng.choice(["1", "fitted"])))
    runs = asked_elsewhere(np.random.default_rng([seed, 1]), random_runs(rng))
    doubtful = rng.random() < 0.25
    rows = random_logs(rng, runs, doubtful)
    runs = [replace(run, log=read_rows(run.log.path, rows[run.name])) for run in runs]
    finished = [run for run in runs if not run.diverged]
    comparison = random_comparison(rng, finished, rule)
    probe = random_probe(rng, finished)
    plan = registration(
        rule=plain(rule), seeds=max(run.seed for run in runs) + 1, runs=planned(rng, runs)
    )
    differences = ["optim.lr: v0 1, v1 2"] if rng.random() < 0.1 else []
    entries = [audited(run, runs) for run in runs]
    audit = Audit(entries, differences, [run.name for run in finished])
    found = recommend(plan, runs, audit, comparison, probe)
    return Facts(
        *(msgspec.to_builtins(part) for part in (found, comparison, probe, plan, audit)),
        runs=[
            {
                "variant": run.variant,
                "seed": run.seed,
                "diverged": run.diverged,
                "has_manifest": run.manifest is not None,
                "rows": rows[run.name],
                "planned": LAST,
                "prompt": run.config.prompt if run.config else None,
                "train_cpu_s": run.manifest.train_cpu_s if run.manifest else None,
                "train_wall_s": run.manifest.train_wall_s if run.manifest else None,
                "eval_wall_s": run.manifest.eval_wall_s if run.manifest else None,
            }
            for run in runs
        ],
    )


def random_runs(rng: np.random.Generator) -> list[RunData]:
    """Two to six variants with one to six seeds each."""
    n_variants, n_seeds = rng.integers(2, 7), rng.integers(1, 7)
    kind = rng.choice(["equal", "unequal", "disjoint"], p=[0.7, 0.2, 0.1])
    with_manifests, untimed = rng.random() < 0.7, rng.random() < 0.3
    runs = []
    for i in range(n_variants):
        seeds = list(range(n_seeds))
        if kind == "unequal":
            seeds = seeds[: max(1, n_seeds - rng.integers(0, 4))]
        if kind == "disjoint":
            seeds = [seed + 10 * (i % 2) for seed in seeds]
        for seed in seeds:
            manifest = None
            if with_manifests:
                diverged = rng.random() < 0.03
                manifest = run_manifest(
                    variant=f"v{i}",
                    seed=seed,
                    train_wall_s=float(rng.choice([60, 90, 120])),
                    train_cpu_s=None if untimed else float(rng.choice([60, 90, 91, 120])),
                    status="diverged" if diverged else "complete",
                    reason="diverged at step 7 (loss nan)" if diverged else None,
                )
            runs.append(RunData(f"v{i}", seed, Log(Path(f"v{i}-{seed}.jsonl")), None, manifest))
    return runs


def random_logs(
    rng: np.random.Generator, runs: list[RunData], doubtful: bool
) -> dict[str, list[Entry]]:
    """The rows of each run's log. Of a doubtful study, some are odd, or those of another run."""
    found: dict[str, list[Entry]] = {}
    for run in runs:
        kind = str(rng.choice(KINDS)) if doubtful and rng.random() < 0.2 else None
        found[run.name] = random_rows(rng, kind)
        if doubtful and len(found) > 1 and rng.random() < 0.05:
            copied = found[str(rng.choice([name for name in found if name != run.name]))]
            found[run.name] = copied[: int(rng.choice([4, 6, len(copied)]))]
    return found


def audited(run: RunData, runs: list[RunData]) -> RunAudit:
    """The audit of a run without ratios: a run fails it only by diverging."""
    return RunAudit(
        variant=run.variant,
        seed=run.seed,
        grad_accumulation_steps=8.0,
        families={},
        verdict="consistent",
        why="",
        overfit_ratio=None,
        checks=[],
        not_checked=[],
        doubts=[*run_doubts(run), *copies(run, runs)],
        passed=not run.diverged,
    )


def asked_elsewhere(rng: np.random.Generator, runs: list[RunData]) -> list[RunData]:
    """In some studies v0 was trained elsewhere, and each of its runs has a prompt of its own."""
    if rng.random() > 0.1:
        return runs
    asked = []
    for run in runs:
        if run.variant == "v0":
            system = str(rng.choice(["args.json", "--system", "none"]))
            prompt = {
                "user": "Find everything.",
                "system": None if system == "none" else "Write JSON.",
                "user_source": str(rng.choice(["--prompt", "this project"])),
                "system_source": None if system == "none" else system,
                "template_source": str(rng.choice(["chat_template.jinja", "this project"])),
            }
            run = replace(run, config=RunConfig({"name": "v0"}, run.seed, prompt=prompt))
        asked.append(run)
    return asked


def planned(rng: np.random.Generator, runs: list[RunData]) -> list[dict[str, Any]]:
    """The registration of these runs; in some studies results were there before."""
    existing = rng.random() < 0.2
    return [{"variant": run.variant, "seed": run.seed, "existing": existing} for run in runs]


def random_values(
    rng: np.random.Generator, runs: list[RunData], scales: dict[str, tuple[float, float]]
) -> dict[str, dict[str, np.ndarray]]:
    """Per-image values of each metric, by run: {run: {metric: [I]}}.

    In some studies the variants are close, or equal, so that every verdict comes up.
    """
    spread = rng.choice([0.0, 0.1, 1.0, 4.0])
    seed_noise, image_noise = rng.choice([0.0, 0.1, 1.0]), rng.choice([0.0, 0.3, 3.0])
    found: dict[str, dict[str, np.ndarray]] = {run.name: {} for run in runs}
    for metric, (level, scale) in scales.items():
        common = rng.normal(0, scale, N_IMAGES)
        for group in by_variant(runs).values():
            shift = rng.normal(0, scale) * spread
            for run in group:
                noise = rng.normal(0, scale, N_IMAGES) * image_noise
                noise += rng.normal(0, scale) * seed_noise
                found[run.name][metric] = level + common + shift + noise
        if rng.random() < 0.2:  # exact ties: every run has the values of the first
            for run in runs:
                found[run.name][metric] = found[runs[0].name][metric]
        if rng.random() < 0.05:  # a variant without this metric
            for run in runs:
                if run.variant == "v1":
                    found[run.name].pop(metric)
    return found


def measured(values: dict[str, np.ndarray]) -> Measured:
    """The metrics of one run, from the values of its images."""
    names, images = list(values), np.stack(list(values.values()))  # [M, I]
    means = images.mean(1)  # [M]
    influence = dict(zip(names, (images - means[:, None]) / N_IMAGES, strict=True))
    draws = dict(zip(names, images @ SHARES.T, strict=True))
    figures = dict(zip(names, means.tolist(), strict=True))
    return Measured(np.arange(N_IMAGES), figures, lambda: influence, lambda: draws)


def random_comparison(
    rng: np.random.Generator, runs: list[RunData], rule: RuleConfig
) -> Comparison:
    """The comparison of runs with random values; token tables exist in most studies."""
    values = random_values(rng, runs, SCALES)
    tables = rng.random() < 0.7
    of_run = {run.name: measured(values[run.name]) for run in runs}
    curves = []
    longer = {run.name: LONGER[: rng.integers(0, 3)] for run in runs}
    if rng.random() < 0.8:
        longer = {}
    for run in runs:
        for step in (*STEPS, *longer.get(run.name, ())):
            drift = 1.0 if step == STEPS[-1] else 1 + rng.normal(0, 0.05)
            at_step = {m: x * drift for m, x in of_run[run.name].values.items()}
            curves.append(CurveRow(run.variant, run.seed, step, at_step))
    groups, last = by_variant(runs), STEPS[-1]
    rows = [snapshot_row(rng, curves, variant, group) for variant, group in groups.items()]
    window = window_steps(STEPS, last, rule.window) if rows else []
    means = {name: mean_curves(curves, name) for name in rule.metrics}
    differences = []
    for pair in variant_pairs(groups):
        first = [of_run[run.name] for run in pair.first_runs]
        second = [of_run[run.name] for run in pair.second_runs]
        estimates = paired_estimates(first, second, rule.metrics) if tables else {}
        for name in rule.metrics:
            a, b = (means[name].get(v, {}) for v in (pair.first, pair.second))
            if last not in a or last not in b:
                continue
            interval = estimates.get(name)
            gap = interval.difference if interval else b[last] - a[last]
            differences.append(
                Difference(
                    pair.first,
                    pair.second,
                    name,
                    rule.margins[name],
                    gap,
                    interval,
                    window_summary(a, b, window),
                )
            )
    temperatures = {rule.temperature: rows, "own": moved(rng, rows)}
    snapshot = Snapshot(last, rows)
    return Comparison(
        temperature=rule.temperature,
        common_steps=list(STEPS) if rows else [],
        decision_step=last if rows else None,
        window=Window(rule.window, window),
        snapshots=[snapshot] if rows else [],
        temperatures={
            t: [TemperatureRow(r.variant, r.seeds, r.values, []) for r in table]
            for t, table in temperatures.items()
        },
        winners={rule.temperature: winners(snapshot, rule.metrics)},
        curves=curves,
        bands=[],
        stability=stability(means, STEPS, window),
        plateau=[],
        drift=[],
        differences=differences,
        slices={},
        resolution_limit=None,
        logged_temperatures=random_temperatures(rng.spawn(1)[0], runs),
    )


def random_temperatures(
    rng: np.random.Generator, runs: list[RunData]
) -> dict[str, LoggedTemperature]:
    """T = 1 for every run, as in this project, or temperatures of other trainers."""
    if rng.random() < 0.7:
        return {run.name: LoggedTemperature(1.0) for run in runs}
    others = [LoggedTemperature(None), LoggedTemperature(0.7, "args.json"), LoggedTemperature(1.0)]
    return {run.name: others[rng.integers(3)] for run in runs}


def snapshot_row(
    rng: np.random.Generator, curves: list[CurveRow], variant: str, group: list[RunData]
) -> SnapshotRow:
    """The mean over the variant's seeds of each metric that all of them have, at the last step."""
    mine = [row.values for row in curves if row.variant == variant and row.step == LAST]
    names = [name for name in mine[0] if all(name in values for values in mine)]
    means = {name: math.fsum(v[name] for v in mine) / len(mine) for name in names}
    text_accuracy = 0.85 if rng.random() < 0.03 else 0.97  # below the bar, or above it
    # A chance that takes nothing from the generator, so that all else stays as it was.
    chance = math.fsum(means.values()) * 1e6 % 1
    if chance > 0.05:
        means["coord_mass"] = 0.99
    means["text_token_acc"] = text_accuracy
    return SnapshotRow(variant, [run.seed for run in group], means)


def moved(rng: np.random.Generator, rows: list[SnapshotRow]) -> list[SnapshotRow]:
    """The same rows at a temperature at which the variants stand otherwise."""
    found = []
    for row in rows:
        values = {name: value * (1 + rng.normal(0, 0.03)) for name, value in row.values.items()}
        found.append(replace(row, values=values))
    return found


def random_probe(rng: np.random.Generator, runs: list[RunData]) -> StudyProbe:
    """No probe, a probe or rollouts of some or all variants, or figures published elsewhere."""
    kind = rng.choice(["none", "probe", "published", "handed over"], p=[0.25, 0.5, 0.1, 0.15])
    nothing = StudyProbe(None, None, [], [], {}, [])
    scales = PROBE_SCALES if kind == "probe" else HANDED_OVER_SCALES
    variants = list(by_variant(runs))
    if kind == "none" or not runs:
        return nothing
    if kind == "published":
        figures = {v: {"f1_50": float(rng.uniform(0.4, 0.7)), "final_step": 100} for v in variants}
        return replace(nothing, aggregates=Aggregates("a paper", figures))
    left_out = rng.choice(variants) if rng.random() < 0.2 else None
    probed = [run for run in runs if run.variant != left_out]
    if rng.random() < 0.2:  # v0 was probed with its first three seeds, v1 with its last three
        last = max(run.seed for run in runs)
        others = {"v0": range(3, last + 1), "v1": range(last - 2)}
        probed = [run for run in probed if run.seed not in others.get(run.variant, ())]
    values = random_values(rng, probed, scales)
    if kind == "probe" and rng.random() < 0.05:
        for found in values.values():
            found["f1_agnostic_after"] = np.zeros(N_IMAGES)
    given = random_files(rng, probed) if kind == "handed over" else None
    means = {}
    for variant, group in by_variant(probed).items():
        names = [n for n in scales if all(n in values[run.name] for run in group)]
        means[variant] = {
            n: math.fsum(float(values[run.name][n].mean()) for run in group) / len(group)
            for n in names
        }
        rates = rng.choice([0.5, 0.95, 0.99], size=2, p=[0.05, 0.45, 0.5]).tolist()
        if given is None:
            means[variant] |= {"parse_rate": rates[0], "parse_rate_after": rates[1]}
        elif all(file.knows_parsing for file in given.files if file.variant == variant):
            means[variant] |= {"parse_rate": rates[0]}
    differences = []
    of_run = {run.name: measured(values[run.name]) for run in probed}
    for pair in variant_pairs(by_variant(probed)):
        first = [of_run[run.name] for run in pair.first_runs]
        second = [of_run[run.name] for run in pair.second_runs]
        for name, estimate in paired_estimates(first, second, scales).items():
            differences.append(
                Difference(pair.first, pair.second, name, None, estimate.difference, estimate, None)
            )
    candidates = [
        Candidate(run.variant, run.seed, "complete", None, "", "", N_IMAGES, {}, {}, {}, [])
        for run in probed
    ]
    contributions, blind = {}, None
    if kind == "probe" and rng.random() < 0.7:
        for variant, group in by_variant(probed).items():
            gain = value_estimate([of_run[run.name] for run in group], "visual_contribution")
            if gain is not None:
                contributions[variant] = gain
        blind = BlindProbe(60.0, float(rng.uniform(30, 60)), 0.1, 100, 400, 64)
    aggregates = None
    if rng.random() < 0.1:
        figures = {v: {"f1_50": float(rng.uniform(0.4, 0.7))} for v in variants}
        aggregates = Aggregates("a paper", figures)
    others = []
    if given is None and rng.spawn(1)[0].random() < 0.5:  # probed with other settings
        others = [run.name for run in runs if run not in probed][:2]
    return replace(
        nothing,
        aggregates=aggregates,
        probed_otherwise={name: ["steps=9"] for name in others},
        not_probed=[run.name for run in runs if run not in probed],
        step=160,
        settings={},
        candidates=candidates,
        means=means,
        differences=differences,
        contributions=contributions,
        blind=blind,
        fine_tune_effects=fine_tune_effects(probed, of_run),
        handed_over=given,
    )


def random_files(rng: np.random.Generator, runs: list[RunData]) -> HandedOver:
    """A file of rollouts of each run, of which more or less is known."""
    all_known = rng.random() < 0.5
    files = [
        HandedOverFile(
            run=run.name,
            variant=run.variant,
            seed=run.seed,
            path=f"{run.variant}-{run.seed}.jsonl",
            sha256="0" * 64,
            ground_truth=None,
            format="CoordExp gt_vs_pred",
            step=160 if all_known else [None, 120, 160][rng.integers(3)],
            images=N_IMAGES + (0 if all_known else int(rng.integers(2))),
            left_out=0,
            dropped={"inverted boxes": 2, "no coordinates": 1} if rng.random() < 0.2 else {},
            doubts=["7% of the boxes end beyond their image"] if rng.random() < 0.2 else [],
            scores="none",
            knows_parsing=bool(all_known or rng.random() < 0.5),
            knows_truncation=False,
        )
        for run in runs
    ]
    files = [replace(file, left_out=file.images - N_IMAGES) for file in files]
    unused = [run.name for run in runs[:1]] if rng.random() < 0.2 else []
    return HandedOver(files, N_IMAGES, unused)
