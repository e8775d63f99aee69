"""`coordexp validate`: every problem of a record file, with its line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from coco_files import LVIS, many, picture, settings
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_pictures import png_header

from coordexp.cli.main import main
from coordexp.coords import COORD_TOKENS
from coordexp.data.coco.conversion import convert_annotations
from coordexp.data.records import clockwise, read_records
from coordexp.data.validate import summary, validate
from coordexp.errors import UserError

CUP = {"desc": "cup", "bbox_2d": [1, 2, 3, 4]}
GOOD = {"images": ["a.png"], "width": 64, "height": 96, "objects": [CUP]}
POLY = {"desc": "leaf", "poly": [10, 10, 30, 12, 28, 30]}
NAN = float("nan")


def problems(path: Path, *lines: object, pictures: bool = False) -> list[str]:
    """Of a file of these lines, without the file's name."""
    text = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"\n".join(text) + b"\n")
    found = list(validate(path, Counter(), pictures))
    assert all(problem.startswith(str(path)) for problem in found)
    return [problem.removeprefix(str(path)) for problem in found]


def tokens(*bins: int) -> list[str]:
    return [COORD_TOKENS[k] for k in bins]


def with_objects(*objects: object) -> dict:
    return GOOD | {"objects": list(objects)}


SOUND = [
    GOOD,
    GOOD | {"metadata": {"image_id": 5}, "summary": "a cup"},
    with_objects(CUP, CUP | {"desc": "bat_(animal)"}),
    with_objects({"desc": "杯子 \n", "bbox_2d": [0, 0, 64, 96.0]}),
    with_objects(POLY, POLY | {"desc": "b", "poly_points": 3}),
    with_objects(
        {"desc": "a", "bbox_2d": tokens(0, 5, 999, 999)},
        {"desc": "b", "poly": tokens(4, 6, 9, 8, 1, 9)},
    ),
    with_objects({"desc": "a", "bbox_2d": tokens(5, 5, 5, 5)}),  # bins are rounded
    with_objects(CUP, POLY) | {"metadata": {"order": [1, 0]}},
]


@pytest.mark.parametrize("record", SOUND)
def test_sound_records_have_no_problem(tmp_path, record):
    assert problems(tmp_path / "a.jsonl", b"", record) == []


