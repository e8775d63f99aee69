"""Published rollout figures beside a study: what they may say, and what they may not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from studies import eval_row, write_run
from test_probe_findings import write_probe

from coordexp.analysis.comparison.probe_findings import read_aggregates
from coordexp.cli.main import main
from coordexp.errors import UserError
from coordexp.storage.files import read_json, write_json

EQUAL = eval_row(24.0, 55, 0.2, 0.15, 39, 4.0)
CONTRADICTS = {"pure_ce": 0.5, "mixed": 0.9}


@pytest.fixture(autouse=True)
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def decided(figures: dict[str, float], shares: dict[str, float] | None = None) -> dict:
    """The decision about two equal runs, pure_ce listed first; `shares` are rolled out too."""
    sources = []
    for variant in ("pure_ce", "mixed"):
        run = write_run(variant, EQUAL)
        if shares:
            write_probe(run, shares[variant], np.random.default_rng(3))
        sources.append(f"{variant}={run.path}")
    variants = {variant: {"f1_50": value} for variant, value in figures.items()}
    write_json(Path("published.json"), {"source": "a paper", "variants": variants})
    main(["compare", *sources, "--out", "out", "--evidence", "published.json"])
    return read_json(Path("out/recommendation.json"))


def test_the_studys_own_rollouts_decide_before_published_ones():
    found = decided(CONTRADICTS, {"pure_ce": 0.9, "mixed": 0.3})
    assert found["primary"]["variant"] == "pure_ce"
    assert found["withheld"] is None
    assert found["probe"]["outcome"] == "confirmed"
    (line,) = found["would_overturn"]  # the metrics decide nothing about mixed
    assert line.startswith("another probe: its lead over mixed is F1@.5:.95, class-agnostic, end +")
    line = "published elsewhere, without a result per image (a paper): F1@.5 mixed 0.900, pure_ce"
    assert any(caveat.startswith(line) for caveat in found["caveats"])


def test_equal_metrics_are_not_said_to_put_anybody_first():
    found = decided(CONTRADICTS)
    assert found["primary"] is None
    assert found["withheld"].startswith(
        "the evidence of this study leaves pure_ce and mixed, the rollouts of a paper put mixed"
    )


def test_published_lead_of_the_margin_itself_contradicts_nothing():
    assert decided({"pure_ce": 0.58, "mixed": 0.6})["withheld"] is None
    assert decided({"pure_ce": 0.57, "mixed": 0.6})["withheld"] is not None


@pytest.mark.parametrize(
    ("figures", "fault"),
    [
        ({"pure_ce": 57.0, "mixed": 0.6}, "pure_ce: f1_50 is 57, not from 0 to 1"),
        ({"purece": 0.57}, "no figures of pure_ce, mixed, but of purece"),
    ],
)
def test_published_figures_that_cannot_be_meant_are_refused(figures, fault):
    with pytest.raises(SystemExit, match=fault):
        decided(figures)
    assert not list(Path("out").iterdir())


def test_number_of_published_images_is_at_least_one():
    write_json(Path("published.json"), {"source": "p", "images": 0, "variants": {"a": {"ap": 0.1}}})
    with pytest.raises(UserError, match=r"published\.json: images is 0: must be at least 1"):
        read_aggregates(Path("published.json"))
