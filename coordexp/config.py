"""The typed configuration: one dataclass per Hydra group, `compose()`, and the identity of a run.

A key or a type that the dataclasses below do not know stops `compose` (and every entry point) with the
full key in the message. Everything else about a setting is data in `conf/`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

CONF_DIR = Path(__file__).resolve().parents[1] / "conf"


class UserError(Exception):
    """Something only the user can mend. The message is one line: what, where, what to do."""


class TokenGroups(Enum):
    """How supervised tokens are grouped; each group is divided by its own count over the optimizer step."""

    joint = "joint"  # one group: cross-entropy over the vocabulary on every supervised token
    split = "split"  # two groups: text (cross-entropy) and coordinates (the terms below)


@dataclass
class VariantConfig:
    """An objective as data (design: note section "Experiments"). Weights of 0 leave a term out."""

    name: str = MISSING
    token_groups: TokenGroups = MISSING
    soft_ce: float = 0.0
    w1: float = 0.0
    gate: float = 0.0
    ce: float = 0.0
    temperature: float = 1.0  # of the coordinate slice, in soft_ce, w1 and gate
    sigma_bins: float = 1.0  # width of the soft target
    radius_bins: int = 8  # where the soft target is cut off


@dataclass
class ModelConfig:
    name: str = MISSING


@dataclass
class TinyQwen3VLConfig(ModelConfig):
    """A Qwen3-VL small enough for one CPU thread; built offline, from a seed."""

    init_seed: int = MISSING
    init_std: float = MISSING
    text_hidden_size: int = MISSING
    text_layers: int = MISSING
    text_heads: int = MISSING
    text_intermediate_size: int = MISSING
    vision_hidden_size: int = MISSING
    vision_layers: int = MISSING
    vision_heads: int = MISSING
    vision_intermediate_size: int = MISSING
    patch_size: int = MISSING
    vocabulary_size: int = MISSING  # byte-level BPE, before special and coordinate tokens
    coord_init_frequencies: int = MISSING  # of the smooth (Fourier) coordinate embeddings


@dataclass
class PretrainedQwen3VLConfig(ModelConfig):
    """A Qwen3-VL checkpoint: a local directory or a hub name."""

    path: str = MISSING
    coord_init_frequencies: int = MISSING


@dataclass
class DataConfig:
    name: str = MISSING


@dataclass
class ScenesConfig(DataConfig):
    """Generated pictures of coloured shapes."""

    seed: int = MISSING
    train_images: int = MISSING
    val_images: int = MISSING
    image_size: int = MISSING  # px, square
    min_objects: int = MISSING
    max_objects: int = MISSING
    min_side: float = MISSING  # of a shape's box, as a fraction of the image side
    max_side: float = MISSING


@dataclass
class OptimConfig:
    """AdamW, one learning rate per part of the model, warm-up then cosine to a floor."""

    lr: float = MISSING  # language model
    lr_vision: float = MISSING
    lr_aligner: float = MISSING
    lr_coord: float = MISSING  # embedding rows of the coordinate tokens
    beta1: float = MISSING
    beta2: float = MISSING
    eps: float = MISSING
    weight_decay: float = MISSING
    warmup_fraction: float = MISSING
    floor_fraction: float = MISSING  # of the peak, at the last step
    clip_norm: float = MISSING


@dataclass
class TrainConfig:
    max_steps: int = MISSING
    images_per_step: int = MISSING
    micro_batch: int = MISSING  # images; accumulation = images_per_step / (micro_batch * processes)
    eval_steps: int = MISSING
    eval_micro_batch: int = MISSING
    logging_steps: int = MISSING
    state_steps: int = MISSING  # how often the resumable state is written
    checkpoint_steps: int = MISSING  # how often a checkpoint is kept, beside the last
    dtype: str = MISSING


@dataclass
class RuntimeConfig:
    """How a run is executed. Does not count towards its identity."""

    processes: int = 1
    threads: int = 1
    device: str = "auto"


@dataclass
class EligibilityConfig:
    """Bars a run must clear before it can hold a role."""

    min_coord_mass: float = MISSING
    min_text_token_acc: float = MISSING
    max_mae_over_best: float = MISSING


@dataclass
class RuleConfig:
    """The decision rule, fixed before training."""

    decision_step: str = MISSING  # "last_common" or a step
    temperature: str = MISSING  # "1", "own" or "fitted"
    metrics: list[str] = MISSING  # plurality among these; ties by this order
    margins: dict[str, float] = MISSING
    eligible: EligibilityConfig = field(default_factory=EligibilityConfig)


@dataclass
class StudyConfig:
    name: str = MISSING
    variants: list[str] = MISSING
    seeds: int = MISSING
    rule: RuleConfig = field(default_factory=RuleConfig)


@dataclass
class Config:
    variant: VariantConfig = field(default_factory=VariantConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    study: StudyConfig = field(default_factory=StudyConfig)
    seed: int = 0


RUN_IDENTITY = ("variant", "model", "data", "optim", "train")

_store = ConfigStore.instance()
_store.store(name="schema", node=Config)
_store.store(group="model", name="tiny_qwen3vl_schema", node=TinyQwen3VLConfig)
_store.store(group="model", name="pretrained_qwen3vl_schema", node=PretrainedQwen3VLConfig)
_store.store(group="data", name="scenes_schema", node=ScenesConfig)


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
    except (HydraException, OmegaConfBaseException) as error:
        reason = " ".join(f"{error} {error.__cause__ or ''}".split())
        raise UserError(f"configuration: {reason} (overrides: {' '.join(overrides) or 'none'})") from error
    check(cfg)
    return cfg


def check(cfg: DictConfig) -> None:
    """Refuse settings that are well typed but impossible.

    Raises:
        UserError: naming the full key, its value, and what would be right.
    """
    unknown = sorted(set(cfg) - set(Config.__dataclass_fields__))
    if unknown:
        raise UserError(f"configuration: unknown key {unknown[0]}: known are {', '.join(Config.__dataclass_fields__)}")
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise UserError(f"configuration: {missing[0]} has no value: set it with {missing[0]}=…")
    train, variant = cfg.train, cfg.variant
    for key in ("max_steps", "images_per_step", "micro_batch", "eval_steps", "eval_micro_batch", "logging_steps",
                "state_steps", "checkpoint_steps"):  # fmt: skip
        if train[key] < 1:
            raise UserError(f"configuration: train.{key}={train[key]} must be at least 1")
    per_pass = train.micro_batch * cfg.runtime.processes
    if train.images_per_step % per_pass:
        raise UserError(
            f"configuration: train.images_per_step={train.images_per_step} is not a multiple of "
            f"train.micro_batch x runtime.processes = {per_pass}"
        )
    if train.dtype not in ("float32", "bfloat16", "float64"):
        raise UserError(f"configuration: train.dtype={train.dtype} must be float32, bfloat16 or float64")
    if variant.temperature <= 0 or variant.sigma_bins <= 0 or variant.radius_bins < 0:
        raise UserError("configuration: variant.temperature and variant.sigma_bins must be positive, variant.radius_bins not negative")
    weights = (variant.soft_ce, variant.w1, variant.gate, variant.ce)
    if (variant.token_groups is TokenGroups.joint) == any(weights):
        raise UserError(
            f"configuration: variant.{variant.name}: token_groups=joint takes no coordinate weights, token_groups=split at least one"
        )
    if cfg.seed < 0:
        raise UserError(f"configuration: seed={cfg.seed} must not be negative")


def plain(node: Any) -> Any:
    """The node as JSON-ready containers (enums become their names)."""
    return OmegaConf.to_container(node, resolve=True, enum_to_str=True)


def digest(value: Any) -> str:
    """sha256 of the canonical JSON of `value`."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def run_hash(cfg: DictConfig) -> str:
    """Eight digits that stand for everything, but the seed, that determines a run's result."""
    return digest({group: plain(cfg[group]) for group in RUN_IDENTITY})[:8]


def group_hash(node: DictConfig) -> str:
    """Eight digits that stand for one group, such as the data or the base model."""
    return digest(plain(node))[:8]
