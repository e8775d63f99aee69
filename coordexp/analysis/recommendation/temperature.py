"""The temperature at which logged metrics were computed, where it is not T = 1 for every run."""

from __future__ import annotations

from coordexp.analysis.comparison.findings import LoggedTemperature
from coordexp.analysis.recommendation.confidence import Facts
from coordexp.analysis.recommendation.findings import Statement
from coordexp.analysis.recommendation.statements import equals, label, listed
from coordexp.metrics import METRICS


def logged_temperatures(facts: Facts) -> list[Statement]:
    """A caveat on metrics that were logged at another temperature than 1, or at an unknown one.

    Nothing is said where the rule reads other values, or no metric of it depends on temperature.
    """
    found = {
        run.name: facts.comparison.logged_temperatures[run.name]
        for run in facts.runs
        if run.variant in facts.rows and run.name in facts.comparison.logged_temperatures
    }
    values = {logged.value for logged in found.values()}
    dependent = [
        label(name)
        for name in facts.rule.metrics
        if METRICS[name].has_temperature and any(name in row for row in facts.rows.values())
    ]
    if facts.comparison.temperature != "1" or not dependent or values <= {1.0}:
        return []
    what = listed(dependent)
    verb = "depends" if len(dependent) == 1 else "depend"
    text = f"{what} {verb} on the softmax temperature: {by_variant(facts, found)}"
    if None in values:
        text += "; `--temperature NAME=T` tells an unknown one"
    elif len(values) > 1:
        text += ": a lead on them may be one of temperature alone"
    assertions = [
        equals("logged temperature", "unknown" if at.value is None else at.value, name)
        for name, at in found.items()
    ]
    return [Statement("caveats", text, assertions)]


def by_variant(facts: Facts, found: dict[str, LoggedTemperature]) -> str:
    """The variants at each temperature: `T = 0.7 (args.json) of a and b, unknown of c`."""
    groups: dict[str, list[str]] = {}
    for run in facts.runs:
        if run.name in found:
            groups.setdefault(shown(found[run.name]), []).append(run.variant)
    return ", ".join(f"{at} of {listed(list(dict.fromkeys(of)))}" for at, of in groups.items())


def shown(logged: LoggedTemperature) -> str:
    if logged.value is None:
        return "unknown"
    return f"T = {logged.value:g}" + (f" ({logged.by})" if logged.by else "")
