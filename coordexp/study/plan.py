"""Which runs a study consists of: variants x seeds x overrides -> run directories. The Snakefile asks this file.

`snakemake --config` hands over plain scalars: `seeds=3`, `experiment=smoke`, `study=…`, and Hydra overrides for
one variant (`pure_ce="optim.lr=5e-4 train.max_steps=400"`) or for every variant (`all="…"`). With `logs="NAME=PATH …"`
nothing is trained: the study compares runs that exist already.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from coordexp.config.checks import is_missing_directory
from coordexp.config.compose import compose
from coordexp.config.digests import digest, group_hash, plain, run_hash
from coordexp.config.location import CONF_DIR
from coordexp.config.schema import (
    CocoConfig,
    Config,
    DataConfig,
    PretrainedQwen3VLConfig,
    ProbeConfig,
    RuleConfig,
)
from coordexp.errors import UserError
from coordexp.storage.files import read_json
from coordexp.storage.runs import (
    RESULTS,
    RunDirectory,
    base_path,
    data_directory,
    probe_directory,
    run_directory,
)
from coordexp.study.sources import Source, parse_sources

EVERY_VARIANT = "all"
COMPARE_LOGS = "compare_logs"
_OWN_KEYS = ("experiment", "study", "seeds", EVERY_VARIANT)
_KEYS_WITH_LOGS = ("logs", "study", "image_side", "cell")
WITH_BLANKS = r"""'["data.annotations=\"/data/my file.json\""]'"""  # a YAML list for snakemake, quotes for Hydra
_NOT_PER_VARIANT = (
    "study",
    "seed",
    "variant",
    "experiment",
)  # what a variant's key must not override


def launcher(processes: int) -> str:
    """The command that runs a module in so many processes, a rank each."""
    return f"python -m torch.distributed.run --standalone --nproc-per-node {processes} -m"


@dataclass(frozen=True)
class PlannedRun:
    """One training of a study: a variant, a seed, and the Hydra overrides that give it."""

    variant: str
    seed: int
    hash8: str
    overrides: tuple[str, ...]
    data: Path  # directory of the records
    annotations: tuple[str, ...]  # which they are made from
    base: Path  # directory of the base model
    threads: int
    processes: int
    eval_steps: frozenset[int]

    @property
    def directory(self) -> RunDirectory:
        return run_directory(self.variant, self.seed, self.hash8)

    @property
    def cores(self) -> int:
        return self.threads * self.processes

    @property
    def launcher(self) -> str:
        """The command that runs a module."""
        return "python -m" if self.processes == 1 else launcher(self.processes)

    @property
    def key(self) -> str:
        return f"{self.variant}/s{self.seed}-{self.hash8}"


@dataclass(frozen=True)
class Vision:
    """Sizes that turn bins into pixels, where no manifest says them."""

    side_px: int  # of the validation images
    cell_px: int | None = None  # side of the square that one visual token covers


@dataclass(frozen=True)
class Study:
    """Runs to train, or sources that exist already, and the rule that decides between them."""

    name: str
    hash8: str
    seeds: int
    runs: tuple[PlannedRun, ...]
    rule: RuleConfig
    sources: tuple[Source, ...] = ()
    vision: Vision | None = None  # where no manifest says it
    probe: ProbeConfig | None = None  # the recipe of the Stage-2 probe

    @property
    def path(self) -> Path:
        return RESULTS / self.name / self.hash8

    @property
    def latest(self) -> Path:
        return RESULTS / self.name / "latest"

    @property
    def evidence(self) -> list[str]:
        """The files that everything after training starts from."""
        return [str(r.directory.manifest) for r in self.runs] + [
            str(s.run.log if s.run else s.path) for s in self.sources
        ]

    @property
    def decision_step(self) -> int | None:
        """The step at which the runs will be compared, if they finish; None where they share none."""
        common = (
            frozenset.intersection(*(run.eval_steps for run in self.runs))
            if self.runs
            else frozenset()
        )
        setting = self.rule.decision_step
        return max(common, default=None) if setting == "last_common" else int(setting)

    @property
    def probes(self) -> list[str]:
        """The manifests of the candidates' Stage-2 probes."""
        if self.decision_step is None or self.probe is None:
            return []
        return [
            str(probe_directory(run.directory, self.decision_step, self.probe) / "probe.json")
            for run in self.runs
        ]

    def overrides_for_probe(self, variant: str, seed: int | str, hash8: str) -> list[str]:
        """A run's overrides, and the recipe of this study in full, whatever the run was trained beside."""
        settings = plain(self.probe) if self.probe else {}
        recipe = [f"probe.{key}={value}" for key, value in settings.items()]
        return [*self.run(variant, seed, hash8).overrides, *recipe]

    def run(self, variant: str, seed: int | str, hash8: str) -> PlannedRun:
        return next(
            r for r in self.runs if (r.variant, r.seed, r.hash8) == (variant, int(seed), hash8)
        )

    def overrides_for_data(self, hash8: str) -> tuple[str, ...]:
        """Overrides of any run that uses the records of this digest."""
        return next(r.overrides for r in self.runs if r.data.name.endswith(f"-{hash8}"))

    def annotations(self, hash8: str) -> list[str]:
        """The annotation files that the records of this digest are made from; none where they are generated."""
        files = next(r.annotations for r in self.runs if r.data.name.endswith(f"-{hash8}"))
        return [
            file for file in files if Path(file).exists()
        ]  # once the records are made, they may go

    def overrides_for_base(self, hash8: str) -> tuple[str, ...]:
        """Overrides of any run that starts from the base model of this digest."""
        return next(r.overrides for r in self.runs if r.base.name.endswith(f"-{hash8}"))


