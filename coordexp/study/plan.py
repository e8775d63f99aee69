"""The study that `snakemake --config` describes: variants x seeds x overrides -> run directories.

`--config` holds plain scalars: `seeds=3`, `experiment=smoke`, `study=…`, and Hydra overrides for
one variant (`pure_ce="optim.lr=5e-4 train.max_steps=400"`) or for every variant (`all="…"`). With
`logs="NAME=PATH …"` nothing is trained: the study compares runs that exist already.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from coordexp.config.checks import is_missing_directory
from coordexp.config.compose import compose
from coordexp.config.digests import digest, plain
from coordexp.config.limits import NAME
from coordexp.config.overrides import key_of, last_of_each_key, refuse_repeated
from coordexp.config.package import CONF_DIR
from coordexp.config.schema import (
    MOST_SEEDS,
    Config,
    PretrainedQwen3VLConfig,
    RecordsConfig,
    StudyConfig,
    picture_directories,
    source_files,
)
from coordexp.config.suggest import did_you_mean
from coordexp.errors import UserError
from coordexp.storage.identity import base_path, data_path, run_hash
from coordexp.study.comparison import default_rule, plan_comparison
from coordexp.study.sources import parse_sources
from coordexp.study.study import PlannedRun, Study

EVERY_VARIANT = "all"
# Settings that the rules of the workflow give to every training.
SET_BY_RULES = ("runtime.wait", "runtime.diverged_ok")
_OWN_KEYS = ("experiment", "study", "seeds", EVERY_VARIANT)
_KEYS_WITH_LOGS = (
    *("logs", "study", "image_side", "cell", "temperature", "eval_set"),
    *("rollouts", "ground_truth"),
)
# An example of a value with blanks: a YAML list for snakemake, quotes for Hydra.
WITH_BLANKS = r"""'["data.annotations=\"/data/my file.json\""]'"""
# Keys that a variant's overrides must not set, because they belong to the study.
_NOT_PER_VARIANT = ("study", "seed", "variant", "experiment", "variant.name")


def plan_study(settings: Mapping[str, Any]) -> Study:
    """The study that `--config` describes.

    Raises:
        UserError: an unknown key, a seed count below 1, an override that is given twice, that Hydra
            refuses or that only the study decides, or logs or annotations that cannot be found.
    """
    if "logs" in settings:
        return plan_from_settings(settings)
    # Refuse unknown keys before composing. If `experiment` is misspelt, Hydra would otherwise
    # complain about settings that only the experiment defines.
    known_anywhere = {*_OWN_KEYS, *(path.stem for path in (CONF_DIR / "variant").glob("*.yaml"))}
    if unknown := [key for key in settings if key not in known_anywhere]:
        refuse_unknown(unknown, trained(compose().study))
    for key in ("experiment", "study"):
        if settings.get(key) and not NAME.holds(str(settings[key])):
            raise UserError(f"--config {key}={settings[key]}: {NAME.must}: a file of conf/{key}")
    common = [f"{key}={settings[key]}" for key in ("experiment", "study") if settings.get(key)]
    for_all = split_overrides(EVERY_VARIANT, settings.get(EVERY_VARIANT))
    shared = compose((*common, *for_all))
    study = shared.study
    refuse_unknown(settings, trained(study))
    seeds = settings.get("seeds", study.seeds)
    if not isinstance(seeds, int) or isinstance(seeds, bool) or not 1 <= seeds <= MOST_SEEDS:
        raise UserError(f"--config seeds={seeds}: must be a whole number from 1 to {MOST_SEEDS}")
    runs = []
    for variant in trained(study):
        own = split_overrides(variant, settings.get(variant))
        # A command line refuses a key that is set twice.
        given = last_of_each_key([*common, f"variant={variant}", *for_all, *own])
        overrides = tuple(word for word in given if key_of(word) not in SET_BY_RULES)
        cfg = compose(overrides)
        for seed in range(seeds):
            runs.append(planned_run(cfg, seed, (*overrides, f"seed={seed}")))
    identity = {
        "runs": sorted(r.key for r in runs),
        "controls": sorted(study.controls),
        "rule": plain(study.rule),
        "probe": plain(shared.probe),
    }
    return Study(
        name=study.name,
        hash8=digest(identity)[:8],
        seeds=seeds,
        runs=tuple(runs),
        rule=study.rule,
        probe=shared.probe,
        controls=tuple(study.controls),
    )


def trained(study: StudyConfig) -> list[str]:
    """Every variant that the study trains: the candidates, then the controls."""
    return [*study.variants, *study.controls]


def refuse_unknown(keys: Iterable[str], variants: Sequence[str]) -> None:
    known = (*_OWN_KEYS, *variants)
    for key in keys:
        if key not in known:
            raise UserError(f"--config {key}=…: unknown key{did_you_mean(key, known)}")


def plan_from_settings(settings: Mapping[str, Any]) -> Study:
    """The comparison that `--config logs="NAME=PATH …"` describes; `study=…` names another rule."""
    for key in settings:
        if key not in _KEYS_WITH_LOGS:
            raise UserError(
                f"--config {key}=…: means nothing beside logs=…{did_you_mean(key, _KEYS_WITH_LOGS)}"
            )
    sources = parse_sources(
        words(settings, "logs", "NAME=PATH …"),
        words(settings, "temperature", "NAME=T …"),
        words(settings, "eval_set", "SET, or NAME=SET …"),
    )
    rollouts = words(settings, "rollouts", "NAME=FILE …")
    if settings.get("study"):
        rule = compose([f"study={settings['study']}"]).study.rule
    else:
        rule = default_rule(sources, bool(rollouts))
    truth = settings.get("ground_truth")
    return plan_comparison(
        sources,
        rule,
        settings.get("image_side"),
        settings.get("cell"),
        rollouts=rollouts,
        ground_truth=Path(str(truth)) if truth else None,
    )


def words(settings: Mapping[str, Any], key: str, form: str) -> list[str]:
    """The words of a `--config` key: a string split on blanks, or a YAML list as it is.

    Raises:
        UserError: the value is something else.
    """
    value = settings.get(key) or []
    found = value.split() if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(entry, str) for entry in found):
        raise UserError(
            f"--config {key}={value}: must be {form}, "
            "or a YAML list of them where a path has blanks"
        )
    return found


def split_overrides(key: str, value: Any) -> list[str]:
    """Hydra overrides of one `--config` key: a string split on blanks, or a YAML list as it is.

    Raises:
        UserError: the value is something else, sets a key twice, or overrides what only the study
            decides.
    """
    if value is None:
        return []
    overrides = value.split() if isinstance(value, str) else value
    if not isinstance(overrides, list) or not all(map(_is_override, overrides)):
        shown = json.dumps(value, default=str)
        form = f'must be Hydra overrides, such as {key}="optim.lr=5e-4 train.max_steps=400"'
        raise UserError(
            f"--config {key}={shown}: {form}; "
            f"a value with blanks needs a list and quotes: {key}={WITH_BLANKS}"
        )
    for override in overrides:
        if _is_of_the_study(override, key):
            raise UserError(
                f"--config {key}: {override} is the study's to decide: "
                "use conf/study, seeds= or experiment="
            )
    refuse_repeated(overrides, f"--config {key}")
    return overrides


def _is_override(value: Any) -> bool:
    return isinstance(value, str) and "=" in value


def _is_of_the_study(override: str, key: str) -> bool:
    """Whether an override sets a key that belongs to the study."""
    target = override.lstrip("+~").split("=")[0]
    if target in _NOT_PER_VARIANT or target.startswith("study."):
        return True
    # Every candidate is probed with the same recipe, so only `all` may change it.
    return key != EVERY_VARIANT and target.partition(".")[0] == "probe"


def planned_run(cfg: Config, seed: int, overrides: tuple[str, ...]) -> PlannedRun:
    """The run of a configuration and a seed.

    Raises:
        UserError: annotations or a base model are missing.
    """
    data = data_path(cfg)
    annotations = source_files(cfg.data)
    kind = "record" if isinstance(cfg.data, RecordsConfig) else "annotation"
    for file in annotations:
        if Path(file).is_dir():
            raise UserError(
                f"{file}: a directory, not one {kind} file: `coordexp convert "
                f"{shlex.quote(file)} --out coco.json` makes one of it, or says which to name"
            )
        if not Path(file).exists() and not (data / "data.json").exists():
            raise UserError(f"{file}: no such {kind} file")
    if isinstance(cfg.model, PretrainedQwen3VLConfig):
        prepared = (base_path(cfg) / "base.json").exists()
        if is_missing_directory(cfg.model.path) and not prepared:
            raise UserError(f"model.path={cfg.model.path}: no such directory")
    last = cfg.train.max_steps
    return PlannedRun(
        variant=cfg.variant.name,
        seed=seed,
        hash8=run_hash(cfg),
        overrides=overrides,
        data=data,
        annotations=annotations,
        pictures=picture_directories(cfg.data),
        base=base_path(cfg),
        threads=cfg.runtime.threads,
        processes=cfg.runtime.processes,
        eval_steps=frozenset({*range(cfg.train.eval_steps, last + 1, cfg.train.eval_steps), last}),
    )
