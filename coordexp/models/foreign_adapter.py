"""An adapter that another program trained with peft, merged into its base model."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import Qwen3VLForConditionalGeneration

from coordexp.errors import UserError, first_line
from coordexp.models.adapters import merge_saved_adapter
from coordexp.models.weight_files import ADAPTER_WEIGHTS, refuse_not_finite

# What peft raises for a directory that is damaged, or an adapter of another model.
UNFIT = (ValueError, RuntimeError, KeyError, TypeError, OSError, SafetensorError)


@torch.no_grad()
def merge_adapter(model: Qwen3VLForConditionalGeneration, adapter: Path) -> None:
    """Merge the adapter of a directory into the weights of `model`, in place.

    An embedding that the adapter stores whole may have more rows than the base model's, which then
    grows.

    Raises:
        UserError: the directory holds no adapter, one of another model, or one that diverged.
    """
    named = f"--adapter {adapter}"
    for name in ("adapter_config.json", ADAPTER_WEIGHTS):
        if not (adapter / name).is_file():
            raise UserError(f"{named}: holds no {name}: give a directory that peft saved")
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


def rows_of_embedding(adapter: Path) -> int | None:
    """Rows of the embedding that an adapter stores whole; None if it stores none."""
    with safe_open(adapter / ADAPTER_WEIGHTS, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118
            of_embedding = "embed_tokens" in name and name.endswith("weight")
            if of_embedding and "lora_" not in name and "trainable_tokens" not in name:
                rows: int = file.get_slice(name).get_shape()[0]
                return rows
    return None
