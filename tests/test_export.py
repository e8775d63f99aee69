"""`coordexp export`: a checkpoint of a study or a run becomes a directory for others."""

from __future__ import annotations

import errno
import json
import re
import shutil
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

import pytest
import torch
from conftest import TINY_OVERRIDES, chdir
from huggingface_hub import ModelCard
from memorised import PICTURES, memorised
from PIL import Image
from reports import change
from studies import STEPS, eval_row, write_run
from transformers import AutoProcessor

from coordexp.cli.main import main
from coordexp.coords import write_coordjson
from coordexp.data.chat import Prompt
from coordexp.data.prompt_file import PromptFile, write_prompt_file
from coordexp.models.checkpoints import save_checkpoint
from coordexp.models.processor import load_processor
from coordexp.models.usage import PICTURE, picture_messages
from coordexp.publish.chosen import of_run, recommended
from coordexp.publish.export import EXPORT_FILE, export, step_of_export
from coordexp.publish.metadata import Known, completed
from coordexp.publish.model_card import tiles_told, warnings_of
from coordexp.publish.pictures import Area, trained_area
from coordexp.storage.files import files_below, read_json, sha256_file
from coordexp.storage.manifest import ImageSides, artifact_digests, read_manifest, write_manifest
from coordexp.storage.runs import RunDirectory

STUDY = "results/compared/12345678"
SIDE = 64  # of the pictures


@dataclass
class Results:
    """A directory with a study of two runs, of which the first detects."""

    root: Path
    run: RunDirectory

    @property
    def checkpoint(self) -> Path:
        return self.root / self.run.checkpoint(STEPS[-1])


@pytest.fixture(scope="module")
def results(tiny, scenes, tmp_path_factory) -> Results:
    root = tmp_path_factory.mktemp("results")
    with chdir(root):
        sides = ImageSides([SIDE] * 3, [SIDE] * 3)
        run = write_run(
            "mixed",
            eval_row(20.0, 40, 0.3, 0.2, 30, 3.0),
            overrides=TINY_OVERRIDES,
            val_images=9,
            val_sides_px=sides,
            cell_px=32,
        )
        other = write_run(
            "pure_ce", eval_row(30.0, 60, 0.2, 0.1, 40, 4.0), overrides=TINY_OVERRIDES
        )
        model = memorised(tiny.cfg, scenes.dataset("val", tiny.processor))
        shutil.rmtree(run.checkpoint(STEPS[-1]))
        save_checkpoint(model, tiny.processor, run.checkpoint(STEPS[-1]), "a test")
        found = read_manifest(run)
        assert found is not None
        write_manifest(run, replace(found, artifacts=artifact_digests(run)))
        compared = [f"mixed={run.path}", f"pure_ce={other.path}", "--out", STUDY]
        main(["compare", *compared, "--rule", str(note_rule(root))])
    return Results(root, run)


def note_rule(root: Path) -> Path:
    """The rule of logs: runs without token tables have no value at a fitted temperature."""
    path = root / "rule.yaml"
    path.write_text("metrics: [expected_bin_mae]\n")
    return path


@pytest.fixture
def at_results(results, monkeypatch) -> Results:
    monkeypatch.chdir(results.root)
    return results


