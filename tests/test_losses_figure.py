"""The figure of the losses holds what can be seen of a long log."""

from __future__ import annotations

import math

from coordexp.report.losses import MOST_POINTS, finite_losses


def test_usual_log_is_drawn_whole() -> None:
    rows = {step: {"loss": 1 / step} for step in range(MOST_POINTS, 0, -1)}
    rows[7] = {"loss": math.inf}
    rows[8] = {"other": 1.0}
    expected = {step: 1 / step for step in range(1, MOST_POINTS + 1) if step not in (7, 8)}
    assert list(finite_losses(rows).items()) == list(expected.items())


def test_long_log_keeps_extremes_and_its_last_point() -> None:
    rows = {step: {"loss": math.sin(step)} for step in range(1, 100_001)}
    rows[50_001] = {"loss": 99.0}
    rows[50_002] = {"loss": -99.0}
    drawn = finite_losses(rows)
    assert len(drawn) <= MOST_POINTS + 1
    assert list(drawn) == sorted(drawn)
    assert (drawn[50_001], drawn[50_002]) == (99.0, -99.0)
    assert max(drawn) == 100_000
    assert all(rows[step]["loss"] == loss for step, loss in drawn.items())
    for start in range(1, 99_000, 1000):  # every stretch shows its whole height
        assert max(drawn[s] for s in drawn if start <= s < start + 1000) > 0.99
