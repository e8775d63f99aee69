"""Files of checkpoints that other programs wrote, prompts, and the state of a training."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from random import Random
from types import SimpleNamespace

import torch
from conftest import TINY_OVERRIDES
from hypothesis import strategies as st

from coordexp.cli import verbs
from coordexp.cli.arguments import parse
from coordexp.config.compose import compose
from coordexp.data.chat import ChatEncoder, Prompt
from coordexp.errors import UserError
from coordexp.models.base import BROKEN_FILES, build
from coordexp.models.checkpoints import write_pretrained
from coordexp.models.foreign_pictures import find_normalisation
from coordexp.models.foreign_prompt import GivenPrompt, find_prompt, given_text
from coordexp.models.processor import CHAT_TEMPLATE
from coordexp.models.weight_files import refuse_unusable_files
from coordexp.probe.outside import Outside, load_outside
from coordexp.training.state import load_state
from fuzzing.commands import HYDRA, NAMES
from fuzzing.kind import Kind, file_kind
from fuzzing.mutations import JUNK, Mutation, dumped, of_bytes, of_json, of_text

VISION = SimpleNamespace(patch_size=16, temporal_patch_size=2, spatial_merge_size=2)
PREPROCESSOR = {
    "patch_size": 16,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
EVALUATED = "x 3 0.7 Find. in/none"  # name, step, temperature, prompt and checkpoint
ODD_NUMBERS = ("-1", "1e308", "nan", "inf", "0", "-0.0", "9" * 30, "1_0", "٣", "0x1F")
DEAR = 200  # of a model that is loaded whole
ADAPTER = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": "x",
    "r": 2,
    "lora_alpha": 4,
    "target_modules": ["q_proj"],
}


def kinds() -> Iterator[Kind]:
    yield from of_prompts()
    yield of_names()
    yield from of_state()
    vlm, processor = build(compose(TINY_OVERRIDES))
    whole = Path("in/checkpoint")
    write_pretrained(vlm, processor, whole)
    yield from of_headers(whole)
    yield from of_templates(processor)
    yield from of_whole(whole)


def of_prompts() -> Iterator[Kind]:
    pictures = {"image_processor": PREPROCESSOR}
    template = dumped({"chat_template": [{"name": "default", "template": CHAT_TEMPLATE}]})
    examples: dict[str, tuple[bytes, Mutation, Callable[[Path], object]]] = {
        "preprocessor_config.json": (dumped(PREPROCESSOR), of_json, normalisation),
        "processor_config.json": (dumped(pictures), of_json, normalisation),
        "tokenizer_config.json": (template, of_json, prompt),
        "args.json": (dumped({"system": "You see.", "lr": 1e-4}), of_json, prompt),
        "chat_template.jinja": (CHAT_TEMPLATE.encode(), of_text, prompt),
        "prompt.txt": ("Find. 猫".encode(), of_text, lambda p: given_text(f"@{p}", "--prompt")),
    }
    for name, (content, mutate, read) in examples.items():
        place = Path("in/prompts") / name.partition(".")[0] / name
        yield file_kind(f"{name} of a checkpoint", place, [content], mutate, read)


def normalisation(path: Path) -> object:
    return find_normalisation(path.parent, VISION)


def prompt(path: Path) -> object:
    return str(find_prompt([path.parent], GivenPrompt()))


def of_names() -> Kind:
    """What `coordexp evaluate` is told; no checkpoint is there, so that each ends in a line."""

    def mutated(rng: Random) -> list[str]:
        words = EVALUATED.split()
        for at in rng.sample(range(len(words)), rng.randint(1, 2)):
            words[at] = rng.choice((*NAMES, *JUNK, *ODD_NUMBERS)).replace("\0", "")
        return words

    def read(words: list[str]) -> None:
        options = ["--name", words[0], "--step", words[1], "--temperature", words[2]]
        call = ["evaluate", words[4], *options, "--prompt", words[3], "--data", "val.jsonl"]
        verbs.evaluate_outside(parse(call))

    texts = st.text(max_size=12).filter(lambda word: "\0" not in word)
    words = st.lists(texts | st.sampled_from(ODD_NUMBERS), min_size=5, max_size=5)
    return Kind("names of `coordexp evaluate`", mutated, words, read, inputs=HYDRA)


def of_state() -> Iterator[Kind]:
    buffer = io.BytesIO()
    torch.save({"step": 1, "weights": {"a": torch.zeros(3)}, "digests": ["x"]}, buffer)
    payload = buffer.getvalue()

    def damaged(content: bytes, rng: Random) -> bytes:
        """Half of them with the checksum of what is damaged."""
        if rng.random() < 0.5:
            return of_bytes(sha256(content).digest() + content, rng)
        content = of_bytes(content, rng)
        return sha256(content).digest() + content

    yield file_kind("state of a training", "in/state/state.pt", [payload], damaged, load_state)


def of_headers(whole: Path) -> Iterator[Kind]:
    """Weight files, by their headers; and what names them."""

    def read(path: Path) -> None:
        try:
            refuse_unusable_files(str(path.parent), path.parent)
        except BROKEN_FILES as error:
            raise UserError("damaged") from error  # as `load_whole` does

    for name, mutate in (
        ("model.safetensors", of_weights),
        ("config.json", of_json),
        ("model.safetensors.index.json", of_json),
    ):
        directory = Path("in/headers") / name
        shutil.copytree(whole, directory)
        index = {"weight_map": {"a": "model.safetensors"}, "metadata": {"total_size": 1}}
        content = dumped(index) if "index" in name else (whole / name).read_bytes()
        yield file_kind(
            f"{name}, before it is loaded", directory / name, [content], mutate, read, 4_000
        )


def of_weights(content: bytes, rng: Random) -> bytes:
    """A safetensors file: its JSON header changed, or its bytes."""
    if rng.random() < 0.4:
        return of_bytes(content, rng)
    size = int.from_bytes(content[:8], "little")
    header = of_json(content[8 : 8 + size], rng)
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def of_templates(processor: object) -> Iterator[Kind]:
    tokenizer = processor.tokenizer  # type: ignore[attr-defined]

    def read(path: Path) -> object:
        found = find_prompt([path.parent], GivenPrompt())
        return ChatEncoder(tokenizer, found.template, Prompt("Find.", "You see."))

    yield file_kind(
        "chat templates, rendered",
        "in/templates/chat_template.jinja",
        [CHAT_TEMPLATE.encode()],
        of_text,
        read,
        4_000,
    )


def of_whole(whole: Path) -> Iterator[Kind]:
    """Every file of a checkpoint, and the model loaded with it."""
    for file in sorted(whole.iterdir()):
        if file.name in ("README.md", "chat_template.jinja"):
            continue
        directory = Path("in/whole") / file.name
        shutil.copytree(whole, directory)
        mutate = of_weights if file.suffix == ".safetensors" else of_json
        yield file_kind(
            f"{file.name}, model loaded",
            directory / file.name,
            [file.read_bytes()],
            mutate,
            lambda path: load(path.parent),
            DEAR,
        )
    directory = Path("in/adapter")
    directory.mkdir()
    names = [f"base_model.model.model.x.lora_{side}.weight" for side in "AB"]
    from safetensors.torch import save_file

    save_file({name: torch.zeros(2, 2) for name in names}, directory / "adapter_model.safetensors")
    yield file_kind(
        "adapter_config.json, adapter loaded",
        directory / "adapter_config.json",
        [json.dumps(ADAPTER).encode()],
        of_json,
        lambda path: load(whole, path.parent),
        DEAR,
    )


def load(checkpoint: Path, adapter: Path | None = None) -> object:
    outside = Outside(checkpoint, "x", 1, 1.0, adapter)
    return load_outside(outside, find_prompt(outside.directories, GivenPrompt()))
