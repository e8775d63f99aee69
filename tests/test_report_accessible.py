"""The page for everybody: contrast, headings, descriptions, few words before the folds, size."""

from __future__ import annotations

import itertools
import re
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from report_readers import HEADINGS, Page, figures, page
from reports import LEVELS, change, study_files

from coordexp.report.html import TEMPLATES
from coordexp.report.shots import OUTCOMES
from coordexp.report.style import looks
from coordexp.report.svg import INK, PAPER

STYLE = (TEMPLATES / "style.html").read_text()
TEXT, GRAPHIC = 4.5, 3.0  # WCAG 2.1 AA: of text, and of lines and markers
TAG_INK = "#111111"

PAGES: dict[str, dict[str, Any]] = {
    "default": {},
    "logs": {"bare": True},
    "one variant": {"variants": ("pure_ce",)},
    "six seeds": {"seeds": 6},
    "six variants": {"variants": tuple(LEVELS), "seeds": 3},
}


@pytest.fixture(autouse=True)
def here(in_tmp: Path) -> Path:
    return in_tmp


@pytest.fixture(scope="module", params=PAGES.values(), ids=PAGES.keys())
def some_page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Page:
    with chdir(tmp_path_factory.mktemp("page")):
        return page(study_files(**request.param))


def palettes() -> dict[str, dict[str, str]]:
    """The colours of the style sheet by name, light and dark."""
    light, dark = re.findall(r":root \{([^}]*)\}", STYLE)
    return {
        "light": dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", light)),
        "dark": dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", dark)),
    }


def contrast(first: str, second: str) -> float:
    """By WCAG 2.1, between 1 and 21."""
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    channels = []
    for byte in bytes.fromhex(colour.removeprefix("#")):
        share = byte / 255
        channels.append(share / 12.92 if share <= 0.03928 else ((share + 0.055) / 1.055) ** 2.4)
    red, green, blue = channels
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_contrast_is_that_of_wcag() -> None:
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_and_variants_stand_out_from_the_page(mode: str) -> None:
    palette = palettes()[mode]
    for paper in (palette["paper"], palette["tint"]):
        for ink in ("ink", "soft", "good", "bad", "warn"):
            assert contrast(palette[ink], paper) >= TEXT, (ink, paper)
        for variant, look in looks(map(str, range(7))).items():
            assert contrast(look.colour, paper) >= GRAPHIC, (variant, look.colour, paper)


def test_files_and_banner_and_names_stand_out_too() -> None:
    assert palettes()["light"]["ink"] == INK
    assert palettes()["light"]["paper"] == PAPER
    (ground,) = set(re.findall(r"\.banner\.stop \{ background: (#\w+)", STYLE))
    assert contrast(ground, "#ffffff") >= TEXT
    for outcome in OUTCOMES:
        assert contrast(outcome.colour, TAG_INK) >= TEXT


def test_headings_descend_by_single_levels(some_page: Page) -> None:
    levels = [int(heading.tag[1]) for heading in some_page.root.all(*HEADINGS)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    steps = [later - earlier for earlier, later in itertools.pairwise(levels)]
    assert max(steps) <= 1
    assert all(heading.text for heading in some_page.root.all(*HEADINGS))


def test_figures_and_scrolling_boxes_are_described(some_page: Page) -> None:
    for node in some_page.root.all("figure", "svg"):
        hidden = node.attributes.get("aria-hidden") == "true"
        assert hidden or node.attributes.get("aria-label"), node.attributes
    for node in some_page.nodes:
        if "scroll" in node.classes:
            assert node.attributes.get("aria-label")
            assert node.attributes["tabindex"] == "0", "the keyboard can scroll it"
    for node in some_page.root.all("a", "button", "summary"):
        assert node.text or node.attributes.get("aria-label")
    assert some_page.root.all("html")[0].attributes["lang"] == "en"


def test_at_most_1200_words_stand_outside_the_folds(some_page: Page) -> None:
    assert 150 < len(some_page.unfolded.text.split()) <= 1200


def test_page_is_smaller_than_two_megabytes(some_page: Page) -> None:
    assert len(some_page.html.encode()) <= 2_000_000


def test_axis_of_zeros_has_zero_as_its_only_tick() -> None:
    def silence(comparison: dict[str, Any]) -> None:
        rows = [*comparison["curves"]]
        for snapshot in comparison["snapshots"]:
            rows += snapshot["rows"]
        for row in rows:
            row["values"]["coord_token_acc"] = 0.0
        comparison["bands"] = []

    drawn = figures(change(study_files(), "comparison", silence))
    values = drawn["effects"].panel("values", metric="coord_token_acc")
    assert [label.words for label in values.axis_labels("x")] == ["0"]
    for name in ("course", "curves"):
        curve = drawn[name].panel("coord_token_acc")
        assert [label.words for label in curve.axis_labels("y")] == ["0"]
