"""Hostile input for every reader: a million inputs, each accepted or refused in one line.

    python benchmarks/fuzz.py [--seed 0] [--share 1.0] [--workers 2] [--log FILE]
                              [--group GROUP] [--only WORD]

Mutates valid examples of every file and command line, and lets hypothesis make others. Anything but
an answer or a UserError of one line is a finding: another exception, more than 5 s or 1 GB, a write
outside the results, a process, a connection. Prints each finding with the input's number; writes
the table of docs/reliability.md if there is none and every kind was run. With --log, each kind is
noted in FILE as it ends, and a run that was stopped goes on behind those.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import chdir
from dataclasses import dataclass, field, replace
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests")]
sys.dont_write_bytecode = True

from fuzzing.guard import limited  # noqa: E402
from fuzzing.kind import Kind, attack  # noqa: E402
from fuzzing.mutations import clear  # noqa: E402

PAGE = ROOT / "docs/reliability.md"
START, END = "<!-- fuzz.py -->\n", "<!-- end of fuzz.py -->\n"
GENERATED = 0.02  # share of the inputs that hypothesis makes: one costs some milliseconds
# What one process attacks, by the module with its kinds (one imports torch, which takes seconds).
GROUPS = {
    "study files": "study_files",
    "logs": "logs",
    "data": "annotations",
    "command lines": "commands",
    "checkpoints": "checkpoints",
}
MOST_FINDINGS = 20  # that are printed of a kind; the rest is counted


@dataclass
class Outcome:
    """What came of the inputs of a kind."""

    group: str
    name: str
    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    cpu_s: float = 0.0
    findings: Counter[str] = field(default_factory=Counter)  # by where they were raised
    first: dict[str, str] = field(default_factory=dict)  # of each: input and traceback


def make_logs() -> None:
    """Two logs that many kinds name: in/a and in/b."""
    from dialect_files import as_lines, rows_of

    for name, variant in (("a", "pure_ce"), ("b", "mixed")):
        folder = Path("in") / name
        folder.mkdir(parents=True)
        as_lines(folder / "logging.jsonl", rows_of(folder, variant))
        clear(folder / f"{variant}.jsonl")
    Path("results").mkdir()
    Path("out").mkdir()


def attacked(kind: Kind, group: str, seed: int, share: float) -> Outcome:
    """Attack one kind by mutation, then by hypothesis."""
    outcome = Outcome(group, kind.name)
    n_inputs = max(10, round(kind.inputs * share))
    n_generated = max(2, round(n_inputs * GENERATED))
    before = time.process_time()
    with limited(Path("results"), Path("out")):
        for i in range(n_inputs):
            rng = Random(f"{seed} {kind.name} {i}")
            count(outcome, kind, kind.mutated(rng), rng, f"input {i}")

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=n_generated,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @hypothesis.given(kind.generated)
        def generated(given: Any) -> None:
            count(outcome, kind, given, Random(outcome.inputs), "generated")

        generated()
    outcome.cpu_s = time.process_time() - before
    return outcome


def count(outcome: Outcome, kind: Kind, given: Any, rng: Random, named: str) -> None:
    outcome.inputs += 1
    try:
        if attack(kind, given, rng):
            outcome.accepted += 1
        else:
            outcome.refused += 1
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001  # findings of any kind are counted
        frames = traceback.extract_tb(error.__traceback__)
        own = [f for f in frames if "/coordexp/" in f.filename] or frames
        where = f"{type(error).__name__} at {Path(own[-1].filename).name}:{own[-1].lineno}"
        outcome.findings[where] += 1
        outcome.first.setdefault(
            where,
            f"{named}: {given!r:.300}\n" + "".join(traceback.format_exception(error)[-12:])[-2500:],
        )


def attack_group(
    group: str,
    only: str,
    seed: int,
    share: float,
    cheap: bool = False,
    log: Path | None = None,
    done: Sequence[str] = (),
) -> list[Outcome]:
    """Attack the kinds of a group in a directory of its own.

    Args:
        only: a word in the names of these kinds.
        cheap: leave out kinds of which a whole run has fewer than a thousand inputs; print nothing.
        log: where to note each kind that has ended.
        done: names of kinds to leave out.
    """
    with tempfile.TemporaryDirectory() as directory, chdir(directory):
        make_logs()
        found = []
        for kind in import_module(f"fuzzing.{GROUPS[group]}").kinds():
            is_dear = cheap and kind.inputs < 1_000
            if only not in kind.name or is_dear or kind.name in done:
                continue
            intact = kind.place.read_bytes() if kind.place and kind.place.is_file() else None
            found.append(attacked(kind, group, seed, share))
            if not cheap:
                report(found[-1])
            if log is not None:
                with open(log, "a") as file:
                    file.write(json.dumps(vars(found[-1])) + "\n")
            if kind.place is not None:
                clear(kind.place)
                if intact is not None:
                    kind.place.write_bytes(intact)
        return found


def report(outcome: Outcome) -> None:
    n = sum(outcome.findings.values())
    print(
        f"{outcome.name}: {outcome.inputs:,} inputs, {outcome.accepted:,} accepted, "
        f"{outcome.refused:,} refused, {n:,} findings, {outcome.cpu_s:.0f} s",
        flush=True,
    )
    for where, times in outcome.findings.most_common(MOST_FINDINGS):
        print(f"--- {times:,} × {where}\n{outcome.first[where]}", flush=True)


def table(outcomes: Sequence[Outcome], seed: int) -> str:
    lines = [
        f"Seed {seed}.\n",
        "| of | input | inputs | accepted | refused | tracebacks | CPU seconds |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for o in outcomes:
        lines.append(
            f"| {o.group} | {o.name} | {o.inputs:,} | {o.accepted:,} | {o.refused:,} | "
            f"{sum(o.findings.values()):,} | {o.cpu_s:.0f} |"
        )
    totals = [sum(getattr(o, name) for o in outcomes) for name in ("inputs", "accepted", "refused")]
    findings = sum(sum(o.findings.values()) for o in outcomes)
    told = " | ".join(f"{n:,}" for n in (*totals, findings))
    return "\n".join([*lines, f"| all | | {told} | {sum(o.cpu_s for o in outcomes):.0f} |"]) + "\n"


def read_outcomes(log: Path) -> list[Outcome]:
    found = [Outcome(**json.loads(line)) for line in log.read_text().splitlines()]
    return [replace(o, findings=Counter(o.findings)) for o in found]


def write_page(text: str) -> None:
    page = PAGE.read_text()
    pattern = re.compile(re.escape(START) + ".*?" + re.escape(END), re.DOTALL)
    assert pattern.search(page), f"{PAGE}: no place for the table"
    PAGE.write_text(pattern.sub(lambda _: f"{START}{text}{END}", page))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="of the inputs of a whole run")
    parser.add_argument("--group", choices=GROUPS, help="only kinds of this group")
    parser.add_argument("--only", default="", help="only kinds with this word in their name")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--log", type=Path, help="a file of its own for each seed and share")
    args = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    log = args.log.absolute() if args.log else None
    outcomes = read_outcomes(log) if log and log.exists() else []
    done = [o.name for o in outcomes]
    with ProcessPoolExecutor(args.workers, get_context("spawn")) as pool:
        jobs = [
            pool.submit(attack_group, group, args.only, args.seed, args.share, log=log, done=done)
            for group in ([args.group] if args.group else GROUPS)
        ]
        for job in as_completed(jobs):
            outcomes += job.result()
    order = list(GROUPS)
    outcomes.sort(key=lambda o: order.index(o.group))
    text = table(outcomes, args.seed)
    print(text)
    if any(o.findings for o in outcomes):
        sys.exit("findings: see above")
    if not (args.only or args.group):
        write_page(text)


if __name__ == "__main__":
    main()
