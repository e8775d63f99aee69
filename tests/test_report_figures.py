"""Curves, leads and the decision step: every mark stands where its number says, read back from the SVG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from report_readers import axis, centre, corners, figures
from reports import METRICS, STEPS, change, study_files, value

from coordexp.report.curves import leads_of
from coordexp.report.svg import PAPER
from coordexp.storage.files import read_json


@pytest.fixture(autouse=True)
def here(in_tmp: Path) -> Path:
    return in_tmp


def test_every_marker_stands_at_its_value_on_its_axis() -> None:
    drawing = figures(study_files())["curves"]
    panels = {"coord_token_acc": ((0, 60), (230, 430)), "expected_bin_mae": ((0, 60), (0, 215))}
    for metric, (x_between, y_between) in panels.items():
        read = axis(drawing, x_between, y_between, log=metric == "expected_bin_mae")
        for step in (80, 640, 720):
            expected = value("pure_ce", 0, step, metric)
            marks = [centre(m) for m in drawing.hinted(f"pure_ce, step {step}: {expected:.4g}")]
            assert [read(y) for _, y in marks] == [pytest.approx(expected, rel=2e-3)], (
                metric,
                step,
            )


def test_a_band_holds_its_interval_at_every_step() -> None:
    drawing = figures(study_files())["curves"]
    read = axis(drawing, (0, 60), (230, 430))
    in_panel = [corners(p) for p in drawing.all("polygon", fill_opacity="0.16", fill="#d55e00")]
    assert len(in_panel) == len(METRICS)
    (band,) = [b for b in in_panel if b[0][0] < 200 and b[0][1] > 230]
    assert len(band) == 2 * len(STEPS)
    upper, lower = band[: len(STEPS)], band[: len(STEPS) - 1 : -1]
    for (x_high, y_high), (x_low, y_low), step in zip(upper, lower, STEPS, strict=True):
        middle = value("pure_ce", 0, step, "coord_token_acc")
        assert x_high == x_low
        assert (read(y_low), read(y_high)) == (
            pytest.approx(0.97 * middle, abs=2e-4),
            pytest.approx(1.03 * middle, abs=2e-4),
        )


def test_one_step_with_a_token_table_has_a_bar_and_none_no_band() -> None:
    study = study_files(("pure_ce", "mixed"))
    change(
        study, "comparison", lambda c: c.update(bands=[b for b in c["bands"] if b["step"] == 720])
    )
    bars = figures(study)["curves"].all("polyline", stroke_opacity="0.3")
    assert len(bars) == 2 * len(METRICS)
    assert all(len({x for x, _ in corners(bar)}) == 1 for bar in bars)
    change(study, "comparison", lambda c: c.update(bands=[]))
    drawing = figures(study)["curves"]
    assert (
        drawing.all("polyline", stroke_opacity="0.3")
        == drawing.all("polygon", fill_opacity="0.16")
        == []
    )
    assert not any("interval" in words for words in drawing.texts())


def test_seeds_are_thin_lines_under_a_mean_that_stops_where_a_seed_is_missing() -> None:
    study = study_files(("pure_ce", "mixed"), seeds=3)
    cut = {"variant": "pure_ce", "seed": 2}
    change(study, "comparison", lambda c: c.update(
        curves=[r for r in c["curves"] if not (cut.items() <= r.items() and r["step"] > 400)]))  # fmt: skip
    drawing = figures(study)["curves"]
    assert len(drawing.all("polyline", stroke_width="0.9")) == 2 * 3 * len(METRICS)
    assert "thin: seeds, thick: their mean" in drawing.texts()
    mean = sum(value("pure_ce", seed, 400, "p_gt_mean") for seed in range(3)) / 3
    assert drawing.hinted(f"pure_ce, step 400: {mean:.4g}")
    assert not any(drawing.hinted(f"pure_ce, step {step}:") for step in STEPS if step > 400)


def test_leads_are_the_primarys_and_positive_where_it_is_better() -> None:
    study = study_files()
    drawing = figures(study)["leads"]
    read = axis(drawing, (0, 60), (0, 215))
    lead = value("mixed", 0, 720, METRICS[0]) - value("pure_ce", 0, 720, METRICS[0])
    assert lead > 0
    (mark,) = drawing.hinted(f"over mixed, step 720: {lead:.4g}")
    assert read(centre(mark)[1]) == pytest.approx(lead, abs=0.01)
    accuracy = value("pure_ce", 0, 720, "coord_token_acc") - value(
        "mixed", 0, 720, "coord_token_acc"
    )
    assert drawing.hinted(f"over mixed, step 720: {accuracy:.4g}")
    assert {step for step in STEPS if drawing.hinted(f"over mixed, step {step}:")} == set(
        range(160, 721, 80)
    ), "after the collapse"
    margin = drawing.hinted("margin: ±0.5")[0]
    top, height = float(margin.get("y", "")), float(margin.get("height", ""))
    assert (read(top), read(top + height)) == (
        pytest.approx(0.5, abs=0.01),
        pytest.approx(-0.5, abs=0.01),
    )


def test_leads_pair_seeds_and_steps() -> None:
    first, second = {0: {40: 1.0, 80: 2.0}, 1: {40: 5.0}}, {0: {40: 4.0}, 2: {40: 9.0}}
    assert leads_of(first, second, lower_is_better=True) == {0: {40: 3.0}}
    assert leads_of(first, second, lower_is_better=False) == {0: {40: -3.0}}


def test_a_lead_is_hollow_where_its_interval_holds_zero_and_says_its_verdict() -> None:
    study = study_files()

    def narrow(comparison: dict[str, Any]) -> None:
        for d in comparison["differences"]:
            half = 0.01 if d["second"] == "mixed" else 100.0
            d["interval"] |= {"low": d["difference"] - half, "high": d["difference"] + half}

    drawing = figures(change(study, "comparison", narrow))["effects"]
    over_mixed, over_softce = (
        drawing.hinted("over mixed: "),
        drawing.hinted("over softce_w1_gate: "),
    )
    assert len(over_mixed) == len(over_softce) == len(METRICS)
    # mixed comes second to pure_ce: its interval was narrowed; softce_w1_gate comes first, its was widened
    assert {mark.get("fill") for mark in over_softce} == {PAPER}
    assert PAPER not in {mark.get("fill") for mark in over_mixed}
    words = drawing.texts()
    assert words.count("inconclusive") == len(METRICS)
    assert "superior" in words
    lines = [corners(line) for line in drawing.all("polyline", stroke_width="2.4")]
    assert len(lines) == 2 * len(METRICS)


def test_the_adjusted_p_stands_at_the_claims_to_be_confirmed_and_nowhere_else() -> None:
    drawing = figures(study_files(seeds=3))["effects"]
    notes = [node for node in drawing.all("text") if (node.text or "").startswith("Holm p")]
    assert [note.text for note in notes] == ["Holm p 0.04"] * 2
    first_column = [centre(mark)[0] for mark in drawing.hinted("over ")[:2]]
    assert all(
        abs(float(note.get("x", "")) - x) < 90 for note, x in zip(notes, first_column, strict=True)
    )
    assert not any("Holm" in words for words in figures(study_files())["effects"].texts())


def test_no_interval_no_verdict() -> None:
    drawing = figures(study_files(bare=True))["effects"]
    assert not {"inconclusive", "superior", "better", "equivalent"} & set(drawing.texts())
    assert drawing.all("polyline", stroke_width="2.4") == []
    assert len(drawing.hinted("over mixed: ")) == len(METRICS)


def test_values_stand_in_order_with_their_numbers() -> None:
    drawing = figures(study_files())["effects"]
    at = {
        variant: centre(drawing.hinted(variant)[0])
        for variant in ("softce_w1_gate", "pure_ce", "mixed")
    }
    assert at["pure_ce"][0] < at["softce_w1_gate"][0] < at["mixed"][0], "MAE, to the right is worse"
    assert len({y for _, y in at.values()}) == 3
    assert f"{value('pure_ce', 0, 720, METRICS[0]):.2f}" in drawing.texts()
    assert f"{value('mixed', 0, 720, 'p_gt_mean'):.4f}" in drawing.texts()


def test_pairs_are_named_in_full_where_nobody_leads() -> None:
    study = study_files(("pure_ce", "mixed", "ce_split"))
    change(
        study,
        "recommendation",
        lambda r: r.update(primary=None, secondary=None, optional=[], tied=[r["primary"]]),
    )
    drawing = figures(study)["effects"]
    assert {"pure_ce over mixed", "pure_ce over ce_split", "mixed over ce_split"} <= set(
        drawing.texts()
    )


@pytest.mark.parametrize(
    "variants",
    [("pure_ce", "mixed"), ("softce_w1_gate", "pure_ce", "mixed", "old/pure_ce", "ce_split")],
)
def test_figures_are_described_hold_no_ids_and_stay_on_their_sheet(
    variants: tuple[str, ...],
) -> None:
    for name, drawing in figures(study_files(variants, seeds=2)).items():
        assert drawing.root.get("aria-label"), name
        assert not any(node.get("id") for node in drawing.nodes), (
            "two figures on one page would share it"
        )
        width, height = (float(drawing.root.get(side, "")) for side in ("width", "height"))
        for node in drawing.nodes:
            for key, limit in (("x", width), ("y", height), ("cx", width), ("cy", height)):
                if node.get(key):
                    assert -1 <= float(node.get(key, "")) <= limit, (name, node.attrib, node.text)
            for x, y in corners(node):
                assert -1 <= x <= width, name
                assert -1 <= y <= height, name
        assert not any(
            "nan" in content for node in drawing.nodes for content in node.attrib.values()
        ), name


def test_what_the_numbers_do_not_allow_is_not_drawn() -> None:
    everything = {"effects", "curves", "ranks", "leads", "ratios", "slices", "losses"}
    assert figures(study_files()).keys() == everything
    assert figures(study_files(bare=True)).keys() == everything - {"slices"}
    assert figures(study_files(("pure_ce",))).keys() == everything - {"ranks", "leads"}
    once = {"pure_ce": (40,), "mixed": (40,)}
    assert figures(study_files(("pure_ce", "mixed"), steps=once)).keys() == everything - {
        "ranks",
        "leads",
    }
    study = study_files()
    nothing: list[Any] = []
    empty = dict.fromkeys(
        ("common_steps", "snapshots", "curves", "bands", "differences", "plateau"), nothing
    )
    empty |= {
        "decision_step": None,
        "stability": {},
        "slices": {},
        "window": {"share": 0.5, "steps": []},
    }
    change(study, "comparison", lambda c: c.update(empty))
    change(study, "recommendation", lambda r: r.update(primary=None, secondary=None, optional=[]))
    assert figures(study).keys() == {"ratios", "losses"}
    assert read_json(study / "comparison.json")["decision_step"] is None
