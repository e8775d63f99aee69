"""The metric registry equals its table in docs/metrics.md, and a new metric takes one entry."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from studies import eval_row, write_run, write_study

from coordexp import metrics
from coordexp.cli.main import main
from coordexp.metrics import METRICS, REGISTRY, Metric, PerToken
from coordexp.storage.files import read_json

DOCS = (Path(__file__).resolve().parents[1] / "docs" / "metrics.md").read_text()


def test_the_metrics_table_in_the_docs_is_the_registry():
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in DOCS.splitlines()
        if line.startswith("| `")
    ]
    better = {True: "lower", False: "higher", None: "neither"}
    assert [row[:6] for row in rows] == [
        [
            f"`{m.name}`",
            m.label,
            m.unit,
            better[m.lower_is_better],
            f"{m.tokens} tokens",
            "yes" if m.has_temperature else "no",
        ]
        for m in REGISTRY.values()
    ]
    for row, m in zip(rows, REGISTRY.values(), strict=True):
        ranks = "yes" if m.votes else "no"
        if not m.across_objectives:
            ranks = "never"
        assert row[6].split(",")[0].split(":")[0] == ranks


def test_the_docs_entry_is_enough_for_a_new_metric(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (snippet,) = re.findall(r"```python\n(.*?)\n```", DOCS, re.S)
    new = eval(snippet, {"Metric": Metric, "PerToken": PerToken, "np": np})
    for registry in (REGISTRY, METRICS):
        monkeypatch.setitem(registry, new.name, new)
    runs = [
        write_run("pure_ce", eval_row(20, 50, 0.2, 0.2, 30, 3.0), tables=True),
        write_run("mixed", eval_row(30, 70, 0.1, 0.1, 40, 4.0), tables=True),
    ]
    margins = {"expected_bin_mae": 0.5, "within_8_bins": 0.02}
    study = write_study(runs, {"metrics": [*margins], "margins": margins})
    for verb in ("audit", "compare", "collect-probes", "recommend", "report"):
        main(["step", verb, str(study)])
    comparison = read_json(study / "comparison.json")
    for row, run in zip(comparison["snapshots"][0]["rows"], runs, strict=True):
        table = pd.read_parquet(run.table(comparison["decision_step"]))
        assert row["values"]["within_8_bins"] == pytest.approx(
            ((table["expected_bin_t1"] - table["gt_bin"]).abs() <= 8).mean()
        )
    entry = next(d for d in comparison["differences"] if d["metric"] == "within_8_bins")
    assert entry["interval"]["low"] < entry["difference"] < entry["interval"]["high"]
    assert "within 8 bins" in (study / "report.html").read_text()
    assert metrics.metric("within_8_bins") is new
