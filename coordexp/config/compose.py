"""Compose and check a configuration, and the digests that identify runs, data and base models.

A key or a type that the schema does not know stops `compose` (and so every entry point) with the full key in the
message. Everything else about a setting is data in `conf/`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from coordexp.config.schema import (
    CocoConfig,
    Config,
    PretrainedQwen3VLConfig,
    ScenesConfig,
    TinyQwen3VLConfig,
    TokenGroups,
)
from coordexp.errors import UserError
from coordexp.metrics import metric, signal
from coordexp.package_data import package_data

CONF_DIR = package_data("conf")

PATHS = (
    "model.path",
    "data.annotations",
    "data.train_annotations",
    "data.val_annotations",
    "data.images",
)
RUN_IDENTITY = ("variant", "model", "data", "optim", "train")

_store = ConfigStore.instance()
_store.store(name="schema", node=Config)
_store.store(group="model", name="tiny_qwen3vl_schema", node=TinyQwen3VLConfig)
_store.store(group="model", name="pretrained_qwen3vl_schema", node=PretrainedQwen3VLConfig)
_store.store(group="data", name="scenes_schema", node=ScenesConfig)
_store.store(group="data", name="coco_schema", node=CocoConfig)


def compose(overrides: Sequence[str] = (), conf_dir: Path = CONF_DIR) -> DictConfig:
    """The resolved configuration for these Hydra overrides.

    Raises:
        UserError: an unknown key, a wrong type or a missing group, with Hydra's reason in one line.
    """
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_dir), version_base="1.3"):
            cfg = hydra_compose("config", overrides=list(overrides))
        OmegaConf.resolve(cfg)
    except (
        HydraException,
        OmegaConfBaseException,
        ValueError,
    ) as error:  # Hydra raises a bare ValueError for train=3
        reason = " ".join(f"{error} {error.__cause__ or ''}".split()) + advice_on_quotes(error)
        raise UserError(
            f"configuration: {reason} (overrides: {' '.join(overrides) or 'none'})"
        ) from error
    check(cfg)
    return cfg


def advice_on_quotes(error: Exception) -> str:
    """How to write a value that Hydra's grammar takes apart, as it takes `annotations (1).json`; else nothing."""
    key, equals, value = (
        error.override.partition("=") if isinstance(error, OverrideParseException) else ("", "", "")
    )
    if not equals:
        return ""
    quoted = f'{key}="{value}"'
    in_config = json.dumps([quoted], ensure_ascii=False)
    return f". A value with blanks, brackets, = or , needs quotes: '{quoted}' on a command line, '{in_config}' in --config"


Limit = tuple[str, Callable[[Any], bool], tuple[str, ...]]

LIMITS: tuple[Limit, ...] = (
    (
        "must be at least 1",
        lambda v: v >= 1,
        (
            "train.max_steps",
            "train.images_per_step",
            "train.micro_batch",
            "train.eval_steps",
            "train.eval_micro_batch",
            "train.logging_steps",
            "train.state_steps",
            "train.checkpoint_steps",
            "runtime.processes",
            "runtime.threads",
            "study.seeds",
            "probe.images",
            "probe.steps",
            "probe.images_per_step",
            "probe.micro_batch",
            "probe.rollout_batch",
        ),
    ),
    (
        "must be a positive number",
        lambda v: 0 < v < math.inf,
        (
            "optim.lr",
            "optim.eps",
            "optim.clip_norm",
            "optim.adapter.alpha",
            "variant.temperature",
            "variant.sigma_bins",
            "probe.lr",
            "probe.temperature",
        ),
    ),
    (
        "must be a number that is not negative",
        lambda v: 0 <= v < math.inf,
        (
            "seed",
            "train.audit_images",
            "train.micro_batch_tokens",
            "optim.adapter.rank",
            "optim.lr_vision",
            "optim.lr_aligner",
            "optim.lr_coord",
            "optim.weight_decay",
            "variant.soft_ce",
            "variant.w1",
            "variant.gate",
            "variant.ce",
            "variant.radius_bins",
            "probe.adapter_rank",
            "probe.l1_weight",
            "probe.giou_weight",
            "probe.text_weight",
            "probe.seed",
        ),
    ),
    (
        "must lie in [0, 1)",
        lambda v: 0 <= v < 1,
        ("optim.beta1", "optim.beta2", "optim.adapter.dropout"),
    ),
    ("must lie in (0, 1]", lambda v: 0 < v <= 1, ("study.rule.window",)),
    (
        "must be a number that is not negative",
        lambda v: 0 <= v < math.inf,
        ("study.rule.probe.margin",),
    ),
    (
        "must lie in [0, 1]",
        lambda v: 0 <= v <= 1,
        ("optim.warmup_fraction", "optim.floor_fraction"),
    ),
    (
        "must be float32, bfloat16 or float64",
        lambda v: v in ("float32", "bfloat16", "float64"),
        ("train.dtype",),
    ),
    ("must be auto or cpu", lambda v: v in ("auto", "cpu"), ("runtime.device",)),
    (
        "must be 1, own or fitted",
        lambda v: v in ("1", "own", "fitted"),
        ("study.rule.temperature",),
    ),
    (
        "must be last_common or a step",
        lambda v: v == "last_common" or v.isdigit(),
        ("study.rule.decision_step",),
    ),
    ("must not be empty", bool, ("study.variants", "study.rule.metrics")),
    (
        "must be letters, digits, _ and -",
        lambda v: re.fullmatch(r"[A-Za-z0-9_-]+", v) is not None,
        ("variant.name", "model.name", "data.name", "study.name"),
    ),
)

