"""A checkpoint's directory, loaded by transformers alone: the same prompt, pixels and answers."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from memorised import PICTURES, memorised
from release import IMAGES, write_release
from transformers import AutoModelForImageTextToText, AutoProcessor

from coordexp.config.schema import CoordInit, PretrainedQwen3VLConfig
from coordexp.coords import write_coordjson
from coordexp.models.base import grow_pretrained
from coordexp.models.checkpoints import load_base, save_checkpoint, save_pretrained
from coordexp.models.processor import load_processor
from coordexp.models.usage import PICTURE, picture_messages
from coordexp.probe.generation import greedy, token_budget


@pytest.fixture(scope="module")
def saved(tiny, scenes, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "step-000012"
    model = memorised(tiny.cfg, scenes.dataset("val", tiny.processor))
    save_checkpoint(model, tiny.processor, path, "a test")
    return path


def inputs_of_transformers(processor, picture: Path, prompt) -> dict[str, torch.Tensor]:
    return processor.apply_chat_template(
        picture_messages(prompt, str(picture)),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )


@pytest.mark.parametrize("image_id", [0, 3])
def test_same_tokens_and_pixels_as_in_training(saved, scenes, tiny, image_id):
    dataset = scenes.dataset("val", load_processor(saved))
    expected = dataset.prompts([image_id])
    picture = scenes.path / dataset.records[image_id].image
    found = inputs_of_transformers(
        AutoProcessor.from_pretrained(saved), picture, tiny.processor.prompt
    )
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert torch.equal(found[name], values), name
        assert found[name].dtype == values.dtype, name


@pytest.mark.parametrize("image_id", PICTURES)
def test_same_answer_as_in_a_rollout(saved, scenes, tiny, image_id):
    dataset = scenes.dataset("val", load_processor(saved))
    vlm, _ = load_base(saved, torch.float32)
    (rolled_out,) = greedy(vlm, dataset, token_budget(dataset))([image_id])
    assert rolled_out.finished
    assert rolled_out.text == write_coordjson(dataset.records[image_id].coord_objects())
    model = AutoModelForImageTextToText.from_pretrained(saved)
    processor = AutoProcessor.from_pretrained(saved)
    picture = scenes.path / dataset.records[image_id].image
    inputs = inputs_of_transformers(processor, picture, tiny.processor.prompt)
    written = model.generate(**inputs, max_new_tokens=999)[0, inputs["input_ids"].shape[1] :]
    assert processor.decode(written) == rolled_out.text + "<|im_end|>"


def test_lines_of_the_readme_detect_in_the_directory(saved, scenes, monkeypatch):
    dataset = scenes.dataset("val", load_processor(saved))
    (code,) = re.findall(r"```python\n(.*?)```", (saved / "README.md").read_text(), re.DOTALL)
    assert len(code.splitlines()) == 3
    monkeypatch.chdir(shutil.copytree(saved, scenes.root / "read"))
    shutil.copy(scenes.path / dataset.records[0].image, PICTURE)
    found: dict[str, str] = {}
    exec(code, found)
    assert found["answer"] == write_coordjson(dataset.records[0].coord_objects())


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    return write_release(tmp_path_factory.mktemp("release") / "Qwen3-VL-4B-Instruct")


def test_a_release_keeps_its_video_processor(release, tmp_path):
    settings = PretrainedQwen3VLConfig("qwen3vl", str(release), CoordInit.digits, 16)
    save_pretrained(*grow_pretrained(settings), tmp_path / "base")
    again = load_processor(tmp_path / "base")
    again.save_pretrained(tmp_path / "checkpoint")
    for path in (tmp_path / "base", tmp_path / "checkpoint"):
        videos = json.loads((path / "video_preprocessor_config.json").read_text())
        assert videos == IMAGES | {"video_processor_type": "Qwen3VLVideoProcessor"}
        for name in ("processor_config.json", "tokenizer_config.json"):
            assert json.loads((path / name).read_text())["processor_class"] == "Qwen3VLProcessor"


def test_damaged_video_settings_of_a_release_are_one_line(release, tmp_path, refused):
    for content, told in (("[]", "holds no settings"), ("{", "not valid JSON")):
        (tmp_path / "video_preprocessor_config.json").write_text(content)
        with refused("video_preprocessor_config.json", told):
            load_processor(copied_processor(release, tmp_path))


def copied_processor(release: Path, path: Path) -> Path:
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        (path / name).write_bytes((release / name).read_bytes())
    (path / "chat_template.jinja").write_text("{{ messages }}")
    return path
