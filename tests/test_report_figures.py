"""Curves, leads and the decision step: every mark stands where its number says."""

from __future__ import annotations

from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from report_readers import Drawing, corners, figures
from reports import METRICS, STEPS, change, study_files, value

from coordexp.report.curves import leads_of
from coordexp.storage.files import read_json

MAE = "expected_bin_mae"


@pytest.fixture(autouse=True)
def here(in_tmp: Path) -> Path:
    return in_tmp


@pytest.fixture(scope="module")
def default_figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Drawing]:
    """The figures of a study with every part there."""
    with chdir(tmp_path_factory.mktemp("default")):
        return figures(study_files())


@pytest.mark.parametrize("metric", ["coord_token_acc", MAE])
def test_points_of_a_curve_stand_at_their_values(
    metric: str, default_figures: dict[str, Drawing]
) -> None:
    panel = default_figures["curves"].panel(metric)
    read = panel.y_axis(log=metric == MAE)
    for step in (80, 640, 720):
        expected = value("pure_ce", 0, step, metric)
        (point,) = panel.marks("point", of="pure_ce", step=step)
        assert read(point.centre[1]) == pytest.approx(expected, rel=2e-3)
        assert point.tooltip == f"pure_ce, step {step}: {expected:.4g}"


def test_interval_band_spans_its_bounds_at_every_step(default_figures: dict[str, Drawing]) -> None:
    panel = default_figures["curves"].panel("coord_token_acc")
    read = panel.y_axis()
    (band,) = panel.marks("interval", of="pure_ce")
    assert len(band.corners) == 2 * len(STEPS)
    upper, lower = band.corners[: len(STEPS)], band.corners[: len(STEPS) - 1 : -1]
    for (x_high, y_high), (x_low, y_low), step in zip(upper, lower, STEPS, strict=True):
        middle = value("pure_ce", 0, step, "coord_token_acc")
        assert x_high == x_low
        assert read(y_low) == pytest.approx(0.97 * middle, abs=2e-4)
        assert read(y_high) == pytest.approx(1.03 * middle, abs=2e-4)


def test_each_metric_has_a_band_for_each_variant(default_figures: dict[str, Drawing]) -> None:
    drawing = default_figures["curves"]
    for metric in METRICS:
        assert len(drawing.panel(metric).marks("interval")) == 3


def test_single_interval_is_a_vertical_bar() -> None:
    study = study_files(("pure_ce", "mixed"))
    change(study, "comparison", lambda c: keep(c, "bands", step=720))
    bars = figures(study)["curves"].marks("interval")
    assert len(bars) == 2 * len(METRICS)
    for bar in bars:
        assert len({x for x, _ in bar.corners}) == 1
        assert len({y for _, y in bar.corners}) == 2


def test_curves_without_intervals_have_no_band_and_no_note() -> None:
    study = study_files(("pure_ce", "mixed"))
    change(study, "comparison", lambda c: c.update(bands=[]))
    drawing = figures(study)["curves"]
    assert not drawing.marks("interval")
    notes = [note.words for note in drawing.marks("note")]
    assert notes
    assert not any("interval" in words for words in notes)


def keep(comparison: dict[str, Any], key: str, **wanted: Any) -> None:
    """Keep only those rows of a list that have these values."""
    rows = comparison[key]
    comparison[key] = [row for row in rows if wanted.items() <= row.items()]


def test_mean_over_seeds_stops_where_a_seed_is_missing() -> None:
    study = study_files(("pure_ce", "mixed"), seeds=3)

    def cut(comparison: dict[str, Any]) -> None:
        third = {"variant": "pure_ce", "seed": 2}
        rows = comparison["curves"]
        comparison["curves"] = [
            r for r in rows if r["step"] <= 400 or not third.items() <= r.items()
        ]

    drawing = figures(change(study, "comparison", cut))["curves"]
    panel = drawing.panel("p_gt_mean")
    mean = sum(value("pure_ce", seed, 400, "p_gt_mean") for seed in range(3)) / 3
    (last,) = panel.marks("point", of="pure_ce", step=400)
    assert last.tooltip == f"pure_ce, step 400: {mean:.4g}"
    for panel in drawing.panels():
        assert (
            max(int(point.data("step") or 0) for point in panel.marks("point", of="pure_ce")) == 400
        )


def test_several_seeds_are_drawn_each_and_explained() -> None:
    drawing = figures(study_files(("pure_ce", "mixed"), seeds=3))["curves"]
    for metric in METRICS:
        for variant in ("pure_ce", "mixed"):
            curves = drawing.panel(metric).marks("seed-curve", of=variant)
            assert [curve.data("seed") for curve in curves] == ["0", "1", "2"]
            assert all(len(curve.corners) == len(STEPS) for curve in curves)
    assert "thin: seeds, thick: their mean" in drawing.texts()