def blocks(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


@pytest.mark.usefixtures("at_results")
def test_a_file_that_cannot_be_copied_is_one_line(tmp_path, monkeypatch):
    def full(_: Path, target: Path) -> None:
        raise OSError(errno.EACCES, "Permission denied", target)

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(SystemExit, match=r"^coordexp: \S+: Permission denied$"):
        main(["export", STUDY, str(tmp_path / "shared")])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("scale", [1, 5])
def test_three_lines_of_the_model_card_detect(at_results, scenes, tmp_path, monkeypatch, scale):
    """Also on a picture that is larger than those of the training."""
    main(["export", STUDY, str(tmp_path / "shared")])
    detect, to_pixels = blocks((tmp_path / "shared" / "README.md").read_text())
    assert len(detect.splitlines()) == 3
    dataset = scenes.dataset("val", load_processor(at_results.checkpoint))
    record = dataset.records[PICTURES[0]]
    monkeypatch.chdir(tmp_path)
    picture = Image.open(scenes.path / record.image).convert("RGB")
    picture.resize((scale * SIDE,) * 2, Image.Resampling.NEAREST).save(PICTURE, "PNG")
    used: dict[str, str] = {}
    exec(detect, used)
    assert used["answer"] == write_coordjson(record.coord_objects())
    printed = StringIO()
    with redirect_stdout(printed):
        exec(to_pixels, used)
    lines = printed.getvalue().splitlines()
    assert len(lines) == len(record.objects) > 0
    for line, obj in zip(lines, record.objects, strict=True):
        name, _, pixels = line.partition(" [")
        assert line.startswith(obj.desc), name
        expected = [value * (scale * SIDE - 1) / (SIDE - 1) for value in obj.pixels]
        found = json.loads(line[line.index("[") :])
        assert found == pytest.approx(expected, abs=1 + scale / 5), pixels


def test_an_export_knows_its_step(at_results, tmp_path):
    main(["export", str(at_results.run.path), str(tmp_path / "out")])
    assert step_of_export(tmp_path / "out") == STEPS[-1]
    assert step_of_export(at_results.checkpoint) is None


def test_model_card_names_no_path_of_the_machine(at_results, tmp_path):
    main(["export", str(at_results.run.path), str(tmp_path / "shared")])
    assert str(tmp_path) not in (tmp_path / "shared/README.md").read_text()


def test_model_card_says_that_the_training_saw_tiles(at_results):
    chosen = of_run(at_results.run, None)
    tiles = {"name": "coco", "tile_px": 128, "tile_objects": 2.0, "tile_contrast": 0.17}
    config = replace(chosen.config, data=chosen.config.data | tiles)
    assert any("tiles of pictures" in told for told in warnings_of(replace(chosen, config=config)))
    assert not any("tiles" in told for told in warnings_of(chosen))
    assert "2 times as wide" in tiles_told(tiles)
    assert "128 x 128 px, each channel then shifted to mid-grey" in tiles_told(tiles)
    assert tiles_told({"name": "coco", "tile_px": None}) == ""


def test_weights_and_texts_are_those_of_the_checkpoint(at_results, tmp_path):
    main(["export", str(at_results.run.path), str(tmp_path / "out")])
    names = {file.name for file in files_below(at_results.checkpoint)}
    assert {file.name for file in files_below(tmp_path / "out")} == names | {EXPORT_FILE}
    for name in names - {"README.md", "processor_config.json"}:
        assert (tmp_path / "out" / name).read_bytes() == (at_results.checkpoint / name).read_bytes()
    written = read_json(tmp_path / "out" / EXPORT_FILE)
    assert written["files"] == {n: sha256_file(tmp_path / "out" / n) for n in names}
    manifest = read_manifest(at_results.run)
    assert manifest is not None
    recorded = manifest.artifacts[f"checkpoints/step-{STEPS[-1]:06d}"]
    assert written["checkpoint_sha256"] == recorded


def test_exported_processor_gives_the_pixels_of_training(at_results, scenes, tmp_path):
    main(["export", str(at_results.run.path), str(tmp_path / "out")])
    dataset = scenes.dataset("val", load_processor(at_results.checkpoint))
    picture = scenes.path / dataset.records[2].image
    found = AutoProcessor.from_pretrained(tmp_path / "out").apply_chat_template(
        picture_messages(dataset.processor.prompt, str(picture)),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    for name, values in dataset.prompts([2]).items():
        assert torch.equal(found[name], values), name


def test_model_card_says_what_the_study_says(at_results, tmp_path, capsys):
    capsys.readouterr()
    known = ["--license", "apache-2.0", "--base-model", "Qwen/Qwen3-VL-4B-Instruct"]
    known += ["--dataset", "a/b", "--dataset", "c/d"]
    main(["export", "compared/12345678", str(tmp_path / "out"), *known])
    printed = capsys.readouterr().out
    card = ModelCard.load(tmp_path / "out" / "README.md")
    portable = printed.rstrip().replace(str(tmp_path / "out"), "out")
    assert portable.endswith(blocks(card.text)[0].rstrip())
    assert str(tmp_path / "out" / "README.md") in printed
    data, found = card.data, read_json(Path(STUDY) / "recommendation.json")
    head = data.to_dict()
    assert head["library_name"] == "transformers"
    assert head["pipeline_tag"] == "image-text-to-text"
    assert head["license"] == "apache-2.0"
    assert head["base_model"] == "Qwen/Qwen3-VL-4B-Instruct"
    assert head["datasets"] == ["a/b", "c/d"]
    results = {result.metric_type: result.metric_value for result in data.eval_results}
    assert results == pytest.approx(found["primary"]["metrics"], rel=1e-5)
    for sentence in (
        found["primary"]["reasons"][0],
        found["confidence"]["stage1_ranking"]["reason"],
        found["confidence"]["stage2_fitness"]["reason"],
        *found["caveats"],
        *found["evidence"],
        *found["would_overturn"],
        "| optional ",
        "pure_ce",
        "soft_ce 2, w1 1, gate 2, ce 1",
        "Licence of the weights: apache-2.0.",
    ):
        assert sentence in card.text
    assert str(at_results.root) not in card.text


def test_export_is_written_again_but_nothing_else_is_replaced(at_results, tmp_path, refused):
    chosen = recommended(Path(STUDY))
    export(chosen, tmp_path / "out", Known())
    before = sha256_file(tmp_path / "out" / "README.md")
    export(chosen, tmp_path / "out", Known())
    assert sha256_file(tmp_path / "out" / "README.md") == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    for directory, told in (
        (tmp_path / "mine", "no export wrote, such as thesis.tex"),
        (tmp_path / "mine" / "thesis.tex", "is no directory"),
        (at_results.run.path / "out", "lies in the run"),
    ):
        with refused(str(directory), told):
            export(chosen, directory, Known())
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with refused("notes.txt", "changed or added"):
        export(chosen, tmp_path / "out", Known())
    (tmp_path / "out" / "notes.txt").unlink()
    (tmp_path / "out" / "README.md").write_text("edited")
    with refused("README.md", "changed or added"):
        export(chosen, tmp_path / "out", Known())
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"


def test_changed_checkpoint_or_log_is_refused_and_leaves_nothing(
    results, tmp_path, monkeypatch, refused
):
    shutil.copytree(results.root, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    weights = results.run.checkpoint(STEPS[-1]) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    for chosen in (recommended(Path(STUDY)), of_run(results.run, None)):
        with refused(str(weights.parent), "recorded is"):
            export(chosen, tmp_path / "out", Known())
    content[-1] ^= 1
    weights.write_bytes(content)
    log = results.run.log
    log.write_text(log.read_text().replace("20.0", "2.0"))
    with refused(f"{log}: changed or damaged", "run.json recorded"):
        export(of_run(results.run, None), tmp_path / "out", Known())
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["elsewhere", "out"], "neither a run nor a study"),
        ([STUDY, "out", "--step", "40"], "--step 40: goes with a run"),
        (["RUN", "out", "--step", "40"], "no checkpoint of step 40 (its steps: 360)"),
        (["RUN", "out", "--push", "a/b"], "switched off"),
        (["RUN", "out", "--push", "no owner"], "--push no owner"),
        (["RUN", "out", "--push", "name"], "give OWNER/NAME"),
        (["RUN", "out", "--license", "mit\n---"], "--license mit\\n---: give the name that"),
        (["RUN", "out", "--license", ""], "--license : give the name that"),
        (["RUN", "out", "--base-model", "../../x"], "--base-model ../../x: "),
        (["RUN", "out", "--dataset", "a/b", "--dataset", "c\nd"], "--dataset c\\nd: "),
    ],
)
def test_what_cannot_be_exported_is_one_line(at_results, monkeypatch, arguments, told):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    arguments = [str(at_results.run.path) if word == "RUN" else word for word in arguments]
    with pytest.raises(SystemExit) as stopped:
        main(["export", *arguments])
    assert told in str(stopped.value)
    assert "\n" not in str(stopped.value)
    assert not Path("out").exists()


