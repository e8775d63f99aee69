"""The page: its sections and tables say what the study's files say; it loads nothing."""

from __future__ import annotations

import base64
import hashlib
import re
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from report_readers import QUESTIONS, Page, bullets_of, page, paragraphs_of, tables_of
from reports import LOWER, METRICS, change, study_files

from coordexp.analysis.comparison.findings import read_comparison
from coordexp.publish.results import judged_on
from coordexp.report.svg import INK, PAPER
from coordexp.storage.files import read_json, write_json

LOADING_TAGS = {"img", "iframe", "object", "embed", "base", "form", "image", "use"}
LOADING_ATTRIBUTES = {"src", "href", "xlink:href", "srcset", "action", "data", "poster"}
HEADINGS = {
    "expected_bin_mae": "MAE",
    "expected_bin_abs_err_p90": "p90",
    "w1_to_delta": "W1 to GT",
    "coord_token_acc": "coord acc",
    "p_gt_mean": "p(GT)",
}


@pytest.fixture(autouse=True)
def here(in_tmp: Path) -> Path:
    return in_tmp


@pytest.fixture(scope="module")
def default_page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The page of a study with every part there."""
    with chdir(tmp_path_factory.mktemp("default")):
        return page(study_files())


def test_page_needs_nothing_beside_its_file(default_page: Page) -> None:
    assert not default_page.tags & LOADING_TAGS
    for node in default_page.nodes:
        handlers = [name for name in node.attributes if name.startswith("on")]
        assert not handlers, f"<{node.tag}> has a handler"
        if node.tag == "a":
            continue
        for name in LOADING_ATTRIBUTES & node.attributes.keys():
            value = node.attributes[name] or ""
            assert value.startswith(("#", "data:")), f"<{node.tag} {name}={value}>"
    assert "url(" not in default_page.html
    assert "@import" not in default_page.html
    (policy,) = [
        node.attributes["content"]
        for node in default_page.root.all("meta")
        if node.attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert (policy or "").startswith("default-src 'none'")


def test_page_allows_its_own_script_and_no_other(default_page: Page) -> None:
    (script,) = default_page.root.all("script")
    (code,) = script.children
    digest = base64.b64encode(hashlib.sha256(str(code).encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in default_page.html
    assert not script.attributes
    assert not re.search(r"fetch|XMLHttp|import|eval|https?:|innerHTML", str(code))


def test_questions_are_folded_in_order_behind_the_figures(default_page: Page) -> None:
    folds = [node for node in default_page.nodes if "fold" in node.classes]
    assert [fold.attributes["id"] for fold in folds] == QUESTIONS
    summaries = [node for node in default_page.root.all("summary") if node.all("h3")]
    assert len(summaries) == len(QUESTIONS)
    html = default_page.html
    assert html.index('<section class="front">') < html.index('id="rest"') < html.index("evidence")


def test_five_figures_stand_in_front_and_once(default_page: Page) -> None:
    shown = [figure.attributes["id"] for figure in default_page.root.all("figure")]
    assert len(shown) == len(set(shown)) == 8
    in_front = [
        figure.attributes["id"] for node in default_page.front for figure in node.all("figure")
    ]
    names = ("effects", "course", "slices", "ratios", "ranks")
    assert in_front == [f"figure-{name}" for name in names]


def test_ids_are_unique(default_page: Page) -> None:
    ids = [node.attributes["id"] for node in default_page.nodes if "id" in node.attributes]
    assert len(ids) == len(set(ids)) > 12


def test_card_holds_the_recommendation() -> None:
    study = study_files()
    more = {"caveats": ["a caveat"], "would_take": ["five more seeds"]}
    change(study, "recommendation", lambda r: r.update(more))
    found = read_json(study / "recommendation.json")
    card = page(study).card
    (headline,) = card.all("h1")
    assert headline.text == "Start Stage-2 from pure_ce (seed 0, step 720)"
    assert {*found["would_overturn"], "five more seeds", "a caveat"} <= set(bullets_of(card))
    for grade in found["confidence"].values():
        assert grade["reason"] in card.text
    checkpoints = [code.text for code in card.all("code")]
    assert {found[role]["checkpoint"] for role in ("primary", "secondary")} <= set(checkpoints)


def test_card_marks_the_grade_of_each_question() -> None:
    study = study_files()
    card = page(study).card
    marked = [node.text for node in card.all("span") if "here" in node.classes]
    confidence = read_json(study / "recommendation.json")["confidence"]
    assert marked == [
        confidence["stage1_ranking"]["grade"],
        confidence["stage2_fitness"]["grade"],
    ]


def test_card_lists_roles_with_their_metrics() -> None:
    study = study_files()
    recommendation = read_json(study / "recommendation.json")
    table = page(study).tables["roles"]
    assert [row[1].text for row in table.rows] == ["pure_ce", "softce_w1_gate", "mixed"]
    assert [row[0].text for row in table.rows] == ["primary", "secondary", "optional"]
    for metric, heading in HEADINGS.items():
        value = recommendation["primary"]["metrics"][metric]
        cell = table.cell("primary", heading)
        assert cell.text == (f"{value:.2f}" if metric in LOWER else f"{value:.4f}")
        assert "best" in cell.classes
        assert "best" not in table.cell("optional", heading).classes


def test_card_links_mlflow_once_it_is_imported() -> None:
    study = study_files()
    assert links_of(page(study)) == ["#terms"]
    link = "http://127.0.0.1:5000/#/experiments/1"
    imported: dict[str, Any] = {"experiment_id": "1", "runs": {}, "comparison_run_id": "2"}
    write_json(study / "mlflow.json", imported | {"models": {}, "ui_link": link})
    assert links_of(page(study)) == ["#terms", link]


def links_of(found: Page) -> list[str]:
    """Where the card leads to, without its table's files."""
    links = [str(a.attributes["href"]) for a in found.card.all("a")]
    return [link for link in links if not link.startswith("tables/")]