def test_single_seed_is_drawn_once(default_figures: dict[str, Drawing]) -> None:
    assert not default_figures["curves"].marks("seed-curve")


def test_lead_curve_is_positive_where_the_primary_is_better(
    default_figures: dict[str, Drawing],
) -> None:
    drawing = default_figures["leads"]
    lower = value("mixed", 0, 720, MAE) - value("pure_ce", 0, 720, MAE)
    assert lower > 0, "pure_ce has the lower error"
    higher = value("pure_ce", 0, 720, "coord_token_acc") - value("mixed", 0, 720, "coord_token_acc")
    assert higher > 0, "pure_ce has the higher accuracy"
    for metric, lead in ((MAE, lower), ("coord_token_acc", higher)):
        panel = drawing.panel(metric)
        (point,) = panel.marks("point", of="over mixed", step=720)
        assert panel.y_axis()(point.centre[1]) == pytest.approx(lead, rel=0.02)
        assert point.tooltip == f"over mixed, step 720: {lead:.4g}"


def test_lead_curve_begins_after_the_collapse(default_figures: dict[str, Drawing]) -> None:
    panel = default_figures["leads"].panel(MAE)
    steps = [int(point.data("step") or 0) for point in panel.marks("point", of="over mixed")]
    assert steps == list(range(160, 721, 80))


def test_margin_band_spans_the_margin(default_figures: dict[str, Drawing]) -> None:
    panel = default_figures["leads"].panel(MAE)
    read = panel.y_axis()
    (margin,) = panel.marks("margin")
    assert [read(y) for y in margin.top_and_bottom] == pytest.approx([0.5, -0.5], abs=0.01)
    assert margin.tooltip == "margin: ±0.5"


def test_leads_pair_the_seeds_and_steps_of_both() -> None:
    first, second = {0: {40: 1.0, 80: 2.0}, 1: {40: 5.0}}, {0: {40: 4.0}, 2: {40: 9.0}}
    assert leads_of(first, second, lower_is_better=True) == {0: {40: 3.0}}
    assert leads_of(first, second, lower_is_better=False) == {0: {40: -3.0}}


def resolved_over_mixed() -> Drawing:
    """The primary's leads over mixed have narrow intervals, those over softce_w1_gate wide ones."""

    def set_widths(comparison: dict[str, Any]) -> None:
        for d in comparison["differences"]:
            half = 0.01 if d["second"] == "mixed" else 100.0
            d["interval"] |= {"low": d["difference"] - half, "high": d["difference"] + half}

    return figures(change(study_files(), "comparison", set_widths))["effects"]


def test_lead_is_hollow_where_its_interval_holds_zero() -> None:
    drawing = resolved_over_mixed()
    over_mixed = drawing.marks("lead", variant="pure_ce", over="mixed")
    over_softce = drawing.marks("lead", variant="pure_ce", over="softce_w1_gate")
    assert [mark.hollow for mark in over_mixed] == [False] * len(METRICS)
    assert [mark.hollow for mark in over_softce] == [True] * len(METRICS)


def test_each_lead_has_its_verdict_and_interval() -> None:
    drawing = resolved_over_mixed()
    unsure = drawing.marks("verdict", over="softce_w1_gate")
    assert [mark.words for mark in unsure] == ["inconclusive"] * len(METRICS)
    sure = [mark.words for mark in drawing.marks("verdict", over="mixed")]
    assert "superior" in sure
    assert "inconclusive" not in sure
    for rival in ("mixed", "softce_w1_gate"):
        assert len(drawing.marks("interval", over=rival)) == len(METRICS)


def test_lead_stands_inside_its_interval(default_figures: dict[str, Drawing]) -> None:
    for panel in default_figures["effects"].panels(panel="leads"):
        for rival in ("mixed", "softce_w1_gate"):
            (lead,) = panel.marks("lead", over=rival)
            (interval,) = panel.marks("interval", over=rival)
            (low, y_low), (high, y_high) = interval.corners
            assert low < lead.centre[0] < high
            assert y_low == y_high == pytest.approx(lead.centre[1], abs=0.5)


def test_adjusted_p_stands_at_the_confirmatory_claims_only(
    default_figures: dict[str, Drawing],
) -> None:
    drawing = figures(study_files(seeds=3))["effects"]
    assert len(drawing.marks("p-holm")) == 2
    panel = drawing.panel("leads", metric=MAE)
    for rival in ("mixed", "softce_w1_gate"):
        (note,) = panel.marks("p-holm", over=rival)
        (lead,) = panel.marks("lead", over=rival)
        assert note.words == "Holm p 0.04"
        assert 0 < note.centre[1] - lead.centre[1] < 20, "it stands under its lead"
    assert not default_figures["effects"].marks("p-holm"), "one seed has no p-values"


