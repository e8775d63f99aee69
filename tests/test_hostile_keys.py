"""Keys of a log are anything: page, tables and card show them as text, and no more."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from coordexp.cli.main import main
from coordexp.storage.logs.dialects import STEP_KEY
from coordexp.tracking.legal import is_legal, legal_names

KEYS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "=cmd|' /C calc'!A0",
    "+1+cmd()",
    "-2+3",
    "@SUM(A1)",
    "two\nlines\r\nand\ttabs",
    'a,b;c"d',
    "\\input{/etc/passwd} % $x_1^2$ & #",
    "\u202eright to left",
    "\x1b[31mred",
    "",
    "../../up",
    "long " * 2000,
    "{{ 7 * 7 }}",
)


class Tags(HTMLParser):
    """The tags of a page, and the names of their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names |= {tag, *(name for name, _ in attrs)}


def write_log(path: Path, mae: float, keys: tuple[str, ...]) -> None:
    """A log in which these keys are infinite in train and eval rows."""
    rows: list[dict[str, object]] = []
    for step in (40, 80, 120, 160):
        extra = dict.fromkeys(keys, float("inf"))
        loss = 1 + mae / step
        rows.append({STEP_KEY: f"{step}/160", "loss": loss, "base_ce/loss": loss} | extra)
        row = {"loss": loss, "base_ce/loss": loss, "coord_token_acc": 0.2}
        row |= {"coord_diag/expected_bin_mae": mae, "coord_diag/p_gt_mean": 0.1} | extra
        row |= {"coord_diag/w1_to_delta": mae, "coord_diag/expected_bin_abs_err_p90": 2 * mae}
        rows.append({STEP_KEY: f"{step}/160"} | {f"eval_{key}": v for key, v in row.items()})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.usefixtures("in_tmp")
@pytest.mark.parametrize("first", KEYS, ids=range(len(KEYS)))
def test_hostile_keys_are_shown_as_text(first, capsys):
    """A doubt names one key, so each of them comes first once."""
    keys = tuple(dict.fromkeys((first, *KEYS)))
    write_log(Path("a.jsonl"), 24.0, keys)
    write_log(Path("b.jsonl"), 25.0, ("plain",))
    main(["compare", "a=a.jsonl", "b=b.jsonl", "--out", "out"])
    card = capsys.readouterr().out
    assert "\x1b" not in card
    assert not any(len(line) > 1000 for line in card.splitlines()), "a screen of one key"
    html = Path("out/report.html").read_text()
    assert not {"img", "onerror"} & Tags(html).names
    assert "<script>alert" not in html
    for path in Path("out").rglob("*.csv"):
        with path.open(newline="") as file:
            rows = list(csv.reader(file))
        assert len({len(row) for row in rows}) <= 1, path
        texts = [cell for row in rows for cell in row if not re.match(r"[+-]?[\d.]", cell)]
        assert not [cell for cell in texts if cell.startswith(("=", "+", "-", "@"))], path
    for path in Path("out/tables").glob("*.tex"):
        text = re.sub(r"\\[{}%&#$_]", "", path.read_text())
        assert "\\input" not in text, path
        assert text.count("{") == text.count("}"), path


def test_hostile_keys_get_legal_names_of_their_own():
    names = legal_names(KEYS)
    assert len(set(names.values())) == len(set(KEYS))
    assert all(is_legal(name) for name in names.values())
