"""The decision of a study: the types of recommendation.json, its reader and its writer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, get_args

from msgspec import Meta

from coordexp.study.study_files import read_study_file, write_study_file

SCHEMA_VERSION = 5

GradeName = Literal["descriptive", "provisional", "supported", "conclusive"]
GRADES: tuple[GradeName, ...] = get_args(GradeName)  # in rising order
Outcome = Literal["confirmed", "overturned", "unresolved"]
# Where a piece of evidence comes from, the closest to Stage-2 first.
Tier = Literal["rollouts", "token tables", "logs"]
Sha256: TypeAlias = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class StudyName:
    name: str
    hash8: Annotated[str, Meta(pattern="^[0-9a-f]{8}$")]
    seeds: Annotated[int, Meta(ge=1)]


@dataclass(frozen=True)
class Grade:
    """How sure one half of the decision is, and the one reason."""

    grade: GradeName
    reason: str


@dataclass(frozen=True)
class Confidence:
    stage1_ranking: Grade
    stage2_fitness: Grade


@dataclass(frozen=True)
class Role:
    """A variant that holds a role, by one of its checkpoints.

    checkpoint: a Hugging Face directory; None where only logs exist, or where it was not kept.
    metrics: averaged over the variant's seeds, at the rule's temperature.
    """

    variant: str
    seed: int
    step: int
    checkpoint: str | None
    sha256: Sha256 | None
    metrics: dict[str, float]
    reasons: Annotated[list[str], Meta(min_length=1)]


@dataclass(frozen=True)
class Assertion:
    """One comparison that a sentence makes: `quantity` of these variants `comparison` `value`.

    quantity: what is compared; tests/statement_checker.py recomputes each from the study's files.
    variant, rival, metric: of what; None where the quantity needs none.
    """

    quantity: str
    variant: str | None
    rival: str | None
    metric: str | None
    comparison: Literal["=", ">", ">=", "<", "<="]
    value: float | str


@dataclass(frozen=True)
class Statement:
    """A sentence of the card or the report, with what it asserts as data.

    section: where it stands: decision, reasons, evidence, overturn, surer, caveats.
    """

    section: str
    text: str
    assertions: list[Assertion]


@dataclass(frozen=True)
class Ineligible:
    """A variant that may hold no role."""

    variant: str
    reasons: Annotated[list[str], Meta(min_length=1)]


@dataclass(frozen=True)
class Claim:
    """A claim of the confirmatory family: the primary against a rival on the rule's first metric.

    lead, low, high: positive where the primary is better.
    share_better: share of the resamples in which it is; from three seeds on, of the t distribution.
    p_holm: after Holm; None where the variance over seeds is unseen.
    verdict: of the lead against its margin.
    """

    variant: str
    metric: str
    lead: float
    low: float
    high: float
    share_better: float
    p_holm: float | None
    verdict: str


@dataclass(frozen=True)
class Elimination:
    """A variant that is worse than another one beyond the margin, on one piece of evidence.

    lead: of `by` over `variant`, positive, in the unit of the metric.
    low, high: 95 % interval of the lead, with the declared variance between seeds where there is
        one; None where only logs exist.
    p_holm: two-sided, of a lead that equals the margin; after Holm over the rivals of `by`.
    """

    variant: str
    by: str
    tier: Tier
    metric: str
    lead: float
    low: float | None
    high: float | None
    p_holm: float | None
    margin: float


@dataclass(frozen=True)
class Decision:
    """How the primary was chosen.

    eliminated: the variants that dropped out, in order.
    left: those that dropped out on no evidence; the primary is one of them.
    preference: how the rule chose among several that are left; None where one is left.
    contradictions: evidence on which a variant that dropped out beats the primary.
    settled_from: the first common step from which the metrics, by their values alone, leave the
        same variants at every evaluation up to the decision step; None without such evaluations.
    """

    eliminated: list[Elimination]
    left: list[str]
    preference: str | None
    contradictions: list[Elimination]
    settled_from: int | None = None


@dataclass(frozen=True)
class ProbeFinding:
    """What the Stage-2 probe says of the Stage-1 ranking.

    smoothness: what it says of the hypothesis about the secondary; None where it says nothing.
    signal: the probe's metric that decides.
    confounds: what keeps the figures from being evidence of the objective alone.
    changed_roles: the probe put another variant first.
    """

    outcome: Outcome
    sentence: str
    smoothness: str | None
    stage1_ranking: list[str]
    probe_ranking: list[str]
    signal: str
    confounds: list[str]
    changed_roles: bool = False


@dataclass(frozen=True)
class AuditSummary:
    """The runs that may be recommended, and the audit's verdict on each run."""

    passed: list[str]
    verdicts: dict[str, str]


@dataclass(frozen=True)
class Rule:
    """The decision rule in words, and the digest of its settings."""

    text: str
    sha256: Sha256


@dataclass(frozen=True)
class Recommendation:
    """The content of recommendation.json.

    primary, secondary: None where no variant may hold the role, or none is better than the rest.
    tied: both candidates, where the primary is withheld.
    decision: how the primary was chosen.
    confirmatory: always of the Stage-1 choice, also where rollouts put another variant first.
    withheld: why there is no primary although the rule chose one: other evidence contradicts it.
        `tied` holds both candidates then.
    blind: why no candidate is a detector yet: it is the card's headline; None where one sees.
    rehearsal: why nothing here is a reason to start Stage-2; None where the study was no rehearsal.
    alerts: rule, margins or seeds were changed after results were known.
    probe: None where nothing was probed.
    evidence: the primary's lead over each rival on each metric of the rule.
    would_take: seeds, and their measured cost, for an interval as narrow as the margin.
    statements: the sentences of all these lists, with what they assert.
    """

    schema_version: int
    study: StudyName
    decision_step: int | None
    confidence: Confidence
    primary: Role | None
    secondary: Role | None
    optional: list[Role]
    tied: list[Role]
    ineligible: list[Ineligible]
    withheld: str | None
    rehearsal: str | None
    alerts: list[str]
    decision: Decision
    confirmatory: list[Claim]
    probe: ProbeFinding | None
    evidence: list[str]
    audit: AuditSummary
    would_overturn: list[str]
    would_take: list[str]
    caveats: list[str]
    statements: list[Statement]
    rule: Rule
    blind: str | None = None


def read_recommendation(study_dir: Path) -> Recommendation:
    """Raises UserError: recommendation.json is missing or of another form."""
    return read_study_file(study_dir / "recommendation.json", Recommendation)


def write_recommendation(study_dir: Path, found: Recommendation) -> None:
    write_study_file(study_dir / "recommendation.json", found)