def test_card_of_bare_logs_names_no_checkpoint() -> None:
    card = page(study_files(bare=True)).card
    assert [term.text for term in card.all("dt")] == ["this report"]
    assert [heading.text for heading in card.all("h2")] == [
        "How sure",
        "Where things lie",
        "What would overturn it",
    ]


def test_figures_on_the_page_follow_its_colours() -> None:
    study = study_files()
    drawn = "".join(re.findall(r"<svg.*?</svg>", page(study).html, flags=re.S))
    assert drawn.count("currentColor") > 100
    assert not {INK, PAPER} & set(re.findall(r"#[0-9a-f]{6}", drawn)), "fixed on a dark screen"
    assert INK in (study / "figures" / "curves.svg").read_text(), "the file has its own colours"


def test_alerts_stand_above_the_headline_in_red() -> None:
    study = study_files()
    assert not [node for node in page(study).nodes if "alerts" in node.classes]
    change(study, "recommendation", lambda r: r.update(alerts=["THE RULE WAS EDITED <b>"]))
    found = page(study)
    section = found.card.children.index(next(n for n in found.card.children if is_alert(n)))
    headline = next(i for i, n in enumerate(found.card.children) if holds_headline(n))
    assert section < headline
    alert = found.card.children[section]
    assert alert.attributes["role"] == "alert"
    assert bullets_of(alert) == ["THE RULE WAS EDITED <b>"]
    assert re.search(r"\.alerts \{[^}]*var\(--bad\)", found.html)


def is_alert(node: Any) -> bool:
    return not isinstance(node, str) and "alerts" in node.classes


def holds_headline(node: Any) -> bool:
    return not isinstance(node, str) and bool(node.all("h1"))


def test_snapshot_holds_every_metric_with_the_best_bold() -> None:
    study = study_files()
    rows = read_json(study / "comparison.json")["snapshots"][0]["rows"]
    tables = page(study).tables
    for row in rows:
        variant = row["variant"]
        for metric, heading in HEADINGS.items():
            value = row["values"][metric]
            cell = tables["step-720"].cell(variant, heading)
            assert cell.text == (f"{value:.2f}" if metric in LOWER else f"{value:.4f}")
            assert ("best" in cell.classes) == (variant == "pure_ce")
        assert tables["beside"].text(variant, "text acc") == "0.9700"


