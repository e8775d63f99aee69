"""The typed schema of the configuration: one frozen dataclass per Hydra group.

Values live in `conf/`.

A setting without a default here must have a value in `conf/` or on the command line. The limits of
a single setting are in its type; conditions on several settings are in `checks.py`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Literal

from coordexp.config.limits import (
    BELOW_ONE,
    FRACTION,
    INNER_FRACTION,
    NAME,
    NOT_EMPTY,
    NOT_NEGATIVE,
    POSITIVE,
    POSITIVE_FRACTION,
    RATIO,
    Limit,
    at_least,
    at_most,
    multiple_of,
    one_of,
)

# The upper limits are far beyond what can be used. They refuse a slip in one line, where it would
# otherwise fill the memory or never end.
Count = Annotated[int, at_least(1), at_most(10**9)]
CountOrZero = Annotated[int, NOT_NEGATIVE, at_most(10**9)]
Width = Annotated[int, at_least(1), at_most(2**16)]
Layers = Annotated[int, at_least(1), at_most(1000)]
Images = Annotated[int, at_least(1), at_most(10**8)]
Objects = Annotated[int, at_least(1), at_most(1000)]
Positive = Annotated[float, POSITIVE]
NotNegative = Annotated[float, NOT_NEGATIVE]
Fraction = Annotated[float, FRACTION]
Name = Annotated[str, NAME]
Seed = Annotated[int, NOT_NEGATIVE, at_most(2**63 - 1, "the largest seed that torch takes")]

SPELLED_ONE_WAY = "a path: `coco/`, `./coco` and `.//coco` are written as `coco`"
FilePath = Annotated[str, SPELLED_ONE_WAY]
OptionalPath = Annotated[str | None, SPELLED_ONE_WAY]

# At run time this is a plain string, because OmegaConf 2.3 has no Literal and an Enum cannot have a
# member named 1. The limit in the field's type refuses every other string.
if TYPE_CHECKING:
    Temperature = Literal["1", "own", "fitted"]
else:
    Temperature = str


class TokenGroups(Enum):
    """How supervised tokens are grouped; each group's loss is divided by its own token count."""

    joint = "joint"  # one group: cross-entropy over the vocabulary on every supervised token
    split = "split"  # two groups: text (cross-entropy) and coordinates (the terms below)


@dataclass(frozen=True)
class VariantConfig:
    """A training objective. A term with weight 0 is left out."""

    name: Name
    token_groups: TokenGroups
    soft_ce: NotNegative = 0.0
    w1: NotNegative = 0.0
    gate: NotNegative = 0.0
    ce: NotNegative = 0.0
    temperature: Positive = 1.0  # of the coordinate slice, in soft_ce, w1 and gate
    sigma_bins: Positive = 1.0  # width of the soft target
    # The soft target is zero beyond this distance.
    radius_bins: Annotated[int, NOT_NEGATIVE, at_most(999)] = 8


@dataclass(frozen=True)
class ModelConfig:
    """The setting of every base model: a name, which is part of its directory's name."""

    name: Name


@dataclass(frozen=True)
class TinyQwen3VLConfig(ModelConfig):
    """A Qwen3-VL small enough for one CPU thread; built offline, from a seed."""

    init_seed: Seed
    init_std: Positive
    text_hidden_size: Width
    text_layers: Layers
    text_heads: Width
    text_intermediate_size: Width
    vision_hidden_size: Width
    vision_layers: Layers
    vision_heads: Width
    vision_intermediate_size: Width
    patch_size: Annotated[int, at_least(1), at_most(1024)]  # px
    # byte-level BPE, before special and coordinate tokens
    vocabulary_size: Annotated[int, at_least(1), at_most(10**6)]
    coord_init_frequencies: Width  # of the smooth (Fourier) coordinate embeddings


class CoordInit(Enum):
    """How the embeddings of new coordinate tokens are initialised; both are smooth over bins."""

    fourier = "fourier"  # random Fourier features
    digits = "digits"  # the path from digit 0 to digit 9, plus Fourier features of half amplitude


