"""The strip of winners, and the figures of the raw logs."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from report_readers import SVG, axis, centre, corners, figures
from reports import METRICS, STEPS, change, study_files
from studies import run_manifest

from coordexp.report.svg import PAPER
from coordexp.storage.files import read_json
from coordexp.storage.manifest import write_manifest
from coordexp.storage.runs import RunDirectory


@pytest.fixture(autouse=True)
def here(in_tmp: Path) -> Path:
    return in_tmp


def test_a_cell_a_step_in_the_winners_look_and_hollow_where_tied() -> None:
    study = study_files()
    winners = ["mixed"] * 6 + [None] * 2 + ["pure_ce"] * 10
    cells = [{"step": step, "winner": winner} for step, winner in zip(STEPS, winners, strict=True)]
    found = {"winners": cells, "last_winner": "pure_ce", "settled_from": 360, "leave_one_block_out": ["pure_ce", "mixed", None],
             "share": 0.75}  # fmt: skip
    change(study, "comparison", lambda c: c.update(stability={"expected_bin_mae": found}))
    drawing = figures(study)["ranks"]
    rows = [r for r in drawing.all("rect") if (r.findtext(SVG + "title") or "").startswith("step ")]
    assert [r.findtext(SVG + "title") for r in rows] == [
        f"step {s}: {w or 'a tie'}" for s, w in zip(STEPS, winners, strict=True)
    ]
    colours = {"mixed": "#009e73", "pure_ce": "#d55e00", None: PAPER}
    assert [r.get("fill") for r in rows] == [colours[w] for w in winners]
    assert [r.get("stroke-dasharray") for r in rows] == [None if w else "2 2" for w in winners]
    xs = [float(r.get("x", "")) for r in rows]
    assert xs == sorted(xs)
    markers = [
        m.findtext(SVG + "title")
        for m in drawing.all("polygon")
        if m.find(SVG + "title") is not None
    ]
    assert markers[:16] == [f"step {s}: {w}" for s, w in zip(STEPS, winners, strict=True) if w], (
        "colour is not alone"
    )
    assert {"step 360", "75 %", "="} <= set(drawing.texts())
    assert [m.get("fill") for m in drawing.hinted("without block")] == ["#d55e00", "#009e73"]
    bracket = drawing.all("line", y1="40", y2="40")[0]
    first_inside = xs[STEPS.index(400)]
    assert float(bracket.get("x1", "")) == pytest.approx(first_inside, abs=2)


def test_many_steps_keep_their_cells_and_lose_their_markers() -> None:
    steps = tuple(range(10, 2001, 10))
    study = study_files(
        ("pure_ce", "mixed"), steps={"pure_ce": steps, "mixed": steps}, tables=False
    )
    drawing = figures(study)["ranks"]
    assert len([r for r in drawing.all("rect") if r.find(SVG + "title") is not None]) == 200 * len(
        METRICS
    )
    assert {mark.tag for mark in drawing.hinted("step ")} == {SVG + "rect"}
    labels = sorted(
        float(n.get("x", ""))
        for n in drawing.all("text", text_anchor="middle")
        if re.fullmatch(r"\d+", n.text or "")
    )
    assert min(b - a for a, b in itertools.pairwise(labels)) > 25, "step labels overlap"


def test_three_families_whatever_there_are_and_what_lies_before_the_collapse_stays_in_the_panel() -> (
    None
):
    study = study_files(("softce_w1_gate", "pure_ce"))

    def far(audit: dict[str, Any]) -> None:
        for entry in audit["runs"]:
            entry["families"]["loss"]["pairs"][0]["ratio"] = 40.0

    drawing = figures(change(study, "audit", far))["ratios"]
    assert [words for words in drawing.texts() if "/" in words or words == "loss"] == [
        "loss",
        "base_ce/loss",
        "coord_softce_w1/loss",
    ]
    assert drawing.texts().count("not applicable") == 1
    assert drawing.texts().count("0.9") == 6
    ys = [y for line in drawing.all("polyline") for _, y in corners(line)]
    assert min(ys) >= 34
    faint = drawing.all("polyline", stroke_opacity="0.35")
    assert [len(corners(line)) for line in faint] == [3] * 5
    marks = drawing.hinted(f"step {STEPS[-1]}: ")
    assert len(marks) == 5


def test_a_scaling_fault_has_a_logarithmic_axis() -> None:
    study = study_files(("pure_ce", "mixed"))

    def eighth(audit: dict[str, Any]) -> None:
        for pair in audit["runs"][1]["families"]["loss"]["pairs"]:
            pair["ratio"] /= 8

    drawing = figures(change(study, "audit", eighth))["ratios"]
    assert "0.9" not in drawing.texts()
    ratio = read_json(study / "audit.json")["runs"][1]["families"]["loss"]["pairs"][-1]["ratio"]
    assert ratio < 0.2
    (mark,) = drawing.hinted(f"step {STEPS[-1]}: {ratio:.3f}")
    read = axis(drawing, (100, 200), (130, 230), log=True)
    assert read(centre(mark)[1]) == pytest.approx(ratio, rel=0.01)


def test_losses_end_with_a_cross_where_a_run_diverged() -> None:
    study = study_files(("pure_ce", "mixed"))
    run = RunDirectory(Path("results/runs/mixed/s0-0123abcd"))
    write_manifest(run, run_manifest(status="diverged", reason="loss nan"))
    log = run.log
    log.write_text(log.read_text().replace('"loss": 1.', '"loss": NaN, "was": 1.', 5))
    drawing = figures(study)["losses"]
    assert "s0 diverged" in drawing.texts()
    assert len(drawing.all("polyline", stroke_width="2")) == 2
    assert drawing.hinted("pure_ce s0, step 720: eval loss")
    assert {"pure_ce, nats", "mixed, nats"} <= set(drawing.texts())


def test_slices_say_how_many_tokens_stand_behind_them() -> None:
    drawing = figures(study_files())["slices"]
    assert {"n = 764", "n = 1000", "small, < 32² px", "x1"} <= set(drawing.texts())
    sizes = [
        centre(drawing.hinted(f"pure_ce, {name}: ")[0])[1] for name in ("small", "medium", "large")
    ]
    assert sizes == sorted(sizes), "a smaller error stands lower"