def test_each_later_step_has_a_snapshot_that_decides_nothing() -> None:
    steps = {"mixed": tuple(range(40, 801, 40))}
    tables = tables_of(page(study_files(steps=steps)).section("snapshots"))
    assert tables["step-720"].caption == "At the decision step, 720"
    assert [row[0].text for row in tables["step-760"].rows] == ["mixed"]
    for step in (760, 800):
        assert tables[f"step-{step}"].caption.endswith("it decides nothing")


@pytest.mark.parametrize(
    ("seeds", "method", "other_method", "interval_sees"),
    [
        (1, "paired bootstrap", "Satterthwaite", "not what another seed would"),
        (3, "Satterthwaite", "bootstrap", "what other seeds and other images would change"),
    ],
)
def test_evidence_says_how_intervals_were_made(seeds, method, other_method, interval_sees) -> None:
    explained = paragraphs_of(page(study_files(seeds=seeds)).section("evidence"))[0]
    assert method in explained
    assert interval_sees in explained
    assert other_method not in explained


def test_lead_cell_holds_interval_verdict_and_probability() -> None:
    study = study_files()
    table = page(study).tables["leads"]
    (difference,) = [
        d
        for d in read_json(study / "comparison.json")["differences"]
        if (d["first"], d["second"], d["metric"]) == ("pure_ce", "mixed", METRICS[0])
    ]
    assert "margin 0.5" in table.node.all("th")[1].text
    interval = difference["interval"]
    low, high = (f"{interval[end]:+.2f}".replace("-", "−") for end in ("low", "high"))
    cell = table.text("pure_ce over mixed", "MAE, bins")
    assert cell.startswith(f"{difference['difference']:+.2f} [{low}, {high}] inconclusive P ")


def test_probability_of_a_sure_lead_is_not_one() -> None:
    def narrow(comparison: dict[str, Any]) -> None:
        for difference in comparison["differences"]:
            difference["interval"]["share_above_0"] = 1.0

    table = page(change(study_files(), "comparison", narrow)).tables["leads"]
    assert table.text("pure_ce over mixed", "MAE, bins").partition(" SNR")[0].endswith("P > 0.99")


def test_share_of_seeds_stands_at_crossed_leads() -> None:
    cell = page(study_files(seeds=3)).tables["leads"].cell("pure_ce over mixed", "MAE, bins")
    assert "seeds 25 %" in cell.text


def test_leads_with_intervals_say_what_the_study_detects(default_page: Page) -> None:
    text = default_page.tables["leads"].text("pure_ce over mixed", "MAE, bins")
    ratio, smallest = re.search(r"SNR ([\d.]+) · detects ([\d.]+)$", text).groups()
    assert float(smallest) == pytest.approx(2.8 * 0.69 / float(ratio), rel=0.1)  # 1.96 + .84 SE


def test_table_of_eliminations_follows_the_decision(default_page: Page) -> None:
    table = default_page.tables["eliminations"]
    assert table.row("mixed")[:4] == ["pure_ce", "MAE, bins", "token tables", "+0.60"]
    assert table.headings[:4] == ["drops out", "behind", "on", "evidence"]


def test_card_links_to_the_meaning_of_its_words(default_page: Page) -> None:
    (link,) = [node for node in default_page.card.all("a") if node.attributes["href"] == "#terms"]
    assert link.text == "What the words mean"
    terms = [node.text for node in default_page.section("terms").all("dt")]
    assert {"primary", "secondary", "provisional", "indistinguishable"} <= set(terms)


def test_leads_that_are_claims_have_adjusted_p_values() -> None:
    found = page(study_files(seeds=3))
    assert "claims" not in found.tables, "each lead is told once"
    table = found.tables["leads"]
    for row in table.rows:
        adjusted = ["Holm p 0.04" in cell.text for cell in row[1:]]
        assert adjusted == [True] + [False] * 4, "the family is of the first metric"


