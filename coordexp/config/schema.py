"""The typed schema of the configuration: one frozen dataclass per Hydra group.

Values live in `conf/`. The groups that a training reads are defined in `training_schema.py` and
`input_schema.py`.

A setting without a default here must have a value in `conf/` or on the command line. The limits of
a single setting are in its type; conditions on several settings are in `checks.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Literal

from coordexp.config.input_schema import (
    BoxFormat,
    CocoConfig,
    CoordInit,
    DataConfig,
    Geometry,
    MissingPictures,
    ModelConfig,
    ObjectOrder,
    PretrainedQwen3VLConfig,
    RecordsConfig,
    ScenesConfig,
    TileTurns,
    TinyQwen3VLConfig,
    picture_directories,
    source_files,
)
from coordexp.config.limits import (
    NOT_EMPTY,
    POSITIVE_FRACTION,
    RATIO,
    TEMPERATURE,
    Limit,
    at_least,
    at_most,
    one_of,
)
from coordexp.config.setting_types import (
    SPELLED_ONE_WAY,
    Count,
    Fraction,
    Name,
    NotNegative,
    Positive,
    Rank,
    Seed,
)
from coordexp.config.training_schema import (
    AdapterConfig,
    Device,
    Dtype,
    OptimConfig,
    RuntimeConfig,
    TokenGroups,
    TrainConfig,
    VariantConfig,
)

__all__ = [
    "SPELLED_ONE_WAY",
    "AdapterConfig",
    "BoxFormat",
    "CocoConfig",
    "Config",
    "CoordInit",
    "DataConfig",
    "Device",
    "Dtype",
    "EligibilityConfig",
    "Geometry",
    "MissingPictures",
    "ModelConfig",
    "ObjectOrder",
    "OptimConfig",
    "PretrainedQwen3VLConfig",
    "ProbeConfig",
    "ProbeRuleConfig",
    "RecordsConfig",
    "RuleConfig",
    "RuntimeConfig",
    "ScenesConfig",
    "StudyConfig",
    "TileTurns",
    "TinyQwen3VLConfig",
    "TokenGroups",
    "TrainConfig",
    "VariantConfig",
    "picture_directories",
    "source_files",
]

# At run time this is a plain string, because OmegaConf 2.3 has no Literal and an Enum cannot have a
# member named 1. The limit in the field's type refuses every other string.
if TYPE_CHECKING:
    Temperature = Literal["1", "own", "fitted"]
else:
    Temperature = str


@dataclass(frozen=True)
class EligibilityConfig:
    """Bars that a run must clear before it can hold a role."""

    min_coord_mass: Fraction  # probability on coordinate tokens where one is due
    min_text_token_acc: Fraction  # share of text tokens that are predicted
    max_mae_over_best: Annotated[float, RATIO]  # of a secondary
    min_parse_rate: Fraction  # of rollouts, if the run was probed
    # Class-agnostic F1@.5 of rollouts, if the run was probed; 0: also not asked whether it looks at
    # its pictures.
    min_f1: Fraction


@dataclass(frozen=True)
class ProbeRuleConfig:
    """How the Stage-2 probe can change the roles."""

    signal: str  # the probe metric by which candidates are compared
    margin: NotNegative  # a lead within it names no winner
    geo_margin: NotNegative  # of the geometric loss, for the hypothesis about the secondary
    seed_sd: NotNegative  # of the signal; assumed where fewer than three seeds were probed
    may_change_roles: bool  # false: the probe is shown, and the metrics alone decide


class Prefer(Enum):
    """Which of several indistinguishable variants becomes the primary."""

    cheapest = "cheapest"  # to train, by CPU time; then the first in the study's list
    listed = "listed"  # the first in the study's list


MOST_SEEDS = 1000  # of a variant
DECISION_STEP = Limit(
    "must be last_common or a step",
    lambda value: re.fullmatch("last_common|[0-9]+", value) is not None,
)


@dataclass(frozen=True)
class RuleConfig:
    """The decision rule, fixed before training."""

    decision_step: Annotated[str, DECISION_STEP]  # the step at which variants are compared
    # of the coordinate slice: 1, the training's own, or fitted to each run
    temperature: Annotated[Temperature, one_of("1", "own", "fitted")]
    metrics: Annotated[list[str], NOT_EMPTY]  # evidence in this order, after the rollouts
    margins: dict[str, NotNegative]  # a lead within its margin names no winner, by metric
    # Declared SD between seeds, by metric; it counts where fewer than three seeds are paired.
    seed_sd: dict[str, NotNegative]
    window: Annotated[float, POSITIVE_FRACTION]  # last share of the steps, for stability
    prefer: Prefer  # among variants that no evidence separates
    eligible: EligibilityConfig
    probe: ProbeRuleConfig


@dataclass(frozen=True)
class StudyConfig:
    """Which runs a study consists of, and the rule that decides between them."""

    name: Name  # of the study's directory below results
    variants: Annotated[list[str], NOT_EMPTY]  # candidates, of conf/variant
    seeds: Annotated[int, at_least(1), at_most(MOST_SEEDS)]  # trainings of each variant
    rule: RuleConfig
    # Variants that are trained beside them, to explain a lead. They hold no role and have no vote.
    controls: list[str] = field(default_factory=list)


FITTED = "fitted"
DECODE_TEMPERATURE = Limit(
    f"must be fitted or {TEMPERATURE.must.removeprefix('must ')}",
    lambda value: value == FITTED or is_temperature(value),
)


def is_temperature(text: str) -> bool:
    """Whether a text is a number that a temperature can be."""
    try:
        return TEMPERATURE.holds(float(text))  # false for NaN
    except ValueError:
        return False


@dataclass(frozen=True)
class ProbeConfig:
    """The Stage-2 probe: one recipe for every candidate.

    It is not part of a run's identity.
    """

    images: Count  # of the validation set: rolled out, and used to validate
    steps: Count  # of the geometric fine-tune
    images_per_step: Count  # of the fine-tune
    micro_batch: Count  # images
    adapter_rank: Rank  # LoRA as in optim.adapter; 0: every weight is trained
    gradient_checkpointing: bool  # as in train
    lr: Positive  # peak rate of the fine-tune
    temperature: Annotated[str, DECODE_TEMPERATURE]  # of the expected-coordinate decode
    l1_weight: NotNegative  # weight of the L1 distance of expected coordinates
    giou_weight: NotNegative  # weight of 1 - GIoU of expected boxes
    text_weight: NotNegative  # weight of cross-entropy on text tokens
    rollout_batch: Count  # images generated together
    seed: Seed  # data order


@dataclass(frozen=True)
class Config:
    """One run of one variant, with the study it belongs to."""

    variant: VariantConfig
    model: ModelConfig
    data: DataConfig
    optim: OptimConfig
    train: TrainConfig
    runtime: RuntimeConfig
    study: StudyConfig
    probe: ProbeConfig
    seed: Seed = 0  # of the data order, the adapter initialisation and dropout
