"""`model=qwen3vl` through the commands a user types, on a release that is real in everything but
its size.

prepare, coordexp-train optim=lora, probe: loaded from shards, grown, trained, killed and resumed,
merged, reloaded, generating. What the 4B model would go through, with the same code.
"""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from release import ADDED_TOKENS, BPE_TOKENS, EMBEDDING_ROWS, write_release
from safetensors.torch import load_file
from training import ForkServer, assert_same_run, only, rows

from coordexp.config.compose import compose
from coordexp.coords import coord_token_ids
from coordexp.data.batches import Dataset
from coordexp.models.checkpoints import (
    load_base,
    load_for_training,
    restore_weights,
    trained_weights,
)
from coordexp.training.state import load_state

pytest_plugins = ("training_fixtures",)
pytestmark = pytest.mark.slow

TRAIN = (
    *(
        "model=qwen3vl",
        "optim=lora",
        "variant=mixed",
        "data.image_size=64",
        "data.train_images=12",
        "data.val_images=6",
    ),
    *(
        "train.max_steps=6",
        "train.images_per_step=4",
        "train.micro_batch=2",
        "train.eval_steps=3",
        "train.logging_steps=2",
    ),
    *(
        "train.state_steps=2",
        "train.checkpoint_steps=6",
        "train.eval_micro_batch=6",
        "train.audit_images=0",
    ),
    *(
        "runtime.device=cpu",
        "optim.lr=0.01",
        "optim.lr_vision=0.01",
        "optim.lr_aligner=0.01",
        "optim.lr_coord=0.01",
    ),
)
BFLOAT16 = (
    "train.dtype=bfloat16",
    "optim.adapter.dora=true",
    "train.gradient_checkpointing=true",
    "train.micro_batch_tokens=400",
    "train.max_steps=3",
    "train.images_per_step=2",
    "train.logging_steps=1",
    "train.checkpoint_steps=3",
)
PROBE = (
    "probe.images=2",
    "probe.steps=2",
    "probe.images_per_step=2",
    "probe.micro_batch=2",
    "probe.rollout_batch=2",
)


@dataclass
class Walk:
    fork_server: ForkServer
    path: Path
    release: Path

    @property
    def overrides(self) -> tuple[str, ...]:
        return (*TRAIN, f"model.path={self.release}")

    def train(self, *more: str, **how) -> Path:
        child = self.fork_server.run(self.path, *self.overrides, *more, **how)
        assert child.returncode == (-signal.SIGKILL if how else 0), child.stdout + child.stderr
        return only(self.path / "results" / "runs" / "mixed")

    @property
    def base(self) -> Path:
        return next((self.path / "results" / "base").glob("*/model"))

    @property
    def val(self) -> Path:
        return next((self.path / "results" / "data").glob("*/val.jsonl"))


@pytest.fixture(scope="module")
def walk(fork_server, tmp_path_factory) -> Walk:
    """Prepared: data drawn, the release grown."""
    path = tmp_path_factory.mktemp("walk")
    walk = Walk(fork_server, path, write_release(path / "Qwen3-VL-4B"))
    child = fork_server.run(path, "prepare", *walk.overrides, entry="cli")
    assert child.returncode == 0, child.stderr
    return walk


@pytest.fixture(scope="module")
def run(walk) -> Path:
    return walk.train()


def elsewhere(walk: Walk, path: Path) -> Walk:
    """The same data and base in another directory, with no run."""
    (path / "results").mkdir()
    for part in ("data", "base"):
        (path / "results" / part).symlink_to(walk.path / "results" / part)
    return Walk(walk.fork_server, path, walk.release)


def test_release_grows_in_its_precision_and_keeps_other_weights(walk):
    before = {}
    for shard in walk.release.glob("*.safetensors"):
        before |= load_file(shard)
    after = load_file(walk.base / "model.safetensors")
    embedding = "model.language_model.embed_tokens.weight"
    assert len(list(walk.release.glob("*.safetensors"))) > 1
    assert set(after) == set(before)
    assert {weight.dtype for weight in after.values()} == {torch.bfloat16}
    assert all(torch.equal(after[name], before[name]) for name in before if name != embedding)
    known = BPE_TOKENS + len(ADDED_TOKENS)
    assert before[embedding].shape[0] == EMBEDDING_ROWS < known + 1000
    assert after[embedding].shape[0] % 64 == 0
    assert known + 1000 <= after[embedding].shape[0] < known + 1064
    assert torch.equal(after[embedding][:known], before[embedding][:known])
    config = json.loads((walk.base / "config.json").read_text())
    assert config["text_config"]["vocab_size"] == after[embedding].shape[0]
    assert config["tie_word_embeddings"]


