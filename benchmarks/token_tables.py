"""Token tables of a large study in bounded memory: 100 runs x 18 evaluations x 40,000 tokens.

    python benchmarks/token_tables.py

Two minutes on one core; writes the tables of benchmarks/README.md. A few distinct files are made in
a temporary directory and read over and over (50 MB of disk instead of 6 GB), so the page cache is
warm for both sides. Each measurement is a process of its own; CPU time and peak memory beyond the
imports are told as ratios, which other work on the machine disturbs little.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from calibration import table, write_between

from coordexp.analysis.comparison.image_influence import image_influence
from coordexp.metrics import METRICS
from coordexp.storage.token_tables import read_tokens

PAGE = Path(__file__).with_name("README.md")
N_FILES = 4
EVALUATIONS = 18
ROWS = (10_000, 20_000, 40_000, 80_000)
RUNS = (1, 10, 100)
PANDAS_RUNS = (1, 2, 4)
TOKENS_PER_IMAGE = 8


def write_tables(directory: Path, n_rows: int) -> None:
    """Files with the columns, types and compression of a trainer's."""
    for i in range(N_FILES):
        rng = np.random.default_rng(i)
        image = np.arange(n_rows) // TOKENS_PER_IMAGE
        gt = rng.integers(0, 1000, n_rows).astype(np.int16)
        columns = {
            "image_id": image,
            "object_index": np.zeros(n_rows, np.int32),
            "slot": np.array(["x1", "y1", "x2", "y2"])[image % 4],
            "box_area_px": rng.lognormal(7, 1, n_rows).astype(np.float32),
            "gt_bin": gt,
            "argmax_bin": gt,
            "hit": rng.random(n_rows) < 0.2,
            "coord_mass": rng.random(n_rows, np.float32),
            "fit_half": image % 2 == 0,
        }
        for label, name in itertools.product(
            ("t1", "own", "fitted"), ("nll", "crps", "w1_to_delta", "p_gt", "entropy")
        ):
            columns[f"{name}_{label}"] = rng.random(n_rows, np.float32)
        for label in ("t1", "own", "fitted"):
            columns[f"expected_bin_{label}"] = (gt + rng.normal(0, 30, n_rows)).astype(np.float32)
        pd.DataFrame(columns).to_parquet(
            directory / f"{n_rows}-{i}.parquet", compression="zstd", index=False
        )


def streamed(paths: Sequence[Path]) -> float:
    """This project's way: a table at a time, only the needed columns. Returns a checksum."""
    return sum(
        sum(image_influence(read_tokens(path, "1", list(METRICS.values()))).values.values())
        for path in paths
    )


def all_at_once(paths: Sequence[Path]) -> float:
    """The plain way with pandas: read everything, then group by table and image."""
    tokens = pd.concat([pd.read_parquet(path).assign(table=i) for i, path in enumerate(paths)])
    tokens["error"] = (tokens["expected_bin_t1"].astype(float) - tokens["gt_bin"]).abs()
    names = ["error", "w1_to_delta_t1", "hit", "p_gt_t1"]
    sums = tokens.groupby(["table", "image_id"])[names].sum().groupby("table").sum()
    counts = tokens.groupby("table").size()
    return float(
        sums.div(counts, axis=0).to_numpy().sum()
        + tokens.groupby("table")["error"].quantile(0.9).sum()
    )


WAYS = {"streamed": streamed, "all_at_once": all_at_once}


def measure(way: str, directory: Path, n_rows: int, n_runs: int) -> dict[str, float]:
    """In a process of its own: CPU seconds a table, peak MB beyond the imports, checksum."""
    task = json.dumps([way, str(directory), n_rows, n_runs])
    done = subprocess.run(
        [sys.executable, __file__, "--task", task], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def child(way: str, directory: str, n_rows: int, n_runs: int) -> dict[str, float]:
    n_tables = n_runs * EVALUATIONS
    paths = [Path(directory) / f"{n_rows}-{i % N_FILES}.parquet" for i in range(n_tables)]
    before_mb = (
        int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
    )
    WAYS[way](paths[:N_FILES])  # what only the first calls import and page in
    started = time.process_time()
    checksum = WAYS[way](paths)
    seconds = time.process_time() - started
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before_mb
    return {"cpu_s": seconds / n_tables, "peak_mb": peak_mb, "checksum": checksum / n_tables}


def by_runs(directory: Path) -> str:
    n_rows = 40_000
    tasks = [("streamed", n) for n in RUNS] + [("all_at_once", n) for n in PANDAS_RUNS]
    found = {task: measure(task[0], directory, n_rows, task[1]) for task in tasks}
    one, same = found["streamed", 1], found["all_at_once", 1]
    assert np.isclose(one["checksum"], same["checksum"]), "the two ways disagree"
    labels = {"streamed": "this project", "all_at_once": "pandas, all at once"}
    rows = [
        [
            labels[way],
            f"{n} × {EVALUATIONS}",
            f"{f['cpu_s'] / one['cpu_s']:.2f}",
            f"{f['peak_mb'] / one['peak_mb']:.2f}",
        ]
        for (way, n), f in found.items()
    ]
    return table(
        f"tables of {n_rows:,} tokens | runs × evaluations | CPU time a table | peak memory", rows
    )


def by_rows(directory: Path) -> str:
    found = {n: measure("streamed", directory, n, 4) for n in ROWS}
    base = found[ROWS[0]]["cpu_s"] / ROWS[0]
    rows = [[f"{n:,}", f"{f['cpu_s'] / n / base:.2f}"] for n, f in found.items()]
    return table("tokens a table | CPU time a token", rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task:
        print(json.dumps(child(*json.loads(arguments.task))))
        return
    with tempfile.TemporaryDirectory() as name:
        for n_rows in ROWS:
            write_tables(Path(name), n_rows)
        for part, make in (("runs", by_runs), ("rows", by_rows)):
            text = make(Path(name))
            write_between(PAGE, part, text)
            print(text, end="\n\n", flush=True)


if __name__ == "__main__":
    main()
