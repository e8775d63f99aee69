"""Pages of studies with parts missing (logs alone, one variant, one step), and of odd names."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from report_readers import bullets_of, figures, page, paragraphs_of, tables_of
from reports import change, study_files

from coordexp.storage.files import sha256_file
from coordexp.storage.typed import write_sealed

MARKUP = """<img src=x onerror=alert(1)>"'&amp;$y_1^2$"""
ONE_STEP = {"pure_ce": (40,), "mixed": (40,)}
ALL = ("softce_w1_gate", "pure_ce", "mixed", "old/pure_ce", "ce_split")


@pytest.fixture(autouse=True)
def here(in_tmp: Path) -> Path:
    return in_tmp


def test_window_of_one_step_is_not_described() -> None:
    found = page(study_files(("pure_ce", "mixed"), bare=True, steps=ONE_STEP))
    assert not {"window", "stability"} & found.tables.keys()
    assert "ahead at" not in found.text
    assert "declared window" not in found.text


def test_run_of_one_step_has_no_plateau() -> None:
    found = page(study_files(("pure_ce", "mixed"), bare=True, steps=ONE_STEP))
    assert "plateau" not in found.tables
    assert "cannot be said" in found.section("plateau").text


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("audit", "logs that were handed over bring no pre-flight"),
        ("temperature", "values at T = 1 only: whether another temperature would change the order"),
        ("plateau", "image size is not known"),
        ("evidence", "nor can the error be split by slot or box size"),
        (
            "rule",
            "after 3 of 3 runs had results: softce_w1_gate s0, pure_ce s0, mixed s0. For these",
        ),
        ("runs", "These were handed over without a manifest"),
    ],
)
def test_page_of_bare_logs_says_what_is_unknown(question: str, said: str) -> None:
    paragraphs = paragraphs_of(page(study_files(bare=True)).section(question))
    assert any(said in words for words in paragraphs)


def test_page_of_bare_logs_lists_them_with_their_digests() -> None:
    section = page(study_files(bare=True)).section("runs")
    tables = tables_of(section)
    assert tables.keys() == {"logs"}, "no run has a manifest"
    log = Path("logs/mixed-0.jsonl")
    assert tables["logs"].row("mixed") == ["0", "log", str(log), sha256_file(log)[:12]]


def test_page_of_bare_logs_has_the_compare_command() -> None:
    (command,) = page(study_files(bare=True)).section("again").all("pre")
    assert command.text.startswith("coordexp compare softce_w1_gate=logs/softce_w1_gate-0.jsonl ")


@pytest.mark.parametrize(
    ("missing", "said"),
    [(None, "a run starts only if they agree"), ("cut", "not every run compared gradients too")],
)
def test_page_says_whether_gradients_were_compared(missing: str | None, said: str) -> None:
    def edit(runs: Any) -> None:
        runs["runs"][0]["preflight"].pop(missing, None)

    paragraphs = paragraphs_of(page(change(study_files(), "runs", edit)).section("audit"))
    assert any(said in words for words in paragraphs)


def test_page_of_trained_runs_lists_their_manifests() -> None:
    tables = tables_of(page(study_files()).section("runs"))
    assert tables.keys() == {"trained"}
    assert tables["trained"].row("mixed") == [
        "0",
        "0123abcd",
        "complete",
        "720 of 720",
        "834,434",
        "5 min",
        "32 s",
        "2026-01-02 01:00 UTC",
        "results/runs/mixed/s0-0123abcd",
    ]


def test_page_says_each_set_of_versions_once() -> None:
    assert paragraphs_of(page(study_files()).section("runs")) == ["python 3.11, torch 2.13"]


VARIETY: dict[str, dict[str, Any]] = {
    "one seed": {},
    "bare": {"bare": True},
    "bare, several seeds": {"bare": True, "seeds": 2},
    "five variants, three seeds": {"variants": ALL, "seeds": 3},
    "one variant": {"variants": ("pure_ce",)},
    "one step": {"variants": ("pure_ce", "mixed"), "steps": ONE_STEP},
    "lengths differ": {"steps": {"mixed": tuple(range(40, 601, 40))}},
    "no token tables": {"tables": False},
}


@pytest.mark.parametrize("setting", VARIETY.values(), ids=VARIETY.keys())
def test_tables_are_rectangular_and_not_empty(setting: dict[str, Any]) -> None:
    tables = page(study_files(**setting)).tables
    assert tables
    for name, table in tables.items():
        assert table.rows, name
        width = len(table.headings)
        for row in table.node.all("tr"):
            cells = row.all("td", "th")
            assert sum(int(cell.attributes.get("colspan") or 1) for cell in cells) == width, name


@pytest.mark.parametrize("setting", VARIETY.values(), ids=VARIETY.keys())
def test_page_shows_no_python_values_or_empty_items(setting: dict[str, Any]) -> None:
    found = page(study_files(**setting))
    assert all(node.text for node in found.root.all("p", "ul", "ol", "li"))
    assert not re.search(r"\b(None|Undefined|nan|inf|True|False)\b", found.text)
    assert not re.search(r"\b1 (seeds|variants|evaluations)\b", found.text)


def with_markup() -> Path:
    """A study in which a variant's name and a caveat are markup."""
    study = study_files(("pure_ce", "mixed"))
    for name in ("runs", "audit", "comparison", "recommendation", "preregistration"):
        path = study / f"{name}.json"
        text = path.read_text().replace('"mixed"', json.dumps(MARKUP))
        write_sealed(path, json.loads(text))
    caveats = ["<script>alert('reason')</script>"]
    return change(study, "recommendation", lambda r: r.update(caveats=caveats))


def test_markup_in_names_and_reasons_stays_text() -> None:
    found = page(with_markup())
    assert "img" not in found.tags
    assert len(found.root.all("script")) == 1, "the page's own"
    assert "<script>alert('reason')</script>" in bullets_of(found.card)
    assert MARKUP in [row[0].text for row in found.tables["trained"].rows]


def test_markup_in_names_stays_text_in_figures() -> None:
    drawn = figures(with_markup())
    for name in ("curves", "effects", "losses", "slices"):
        tags = {node.tag.rpartition("}")[2] for node in drawn[name].nodes}
        assert not tags & {"img", "script"}
        words = [node.text or "" for node in drawn[name].nodes]
        assert any(MARKUP in text for text in words), name
