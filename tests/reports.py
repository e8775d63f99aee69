"""The files of a study, made by hand: what a report is read from. Nothing here runs the analysis.

The numbers are invented; the types of the files are the contract. `study_files` writes a study, and
`change` edits one of its files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from studies import NOTE_RULE

from coordexp.analysis.audit.findings import (
    Audit,
    Check,
    FamilyRatios,
    RatioPair,
    RunAudit,
    write_audit,
)
from coordexp.analysis.audit.ratios import FAMILIES, TERMS
from coordexp.analysis.comparison.findings import (
    Band,
    Comparison,
    CurveRow,
    Difference,
    Drift,
    Plateau,
    ResolutionLimit,
    Slices,
    Snapshot,
    SnapshotRow,
    Stability,
    StepWinner,
    TemperatureRow,
    Window,
    WindowSummary,
    write_comparison,
)
from coordexp.analysis.comparison.statistics import Estimate
from coordexp.config.digests import plain
from coordexp.storage.files import read_json, sha256_file, write_json
from coordexp.storage.manifest import (
    GradientAgreement,
    InputDigests,
    Preflight,
    RunManifest,
    write_manifest,
)
from coordexp.storage.runs import RunDirectory
from coordexp.storage.typed import write_sealed, write_typed
from coordexp.study.preregistration import Preregistration, RegisteredRun
from coordexp.study.study_files import DIGESTS
from coordexp.study.study_runs import StudyRun, write_study_runs

STUDY = Path("results/stage1_ablation/0123abcd")
STEPS = tuple(range(40, 721, 40))
MARGINS = {
    "expected_bin_mae": 0.5,
    "expected_bin_abs_err_p90": 1.5,
    "w1_to_delta": 0.7,
    "coord_token_acc": 0.02,
    "p_gt_mean": 0.01,
}
METRICS = tuple(MARGINS)
LOWER = METRICS[:3]  # the metrics of which less is better
LEVELS = {  # about the note's table at its last common step, and three more variants
    "softce_w1_gate": (24.12, 55.48, 40.0, 0.1714, 0.0858),
    "pure_ce": (23.63, 55.06, 39.0, 0.2177, 0.1665),
    "mixed": (24.26, 56.48, 41.0, 0.2000, 0.1036),
    "old/pure_ce": (25.9, 58.2, 43.0, 0.1500, 0.0700),
    "ce_split": (24.0, 55.9, 39.7, 0.1900, 0.1300),
    "very_long_name_of_a_sixth_variant": (24.9, 57.0, 41.5, 0.1800, 0.0900),
}
THREE_VARIANTS = ("softce_w1_gate", "pure_ce", "mixed")
BOOTSTRAP, CROSSED = "paired bootstrap over images", "crossed seeds x images"
TEMPERATURES = ("1", "own", "fitted")

Steps = Mapping[str, Sequence[int]]  # the eval steps of each variant


def value(variant: str, seed: int, step: int, metric: str) -> float:
    """A curve that collapses to its level, and ripples there."""
    level = level_of(variant, metric)
    level *= 1 + 0.004 * math.sin(step / 60 + 2 * seed + list(LEVELS).index(variant))
    if metric in LOWER:
        return level + (230 - level) * math.exp(-step / 30)
    return level * (1 - math.exp(-step / 150))


def level_of(variant: str, metric: str) -> float:
    return LEVELS[variant][METRICS.index(metric)]


def study_files(
    variants: Sequence[str] = THREE_VARIANTS,
    seeds: int = 1,
    tables: bool = True,
    bare: bool = False,
    steps: Steps | None = None,
) -> Path:
    """Write a study's files under results/ and return its directory.

    Args:
        variants: the variants, in the study's order.
        seeds: of each variant.
        tables: whether token tables are there, and so intervals and slices.
        bare: whether the study is of logs that were handed over, without manifests.
        steps: the eval steps of variants that differ from STEPS.
    """
    tables = tables and not bare
    own: dict[str, Sequence[int]] = dict.fromkeys(variants, STEPS)
    own |= steps or {}
    runs = []
    for variant in variants:
        for seed in range(seeds):
            runs.append(bare_run(variant, seed, own) if bare else trained_run(variant, seed, own))
    comparison = comparison_of(own, seeds, tables, bare)
    write_study_runs(STUDY, runs)
    write_audit(STUDY, audit_of(runs, own))
    write_comparison(STUDY, comparison)
    write_json(STUDY / "probe.json", NO_PROBE)
    write_json(STUDY / "recommendation.json", recommendation_of(comparison, seeds, bare))
    write_typed(STUDY / "preregistration.json", preregistration_of(runs, seeds))
    return STUDY


def change(study: Path, name: str, edit: Callable[[Any], Any]) -> Path:
    """Edit one of the study's files in place, as JSON."""
    content = read_json(study / f"{name}.json")
    edit(content)
    write_sealed(study / f"{name}.json", content)
    (study / DIGESTS).unlink(missing_ok=True)
    return study