def overturned(study: Path) -> Path:
    """The probe puts mixed first, so the claims are not leads of the primary."""

    def edit(recommendation: dict[str, Any]) -> None:
        probe = {"outcome": "overturned", "sentence": "mixed leads", "smoothness": None}
        probe |= {"signal": "f1_50_after", "confounds": [], "changed_roles": True}
        order = ["pure_ce", "mixed", "softce_w1_gate"]
        recommendation["probe"] = probe | {"stage1_ranking": order, "probe_ranking": order}
        recommendation["primary"]["variant"] = "mixed"

    return change(study, "recommendation", edit)


def test_claims_of_another_variant_have_a_table() -> None:
    tables = page(overturned(study_files(seeds=3))).tables
    assert tables["claims"].text("mixed", "p") == "0.04"
    assert "Holm" not in tables["leads"].node.text


def test_claims_of_one_seed_have_no_p_values(default_page: Page) -> None:
    assert "p" not in page(overturned(study_files())).tables["claims"].headings
    assert "There are no p-values" in default_page.section("evidence").text


def test_leads_without_intervals_claim_nothing() -> None:
    section = page(study_files(bare=True)).section("evidence")
    tables = tables_of(section)
    assert "no intervals, and no claim" in paragraphs_of(section)[0]
    assert tables.keys() == {"leads", "eliminations"}, "no claims are shown"
    for row in tables["leads"].rows:
        for cell in row[1:]:
            assert re.search(r"ahead at \d+ %$", cell.text), cell.text
            assert not re.search(r"inconclusive|superior|better|worse|P [.<>\d]", cell.text)


def test_stability_table_says_who_is_best_and_since_when() -> None:
    def unsettle(comparison: dict[str, Any]) -> None:
        tied = {"settled_from": None, "last_winner": None, "share": 0.0}
        comparison["stability"]["p_gt_mean"] |= tied
        comparison["stability"]["w1_to_delta"]["leave_one_block_out"] = ["pure_ce"] * 4

    table = page(change(study_files(), "comparison", unsettle)).tables["stability"]
    assert table.row("MAE") == ["pure_ce", "400", "100", "1 of 4 change it, to a tie"]
    assert table.row("W1 to GT") == ["pure_ce", "400", "100", "the same, whichever"]
    assert table.row("p(GT)")[:3] == ["several are equal", "–", "0"]
    assert "9 evaluations from step 400 to 720" in table.caption


def doubt(text: str, consequence: str) -> dict[str, str]:
    return {"text": text, "consequence": consequence}


def failed_audit() -> Path:
    """The third run fails with a scaling fault and with other data than the others."""

    def fail(audit: dict[str, Any]) -> None:
        mixed = audit["runs"][2]
        mixed |= {"passed": False, "verdict": "≈ 1/GAS", "why": "ratio 0.125"}
        mixed |= {"overfit_ratio": 1.31, "doubts": [doubt("a torn line", "not used")]}
        mixed["doubts"] += [doubt("two runs", "caps")]
        mixed["checks"][1] |= {"passed": False, "detail": "eeee against dddd"}
        mixed["families"]["loss"] |= {"median": None, "n": 0}
        for i in (0, 2):
            audit["runs"][i]["not_checked"] = ["no token tables"]

    return change(study_files(), "audit", fail)


def test_audit_table_has_a_verdict_for_each_run() -> None:
    table = page(failed_audit()).tables["audit"]
    assert table.text("mixed s0", "verdict") == "✗ ≈ 1/GAS"
    assert table.text("pure_ce s0", "verdict") == "✓ consistent"
    assert table.text("mixed s0", "eval over") == "1.310"
    assert table.text("mixed s0", "loss") == "missing"
    assert table.text("pure_ce s0", "coord_softce_w1/loss") == "not applicable"
    assert table.text("mixed s0", "pairs") == "0"


