"""Can the logs be believed? What each run's own rows say, and what it has in common with the other runs.

A ratio near 1 in a log does not prove the gradients; the pre-flight recorded in the manifest does.
"""

from __future__ import annotations

from collections.abc import Sequence

from coordexp.analysis.audit.findings import Audit, FamilyRatios, RunAudit
from coordexp.analysis.audit.ratios import (
    FAMILIES,
    TERMS,
    family_ratios,
    judge,
    overfit_ratio,
)
from coordexp.analysis.audit.rows import (
    COORDINATES,
    declared,
    log_checks,
    missing_rows,
    not_finite,
    other_variant,
    switch,
)
from coordexp.analysis.audit.run_consistency import (
    Validation,
    consistency_checks,
    not_checked,
    train_setting,
    validation_of,
)
from coordexp.config.digests import flatten
from coordexp.storage.logs.log import Log
from coordexp.study.inputs import RunData

PASSING = ("consistent", "not identifiable")
BOOKKEEPING = {
    f"train.{key}" for key in ("audit_images", "logging_steps", "state_steps", "checkpoint_steps")
}


COMPARED_GROUPS = ("model", "data", "optim", "train")


def audit(runs: Sequence[RunData]) -> Audit:
    """The audit of a study.

    runs: an entry a run (`audit_run`).  differences: settings outside `variant` that are not the same in every run.
    passed: the names of the runs that may be recommended.

    Raises:
        UserError: a token table cannot be read.
    """
    validation = validation_of(runs)
    entries = [audit_run(run, runs, validation) for run in runs]
    passed = [entry.name for entry in entries if entry.passed]
    return Audit(entries, config_differences(runs), passed)


def audit_run(run: RunData, runs: Sequence[RunData], validation: Validation) -> RunAudit:
    """What is known for and against one run of a study.

    grad_accumulation_steps: from the log, else from the configuration; None where neither says.
    families: {family: pairs, from_step, n, median, min, max} (`family_ratios`) of every loss family the log holds.
    verdict, why: "not finite", "swapped" (a log of another variant), one of `ratios.judge`, or "missing".
    overfit_ratio: eval loss over that of the audited train images at the end; None where there are none.
    checks: [{name, passed, detail}]; `passed` None is something to know that neither passes nor fails.
    not_checked: what could not be judged and why.  warnings: the reader's.  passed: nothing failed.
    """
    gas = accumulation(run)
    families = {
        family: family_ratios(run.log, family)
        for family in (*FAMILIES, *TERMS)
        if applicable(run.log, family)
    }
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
        warnings=run.log.warnings,
        passed=verdict in PASSING and all(check.passed is not False for check in checks),
    )


def accumulation(run: RunData) -> float | None:
    """Micro-batches an optimizer step and process (GAS)."""
    logged = [
        row["accum/grad_steps"] for row in run.log.train.values() if "accum/grad_steps" in row
    ]
    if logged:
        return logged[0]
    images, micro_batch = (train_setting(run, key) for key in ("images_per_step", "micro_batch"))
    processes = run.manifest.processes if run.manifest else 1
    return images / (micro_batch * processes) if images and micro_batch else None


def applicable(log: Log, family: str) -> bool:
    """The loss always; a family that some row has, or should have; parts of one where train and eval rows have them."""
    trained, evaluated = (
        any(family in row for row in rows.values()) for rows in (log.train, log.evals)
    )
    if family in TERMS:
        return trained and evaluated
    switched_on = family.startswith(COORDINATES) and 1.0 in switch(log)
    return family == "loss" or trained or evaluated or switched_on


def verdict_on(
    run: RunData, families: dict[str, FamilyRatios], gas: float | None
) -> tuple[str, str]:
    """The gravest thing that the log shows, and its reason."""
    if broken := not_finite(run.log):
        return "not finite", f"{broken[0]} is not finite" + (
            f" ({len(broken) - 1} more)" if broken[1:] else ""
        )
    if reason := other_variant(run):
        return "swapped", reason
    if run.log.evals and not run.log.train:
        return (
            "not identifiable",
            "there are no train rows: whether the loss was scaled soundly cannot be told",
        )
    verdict, why = judge(run.log, families, gas)
    if gaps := missing_rows(run.log, families):
        return ("missing", gaps) if verdict in PASSING else (verdict, f"{why}; {gaps}")
    return verdict, why


def config_differences(runs: Sequence[RunData]) -> list[str]:
    """Settings outside `variant` that are not the same in every run; they confound the comparison.

    A run that says nothing of a whole group, as one that was trained elsewhere, is not held to differ in it.
    """
    flat = {
        run.name: flatten({group: getattr(run.config, group) for group in COMPARED_GROUPS})
        for run in runs
        if run.config
    }
    keys = sorted({key for settings in flat.values() for key in settings} - BOOKKEEPING)
    differences = []
    for key in keys:
        group = key.partition(".")[0]
        values = {
            run.name: flat[run.name].get(key)
            for run in runs
            if run.config and getattr(run.config, group)
        }
        holders: dict[str, list[str]] = {}
        for name, value in values.items():
            holders.setdefault(str(value), []).append(name)
        if len(holders) > 1:
            differences.append(
                f"{key}: "
                + ", ".join(f"{' and '.join(names)} {value}" for value, names in holders.items())
            )
    return differences
