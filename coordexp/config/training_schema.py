"""The settings of a training: objective, optimizer, length and batches, and how it is executed."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated

from coordexp.config.limits import BELOW_ONE, NOT_NEGATIVE, TEMPERATURE, at_most
from coordexp.config.setting_types import (
    Count,
    CountOrZero,
    Fraction,
    Name,
    NotNegative,
    Positive,
    Rank,
)


class TokenGroups(Enum):
    """How supervised tokens are grouped; each group's loss is divided by its own token count."""

    joint = "joint"  # one group: cross-entropy over the vocabulary on every supervised token
    split = "split"  # two groups: text (cross-entropy) and coordinates (the terms below)


@dataclass(frozen=True)
class VariantConfig:
    """A training objective. A term with weight 0 is left out."""

    name: Name  # of the variant: in paths, and where runs are compared
    token_groups: TokenGroups
    soft_ce: NotNegative = 0.0  # weight of cross-entropy against the soft target
    w1: NotNegative = 0.0  # weight of the 1-Wasserstein distance to the soft target
    gate: NotNegative = 0.0  # weight of -log of the probability of any coordinate token
    ce: NotNegative = 0.0  # weight of cross-entropy over the coordinate tokens alone
    # Of the coordinate slice, in soft_ce, w1 and gate.
    temperature: Annotated[float, TEMPERATURE] = 1.0
    sigma_bins: Positive = 1.0  # width of the soft target
    # The soft target is zero beyond this distance.
    radius_bins: Annotated[int, NOT_NEGATIVE, at_most(999)] = 8


@dataclass(frozen=True)
class AdapterConfig:
    """LoRA or DoRA on every linear layer, and the coordinate rows; all other weights are frozen."""

    # 0: no adapters, every weight is trained.
    rank: Rank = 0
    alpha: Count = 32  # an adapter's output is scaled by alpha / rank
    dropout: Annotated[float, BELOW_ONE] = 0.0  # of an adapter's input
    dora: bool = False  # also train the length of each row of a weight


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with one learning rate per part of the model, linear warm-up, then cosine decay."""

    lr: Positive  # language model
    lr_vision: NotNegative  # vision tower; 0: not trained
    lr_aligner: NotNegative  # from the vision tower to the language model; 0: not trained
    lr_coord: NotNegative  # embedding rows of the coordinate tokens
    beta1: Annotated[float, BELOW_ONE]  # decay of AdamW's mean of gradients
    beta2: Annotated[float, BELOW_ONE]  # decay of AdamW's mean of squared gradients
    eps: Positive  # AdamW's, added to the root of that mean
    weight_decay: NotNegative  # AdamW's, of matrices
    warmup_fraction: Fraction  # share of the steps in which the rates rise from 0
    floor_fraction: Fraction  # of each part's peak rate, at the last step
    clip_norm: Positive  # largest norm of a step's gradient
    adapter: AdapterConfig = field(default_factory=AdapterConfig)


class Dtype(Enum):
    """Precision of the weights, by torch's name."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float64 = "float64"


@dataclass(frozen=True)
class TrainConfig:
    """Length of a run, its batches, and how often it evaluates, logs and saves."""

    max_steps: Count  # optimizer steps; the schedule ends there
    images_per_step: Count  # images of one optimizer step, over all processes
    micro_batch: Count  # images; accumulation = images_per_step / (micro_batch * processes)
    eval_steps: Count  # steps between evaluations
    eval_micro_batch: Count  # images evaluated together
    audit_images: CountOrZero  # train images that every evaluation also covers; 0: none
    logging_steps: Count  # steps between rows of the log; a row is their mean
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

    processes: Count = 1  # ranks of one training, each on its own device or cores
    threads: Count = 1  # torch's threads of each process
    device: Device = Device.auto
    wait: bool = False  # if another trainer holds the run, wait for it instead of stopping
    diverged_ok: bool = False  # exit with 0 after a run that diverged
