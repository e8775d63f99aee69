"""What is doubtful about the runs, as caveats, and which of it limits the grade to descriptive."""

from __future__ import annotations

from collections.abc import Sequence

from coordexp.analysis.audit.findings import Audit
from coordexp.analysis.comparison.findings import Comparison
from coordexp.analysis.recommendation.findings import Assertion, Statement
from coordexp.analysis.recommendation.rule import Values, own_definitions
from coordexp.analysis.recommendation.statements import equals, listed, names_key, of_value
from coordexp.config.schema import RuleConfig
from coordexp.storage.logs.log import Consequence, Doubt
from coordexp.study.inputs import RunData, by_variant

MOST_SHOWN = 3  # doubts of one run
MOST_NAMED = 4  # runs in one sentence
WEIGHT: dict[Consequence, int] = {"caps": 0, "not used": 1, "note": 2}
AT_MOST = "the grade is at most descriptive"
TEXT = "text_token_acc"
MASS = "coord_mass"


def limits(runs: Sequence[RunData], audit: Audit, rows: Values, rule: RuleConfig) -> list[str]:
    """What limits the grade to descriptive: doubts about runs of these variants."""
    found = []
    for entry in audit.runs:
        if entry.variant in rows:
            found += [f"{entry.name}: {d.text}" for d in entry.doubts if d.consequence == "caps"]
    for variant in unknown_below_bar(runs, rows, rule):
        found.append(f"the text accuracy of {variant} is below the bar, and may count coordinates")
    return found


# --- doubts of the audit ---


def doubt_caveats(audit: Audit, rows: Values) -> list[Statement]:
    """A caveat for each run with doubts; runs with the same doubts share one.

    Args:
        rows: of the eligible variants; a doubt about another one limits no grade.
    """
    runs_with: dict[tuple[bool, tuple[Doubt, ...]], list[str]] = {}
    for entry in audit.runs:
        if entry.doubts:
            ordered = tuple(sorted(entry.doubts, key=lambda doubt: WEIGHT[doubt.consequence]))
            limiting = ordered[0].consequence == "caps" and entry.variant in rows
            runs_with.setdefault((limiting, ordered), []).append(entry.name)
    return [
        doubt_caveat(names, doubts, limiting) for (limiting, doubts), names in runs_with.items()
    ]


def doubt_caveat(names: Sequence[str], doubts: Sequence[Doubt], limiting: bool) -> Statement:
    """The doubts of these runs in one line, those with the gravest consequence first."""
    shown, hidden = doubts[:MOST_SHOWN], doubts[MOST_SHOWN:]
    told, assertions = [], []
    for doubt in shown:
        limits_grade = limiting and doubt.consequence == "caps"
        told.append(f"{doubt.text} ({AT_MOST})" if limits_grade else doubt.text)
        for name in names:
            assertions.append(equals("doubt", doubt.text, name))
            assertions.append(equals("consequence", doubt.consequence, name, doubt.text))
            if limits_grade:
                assertions.append(equals("limits the grade", "yes", name, doubt.text))
    if hidden:
        told.append(f"{len(hidden)} more in the audit's part of the report")
        assertions += [equals("doubts beyond", float(len(hidden)), name) for name in names]
    return Statement("caveats", f"{listed(names)}: {'; '.join(told)}", assertions)


# --- values that may be of another quantity ---


def unknown_below_bar(runs: Sequence[RunData], rows: Values, rule: RuleConfig) -> dict[str, float]:
    """Variants whose text accuracy is below the bar, but may be that of other tokens: its value."""
    found = {}
    for variant, mine in by_variant(runs).items():
        value = rows.get(variant, {}).get(TEXT)
        bar = rule.eligible.min_text_token_acc
        if value is not None and value < bar and not own_definitions(mine):
            found[variant] = value
    return found


def bar_caveats(runs: Sequence[RunData], rows: Values, rule: RuleConfig) -> list[Statement]:
    """Eligible variants that a bar would refuse if their value were known to be of that metric."""
    bar = rule.eligible.min_text_token_acc
    lines = []
    for variant, value in unknown_below_bar(runs, rows, rule).items():
        text = (
            f"{variant}: its text accuracy {value:.3f} is below the bar {bar:g}, but the log does "
            f"not say whether coordinate tokens count in it: it is not refused, and {AT_MOST}"
        )
        assertions = [
            of_value(variant, TEXT, value),
            Assertion("value", variant, None, TEXT, "<", bar),
            equals("bar of text accuracy", bar),
            equals("own logs", "no", variant),
        ]
        lines.append(Statement("caveats", text, assertions))
    return lines


def unchecked_bar(rows: Values, rule: RuleConfig) -> list[Statement]:
    """Eligible variants whose coordinate mass nobody logged: the bar on it refuses only others."""
    bar = rule.eligible.min_coord_mass
    unknown = [variant for variant, row in rows.items() if MASS not in row]
    if not unknown or bar == 0:
        return []
    text = f"the bar {bar:g} on coord mass is not checked: no such values of {listed(unknown)}"
    assertions = [
        equals("bar of coordinate mass", bar),
        *(equals("coordinate mass", "unknown", variant) for variant in unknown),
    ]
    return [Statement("caveats", text, assertions)]


# --- evaluations after the decision step ---


def later_evaluations(comparison: Comparison, rule: RuleConfig) -> list[Statement]:
    """Runs whose evaluations after the decision step are not compared, as another one ends there.

    Empty if the rule names the step, or no run ends at it.
    """
    step, last = comparison.decision_step, last_evaluations(comparison)
    ending = [run for run, at in last.items() if at == step]
    later = {run: at for run, at in last.items() if step is not None and at > step}
    if rule.decision_step != "last_common" or step is None or not ending or not later:
        return []
    verb = "ends" if len(ending) == 1 else "end"
    beyond = f"{len(later)} runs"
    if len(later) <= MOST_NAMED:
        beyond = listed([f"{run} (to {at})" for run, at in later.items()])
    ended = listed(ending) if len(ending) <= MOST_NAMED else f"{len(ending)} runs"
    text = (
        f"compared at step {step}, where {ended} {verb}: later evaluations of {beyond} are left out"
    )
    assertions = [
        equals("decision step", float(step)),
        equals("runs that end there", names_key(ending)),
        equals("number of runs that end there", float(len(ending))),
        equals("number of runs that go on", float(len(later))),
        *(equals("last evaluation", float(at), run) for run, at in later.items()),
    ]
    return [Statement("caveats", text, assertions)]


def last_evaluations(comparison: Comparison) -> dict[str, int]:
    """The last step that was evaluated, by run."""
    found: dict[str, int] = {}
    for row in comparison.curves:
        name = f"{row.variant} s{row.seed}"
        found[name] = max(found.get(name, 0), row.step)
    return found
