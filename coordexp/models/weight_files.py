"""What is wrong with the weight files of a checkpoint, found before the model is loaded.

transformers would give weights that it does not find random values, and only warn.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from coordexp.errors import UserError, require_regular
from coordexp.storage.files import read_json

INDEX = "model.safetensors.index.json"
PICKLES = "pytorch_model*.bin"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# What Git leaves in place of a file that was not fetched.
LFS_POINTER = b"version https://git-lfs"
# Numbers of such weights are not their values: scales, often in other files, belong to them.
QUANTISED = ("I8", "U8", "F8_", "F6_", "F4")
COMPLETE = "are its files complete?"
# Where config.json says how many layers there are, and what the names of their weights hold.
LAYERS = (
    ("text_config", "num_hidden_layers", "layers"),
    ("vision_config", "depth", "blocks"),
)
# Parts of the names that peft gives to the weights of adapters and of the layers they wrap.
ADAPTER_MARKS = (
    "lora_",
    ".base_layer.",
    "trainable_tokens_",
    "modules_to_save.",
    "base_model.model.",
)
HEAD, EMBEDDING = "lm_head.weight", "language_model.embed_tokens.weight"
# Weights of these parts cannot be superfluous: the configuration describes another model.
MODEL_PARTS = ("model.", "lm_head.", "visual.", "language_model.")


def refuse_unusable_files(named: str, path: Path) -> None:
    """Check the weight files of a local directory by their headers.

    Raises:
        UserError: it holds no weights, an adapter (without its base model or beside whole weights),
            weights of adapters that were not merged, quantised weights, or a shard is missing.
        SafetensorError: a file is damaged.
    """
    shards = sorted(path.glob("model*.safetensors"))
    refuse_adapter_files(named, path, shards)
    if (path / INDEX).exists():
        refuse_missing_shards(named, path)
    if not shards:
        pickles = sorted(path.glob(PICKLES))
        held = f"its weights are pickles ({pickles[0].name})" if pickles else "it holds no weights"
        raise UserError(f"{named}: {held}: save them as model.safetensors")
    for shard in shards:
        require_regular(shard)
        refuse_pointer(named, shard)
    config = read_json(path / "config.json", COMPLETE) if (path / "config.json").is_file() else {}
    if names_quantisation(config) or any(is_quantised(shard) for shard in shards):
        raise UserError(f"{named}: its weights are quantised: save them in bfloat16 or float32")
    names = [name for shard in shards for name in tensor_names(shard)]
    if marked := [name for name in names if any(mark in name for mark in ADAPTER_MARKS)]:
        raise UserError(
            f"{named}: {len(marked)} of its weights belong to adapters that were not merged, "
            f"such as {marked[0]}: merge them (peft's merge_and_unload) and save it again"
        )
    if isinstance(config, dict):
        refuse_missing_layers(named, config, names)
    if isinstance(config, dict) and config.get("tie_word_embeddings"):
        refuse_other_head(named, shards)


def names_quantisation(config: object) -> bool:
    """Whether a configuration, or one inside it, such as that of the text, is of quantised weights.

    transformers follows each of them, and asks for packages that unpack such weights.
    """
    if not isinstance(config, dict):
        return False
    return bool(config.get("quantization_config")) or any(map(names_quantisation, config.values()))


def refuse_missing_layers(named: str, config: dict[str, Any], names: list[str]) -> None:
    """Raises UserError: config.json says more layers than the weights hold.

    To make a million of them, before transformers misses their weights, would take hours.
    """
    for group, key, part in LAYERS:
        settings = config.get(group)
        told = settings.get(key) if isinstance(settings, dict) else None
        numbers = [int(n) for name in names for n in re.findall(rf"\.{part}\.(\d{{1,9}})\.", name)]
        held = max(numbers, default=-1) + 1
        if isinstance(told, int) and told > held:
            raise UserError(
                f"{named}: config.json says {told} {part} ({group}.{key}), and its weights hold "
                f"{held}: {COMPLETE}"
            )


def refuse_adapter_files(named: str, path: Path, shards: list[Path]) -> None:
    """Raises UserError: the directory holds an adapter, with or without whole weights."""
    if not shards and (path / ADAPTER_WEIGHTS).exists():
        raise UserError(
            f"{named}: an adapter without its base model: merge it, "
            f"or evaluate the base model with --adapter {path}"
        )
    if (path / ADAPTER_CONFIG).exists():
        raise UserError(
            f"{named}: holds whole weights and an adapter ({ADAPTER_CONFIG}), and nothing says "
            "whether it is merged already: move it to a directory of its own, and give that as "
            "--adapter if it is not"
        )


def refuse_pointer(named: str, shard: Path) -> None:
    with open(shard, "rb") as file:
        start = file.read(len(LFS_POINTER))
    if start == LFS_POINTER:
        raise UserError(f"{named}: {shard.name} is a pointer of Git LFS, not the weights: fetch it")


def is_quantised(shard: Path) -> bool:
    with safe_open(shard, framework="pt") as file:
        return any(
            file.get_slice(name).get_dtype().startswith(QUANTISED)
            for name in file.keys()  # noqa: SIM118  # it is no dict
        )


def refuse_missing_shards(named: str, path: Path) -> None:
    index = read_json(path / INDEX, COMPLETE)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict):
        raise UserError(f"{named}: {INDEX} has no weight_map: {COMPLETE}")
    missing = sorted({str(s) for s in weight_map.values() if not (path / str(s)).is_file()})
    if missing:
        raise UserError(
            f"{named}: {len(missing)} of its weight files are missing, such as {missing[0]}: "
            f"{INDEX} names them"
        )


def tensor_names(shard: Path) -> list[str]:
    with safe_open(shard, framework="pt") as file:
        return list(file.keys())


def refuse_other_head(named: str, shards: list[Path]) -> None:
    """A tied head is not loaded: refuse one that is stored, and differs from the embedding."""
    stored = {}
    for shard in shards:
        with safe_open(shard, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  # it is no dict
                if name == HEAD or name.endswith(EMBEDDING):
                    stored[name == HEAD] = file.get_tensor(name)
    if len(stored) == 2 and not torch.equal(stored[True], stored[False]):
        raise UserError(
            f"{named}: {HEAD} differs from the embedding, but config.json ties them "
            "(tie_word_embeddings): one of the two files is not of this training"
        )


def refuse_unknown_weights(named: str, unexpected: list[str]) -> None:
    """`unexpected`: weights in the files that the model of config.json does not have."""
    unknown = sorted(
        name
        for name in unexpected
        if name.startswith(MODEL_PARTS) and not name.endswith((".inv_freq", HEAD))
    )
    if unknown:
        raise UserError(
            f"{named}: {len(unknown)} of its weights have no place in the model of config.json, "
            f"such as {unknown[0]}: are its files of one model?"
        )


def refuse_not_finite(named: str, model: torch.nn.Module) -> None:
    broken = [name for name, weight in model.state_dict().items() if not weight.isfinite().all()]
    if broken:
        raise UserError(
            f"{named}: {len(broken)} of its weights hold NaN or infinity, such as {broken[0]}: "
            "its training diverged, or the file is damaged"
        )
