"""The command lines on the page repeat the study, the run or the comparison."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from coordexp.config.package import launcher
from coordexp.report.commands import compare_command, run_commands, study_command
from coordexp.study.plan import plan_study
from coordexp.study.preregistration import (
    Preregistration,
    RegisteredRun,
    preregister,
    read_preregistration,
)
from coordexp.study.study import Vision


@pytest.fixture(autouse=True)
def here(in_tmp: Path) -> Path:
    return in_tmp


def registered(settings: dict[str, Any]) -> Preregistration:
    """The registration of the study that these `--config` values describe."""
    return read_preregistration(preregister(plan_study(settings)).parent)


def plan_of(*runs: RegisteredRun, vision: Vision | None = None) -> Preregistration:
    return Preregistration(
        study="stage1_ablation",
        hash8="0123abcd",
        written_at="2026-01-01T00:00:00+00:00",
        seeds=1,
        rule={},
        rule_sha256="a" * 64,
        vision=vision,
        runs=list(runs),
    )


def trained(variant: str, *overrides: str) -> RegisteredRun:
    return RegisteredRun(variant=variant, seed=0, existing=False, overrides=list(overrides))


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
    ids=["experiment", "seeds and a variant", "a list", "all and a variant"],
)
def test_study_command_plans_the_same_study(settings: dict[str, Any]) -> None:
    plan = registered(settings)
    command = shlex.split(study_command(plan))
    assert command[:4] == ["snakemake", "--cores", "all", "stage1_ablation"]
    again = {}
    for part in command[5:]:
        key, _, given = part.partition("=")
        again[key] = yaml.safe_load(given)
    assert plan_study(again).hash8 == plan.hash8


def test_run_commands_make_the_overrides_of_each_run() -> None:
    plan = registered({"experiment": "smoke", "seeds": 2})
    overrides = [shlex.split(line)[1:] for line in run_commands(plan)]
    assert overrides == [run.overrides for run in plan.runs]


def test_run_of_several_processes_is_started_in_several() -> None:
    plan = registered({"experiment": "smoke", "mixed": "runtime.processes=2"})
    commands = {}
    for run, line in zip(plan.runs, run_commands(plan), strict=True):
        commands[run.variant] = line
    started = f"{launcher(2)} coordexp.training.train experiment=smoke"
    assert commands["mixed"].startswith(started)
    assert commands["pure_ce"].startswith("coordexp-train experiment=smoke")


def test_override_with_a_blank_is_written_as_a_list() -> None:
    overrides = ["variant=mixed", "seed=0", "data.classes=[a, b]", "optim.lr=5e-4"]
    command = shlex.split(study_command(plan_of(trained("mixed", *overrides))))
    assert yaml.safe_load(command[-1].removeprefix("all=")) == overrides[2:]


def test_override_of_a_variant_group_stays_with_its_variant() -> None:
    runs = []
    for variant in ("mixed", "ce_split"):
        runs.append(
            trained(variant, f"variant={variant}", "optim.lr=1", "variant.gate=2", "seed=0")
        )
    command = shlex.split(study_command(plan_of(*runs)))
    assert command[-3:] == ["all=optim.lr=1", "mixed=variant.gate=2", "ce_split=variant.gate=2"]


def test_compare_command_names_logs_in_order_of_seeds() -> None:
    directory = "results/runs/c/s0"
    runs = [
        RegisteredRun(variant="a/b", seed=1, log="my logs/second.jsonl", existing=True),
        RegisteredRun(variant="a/b", seed=0, log="first.jsonl", existing=True),
        RegisteredRun(
            variant="c",
            seed=0,
            directory=directory,
            log=f"{directory}/logging.jsonl",
            existing=True,
        ),
    ]
    command = shlex.split(compare_command(plan_of(*runs), Path("out")))
    assert command == [
        "coordexp",
        "compare",
        "a-b=first.jsonl",
        f"c={directory}",
        "a-b=my logs/second.jsonl",
        "--out",
        "out",
    ]


@pytest.mark.parametrize(
    ("vision", "options"),
    [
        (Vision(640), ["--image-side", "640"]),
        (Vision(640, 32), ["--image-side", "640", "--cell", "32"]),
    ],
)
def test_compare_command_gives_the_sizes_it_was_given(vision: Vision, options: list[str]) -> None:
    run = RegisteredRun(variant="a", seed=0, log="a.jsonl", existing=True)
    command = shlex.split(compare_command(plan_of(run, vision=vision), Path("out")))
    assert command[-len(options) :] == options