def test_terms_of_the_losses_have_their_own_ratios(default_page: Page) -> None:
    table = default_page.tables["terms"]
    assert table.headings == ["run", "loss", "soft_ce", "w1", "gate", "ce"]
    assert table.row("pure_ce s0") == ["not applicable"] * 5
    assert re.fullmatch(r"\d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\]", table.text("mixed s0", "soft_ce"))


def test_check_table_names_failing_runs_and_their_finding() -> None:
    table = page(failed_audit()).tables["checks"]
    same_data = table.row("same data")
    assert same_data[0] == "✗ 1 of 3"
    assert same_data[1] == "dddddddddddd softce_w1_gate s0, pure_ce s0 eeee against dddd mixed s0"
    assert table.row("has evaluations") == ["✓", "18 eval rows"]
    assert table.row("tokens seen")[0] == ""


def test_audit_section_lists_faults_doubts_and_gaps() -> None:
    section = page(failed_audit()).section("audit")
    lines = bullets_of(section)
    assert "mixed s0: ratio 0.125; same data: eeee against dddd" in lines
    assert "mixed s0: a torn line" in lines
    assert "mixed s0: two runs (the grade of the Stage-1 ranking is at most descriptive)" in lines
    assert "mixed s0: ≈ 1/GAS; ratio 0.125" in lines
    assert "no token tables softce_w1_gate s0, mixed s0" in lines


def test_complete_audit_has_no_list_of_gaps(default_page: Page) -> None:
    assert "Could not be checked" not in default_page.section("audit").text


def test_temperature_table_has_a_group_for_each_temperature() -> None:
    study = study_files(seeds=3)
    change(study, "comparison", lambda c: c["winners"]["own"].update(p_gt_mean="mixed"))
    section = page(study).section("temperature")
    groups = tables_of(section)["temperatures"].groups
    assert list(groups) == ["at T = 1", "at own T", "at fitted T"]
    for group in groups.values():
        assert [row[0].text for row in group.rows] == ["softce_w1_gate", "pure_ce", "mixed"]
    assert groups["at own T"].text("mixed", "T") == "0.70"
    assert bullets_of(section) == ["p(GT): pure_ce is best at T = 1, mixed at own T"]


def test_plateau_table_averages_seeds() -> None:
    def one_flat(comparison: dict[str, Any]) -> None:
        of_mixed = [row for row in comparison["plateau"] if row["variant"] == "mixed"]
        first = next(row for row in of_mixed if row["metric"] == "expected_bin_mae")
        first |= {"flat": True, "slope_percent_per_100_steps": -0.5, "level": 24.56}

    found = page(change(study_files(seeds=3), "comparison", one_flat)).tables
    # The mean of 24.26, 24.26 and 24.56.
    assert found["plateau"].text("mixed", "MAE") == "24.36 −2.6 to −0.5, 1 of 3 flat"
    assert found["plateau"].text("pure_ce", "MAE").endswith("−2.6, moving")


def test_drift_table_compares_variants_with_one_run(default_page: Page) -> None:
    section = default_page.section("plateau")
    drift = tables_of(section)["drift"]
    assert drift.row("MAE, bins") == ["0.60", "0.40", "differ by more than the drift"]
    assert "drifts on its plateau on 3 of 5 metrics." in section.text


def test_resolution_limit_is_given_in_pixels_and_cells() -> None:
    (hypothesis,) = hypotheses(study_files())
    for words in (
        "15.1 px on the median image side of 640 px (23.63 / 999 · 639 px)",
        "11.3 to 15.1 px on sides of 480 to 640 px",
        "0.47 of a visual token's 32 px cell",
        "What it suggests: 0.47 of a cell. What would test it: a larger image.",
    ):
        assert words in hypothesis


def test_resolution_limit_without_cell_and_of_one_size() -> None:
    limits = {"cell_px": None, "best_mae_cells": None, "p90_bins": None, "p90_px": None}
    study = study_files()
    change(
        study,
        "comparison",
        lambda c: c["resolution_limit"].update(limits, side_px=[640, 640, 640]),
    )
    (hypothesis,) = hypotheses(study)
    assert "15.1 px on an image side of 640 px (23.63 / 999 · 639 px). What it sugg" in hypothesis


