"""Titles of figures, answers and banners say what the numbers bear, and nothing more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report_readers import Page, page
from reports import change, study_files

from coordexp.analysis.comparison.findings import read_comparison
from coordexp.analysis.comparison.leads import Lead
from coordexp.analysis.comparison.probe_findings import StudyProbe
from coordexp.analysis.comparison.statistics import FEWEST_IMAGES, Estimate
from coordexp.report.titles import effects_title, sight_title, slices_title


@pytest.fixture(autouse=True)
def here(in_tmp: Path) -> Path:
    return in_tmp


def lead(second: str, low: float, high: float, metric: str = "crps") -> Lead:
    middle = (low + high) / 2
    estimate = Estimate(middle, low, high, 1.0, None, 0.5, None, "m", None, 0.1, None, 90)
    return Lead("a", second, metric, middle, estimate=estimate)


def title_of(leads: Sequence[Lead], primary: str | None = "a", controls: Sequence[str] = ()) -> str:
    comparison = read_comparison(study_files(("pure_ce", "mixed")))
    comparison.controls.extend(controls)
    return effects_title(leads, primary, comparison)


def test_title_of_leads_counts_those_beyond_noise() -> None:
    leads = [lead("b", 1, 2), lead("b", -1, 2), lead("c", -1, 1), lead("c", -2, -1)]
    assert title_of(leads) == "a leads b on 1 of 2 metrics, trails c on 1 of 2 metrics"
    both = [*leads[:3], lead("b", -9, -8)]
    assert title_of(both) == "a leads b on 1 of 3 metrics, trails it on 1"
    assert title_of(leads[1:3]) == "No lead of a is more than noise"
    assert (
        title_of([lead("c", -2, -1)]) == "a leads nobody beyond noise, trails c on 1 of 1 metrics"
    )
    assert title_of(leads, None) == "2 of 4 differences between variants are more than noise"


def test_few_images_show_no_lead_and_no_look_at_the_picture() -> None:
    found = lead("b", 1, 2)
    assert (found.verdict, found.ahead) == ("better", True)
    assert found.estimate is not None
    few = replace(found.estimate, n_images=FEWEST_IMAGES - 1)
    found = replace(found, estimate=few)
    assert (found.verdict, found.ahead, found.unresolved) == ("inconclusive", False, True)
    assert title_of([found]) == "No lead of a is more than noise"
    probe = StudyProbe(40, None, [], [], {}, [], contributions={"a": few})
    told = "9 images are too few to show whether a candidate looks at the picture"
    assert sight_title(probe) == told
    enough = replace(probe, contributions={"a": replace(few, n_images=FEWEST_IMAGES)})
    assert sight_title(enough).startswith("a looks at the picture")


def test_title_of_leads_leaves_out_controls() -> None:
    leads = [lead("b", 1, 2), lead("control", 1, 2)]
    assert title_of(leads, controls=["control"]) == "a leads b on 1 of 1 metrics"
    assert title_of(leads[1:], controls=["control"]) == "The metrics at step 720"


def test_title_of_many_rivals_sums_them_up() -> None:
    leads = [lead(rival, 1, 2) for rival in "bcde"] + [lead("b", -2, -1)]
    expected = "a leads the others on 4 of 5 comparisons, trails the others on 1 of 5 comparisons"
    assert title_of(leads) == expected


def front_titles(found: Page) -> dict[str, str]:
    headings = [node.all("h2")[0] for node in found.front]
    return {str(heading.attributes["id"]): heading.text for heading in headings}


def test_logs_alone_are_said_to_have_no_intervals() -> None:
    titles = front_titles(page(study_files(bare=True)))
    assert titles["effects"] == "pure_ce has the better value in 10 of 10 comparisons; no intervals"
    assert "sight" not in titles


def test_title_of_the_course_says_since_when_one_is_best() -> None:
    study = study_files()
    assert front_titles(page(study))["course"] == "MAE: pure_ce is best from step 400 to the end"

    def settle(step: int | None, last: str | None = "pure_ce") -> str:
        def edit(comparison: dict[str, Any]) -> None:
            stability = comparison["stability"]["expected_bin_mae"]
            stability.update(settled_from=step, last_winner=last)

        return front_titles(page(change(study, "comparison", edit)))["course"]

    assert settle(40) == "MAE: pure_ce is best at every evaluation"
    assert settle(720) == "MAE: pure_ce is best at the end only"
    assert settle(None, None) == "MAE: several variants are equal at the end"


def test_title_of_slices_needs_two_sizes_and_one_worst() -> None:
    slices = read_comparison(study_files()).slices
    assert slices_title(slices) == "Every variant errs most on small boxes"
    slices["mixed"].by_box_size["large"] = 999.0
    assert slices_title(slices) == "Where the errors are: by slot and by box size"
    for of in slices.values():
        del of.by_box_size["small"], of.by_box_size["large"]
    assert slices_title(slices) == "Where the errors are: by slot and by box size"


def answer_of(found: Page, question: str) -> str:
    for fold in found.root.all("details"):
        if any(node.attributes.get("id") == question for node in fold.walk()):
            return " ".join(n.text for n in fold.all("summary")[0].all("span"))
    raise AssertionError(question)


def test_tick_stands_only_where_every_run_passed() -> None:
    study = study_files()
    assert answer_of(page(study), "audit") == "✓ 3 of 3 runs passed"
    change(study, "audit", lambda audit: audit["runs"][0].update(passed=False))
    assert answer_of(page(study), "audit") == "✗ 1 of 3 runs failed"


def test_answers_follow_the_files() -> None:
    study = study_files()
    assert answer_of(page(study), "rule") == "before"
    assert answer_of(page(study), "rollouts") == "not probed"
    assert answer_of(page(study), "temperature") == "the same best variants at each"
    assert answer_of(page(study), "plateau") == "MAE is flat in 0 of 3 runs"
    change(study, "comparison", lambda c: c["winners"]["own"].update(p_gt_mean="mixed"))
    assert answer_of(page(study), "temperature") == "some metrics change their best variant"
    change(study, "preregistration", lambda plan: plan["runs"][0].update(existing=True))
    assert answer_of(page(study), "rule") == "after 1 of 3 runs"


def banner_of(study: Path) -> tuple[list[str], str]:
    (banner,) = [node for node in page(study).card.all("section") if "banner" in node.classes]
    return banner.classes, banner.text


def test_verdict_without_a_detector_has_a_red_banner() -> None:
    study = study_files()
    assert not [node for node in page(study).nodes if "banner" in node.classes]
    change(study, "recommendation", lambda r: r.update(blind="None of the candidates detects: x"))
    classes, words = banner_of(study)
    assert "stop" in classes
    assert words == "None detects Do not start Stage-2 from these checkpoints."


def test_parse_rate_of_zero_has_a_red_banner() -> None:
    study = study_files()

    def rates(probe: dict[str, Any], **of: float) -> None:
        probe["means"] = {variant: {"parse_rate": rate} for variant, rate in of.items()}

    change(study, "probe", lambda probe: rates(probe, pure_ce=0.0, mixed=0.0))
    classes, words = banner_of(study)
    assert "stop" in classes
    assert words.startswith("Nothing parses Parse rate 0")
    change(study, "probe", lambda probe: rates(probe, pure_ce=0.0, mixed=0.5))
    assert banner_of(study)[1].startswith("The primary writes nothing that parses")
    change(study, "probe", lambda probe: rates(probe, pure_ce=0.5, mixed=0.0))
    assert not [node for node in page(study).nodes if "banner" in node.classes]


def test_no_recommendation_has_a_banner_of_its_own() -> None:
    def none_eligible(recommendation: dict[str, Any]) -> None:
        recommendation.update(primary=None, secondary=None, optional=[], confirmatory=[])

    study = change(study_files(), "recommendation", none_eligible)
    classes, words = banner_of(study)
    assert "none" in classes
    assert words.startswith("No recommendation There is no checkpoint")
