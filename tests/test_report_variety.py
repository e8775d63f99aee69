"""Pages of studies with parts missing: logs alone, one variant, one step; and of names that are markup."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import pytest
from report_readers import Page, page
from reports import change, study_files

from coordexp.storage.files import sha256_file

EVIL = """<img src=x onerror=alert(1)>"'&amp;$y_1^2$"""


@pytest.fixture(autouse=True)
def here(in_tmp: Path) -> Path:
    return in_tmp


def test_one_evaluation_in_the_window_is_no_window() -> None:
    found = page(
        study_files(("pure_ce", "mixed"), bare=True, steps={"pure_ce": (40,), "mixed": (40,)})
    )
    assert "evaluations of the declared window" not in found.text
    assert "ahead at" not in found.text
    assert "Would another stopping point" not in found.text
    assert "cannot be said" in found.section("plateau")


def test_a_page_of_bare_logs_reads_naturally() -> None:
    found = page(study_files(bare=True))
    for question, words in {
        "audit": "logs that were handed over bring no pre-flight",
        "temperature": "at T = 1 only: whether another temperature would change the order cannot be said",
        "plateau": "image size is not known",
        "slices": "Without token tables",
        "rule": "after 3 of 3 runs had results: softce_w1_gate s0, pure_ce s0, mixed s0. For these the choice",
        "runs": "These were handed over without a manifest",
        "again": "coordexp compare softce_w1_gate=logs/softce_w1_gate-0.jsonl",
    }.items():
        assert words in found.section(question), question
    assert f"logs/mixed-0.jsonl {sha256_file(Path('logs/mixed-0.jsonl'))[:12]}" in found.section(
        "runs"
    )
    assert "directory" not in found.section("runs")


VARIETY: dict[str, dict[str, Any]] = {
    "one seed": {},
    "bare": {"bare": True},
    "bare, several seeds": {"bare": True, "seeds": 2},
    "five variants, three seeds": {
        "variants": ("softce_w1_gate", "pure_ce", "mixed", "old/pure_ce", "ce_split"),
        "seeds": 3,
    },
    "one variant": {"variants": ("pure_ce",)},
    "one step": {"variants": ("pure_ce", "mixed"), "steps": {"pure_ce": (40,), "mixed": (40,)}},
    "lengths differ": {"steps": {"mixed": tuple(range(40, 601, 40))}},
    "no token tables": {"tables": False},
}


@pytest.mark.parametrize("setting", VARIETY.values(), ids=VARIETY.keys())
def test_no_table_is_empty_and_nothing_technical_shows(setting: dict[str, Any]) -> None:
    found = page(study_files(**setting))
    for table in re.findall(r"<table.*?</table>", found.html, flags=re.S):
        assert "<td" in table, table
        header, *rows = [
            Page(row).tags for row in re.findall(r"<tr.*?(?=<tr|</table)", table, flags=re.S)
        ]
        widths = {
            sum(int(a.get("colspan") or 1) for tag, a in row if tag in ("td", "th"))
            for row in (header, *rows)
        }
        assert len(widths) == 1, f"ragged: {table}"
    assert not re.search(r"<(p|ul|ol|li)>\s*</\1>", found.html)
    assert not re.search(r"\b(None|Undefined|nan|inf|True|False)\b", found.text)
    assert not re.search(r"\b1 (seeds|variants|evaluations)\b", found.text)


def test_hostile_names_and_reasons_stay_text() -> None:
    study = study_files(("pure_ce", "mixed"))
    for name in ("runs", "audit", "comparison", "recommendation", "preregistration"):
        path = study / f"{name}.json"
        path.write_text(path.read_text().replace('"mixed"', '"' + EVIL.replace('"', '\\"') + '"'))
    change(
        study, "recommendation", lambda r: r.update(caveats=["<script>alert('reason')</script>"])
    )
    found = page(study)
    assert {tag for tag, _ in found.tags} & {"img", "script"} == set()
    assert "<script>alert('reason')</script>" in found.card
    assert EVIL in found.section("runs")
    for name in ("curves", "effects", "losses", "slices"):
        assert EVIL in html.unescape((study / "figures" / f"{name}.svg").read_text()), name
