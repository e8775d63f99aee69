"""preregistration.json: runs and rule of a study, written down before training; what is written stays."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coordexp.config.compose import digest, flatten
from coordexp.errors import UserError
from coordexp.storage.files import read_json, write_json
from coordexp.storage.logs import read_log
from coordexp.storage.runs import RESULTS
from coordexp.study.plan import COMPARE_LOGS, PlannedRun, Study
from coordexp.study.sources import Source


def preregister(study: Study, study_dir: Path | None = None) -> Path:
    """Write down runs and rule in the study's directory (or in `study_dir`). Returns the file's path.

    Raises:
        UserError: another study was registered there.
    """
    path = (study_dir or study.path) / "preregistration.json"
    if path.exists():
        if (there := read_json(path).get("hash8")) != study.hash8:
            raise UserError(
                f"{path.parent}: holds another study ({there}): choose another directory, or remove that one"
            )
        return path
    earlier = [e for e in earlier_registrations() if e["hash8"] != study.hash8]
    mine: dict[str, Any] = {
        "study": study.name,
        "hash8": study.hash8,
        "written_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seeds": study.seeds,
        "rule": study.rule,
        "rule_sha256": digest(study.rule),
        "vision": study.vision,
        "probe": study.probe,
        "runs": [planned(run) for run in study.runs]
        + [handed_over(source) for source in study.sources],
    }
    for run in mine["runs"]:
        run["registered"] = any(registers(e, run, mine["rule_sha256"]) for e in earlier)
    mine["earlier_studies"] = [
        {key: e[key] for key in ("study", "hash8", "written_at", "seeds", "rule_sha256")}
        | {"changed": changes(e, mine)}
        for e in earlier
        if e["study"] == study.name or shares_runs(e, mine)
    ]
    write_json(path, mine)
    return path


def planned(run: PlannedRun) -> dict[str, Any]:
    return {
        "variant": run.variant,
        "seed": run.seed,
        "hash8": run.hash8,
        "directory": str(run.directory.path),
        "log": None,
        "overrides": list(run.overrides),
        "processes": run.processes,
        "existing": run.directory.log.exists() and bool(read_log(run.directory.log).evals),
    }


def handed_over(source: Source) -> dict[str, Any]:
    return {
        "variant": source.variant,
        "seed": source.seed,
        "hash8": None,
        "directory": str(source.run.path) if source.run else None,
        "log": str(source.run.log if source.run else source.path),
        "kind": source.kind,
        "sha256": source.sha256,
        "overrides": [],
        "existing": True,
    }


def earlier_registrations() -> list[dict[str, Any]]:
    """Every registration of a study that trains, oldest first."""
    paths = [
        path for path in RESULTS.glob("*/*/preregistration.json") if not path.parent.is_symlink()
    ]
    found = [read_json(path) for path in paths]
    return sorted(
        (e for e in found if e["study"] != COMPARE_LOGS),
        key=lambda e: (e["written_at"], e["hash8"]),
    )


def registers(earlier: dict[str, Any], run: dict[str, Any], rule_sha256: str) -> bool:
    """Whether an earlier study named this run, under the same rule, before the run had results."""
    same = [r for r in earlier["runs"] if r["directory"] and r["directory"] == run["directory"]]
    return earlier["rule_sha256"] == rule_sha256 and any(not r["existing"] for r in same)


def shares_runs(earlier: dict[str, Any], mine: dict[str, Any]) -> bool:
    return bool(directories(earlier["runs"]) & directories(mine["runs"]))


def directories(runs: Sequence[dict[str, Any]]) -> set[str]:
    return {run["directory"] for run in runs if run["directory"]}


def changes(earlier: dict[str, Any], mine: dict[str, Any]) -> list[str]:
    """What an earlier study of the same runs had registered otherwise; nothing where no run is shared."""
    if not shares_runs(earlier, mine):
        return []
    before, now = flatten(earlier["rule"]), flatten(mine["rule"])
    found = [
        f"{key} {before.get(key)} (now {now.get(key)})"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]
    return found + (
        [f"{earlier['seeds']} seeds a variant (now {mine['seeds']})"]
        if earlier["seeds"] != mine["seeds"]
        else []
    )
