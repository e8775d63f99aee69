"""The figure of who is best at each step, and the figures of the raw logs."""

from __future__ import annotations

import itertools
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from report_readers import Drawing, Mark, figures
from reports import METRICS, STEPS, change, study_files

from coordexp.report.style import looks
from coordexp.storage.files import read_json
from coordexp.storage.typed import write_sealed

FAMILIES = ("loss", "base_ce/loss", "coord_softce_w1/loss")
WINNERS = ["mixed"] * 6 + [None] * 2 + ["pure_ce"] * 10


@pytest.fixture(autouse=True)
def here(in_tmp: Path) -> Path:
    return in_tmp


@pytest.fixture(scope="module")
def default_figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Drawing]:
    """The figures of a study with every part there."""
    with chdir(tmp_path_factory.mktemp("default")):
        return figures(study_files())


def changing_winners() -> Drawing:
    """The panel of MAE: mixed is best at first, then two steps are tied, then pure_ce is best."""
    cells = [{"step": s, "winner": winner} for s, winner in zip(STEPS, WINNERS, strict=True)]
    stability = {
        "winners": cells,
        "last_winner": "pure_ce",
        "settled_from": 360,
        "leave_one_block_out": ["pure_ce", "mixed", None],
        "share": 0.75,
    }
    study = study_files()
    change(study, "comparison", lambda c: c.update(stability={"expected_bin_mae": stability}))
    return figures(study)["ranks"]


def test_cells_show_the_best_variant_of_each_step() -> None:
    cells = changing_winners().panel("expected_bin_mae").marks("cell")
    assert [cell.data("step") for cell in cells] == [str(step) for step in STEPS]
    assert [cell.data("winner") or None for cell in cells] == WINNERS
    colours = {v: look.colour for v, look in looks(["softce_w1_gate", "pure_ce", "mixed"]).items()}
    for cell, winner in zip(cells, WINNERS, strict=True):
        assert cell.tooltip == f"step {cell.data('step')}: {winner or 'a tie'}"
        assert cell.hollow == (winner is None)
        if winner:
            assert cell.colour == colours[winner]
    xs = [cell.centre[0] for cell in cells]
    assert xs == sorted(xs)


def test_cells_have_markers_beside_their_colours() -> None:
    markers = changing_winners().panel("expected_bin_mae").marks("winner")
    assert [marker.data("winner") for marker in markers] == [w for w in WINNERS if w]
    assert outline(markers[0]) != outline(markers[-1]), "variants are told apart without colour"
    assert outline(markers[0]) == outline(markers[1])


def outline(marker: Mark) -> set[tuple[float, float]]:
    """The corners of a marker about its centre."""
    middle_x, middle_y = marker.centre
    return {(round(x - middle_x, 1), round(y - middle_y, 1)) for x, y in marker.corners}


def test_summary_tells_when_how_often_and_without_which_block() -> None:
    panel = changing_winners().panel("expected_bin_mae")
    assert [mark.words for mark in panel.marks("settled")] == ["step 360"]
    assert [mark.words for mark in panel.marks("share")] == ["75 %"]
    assert [mark.data("winner") for mark in panel.marks("last-winner")] == ["pure_ce"]
    blocks = panel.marks("without-block")
    assert [mark.data("winner") for mark in blocks] == ["pure_ce", "mixed", ""]
    assert blocks[2].words == "="


def test_bracket_spans_the_declared_window() -> None:
    drawing = changing_winners()
    cells = drawing.panel("expected_bin_mae").marks("cell")
    (bracket,) = drawing.marks("window")
    left, right = (float(bracket.node.get(side, "")) for side in ("x1", "x2"))
    assert left == pytest.approx(cells[STEPS.index(400)].centre[0], abs=2)
    last = cells[STEPS.index(720)].node
    end = float(last.get("x", "")) + float(last.get("width", ""))
    assert right == pytest.approx(end, abs=2)


def test_narrow_cells_have_no_markers_and_spaced_labels() -> None:
    steps = tuple(range(10, 2001, 10))
    both = {"pure_ce": steps, "mixed": steps}
    study = study_files(("pure_ce", "mixed"), steps=both, tables=False)
    drawing = figures(study)["ranks"]
    assert len(drawing.marks("cell")) == 200 * len(METRICS)
    assert not drawing.marks("winner")
    labels = sorted(label.centre[0] for label in drawing.axis_labels("x"))
    assert min(b - a for a, b in itertools.pairwise(labels)) > 25, "step labels overlap"


def test_ratios_have_a_panel_for_each_family_and_variant() -> None:
    drawing = figures(study_files(("softce_w1_gate", "pure_ce")))["ratios"]
    titles = [words for words in drawing.texts() if words in FAMILIES]
    assert titles == list(FAMILIES)
    for variant, family in itertools.product(("softce_w1_gate", "pure_ce"), FAMILIES):
        panel = drawing.panel(family, variant=variant)
        applicable = (variant, family) != ("pure_ce", "coord_softce_w1/loss")
        assert len(panel.marks("not-applicable")) == (not applicable)
        assert len(panel.marks("ratio", step=STEPS[-1])) == applicable
        assert [label.words for label in panel.axis_labels("y")] == ["0.9", "1", "1.1"]


