"""Sentences with numbers: the text that a person reads, and what it asserts as data.

Every number in a text is the value of one of its assertions. A test recomputes each assertion from
the study's files, so that no sentence can be untrue of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from coordexp.analysis.comparison.leads import Lead
from coordexp.analysis.recommendation.findings import Assertion, Elimination, Statement
from coordexp.metrics import METRICS, PROBE_METRICS, REGISTRY

AGAINST_PRIMARY = "against the primary: "  # opens the reason that lists the leads over a variant


def texts(statements: Iterable[Statement]) -> list[str]:
    return [statement.text for statement in statements]


def equals(
    quantity: str,
    value: float | str,
    variant: str | None = None,
    rival: str | None = None,
    metric: str | None = None,
) -> Assertion:
    """The quantity has this value."""
    return Assertion(quantity, variant, rival, metric, "=", value)


def of_value(variant: str, metric: str, value: float) -> Assertion:
    """The variant has this value of a metric at the decision step."""
    return equals("value", value, variant, metric=metric)


def of_lead(lead: Lead) -> list[Assertion]:
    """A lead has this size, sign and interval."""
    key = (lead.first, lead.second, lead.metric)
    found = [equals("lead", lead.value, *key)]
    if lead.value:
        found.append(Assertion("lead", *key, ">" if lead.value > 0 else "<", 0.0))
    if lead.estimate:
        found.append(equals("lead low", lead.estimate.low, *key))
        found.append(equals("lead high", lead.estimate.high, *key))
    return found


def of_elimination(elimination: Elimination) -> list[Assertion]:
    """The lead lies beyond the margin, after Holm where it has an interval."""
    key = (elimination.by, elimination.variant, elimination.metric)
    found = [
        equals("lead", elimination.lead, *key),
        equals("margin", elimination.margin, metric=elimination.metric),
        Assertion("lead", *key, ">", elimination.margin),
    ]
    if elimination.low is not None and elimination.high is not None:
        found.append(equals("separation low", elimination.low, *key))
        found.append(equals("separation high", elimination.high, *key))
        found.append(Assertion("separation p", *key, "<", 0.05))
    return found


def label(name: str) -> str:
    """A metric of a log or a probe, as the card calls it."""
    return PROBE_METRICS[name].label if name in PROBE_METRICS else REGISTRY[name].label


def unit(name: str) -> str:
    return "" if name in PROBE_METRICS else REGISTRY[name].unit


def show(name: str, value: float) -> str:
    """A metric's value as the card prints it: `MAE 23.63 bins`, `coord acc 0.2177`."""
    m = METRICS[name]
    return f"{m.label} {value:.2f} {m.unit}" if m.unit else f"{m.label} {value:.4f}"


def amount(name: str, value: float) -> str:
    """A value with its unit, in the metric's usual decimals.

    If that would print as zero, one significant digit is shown instead: a small lead is not 0.00.
    """
    usual = f"{value:.2f}" if unit(name) else f"{value:.3f}"
    told = f"{value:.1g}" if float(usual) == 0 and value else usual
    return f"{told} {unit(name)}".strip()


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def names_key(variants: Sequence[str]) -> str:
    """A set of variants as one value of an assertion."""
    return ",".join(sorted(variants))
