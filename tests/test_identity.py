"""Identity by contents: equal files under other paths are the same run, other bytes another one."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from coco_files import annotation, image, many, picture, write_coco
from conftest import TINY_OVERRIDES, composed
from release import write_release

from coordexp.config.compose import compose
from coordexp.data import prepare, scenes
from coordexp.data.prepare import prepare_data, read_data_manifest
from coordexp.models.base import prepare_base
from coordexp.storage import digest_store, identity
from coordexp.storage.files import sha256_directory, sha256_file
from coordexp.storage.identity import Sources, contents_hash, run_hash, write_sources
from coordexp.study.plan import plan_study

pytestmark = pytest.mark.usefixtures("in_tmp")

RELEASE = {"config.json": "{}", "model.safetensors": "weights", "tokenizer.json": "{}"}


def release(path: str, **changed: str) -> Path:
    found = Path(path)
    found.mkdir(parents=True)
    for name, content in (RELEASE | changed).items():
        (found / name).write_text(content)
    return found


def coco_with_pictures(root: str) -> Path:
    """An annotation file of six pictures, which lie in pictures/ beside it."""
    file = Path(root) / "coco.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_coco(file, [image(i) for i in range(6)], [annotation(i, i) for i in range(6)])
    for i in range(6):
        picture(Path(root) / "pictures" / f"{i}.jpg", seed=i)
    return file


def overrides(file: Path) -> list[str]:
    return [
        "data=coco",
        f"data.annotations={file}",
        f"data.images={file.parent / 'pictures'}",
        "data.allow_shared_pictures=true",
    ]


def flip_last_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


# --- hashes -----------------------------------------------------------------------------------


def test_equal_files_elsewhere_are_the_same_run():
    here, there = coco_with_pictures("here"), coco_with_pictures("mnt/there")
    models = [release(path) for path in ("models/a", "mnt/b")]
    configurations = [
        compose([*overrides(file), "model=qwen3vl", f"model.path={model}"])
        for file, model in ((here, models[0]), (there, models[1]))
    ]
    assert len({run_hash(cfg) for cfg in configurations}) == 1
    studies = [
        plan_study({"experiment": "lvis_rehearsal", "all": " ".join(overrides(file)[1:])})
        for file in (here, there)
    ]
    assert len({study.hash8 for study in studies}) == 1


@pytest.mark.parametrize("name", ["data.annotations", "data.train_annotations", "data.records"])
def test_another_byte_under_the_same_path_is_another_run(name):
    group, file = ("records" if "records" in name else "coco"), Path("file.json")
    chosen = [f"data={group}", f"{name}=file.json"]
    if "train" in name:
        chosen.append("data.val_annotations=val.json")
    file.write_text("{}")
    before = run_hash(compose(chosen))
    flip_last_bit(file)
    assert run_hash(compose(chosen)) != before
    flip_last_bit(file)
    assert run_hash(compose(chosen)) == before


def test_every_file_of_a_release_counts_and_hidden_ones_do_not():
    def found(path: Path) -> str:
        return contents_hash(compose(["model=qwen3vl", f"model.path={path}"]).model)

    first = found(release("a"))
    (Path("a") / ".cache").mkdir()
    (Path("a") / ".gitattributes").write_text("of the download")
    assert found(Path("a")) == first
    for name in RELEASE:
        assert found(release(f"changed/{name}", **{name: "other"})) != first
    (Path("a") / "tokenizer.json").rename("a/vocab.json")
    assert found(Path("a")) != first


def test_a_source_that_is_gone_counts_as_it_was_read():
    file = coco_with_pictures("here")
    cfg = compose(overrides(file))
    before = run_hash(cfg)
    prepare_data(cfg)
    file.unlink()
    assert run_hash(cfg) == before
    model = compose(["model=qwen3vl", f"model.path={release('models/a')}"])
    before = run_hash(model)
    write_sources(
        Path("results/base/qwen3vl-0"),
        Sources({"models/a": str(identity.source_sha256("models/a", is_release=True))}),
    )
    shutil.rmtree("models")
    assert run_hash(model) == before


def test_the_files_of_a_study_are_read_once(monkeypatch):
    reads: list[Path] = []

    def reading(path: Path) -> str:
        reads.append(path)
        return sha256_file(path)

    monkeypatch.setattr(digest_store, "sha256_file", reading)
    many(Path("coco.json"), 4)
    os.utime("coco.json", (10**9, 10**9))
    plan_study({"experiment": "lvis_rehearsal", "all": "data.annotations=coco.json", "seeds": 5})
    assert reads == [Path("coco.json")]


def test_a_path_that_cannot_be_read_is_one_line(refused):
    cfg = compose(["data=coco", f"data.annotations={'a' * 300}.json"])
    with refused("a.json: cannot be read (File name too long)"):
        run_hash(cfg)


@pytest.mark.slow
def test_a_release_elsewhere_gives_the_same_base_model():
    shutil.copytree(write_release(Path("models/a")), "mnt/b")
    made = []
    for path in ("models/a", "mnt/b"):
        manifest = prepare_base(compose(["model=qwen3vl", f"model.path={path}"]))
        made.append((manifest, manifest.read_bytes()))
        shutil.rmtree(manifest.parent)
    assert made[0] == made[1]


# --- records ----------------------------------------------------------------------------------


def test_prepare_with_nothing_changed_writes_nothing(capsys):
    first = prepare_data(compose(overrides(coco_with_pictures("here"))))
    before = {path: path.stat().st_mtime_ns for path in first.parent.rglob("*.j*")}
    content = first.read_bytes()
    assert prepare_data(compose(overrides(coco_with_pictures("mnt/there")))) == first
    assert first.read_bytes() == content
    del before[first]  # it is touched: a workflow sees a new output
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "making it again" not in capsys.readouterr().err


def test_a_changed_source_picture_is_noticed_and_converted_again(capsys):
    file = coco_with_pictures("here")
    manifest = prepare_data(compose(overrides(file)))
    before = manifest.read_bytes()
    pictures = {path: path.stat().st_mtime_ns for path in manifest.parent.rglob("*.jpg")}
    picture(Path("here/pictures/3.jpg"), seed=99)
    assert prepare_data(compose(overrides(file))) == manifest
    assert "1 source pictures changed, such as that of " in capsys.readouterr().err
    assert manifest.read_bytes() != before, "runs of the old pictures are set aside"
    (again,) = [path for path in pictures if path.stat().st_mtime_ns != pictures[path]]
    assert again.name == "3.jpg"
    made = sha256_directory(manifest.parent / "images")
    shutil.rmtree(manifest.parent)
    prepare_data(compose(overrides(file)))
    assert sha256_directory(manifest.parent / "images") == made


def test_a_changed_picture_of_the_same_size_is_copied_again():
    for seed, split in enumerate(("train", "val")):
        picture(Path(split) / "1.bmp", (64, 64), seed=seed)
        cup = {"desc": "cup", "bbox_2d": [8, 8, 40, 50]}
        line = {"images": ["1.bmp"], "width": 64, "height": 64, "objects": [cup]}
        Path(f"{split}/a.jsonl").write_text(json.dumps(line) + "\n")
    cfg = compose(
        ["data=records", "data.train_records=train/a.jsonl", "data.val_records=val/a.jsonl"]
    )
    out = prepare_data(cfg).parent
    flip_last_bit(Path("train/1.bmp"))
    assert prepare_data(cfg).parent == out
    assert (out / "images/train/1.bmp").read_bytes() == Path("train/1.bmp").read_bytes()
    assert (out / "images/val/1.bmp").read_bytes() == Path("val/1.bmp").read_bytes()


def test_a_damaged_picture_is_not_sealed_again(refused):
    cfg = compose(overrides(coco_with_pictures("here")))
    out = prepare_data(cfg).parent
    flip_last_bit(min((out / "images/train").iterdir()))
    with refused("images/train: changed or damaged", "data.json recorded", f"remove {out}"):
        prepare_data(cfg)


def test_other_code_draws_the_scenes_again(monkeypatch, capsys):
    cfg = composed(*TINY_OVERRIDES)
    manifest = prepare_data(cfg)
    before, hash8 = read_data_manifest(manifest), run_hash(cfg)
    drawn = min((manifest.parent / "images/train").iterdir())
    first = drawn.stat().st_mtime_ns
    assert before.code_sha256 == sha256_file(Path(scenes.__file__))
    for _ in range(2):
        monkeypatch.setattr(prepare, "scenes_code_sha256", lambda: 64 * "0")
        assert prepare_data(cfg) == manifest
    told = capsys.readouterr().err
    assert told.count("coordexp/data/scenes.py changed since it was made: making it again") == 1
    after = read_data_manifest(manifest)
    assert after.code_sha256 == 64 * "0", "runs of the old scenes are set aside"
    assert after.train == before.train
    assert drawn.stat().st_mtime_ns > first
    assert run_hash(cfg) == hash8
