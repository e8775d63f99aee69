"""What a command has left below results, in a form in which two undisturbed runs are equal.

Bit for bit, but for what a clock wrote, the pid in a lock, the store of digests (a cache), and the
random ids of MLflow.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from training import TIME_LIKE

from coordexp.storage.files import sha256_file

CLOCKS = (
    *("finished_at", "preflight_wall_s", "train_wall_s", "train_cpu_s", "eval_wall_s", "wall_s"),
    "written_at",
    "seal",
)
LOGS = ("logging.jsonl", "probe.jsonl")


def final_files(results: Path) -> dict[str, Any]:
    """{name: what it holds} of everything below results, names without MLflow's random ids."""
    database = results / "mlflow" / "mlflow.db"
    ids = mlflow_names(database) if database.exists() else {}
    found: dict[str, Any] = {}
    for path in sorted(results.rglob("*")):
        name = with_names(str(path.relative_to(results)), ids)
        found[name] = content(path, ids)
    return found


def content(path: Path, ids: dict[str, str]) -> Any:
    if path.is_symlink():
        return str(path.readlink())
    if path.is_dir():
        return "directory"
    if path.name.endswith(".lock") or path.name.startswith(".digests.sqlite"):
        return "file"
    return READERS.get(path.name, lambda file, _: sha256_file(file))(path, ids)


def rows(path: Path, _: dict[str, str]) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in TIME_LIKE} for row in found]


def manifest(path: Path, _: dict[str, str]) -> dict[str, Any]:
    """Without clocks; of its artifacts, the digest of a log counts only where the log has none."""
    found = {k: v for k, v in json.loads(path.read_text()).items() if k not in CLOCKS}
    if "artifacts" in found:
        found["artifacts"] = {k: v for k, v in found["artifacts"].items() if k not in LOGS}
    return found


def named(path: Path, ids: dict[str, str]) -> str:
    content = json.loads(path.read_text())
    content.pop("seal")
    return with_names(json.dumps(content), ids)


def recorded(path: Path, _: dict[str, str]) -> dict[str, list[str]]:
    """{file: what it was made from}, without digests: a clock wrote into some of these files."""
    files = json.loads(path.read_text())["files"]
    return {name: sorted(written["made_from"]) for name, written in files.items()}


def mlflow(path: Path, ids: dict[str, str]) -> dict[str, Counter]:
    """{table: its rows}, without what a clock wrote: columns of time, metrics of the comparison."""
    found = {}
    with closing(sqlite3.connect(path)) as database:
        tables = [
            row[0]
            for row in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
        ]
        for table in sorted(tables):
            read = database.execute(f'SELECT * FROM "{table}"')
            columns = [column[0] for column in read.description]
            found[table] = Counter(
                with_names(
                    repr(
                        [
                            f"{column}={value!r}"
                            for column, value in zip(columns, row, strict=True)
                            if not is_clock(table, column, row)
                        ]
                    ),
                    ids,
                )
                for row in read
            )
    return found


def is_clock(table: str, column: str, row: tuple) -> bool:
    """Points of a run have the time of their log's row; those of the comparison that of import."""
    if table in ("metrics", "latest_metrics") and column == "timestamp":
        return any(str(value).startswith(("primary/", "secondary/")) for value in row)
    return column.endswith(("_time", "_timestamp", "_at"))


def mlflow_names(database: Path) -> dict[str, str]:
    """{a random id of MLflow: what it stands for}: of runs, and of the data sets they name."""
    with closing(sqlite3.connect(database)) as opened:
        query = "SELECT run_uuid, value FROM tags WHERE key IN ('coordexp.run', 'coordexp.study')"
        names = {run: f"<{name}>" for run, name in opened.execute(query)}
        data = opened.execute("SELECT dataset_uuid, name, digest FROM datasets")
        names |= {uuid: f"<data {name} {digest}>" for uuid, name, digest in data}
        inputs = opened.execute("SELECT input_uuid, source_id, destination_id FROM inputs")
        for uuid, source, run in inputs:
            names[uuid] = f"<{names.get(source)} of {names.get(run)}>"
    return names


def with_names(text: str, ids: dict[str, str]) -> str:
    for run, name in ids.items():
        text = text.replace(run, name.replace("/", "|"))
    return text


READERS: dict[str, Callable[[Path, dict[str, str]], Any]] = {
    **dict.fromkeys(LOGS, rows),
    "run.json": manifest,
    "probe.json": manifest,
    "preregistration.json": manifest,
    "digests.json": recorded,
    "mlflow.json": named,
    "experiment.json": named,
    "mlflow.db": mlflow,
}


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """One line for each name that only one has, or whose content differs."""
    lines = [f"{name}: left over" for name in found.keys() - expected.keys()]
    lines += [f"{name}: missing" for name in expected.keys() - found.keys()]
    for name in found.keys() & expected.keys():
        if found[name] != expected[name]:
            lines.append(f"{name}: {difference(found[name], expected[name])}")
    return sorted(lines)


def difference(found: Any, expected: Any) -> str:
    """What differs, short: keys, or rows that only one has."""
    if isinstance(found, list):
        return f"{len(found)} rows, {len(expected)} expected, or others"
    if not isinstance(found, dict):
        return f"{found}, not {expected}"
    keys = sorted(k for k in found.keys() | expected.keys() if found.get(k) != expected.get(k))
    told = [str(keys)]
    for key in keys:
        if isinstance(found.get(key), Counter) and isinstance(expected.get(key), Counter):
            told.append(f"{key} has {list(found[key] - expected[key])}")
            told.append(f"lacks {list(expected[key] - found[key])}")
    return ", ".join(told)
