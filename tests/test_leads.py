"""Leads: differences between two variants, signed so that positive means the first is better."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordexp.analysis.comparison.findings import Difference, WindowSummary
from coordexp.analysis.comparison.leads import Lead, LeadWindow, leads
from coordexp.analysis.comparison.statistics import Estimate

ESTIMATE = Estimate(
    difference=0.5,
    low=0.1,
    high=0.9,
    se=0.2,
    df=None,
    share_above_0=0.98,
    p_value=None,
    method="a method",
    seed_var=0.3,
    image_var=0.5,
    interaction_var=0.2,
)
WINDOW = WindowSummary(n=9, median=0.4, min=-0.2, max=0.7, share_above_0=0.75)
# Second minus first: b has the larger error, and the lower accuracy.
ERROR = Difference("a", "b", "expected_bin_mae", 0.2, 0.5, ESTIMATE, WINDOW)
ACCURACY = Difference("a", "b", "coord_token_acc", 0.2, -0.5, None, None)


def test_lead_is_positive_where_the_first_is_better() -> None:
    error, accuracy = leads([ERROR, ACCURACY], "a")
    assert (error.first, error.second, error.value) == ("a", "b", 0.5)
    assert (error.low, error.high, error.win_probability) == (0.1, 0.9, 0.98)
    assert error.window == LeadWindow(n=9, median=0.4, min=-0.2, max=0.7, share_ahead=0.75)
    assert (accuracy.first, accuracy.second, accuracy.value) == ("a", "b", 0.5)


def test_lead_is_negative_where_the_first_is_worse() -> None:
    error, accuracy = leads([ERROR, ACCURACY], "b")
    assert (error.first, error.second, error.value) == ("b", "a", -0.5)
    assert (error.low, error.high) == (-0.9, -0.1)
    assert error.win_probability == pytest.approx(0.02)
    assert error.window == LeadWindow(n=9, median=-0.4, min=-0.7, max=0.2, share_ahead=0.25)
    assert accuracy.value == -0.5


def test_leads_of_nobody_are_those_of_every_pair() -> None:
    assert [lead.first for lead in leads([ERROR, ACCURACY], None)] == ["a", "a"]


def test_leads_of_a_variant_without_pairs_are_none() -> None:
    assert leads([ERROR], "c") == []


def test_difference_without_interval_has_no_verdict() -> None:
    (accuracy,) = leads([ACCURACY], "a")
    assert (accuracy.low, accuracy.high, accuracy.verdict, accuracy.window) == (None,) * 4


def test_share_of_seeds_is_their_part_of_the_variance() -> None:
    (lead,) = leads([ERROR], "a")
    assert lead.seed_share == pytest.approx(0.3)


@pytest.mark.parametrize(
    "variances",
    [
        {"seed_var": None, "interaction_var": None},
        {"seed_var": 0.0, "image_var": 0.0, "interaction_var": 0.0},
    ],
    ids=["unseen", "zero"],
)
def test_share_of_seeds_is_unknown_without_variance(variances: dict[str, float | None]) -> None:
    (lead,) = leads([replace(ERROR, interval=replace(ESTIMATE, **variances))], "a")
    assert lead.seed_share is None


def test_window_without_steps_is_none() -> None:
    empty = WindowSummary(n=0, median=None, min=None, max=None, share_above_0=None)
    (lead,) = leads([replace(ERROR, window=empty)], "a")
    assert lead.window is None


@pytest.mark.parametrize(
    ("low", "high", "margin", "verdict", "unresolved"),
    [
        (0.6, 1.0, 0.5, "superior", False),
        (0.4, 1.2, 0.5, "better", False),
        (0.1, 0.4, 0.5, "better, but negligible", False),
        (-1.0, -0.6, 0.5, "inferior", False),
        (-0.2, 0.4, 0.5, "equivalent", True),
        (-0.6, 2.0, 0.5, "inconclusive", True),
        (0.6, 1.0, None, "better", False),
        (-1.0, -0.6, None, "worse", False),
        (-0.6, 2.0, None, "inconclusive", True),
    ],
)
def test_verdict_holds_the_interval_against_zero_and_margin(
    low: float, high: float, margin: float | None, verdict: str, unresolved: bool
) -> None:
    interval = replace(ESTIMATE, low=low, high=high)
    lead = Lead("a", "b", "expected_bin_mae", 0.8, margin, interval)
    assert (lead.verdict, lead.unresolved) == (verdict, unresolved)
