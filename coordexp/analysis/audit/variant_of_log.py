"""Whether a log belongs to the variant it is named after, judged by its coordinate terms."""

from __future__ import annotations

import math
from collections.abc import Iterable

from coordexp.analysis.audit.ratios import COORD_LOSS, SWITCH
from coordexp.analysis.audit.rows import SUM_TOLERANCE, all_rows
from coordexp.metrics import COORD_TERMS
from coordexp.storage.logs.log import Log
from coordexp.storage.logs.number_rows import Row
from coordexp.study.inputs import RunData
from coordexp.study.objective import declared, shipped


def coordinate_switch(log: Log) -> set[float]:
    """The values of the switch in the log: 1 coordinate terms on, 0 off."""
    return {row[SWITCH] for row in all_rows(log) if SWITCH in row}


def other_variant(run: RunData) -> str | None:
    """Why the log cannot belong to the variant it is named after.

    None where it can, or where the objective is not known.
    """
    objective = declared(run)
    if objective is None:
        return None
    if shipped(run.variant) and objective["name"] != run.variant:
        return f"its configuration is that of {objective['name']}, not of {run.variant}"

    switch = coordinate_switch(run.log)
    logged = {term for term in COORD_TERMS if logs(run.log, term)}
    has_terms = bool(logged) or logs(run.log, "loss")
    expected = {term for term in COORD_TERMS if objective.get(term)}
    if not expected:
        if not has_terms and 1.0 not in switch:
            return None
        terms = ", ".join(sorted(logged)) or "some"
        return f"{run.variant} has no coordinate terms, the log has {terms}"

    lacks_all = not has_terms and (0.0 in switch or loss_is_base_ce(all_rows(run.log)))
    has_others = logged and logged != expected
    if not lacks_all and not has_others:
        return None
    terms = ", ".join(sorted(logged)) or "none of them"
    return f"{run.variant} trains on {', '.join(sorted(expected))}, the log has {terms}"


def logs(log: Log, term: str) -> bool:
    """Whether any row has the coordinate term, and not as 0."""
    return any(row.get(f"{COORD_LOSS}/{term}") for row in all_rows(log))


def loss_is_base_ce(rows: Iterable[Row]) -> bool:
    """Whether the loss equals the base CE in every row that has both, and at least one row has."""
    close = [
        math.isclose(row["loss"], row["base_ce/loss"], rel_tol=SUM_TOLERANCE)
        for row in rows
        if {"loss", "base_ce/loss"} <= row.keys()
    ]
    return bool(close) and all(close)
