"""One run as each trainer writes it: the files of every dialect."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from log_files import write_events
from note import write_log

from coordexp.cli.main import main
from coordexp.storage.files import read_json
from coordexp.storage.logs.dialects import STEP_KEY
from coordexp.storage.logs.log import Log
from coordexp.study.sources import parse_sources, read_source

Rows = list[dict[str, Any]]
OURS_TO_THEIRS = {
    "eval_coord_token_acc": "eval_coord_diag/coord_token_acc",
    "eval_coord_diag/coord_mass_mean": "eval_coord_diag/coord_vocab_mass",
}


def step_of(row: dict[str, Any]) -> tuple[int, int]:
    step, planned = row[STEP_KEY].split("/")
    return int(step), int(planned)


def without_step(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in (STEP_KEY, "elapsed_time")}


def renamed(row: dict[str, Any]) -> dict[str, Any]:
    return {OURS_TO_THEIRS.get(key, key): value for key, value in row.items()}


def as_lines(path: Path, rows: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def ours(folder: Path, rows: Rows) -> Path:
    return as_lines(folder / "logging.jsonl", rows)


def swift(folder: Path, rows: Rows) -> Path:
    """Numbers as text, their names of metrics, extra keys, a summary at the end."""
    found: Rows = []
    for row in rows:
        texts = {key: repr(v) if isinstance(v, float) else v for key, v in renamed(row).items()}
        found.append({**texts, "memory(GiB)": 40.1, "train_speed(iter/s)": 0.1, "percentage": "1%"})
    return as_lines(folder / "logging.jsonl", [*found, {"train_runtime": 9.1, STEP_KEY: "1/1"}])


def swift_in_one_row(folder: Path, rows: Rows) -> Path:
    by_step: dict[str, dict[str, Any]] = {}
    for row in rows:
        by_step.setdefault(row[STEP_KEY], {}).update(renamed(row))
    return as_lines(folder / "v0-2026" / "logging.jsonl", list(by_step.values())).parent


def trainer_state(folder: Path, rows: Rows) -> Path:
    """An output directory with two checkpoints; the earlier one holds less."""
    entries = [{**without_step(row), "epoch": 0.5, "step": step_of(row)[0]} for row in rows]
    last, planned = step_of(rows[-1])
    for step in (9, last):
        state = {"global_step": step, "max_steps": planned, "log_history": entries[: 2 * step]}
        path = folder / "out" / f"checkpoint-{step}" / "trainer_state.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(state, indent=2))
    return folder / "out"


def events(folder: Path, rows: Rows) -> Path:
    given = [{key: v for key, v in row.items() if key != "elapsed_time"} for row in rows]
    return write_events(folder / "runs" / "Nov23", given).parent


def events_in_two_files(folder: Path, rows: Rows) -> Path:
    given = [{key: v for key, v in row.items() if key != "elapsed_time"} for row in rows]
    half = len(given) // 2
    for part, opened in ((given[:half], 1000.0), (given[half:], 2000.0)):
        write_events(folder / "events", part, opened=opened, suffix=str(opened))
    return folder / "events"


def tagged(row: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for key, value in without_step(row).items():
        eval_key = key.removeprefix("eval_")
        found[f"eval/{eval_key}" if key != eval_key else f"train/{key}"] = value
    return found


def as_csv(path: Path, rows: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
    return path


def wandb_history(folder: Path, rows: Rows) -> Path:
    found = [
        {"_step": i, "_runtime": 1.5 * i, **tagged(row), "train/global_step": step_of(row)[0]}
        for i, row in enumerate(rows)
    ]
    return as_csv(folder / "history.csv", found)


def wandb_charts(folder: Path, rows: Rows) -> Path:
    """The data of charts: each run's columns with its name, minimum and maximum."""
    found: Rows = []
    for row in rows:
        line: dict[str, Any] = {"train/global_step": step_of(row)[0]}
        for key, value in tagged(row).items():
            for ending in ("", "__MIN", "__MAX"):
                line[f"run - v0 - {key}{ending}"] = value if not ending else 0.0
        found.append(line)
    return as_csv(folder / "charts.csv", found)


def llama_factory(folder: Path, rows: Rows) -> Path:
    """The losses alone; its trainer_log.jsonl has no other values of an evaluation."""
    lines: Rows = []
    for row in rows:
        step, planned = step_of(row)
        kept = {key: row[key] for key in ("loss", "eval_loss") if key in row}
        lines.append({"current_steps": step, "total_steps": planned, **kept, "lr": 1e-5})
    lines.append({"current_steps": 720, "total_steps": 720, "percentage": 100.0})
    return as_lines(folder / "out" / "trainer_log.jsonl", lines).parent


Writer = Callable[[Path, Rows], Path]
WRITERS: dict[str, Writer] = {
    writer.__name__: writer
    for writer in (
        swift,
        swift_in_one_row,
        trainer_state,
        events,
        events_in_two_files,
        wandb_history,
        wandb_charts,
    )
}
IN_FLOAT32 = {"events", "events_in_two_files"}


def rows_of(folder: Path, variant: str) -> Rows:
    path = write_log(folder / f"{variant}.jsonl", variant)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        if "eval_loss" in row:
            row["eval_coord_diag/coord_mass_mean"] = 0.97
    return rows


def read(path: Path, **options: Any) -> Log:
    (source,) = parse_sources([f"a={path}"], **options)
    return read_source(source)


def compared(folder: Path, logs: dict[str, Path], *options: str) -> dict[str, Any]:
    """What `coordexp compare` finds, without what names the study or prints the mass's own key."""
    out = folder / "study"
    arguments = [f"{name}={path}" for name, path in logs.items()]
    main(["compare", *arguments, "--out", str(out), *options])
    found = read_json(out / "recommendation.json")
    comparison = read_json(out / "comparison.json")
    roles = ("primary", "secondary", "optional", "ineligible", "confidence", "caveats", "evidence")
    return {role: found[role] for role in roles} | {
        key: comparison[key] for key in ("common_steps", "winners", "curves", "differences")
    }
