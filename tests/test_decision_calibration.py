"""The simulated decision of docs/calibration.md, in small, and the page's tables."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
MODULES = ("calibration", "simulated_decision", "calibration_decision")


@pytest.fixture(scope="module")
def modules():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield {name: importlib.import_module(name) for name in MODULES}


@pytest.fixture
def page(modules):
    return modules["calibration_decision"]


@pytest.mark.parametrize("n_seeds", [1, 2, 3])
def test_every_simulated_study_is_decided_as_by_the_package(modules, n_seeds, monkeypatch):
    """Blocks of one study each, so that the built-in check sees all of them."""
    for name in ("simulated_decision", "calibration_decision"):
        monkeypatch.setattr(modules[name], "BLOCK", 1)
    found = modules["calibration_decision"].planted(n_seeds, 60)
    assert {0.0 <= share <= 1.0 for share in found.values()} == {True}
    assert found["both right", "rollouts, then metrics"] > 0.9


def test_simulated_check_finds_a_rule_that_differs(modules, monkeypatch):
    """A Holm correction that is left out is noticed."""
    monkeypatch.setattr(modules["simulated_decision"], "BLOCK", 1)
    monkeypatch.setattr(modules["simulated_decision"], "holm_of_rows", lambda p, _: p)
    with pytest.raises(AssertionError):
        modules["calibration_decision"].found_better(1, 200, 300)


def test_equal_rollouts_seldom_change_the_role(page):
    for n_seeds in page.SEEDS:
        found = page.false_drops(page.F1, page.SEED_SDS, n_seeds, 200, 1000)
        assert all(share <= page.ALLOWED_ERROR for share in found)
        assert found[-1] > 0  # the simulation is noisy enough to err


def test_more_seeds_find_the_better_variant_more_often(page):
    found = [page.found_better(n_seeds, 200, 500)["0.10"] for n_seeds in page.SEEDS]
    alone = [shares["alone"] for shares in found]
    assert alone == sorted(alone)
    assert alone[-1] > 0.8
    assert max(shares["dropped"] for shares in found) <= 0.025


def test_page_shows_every_table_of_the_decision(modules, page):
    text = modules["calibration"].PAGE.read_text()
    for name in page.TABLES:
        shown = text.split(f"<!-- {name}: begin -->")[1].split(f"<!-- {name}: end -->")[0]
        assert shown.count("\n| ") >= 4, name
