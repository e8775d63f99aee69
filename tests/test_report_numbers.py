"""Leads, the numbers of the page, and the commands that make a study again."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from studies import registration

from coordexp.analysis.comparison.findings import Difference, WindowSummary
from coordexp.analysis.comparison.leads import Lead, leads
from coordexp.analysis.comparison.statistics import Estimate
from coordexp.report.commands import compare_command, run_commands, study_command
from coordexp.report.numbers import duration, lead_value, metric_value, moment, number, probability
from coordexp.report.tables import alike, check_table, plateau_table, spread_of, unchecked
from coordexp.study.plan import plan_study
from coordexp.study.preregistration import preregister, read_preregistration

INTERVAL = Estimate(
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
WORSE_ERROR = Difference("a", "b", "expected_bin_mae", 0.2, 0.5, INTERVAL, WINDOW)


@pytest.fixture(autouse=True)
def here(in_tmp: Path) -> Path:
    return in_tmp


def test_a_lead_is_positive_where_the_first_is_better() -> None:
    worse_accuracy = Difference("a", "b", "coord_token_acc", 0.2, -0.5, None, None)
    mae, accuracy = leads([WORSE_ERROR, worse_accuracy], "a")
    assert (mae.first, mae.value, mae.low, mae.high, mae.win_probability) == (
        "a",
        0.5,
        0.1,
        0.9,
        0.98,
    )
    assert mae.seed_share == pytest.approx(0.3)
    assert mae.window is not None
    assert (
        mae.window.n,
        mae.window.median,
        mae.window.min,
        mae.window.max,
        mae.window.share_ahead,
    ) == (9, 0.4, -0.2, 0.7, 0.75)
    assert (accuracy.first, accuracy.value, accuracy.low, accuracy.verdict, accuracy.window) == (
        "a",
        0.5,
        None,
        None,
        None,
    )
    mae, accuracy = leads([WORSE_ERROR, worse_accuracy], "b")
    assert (mae.first, mae.second, mae.value, mae.low, mae.high) == ("b", "a", -0.5, -0.9, -0.1)
    assert mae.win_probability == pytest.approx(0.02)
    assert mae.window is not None
    assert (mae.window.median, mae.window.min, mae.window.max, mae.window.share_ahead) == (
        -0.4,
        -0.7,
        0.2,
        0.25,
    )
    assert accuracy.value == -0.5
    assert [lead.first for lead in leads([WORSE_ERROR, worse_accuracy], None)] == ["a", "a"]
    assert leads([WORSE_ERROR], "c") == []


def test_an_empty_window_and_an_unseen_variance_are_nothing() -> None:
    unseen = replace(INTERVAL, seed_var=None, interaction_var=None)
    empty = WindowSummary(0, None, None, None, None)
    (lead,) = leads([replace(WORSE_ERROR, interval=unseen, window=empty)], "a")
    assert (lead.seed_share, lead.window) == (None, None)
    no_variance = replace(INTERVAL, seed_var=0.0, image_var=0.0, interaction_var=0.0)
    (still,) = leads([replace(WORSE_ERROR, interval=no_variance)], "a")
    assert still.seed_share is None


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
        (None, None, 0.5, None, False),
    ],
)
def test_what_is_said_of_a_lead(low, high, margin, verdict, unresolved) -> None:
    interval = None if low is None else replace(INTERVAL, low=low, high=high)
    lead = Lead("a", "b", "expected_bin_mae", 0.8, margin, interval)
    assert (lead.verdict, lead.unresolved) == (verdict, unresolved)


def test_numbers_read_as_a_person_would_write_them() -> None:
    assert [number(None), number(float("nan")), number(13756), number(1.2e-7, ".1e")] == [
        "–",
        "–",
        "13,756",
        "1.2e−07",
    ]
    assert [number(-3, "+.1f"), number(-0.04, "+.1f"), number(0.04, "+.1f")] == [
        "−3.0",
        "0.0",
        "0.0",
    ]
    assert [lead_value(0.5, "bins"), lead_value(-0.001, "bins"), lead_value(-0.00016, "")] == [
        "+0.50",
        "0.00",
        "−0.0002",
    ]
    assert [metric_value(None, ""), metric_value(0.12345, ""), metric_value(12.345, "bins")] == [
        "–",
        "0.1235",
        "12.35",
    ]
    assert [probability(None), probability(0.0), probability(1.0), probability(0.985)] == [
        "–",
        "< 0.01",
        "> 0.99",
        "0.98",
    ]
    assert [duration(None), duration(13.4), duration(190), duration(9000)] == [
        "–",
        "13 s",
        "3 min",
        "2.5 h",
    ]
    assert [moment(None), moment("2026-11-23T19:22:14+00:00")] == ["–", "2026-11-23 19:22 UTC"]


def audited(*outcomes: tuple[bool | None, str]) -> dict[str, Any]:
    return {
        "runs": [
            {
                "variant": "v",
                "seed": i,
                "checks": [{"name": "same data", "passed": passed, "detail": detail}],
                "not_checked": [detail],
            }
            for i, (passed, detail) in enumerate(outcomes)
        ]
    }


def test_checks_are_told_once_and_fail_where_any_run_fails() -> None:
    (agreed,) = check_table(audited((True, "x"), (True, "x")))
    assert (agreed["passed"], agreed["n_failed"], agreed["findings"]) == (
        True,
        0,
        [((True, "x"), [])],
    )
    (failed,) = check_table(audited((True, "x"), (False, "y"), (None, "z")))
    assert (failed["passed"], failed["n_failed"]) == (False, 1)
    assert failed["findings"] == [
        ((True, "x"), ["v s0"]),
        ((False, "y"), ["v s1"]),
        ((None, "z"), ["v s2"]),
    ]
    (known,) = check_table(audited((None, "x"), (None, "x")))
    assert known["passed"] is None
    assert alike({"a": 1, "b": 1}, 3) == [(1, ["a", "b"])]
    assert unchecked(audited((True, "x"), (True, "y"))) == [("x", ["v s0"]), ("y", ["v s1"])]
    assert unchecked(audited((True, "x"), (True, "x"))) == [("x", [])]


def test_plateaus_are_averaged_over_seeds() -> None:
    row = {"run": "v s0", "variant": "v", "seed": 0, "metric": "w1_to_delta", "collapse_ends": 80, "from_step": 520,
           "level": 40.0, "spread": 1.0, "slope_percent_per_100_steps": -3.0, "flat": False}  # fmt: skip
    other = row | {
        "seed": 1,
        "collapse_ends": 120,
        "level": 42.0,
        "slope_percent_per_100_steps": 0.0,
        "flat": True,
    }
    table = plateau_table([row, other, row | {"metric": "expected_bin_mae"}])
    assert [m.name for m in table["columns"]] == ["expected_bin_mae", "w1_to_delta"], (
        "in the order of the registry"
    )
    (only,) = table["rows"]
    assert only["cells"]["w1_to_delta"] == {
        "level": 41.0,
        "slopes": [-3.0, 0.0],
        "n_flat": 1,
        "n": 2,
    }
    assert (only["collapse_ends"], only["from_step"]) == ([80, 120], [520])
    assert spread_of([3, 1, 2]) == [1, 3]


@pytest.mark.parametrize(
    "settings",
    [
        {"experiment": "smoke"},
        {"experiment": "smoke", "seeds": 2, "pure_ce": "optim.lr=5e-4 train.max_steps=20"},
        {"experiment": "smoke", "mixed": ["optim.lr=5e-4"]},
        {
            "experiment": "smoke",
            "all": "optim.lr=1e-3 probe.steps=3",
            "pure_ce": "optim.lr=5e-4 train.max_steps=20",
        },
    ],
)
def test_the_command_on_the_page_gives_the_same_study(settings: dict[str, Any]) -> None:
    study = plan_study(settings)
    written = read_preregistration(preregister(study).parent)
    command = shlex.split(study_command(written))
    assert command[:4] == ["snakemake", "--cores", "all", "stage1_ablation"]
    again = {
        key: yaml.safe_load(value) for key, value in (part.split("=", 1) for part in command[5:])
    }
    assert plan_study(again).hash8 == study.hash8
    assert [shlex.split(line)[1:] for line in run_commands(written)] == [
        run.overrides for run in written.runs
    ]


def test_a_run_of_several_processes_is_started_in_several() -> None:
    path = preregister(plan_study({"experiment": "smoke", "mixed": "runtime.processes=2"}))
    written = read_preregistration(path.parent)
    commands = {
        run.variant: shlex.split(line)
        for run, line in zip(written.runs, run_commands(written), strict=True)
    }
    words = commands["mixed"]
    assert words[:6] == [
        "python",
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    assert words[6:9] == ["-m", "coordexp.training.train", "experiment=smoke"]
    assert commands["pure_ce"][:2] == ["coordexp-train", "experiment=smoke"]


def trained(variant: str, overrides: list[str]) -> dict[str, Any]:
    """A registered run that these overrides train."""
    return {"variant": variant, "seed": 0, "existing": False, "overrides": overrides}


def test_an_override_with_a_blank_is_written_as_a_list() -> None:
    overrides = ["variant=mixed", "seed=0", "data.classes=[a, b]", "optim.lr=5e-4"]
    command = shlex.split(study_command(registration(runs=[trained("mixed", overrides)])))
    assert yaml.safe_load(command[-1].removeprefix("all=")) == overrides[2:]
    runs = [
        trained(v, [f"variant={v}", "optim.lr=1", "variant.gate=2", "seed=0"])
        for v in ("mixed", "ce_split")
    ]
    command = shlex.split(study_command(registration(runs=runs)))
    assert command[-3:] == ["all=optim.lr=1", "mixed=variant.gate=2", "ce_split=variant.gate=2"]


def test_a_comparison_of_logs_is_commanded_with_its_seeds_in_order_and_its_sizes() -> None:
    runs = [
        {"variant": "a/b", "seed": 1, "existing": True, "log": "my logs/second.jsonl"},
        {"variant": "a/b", "seed": 0, "existing": True, "log": "first.jsonl"},
        {
            "variant": "c",
            "seed": 0,
            "existing": True,
            "directory": "results/runs/c/s0",
            "log": "results/runs/c/s0/logging.jsonl",
        },
    ]
    sized = registration(runs=runs, vision={"side_px": 640})
    command = shlex.split(compare_command(sized, Path("out")))
    assert command[:5] == [
        "coordexp",
        "compare",
        "a-b=first.jsonl",
        "c=results/runs/c/s0",
        "a-b=my logs/second.jsonl",
    ]
    assert command[5:] == ["--out", "out", "--image-side", "640"]
    assert "--cell" not in shlex.split(compare_command(registration(runs=runs), Path("out")))