def test_undecided_or_unfinished_is_one_line(at_results, tmp_path, refused):
    study, run = tmp_path / "study", tmp_path / "run"
    shutil.copytree(STUDY, study)
    change(study, "recommendation", lambda card: card.update(primary=None, withheld="a tie"))
    with refused("No primary at step 360: a tie: name the run"):
        recommended(study)
    (study / "recommendation.json").unlink()
    with refused("holds no recommendation"):
        recommended(study)
    shutil.copytree(at_results.run.path, run)
    (run / "run.json").unlink()
    with refused("has not finished"):
        of_run(RunDirectory(run), None)
    shutil.rmtree(run / "checkpoints")
    with refused("holds no checkpoint (its steps: none)"):
        of_run(RunDirectory(run), None)


def test_checkpoint_trained_elsewhere_keeps_its_prompt(at_results, tmp_path):
    run = RunDirectory(tmp_path / "evaluated" / "theirs-12345678")
    shutil.copytree(at_results.checkpoint, run.checkpoint(7))
    prompt = Prompt('Find "all"', "You see.")
    recorded = PromptFile(prompt.user, prompt.system, "--prompt", "--system", "own")
    write_prompt_file(run.checkpoint(7), recorded)
    run.config.write_text("variant: {name: theirs}\nseed: 0\n")
    code = export(of_run(run, None), tmp_path / "out", Known())
    assert json.dumps(picture_messages(prompt)) in code
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Trained elsewhere" in card
    assert "multiples of 32 px" in card