@dataclass(frozen=True)
class PretrainedQwen3VLConfig(ModelConfig):
    """A Qwen3-VL checkpoint: a local directory or a hub name."""

    path: FilePath
    coord_init: CoordInit
    coord_init_frequencies: Width  # of the Fourier features


@dataclass(frozen=True)
class DataConfig:
    """The setting of every data set: a name, which is part of its directory's name."""

    name: Name


@dataclass(frozen=True)
class ScenesConfig(DataConfig):
    """Generated images of coloured shapes."""

    seed: Seed
    train_images: Images
    val_images: Images
    image_size: Annotated[int, multiple_of(32), at_most(8192)]  # px, square
    min_objects: Objects
    max_objects: Objects
    min_side: Annotated[float, INNER_FRACTION]  # of a shape's box, as a fraction of the image side
    max_side: Annotated[float, INNER_FRACTION]


class Geometry(Enum):
    """How an object of real data is written."""

    bbox = "bbox"  # always as its box
    poly_prefer = "poly_prefer"  # as its polygon if it has one of few enough vertices, else its box


class ObjectOrder(Enum):
    """The order in which the objects of an image are written."""

    yx = "yx"  # by (y1, x1)
    random = "random"  # shuffled once, from the data's seed and the image's id


@dataclass(frozen=True)
class CocoConfig(DataConfig):
    """COCO or LVIS annotations and their images (docs/data.md)."""

    seed: Seed  # of split, samples and random order
    annotations: OptionalPath  # one file, split by val_fraction; or one file per split:
    train_annotations: OptionalPath
    val_annotations: OptionalPath
    val_fraction: Annotated[float, INNER_FRACTION]
    images: OptionalPath  # directory of the images
    render_missing: bool  # draw the annotated shapes of an image that is missing
    train_images: Annotated[int | None, at_least(1)]  # at most; null: all
    val_images: Annotated[int | None, at_least(1)]
    geometry: Geometry
    max_vertices: Annotated[int, at_least(3)]  # of a polygon, after simplification
    min_polygon_iou: Annotated[float, POSITIVE_FRACTION]  # simplified against annotated polygon
    max_objects: Count  # an image with more is left out
    order: ObjectOrder
    pixel_budget: Annotated[int, at_least(1024, "a cell of 32 x 32")]  # px of an image


@dataclass(frozen=True)
class AdapterConfig:
    """LoRA or DoRA on every linear layer, and the coordinate rows; all other weights are frozen."""

    # 0: no adapters, every weight is trained.
    rank: Annotated[int, NOT_NEGATIVE, at_most(2**16)] = 0
    alpha: Count = 32  # an adapter's output is scaled by alpha / rank
    dropout: Annotated[float, BELOW_ONE] = 0.0  # of an adapter's input
    dora: bool = False  # also train the length of each row of a weight


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with one learning rate per part of the model, linear warm-up, then cosine decay."""

    lr: Positive  # language model
    lr_vision: NotNegative
    lr_aligner: NotNegative
    lr_coord: NotNegative  # embedding rows of the coordinate tokens
    beta1: Annotated[float, BELOW_ONE]
    beta2: Annotated[float, BELOW_ONE]
    eps: Positive
    weight_decay: NotNegative
    warmup_fraction: Fraction
    floor_fraction: Fraction  # of each part's peak rate, at the last step
    clip_norm: Positive
    adapter: AdapterConfig = field(default_factory=AdapterConfig)


class Dtype(Enum):
    """Precision of the weights, by torch's name."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float64 = "float64"


@dataclass(frozen=True)
class TrainConfig:
    """Length of a run, its batches, and how often it evaluates, logs and saves."""

    max_steps: Count
    images_per_step: Count
    micro_batch: Count  # images; accumulation = images_per_step / (micro_batch * processes)
    eval_steps: Count
    eval_micro_batch: Count
    audit_images: CountOrZero  # train images that every evaluation also covers; 0: none
    logging_steps: Count
    state_steps: Count  # how often the resumable state is written
    checkpoint_steps: Count  # how often a checkpoint is kept; the last step always has one
    dtype: Dtype  # of the weights; adapters of a bfloat16 model are stored and trained in float32
    micro_batch_tokens: CountOrZero  # if not 0, cuts micro-batches by tokens, not by micro_batch
    gradient_checkpointing: bool  # recompute activations in the backward pass: saves memory


