"""An adapter that another program trained with peft, merged into its base model."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import Qwen3VLForConditionalGeneration

from coordexp.errors import UserError, first_line
from coordexp.models.adapters import merge_saved_adapter
from coordexp.models.weight_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, refuse_not_finite
from coordexp.storage.files import read_json

# Settings of an adapter, and of single layers, that set the size of its weights or their scale.
RANKS, RANK_PATTERN, HIGHEST_RANK = ("r", "init_r", "target_r"), "rank_pattern", 2**16
SCALES, SCALE_PATTERN = ("lora_alpha", "alpha"), "alpha_pattern"
# What peft raises for a directory that is damaged, or an adapter of another model.
UNFIT = (
    OSError,
    SafetensorError,
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    ImportError,
)


@torch.no_grad()
def merge_adapter(model: Qwen3VLForConditionalGeneration, adapter: Path) -> None:
    """Merge the adapter of a directory into the weights of `model`, in place.

    An embedding that the adapter stores whole may have more rows than the base model's, which then
    grows.

    Raises:
        UserError: the directory holds no adapter, one of another model, or one that diverged.
    """
    named = f"--adapter {adapter}"
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (adapter / name).is_file():
            raise UserError(f"{named}: holds no {name}: give a directory that peft saved")
    refuse_impossible_settings(named, adapter)
    try:
        rows = rows_of_embedding(adapter)
        if rows and rows != model.get_input_embeddings().num_embeddings:
            model.resize_token_embeddings(rows, mean_resizing=False)
        unfit = merge_saved_adapter(model, adapter)
    except UNFIT as error:
        raise UserError(f"{named}: not an adapter of this model ({first_line(error)})") from error
    if unfit:
        raise UserError(
            f"{named}: not an adapter of this model: {len(unfit)} of the weights do not fit, "
            f"such as {unfit[0]}"
        )
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    if embedding is not head and not torch.equal(embedding, head):
        # The adapter trained one of two tied matrices, or both apart: keep both.
        model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = False
    refuse_not_finite(named, model)


def refuse_impossible_settings(named: str, adapter: Path) -> None:
    """Refuse ranks and scales that no adapter has, before peft makes weights of that size.

    Raises:
        UserError: the file is not an object, or one of its settings is out of its limits.
    """
    settings = read_json(adapter / ADAPTER_CONFIG, "give a directory that peft saved")
    if not isinstance(settings, dict):
        raise UserError(f"{named}: {ADAPTER_CONFIG} holds no settings: give another directory")
    for key, value in _each(settings, RANKS, RANK_PATTERN):
        if not (isinstance(value, int) and 1 <= value <= HIGHEST_RANK):
            told = f"{key} is {value}: must be a whole number from 1 to {HIGHEST_RANK}"
            raise UserError(f"{named}: {ADAPTER_CONFIG}: {told}")
    for key, value in _each(settings, SCALES, SCALE_PATTERN):
        if not (isinstance(value, int | float) and 0 < value < math.inf):  # false for NaN
            told = f"{key} is {value}: must be a positive number"
            raise UserError(f"{named}: {ADAPTER_CONFIG}: {told}")


def _each(
    settings: dict[str, object], names: tuple[str, ...], pattern: str
) -> list[tuple[str, object]]:
    """(key, value) of these settings that are there, and of those of single layers."""
    found = [(name, settings[name]) for name in names if settings.get(name) is not None]
    of_layers = settings.get(pattern)
    if isinstance(of_layers, dict):
        for layer, value in of_layers.items():
            if not isinstance(value, list):  # AdaLoRA: which of the layer's ranks are kept
                found.append((f"{pattern}.{layer}", value))
    return found


def rows_of_embedding(adapter: Path) -> int | None:
    """Rows of the embedding that an adapter stores whole; None if it stores none."""
    with safe_open(adapter / ADAPTER_WEIGHTS, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118
            of_embedding = "embed_tokens" in name and name.endswith("weight")
            if of_embedding and "lora_" not in name and "trainable_tokens" not in name:
                rows: int = file.get_slice(name).get_shape()[0]
                return rows
    return None
