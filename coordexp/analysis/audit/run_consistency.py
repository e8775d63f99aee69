"""Do the runs differ only in their objective? Checks of manifests, settings and tables.

The majority value is taken as correct. Without a majority (as between two runs that differ) every
run fails the check.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from coordexp.analysis.audit.findings import Check
from coordexp.analysis.audit.validation_set import Validation, eval_samples, eval_weighting
from coordexp.config.digests import digest
from coordexp.storage.digest_store import known_sha256, known_sha256_directory
from coordexp.storage.manifest import RunManifest, preflight_tolerance, projection_tolerance
from coordexp.study.inputs import RunData

BRIEF_ENTRIES = 5  # of a longer table only the number of entries is shown
BRIEF_DIFFERENCES = 3


def consistency_checks(
    run: RunData, runs: Sequence[RunData], validation: Validation
) -> list[Check]:
    """Every check that the files of this run allow.

    Raises:
        UserError: a token table cannot be read.
    """
    checks = [
        *completeness(run),
        *manifest_checks(run, runs),
        agreement("same validation set", run, validation.digests),
        agreement("same number of validation samples", run, validation.sizes),
        *eval_weighting(run),
    ]
    return [check for check in checks if check is not None]


def not_checked(run: RunData) -> list[str]:
    """What could not be checked because a file is missing, one line per file."""
    lines = []
    if run.manifest is None:
        lines.append(
            "no manifest: data, base model, tokens seen, training code, precision, versions "
            "and pre-flight"
        )
    if run.run is None or not run.run.table_steps():
        size = "" if eval_samples(run) is None else " (but for its size)"
        lines.append(f"no token tables: validation set{size} and the weighting of the evaluation")
    return lines


# --- one run by itself ---


def completeness(run: RunData) -> list[Check]:
    """Whether log and manifest reach the planned end, and belong together.

    A log without a manifest may come from a run that was stopped early. That is reported, but does
    not fail the check.
    """
    last, planned = max([*run.log.train, *run.log.evals], default=0), run.log.max_steps
    short = planned is not None and last < planned
    log_ends = f"the log ends at step {last} of {planned}"
    if run.manifest is None:
        if not planned:
            return []
        if short:
            return [Check("complete", None, log_ends)]
        return [Check("complete", True, f"step {last} of {planned}")]

    manifest = run.manifest
    reached = manifest.status == "complete" and manifest.step == manifest.max_steps
    detail = f"step {manifest.step} of {manifest.max_steps}"
    if short:
        detail = log_ends
    if manifest.reason:
        detail = manifest.reason
    return [
        Check("complete", reached and not short, detail),
        *log_as_sealed(run, manifest),
        *files_as_sealed(run, manifest),
    ]


def log_as_sealed(run: RunData, manifest: RunManifest) -> list[Check]:
    """Whether the log has the digest that the manifest records."""
    sealed = manifest.artifacts.get("logging.jsonl")
    if not sealed or run.run is None or not run.run.log.exists():
        return []
    same = known_sha256(run.run.log) == sealed
    detail = f"logging.jsonl is {'' if same else 'not '}what run.json vouches for"
    return [Check("log as sealed", same, detail)]


def files_as_sealed(run: RunData, manifest: RunManifest) -> list[Check]:
    """Whether configuration, token tables and checkpoints have the digests of the manifest.

    A checkpoint may have been removed to save space; the other files must be there.
    """
    sealed = {name: s for name, s in manifest.artifacts.items() if name != "logging.jsonl"}
    if not sealed or run.run is None:
        return []
    for name, sha256 in sealed.items():
        path = run.run.path / name
        if path.is_dir():
            found = known_sha256_directory(path)
        elif path.is_file():
            found = known_sha256(path)
        elif name.startswith("checkpoints/"):
            continue
        else:
            return [Check("files as sealed", False, f"{name} is missing")]
        if found != sha256:
            return [Check("files as sealed", False, f"{name} is not what run.json vouches for")]
    return [Check("files as sealed", True, f"{len(sealed)} files")]


# --- one run against the others ---


def manifest_checks(run: RunData, runs: Sequence[RunData]) -> list[Check | None]:
    """The pre-flight against its bar; inputs, code and precision against the other runs."""
    if run.manifest is None:
        return []
    manifests = {r.name: r.manifest for r in runs if r.manifest}

    def same(name: str, pick: Callable[[RunManifest], Any]) -> Check | None:
        return agreement(name, run, {other: pick(m) for other, m in manifests.items()})

    # Compare token counts only between runs with the same schedule; other runs may differ.
    tokens_seen = {
        r.name: r.manifest.tokens_seen for r in runs if r.manifest and schedule(r) == schedule(run)
    }
    return [
        preflight(run, run.manifest),
        same("same data", lambda m: m.inputs_sha256.data),
        same("same base model", lambda m: m.inputs_sha256.base),
        agreement("tokens seen", run, tokens_seen),
        same("same training code", lambda m: m.modules_sha256),
        agreement("same precision", run, {r.name: r.train_setting("dtype") for r in runs}),
        same("same versions", lambda m: m.versions),
    ]


def preflight(run: RunData, manifest: RunManifest) -> Check:
    """Whether losses and gradients before step 1 were within the tolerance.

    A manifest of an earlier version has no gradients: then only the losses are judged.
    """
    found, dtype = manifest.preflight, run.train_setting("dtype")
    if found.relative_difference is None:
        return Check("pre-flight", False, "no pre-flight was recorded")
    passed = found.relative_difference <= preflight_tolerance(dtype)
    losses = f"losses agree to {found.relative_difference:.1e}"
    if found.cut is None or found.reference is None:
        return Check("pre-flight", passed, f"{losses}; gradients were not compared")
    gradients = []
    for name, one in (("cut otherwise", found.cut), ("reference formula", found.reference)):
        projection = max(one.projection_difference.values())
        passed &= max(one.loss_difference, one.norm_difference) <= preflight_tolerance(dtype)
        passed &= projection <= projection_tolerance(dtype)
        gradients.append(f"{projection:.1e} ({name})")
    return Check("pre-flight", passed, f"{losses}, gradients to {' and '.join(gradients)}")


def schedule(run: RunData) -> tuple[Any, ...]:
    """What decides which tokens a run sees.

    The images of a step follow from data and seed, their tokens from the base model's tokenizer.
    """
    assert run.manifest is not None
    inputs = run.manifest.inputs_sha256
    return (
        inputs.data,
        inputs.base,
        run.train_setting("images_per_step"),
        run.manifest.step,
        run.seed,
    )


def agreement(name: str, run: RunData, values: Mapping[str, Any]) -> Check | None:
    """Whether a run's value is the majority value.

    Args:
        values: by run name; None where a run has none.

    Returns:
        None where this run has no value; a check that neither passes nor fails where no other has.
    """
    own = values.get(run.name)
    if own is None:
        return None
    known = [value for value in values.values() if value is not None]
    if len(known) == 1:
        return Check(name, None, f"{brief(own)}; no other run")
    if all(value == own for value in known):
        return Check(name, True, brief(own))

    (first, most), (_, next_most) = Counter(digest(value) for value in known).most_common(2)
    if most == next_most:
        other = next(value for value in known if value != own)
        undecided = "the runs differ and no majority tells which is right"
        return Check(name, False, f"{against(own, other)}; {undecided}")
    majority = next(value for value in known if digest(value) == first)
    if own == majority:
        return Check(name, True, brief(own))
    return Check(name, False, f"{against(own, majority)} of {most} of {len(known)} runs")


def brief(value: Any) -> str:
    """A value in a few characters.

    A digest becomes its first twelve digits, a number gets thousands separators, and a table is
    listed or, if it is long, counted.
    """
    if isinstance(value, dict):
        if len(value) > BRIEF_ENTRIES:
            return f"{len(value)} entries"
        return ", ".join(f"{key} {brief(entry)}" for key, entry in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value)[:12]


def against(own: Any, other: Any) -> str:
    """What differs: `torch 2.13.0 against 2.12.1`."""
    if not (isinstance(own, dict) and isinstance(other, dict)):
        return f"{brief(own)} against {brief(other)}"
    keys = [key for key in sorted(own | other) if own.get(key) != other.get(key)]
    shown = [f"{key} {brief(own.get(key))} against {brief(other.get(key))}" for key in keys]
    more = f" and {len(keys) - BRIEF_DIFFERENCES} more" if len(keys) > BRIEF_DIFFERENCES else ""
    return ", ".join(shown[:BRIEF_DIFFERENCES]) + more