COCO_LIMITS: tuple[Limit, ...] = (
    ("must not be negative", lambda v: v >= 0, ("data.seed",)),
    (
        "must be at least 1",
        lambda v: v is None or v >= 1,
        ("data.train_images", "data.val_images", "data.max_objects"),
    ),
    ("must be at least 3", lambda v: v >= 3, ("data.max_vertices",)),
    ("must lie in (0, 1]", lambda v: 0 < v <= 1, ("data.min_polygon_iou",)),
    ("must lie in (0, 1)", lambda v: 0 < v < 1, ("data.val_fraction",)),
    ("must be at least 1024, a cell of 32 x 32", lambda v: v >= 1024, ("data.pixel_budget",)),
)


def check(cfg: DictConfig) -> None:
    """Refuse settings that are well typed but impossible, and spell paths in one way.

    Raises:
        UserError: naming the full key, its value, and what would be right.
    """
    for group in Config.__dataclass_fields__:
        if OmegaConf.select(cfg, group) is None:
            raise UserError(f"configuration: {group}=null: it needs a value")
    refuse_unknown_keys(cfg, Config)
    spell_paths(cfg)
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        raise UserError(f"configuration: {missing[0]} has no value: set it with {missing[0]}=…")
    real_data = OmegaConf.get_type(cfg.data) is CocoConfig
    for must, holds, keys in LIMITS + (COCO_LIMITS if real_data else ()):
        for key in keys:
            value = OmegaConf.select(cfg, key)
            if not holds(value):
                raise UserError(f"configuration: {key}={value} {must}")
    check_together(cfg)
    if real_data:
        check_sources(cfg.data)


def spell_paths(cfg: DictConfig) -> None:
    """Each path in one spelling, for it is part of what a run is known by: `coco/`, `./coco` and `.//coco` become `coco`."""
    for key in PATHS:
        if path := OmegaConf.select(cfg, key, throw_on_missing=False):
            OmegaConf.update(cfg, key, re.sub("^//+", "/", str(PurePosixPath(path))))


def check_sources(data: DictConfig) -> None:
    """Annotations are one file to be split, or one each; pictures lie somewhere, or may be drawn."""
    both = bool(data.train_annotations) + bool(data.val_annotations)
    if (data.annotations and both) or not (data.annotations or both == 2):
        raise UserError(
            "configuration: data.annotations: give either data.annotations=FILE, which is split, "
            "or both data.train_annotations=FILE and data.val_annotations=FILE"
        )
    if not (data.images or data.render_missing):
        raise UserError(
            "configuration: data.images has no value: set the directory of the pictures, "
            "or data.render_missing=true to rehearse without them"
        )


def is_missing_directory(path: str) -> bool:
    """Whether `path` is written as one on this machine, and no hub's name, and is not there."""
    return path.startswith(("/", ".", "~")) and not Path(path).is_dir()


