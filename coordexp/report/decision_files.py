"""What the report reads of recommendation.json and probe.json."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from coordexp.analysis.comparison.findings import Difference
from coordexp.analysis.comparison.probes import signal_differences
from coordexp.analysis.recommendation.card import verdict
from coordexp.storage.files import read_json
from coordexp.storage.typed import read_typed


@dataclass(frozen=True)
class StudyName:
    name: str
    hash8: str
    seeds: int


@dataclass(frozen=True)
class Grade:
    """How sure one half of the decision is, and why."""

    grade: str
    reason: str


@dataclass(frozen=True)
class Confidence:
    stage1_ranking: Grade
    stage2_fitness: Grade


@dataclass(frozen=True)
class Role:
    """A variant with a role, by one of its checkpoints; without one where only logs exist."""

    variant: str
    seed: int
    step: int
    checkpoint: str | None
    sha256: str | None
    metrics: dict[str, float]
    reasons: list[str]


@dataclass(frozen=True)
class Ineligible:
    """A variant that may hold no role."""

    variant: str
    reasons: list[str]


@dataclass(frozen=True)
class Claim:
    """A claim of the confirmatory family: the primary against a rival on the first metric."""

    variant: str
    metric: str
    lead: float
    low: float
    high: float
    p_holm: float | None
    verdict: str


@dataclass(frozen=True)
class ProbeFinding:
    """What the Stage-2 probe says of the Stage-1 ranking."""

    verdict: str
    sentence: str
    smoothness: str | None
    stage1_ranking: list[str]
    probe_ranking: list[str]
    signal: str
    confounds: list[str]


@dataclass(frozen=True)
class Rule:
    text: str
    sha256: str


@dataclass(frozen=True)
class Recommendation:
    """recommendation.json."""

    study: StudyName
    confidence: Confidence
    primary: Role | None
    secondary: Role | None
    optional: list[Role]
    tied: list[Role]
    ineligible: list[Ineligible]
    alerts: list[str]
    caveats: list[str]
    would_overturn: list[str]
    would_take: list[str]
    confirmatory: list[Claim]
    stage2: ProbeFinding | None
    rule: Rule


@dataclass(frozen=True)
class Candidate:
    """One probed run. curve: the losses of the fine-tune, with its step."""

    variant: str
    seed: int
    directory: str
    records: str
    images: int
    curve: list[dict[str, float]]


@dataclass(frozen=True)
class ProbeSettings:
    steps: int
    temperature: float
    adapter_rank: int = 0


@dataclass(frozen=True)
class StudyProbe:
    """probe.json; without candidates where nothing was probed."""

    settings: ProbeSettings | None
    candidates: list[Candidate]
    means: dict[str, dict[str, float]]
    differences: list[Difference]
    aggregates: dict[str, object] | None


def read_recommendation(study_dir: Path) -> Recommendation:
    """Raises UserError: the file is missing or damaged."""
    return read_typed(study_dir / "recommendation.json", Recommendation)


def read_verdict(study_dir: Path) -> str:
    """The one sentence of the card."""
    return verdict(read_json(study_dir / "recommendation.json"))


def read_study_probe(study_dir: Path) -> StudyProbe:
    """Raises UserError: the file is missing or damaged."""
    content = read_json(study_dir / "probe.json")
    differences = msgspec.to_builtins(signal_differences(content))
    return msgspec.convert(content | {"differences": differences}, StudyProbe)