def test_lead_without_interval_has_no_verdict() -> None:
    drawing = figures(study_files(bare=True))["effects"]
    assert not drawing.marks("verdict")
    assert not drawing.marks("interval")
    assert len(drawing.marks("lead", over="mixed")) == len(METRICS)


def test_values_stand_in_order_with_their_numbers(default_figures: dict[str, Drawing]) -> None:
    drawing = default_figures["effects"]
    panel = drawing.panel("values", metric=MAE)
    at = {}
    for variant in ("softce_w1_gate", "pure_ce", "mixed"):
        (mark,) = panel.marks("value", variant=variant)
        at[variant] = mark.centre
        (number,) = panel.marks("number", variant=variant)
        assert number.words == f"{value(variant, 0, 720, MAE):.2f}"
    assert at["pure_ce"][0] < at["softce_w1_gate"][0] < at["mixed"][0], "the larger error is right"
    assert len({y for _, y in at.values()}) == 3, "each has its own row"
    (fraction,) = drawing.panel("values", metric="p_gt_mean").marks("number", variant="mixed")
    assert fraction.words == f"{value('mixed', 0, 720, 'p_gt_mean'):.4f}"


def test_values_of_several_seeds_are_ticks(default_figures: dict[str, Drawing]) -> None:
    panel = figures(study_files(seeds=2))["effects"].panel("values", metric=MAE)
    assert len(panel.marks("seed", variant="mixed")) == 2
    assert not default_figures["effects"].marks("seed")


def test_pairs_are_named_in_full_without_a_primary() -> None:
    study = study_files(("pure_ce", "mixed", "ce_split"))

    def tie(recommendation: dict[str, Any]) -> None:
        tied = [recommendation["primary"]]
        recommendation |= {"primary": None, "secondary": None, "optional": [], "tied": tied}

    rows = figures(change(study, "recommendation", tie))["effects"].marks("row")
    names = {row.words for row in rows}
    assert {"pure_ce over mixed", "pure_ce over ce_split", "mixed over ce_split"} <= names


@pytest.mark.parametrize(
    "variants",
    [("pure_ce", "mixed"), ("softce_w1_gate", "pure_ce", "mixed", "old/pure_ce", "ce_split")],
)
def test_figures_are_described_and_stay_on_their_sheet(variants: tuple[str, ...]) -> None:
    for name, drawing in figures(study_files(variants, seeds=2)).items():
        assert drawing.root.get("aria-label"), name
        width, height = (float(drawing.root.get(side, "")) for side in ("width", "height"))
        for node in drawing.nodes:
            assert not node.get("id"), "two figures on one page would share it"
            assert not any("nan" in content for content in node.attrib.values()), name
            for key, limit in (("x", width), ("y", height), ("cx", width), ("cy", height)):
                if node.get(key):
                    assert -1 <= float(node.get(key, "")) <= limit, (name, node.attrib, node.text)
            for x, y in corners(node):
                assert -1 <= x <= width, name
                assert -1 <= y <= height, name


EVERY_FIGURE = {"effects", "course", "curves", "ranks", "leads", "ratios", "slices", "losses"}
ONE_STEP = {"pure_ce": (40,), "mixed": (40,)}


@pytest.mark.parametrize(
    ("setting", "missing"),
    [
        ({}, set()),
        ({"bare": True}, {"slices"}),
        ({"variants": ("pure_ce",)}, {"ranks", "leads"}),
        ({"variants": ("pure_ce", "mixed"), "steps": ONE_STEP}, {"ranks", "leads"}),
    ],
    ids=["all", "bare logs", "one variant", "one step"],
)
def test_figure_without_its_numbers_is_not_drawn(
    setting: dict[str, Any], missing: set[str]
) -> None:
    assert figures(study_files(**setting)).keys() == EVERY_FIGURE - missing


def test_study_without_results_has_figures_of_its_logs() -> None:
    study = study_files()
    lists = ("common_steps", "snapshots", "curves", "bands", "differences", "plateau")
    empty: dict[str, Any] = {name: [] for name in lists}
    empty |= {"decision_step": None, "stability": {}, "slices": {}}
    empty |= {"window": {"share": 0.5, "steps": []}}
    change(study, "comparison", lambda c: c.update(empty))
    change(study, "recommendation", lambda r: r.update(primary=None, secondary=None, optional=[]))
    assert figures(study).keys() == {"ratios", "losses"}
    assert read_json(study / "comparison.json")["decision_step"] is None
