"""Sealed files of results, and what reads them."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Callable, Iterator
from enum import Enum
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from coordexp.analysis.audit.findings import Audit, read_audit
from coordexp.analysis.comparison.findings import Comparison, read_comparison
from coordexp.analysis.comparison.probe_findings import (
    Aggregates,
    StudyProbe,
    read_aggregates,
    read_study_probe,
)
from coordexp.analysis.recommendation.card import card
from coordexp.analysis.recommendation.findings import Recommendation, read_recommendation
from coordexp.cli.compare import compare
from coordexp.cli.verify import verify
from coordexp.data.prepare import DataManifest, read_data_manifest
from coordexp.data.prompt_file import PromptFile, read_prompt_file
from coordexp.detection.probe_manifest import MissingProbe, ProbeManifest, read_probe_manifest
from coordexp.models.base_manifest import BaseManifest, read_base_manifest
from coordexp.storage.identity import Sources, read_sources
from coordexp.storage.manifest import RunManifest, read_manifest
from coordexp.storage.runs import RunDirectory
from coordexp.study.inputs import load_runs
from coordexp.study.preregistration import Preregistration, read_preregistration
from coordexp.study.sources import parse_sources
from coordexp.study.study_files import DIGESTS, StudyDigests, read_digests
from coordexp.study.study_runs import StudyRuns, read_study_runs
from coordexp.study.tracked import TrackedStudy, read_tracked_study
from coordexp.tracking.experiment import Experiment, read_experiment
from fuzzing.kind import Kind, file_kind, json_trees, keys_of
from fuzzing.mutations import dumped, of_sealed, resealed

N_EXAMPLES = 20  # of each type
Reader = Callable[[Path], object]


def read_registered(path: Path) -> object:
    plan = read_preregistration(path.parent)
    return plan.decision_rule, plan.rollouts, plan.controls


def read_run(path: Path) -> object:
    return read_manifest(RunDirectory(path.parent))


# File name, type and reader of each typed file.
TYPED: tuple[tuple[str, type, Reader], ...] = (
    ("base.json", BaseManifest, read_base_manifest),
    ("data.json", DataManifest, read_data_manifest),
    ("sources.json", Sources, lambda path: read_sources(path.parent)),
    ("run.json", RunManifest, read_run),
    ("prompt.json", PromptFile, lambda path: read_prompt_file(path.parent)),
    ("experiment.json", Experiment, read_experiment),
    (DIGESTS, StudyDigests, lambda path: read_digests(path.parent)),
    ("preregistration.json", Preregistration, read_registered),
    ("runs.json", StudyRuns, lambda path: read_study_runs(path.parent)),
    ("audit.json", Audit, lambda path: read_audit(path.parent)),
    ("comparison.json", Comparison, lambda path: read_comparison(path.parent)),
    ("probe.json", StudyProbe, lambda path: read_study_probe(path.parent)),
    ("recommendation.json", Recommendation, lambda path: read_recommendation(path.parent)),
    ("mlflow.json", TrackedStudy, lambda path: read_tracked_study(path.parent)),
    ("stage2/probe.json", ProbeManifest, read_probe_manifest),
    ("no-checkpoint/probe.json", MissingProbe, read_probe_manifest),
    ("published.json", Aggregates, read_aggregates),
)


def kinds() -> Iterator[Kind]:
    study = make_study()
    for name, type_, read in TYPED:
        examples = [dumped(resealed(random_tree(type_, Random(i)))) for i in range(N_EXAMPLES)]
        if (study / name).is_file():
            examples += [(study / name).read_bytes()] * 3  # large: three inputs of 23
        keys = sorted(set().union(*(keys_of(json.loads(example)) for example in examples)))
        trees = json_trees(keys, sealed=True)
        place = Path("in/typed") / name
        yield file_kind(name, place, examples, of_sealed, read, generated=trees)
    yield from of_a_study(study)


def make_study() -> Path:
    """A study that compares two logs."""
    study = Path("in/study")
    compare(["a=in/a/logging.jsonl", "b=in/b/logging.jsonl"], study)
    return study


def of_a_study(study: Path) -> Iterator[Kind]:
    """Files of a study that was compared, and the commands that read them."""

    def examples(name: str) -> list[bytes]:
        return [(study / name).read_bytes()]

    def shown(path: Path) -> object:
        return card(read_recommendation(path.parent), path.parent)

    def verified(_: Path) -> object:
        return list(verify(Path("results")))

    def copied(name: str, directory: str) -> Path:
        """A directory of its own, in which the other files stay whole.

        Beside digests.json nearly every changed file would be refused before it is read: only that
        file itself is changed there.
        """
        for file in study.glob("*.json"):
            if file.name == DIGESTS != name:
                continue
            target = Path(directory) / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
        return Path(directory) / name

    place = copied("recommendation.json", "in/shown")
    yield file_kind("`coordexp show`", place, examples(place.name), of_sealed, shown, 4_000)
    place = copied("runs.json", "in/loaded")
    runs = examples(place.name)
    yield file_kind(
        "runs.json, and the logs it names",
        place,
        runs,
        of_sealed,
        lambda path: load_runs(path.parent),
        4_000,
    )
    place = copied("runs.json", "in/given")
    yield file_kind(
        "a study in NAME=PATH",
        place,
        runs,
        of_sealed,
        lambda path: parse_sources([f"a={path.parent}"]),
        4_000,
    )
    place = copied(DIGESTS, "in/recorded")
    yield file_kind(
        f"{DIGESTS}, and the files it names",
        place,
        examples(place.name),
        of_sealed,
        lambda path: shown(path.with_name("recommendation.json")),
        4_000,
    )
    place = copied("audit.json", "results/compare/0")
    yield file_kind("`coordexp verify`", place, examples(place.name), of_sealed, verified, 2_000)


def random_tree(kind: Any, rng: Random) -> Any:
    """JSON of a type: of a dataclass an object with all of its fields."""
    origin, of = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return {name: random_tree(hint, rng) for name, hint in type_hints(kind).items()}
    if origin is typing.Annotated:
        return random_tree(of[0], rng)
    if origin in (typing.Union, types.UnionType):
        return random_tree(rng.choice([k for k in of if k is not msgspec.UnsetType]), rng)
    if origin is typing.Literal:
        return rng.choice(of)
    if origin is tuple and of[-1] is not Ellipsis:
        return [random_tree(k, rng) for k in of]
    if origin in (list, tuple, set, frozenset) or getattr(origin, "__name__", "") == "Sequence":
        return [random_tree(of[0], rng) for _ in range(rng.randrange(3))]
    if origin is dict or getattr(origin, "__name__", "") == "Mapping":
        keys = [random_tree(of[0], rng) for _ in range(rng.randrange(3))]
        return {str(key): random_tree(of[1], rng) for key in keys}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return rng.choice(list(kind)).value
    return random_leaf(kind, rng)


@cache
def type_hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def random_leaf(kind: Any, rng: Random) -> Any:
    if kind is str:
        return rng.choice(("", "a", "pure_ce", "mae", "results/runs/a/s0", "0" * 64, "é", "in/a"))
    if kind is bool:
        return rng.random() < 0.5
    if kind is int:
        return rng.choice((0, 1, 40, 720, rng.randrange(10**6)))
    if kind is float:
        return rng.choice((0.0, 1.0, rng.random(), rng.gauss(0, 100)))
    if kind is type(None):
        return None
    return rng.choice((None, 1, "a", 0.5, [1], {"a": 1}))  # Any
