"""What many tests share: a base model of a few thousand weights in float64, and a few small
generated scenes.
"""

from __future__ import annotations

import os
from contextlib import chdir
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# pytest-xdist keeps every core busy; more threads would only wait for one another.
for _library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")
if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is first imported, by whomever

settings.register_profile(
    "coordexp", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("coordexp")

VARIANTS = sorted(
    path.stem for path in (Path(__file__).parents[1] / "conf" / "variant").glob("*.yaml")
)

TINY_OVERRIDES = (
    "model.text_layers=1",
    "model.text_hidden_size=32",
    "model.text_heads=2",
    "model.text_intermediate_size=48",
    "model.vision_layers=2",
    "model.vision_hidden_size=16",
    "model.vision_heads=2",
    "model.vision_intermediate_size=24",
    "model.vocabulary_size=300",
    "data.image_size=64",
    "data.train_images=12",
    "data.val_images=9",
    "data.min_objects=1",
    "data.max_objects=3",
    "data.min_side=0.2",
    "data.max_side=0.4",
    "train.images_per_step=8",
    "train.micro_batch=8",
    "train.eval_micro_batch=4",
    "train.dtype=float64",
    "runtime.device=cpu",
)


@cache
def composed(*overrides: str) -> Any:
    """The configuration for these overrides: Hydra takes a fifth of a second for each."""
    from coordexp.config.compose import compose

    return compose(overrides)


@dataclass
class Tiny:
    """The configuration it was built from, the model in float64 (in training mode, no dropout) and
    its processor.
    """

    cfg: Any
    vlm: Any
    processor: Any

    def stage1(self, variant: str, *overrides: str) -> Any:
        """The objective of a conf/variant around the one shared model."""
        from coordexp.coords import coord_token_ids
        from coordexp.training.stage1_model import Stage1Model

        cfg = composed(f"variant={variant}", *TINY_OVERRIDES, *overrides)
        return Stage1Model(self.vlm, cfg.variant, coord_token_ids(self.processor.tokenizer))


@dataclass
class Scenes:
    """Where `prepare_data` ran, and the directory it made there."""

    root: Path
    path: Path

    def dataset(self, split: str, processor: Any) -> Any:
        from coordexp.data.batches import Dataset

        return Dataset(self.path / f"{split}.jsonl", processor)


def keep_float64(patch: pytest.MonkeyPatch) -> None:
    """transformers rounds to float32 inside two functions; leave float64 as it is there, so that
    1e-10 means something.
    """
    import torch
    from transformers.models.qwen3_vl import modeling_qwen3_vl as modeling

    norm, rotate = modeling.Qwen3VLTextRMSNorm.forward, modeling.apply_rotary_pos_emb_vision

    def norm64(self, x):
        if x.dtype != torch.float64:
            return norm(self, x)
        return (
            self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)
        )

    def rotate64(q, k, cos, sin):
        if q.dtype != torch.float64:
            return rotate(q, k, cos, sin)
        cos, sin = cos.unsqueeze(-2).double(), sin.unsqueeze(-2).double()
        return tuple(x * cos + modeling.rotate_half(x) * sin for x in (q, k))

    patch.setattr(modeling.Qwen3VLTextRMSNorm, "forward", norm64)
    patch.setattr(modeling, "apply_rotary_pos_emb_vision", rotate64)


@pytest.fixture(scope="session")
def tiny():
    import torch

    from coordexp.models.base import build_tiny

    torch.set_num_threads(1)
    cfg = composed(*TINY_OVERRIDES)
    model, processor = build_tiny(cfg.model)
    with pytest.MonkeyPatch.context() as patch:
        keep_float64(patch)
        yield Tiny(cfg, model.double().train(), processor)


@pytest.fixture(scope="session")
def scenes(tmp_path_factory) -> Scenes:
    from coordexp.data.prepare import prepare_data

    root = tmp_path_factory.mktemp("scenes")
    with chdir(root):
        manifest = prepare_data(composed(*TINY_OVERRIDES))
    return Scenes(root, (root / manifest).parent)


@pytest.fixture
def in_tmp(tmp_path, monkeypatch) -> Path:
    """The test runs in its own empty directory, so that results/ is its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refused():
    """`with refused("optim.lr") as error:` — a UserError of one line in which each of the words
    occurs.
    """
    from contextlib import contextmanager

    from coordexp.errors import UserError

    @contextmanager
    def expecting(*words: str):
        with pytest.raises(UserError) as caught:
            yield caught
        message = str(caught.value)
        assert len(message.splitlines()) == 1, f"not one line: {message!r}"
        for word in words:
            assert word in message, f"{word!r} is not named in {message!r}"

    return expecting


@pytest.fixture(scope="session")
def record_file():
    """`record_file(directory, [[objects of image 0], …])` writes grey pictures of 64 px and the
    records; returns the JSONL.
    """
    from PIL import Image

    from coordexp.data.records import Record, RecordObject, reading_order, write_records

    def write(directory: Path, images: list[list[tuple[str, str, tuple[float, ...]]]]) -> Path:
        directory.mkdir(parents=True, exist_ok=True)
        records = []
        for i, objects in enumerate(images):
            Image.new("RGB", (64, 64), (40 * i % 256, 90, 120)).save(directory / f"{i}.png")
            records.append(
                Record(f"{i}.png", 64, 64, reading_order(RecordObject(*o) for o in objects))
            )
        write_records(directory / "some.jsonl", records)
        return directory / "some.jsonl"

    return write
