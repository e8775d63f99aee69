"""The study of runs that exist already: `coordexp compare`, or `--config logs=…`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import msgspec

from coordexp.config.compose import compose
from coordexp.config.digests import digest, plain
from coordexp.config.schema import ProbeConfig, RuleConfig
from coordexp.config.suggest import did_you_mean
from coordexp.errors import UserError
from coordexp.metrics import log_key
from coordexp.storage.files import read_json
from coordexp.storage.runs import RunDirectory
from coordexp.study.inputs import load_source
from coordexp.study.rollout_files import RolloutFile, parse_rollouts
from coordexp.study.sources import NO_LOG, Source
from coordexp.study.study import COMPARE_LOGS, Study, Vision

LARGEST_SIDE = 10**6  # px


def plan_comparison(
    sources: Sequence[Source],
    rule: RuleConfig,
    side_px: int | None = None,
    cell_px: int | None = None,
    controls: Sequence[str] = (),
    rollouts: Sequence[str] = (),
    ground_truth: Path | None = None,
) -> Study:
    """The study of runs that exist already, under this rule.

    The study's digest covers the bytes of logs and rollouts and what is told of the logs: if one
    grows, or is told to be at another temperature, it is another study.

    Args:
        controls: names of sources that explain a lead and may hold no role; those that are
            controls of a study that was given are added.
        rollouts: `NAME=FILE` each, see `parse_rollouts`.
        ground_truth: what rollouts without ground truth of their own are scored against.

    Raises:
        UserError: a size is not positive, or a control is no source, or every source is a control,
            or one training was given as two seeds, or a file of rollouts cannot be found or belongs
            to no source.
    """
    refuse_copies(sources)
    marked = [source.variant for source in sources if source.control]
    controls = tuple(dict.fromkeys([*controls, *marked]))
    refuse_controls(controls, sources)
    for name, value in (("image side", side_px), ("cell", cell_px)):
        if value is not None and not (isinstance(value, int) and 1 < value <= LARGEST_SIDE):
            raise UserError(
                f"{name} {value}: must be a whole number of pixels above 1, at most {LARGEST_SIDE}"
            )
    probe = common_recipe(sources)
    handed_over = parse_rollouts(rollouts, sources, controls, ground_truth)
    identity: dict[str, object] = {
        "rule": plain(rule),
        "vision": [side_px, cell_px],
        "probe": plain(probe),
        "controls": sorted(controls),
        **what_was_given(sources, handed_over),
    }
    variants = [source.variant for source in sources]
    return Study(
        name=COMPARE_LOGS,
        hash8=digest(identity)[:8],
        seeds=max(variants.count(variant) for variant in variants),
        runs=(),
        rule=rule,
        sources=tuple(sources),
        vision=Vision(side_px, cell_px) if side_px else None,
        probe=probe,
        controls=controls,
        rollouts=handed_over,
    )


def what_was_given(sources: Sequence[Source], rollouts: Sequence[RolloutFile]) -> dict[str, object]:
    """What a study's digest covers of its runs: the bytes of logs and rollouts, and what is told.

    A study without rollouts, or of which nothing is told, has no entry for these.
    """
    given: dict[str, object] = {"logs": sorted([s.variant, s.seed, s.sha256] for s in sources)}
    told = [[s.variant, s.seed, asdict(s.told_of_log)] for s in sources if s.told_of_log]
    if told:
        given["told"] = sorted(told, key=lambda entry: entry[:2])
    if rollouts:
        given["rollouts"] = sorted(
            [r.variant, r.seed, r.sha256, str(r.step), str(r.ground_truth_sha256)] for r in rollouts
        )
    return given


def refuse_copies(sources: Sequence[Source]) -> None:
    """Raises UserError: two seeds of a name are one log, byte for byte (a run without one is not).

    Logs that agree in their values only are read first: the audit doubts them.
    """
    known: dict[tuple[str, str], Source] = {}
    for source in sources:
        other = known.setdefault((source.variant, source.sha256), source)
        if other is not source and source.sha256 != NO_LOG:
            raise UserError(
                f"{source.variant}: {other.path} and {source.path} are one log, and one training "
                "is not two seeds: give it once, or under another name"
            )


def refuse_controls(controls: Sequence[str], sources: Sequence[Source]) -> None:
    """Raises UserError: a control is not the name of a source, or no source is left to compare."""
    names = list(dict.fromkeys(source.variant for source in sources))
    for control in controls:
        if control not in names:
            raise UserError(
                f"control {control}: no run has that name{did_you_mean(control, names)}"
            )
    if not set(names) - {*controls}:
        raise UserError(f"control {', '.join(controls)}: no other run is left to compare")


def default_rule(sources: Sequence[Source], has_rollouts: bool = False) -> RuleConfig:
    """The rule of a comparison for which none is given.

    It is that of conf/study/note.yaml where a log has no MAE at a fitted temperature: such a log
    holds at most the metrics of the note, at a temperature that it may not say. Rollouts that are
    handed over decide first under either rule.

    Raises:
        UserError: a log cannot be read.
    """
    rule = compose(["study=note"] if any(map(lacks_fitted, sources)) else []).study.rule
    if has_rollouts:
        rule = replace(rule, probe=replace(rule.probe, may_change_roles=True))
    return rule


def lacks_fitted(source: Source) -> bool:
    """Whether a log with evaluations has no MAE at a fitted temperature."""
    fitted, evals = log_key("expected_bin_mae", "fitted"), load_source(source).log.evals
    return bool(evals) and not any(fitted in row for row in evals.values())


def common_recipe(sources: Sequence[Source]) -> ProbeConfig:
    """The recipe that most of the runs were probed with.

    The default recipe if several tie, or if no run was probed.
    """
    found: list[ProbeConfig] = []
    for source in sources:
        if source.run:
            found += recipes_of(source.run)
    leading: list[ProbeConfig] = []
    most = max((found.count(recipe) for recipe in found), default=0)
    for recipe in found:
        if found.count(recipe) == most and recipe not in leading:
            leading.append(recipe)
    return leading[0] if len(leading) == 1 else compose().probe


def recipes_of(run: RunDirectory) -> list[ProbeConfig]:
    """Each recipe that a run was probed with, at any step, once.

    A probe.json without settings, or with settings of another version, is skipped.
    """
    recipes: list[ProbeConfig] = []
    for path in sorted((run.path / "stage2").glob("*/probe.json")):
        recipe = recipe_of(path)
        if recipe is not None and recipe not in recipes:
            recipes.append(recipe)
    return recipes


def recipe_of(path: Path) -> ProbeConfig | None:
    """The recipe of a probe.json; None without settings, or with settings of another version."""
    manifest = read_json(path)
    settings = manifest.get("settings") if isinstance(manifest, dict) else None
    try:
        recipe = msgspec.convert(settings, ProbeConfig)
    except (msgspec.ValidationError, UnicodeEncodeError):  # half a surrogate pair
        return None
    return recipe if plain(recipe) == settings else None
