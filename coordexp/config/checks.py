"""Checks of a well-typed configuration: limits of single settings, then rules over several."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from coordexp.config.limits import check_limits
from coordexp.config.package import CONF_DIR
from coordexp.config.schema import (
    CocoConfig,
    Config,
    Geometry,
    OptimConfig,
    ProbeConfig,
    RecordsConfig,
    RuleConfig,
    ScenesConfig,
    StudyConfig,
    TinyQwen3VLConfig,
    TokenGroups,
    VariantConfig,
)
from coordexp.errors import UserError
from coordexp.metrics import METRICS, REGISTRY, deciding_probe_metric, metric


def check(cfg: Config) -> None:
    """Refuse settings that are well typed but impossible.

    Raises:
        UserError: it names the full key, its value, and the valid values.
    """
    check_limits(cfg)
    check_micro_batches(cfg)
    check_adapter(cfg.optim)
    check_variant(cfg.variant)
    check_probe(cfg.probe)
    check_names(cfg)
    check_variant_files("variants", cfg.study.variants)
    check_controls(cfg.study)
    check_rule(cfg.study.rule)
    if isinstance(cfg.data, CocoConfig):
        check_sources(cfg.data)
    if isinstance(cfg.data, RecordsConfig):
        check_record_files(cfg.data)
    if isinstance(cfg.data, ScenesConfig):
        check_scenes(cfg.data)


def check_micro_batches(cfg: Config) -> None:
    """The images of a step must divide equally among processes, and into complete micro-batches.

    If micro-batches are cut by tokens, only the division among processes is checked.
    """
    train, processes = cfg.train, cfg.runtime.processes
    per_pass, unit = train.micro_batch * processes, "train.micro_batch x runtime.processes"
    if train.micro_batch_tokens > 0:
        per_pass, unit = processes, "runtime.processes"
    if train.images_per_step % per_pass:
        raise UserError(
            f"configuration: train.images_per_step={train.images_per_step} is not a multiple of "
            f"{unit} = {per_pass}"
        )


def check_adapter(optim: OptimConfig) -> None:
    if optim.adapter.dora and not optim.adapter.rank:
        raise UserError(
            "configuration: optim.adapter.dora=true needs adapters: "
            "set optim.adapter.rank to 1 or more"
        )


def check_variant(variant: VariantConfig) -> None:
    """Coordinate terms are allowed in a split objective only; it must have at least one."""
    weights = {"soft_ce": variant.soft_ce, "w1": variant.w1, "gate": variant.gate, "ce": variant.ce}
    given = {name: weight for name, weight in weights.items() if weight}
    if variant.token_groups is TokenGroups.split and not given:
        listed = ", ".join(f"variant.{name}" for name in weights)
        raise UserError(
            f"configuration: variant.token_groups=split of {variant.name}: "
            f"all weights are 0: set one of {listed}"
        )
    if variant.token_groups is TokenGroups.joint and given:
        name, weight = next(iter(given.items()))
        raise UserError(
            f"configuration: variant.{name}={weight}: {variant.name} has no coordinate terms, "
            "because variant.token_groups=joint: leave the weight out, or set "
            "variant.token_groups=split"
        )


def check_names(cfg: Config) -> None:
    """A tokenizer can learn the names of an annotation file only where there is one."""
    is_asked = isinstance(cfg.model, TinyQwen3VLConfig) and cfg.model.names_of_data
    if is_asked and not isinstance(cfg.data, CocoConfig):
        raise UserError(
            "configuration: model.names_of_data=true: the data have no annotation file: "
            "set data=coco, or model.names_of_data=false"
        )


def check_probe(probe: ProbeConfig) -> None:
    if not (probe.l1_weight or probe.giou_weight):
        raise UserError(
            "configuration: probe.l1_weight=0 and probe.giou_weight=0: "
            "a geometric fine-tune needs one of them"
        )


def check_variant_files(key: str, variants: list[str]) -> None:
    """Each variant in a list of the study (variants or controls) is named once, and has a file."""
    for name in variants:
        if [other.lower() for other in variants].count(name.lower()) > 1:
            raise UserError(f"configuration: study.{key}: {name} is named twice")
        if not (CONF_DIR / "variant" / f"{name}.yaml").exists():
            raise UserError(
                f"configuration: study.{key}: {name} has no file conf/variant/{name}.yaml"
            )


def check_controls(study: StudyConfig) -> None:
    """A control is a variant that is not a candidate: it may hold no role."""
    check_variant_files("controls", study.controls)
    for name in study.controls:
        if name in study.variants:
            raise UserError(
                f"configuration: study.controls: {name} is in study.variants too: "
                "a control holds no role, so name it in one of the two"
            )


def check_rule(rule: RuleConfig) -> None:
    """A rule must name registered metrics, each with a margin, and a registered probe metric."""
    deciding_probe_metric(rule.probe.signal)
    for group, names in (("margins", rule.margins), ("seed_sd", rule.seed_sd)):
        for name in names:
            if name not in REGISTRY:
                raise UserError(
                    f"configuration: study.rule.{group}.{name}: unknown metric; "
                    f"known are {', '.join((*METRICS, 'entropy'))}"
                )
    for name in rule.metrics:
        if not isinstance(name, str):  # OmegaConf lets a list in a list pass
            raise UserError(f"configuration: study.rule.metrics: must hold names, not {name}")
    twice = [name for name, count in Counter(rule.metrics).items() if count > 1]
    if twice:
        raise UserError(
            f"configuration: study.rule.metrics: {twice[0]} is named twice: name each once"
        )
    for name in rule.metrics:
        metric(name)
        if name not in rule.margins:
            raise UserError(
                f"configuration: study.rule.margins.{name} has no value: "
                "say which difference is too small to matter"
            )


def check_sources(data: CocoConfig) -> None:
    """Annotations must be one file to split, or one file per split.

    Only two files may have a directory of pictures each.
    """
    both = bool(data.train_annotations) + bool(data.val_annotations)
    if (data.annotations and both) or not (data.annotations or both == 2):
        raise UserError(
            "configuration: data.annotations: give either data.annotations=FILE, which is split, "
            "or both data.train_annotations=FILE and data.val_annotations=FILE"
        )
    if data.annotations and (data.train_pictures or data.val_pictures):
        raise UserError(
            "configuration: data.annotations is one file for both splits, so its pictures have "
            "one directory: set data.images instead of data.train_pictures and data.val_pictures"
        )
    if data.tile_px and data.geometry is Geometry.poly_prefer:
        raise UserError(
            f"configuration: data.tile_px={data.tile_px}: tiles hold boxes: set data.geometry=bbox"
        )


def check_record_files(data: RecordsConfig) -> None:
    """Records must be one file to split, or one file per split."""
    both = bool(data.train_records) + bool(data.val_records)
    if (data.records and both) or not (data.records or both == 2):
        raise UserError(
            "configuration: data.records: give either data.records=FILE, which is split, "
            "or both data.train_records=FILE and data.val_records=FILE"
        )


def check_scenes(data: ScenesConfig) -> None:
    if data.min_objects > data.max_objects:
        raise UserError(
            f"configuration: data.min_objects={data.min_objects} must lie in 1 … "
            f"data.max_objects={data.max_objects}"
        )
    if data.min_side > data.max_side:
        raise UserError(
            f"configuration: data.min_side={data.min_side} must not exceed "
            f"data.max_side={data.max_side}"
        )


def is_missing_directory(path: str) -> bool:
    """Whether `path` has the form of a local directory, not of a hub name, and does not exist."""
    return path.startswith(("/", ".", "~")) and not Path(path).is_dir()
