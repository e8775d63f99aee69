"""Where the fine-tune worsens rollouts, the probe is judged by the rollouts before it."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from report_readers import page
from studies import NOTE_RULE, eval_row, write_run, write_study
from test_probe_findings import write_probe

from coordexp.analysis.comparison.pairs import Measured
from coordexp.analysis.comparison.probe_findings import (
    FineTuneEffect,
    StudyProbe,
    read_study_probe,
)
from coordexp.analysis.comparison.probes import after_fine_tune
from coordexp.analysis.comparison.statistics import Estimate
from coordexp.analysis.recommendation.deciding_signal import deciding_signal
from coordexp.analysis.recommendation.findings import read_recommendation
from coordexp.cli.main import main
from coordexp.config.schema import RuleConfig

TIED = eval_row(24.0, 55, 0.2, 0.15, 39, 4.0)


@pytest.fixture(autouse=True)
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def rule(signal: str) -> RuleConfig:
    return replace(NOTE_RULE, probe=replace(NOTE_RULE.probe, signal=signal))


def effect(variant: str, change: float, half: float, metric: str = "f1_agnostic") -> FineTuneEffect:
    low, high = change - half, change + half
    estimate = Estimate(change, low, high, half / 2, None, 0.5, None, "m", None, 0.1, None, 90)
    return FineTuneEffect(variant, metric, 0.5, 0.5 + change, estimate)


def probe_with(*effects: FineTuneEffect) -> StudyProbe:
    return StudyProbe(360, None, [], [], {}, [], fine_tune_effects=list(effects))


def test_better_or_open_change_keeps_the_rules_signal():
    probe = probe_with(effect("a", 0.1, 0.05), effect("b", -0.04, 0.05), effect("c", 0.0, 0.0))
    for signal in ("f1_agnostic_after", "f1_agnostic", "geo_loss_after", "parse_rate"):
        assert deciding_signal(probe, rule(signal)) == (signal, [])
    assert deciding_signal(probe_with(), rule("f1_after")) == ("f1_after", [])


@pytest.mark.parametrize(
    ("signal", "decides"),
    [("f1_agnostic_after", "f1_agnostic"), ("f1_50_after", "f1_50"), ("f1_after", "f1")],
)
def test_one_worsened_candidate_turns_the_signal_for_all(signal, decides):
    probe = probe_with(effect("a", 0.1, 0.05), effect("b", -0.08, 0.05))
    name, (reason,) = deciding_signal(probe, rule(signal))
    assert name == decides
    assert "before its fine-tune" in reason.text
    assert reason.text.endswith(
        "(F1@.5:.95, class-agnostic, end minus start): b -0.080 [-0.130, -0.030]"
    )


def test_signal_without_a_counterpart_before_is_kept():
    probe = probe_with(effect("b", -0.08, 0.05))
    for signal in ("geo_loss_after", "geo_loss_before", "f1_agnostic", "recall_50"):
        assert deciding_signal(probe, rule(signal)) == (signal, [])


def test_other_metrics_that_fall_do_not_turn_the_signal():
    probe = probe_with(effect("a", -0.2, 0.05, "f1"), effect("a", -0.2, 0.05, "names_f1"))
    assert deciding_signal(probe, rule("f1_agnostic_after")) == ("f1_agnostic_after", [])


def test_view_after_the_fine_tune_keeps_values_apart():
    values = {"f1": 0.5, "f1_after": 0.75, "ap": 0.25, "geo_loss_after": 1.0}

    def arrays() -> dict[str, np.ndarray]:
        return {name: np.array([value, value]) for name, value in values.items()}

    view = after_fine_tune(Measured(np.arange(2), values, arrays, arrays))
    assert view.values == {"f1": 0.75}
    assert view.draws()["f1"].tolist() == view.influence()["f1"].tolist() == [0.75, 0.75]


def decided(shares: dict[str, tuple[float, float]], seeds: int = 1):
    """A study of tied runs; `shares` are those of right pictures before and after."""
    rng, runs = np.random.default_rng(3), []
    for i, (variant, (before, after)) in enumerate(shares.items()):
        for seed in range(seeds):
            final = TIED | {"coord_diag/expected_bin_mae": 24.0 + i / 1000}
            runs.append(write_run(variant, final, seed=seed, tables=True))
            write_probe(runs[-1], before, rng, share_after=after)
    study = write_study(runs, seeds=seeds, rule=rule("f1_agnostic_after"))
    for step in ("audit", "compare", "collect-probes", "recommend", "report"):
        main(["step", step, str(study)])
    return study


@pytest.mark.parametrize("seeds", [1, 3])
def test_worsened_rollouts_are_told_and_those_before_decide(seeds):
    """mixed is better before the fine-tune, which ruins it: afterwards pure_ce would be first."""
    study = decided({"pure_ce": (0.5, 0.5), "mixed": (0.8, 0.3)}, seeds)
    effects = {(e.variant, e.metric): e for e in read_study_probe(study).fine_tune_effects}
    of_mixed = effects["mixed", "f1_agnostic"]
    assert of_mixed.change.difference == pytest.approx(of_mixed.after - of_mixed.before)
    assert of_mixed.change.difference == pytest.approx(-0.5, abs=0.1)
    assert of_mixed.change.high < 0
    assert effects["pure_ce", "f1_agnostic"].change.high > 0
    found = read_recommendation(study)
    assert found.probe is not None
    assert found.probe.signal == "f1_agnostic"
    assert found.probe.probe_ranking == ["mixed", "pure_ce"]
    assert found.primary is not None
    assert found.primary.variant == "mixed"
    (line,) = [line for line in found.caveats if "fine-tune worsened" in line]
    told = re.search(r"start\): mixed (\S+) \[(\S+), (\S+)\]$", line)
    assert told is not None
    change = of_mixed.change
    numbers = [change.difference, change.low, change.high]
    assert [float(word) for word in told.groups()] == pytest.approx(numbers, abs=6e-4)
    report = page(study)
    assert line in report.text
    assert report.tables["fine-tune"].caption.startswith("Rollouts of each candidate before")
    assert "mixed s0: T = 0.8 (fitted on one half of the validation images)" in report.text


def test_helpful_fine_tune_is_judged_at_its_end():
    study = decided({"pure_ce": (0.5, 0.5), "mixed": (0.5, 0.9)})
    found = read_recommendation(study)
    assert found.probe is not None
    assert found.probe.signal == "f1_agnostic_after"
    assert not any("fine-tune" in line for line in found.caveats)