BROKEN = [
    (b"{", ["not JSON"]),
    (b"[" * 100_000, ["not JSON"]),
    (b'{"images": "\xff"}', ["not UTF-8"]),
    (b"[]", ["not a record", "list"]),
    (b"null", ["not a record"]),
    ({"images": ["a.png"], "width": 5}, ["lacks height, objects"]),
    (GOOD | {"images": []}, ["images must be"]),
    (GOOD | {"images": ["/a.png"]}, ["not relative"]),
    (GOOD | {"images": ["a\0.png"]}, ["not relative"]),
    (GOOD | {"width": 64.5}, ["width and height"]),
    (GOOD | {"height": None}, ["width and height"]),
    (GOOD | {"width": 100}, ["100 x 96 px", "multiples of 32"]),
    (GOOD | {"height": 112}, ["64 x 112 px", "multiples of 32"]),
    (GOOD | {"images": ["\ud800.png"]}, ["'\\ud800.png'", "not relative"]),
    (GOOD | {"objects": {}}, ["objects must be"]),
    (GOOD | {"metadata": 5}, ["metadata must be"]),
    *(
        (with_objects(CUP, POLY) | {"metadata": {"order": order}}, ["metadata.order"])
        for order in ([0], [0, 0], [1, 2], "01", [0.0, 1.0], None)
    ),
    (with_objects("cup"), ["object 0", "desc"]),
    (with_objects({"bbox_2d": [1, 2, 3, 4]}), ["object 0", "desc"]),
    (with_objects({"desc": "cup"}), ["exactly one of"]),
    (with_objects(CUP | {"poly": [10, 10, 30, 12, 28, 30]}), ["exactly one of"]),
    (
        with_objects({"desc": "<|coord_5|>", "bbox_2d": [1, 2, 3, 4]}),
        ["spells the token <|coord_5|>"],
    ),
    (
        with_objects({"desc": "a <|im_end|>", "bbox_2d": [1, 2, 3, 4]}),
        ["spells the token <|im_end|>"],
    ),
    (with_objects({"desc": "cre\u0300me", "bbox_2d": [1, 2, 3, 4]}), ["NFC"]),
    (with_objects({"desc": "\ud83e", "bbox_2d": [1, 2, 3, 4]}), ["surrogate"]),
    *(
        (with_objects({"desc": "cup", "bbox_2d": box}), [word])
        for box, word in (
            ([3, 2, 1, 4], "inverted"),
            ([1, 4, 3, 2], "inverted"),
            ([1, 2, 1, 4], "no area"),
            ([1, 2, 3], "four numbers"),
            ([1, 2, None, 4], "not a number"),
            ([1, 2, True, 4], "not a number"),
            ([1, 2, NAN, 4], "not finite"),
            ([1, 2, 10**400, 4], "not finite"),
            ([-1, 2, 3, 4], "negative"),
            ([1, 2, 64.5, 4], "beyond the picture"),
            ([1, 2, 3, 96.5], "beyond the picture"),
            ([1, 2, 3, "4"], "'4'"),
            (tokens(3, 2, 1, 4), "inverted"),
            ([*tokens(1, 2, 3), "<|coord_1000|>"], "<|coord_1000|>"),
            ([*tokens(1, 2, 3), "<|coord_05|>"], "<|coord_05|>"),
            ([*tokens(1, 2, 3), 4], "mixes"),
            (tokens(1, 2, 3), "four numbers"),
        )
    ),
    *(
        (with_objects({"desc": "leaf", "poly": poly}), [word])
        for poly, word in (
            ([1, 1, 5, 1], "three x, y pairs"),
            ([1, 1, 5, 1, 5, 5, 5], "three x, y pairs"),
            ([1, 1, 5, 1, 9, 1], "no area"),
            ([10, 10, 20, 20, 30, 30], "no area"),
            ([10, 10, 20, 20, 20, 10, 10, 20], "no area"),
            ([30, 12, 28, 30, 10, 10], "begin at its top-most"),
            ([10, 10, 28, 30, 30, 12], "not clockwise"),
            ([10, 10, 30, 12, 28, 30, 10, 10], "repeats its first vertex"),
            (tokens(9, 8, 1, 9, 4, 6), "begin at its top-most"),
        )
    ),
    (with_objects(POLY, CUP), ["object 1", "(y1, x1)", "object 0"]),
    (with_objects({"desc": "b", "bbox_2d": [5, 2, 9, 9]}, CUP), ["object 1", "(y1, x1)"]),
    (with_objects(CUP, CUP), ["object 1: is object 0 again"]),
]


@pytest.mark.parametrize(("line", "named"), BROKEN)
def test_each_problem_is_said_once_with_its_line(tmp_path, line, named):
    other = GOOD | {"images": ["b.png"]}
    (problem,) = problems(tmp_path / "a.jsonl", other, b"", line)
    assert problem.startswith(":3: ")
    assert "\n" not in problem
    for word in named:
        assert word in problem


def test_every_problem_of_every_line_is_said(tmp_path):
    lines = [
        with_objects(
            {"desc": "", "bbox_2d": [1, 2, 3, 4]},
            {"desc": "<|coord_1|>", "bbox_2d": [5, 5, 1, 1]},
            POLY,
            CUP,
        ),
        GOOD | {"images": ["b.png"], "width": 1, "metadata": []},
        b"{",
        GOOD | {"images": ["b.png"]},
        GOOD,
    ]
    found = problems(tmp_path / "a.jsonl", *lines)
    assert Counter(problem.split(":")[1] for problem in found) == {
        "1": 4,
        "2": 3,
        "3": 1,
        "4": 1,
        "5": 1,
    }
    assert [p for p in found if "already" in p] == [
        ":4: the picture b.png stands in line 2 already",
        ":5: the picture a.png stands in line 1 already",
    ]


def test_a_picture_without_an_object_is_sound_beside_one_with(tmp_path):
    empty = GOOD | {"objects": []}
    assert problems(tmp_path / "a.jsonl", empty, GOOD | {"images": ["b.png"]}) == []
    assert problems(tmp_path / "a.jsonl", empty) == [
        ": no record holds an object: there is nothing to train on or to evaluate"
    ]
    assert len(problems(tmp_path / "a.jsonl", empty, b"{")) == 1, (
        "what a broken line holds is not known"
    )


def test_names_that_no_file_can_have_are_problems_of_their_lines(tmp_path):
    names = ["x" * 300, "\ud800.png", "\ud800.png", "two\nlines.png", "two\nlines.png"]
    found = problems(
        tmp_path / "a.jsonl", *(GOOD | {"images": [name]} for name in names), b"{", pictures=True
    )
    assert [problem.split(":")[1] for problem in found] == ["1", "2", "3", "3", "4", "5", "5", "6"]
    assert not any("\n" in problem for problem in found)
    for problem in found:
        problem.encode()
    assert "missing" in found[0]
    assert "stands in line 4 already" in found[6]


