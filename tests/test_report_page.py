"""The page: everything a doubter asks, in order, from the study's files, and nothing from outside it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from report_readers import QUESTIONS, page
from reports import METRICS, change, study_files

from coordexp.report.svg import INK, PAPER
from coordexp.storage.files import read_json
from coordexp.storage.typed import write_typed
from coordexp.tracking.files import ImportedStudy


@pytest.fixture(autouse=True)
def here(in_tmp: Path) -> Path:
    return in_tmp


def test_everything_is_inside_the_one_file() -> None:
    found = page(study_files())
    assert {tag for tag, _ in found.tags} & {
        "script",
        "img",
        "iframe",
        "object",
        "embed",
        "base",
        "form",
        "image",
        "use",
    } == set()
    for tag, attributes in found.tags:
        assert not any(name.startswith("on") for name in attributes), f"<{tag}> has a handler"
        for name in {
            "src",
            "href",
            "xlink:href",
            "srcset",
            "action",
            "data",
            "poster",
        } & attributes.keys():
            assert (attributes[name] or "").startswith(("#", "data:")) or tag == "a", (
                f"<{tag} {name}={attributes[name]}>"
            )
    assert "url(" not in found.html
    assert "@import" not in found.html
    (policy,) = [
        a["content"]
        for tag, a in found.tags
        if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert (policy or "").startswith("default-src 'none'")


def test_sections_come_in_the_order_a_doubter_would_ask_and_ids_are_unique() -> None:
    found = page(study_files())
    assert [attributes.get("id") for tag, attributes in found.tags if tag == "h2"] == QUESTIONS
    links = [
        str(attributes["href"])
        for tag, attributes in found.tags
        if tag == "a" and str(attributes["href"]).startswith("#")
    ]
    assert links == [f"#{name}" for name in QUESTIONS]
    assert re.findall(r"<h2[^>]*>(\d+)\. ", found.html) == [
        str(number + 1) for number in range(len(QUESTIONS))
    ]
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids)) > 12


def test_the_card_says_what_the_recommendation_says_and_no_more_where_there_is_no_more() -> None:
    study = study_files()
    change(
        study,
        "recommendation",
        lambda r: r.update(caveats=["a caveat"], would_take=["five more seeds"]),
    )
    imported = ImportedStudy("1", {}, "c", {}, "http://127.0.0.1:5000/#/experiments/1")
    write_typed(study / "mlflow.json", imported)
    found = read_json(study / "recommendation.json")
    card = page(study).card
    assert "Start Stage-2 from pure_ce (seed 0, step 720)" in card
    for line in (
        *found["would_overturn"],
        "five more seeds",
        "a caveat",
        *(g["reason"] for g in found["confidence"].values()),
    ):
        assert line in card
    for role in ("primary", "secondary"):
        assert found[role]["checkpoint"] in card
    assert "http://127.0.0.1:5000/#/experiments/1" in card
    (study / "mlflow.json").unlink()
    bare = page(study_files(bare=True)).card
    for words in ("checkpoint", "MLflow", "What it would take", "Caveats", "Not eligible"):
        assert words not in bare


def test_figures_take_the_pages_own_ink_and_paper() -> None:
    study = study_files()
    drawn = "".join(re.findall(r"<svg.*?</svg>", page(study).html, flags=re.S))
    assert drawn.count("currentColor") > 100
    assert not {INK, PAPER} & set(re.findall(r"#[0-9a-f]{6}", drawn)), (
        "they could not follow a dark screen"
    )
    assert INK in (study / "figures" / "curves.svg").read_text(), "the file by itself has its own"


def test_alerts_stand_above_everything_in_red() -> None:
    study = study_files()
    assert "alerts" not in {a.get("class") for _, a in page(study).tags}
    found = page(
        change(study, "recommendation", lambda r: r.update(alerts=["THE RULE WAS EDITED <b>"]))
    )
    html = found.html[: found.html.index("<h1>")]
    assert '<section class="alerts" role="alert">' in html
    assert "THE RULE WAS EDITED &lt;b&gt;" in html
    assert re.search(r"\.alerts \{[^}]*var\(--bad\)", html)


def test_every_number_of_the_snapshot_is_there_and_the_best_is_bold() -> None:
    study = study_files()
    rows = read_json(study / "comparison.json")["snapshots"][0]["rows"]
    found = page(study)
    section = found.html[found.html.index('id="snapshots"') : found.html.index('id="curves"')]
    for row in rows:
        for metric in METRICS:
            value = row["values"][metric]
            shown = f"{value:.2f}" if metric in METRICS[:3] else f"{value:.4f}"
            assert (
                f'<td class="n{" best" if row["variant"] == "pure_ce" else ""}">{shown}' in section
            )
    assert "0.9700" in section


@pytest.mark.parametrize(
    ("seeds", "says", "not_said"),
    [
        (
            1,
            [
                "paired bootstrap over the validation images",
                "not what another seed would",
                "There are no p-values",
            ],
            ["Satterthwaite"],
        ),
        (
            3,
            ["seeds and images are both random and crossed", "Holm", "seeds 25 %", "0.04"],
            ["bootstrap", "no p-values"],
        ),
    ],
)
def test_how_the_intervals_were_made_is_said_in_words(
    seeds: int, says: list[str], not_said: list[str]
) -> None:
    section = page(study_files(seeds=seeds)).section("evidence")
    for words in (
        *says,
        "over mixed",
        "P > 0.99",
        "inconclusive",
        "margin 0.5",
        "pure_ce, the primary, against every rival",
    ):
        assert words in section, words
    for words in not_said:
        assert words not in section, words


def test_without_intervals_nothing_is_claimed_and_the_window_is_described() -> None:
    section = page(study_files(bare=True)).section("evidence")
    for words in (
        "no intervals, and no claim",
        "over the 9 evaluations of the declared window",
        "ahead at 100 %",
    ):
        assert words in section
    for words in ("inconclusive", "superior", "P 0.", "P >", "Holm", "What was to be confirmed"):
        assert words not in section, words


def test_the_stability_of_the_order_is_said() -> None:
    study = study_files()

    def unsettle(comparison: dict[str, Any]) -> None:
        comparison["stability"]["p_gt_mean"] |= {
            "settled_from": None,
            "last_winner": None,
            "share": 0.0,
        }
        comparison["stability"]["w1_to_delta"]["leave_one_block_out"] = ["pure_ce"] * 4

    section = page(change(study, "comparison", unsettle)).section("curves")
    assert "MAE pure_ce 400 100 1 of 4 change it, to a tie" in section
    assert "W1 to GT pure_ce 400 100 the same, whichever" in section
    assert "p(GT) several are equal – 0" in section
    assert "9 evaluations from step 400 to 720" in section


def test_the_audit_is_told_run_by_run_and_check_by_check() -> None:
    study = study_files()

    def fail(audit: dict[str, Any]) -> None:
        mixed = audit["runs"][2]
        mixed |= {
            "passed": False,
            "verdict": "≈ 1/GAS",
            "why": "ratio 0.125",
            "overfit_ratio": 1.31,
            "warnings": ["a torn line"],
        }
        mixed["checks"][1] |= {"passed": False, "detail": "eeee against dddd"}
        mixed["families"]["loss"] |= {"median": None, "n": 0}
        audit["runs"][0]["not_checked"] = audit["runs"][2]["not_checked"] = ["no token tables"]

    section = page(change(study, "audit", fail)).section("audit")
    for words in (
        "✗ ≈ 1/GAS", "✓ consistent", "1.310", "missing", "not applicable", "a torn line", "same data ✗ 1 of 3", "text_ce/ loss",
        "dddddddddddd softce_w1_gate s0, pure_ce s0", "eeee against dddd mixed s0", "soft_ce", "has evaluations ✓ 18 eval rows",
        "no token tables softce_w1_gate s0, mixed s0", "mixed s0: ≈ 1/GAS; ratio 0.125",
    ):  # fmt: skip
        assert words in section, words
    assert "Could not be checked" not in page(study_files()).section("audit")


def test_temperatures_plateaus_and_the_floor() -> None:
    study = study_files(seeds=3)
    change(study, "comparison", lambda c: c["winners"]["own"].update(p_gt_mean="mixed"))

    def one_flat(comparison: dict[str, Any]) -> None:
        first = next(
            row
            for row in comparison["plateau"]
            if row["variant"] == "mixed" and row["metric"] == "expected_bin_mae"
        )
        first |= {"flat": True, "slope_percent_per_100_steps": -0.5, "level": 24.56}

    found = page(change(study, "comparison", one_flat))
    temperature = found.section("temperature")
    assert "p(GT): pure_ce is best at T = 1, mixed at own T" in temperature
    assert temperature.count("softce_w1_gate") == 3
    assert "0.70" in temperature
    plateau = found.section("plateau")
    assert "24.36 −2.6 to −0.5, 1 of 3 flat" in plateau, "mean of 24.26, 24.26 and 24.56"
    assert "−2.6, moving" in plateau
    assert "On 3 of 5 metrics." in plateau
    assert "MAE, bins 0.60 0.40 differ by more than the drift" in plateau
    assert (
        "15.1 px on the median image side of 640 px (23.63 / 999 · 639 px), 11.3 to 15.1 px on sides of 480 to 640 px"
        in plateau
    )
    assert "0.47 of a visual token's 32 px cell" in plateau
    assert "What it suggests: 0.47 of a cell. What would test it: a larger image." in plateau


def test_a_floor_without_a_cell_and_of_one_size() -> None:
    study = study_files()
    change(study, "comparison", lambda c: c["resolution_limit"].update(
        cell_px=None, best_mae_cells=None, side_px=[640, 640, 640], p90_bins=None, p90_px=None))  # fmt: skip
    plateau = page(study).section("plateau")
    assert "15.1 px on an image side of 640 px (23.63 / 999 · 639 px). What it suggests" in plateau


def test_when_the_rule_was_written_is_told() -> None:
    study = study_files()
    assert "before any of its 3 runs had an evaluation" in page(study).section("rule")
    earlier = {"study": "stage1_ablation", "hash8": "f89a4c60", "written_at": "2025-12-01T00:00:00+00:00", "seeds": 1,
               "rule_sha256": "b" * 64, "changed": ["window 0.25 (now 0.5)"]}  # fmt: skip

    def later(plan: dict[str, Any]) -> None:
        plan["runs"][0] |= {"existing": True}
        plan["runs"][1] |= {"existing": True, "registered": True}
        plan |= {"earlier_studies": [earlier], "rule_sha256": "c" * 64}

    section = page(change(study, "preregistration", later)).section("rule")
    assert "after 1 of 3 runs had results: softce_w1_gate s0." in section
    assert "window 0.25 (now 0.5)" in section
    assert "is not the rule that was written down (cccccccccccc)" in section