def plan_study(settings: Mapping[str, Any]) -> Study:
    """The study that `--config` describes.

    Raises:
        UserError: an unknown key, a seed count below 1, an override that Hydra refuses or that is not a variant's to
            make, or logs or annotations that cannot be found.
    """
    if "logs" in settings:
        return plan_from_settings(settings)
    nowhere = [
        key
        for key in settings
        if key not in _OWN_KEYS and not (CONF_DIR / "variant" / f"{key}.yaml").exists()
    ]
    if nowhere:  # first: what a misspelt `experiment` would have set, Hydra would miss
        refuse_unknown(nowhere, compose().study.variants)
    common = [f"{key}={settings[key]}" for key in ("experiment", "study") if settings.get(key)]
    for_all = split_overrides(EVERY_VARIANT, settings.get(EVERY_VARIANT))
    shared = compose((*common, *for_all))
    study = shared.study
    refuse_unknown(settings, study.variants)
    seeds = settings.get("seeds", study.seeds)
    if not isinstance(seeds, int) or isinstance(seeds, bool) or seeds < 1:
        raise UserError(f"--config seeds={seeds}: must be a whole number of at least 1")
    runs = []
    for variant in study.variants:
        own = split_overrides(variant, settings.get(variant))
        overrides = (*common, f"variant={variant}", *for_all, *own)
        cfg = compose(overrides)
        runs += [planned_run(cfg, seed, (*overrides, f"seed={seed}")) for seed in range(seeds)]
    identity = {
        "runs": sorted(r.key for r in runs),
        "rule": plain(study.rule),
        "probe": plain(shared.probe),
    }
    hash8 = digest(identity)[:8]
    return Study(study.name, hash8, seeds, tuple(runs), study.rule, probe=shared.probe)


def refuse_unknown(keys: Iterable[str], variants: Sequence[str]) -> None:
    known = (*_OWN_KEYS, *variants)
    for key in keys:
        if key not in known:
            raise UserError(f"--config {key}=…: unknown key; known are {', '.join(known)}")


def plan_from_settings(settings: Mapping[str, Any]) -> Study:
    """The comparison that `--config logs="NAME=PATH …"` describes; `study=…` names another rule."""
    for key in settings:
        if key not in _KEYS_WITH_LOGS:
            raise UserError(
                f"--config {key}=…: means nothing beside logs=…; known are {', '.join(_KEYS_WITH_LOGS)}"
            )
    logs = settings["logs"].split() if isinstance(settings["logs"], str) else settings["logs"]
    if not isinstance(logs, list) or not all(isinstance(entry, str) for entry in logs):
        raise UserError(
            f"--config logs={logs}: must be NAME=PATH …, or a YAML list of them where a path has blanks"
        )
    rule = compose([f"study={settings['study']}"] if settings.get("study") else []).study.rule
    return plan_comparison(logs, rule, settings.get("image_side"), settings.get("cell"))


