"""Settings of real data: what is impossible costs one line, before anything is converted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from coco_files import many

from coordexp.cli.main import main
from coordexp.config.compose import compose
from coordexp.storage.files import sha256_file
from coordexp.storage.identity import Sources, write_sources
from coordexp.study.plan import plan_study

GIVEN = ("data=lvis", "data.annotations=lvis.json", "data.images=pictures")


IMPOSSIBLE = (
    "seed=-1 seed=null max_objects=0 max_objects=null train_images=0 val_images=-5 max_vertices=2 "
    "min_polygon_iou=0 "
    "min_polygon_iou=1.1 val_fraction=0 val_fraction=1 val_fraction=nan pixel_budget=1023 "
    "geometry=circle order=xy image_size=64"
)


@pytest.mark.parametrize("override", IMPOSSIBLE.split())
def test_impossible_values_are_named(refused, override):
    with refused(f"data.{override.split('=')[0]}"):
        compose([*GIVEN, f"data.{override}"])


@pytest.mark.parametrize(
    "sources",
    [
        [],
        ["data.train_annotations=a.json"],
        ["data.val_annotations=a.json"],
        ["data.annotations=a.json", "data.train_annotations=b.json", "data.val_annotations=c.json"],
    ],
)
def test_annotations_are_one_file_or_one_each(refused, sources):
    with refused("data.annotations", "data.train_annotations", "data.val_annotations"):
        compose(["data=coco", "data.images=pictures", *sources])


def test_one_annotation_file_has_one_directory_of_pictures(refused):
    with refused("data.annotations", "data.images", "data.train_pictures"):
        compose(["data=coco", "data.annotations=a.json", "data.train_pictures=pictures"])


@pytest.mark.parametrize("value", ["true", "false"])
def test_the_setting_of_earlier_versions_is_refused_with_its_new_name(refused, value):
    with refused("data.render_missing", "data.missing=draw"):
        compose(["data=coco", "data.annotations=a.json", f"data.render_missing={value}"])
    with refused("data.missing"):
        compose(["data=coco", "data.annotations=a.json", "data.missing=maybe"])


@pytest.mark.usefixtures("in_tmp")
def test_a_study_waits_for_its_annotations_and_outlives_them(refused):
    rehearsal = {"experiment": "lvis_rehearsal", "all": "data.annotations=coco.json"}
    with refused("coco.json: no such annotation file"):
        plan_study(rehearsal)
    with refused("data.annotations"):
        plan_study({"experiment": "lvis_rehearsal"})
    many(Path("coco.json"), 4)
    study = plan_study(rehearsal)
    assert {run.variant for run in study.runs} == {"softce_w1_gate", "pure_ce", "mixed"}
    (data,) = {run.data for run in study.runs}
    assert study.annotations(data.name[-8:]) == ["coco.json"]
    data.mkdir(parents=True)
    (data / "data.json").write_text("{}")
    write_sources(data, Sources({"coco.json": sha256_file(Path("coco.json"))}))
    Path("coco.json").unlink()
    (without,) = {run.data for run in plan_study(rehearsal).runs}
    assert without == data
    assert plan_study(rehearsal).annotations(data.name[-8:]) == []
    scenes = plan_study({})
    assert scenes.annotations(scenes.runs[0].data.name[-8:]) == []


@pytest.mark.usefixtures("in_tmp")
@pytest.mark.parametrize(
    "name", ["my file.json", "annotations (1).json", "a=b.json", "a,b.json", "[x].json", "ü.json"]
)
def test_any_file_can_be_named_in_quotes(name):
    many(Path(name), 4)
    # As the message and the documentation spell it.
    quoted = json.loads(f'["data.annotations=\\"{name}\\""]')
    study = plan_study({"experiment": "lvis_rehearsal", "all": quoted})
    assert {run.annotations for run in study.runs} == {(name,)}


@pytest.mark.usefixtures("in_tmp")
def test_ctrl_c_is_one_line(monkeypatch, capsys):
    many(Path("coco.json"), 4)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("coordexp.data.coco.conversion.convert_image", interrupted)
    monkeypatch.setattr("coordexp.data.prepare.n_cores", lambda: 1)
    with pytest.raises(SystemExit) as left:
        main(
            [
                "prepare",
                "--only",
                "data",
                "data=coco",
                "data.annotations=coco.json",
                "data.missing=draw",
            ]
        )
    assert left.value.code == 130
    told = [line for line in capsys.readouterr().err.splitlines() if line and "img/s" not in line]
    assert told == ["coordexp: interrupted: the same command continues"]
