"""The audit of a study: checks of each run's log by itself, and of each run against the others.

A train/eval ratio near 1 in a log does not prove that the gradients are right. The manifest also
holds a pre-flight, which compared losses and gradients before step 1 (training/preflight).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from coordexp.analysis.audit.doubts import copies, run_doubts
from coordexp.analysis.audit.faults import judge
from coordexp.analysis.audit.findings import Audit, FamilyRatios, RunAudit
from coordexp.analysis.audit.ratios import (
    COORD_LOSS,
    FAMILIES,
    TERMS,
    family_ratios,
    overfit_ratio,
)
from coordexp.analysis.audit.rows import log_checks, missing_rows, not_finite
from coordexp.analysis.audit.run_consistency import consistency_checks, not_checked
from coordexp.analysis.audit.validation_set import Validation, validation_of
from coordexp.analysis.audit.variant_of_log import coordinate_switch, other_variant
from coordexp.config.digests import flatten
from coordexp.storage.logs.dialects import ACCUMULATION_KEY
from coordexp.storage.logs.log import Log
from coordexp.study.inputs import RunData, candidates
from coordexp.study.objective import declared

PASSING = ("consistent", "not identifiable")
COMPARED_GROUPS = ("model", "data", "optim", "train")
# Settings of what a run records. They do not change what it trains, so they may differ.
BOOKKEEPING = {
    f"train.{key}" for key in ("audit_images", "logging_steps", "state_steps", "checkpoint_steps")
}


def audit(runs: Sequence[RunData]) -> Audit:
    """The audit of a study.

    A control is compared with the candidates. A candidate is not compared with controls, so that a
    control cannot make it fail, and cannot cap a grade.

    Raises:
        UserError: a token table cannot be read.
    """
    validation = validation_of(runs)
    entries = []
    for run in runs:
        peers = [peer for peer in runs if peer is run or not peer.control]
        entry = audit_run(run, peers, validation.of(peers))
        entries.append(replace(entry, doubts=[*entry.doubts, *copies(run, runs)]))
    compared = candidates(runs)
    names = {run.name for run in compared}
    passed = [entry.name for entry in entries if entry.passed and entry.name in names]
    differences = [
        *config_differences(compared),
        *planned_step_differences(compared),
        *eval_set_differences(compared),
    ]
    keys = {difference.partition(":")[0] for difference in differences}
    of_controls = [d for d in config_differences(runs) if d.partition(":")[0] not in keys]
    return Audit(entries, differences, passed, of_controls)


def audit_run(run: RunData, runs: Sequence[RunData], validation: Validation) -> RunAudit:
    """Ratios, verdict and checks of one run; `runs` are those it is compared with, and itself."""
    gas = accumulation(run)
    families = {family: family_ratios(run.log, family) for family in applicable(run.log)}
    verdict, why = verdict_on(run, families, gas)
    checks = [*log_checks(run), *consistency_checks(run, runs, validation)]
    unchecked = not_checked(run)
    if not declared(run):
        unchecked.append(f"{run.variant} has no file in conf/variant: whether the log is of it")
    return RunAudit(
        variant=run.variant,
        seed=run.seed,
        grad_accumulation_steps=gas,
        families=families,
        verdict=verdict,
        why=why,
        overfit_ratio=overfit_ratio(run.log),
        checks=checks,
        not_checked=unchecked,
        doubts=run_doubts(run),
        passed=verdict in PASSING and all(check.passed is not False for check in checks),
    )


def accumulation(run: RunData) -> float | None:
    """Gradient accumulation steps (GAS): micro-batches per optimizer step and process.

    From the log, else from settings files beside it, else from the configuration; None where none
    of them gives it.
    """
    for row in run.log.train.values():
        if ACCUMULATION_KEY in row:
            return row[ACCUMULATION_KEY]
    if run.log.accumulation is not None:
        return run.log.accumulation
    images, micro_batch = run.train_setting("images_per_step"), run.train_setting("micro_batch")
    if not images or not micro_batch:
        return None
    processes = run.manifest.processes if run.manifest else 1
    return float(images / (micro_batch * processes))


def applicable(log: Log) -> list[str]:
    """The loss families and terms whose ratios are judged.

    The loss is always judged. Another family is judged if any row has it; a coordinate family also
    if the log says that coordinate terms are on. A term is judged if both train and eval rows have
    it.
    """
    trained = {key for row in log.train.values() for key in row}
    evaluated = {key for row in log.evals.values() for key in row}
    wanted = {"loss"} | trained | evaluated
    if 1.0 in coordinate_switch(log):
        wanted |= {family for family in FAMILIES if family.startswith(COORD_LOSS)}
    families = [family for family in FAMILIES if family in wanted]
    return families + [term for term in TERMS if term in trained & evaluated]


def verdict_on(
    run: RunData, families: Mapping[str, FamilyRatios], gas: float | None
) -> tuple[str, str]:
    """The verdict on a run's log, and its reason.

    The first finding decides, in this order: values that are not finite, the log of another
    variant, eval rows without train rows, a fault in the train/eval ratios, missing rows.
    """
    if broken := not_finite(run.log):
        more = f" ({len(broken) - 1} more)" if broken[1:] else ""
        return "not finite", f"{broken[0]} is not finite{more}"
    if reason := other_variant(run):
        return "swapped", reason
    if run.log.evals and not run.log.train:
        unknown = "whether the loss was scaled soundly cannot be told"
        return "not identifiable", f"there are no train rows: {unknown}"
    verdict, why = judge(run.log, families, gas)
    gaps = missing_rows(run.log, families)
    if not gaps:
        return verdict, why
    if verdict in PASSING:
        return "missing", gaps
    return verdict, f"{why}; {gaps}"


def config_differences(runs: Sequence[RunData]) -> list[str]:
    """Settings outside `variant` that differ between runs; they confound the comparison.

    A run whose configuration lacks a whole group (it was trained elsewhere) is not compared in that
    group.
    """
    configs = {run.name: run.config for run in runs if run.config}
    settings = {
        name: flatten({group: getattr(config, group) for group in COMPARED_GROUPS})
        for name, config in configs.items()
    }
    keys = {key for flat in settings.values() for key in flat}
    differences = []
    for key in sorted(keys - BOOKKEEPING):
        group = key.partition(".")[0]
        values = {
            name: settings[name].get(key)
            for name, config in configs.items()
            if getattr(config, group)
        }
        groups = runs_by_value(values)
        if len(groups) > 1:
            said = [f"{' and '.join(names)} {value}" for value, names in groups.items()]
            differences.append(f"{key}: {', '.join(said)}")
    return differences


def planned_step_differences(runs: Sequence[RunData]) -> list[str]:
    """The planned steps of the logs, where they differ: the learning rate follows the plan.

    A difference between micro-batches and optimizer steps shows here too. Configurations tell their
    own (`train.max_steps`).
    """
    if all(run.config for run in runs):
        return []
    groups = runs_by_value({run.name: run.log.max_steps for run in runs if run.log.max_steps})
    if len(groups) < 2:
        return []
    said = [f"{' and '.join(names)} {planned}" for planned, names in groups.items()]
    return [f"planned steps: {', '.join(said)}"]


def eval_set_differences(runs: Sequence[RunData]) -> list[str]:
    """The evaluation sets of the logs, where they name different ones."""
    groups = runs_by_value({run.name: run.log.eval_set or "unnamed" for run in runs})
    if len(groups) < 2:
        return []
    said = [f"{' and '.join(names)} {eval_set}" for eval_set, names in groups.items()]
    return [f"evaluation set: {', '.join(said)}"]


def runs_by_value(values: Mapping[str, Any]) -> dict[str, list[str]]:
    """Group run names by value: {value as text: names}."""
    groups: dict[str, list[str]] = {}
    for name, value in values.items():
        groups.setdefault(str(value), []).append(name)
    return groups