# --- runs.json, the runs' logs and manifests, preregistration.json ---

AGREEMENT = GradientAgreement(
    loss_difference=1e-8,
    norm=2.5,
    norm_difference=1e-8,
    projection_difference={"vision": 3e-7, "language": 2e-7},
    micro_batches=[4, 8],
)


def trained_run(variant: str, seed: int, steps: Steps) -> StudyRun:
    """A run that the study trained: its log, its manifest, and its entry of runs.json."""
    run = RunDirectory(Path(f"results/runs/{variant}/s{seed}-0123abcd"))
    write_log(run.log, variant, seed, steps[variant])
    run.config.write_text(f"variant: {{name: {variant}}}\nseed: {seed}\n")
    manifest = RunManifest(
        status="complete",
        reason=None,
        variant=variant,
        seed=seed,
        hash8="0123abcd",
        max_steps=steps[variant][-1],
        finished_at="2026-01-02T01:00:00+00:00",
        inputs_sha256=InputDigests(data="d" * 64, base="b" * 64),
        step=steps[variant][-1],
        tokens_seen=834_434,
        train_wall_s=278.4,
        eval_wall_s=32.2,
        preflight=Preflight(relative_difference=2.5e-9, cut=AGREEMENT, reference=AGREEMENT),
        modules_sha256={"train.py": "m" * 64},
        versions={"python": "3.11", "torch": "2.13"},
        artifacts={},
    )
    write_manifest(run, manifest)
    entry = StudyRun(variant=variant, seed=seed, directory=str(run.path))
    return entry.with_manifest(manifest)


def bare_run(variant: str, seed: int, steps: Steps) -> StudyRun:
    """A log that was handed over, and its entry of runs.json."""
    log = Path(f"logs/{variant.replace('/', '-')}-{seed}.jsonl")
    write_log(log, variant, seed, steps[variant])
    return StudyRun(variant=variant, seed=seed, log=str(log), kind="log", sha256=sha256_file(log))


def write_log(path: Path, variant: str, seed: int, steps: Sequence[int]) -> None:
    """Losses that fall from 21 to about 1; the eval loss is one percent larger."""
    path.parent.mkdir(parents=True, exist_ok=True)
    offset = 0.02 * seed + 0.1 * list(LEVELS).index(variant)
    lines = []
    for step in steps:
        loss = 1 + 20 * math.exp(-step / 80) + offset
        row = {"global_step/max_steps": f"{step}/{steps[-1]}", "loss": loss}
        lines.append(json.dumps(row | {"eval_loss": 1.01 * loss}) + "\n")
    path.write_text("".join(lines))


def preregistration_of(runs: Sequence[StudyRun], seeds: int) -> Preregistration:
    registered = []
    for run in runs:
        trained = run.directory is not None
        overrides = [f"variant={run.variant}", f"seed={run.seed}"] if trained else []
        registered.append(
            RegisteredRun(
                variant=run.variant,
                seed=run.seed,
                hash8=run.hash8,
                directory=run.directory,
                log=run.log,
                kind=run.kind,
                sha256=run.sha256,
                overrides=overrides,
                existing=not trained,
            )
        )
    return Preregistration(
        study="stage1_ablation",
        hash8="0123abcd",
        written_at="2026-01-01T00:00:00+00:00",
        seeds=seeds,
        rule=plain(NOTE_RULE) | {"metrics": list(METRICS), "margins": MARGINS},
        rule_sha256="a" * 64,
        runs=registered,
    )


# --- audit.json ---