def plan_comparison(
    logs: Sequence[str],
    rule: RuleConfig,
    side_px: int | None = None,
    cell_px: int | None = None,
) -> Study:
    """The study of runs that exist already, `NAME=PATH` each, under this rule.

    Its digest is that of the logs' bytes, so a log that has grown makes another study.

    Raises:
        UserError: a source that cannot be found, or sizes that are not positive.
    """
    for name, value in (("image side", side_px), ("cell", cell_px)):
        if value is not None and not (isinstance(value, int) and value > 1):
            raise UserError(f"{name} {value}: must be a whole number of pixels above 1")
    sources = tuple(parse_sources(logs))
    probe = common_recipe(sources)
    logs_read = sorted([s.variant, s.seed, s.sha256] for s in sources)
    identity = {
        "logs": logs_read,
        "rule": plain(rule),
        "vision": [side_px, cell_px],
        "probe": plain(probe),
    }
    seeds = max(sum(other.variant == s.variant for other in sources) for s in sources)
    vision = Vision(side_px, cell_px) if side_px else None
    return Study(COMPARE_LOGS, digest(identity)[:8], seeds, (), rule, sources, vision, probe)


def common_recipe(sources: Sequence[Source]) -> ProbeConfig:
    """The settings that more of the runs were probed with than with any other; the default ones where there are none such."""
    found = [recipe for source in sources if source.run for recipe in recipes_of(source.run)]
    most = max(map(found.count, found), default=0)
    leading = [
        recipe
        for i, recipe in enumerate(found)
        if found.count(recipe) == most and recipe not in found[:i]
    ]
    return leading[0] if len(leading) == 1 else compose().probe


def recipes_of(run: RunDirectory) -> list[ProbeConfig]:
    """Each recipe that a run was probed with, at whatever step, once.

    A probe.json without settings, or with those of another version, names no recipe of today.
    """
    recipes: list[ProbeConfig] = []
    for path in sorted((run.path / "stage2").glob("*/probe.json")):
        manifest = read_json(path)
        settings = manifest.get("settings") if isinstance(manifest, dict) else None
        try:
            recipe = msgspec.convert(settings, ProbeConfig)
        except msgspec.ValidationError:
            continue
        if plain(recipe) == settings and recipe not in recipes:
            recipes.append(recipe)
    return recipes


def split_overrides(key: str, value: Any) -> list[str]:
    """Hydra overrides of one `--config` key: a string split on blanks, or a YAML list taken as it is (WITH_BLANKS).

    Raises:
        UserError: the value is something else, or overrides what only the study decides.
    """
    if value is None:
        return []
    overrides = value.split() if isinstance(value, str) else value
    if not isinstance(overrides, list) or not all(
        isinstance(o, str) and "=" in o for o in overrides
    ):
        shown = json.dumps(value, default=str)
        form = f'must be Hydra overrides, such as {key}="optim.lr=5e-4 train.max_steps=400"'
        raise UserError(
            f"--config {key}={shown}: {form}; a value with blanks needs a list and quotes: {key}={WITH_BLANKS}"
        )
    for override in overrides:
        target = override.lstrip("+~").split("=")[0]
        one_recipe = key != EVERY_VARIANT and target.partition(".")[0] == "probe"
        if (
            target in _NOT_PER_VARIANT
            or target.startswith("study.")
            or target == "variant.name"
            or one_recipe
        ):
            raise UserError(
                f"--config {key}: {override} is the study's to decide: use conf/study, seeds= or experiment="
            )
    return overrides


def annotations_of(data: DataConfig) -> tuple[str, ...]:
    """The annotation files that the records are made from; none if the images are generated."""
    if not isinstance(data, CocoConfig):
        return ()
    files = (data.annotations, data.train_annotations, data.val_annotations)
    return tuple(file for file in files if file)


def planned_run(cfg: Config, seed: int, overrides: tuple[str, ...]) -> PlannedRun:
    """The run of a configuration and a seed.

    Raises:
        UserError: annotations or a base model that are needed, and are not there.
    """
    data = data_directory(cfg.data.name, group_hash(cfg.data))
    annotations = annotations_of(cfg.data)
    for file in annotations:
        if not Path(file).exists() and not (data / "data.json").exists():
            raise UserError(f"{file}: no such annotation file")
    if isinstance(cfg.model, PretrainedQwen3VLConfig):
        prepared = (base_path(cfg) / "base.json").exists()
        if is_missing_directory(cfg.model.path) and not prepared:
            raise UserError(f"model.path={cfg.model.path}: no such directory")
    return PlannedRun(
        cfg.variant.name,
        seed,
        run_hash(cfg),
        overrides,
        data,
        annotations,
        base_path(cfg),
        cfg.runtime.threads,
        cfg.runtime.processes,
        frozenset(
            {
                *range(cfg.train.eval_steps, cfg.train.max_steps + 1, cfg.train.eval_steps),
                cfg.train.max_steps,
            }
        ),
    )