def refuse_unknown_keys(node: DictConfig, schema: type, prefix: str = "") -> None:
    """Hydra's `+key=` appends even to typed groups; here nothing is configurable that nothing reads."""
    known = schema.__dataclass_fields__  # type: ignore[attr-defined]
    for key in node:
        if key not in known:
            raise UserError(
                f"configuration: unknown key {prefix}{key!s}: known are {', '.join(known)}"
            )
        child = node._get_node(key)
        if isinstance(child, DictConfig) and is_dataclass(child_type := OmegaConf.get_type(child)):
            refuse_unknown_keys(child, child_type, f"{prefix}{key!s}.")


def check_together(cfg: DictConfig) -> None:
    """What no single key can say."""
    train, variant, rule = cfg.train, cfg.variant, cfg.study.rule
    by_tokens = train.micro_batch_tokens > 0
    per_pass = cfg.runtime.processes * (1 if by_tokens else train.micro_batch)
    if train.images_per_step % per_pass:
        unit = "runtime.processes" if by_tokens else "train.micro_batch x runtime.processes"
        raise UserError(
            f"configuration: train.images_per_step={train.images_per_step} is not a multiple of {unit} = {per_pass}"
        )
    if cfg.optim.adapter.dora and not cfg.optim.adapter.rank:
        raise UserError(
            "configuration: optim.adapter.dora=true needs adapters: set optim.adapter.rank to 1 or more"
        )
    weights = (variant.soft_ce, variant.w1, variant.gate, variant.ce)
    if (variant.token_groups is TokenGroups.joint) == any(weights):
        raise UserError(
            f"configuration: variant.token_groups={variant.token_groups.name} of {variant.name}: "
            "joint takes no coordinate weights, split at least one"
        )
    if not (cfg.probe.l1_weight or cfg.probe.giou_weight):
        raise UserError(
            "configuration: probe.l1_weight=0 and probe.giou_weight=0: a geometric fine-tune needs one of them"
        )
    for name in cfg.study.variants:
        if not (CONF_DIR / "variant" / f"{name}.yaml").exists():
            raise UserError(
                f"configuration: study.variants: {name} has no file conf/variant/{name}.yaml"
            )
    signal(rule.probe.signal)
    for name in rule.metrics:
        metric(name)
        if name not in rule.margins:
            raise UserError(
                f"configuration: study.rule.margins.{name} has no value: say which difference is too small to matter"
            )


def load_rule(path: Path | None) -> dict[str, Any]:
    """The default decision rule, with the differences that a file like those in conf/study/ makes (its `rule`, if it has one).

    Raises:
        UserError: the file cannot be read, or holds what the schema does not know.
    """
    cfg = compose()
    if path is not None:
        try:
            found = OmegaConf.load(path)
            cfg.study.rule = OmegaConf.merge(
                cfg.study.rule, found.get("rule", found) if isinstance(found, DictConfig) else found
            )
        except (
            OSError,
            OmegaConfBaseException,
            YAMLError,
            AttributeError,
            UnicodeDecodeError,
        ) as error:
            raise UserError(
                f"{path}: not a decision rule ({' '.join(str(error).split())})"
            ) from error
        check(cfg)
    return plain(cfg.study.rule)


def flatten(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their full key, `rule.margins.p_gt_mean`."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= (
            flatten(value, f"{prefix}{key}.")
            if isinstance(value, dict)
            else {f"{prefix}{key}": value}
        )
    return flat


def plain(node: Any) -> Any:
    """The node as JSON-ready containers (enums become their names)."""
    return OmegaConf.to_container(node, resolve=True, enum_to_str=True)


def digest(value: Any) -> str:
    """sha256 of the canonical JSON of `value`."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return hashlib.sha256(text.encode()).hexdigest()


def run_hash(cfg: DictConfig) -> str:
    """Eight digits that stand for everything, but the seed, that determines a run's result."""
    return digest({group: plain(cfg[group]) for group in RUN_IDENTITY})[:8]


def group_hash(node: DictConfig) -> str:
    """Eight digits that stand for one group, such as the data or the base model."""
    return digest(plain(node))[:8]