def test_ratios_before_the_collapse_ends_are_faint() -> None:
    drawing = figures(study_files(("softce_w1_gate", "pure_ce")))["ratios"]
    before, counted = drawing.marks("before-collapse"), drawing.marks("counted")
    assert [len(line.corners) for line in before] == [3] * 5
    assert [len(line.corners) for line in counted] == [len(STEPS) - 3] * 5
    opacities = [float(line.node.get("stroke-opacity", "")) for line in (before[0], counted[0])]
    assert opacities[0] < 0.5 * opacities[1]
    assert not drawing.marks("ratio", step=STEPS[0]), "they have no markers"


def test_ratio_outside_its_panel_is_drawn_at_the_edge() -> None:
    study = study_files(("softce_w1_gate", "pure_ce"))

    def far(audit: dict[str, Any]) -> None:
        for run in audit["runs"]:
            run["families"]["loss"]["pairs"][0]["ratio"] = 40.0

    drawing = figures(change(study, "audit", far))["ratios"]
    ys = [y for line in drawing.marks("before-collapse") for _, y in line.corners]
    assert min(ys) >= 34, "the top of the first panel"


def test_scaling_fault_has_a_logarithmic_axis() -> None:
    study = study_files(("pure_ce", "mixed"))

    def eighth(audit: dict[str, Any]) -> None:
        for pair in audit["runs"][1]["families"]["loss"]["pairs"]:
            pair["ratio"] /= 8

    drawing = figures(change(study, "audit", eighth))["ratios"]
    ratio = read_json(study / "audit.json")["runs"][1]["families"]["loss"]["pairs"][-1]["ratio"]
    assert ratio < 0.2
    panel = drawing.panel("loss", variant="mixed")
    assert "0.9" not in [label.words for label in panel.axis_labels("y")]
    (mark,) = panel.marks("ratio", step=STEPS[-1])
    assert panel.y_axis(log=True)(mark.centre[1]) == pytest.approx(ratio, rel=0.01)


def test_losses_of_a_diverged_run_end_with_a_cross() -> None:
    study = study_files(("pure_ce", "mixed"))
    log = diverge("mixed")
    log.write_text(log.read_text().replace('"loss": 1.', '"loss": NaN, "was": 1.', 5))
    drawing = figures(study)["losses"]
    panel = drawing.panel("mixed")
    (line,) = panel.marks("train", of="mixed s0")
    crosses = panel.marks("diverged", of="mixed s0")
    assert len(crosses) == 2
    for stroke in crosses:
        assert stroke.centre == pytest.approx(line.corners[-1], abs=0.1)
    assert "s0 diverged" in panel.texts()
    assert not drawing.panel("pure_ce").marks("diverged")


def diverge(variant: str) -> Path:
    """Set the status of a variant's run; returns the path of its log."""
    manifest = Path(f"results/runs/{variant}/s0-0123abcd/run.json")
    write_sealed(manifest, read_json(manifest) | {"status": "diverged", "reason": "loss nan"})
    return manifest.with_name("logging.jsonl")


def test_losses_have_a_panel_for_each_variant() -> None:
    drawing = figures(study_files(("pure_ce", "mixed")))["losses"]
    for variant in ("pure_ce", "mixed"):
        panel = drawing.panel(variant)
        (point,) = panel.marks("eval", of=f"{variant} s0", step=720)
        assert point.tooltip.startswith(f"{variant} s0, step 720: eval loss")
        (line,) = panel.marks("train", of=f"{variant} s0")
        assert len(line.corners) == len(STEPS)


def test_slices_say_how_many_tokens_they_hold(default_figures: dict[str, Drawing]) -> None:
    drawing = default_figures["slices"]
    slots, sizes = drawing.panel("slots"), drawing.panel("sizes")
    assert [mark.words for mark in slots.marks("count")] == ["n = 764"] * 4
    assert [mark.words for mark in sizes.marks("count")] == ["n = 1000"] * 3
    assert [label.words for label in slots.axis_labels("x")] == ["x1", "y1", "x2", "y2"]
    assert sizes.axis_labels("x")[0].words == "small, < 32² px"


def test_slice_with_a_smaller_error_stands_lower() -> None:
    study = study_files()
    panel = figures(study)["slices"].panel("sizes")
    maes = read_json(study / "comparison.json")["slices"]["pure_ce"]["by_box_size"]
    read = panel.y_axis()
    for name, mae in maes.items():
        (mark,) = panel.marks("point", variant="pure_ce", slice=name)
        assert read(mark.centre[1]) == pytest.approx(mae, rel=0.01)