def audit_of(runs: Sequence[StudyRun], steps: Steps) -> Audit:
    """Every run passes; its first three eval steps lie before the collapse ends."""
    audits = []
    for run in runs:
        families = FAMILIES[:2] if "pure_ce" in run.variant else (*FAMILIES, *TERMS)
        own = steps[run.variant]
        checks = [Check("has evaluations", True, f"{len(own)} eval rows")]
        if run.directory:
            checks.append(Check("same data", True, "d" * 12))
            checks.append(Check("tokens seen", None, "834,434"))
        audits.append(
            RunAudit(
                variant=run.variant,
                seed=run.seed,
                grad_accumulation_steps=8.0,
                families={family: ratios_of(own, i) for i, family in enumerate(families)},
                verdict="consistent",
                why="ratio loss 1.000",
                overfit_ratio=None,
                checks=checks,
                not_checked=[],
                doubts=[],
                passed=True,
            )
        )
    return Audit(audits, differences=[], passed=[audit.name for audit in audits])


def ratios_of(steps: Sequence[int], shift: int) -> FamilyRatios:
    """Ratios near 1 that begin high; those from the fourth step on count."""
    pairs = []
    for step in steps:
        ratio = 1 + 0.03 * math.sin(step + shift) + 0.3 * math.exp(-step / 40)
        pairs.append(RatioPair(step=step, train_step=step, ratio=ratio, subset_ratio=None))
    counted = sorted(pair.ratio for pair in pairs[3:])
    return FamilyRatios(
        pairs=pairs,
        from_step=steps[min(3, len(steps) - 1)],
        n=len(counted),
        median=counted[len(counted) // 2] if counted else None,
        min=min(counted, default=None),
        max=max(counted, default=None),
    )


# --- comparison.json ---


def comparison_of(steps: Steps, seeds: int, tables: bool, bare: bool) -> Comparison:
    variants = list(steps)
    common = sorted(set.intersection(*map(set, steps.values())))
    last = common[-1]
    window = [step for step in common if step > last / 2]
    rows = [snapshot_row(variant, seeds, last) for variant in variants]
    several = len(variants) > 1
    return Comparison(
        temperature="1",
        common_steps=common,
        decision_step=last,
        window=Window(0.5, window),
        snapshots=snapshots_of(steps, seeds, last),
        temperatures=temperatures_of(rows, seeds, bare),
        winners={t: {} if bare and t != "1" else best_of(rows) for t in TEMPERATURES},
        curves=curves_of(steps, seeds),
        bands=bands_of(steps) if tables else [],
        stability={m: stability_of(variants, common, window, m) for m in METRICS if several},
        plateau=plateaus_of(variants, seeds) if len(common) > 8 else [],
        drift=[Drift(m, 0.6, 0.4, differ=m in LOWER) for m in METRICS if several],
        differences=differences_of(variants, last, window, seeds if tables else 0),
        slices={variant: slices_of(variant) for variant in variants if tables},
        resolution_limit=None if bare else RESOLUTION_LIMIT,
    )


RESOLUTION_LIMIT = ResolutionLimit(
    best_mae_bins=23.63,
    side_px=[480, 640, 640],
    best_mae_px=[11.3, 15.1, 15.1],
    cell_px=32,
    best_mae_cells=0.47,
    p90_bins=55.06,
    p90_px=35.2,
    sentence="0.47 of a cell",
    test="a larger image",
)


def snapshot_row(variant: str, seeds: int, step: int) -> SnapshotRow:
    """The mean over seeds, and what is logged beside the metrics."""
    values = {}
    for metric in METRICS:
        values[metric] = sum(value(variant, seed, step, metric) for seed in range(seeds)) / seeds
    values |= {"text_ce": 0.09, "text_token_acc": 0.97, "coord_mass": 0.99}
    values["entropy"] = 5.4 - level_of(variant, "p_gt_mean")
    return SnapshotRow(variant, list(range(seeds)), values)


def snapshots_of(steps: Steps, seeds: int, decision_step: int) -> list[Snapshot]:
    """At the decision step, and at each later step that some variants have."""
    every = set().union(*steps.values())
    later = sorted(step for step in every if step > decision_step)
    snapshots = []
    for step in (decision_step, *later):
        present = [variant for variant in steps if step in steps[variant]]
        snapshots.append(Snapshot(step, [snapshot_row(v, seeds, step) for v in present]))
    return snapshots


def temperatures_of(
    rows: Sequence[SnapshotRow], seeds: int, bare: bool
) -> dict[str, list[TemperatureRow]]:
    """The same values at each temperature; a bare log has those at T = 1."""
    tables: dict[str, list[TemperatureRow]] = {}
    for temperature in TEMPERATURES:
        used = [1.0 if temperature == "1" else 0.7] * seeds
        tables[temperature] = []
        if temperature == "1" or not bare:
            for row in rows:
                tables[temperature].append(TemperatureRow(row.variant, row.seeds, row.values, used))
    return tables


def best_of(rows: Sequence[SnapshotRow]) -> dict[str, str | None]:
    """The best variant of each metric."""
    best: dict[str, str | None] = {}
    for metric in METRICS:
        ordered = sorted(rows, key=lambda row: row.values[metric])
        best[metric] = ordered[0 if metric in LOWER else -1].variant
    return best


def curves_of(steps: Steps, seeds: int) -> list[CurveRow]:
    rows = []
    for variant, own in steps.items():
        for seed in range(seeds):
            for step in own:
                values = {metric: value(variant, seed, step, metric) for metric in METRICS}
                rows.append(CurveRow(variant, seed, step, values))
    return rows


def bands_of(steps: Steps) -> list[Band]:
    """Three percent to each side of the first seed."""
    bands = []
    for variant, own in steps.items():
        for step in own:
            for metric in METRICS:
                middle = value(variant, 0, step, metric)
                bands.append(Band(variant, step, metric, 0.97 * middle, 1.03 * middle))
    return bands


def stability_of(
    variants: Sequence[str], common: Sequence[int], window: Sequence[int], metric: str
) -> Stability:
    """An exact tie at the first step, and where the third block of the window is left out."""
    winners = []
    for step in common:
        best = best_of([snapshot_row(variant, 1, step) for variant in variants])[metric]
        winners.append(StepWinner(step, best if step != common[0] else None))
    last = best_of([snapshot_row(variant, 1, common[-1]) for variant in variants])[metric]
    inside = [cell.winner for cell in winners if cell.step in window]
    return Stability(
        winners=winners,
        last_winner=last,
        settled_from=window[0],
        leave_one_block_out=[last, last, None, last],
        share=inside.count(last) / len(inside),
    )


def plateaus_of(variants: Sequence[str], seeds: int) -> list[Plateau]:
    """Errors still fall, the other metrics are flat."""
    rows = []
    for variant in variants:
        for seed in range(seeds):
            for metric in METRICS:
                level, falls = level_of(variant, metric), metric in LOWER
                rows.append(
                    Plateau(
                        run=f"{variant} s{seed}",
                        variant=variant,
                        seed=seed,
                        metric=metric,
                        collapse_ends=160,
                        from_step=520,
                        level=level,
                        spread=0.01 * level,
                        slope_percent_per_100_steps=-2.6 if falls else 0.4,
                        flat=not falls,
                    )
                )
    return rows


def differences_of(
    variants: Sequence[str], step: int, window: Sequence[int], seeds: int
) -> list[Difference]:
    """Every pair and metric; `seeds` is 0 without token tables."""
    differences = []
    for i, first in enumerate(variants):
        for second in variants[i + 1 :]:
            for metric in METRICS:
                differences.append(difference_of(first, second, metric, step, window, seeds))
    return differences


def difference_of(
    first: str, second: str, metric: str, step: int, window: Sequence[int], seeds: int
) -> Difference:
    """Second minus first, with an interval where there are seeds with token tables."""
    gaps = []
    for at in (*window, step):
        gaps.append(value(second, 0, at, metric) - value(first, 0, at, metric))
    gap = gaps.pop()
    gaps.sort()
    summary = WindowSummary(
        n=len(gaps),
        median=gaps[len(gaps) // 2],
        min=gaps[0],
        max=gaps[-1],
        share_above_0=sum(other > 0 for other in gaps) / len(gaps),
    )
    half = MARGINS[metric] * (0.5 + len(second) % 3)
    interval = estimate_of(gap, half, seeds) if seeds else None
    return Difference(first, second, metric, MARGINS[metric], gap, interval, summary)


def estimate_of(gap: float, half: float, seeds: int) -> Estimate:
    """An interval of `half` to each side; from three seeds on seeds and images are crossed."""
    crossed = seeds >= 3
    return Estimate(
        difference=gap,
        low=gap - half,
        high=gap + half,
        se=half / 2,
        df=2.4 if crossed else None,
        share_above_0=0.5 + 0.5 * math.tanh(gap / half),
        p_value=0.03 if crossed else None,
        method=CROSSED if crossed else BOOTSTRAP,
        seed_var=0.02 if crossed else None,
        image_var=0.05,
        interaction_var=0.01 if crossed else None,
        n_images=256,
    )


def slices_of(variant: str) -> Slices:
    """Errors that grow from slot to slot, and fall with the size of the box."""
    level = level_of(variant, "expected_bin_mae")
    slots = {slot: level * (0.9 + 0.05 * i) for i, slot in enumerate(("x1", "y1", "x2", "y2"))}
    sizes = {"small": 1.3 * level, "medium": level, "large": 0.8 * level}
    return Slices(slots, dict.fromkeys(slots, 764), sizes, dict.fromkeys(sizes, 1000))


# --- recommendation.json and probe.json ---

NO_PROBE = {
    "step": None,
    "settings": None,
    "candidates": [],
    "not_probed": [],
    "means": {},
    "differences": [],
    "aggregates": None,
}


def recommendation_of(comparison: Comparison, seeds: int, bare: bool) -> dict[str, Any]:
    """Roles in the order of MAE."""
    rows = {row.variant: row for row in comparison.decision_rows}
    step = comparison.decision_step
    order = sorted(rows, key=lambda variant: rows[variant].values["expected_bin_mae"])

    def role(variant: str, reason: str) -> dict[str, Any]:
        path = f"results/runs/{variant}/s0-0123abcd/checkpoints/step-{step:06d}"
        return {
            "variant": variant,
            "seed": 0,
            "step": step,
            "checkpoint": None if bare else path,
            "sha256": None if bare else "c" * 64,
            "metrics": rows[variant].values,
            "reasons": [reason],
        }

    claim = {
        "metric": METRICS[0],
        "lead": 0.6,
        "low": 0.2,
        "high": 1.0,
        "share_better": 0.98,
        "p_holm": 0.04 if seeds >= 3 else None,
        "verdict": "better",
    }
    stage1 = {
        "grade": "provisional" if comparison.bands else "descriptive",
        "reason": "its reason",
    }
    stage2 = {"grade": "descriptive", "reason": "no Stage-2 probe has been run"}
    claims = [{"variant": variant, **claim} for variant in order[1:]]
    eliminated = [
        {
            "variant": variant,
            "by": order[0],
            "tier": "token tables" if comparison.bands else "logs",
            "metric": METRICS[0],
            "lead": 0.6,
            "low": 0.52 if comparison.bands else None,
            "high": 1.0 if comparison.bands else None,
            "p_holm": 0.04 if comparison.bands else None,
            "margin": 0.5,
        }
        for variant in order[1:]
    ]
    decision = {
        "eliminated": eliminated,
        "left": order[:1],
        "preference": None,
        "contradictions": [],
        "settled_from": step,
    }
    against = "against the primary: MAE +0.63 bins (worse)"
    return {
        "schema_version": 5,
        "withheld": None,
        "rehearsal": None,
        "study": {"name": "stage1_ablation", "hash8": "0123abcd", "seeds": seeds},
        "decision_step": step,
        "confidence": {"stage1_ranking": stage1, "stage2_fitness": stage2},
        "primary": role(order[0], "ahead on 5 of 5 decided metrics"),
        "secondary": role(order[1], "smoother than the primary: a hypothesis")
        if order[1:]
        else None,
        "optional": [role(variant, against) for variant in order[2:]],
        "tied": [],
        "ineligible": [],
        "alerts": [],
        "decision": decision,
        "statements": [],
        "evidence": [],
        "caveats": [],
        "confirmatory": claims if comparison.bands else [],
        "audit": {"passed": [], "verdicts": {}},
        "probe": None,
        "would_overturn": ["a Stage-2 probe in which another variant descends better"],
        "would_take": [] if bare else ["5 seeds a variant for a MAE interval of ± 0.50 bins"],
        "rule": {"text": "Decision step last_common, T = 1.", "sha256": "a" * 64},
    }
