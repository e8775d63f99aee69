"""Tiles: boxes stay on their objects, validation is not changed, and the choice is repeatable."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from coco_files import BAT, CUP, annotation, image, rows, settings, write_coco
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from coordexp.config.compose import compose
from coordexp.config.schema import TileTurns
from coordexp.data.coco.conversion_stats import conversion_notes
from coordexp.data.cut_tiles import note, side_of_tiles, validation_cuts
from coordexp.data.prepare import prepare_data, require_data
from coordexp.data.records import Record, RecordObject
from coordexp.data.tiles import (
    TURNS,
    Tile,
    grid,
    objects_in,
    pixels_in,
    random_tile,
    standardised,
)
from coordexp.models.processor import build_tokenizer
from coordexp.storage.identity import base_path, run_hash

WIDTH, HEIGHT, PX = 120, 90, 96
TILES = settings("data.tile_px=96", "data.tile_turns=all")
SMALL = (
    "experiment=small_real",
    "data.annotations=coco.json",
    "data.tile_px=32",
    "model=tiny_qwen3vl",
    "model.names_of_data=true",
)


def shown(box: tuple[int, int, int, int]) -> tuple[Record, Image.Image]:
    """A black picture with one white object, annotated as COCO's conversion does."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = 255
    x1, y1, x2, y2 = box
    clipped = (float(x1), float(y1), min(x2, WIDTH - 1.0), min(y2, HEIGHT - 1.0))
    record = Record("0.jpg", WIDTH, HEIGHT, (RecordObject("cup", "bbox_2d", clipped),))
    return record, Image.fromarray(pixels)


def extent(picture: Image.Image) -> list[int]:
    """x1, y1, x2, y2 of what is bright, from edge to edge."""
    bright = np.asarray(picture)[..., 0] > 127
    ys, xs = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
    return [int(v) for v in (xs[0], ys[0], xs[-1] + 1, ys[-1] + 1)]


@given(st.data())
def test_a_box_stays_on_its_object(data):
    x1, y1 = data.draw(st.integers(0, WIDTH - 12)), data.draw(st.integers(0, HEIGHT - 12))
    x2, y2 = data.draw(st.integers(x1 + 10, WIDTH)), data.draw(st.integers(y1 + 10, HEIGHT))
    record, picture = shown((x1, y1, x2, y2))
    side = data.draw(st.integers(24, HEIGHT))
    left = data.draw(st.integers(0, WIDTH - side))
    top = data.draw(st.integers(0, HEIGHT - side))
    for turn in TURNS[TileTurns.all]:
        tile = Tile(left, top, side, *turn)
        found = objects_in(tile, record, PX, 0.3, Counter())
        if found:
            # To half a pixel of the source: resizing shows no more.
            expected = np.minimum(extent(pixels_in(tile, picture, PX)), PX - 1)
            assert np.abs(np.array(found[0].box) - expected).max() <= PX / side / 2 + 1


def test_an_object_counts_from_its_visible_share():
    record, _ = shown((40, 40, 60, 60))
    tiles = {
        "whole": Tile(30, 30, 40),
        "half": Tile(50, 30, 40),
        "a tenth": Tile(58, 30, 32),
        "nothing": Tile(60, 30, 30),
    }
    counts: dict[str, Counter[str]] = {name: Counter() for name in tiles}
    found = {name: objects_in(t, record, PX, 0.3, counts[name]) for name, t in tiles.items()}
    assert [name for name, objects in found.items() if objects] == ["whole", "half"]
    assert found["half"][0].box == (0.0, 24.0, 24.0, 72.0)
    assert counts["a tenth"] == {"objects too little of which is in the tile": 1}
    assert not counts["nothing"]


