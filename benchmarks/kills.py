"""Kill every writer at chosen system calls inside its writes, and run it again.

    python benchmarks/kills.py [--results DIRECTORY] [--most 60] [--only WRITER]

Makes a smoke study (or copies the results that are given). Each writer runs once under strace,
undisturbed: that gives its system calls on files below results. From each kind of call on each kind
of file the first and the last are chosen. The writer is killed there (before the call), and runs
again: its files must be those of the undisturbed run. Writes the table of docs/reliability.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from coco_files import many  # noqa: E402
from final_files import differences, final_files  # noqa: E402
from traced import Call, Point, killed_at, recorded  # noqa: E402
from training import MIXED, SMALL, ForkServer, environment, only  # noqa: E402

from coordexp.study.plan import plan_study  # noqa: E402

PAGE = ROOT / "docs/reliability.md"
START, END = "<!-- kills.py -->\n", "<!-- end of kills.py -->\n"
# What the commands import when they run.
PRELOADED = (
    "coordexp.analysis.recommendation.recommend",
    "coordexp.models.base",
    "coordexp.probe.job",
    "coordexp.report.html",
    "coordexp.tracking.mlflow_import",
    "mlflow.tracking",
    "pandas",
    "pyarrow.parquet",
)
RECIPE = (
    *("probe.images=4", "probe.steps=2", "probe.images_per_step=2", "probe.micro_batch=2"),
    "probe.rollout_batch=2",
)
STEPS = ("audit", "compare", "collect-probes", "recommend", "report", "track", "publish")


@dataclass(frozen=True)
class Writer:
    """A command, and a directory that holds what it needs and nothing of what it writes."""

    name: str
    template: Path
    arguments: tuple[str, ...]
    entry: str = "cli"
    kills: int = 3


@dataclass
class Bench:
    """The fork server, and the directory in which every command runs: paths are always the same."""

    server: ForkServer
    place: Path
    log: Path

    def set_out(self, template: Path) -> None:
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(template, self.place, symlinks=True)

    def run(self, writer: Writer) -> None:
        child = self.server.run(self.place, *writer.arguments, entry=writer.entry)
        assert child.returncode == 0, (writer.name, child.stdout, child.stderr)


@contextmanager
def serving(directory: Path) -> Iterator[ForkServer]:
    command = [sys.executable, str(ROOT / "tests/fork_server.py"), *PRELOADED]
    (directory / "children").mkdir()
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    ) as process:
        yield ForkServer(process, directory / "children")


def writers(bench: Bench, directory: Path) -> Iterator[Writer]:
    """Every writer of the project; what one needs is made by those before it."""
    (directory / "empty/results").mkdir(parents=True)
    yield Writer("base model", directory / "empty", ("prepare", "--only=base", *SMALL), kills=9)
    yield Writer("scenes", directory / "empty", ("prepare", "--only=data", *SMALL), kills=8)
    yield Writer(
        "conversion of COCO", coco(directory / "coco"), ("prepare", "--only=data", *COCO), kills=9
    )
    bench.set_out(directory / "empty")
    bench.run(Writer("", directory, ("prepare", *SMALL)))
    shutil.copytree(bench.place, directory / "prepared")
    training = Writer("training", directory / "prepared", MIXED, "train", kills=18)
    yield training
    bench.run(training)
    shutil.copytree(bench.place, directory / "trained")
    run = only(bench.place / "results/runs/mixed").relative_to(bench.place)
    yield Writer("probe", directory / "trained", ("probe", str(run), *RECIPE), kills=12)
    yield from study_steps(bench, directory)


COCO = ("data=coco", "data.annotations=coco.json", "data.images=pictures")


def coco(directory: Path) -> Path:
    """40 pictures, two thirds as large again as the limit, and their annotations."""
    (directory / "results").mkdir(parents=True)
    (directory / "pictures").mkdir()
    many(directory / "coco.json", 40, (96, 64))
    rng = np.random.default_rng(0)
    for image in json.loads((directory / "coco.json").read_text())["images"]:
        pixels = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(directory / "pictures" / image["file_name"])
    return directory


def study_steps(bench: Bench, directory: Path) -> Iterator[Writer]:
    """Every step of a study of three small runs, each after the one before it."""
    bench.set_out(directory / "prepared")
    settings = {"experiment": "smoke", "all": [*SMALL, *RECIPE]}
    study = plan_study(settings)
    command = ("step", "preregister", json.dumps(settings))
    register = Writer("step preregister", directory / "prepared", command)
    yield register
    bench.set_out(register.template)
    bench.run(register)
    for run in study.runs:
        bench.run(Writer("training", directory, run.overrides, "train"))
        recipe = study.overrides_for_probe(run.variant, run.seed, run.hash8)
        bench.run(Writer("probe", directory, ("probe", str(run.directory.path), *recipe)))
    for step in STEPS:
        template = directory / f"before-{step}"
        shutil.copytree(bench.place, template, symlinks=True)
        command = ("step", step, str(study.path))
        writer = Writer(f"step {step}", template, command)
        if step == "track":
            writer = Writer("import into MLflow", template, command, kills=14)
        yield writer
        bench.set_out(template)
        bench.run(writer)


# What differs between the files of one kind.
KINDS = (
    (r"[0-9a-f]{32}", "<id>"),
    (r"\.tmp\w{6}$", "<random>"),
    (r"(?<=/)\.new-\w+", ".new-<random>"),
    (r"\.uploading\.\w+$", ".uploading.<random>"),
    (r"(\.tmp/)[^/]*\.(json|jinja|md)$", r"\1*.\2"),
    (r"\.\d+\.tmp$", ".<pid>.tmp"),
    (r"step-\d+", "step-<n>"),
    (r"(?<=[-/])[0-9a-f]{8}(?=/|$)", "<hash>"),
    (r"\b(train|val)(?=[/.]|$)", "<split>"),
    (r"(images/<split>/)\w*\.", r"\1*."),
    (r"rollouts-\w+", "rollouts-<n>"),
)


def kind_of(path: str) -> str:
    """A path without what differs between runs, steps and pictures."""
    for pattern, word in KINDS:
        path = re.sub(pattern, word, path)
    return path


def chosen(calls: list[Call], cwd: Path, pid: int) -> list[tuple[str, Point]]:
    """The first and the last call of each name on each kind of file; many calls: one between.

    Locks and the store of digests are no results: test_digest_store.py damages the store.
    """
    groups: dict[tuple[str, str], list[Call]] = {}
    for call in calls:
        # Workers' pipes and semaphores change the number of such a call.
        is_vague = call.thread != pid and call.name in ("openat", "write")
        is_result = not call.path.endswith(".lock") and ".digests.sqlite" not in call.path
        if call.writes and call.name != "mkdir" and is_result and not is_vague:
            groups.setdefault((kind_of(os.path.relpath(call.path, cwd)), call.name), []).append(
                call
            )
    points = []
    for (kind, _), group in groups.items():
        at = {0, len(group) - 1} | ({len(group) // 2} if len(group) >= 8 else set())
        points += [(kind, point_of(group[i], cwd, pid)) for i in sorted(at)]
    return points


def point_of(call: Call, cwd: Path, pid: int) -> Point:
    path = os.path.relpath(call.path, cwd).replace(f".{pid}.", ".{pid}.")
    is_known = not re.search(r"[0-9a-f]{32}|\.\d+\.tmp|\.tmp\w{6}|\.uploading\.|/\.new-", path)
    if call.is_named_whole and is_known:
        return Point(call.name, path, call.of_path, by_path=True)
    return Point(call.name, path, call.of_thread, by_path=False)


@dataclass(frozen=True)
class Outcome:
    """What a kill led to.

    landed: name and kind of file of the call that the kill came before; "" if nothing was killed.
    differences: from the undisturbed run, after the same command has run again.
    """

    writer: str
    point: Point
    kind: str
    landed: str
    differences: list[str]

    @property
    def is_as_chosen(self) -> bool:
        return self.landed == f"{self.point.name} {self.kind}"


def kill_and_repeat(
    bench: Bench, writer: Writer, kind: str, point: Point, expected: dict[str, Any]
) -> Outcome:
    bench.set_out(writer.template)
    _, call = killed_at(
        bench.server, bench.place, bench.log, point, *writer.arguments, entry=writer.entry
    )
    landed = f"{call.name} {kind_of(os.path.relpath(call.path, bench.place))}" if call else ""
    again = bench.server.run(bench.place, *writer.arguments, entry=writer.entry)
    told = [] if again.returncode == 0 else [f"code {again.returncode}: {again.stderr.strip()}"]
    found = differences(final_files(bench.place / "results"), expected)
    return Outcome(writer.name, point, kind, landed, told + found)


def campaign(bench: Bench, writer: Writer) -> list[Outcome]:
    """Kill the writer at the chosen points, evenly spaced, where there are too many."""
    bench.set_out(writer.template)
    bench.run(writer)
    expected = final_files(bench.place / "results")
    bench.set_out(writer.template)
    child, calls = recorded(
        bench.server, bench.place, bench.log, *writer.arguments, entry=writer.entry
    )
    found = differences(final_files(bench.place / "results"), expected)
    assert child.returncode == 0, (writer.name, child.stderr)
    if found:
        print(f"{writer.name}: left out, two undisturbed runs differ: {found}", flush=True)
        return []
    points = chosen(calls, bench.place, child.pid)
    print(f"{writer.name}: {len(calls)} calls, {len(points)} points", flush=True)
    n = min(writer.kills, len(points))
    points = [points[i * len(points) // n] for i in range(n)]
    outcomes = []
    for kind, point in points:
        outcomes.append(kill_and_repeat(bench, writer, kind, point, expected))
        print(f"  {outcomes[-1]}", flush=True)
    return outcomes


def rows_of(outcomes: list[Outcome]) -> list[str]:
    """A row of the table for each writer and kind of file."""
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.landed:
            groups.setdefault((outcome.writer, outcome.kind), []).append(outcome)
    rows = []
    for (writer, kind), group in groups.items():
        names = Counter(outcome.point.name for outcome in group)
        calls = ", ".join(f"{name} × {n}" if n > 1 else name for name, n in names.items())
        there = sum(outcome.is_as_chosen for outcome in group)
        differing = sum(bool(outcome.differences) for outcome in group)
        rows.append(f"| {writer} | `{kind}` | {calls} | {len(group)} | {there} | {differing} |")
    return rows


def update_page(outcomes: list[Outcome]) -> str:
    """Replace the rows of these writers in the page; returns the table."""
    head, _, rest = PAGE.read_text().partition(START)
    before, _, rest = rest.partition(END)
    again = {outcome.writer for outcome in outcomes}
    kept = [row for row in before.splitlines()[2:-1] if row.split(" | ")[0][2:] not in again]
    rows = kept + rows_of(outcomes)
    totals = [
        sum(int(row.split(" | ")[column].strip(" |")) for row in rows) for column in (3, 4, 5)
    ]
    lines = [
        "| writer | file | killed before | kills | there | differences |",
        "|---|---|---|---:|---:|---:|",
        *rows,
        f"| all | | | {' | '.join(map(str, totals))} |",
    ]
    table = "\n".join(lines) + "\n"
    PAGE.write_text(head + START + table + END + rest)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="these writers' rows of the table: a pattern")
    arguments = parser.parse_args()
    if not shutil.which("strace"):
        sys.exit("benchmarks/kills.py: strace is not installed here: install it and start again")
    outcomes = []
    with tempfile.TemporaryDirectory() as temporary, serving(Path(temporary)) as server:
        directory = Path(temporary)
        bench = Bench(server, directory / "here", directory / "strace.log")
        for writer in writers(bench, directory):
            if re.search(arguments.only, writer.name):
                outcomes += campaign(bench, writer)
    print(update_page(outcomes), end="")


if __name__ == "__main__":
    main()
