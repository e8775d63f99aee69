"""The grade of the Stage-1 ranking never falls where the evidence grows."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st
from test_confidence import facts, grade

from coordexp.analysis.recommendation.findings import GRADES

small = st.floats(-1.0, 3.0)
lead_sets = st.lists(small, min_size=1, max_size=4)
spreads = st.fixed_dictionaries(
    {"seed_sd": st.floats(0.01, 2.0), "image_se": st.floats(0.001, 1.0)}
)


def rank(leads: list[float], n_seeds: int, spread: dict[str, float]) -> int:
    named = {f"rival{i}": lead for i, lead in enumerate(leads)}
    return GRADES.index(grade(facts(named, n_seeds, spread=spread))[0])


@given(lead_sets, st.integers(1, 8), spreads, st.floats(0, 3))
def test_leads_that_all_grow_never_lower_the_grade(leads, n_seeds, spread, more):
    grown = [lead + more for lead in leads]
    assert rank(grown, n_seeds, spread) >= rank(leads, n_seeds, spread)


@example([2.0], 6, {"seed_sd": 0.2, "image_se": 0.05}, 1)
@given(lead_sets, st.integers(1, 7), spreads, st.integers(1, 4))
def test_more_seeds_of_equal_spread_never_lower_the_grade(leads, n_seeds, spread, more):
    assert rank(leads, n_seeds + more, spread) >= rank(leads, n_seeds, spread)


def test_both_ways_to_grow_reach_the_highest_grade():
    spread = {"seed_sd": 0.2, "image_se": 0.05}
    ranks = [rank([lead], n, spread) for lead, n in ((0.1, 3), (0.5, 3), (0.5, 6), (2.0, 6))]
    assert ranks == sorted(ranks)
    assert (GRADES[ranks[0]], GRADES[ranks[-1]]) == ("provisional", "conclusive")