@given(st.integers(2, 300), st.integers(2, 300), st.integers(2, 300))
def test_a_grid_covers_the_picture(width, height, side):
    tiles = grid(Record("0.jpg", width, height, ()), side)
    seen = np.zeros((height, width), bool)
    for tile in tiles:
        assert tile.left + tile.side <= width
        assert tile.top + tile.side <= height
        assert (tile.mirrored, tile.flipped, tile.transposed) == (False, False, False)
        seen[tile.top : tile.top + tile.side, tile.left : tile.left + tile.side] = True
    assert seen.all()
    fitted = min(side, width, height)
    assert len(tiles) == -(-width // fitted) * -(-height // fitted)


def test_random_tiles_lie_in_the_picture_in_every_turn():
    record, _ = shown((0, 0, 20, 20))
    tiles = [random_tile(record, 60, TILES, np.random.default_rng(i)) for i in range(300)]
    assert len({(t.mirrored, t.flipped, t.transposed) for t in tiles}) == 8
    assert {t.side for t in tiles} == set(range(45, 81))
    assert all(t.left + t.side <= WIDTH and t.top + t.side <= HEIGHT for t in tiles)
    mirrored = settings("data.tile_px=96")
    tiles = [random_tile(record, 60, mirrored, np.random.default_rng(i)) for i in range(40)]
    assert {(t.mirrored, t.flipped, t.transposed) for t in tiles} == set(TURNS[TileTurns.mirror])


@given(st.data())
def test_a_training_tile_shows_an_object_whole(data):
    x1, y1 = data.draw(st.integers(0, WIDTH - 12)), data.draw(st.integers(0, HEIGHT - 12))
    x2, y2 = data.draw(st.integers(x1 + 10, WIDTH)), data.draw(st.integers(y1 + 10, HEIGHT))
    record, _ = shown((x1, y1, x2, y2))
    tile = random_tile(record, 40, TILES, np.random.default_rng(data.draw(st.integers(0, 99))))
    right, bottom = tile.left + tile.side, tile.top + tile.side
    assert 0 <= tile.left < right <= WIDTH
    assert 0 <= tile.top < bottom <= HEIGHT
    for start, end, first, last in ((x1, x2, tile.left, right), (y1, y2, tile.top, bottom)):
        if end - start <= tile.side:
            assert first <= start
            assert end <= last
        else:
            assert start <= first
            assert last <= end


def test_a_tile_is_sized_by_the_median_object():
    sides = (10, 20, 20, 30, 90)
    boxes = [RecordObject("cup", "bbox_2d", (0.0, 0.0, 2.0 * s, s / 2)) for s in sides]
    assert side_of_tiles([Record("0.jpg", 400, 400, tuple(boxes))], 2.5) == 50


def test_validation_tiles_are_a_sample_of_all_grids():
    records = [Record(f"{i}.jpg", 100, 100, ()) for i in range(5)]
    few = validation_cuts(records, 50, settings("data.tile_px=96", "data.tile_val=7"))
    every = validation_cuts(records, 50, settings("data.tile_px=96", "data.tile_val=null"))
    assert sum(len(cut.tiles) for cut in few) == 7
    assert [len(cut.tiles) for cut in every] == [4] * 5
    of_few, of_all = (
        {(cut.record.image, tile) for cut in cuts for _, tile in cut.tiles} for cuts in (few, every)
    )
    assert of_few < of_all


def test_contrast_leaves_a_picture_of_one_tone_alone():
    faint = np.random.default_rng(0).integers(180, 200, (40, 40, 3), dtype=np.uint8)
    pixels = np.asarray(standardised(Image.fromarray(faint), 0.17), float) / 255
    assert np.allclose(pixels.mean((0, 1)), 0.5, atol=0.005)
    assert np.allclose(pixels.std((0, 1)), 0.17, atol=0.005)
    flat = standardised(Image.new("RGB", (8, 8), (240, 240, 10)), 0.17)
    assert len(np.unique(np.asarray(flat))) == 1


def small_set() -> None:
    """Six pictures with two objects each, in coco.json."""
    rng = np.random.default_rng(0)
    annotations = []
    for i in range(6):
        pixels = rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"{i}.jpg")
        for k in range(2):
            box = (8 + 60 * k, 10 + 5 * i, 30, 24)
            annotations.append(annotation(len(annotations), i, box, (CUP, BAT)[k]))
    write_coco(Path("coco.json"), [image(i, (128, 96)) for i in range(6)], annotations)


def contents(directory: Path) -> dict[str, bytes]:
    """The files that determine a training, and the tiles."""
    files = [*directory.glob("*.jsonl"), *(directory / "images").rglob("*.jpg")]
    return {str(file.relative_to(directory)): file.read_bytes() for file in files}