class Device(Enum):
    """Where a run computes."""

    auto = "auto"  # on a CUDA GPU if there is one
    cpu = "cpu"


@dataclass(frozen=True)
class RuntimeConfig:
    """How a run is executed. These settings are not part of its identity."""

    processes: Count = 1
    threads: Count = 1
    device: Device = Device.auto
    wait: bool = False  # if another trainer holds the run, wait for it instead of stopping


@dataclass(frozen=True)
class EligibilityConfig:
    """Bars that a run must clear before it can hold a role."""

    min_coord_mass: Fraction
    min_text_token_acc: Fraction
    max_mae_over_best: Annotated[float, RATIO]  # of a secondary
    min_parse_rate: Fraction  # of rollouts, if the run was probed
    # Class-agnostic F1@.5 of rollouts, if the run was probed; 0: also not asked whether it looks at
    # its pictures.
    min_f1: Fraction


@dataclass(frozen=True)
class ProbeRuleConfig:
    """How the Stage-2 probe can change the roles."""

    signal: str  # the probe metric by which candidates are compared
    margin: NotNegative
    geo_margin: NotNegative  # of the geometric loss, for the hypothesis about the secondary
    seed_sd: NotNegative  # of the signal; assumed where fewer than three seeds were probed
    may_change_roles: bool  # false: the probe is shown, and the metrics alone decide


class Prefer(Enum):
    """Which of several indistinguishable variants becomes the primary."""

    cheapest = "cheapest"  # to train, by measured time; then the first in the study's list
    listed = "listed"  # the first in the study's list


DECISION_STEP = Limit(
    "must be last_common or a step",
    lambda value: re.fullmatch("last_common|[0-9]+", value) is not None,
)


@dataclass(frozen=True)
class RuleConfig:
    """The decision rule, fixed before training."""

    decision_step: Annotated[str, DECISION_STEP]
    temperature: Annotated[Temperature, one_of("1", "own", "fitted")]
    metrics: Annotated[list[str], NOT_EMPTY]  # evidence in this order, after the rollouts
    margins: dict[str, NotNegative]
    window: Annotated[float, POSITIVE_FRACTION]  # last share of the steps, for stability
    prefer: Prefer  # among variants that no evidence separates
    eligible: EligibilityConfig
    probe: ProbeRuleConfig


@dataclass(frozen=True)
class StudyConfig:
    """Which runs a study consists of, and the rule that decides between them."""

    name: Name
    variants: Annotated[list[str], NOT_EMPTY]
    seeds: Annotated[int, at_least(1), at_most(1000)]
    rule: RuleConfig
    # Variants that are trained beside them, to explain a lead. They hold no role and have no vote.
    controls: list[str] = field(default_factory=list)


FITTED = "fitted"
DECODE_TEMPERATURE = Limit(
    "must be fitted or a positive number",
    lambda value: value == FITTED or is_positive_number(value),
)


def is_positive_number(text: str) -> bool:
    try:
        return 0 < float(text) < math.inf  # false for NaN
    except ValueError:
        return False


@dataclass(frozen=True)
class ProbeConfig:
    """The Stage-2 probe: one recipe for every candidate.

    It is not part of a run's identity.
    """

    images: Count  # of the validation set: rolled out, and used to validate
    steps: Count  # of the geometric fine-tune
    images_per_step: Count
    micro_batch: Count  # images
    adapter_rank: CountOrZero  # LoRA as in optim.adapter; 0: every weight is trained
    gradient_checkpointing: bool
    lr: Positive
    temperature: Annotated[str, DECODE_TEMPERATURE]  # of the expected-coordinate decode
    l1_weight: NotNegative
    giou_weight: NotNegative
    text_weight: NotNegative
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
    seed: Seed = 0