def test_limit_says_nothing_of_candidates_that_do_not_detect() -> None:
    said = "None of the candidates detects: best class-agnostic F1@.5 0.06"
    study = change(study_files(), "recommendation", lambda r: r.update(blind=said))
    found = page(study)
    (hypothesis,) = hypotheses(study)
    assert "suggests: nothing about the cell, since none of the candidates detects" in hypothesis
    assert found.card.all("h1")[0].text == "None of the candidates detects"
    assert said in found.section("rollouts").text


def test_guesses_without_a_picture_stand_below_the_metrics() -> None:
    blind = {"mae": 152.26, "mae_given_box": 112.42, "images": 130, "coordinates": 792}
    study = study_files()
    assert "Without any picture" not in page(study).section("snapshots").text
    change(study, "comparison", lambda c: c.update(blind=blind))
    said = page(study).section("snapshots").text
    assert "MAE 152.26 bins by the median of a coordinate's slot" in said
    assert "112.42 bins by a median regression" in said


def test_set_without_an_image_to_fit_on_is_judged_whole() -> None:
    study = study_files()
    at_fitted = {"temperature": "fitted", "images": {"judged": 31, "fitted_on": 29}}
    change(study, "comparison", lambda c: c.update(at_fitted))
    halved = page(study)
    assert "the half that is judged, read at fitted temperature" in halved.text
    assert "none was left to fit" not in halved.text
    assert judged_on(read_comparison(study)).startswith("validation, judged half, temperature")
    change(study, "comparison", lambda c: c.update(images={"judged": 2, "fitted_on": 0}))
    whole, said = page(study), "all 2 images are judged; none was left to fit a temperature: T = 1"
    assert whole.text.count(said) == 2  # at its head, and where temperatures are told
    assert "half that is judged" not in whole.text
    assert "Token-weighted over the whole validation set" in whole.text
    assert judged_on(read_comparison(study)) == f"validation, {said}"


def hypotheses(study: Path) -> list[str]:
    section = page(study).section("plateau")
    return [node.text for node in section.all("p") if "hypothesis" in node.classes]


def test_rule_written_before_results_is_said_to_be(default_page: Page) -> None:
    written = paragraphs_of(default_page.section("rule"))[0]
    assert "before any of its 3 runs had an evaluation" in written


def test_rule_written_after_results_is_post_hoc() -> None:
    def later(plan: dict[str, Any]) -> None:
        plan["runs"][0] |= {"existing": True}
        plan["runs"][1] |= {"existing": True, "registered": True}

    written = paragraphs_of(page(change(study_files(), "preregistration", later)).section("rule"))[
        0
    ]
    assert "after 1 of 3 runs had results: softce_w1_gate s0. For these" in written


def test_earlier_registrations_and_another_rule_are_shown() -> None:
    earlier = {
        "study": "stage1_ablation",
        "hash8": "f89a4c60",
        "written_at": "2025-12-01T00:00:00+00:00",
        "seeds": 1,
        "rule_sha256": "b" * 64,
        "changed": ["window 0.25 (now 0.5)"],
    }
    study = study_files()
    another_rule = {"earlier_studies": [earlier], "rule_sha256": "c" * 64}
    change(study, "preregistration", lambda plan: plan.update(another_rule))
    section = page(study).section("rule")
    assert tables_of(section)["earlier"].row("stage1_ablation f89a4c60") == [
        "2025-12-01 00:00 UTC",
        "1",
        "another, bbbbbbbbbbbb",
        "window 0.25 (now 0.5)",
    ]
    (warning,) = [node.text for node in section.all("span") if "bad" in node.classes]
    assert warning == "is not the rule that was written down (cccccccccccc)"


def test_notes_of_the_data_are_listed_once() -> None:
    study = study_files()
    note = "val: 3 pictures that train holds as well <b>"

    def noted(content: Any) -> None:
        for run in content["runs"]:
            run["data_notes"] = [note]

    assert note not in bullets_of(page(study).root)
    assert bullets_of(page(change(study, "runs", noted)).root).count(note) == 1