def test_pictures_are_decoded_within_what_a_conversion_decodes(tmp_path, recwarn):
    whole = picture(tmp_path / "whole.jpg", (64, 96)).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "large.png").write_bytes(png_header(12_800, 12_800))
    Image.new("RGB", (64, 96)).save(tmp_path / "a.dds")
    records = [GOOD | {"images": [name]} for name in ("whole.jpg", "cut.jpg", "large.png", "a.dds")]
    records[2] |= {"width": 12_800, "height": 12_800}
    for workers in (1, 2):
        counts: Counter[str] = Counter()
        (tmp_path / "a.jsonl").write_text(
            "".join(json.dumps(record) + "\n" for record in records * 20)
        )
        found = [
            p for p in validate(tmp_path / "a.jsonl", counts, workers=workers) if "already" not in p
        ]
        assert len(found) == 60
        for n, (problem, words) in enumerate(
            zip(found, ("truncated", "40 megapixels", "none of JPEG") * 20, strict=True)
        ):
            assert problem.startswith(f"{tmp_path / 'a.jsonl'}:{n // 3 * 4 + n % 3 + 2}: ")
            assert words in problem
        assert (counts["records"], counts["objects"], counts["problems"]) == (80, 80, 60 + 76)
    assert [str(warning.message) for warning in recwarn] == []


def test_pictures_must_be_there_readable_and_of_the_size_told(tmp_path):
    picture(tmp_path / "a.png", (64, 96))
    picture(tmp_path / "b.png", (96, 64))
    (tmp_path / "c.png").write_bytes(b"no picture")
    records = [GOOD | {"images": [name]} for name in ("a.png", "b.png", "c.png", "d.png")]
    found = problems(tmp_path / "a.jsonl", *records, pictures=True)
    for problem, words in zip(
        found, ("96 x 64 px, the record says 64 x 96", "not readable", "missing"), strict=True
    ):
        assert words in problem


@pytest.mark.parametrize("content", [None, b"", b"\n\n"])
def test_a_file_that_holds_nothing_is_a_problem(tmp_path, content):
    if content is not None:
        (tmp_path / "a.jsonl").write_bytes(content)
    counts: Counter[str] = Counter()
    (problem,) = validate(tmp_path / "a.jsonl", counts)
    assert str(tmp_path / "a.jsonl") in problem
    assert counts["problems"] == 1


@pytest.mark.usefixtures("in_tmp")
@pytest.mark.parametrize("geometry", ["bbox", "poly_prefer"])
@pytest.mark.parametrize("order", ["yx", "random"])
def test_what_is_converted_is_sound(geometry, order):
    many(Path("coco.json"), 20, objects=6)
    convert_annotations(
        settings(f"data.geometry={geometry}", f"data.order={order}"), Path("out"), 1
    )
    for split in ("train", "val"):
        counts: Counter[str] = Counter()
        assert list(validate(Path(f"out/{split}.jsonl"), counts)) == []
    assert counts["objects"] == 24


def test_scenes_are_sound(scenes):
    for split in ("train", "val"):
        assert list(validate(scenes.path / f"{split}.jsonl", Counter())) == []


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 40)), min_size=3, max_size=8))
def test_polygon_is_sound_in_the_contracts_order_alone(tmp_path_factory, points):
    flat = list(clockwise([v for p in points for v in p]))
    path = tmp_path_factory.mktemp("turns") / "a.jsonl"
    told = problems(path, with_objects({"desc": "leaf", "poly": flat}))
    assert not [p for p in told if "clockwise" in p or "top-most" in p]
    if not told:
        turned = flat[2:] + flat[:2]
        assert problems(path, with_objects({"desc": "leaf", "poly": turned})) or turned == flat


def test_the_command_prints_all_and_fails_where_there_is_one(tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    path.write_text(
        json.dumps(with_objects(CUP, CUP, {"desc": "leaf", "poly": tokens(9, 9, 12, 10, 8, 11)}))
        + "\n{\n"
    )
    with pytest.raises(SystemExit) as left:
        main(["validate", str(path), "--no-pictures"])
    assert left.value.code == 1
    told = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in told] == [f"{path}:1", f"{path}:2", str(path)]
    assert told[-1] == (
        f"{path}: 2 records, 3 objects (2 boxes, 1 polygons, 1 in coordinate tokens): "
        "2 problems in 2 lines"
    )
    path.write_text(json.dumps(GOOD) + "\n")
    main(["validate", str(path), "--no-pictures"])
    assert "0 problems" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["validate", str(path)])
    assert "a.png is missing" in capsys.readouterr().out