def test_checkpoint_of_an_earlier_version_gets_its_release_files(at_results, tmp_path):
    run, release = RunDirectory(tmp_path / "evaluated" / "old-12345678"), tmp_path / "release"
    release.mkdir()
    (release / "video_preprocessor_config.json").write_text('{"fps": 2}')
    (release / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    shutil.copytree(at_results.checkpoint, run.checkpoint(7))
    (run.checkpoint(7) / "adapter").mkdir()
    (run.checkpoint(7) / "adapter" / "adapter_config.json").write_text("{}")
    for name in ("processor_config.json", "tokenizer_config.json"):
        path = run.checkpoint(7) / name
        path.write_text(json.dumps(read_json(path) | {"processor_class": "ImageProcessor"}))
    run.config.write_text(f"variant: {{name: old}}\nseed: 0\nmodel: {{path: {release}}}\n")
    export(of_run(run, 7), tmp_path / "out", Known())
    assert (tmp_path / "out" / "video_preprocessor_config.json").read_text() == '{"fps": 2}'
    for name in ("processor_config.json", "tokenizer_config.json"):
        assert read_json(tmp_path / "out" / name)["processor_class"] == "Qwen3VLProcessor"
    assert not (tmp_path / "out" / "adapter").exists()
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert "needs torchvision" in card.text
    assert card.data.license == "apache-2.0"
    assert str(tmp_path) not in card.text.replace(str(tmp_path / "out"), "")


@pytest.mark.usefixtures("at_results")
def test_what_must_not_be_overlooked_stands_above_all():
    chosen = recommended(Path(STUDY))
    assert chosen.found is not None
    assert chosen.manifest is not None
    assert warnings_of(chosen) == chosen.found.alerts
    found = replace(chosen.found, rehearsal="why", blind="none detects", alerts=["rule changed"])
    manifest = replace(chosen.manifest, status="diverged", reason="loss is NaN")
    assert warnings_of(replace(chosen, found=found, manifest=manifest)) == [
        "Rehearsal: why",
        "none detects",
        "rule changed",
        "Its training diverged: loss is NaN",
    ]


def test_pictures_are_resized_as_the_data_were():
    sides = ImageSides([64.0, 96.0, 128.0], [32.0, 64.0, 96.0])
    assert trained_area({"pixel_budget": 786432}, sides, 32) == Area(1024, 786432)
    assert trained_area({"name": "records"}, sides, 32) == Area(64 * 32, 128 * 96)
    assert trained_area({"name": "scenes"}, None, None) is None
    assert trained_area({"pixel_budget": 786432, "tile_px": 128}, sides, 32) == Area(16384, 16384)


def test_licence_and_base_come_from_the_release(tmp_path, refused):
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Model\n")
    assert completed(Known(), str(tmp_path)) == Known("apache-2.0")
    assert completed(Known("mit"), str(tmp_path)) == Known("mit")
    assert completed(Known(), "Qwen/Some-VL") == Known(None, "Qwen/Some-VL")
    assert completed(Known(), None) == Known()
    (tmp_path / "README.md").write_text("---\nlicense: [\n---\n")
    with refused("README.md", "--license"):
        completed(Known(), str(tmp_path))