def test_grown_tokenizer_differs_by_coordinate_tokens_alone(walk):
    from transformers import AutoTokenizer

    before, (model, processor) = (
        AutoTokenizer.from_pretrained(walk.release),
        load_base(walk.base, torch.bfloat16),
    )
    assert coord_token_ids(processor.tokenizer) == list(range(BPE_TOKENS + 26, BPE_TOKENS + 1026))
    for text in (
        '{"objects": [{"desc": "a red_cup (mug)", "bbox_2d": [1, 22, 333]}]}',
        "<think>杯\n\n  7</think><|im_end|>",
    ):
        assert processor.tokenizer.encode(text) == before.encode(text)
    special = {
        name: processor.tokenizer.convert_tokens_to_ids(f"<|{name}|>")
        for name in ("im_end", "endoftext", "image_pad")
    }
    assert special == {"im_end": 151645, "endoftext": 151643, "image_pad": 151655}
    assert model.generation_config.eos_token_id == 151645
    assert not model.generation_config.do_sample


def test_it_trains_and_only_what_was_meant_to_changes(walk, run):
    found = rows(run)
    losses = [row["loss"] for row in found if "loss" in row]
    assert losses[-1] < losses[0]
    step = run / "checkpoints" / "step-000006"
    base, merged = load_file(walk.base / "model.safetensors"), load_file(step / "model.safetensors")
    model, _ = load_base(walk.base, torch.float32)
    linear = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    } - {"lm_head.weight"}
    embedding = "model.language_model.embed_tokens.weight"
    changed = {name for name in base if not torch.equal(base[name].float(), merged[name].float())}
    assert changed == linear | {embedding}
    moved = (base[embedding].float() != merged[embedding].float()).any(1).nonzero()[:, 0]
    assert moved.tolist() == list(range(BPE_TOKENS + 26, BPE_TOKENS + 1026))


def test_the_merged_checkpoint_is_the_trained_model(walk, run, monkeypatch):
    """The trained model is rebuilt as the trainer holds it, adapters over the base; the checkpoint
    is loaded plain.
    """
    monkeypatch.chdir(walk.path)
    adapted, processor = load_for_training(compose(walk.overrides), torch.device("cpu"))
    step = run / "checkpoints" / "step-000006"
    adapter = load_file(step / "adapter" / "adapter_model.safetensors")
    named = {
        f"base_model.model.{name.replace('.default', '')}": name
        for name in trained_weights(adapted)
    }
    assert set(adapter) == set(named)
    restore_weights(adapted, {named[name]: weight for name, weight in adapter.items()})

    plain, ids = load_base(step, torch.float32)[0], coord_token_ids(processor.tokenizer)
    trained_rows = adapter[
        "base_model.model.model.language_model.embed_tokens.token_adapter.trainable_tokens_delta"
    ]
    assert torch.equal(plain.get_input_embeddings().weight[ids], trained_rows)
    assert torch.equal(plain.lm_head.weight[ids], trained_rows)
    inputs = Dataset(walk.val, processor).batch([0]).inputs
    with torch.no_grad():
        base = load_base(walk.base, torch.float32)[0].eval()(**inputs).logits
        expected, found = adapted.eval()(**inputs).logits, plain.eval()(**inputs).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert (expected - base).abs().max() > 0.01, (
        "training moved the logits far more than merging may"
    )


def test_killed_with_adapters_it_ends_as_if_nothing_had_happened(walk, run, tmp_path):
    again = elsewhere(walk, tmp_path)
    for crash in (("os.rename", "state.pt", 3), ("os.rename", "run.json")):
        killed = again.train(fault=("die_before", *crash))
    state = load_state(killed / "state" / "state.pt")
    adapter = load_file(
        killed / "checkpoints" / "step-000006" / "adapter" / "adapter_model.safetensors"
    )
    assert {name: w.shape for name, w in state["weights"].items()} == {
        name: adapter[f"base_model.model.{name.replace('.default', '')}"].shape
        for name in state["weights"]
    }
    assert len(state["weights"]) == len(adapter) == len(state["optimizer"]["state"]), (
        "what is frozen needs no remembering"
    )
    assert_same_run(again.train(), run)


def test_trains_in_bfloat16_with_dora_checkpointing_and_packs(walk, tmp_path):
    run = elsewhere(walk, tmp_path).train(*BFLOAT16)
    losses = [row["loss"] for row in rows(run) if "loss" in row]
    assert losses[-1] < losses[0]
    step = run / "checkpoints" / "step-000003"
    assert {weight.dtype for weight in load_file(step / "model.safetensors").values()} == {
        torch.bfloat16
    }
    assert {
        weight.dtype
        for weight in load_file(step / "adapter" / "adapter_model.safetensors").values()
    } == {torch.float32}


def test_the_checkpoint_generates_and_is_probed(walk, run):
    child = walk.fork_server.run(walk.path, "probe", str(run), *walk.overrides, *PROBE, entry="cli")
    assert child.returncode == 0, child.stderr
    probe = json.loads(Path(walk.path, child.stdout.strip().splitlines()[-1]).read_text())
    assert (probe["status"], probe["images"], probe["steps"]) == ("complete", 2, 2)