@pytest.mark.usefixtures("in_tmp")
def test_tiles_are_repeatable_and_a_killed_cut_goes_on():
    small_set()
    cfg = compose([*SMALL, "data.tile_train=40"])
    out = prepare_data(cfg).parent
    first = contents(out)
    trained, judged = rows(out / "train.jsonl"), rows(out / "val.jsonl")
    assert 20 <= len(trained) <= 40
    assert all((row["width"], row["height"]) == (32, 32) for row in trained + judged)
    assert not any(row["metadata"]["tile"]["mirrored"] for row in judged)
    assert {row["metadata"]["tile"]["mirrored"] for row in trained} == {True, False}
    for train in trained:
        for val in judged:
            assert train["metadata"]["tile"]["of"] != val["metadata"]["tile"]["of"]
    # As a kill leaves it: some tiles are written, one is half a file, records are not there.
    (out / "data.json").unlink()
    (out / "val.jsonl").unlink()
    tiles = sorted((out / "images" / "train").iterdir())
    tiles[0].write_bytes(tiles[0].read_bytes()[:100])
    (out / "images" / "train" / "left.jpg").write_bytes(b"of other settings")
    assert prepare_data(cfg).parent == out
    assert contents(out) == first
    require_data(out)
    shutil.rmtree(out)
    prepare_data(cfg)
    assert contents(out) == first


@pytest.mark.usefixtures("in_tmp")
def test_a_changed_picture_is_cut_again():
    small_set()
    cfg = compose([*SMALL, "data.tile_train=40"])
    out = prepare_data(cfg).parent
    first = contents(out)
    Image.new("RGB", (128, 96), "red").save("3.jpg")
    prepare_data(cfg)
    changed = {name for name, content in contents(out).items() if first.get(name) != content}
    records = {row["images"][0]: row for s in ("train", "val") for row in rows(out / f"{s}.jsonl")}
    assert changed
    assert {records[name]["metadata"]["tile"]["of"].rpartition("/")[2] for name in changed} == {
        "3.jpg"
    }


@pytest.mark.usefixtures("in_tmp")
def test_what_is_told_of_tiles(capsys):
    small_set()
    out = prepare_data(compose([*SMALL, "data.tile_train=40"])).parent
    report = json.loads((out / "conversion.json").read_text())
    n_val = len(rows(out / "val.jsonl"))
    assert report["val"]["tiles"]["kept"] == n_val
    assert report["train"]["instances"]["annotated"] == 10
    notes = conversion_notes(out)
    assert any(
        told.startswith(f"val: {n_val} tiles of 54 px, cut on a grid from 1 pictures")
        for told in notes
    )
    assert "tiles: " in capsys.readouterr().err
    assert all(
        told.endswith("an object counts where all of its box is in the tile") for told in notes
    )
    some = note("val", 54, 1, compose([*SMALL, "data.tile_min_visible=0.3"]).data)
    assert some.endswith("an object counts where 30% of its box or more is in the tile")


@pytest.mark.usefixtures("in_tmp")
def test_settings_that_tiles_refuse(refused):
    small_set()
    with refused("data.tile_px=32", "data.geometry=bbox"):
        compose([*SMALL, "data.geometry=poly_prefer"])
    with refused("no tile of 2 px holds an object", "data.tile_objects=0.01"):
        prepare_data(compose([*SMALL, "data.tile_objects=0.01", "data.tile_train=1"]))
    assert not list(Path("results/data").glob("*/*")), "a refusal leaves nothing behind"
    with refused("model.names_of_data=true", "data=coco"):
        compose(["model.names_of_data=true"])


@pytest.mark.usefixtures("in_tmp")
def test_tiles_and_names_make_another_run_and_base():
    small_set()
    cfg = compose(SMALL)
    other = compose([*SMALL, "data.tile_turns=all"])
    assert run_hash(other) != run_hash(cfg)
    assert base_path(other) == base_path(cfg)
    plain = compose([*SMALL, "model.names_of_data=false"])
    before = base_path(cfg), base_path(plain)
    text = Path("coco.json").read_text()
    Path("coco.json").write_text(text.replace('"cup"', '"mug"'))
    assert base_path(cfg) != before[0]
    assert base_path(plain) == before[1]


def test_the_tokenizer_learns_the_names_of_the_data():
    def n_tokens(names: tuple[str, ...]) -> int:
        return len(build_tokenizer(512, names).tokenize('"Platelets"'))

    assert n_tokens(("Platelets", "RBC")) == 3  # a quote, the name, a quote
    assert n_tokens(("red circle",)) > 6
