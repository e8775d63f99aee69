"""The typed schema of the configuration: one dataclass per Hydra group. Values live in `conf/`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING


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


class CoordInit(Enum):
    """Where the rows of new coordinate tokens start; smooth over the bins either way."""

    fourier = "fourier"  # random waves
    digits = (
        "digits"  # the embeddings of the ten digits, from 0 to 9 over the picture, and weaker waves
    )


@dataclass
class PretrainedQwen3VLConfig(ModelConfig):
    """A Qwen3-VL checkpoint: a local directory or a hub name."""

    path: str = MISSING
    coord_init: CoordInit = MISSING
    coord_init_frequencies: int = MISSING  # of the waves


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


class Geometry(Enum):
    """What an object of real data is written as."""

    bbox = "bbox"  # always its box
    poly_prefer = (
        "poly_prefer"  # its outline, where that is one polygon of few enough vertices, else its box
    )


class ObjectOrder(Enum):
    """In which order the objects of a picture are written."""

    yx = "yx"  # by (y1, x1)
    random = "random"  # shuffled once, by the data's seed and the picture's id


@dataclass
class CocoConfig(DataConfig):
    """COCO or LVIS annotations and the pictures they speak of (docs/data.md)."""

    seed: int = MISSING  # of split, samples and random order
    annotations: str | None = MISSING  # one file, split by val_fraction; or one each:
    train_annotations: str | None = MISSING
    val_annotations: str | None = MISSING
    val_fraction: float = MISSING
    images: str | None = MISSING  # directory of the pictures
    render_missing: bool = MISSING  # draw the annotated shapes where a picture is not there
    train_images: int | None = MISSING  # at most; null: all
    val_images: int | None = MISSING
    geometry: Geometry = MISSING
    max_vertices: int = MISSING  # of a polygon, after simplification
    min_polygon_iou: float = MISSING  # of a simplified polygon with the annotated one
    max_objects: int = MISSING  # a picture with more is left out
    order: ObjectOrder = MISSING
    pixel_budget: int = MISSING  # px of a picture; its sides are multiples of 32


@dataclass
class AdapterConfig:
    """LoRA or DoRA on every linear layer, and the coordinate rows; all other weights stay as they are."""

    rank: int = 0  # 0: no adapters, every weight is trained
    alpha: int = 32  # an adapter's output is scaled by alpha / rank
    dropout: float = 0.0  # of an adapter's input
    dora: bool = False  # also train the length of each row of a weight


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
    floor_fraction: float = MISSING  # of each part's peak, at the last step
    clip_norm: float = MISSING
    adapter: AdapterConfig = field(default_factory=AdapterConfig)


@dataclass
class TrainConfig:
    max_steps: int = MISSING
    images_per_step: int = MISSING
    micro_batch: int = MISSING  # images; accumulation = images_per_step / (micro_batch * processes)
    eval_steps: int = MISSING
    eval_micro_batch: int = MISSING
    audit_images: int = (
        MISSING  # of the train set, evaluated at each eval step beside the validation set; 0: none
    )
    logging_steps: int = MISSING
    state_steps: int = MISSING  # how often the resumable state is written
    checkpoint_steps: int = MISSING  # how often a checkpoint is kept, beside the last
    dtype: str = MISSING  # of the weights; adapters around bfloat16 are kept and trained in float32
    micro_batch_tokens: int = (
        MISSING  # cuts a step's images into micro-batches instead of micro_batch; 0: it does not
    )
    gradient_checkpointing: bool = (
        MISSING  # recompute a layer's activations in the backward pass: less memory, more time
    )


@dataclass
class RuntimeConfig:
    """How a run is executed. Does not count towards its identity."""

    processes: int = 1
    threads: int = 1
    device: str = "auto"
    wait: bool = False  # for another trainer of the same run to end, instead of refusing to start


@dataclass
class EligibilityConfig:
    """Bars a run must clear before it can hold a role."""

    min_coord_mass: float = MISSING
    min_text_token_acc: float = MISSING
    max_mae_over_best: float = MISSING
    min_parse_rate: float = MISSING  # of rollouts, where they were probed


@dataclass
class ProbeRuleConfig:
    """What the Stage-2 probe may do to the roles."""

    signal: str = MISSING  # candidates are judged by this one
    margin: float = MISSING
    may_change_roles: bool = (
        MISSING  # where Stage-1 cannot tell two variants apart and the probe can
    )


@dataclass
class RuleConfig:
    """The decision rule, fixed before training."""

    decision_step: str = MISSING  # "last_common" or a step
    temperature: str = MISSING  # "1", "own" or "fitted"
    metrics: list[str] = MISSING  # plurality among these; ties by this order
    margins: dict[str, float] = MISSING
    window: float = MISSING  # share of the steps up to the decision step, at its end, over which stability is judged
    eligible: EligibilityConfig = field(default_factory=EligibilityConfig)
    probe: ProbeRuleConfig = field(default_factory=ProbeRuleConfig)


@dataclass
class StudyConfig:
    name: str = MISSING
    variants: list[str] = MISSING
    seeds: int = MISSING
    rule: RuleConfig = field(default_factory=RuleConfig)


@dataclass
class ProbeConfig:
    """The Stage-2 probe: one recipe for every candidate. Does not count towards a run's identity."""

    images: int = MISSING  # of the validation set, rolled out and validated
    steps: int = MISSING  # of the geometric fine-tune
    images_per_step: int = MISSING
    micro_batch: int = MISSING  # images
    adapter_rank: int = (
        MISSING  # LoRA on every linear layer, and the coordinate rows; 0: every weight is trained
    )
    gradient_checkpointing: bool = MISSING
    lr: float = MISSING
    temperature: float = MISSING  # of the expected-coordinate decode
    l1_weight: float = MISSING
    giou_weight: float = MISSING
    text_weight: float = MISSING
    rollout_batch: int = MISSING  # images generated together
    seed: int = MISSING  # data order


@dataclass
class Config:
    variant: VariantConfig = field(default_factory=VariantConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    study: StudyConfig = field(default_factory=StudyConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    seed: int = 0
