"""`coordexp diff A B`: settings and results of two runs, or of two studies, side by side.

It shows figures and draws no conclusion: `coordexp compare` says which differences are resolved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordexp.analysis.recommendation.card import headline
from coordexp.analysis.recommendation.findings import read_recommendation
from coordexp.cli.columns import columns
from coordexp.config.digests import flatten
from coordexp.errors import UserError
from coordexp.metrics import METRICS, metric_values
from coordexp.storage.logs.jsonl import read_log
from coordexp.storage.manifest import require_recorded
from coordexp.storage.run_config import read_yaml
from coordexp.storage.runs import RESULTS, RunDirectory
from coordexp.study.preregistration import FILE, read_preregistration

ABSENT = "-"


@dataclass(frozen=True)
class Difference:
    """Rows of (key, of A, of B), and how many keys are equal."""

    rows: list[tuple[str, str, str]]
    n_equal: int


def difference(first: str, second: str) -> list[str]:
    """The lines of `coordexp diff`.

    Raises:
        UserError: one of the two is not found, they are of different kinds, or one is damaged.
    """
    a, b = find(first), find(second)
    kinds = [is_study(path) for path in (a, b)]
    if kinds[0] != kinds[1]:
        study, run = (a, b) if kinds[0] else (b, a)
        raise UserError(f"{study} is a study and {run} is a run: give two of one kind")
    return [f"A  {a}", f"B  {b}", "", *(of_studies(a, b) if kinds[0] else of_runs(a, b))]


def find(word: str) -> Path:
    """The run or study that a word stands for: a path, or the end of a path below results.

    Raises:
        UserError: there is none, or more than one.
    """
    if is_study(Path(word)) or is_run(Path(word)):
        return Path(word)
    below = [p for pattern in ("*/*", "runs/*/*", "evaluated/*") for p in RESULTS.glob(pattern)]
    found = sorted(
        path
        for path in below
        if (is_study(path) or is_run(path))
        and not path.is_symlink()
        and (str(path).endswith(f"/{word}") or path.name.endswith(f"-{word}"))
    )
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{word}: stands for {', '.join(map(str, found))}: name one of them")
    raise UserError(f"{word}: neither a run nor a study: `coordexp list` lists them")


def is_study(path: Path) -> bool:
    return (path / FILE).is_file()


def is_run(path: Path) -> bool:
    return RunDirectory(path).config.is_file()


def of_runs(a: Path, b: Path) -> list[str]:
    """Settings that differ, then the metrics at the last step that both evaluated."""
    first, second = RunDirectory(a), RunDirectory(b)
    for run in (first, second):
        require_recorded(run, run.config, run.log)
    lines = told("settings", compared(settings_of(first), settings_of(second)))
    evals = [read_log(run.log).evals if run.log.exists() else {} for run in (first, second)]
    common = sorted(evals[0].keys() & evals[1].keys())
    if not common:
        return [*lines, "", "results: no step was evaluated in both"]
    step = common[-1]
    values = [metric_values(rows[step], "1") for rows in evals]
    rows = [
        (METRICS[name].label, f"{values[0][name]:.4g}", f"{values[1][name]:.4g}")
        for name in METRICS
        if name in values[0] and name in values[1]
    ]
    return [*lines, "", f"results at step {step}, at T = 1:", *indented(rows)]


def settings_of(run: RunDirectory) -> dict[str, Any]:
    content = read_yaml(run.config)
    if not isinstance(content, Mapping):
        raise UserError(f"{run.config}: holds no settings: damaged, or not of this project")
    return flatten(content)


def of_studies(a: Path, b: Path) -> list[str]:
    """Registered settings and runs that differ, then the decisions."""
    first, second = read_preregistration(a), read_preregistration(b)
    registered = [
        flatten({"rule": e.rule, "probe": e.probe or {}, "seeds": e.seeds}) for e in (first, second)
    ]
    lines = told("registered", compared(*registered))
    runs = [
        {run.name: run.hash8 or run.directory or run.log for run in e.runs} for e in (first, second)
    ]
    lines += ["", *told("runs", compared(*runs))]
    for name, path in (("A", a), ("B", b)):
        decided = (path / "recommendation.json").exists()
        lines += [
            "",
            f"{name}: {headline(read_recommendation(path)) if decided else 'not decided'}",
        ]
    return lines


def compared(a: Mapping[str, Any], b: Mapping[str, Any]) -> Difference:
    """The keys whose values differ, in the order of A, then those of B alone."""
    keys = [*a, *(key for key in b if key not in a)]
    rows = [
        (key, str(a.get(key, ABSENT)), str(b.get(key, ABSENT)))
        for key in keys
        if a.get(key, ABSENT) != b.get(key, ABSENT)
    ]
    return Difference(rows, len(keys) - len(rows))


def told(title: str, found: Difference) -> list[str]:
    if not found.rows:
        return [f"{title}: all {found.n_equal} equal"]
    return [f"{title} ({found.n_equal} equal, {len(found.rows)} not):", *indented(found.rows)]


def indented(rows: Sequence[tuple[str, str, str]]) -> list[str]:
    return [f"  {line}" for line in columns([("", "A", "B"), *rows])]