def test_it_imports_no_torch():
    program = (
        "import sys, coordexp.cli.arguments, coordexp.data.validate; "
        "import coordexp.data.coco.conversion; "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    assert done.stdout.strip() == "False"


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.sampled_from(["cup", "a.png", "<|coord_5|>"]),
        lambda inner: (
            st.lists(inner, max_size=5)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "images",
                        "width",
                        "height",
                        "objects",
                        "metadata",
                        "desc",
                        "bbox_2d",
                        "poly",
                        "order",
                    ]
                ),
                inner,
                max_size=6,
            )
        ),
        max_leaves=20,
    )
)
def test_no_json_makes_it_raise(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("any") / "a.jsonl"
    for line in (value, GOOD | {"objects": value}, with_objects(value), GOOD | {"metadata": value}):
        told = problems(path, line, pictures=True)
        try:
            read_records(path)
        except UserError:
            assert told, "what reading refuses is a problem"


# --- numbers that are no pixels ---------------------------------------------------------------


def boxes_in(unit: str, size: tuple[int, int], n: int = 40) -> list[dict]:
    """Records of `n` random boxes in pictures of this size, in px or another unit."""
    rng = np.random.default_rng(n)
    lines = []
    for i in range(n):
        x1, y1 = rng.uniform(0, 0.6, 2)
        x2, y2 = np.array((x1, y1)) + rng.uniform(0.05, 0.39, 2)
        per_side = {"px": (*size, *size), "fractions": (1,) * 4, "per cent": (100,) * 4,
                    "bins": (999,) * 4}[unit]  # fmt: skip
        box = [float(v * side) for v, side in zip((x1, y1, x2, y2), per_side, strict=True)]
        box = [round(v) if unit in ("px", "bins") else round(v, 4) for v in box]
        lines.append({"images": [f"{i}.png"], "width": size[0], "height": size[1],
                      "objects": [{"desc": "cup", "bbox_2d": box}]})  # fmt: skip
    return lines


@pytest.mark.parametrize("unit", ["fractions", "per cent", "bins"])
@pytest.mark.parametrize("size", [(640, 480), (1920, 1088), (512, 320)])
def test_numbers_that_are_no_pixels_are_one_problem(tmp_path, unit, size):
    (problem,) = problems(tmp_path / "a.jsonl", *boxes_in(unit, size))
    assert "40 of 40 objects look like x1, y1, x2, y2" in problem
    assert f"in {unit}" in problem
    assert ('"<|coord_12|>"' in problem) == (unit == "bins")
    assert "clip" not in problem


@pytest.mark.parametrize("size", [(640, 480), (1920, 1088), (1024, 1024), (1000, 1000)])
def test_pixels_are_no_problem(tmp_path, size):
    found = problems(tmp_path / "a.jsonl", *boxes_in("px", size))
    assert all("multiples of 32" in problem for problem in found)


def test_a_box_beyond_its_picture_is_still_told_to_be_clipped(tmp_path):
    lines = boxes_in("px", (640, 480))
    lines[7]["objects"][0]["bbox_2d"][2] = 700
    (problem,) = problems(tmp_path / "a.jsonl", *lines)
    assert problem.startswith(":8: ")
    assert "clip it" in problem


def test_whole_numbers_that_may_be_bins_are_noted_in_the_summary(tmp_path):
    for largest, told in ((999, True), (1000, False)):
        line = with_objects({"desc": "cup", "bbox_2d": [98, 195, 391, largest]})
        counts: Counter[str] = Counter()
        (tmp_path / "a.jsonl").write_text(json.dumps(line | {"width": 1024, "height": 1024}))
        assert list(validate(tmp_path / "a.jsonl", counts, pictures=False)) == []
        assert ("if these are bins, write them as tokens" in summary(counts)) == told


@pytest.mark.parametrize("name", ["bins_written_as_integers", "norm_eval/bins.norm"])
def test_cases_of_bins_without_tokens(name):
    path = LVIS.parents[1] / "cases" / "records" / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"needs {path}")
    counts: Counter[str] = Counter()
    found = list(validate(path, counts, pictures=False))
    assert "bins" in "\n".join([*found, summary(counts)])
    assert not any("clip" in problem for problem in found)
