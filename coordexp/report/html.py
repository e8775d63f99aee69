"""The report: one self-contained page, in the order a doubter would ask, and its figures beside it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from coordexp.analysis.audit import CONSISTENT, FAMILIES
from coordexp.analysis.card import verdict
from coordexp.analysis.inputs import RunData, load_runs
from coordexp.files import read_json, write_text
from coordexp.metrics import METRICS
from coordexp.report import commands, tables
from coordexp.report.figures import draw
from coordexp.report.leads import leads
from coordexp.report.log_figures import EXPECTED
from coordexp.report.style import INK, PAPER, looks

GRADES = ("descriptive", "provisional", "supported", "conclusive")
MINUS, NONE = "−", "–"


def write_report(study_dir: Path) -> Path:
    """Draw the figures and write `report.html`; both depend on the study's files alone. Returns the page's path.

    Raises:
        UserError: a file of the study, or the log of one of its runs, is missing or broken.
    """
    study = read_study(study_dir)
    runs = load_runs(study_dir)
    values = page_values(study, runs)
    figures = draw(study["audit"], study["comparison"], runs, values["primary"], values["leads"], values["looks"])
    (study_dir / "figures").mkdir(exist_ok=True)
    for stale in {*study_dir.glob("figures/*.svg")} - {study_dir / "figures" / f"{name}.svg" for name in figures}:
        stale.unlink()
    for name, svg in figures.items():
        write_text(study_dir / "figures" / f"{name}.svg", svg)
    page = environment().get_template("report.html").render(study_dir=study_dir, figures=figures, **values)
    write_text(study_dir / "report.html", page)
    return study_dir / "report.html"


def read_study(study_dir: Path) -> dict[str, Any]:
    """The study's files by name. A comparison of logs has no preregistration, and MLflow is filled after the report."""
    study = {name: read_json(study_dir / f"{name}.json") for name in ("audit", "comparison", "recommendation", "runs")}
    for name in ("preregistration", "mlflow"):
        path = study_dir / f"{name}.json"
        study[name] = read_json(path) if path.exists() else None
    return study


def page_values(study: dict[str, Any], runs: Sequence[RunData]) -> dict[str, Any]:
    """What the template lays out: the study's files as they are, and the tables made from them."""
    found, comparison, audit = study["recommendation"], study["comparison"], study["audit"]
    primary = found["primary"]["variant"] if found["primary"] else None
    pairs = leads(comparison["differences"], primary)
    headline, _, reason = verdict(found).partition(": ")
    roles = [(role, found[role]) for role in ("primary", "secondary") if found[role]]
    roles += [(role, entry) for role in ("optional", "tied") for entry in found[role]]
    columns = [m for m in METRICS.values() if roles and all(m.name in entry["metrics"] for _, entry in roles)]
    return {
        **study,
        "headline": headline,
        "headline_reason": reason,
        "primary": primary,
        "roles": roles,
        "role_columns": columns,
        "role_best": {m.name: tables.best_of([{"variant": e["variant"], **e["metrics"]} for _, e in roles], m) for m in columns},
        "grades": GRADES,
        "leads": pairs,
        "lead_table": tables.lead_table(pairs),
        "snapshots": tables.snapshot_tables(comparison["snapshots"]),
        "extras": tables.EXTRAS,
        "extra_columns": tables.extra_columns(comparison["snapshots"]),
        "families": FAMILIES,
        "consistent": CONSISTENT,
        "expected": EXPECTED,
        "check_columns": tables.check_columns(audit),
        "temperatures": tables.temperature_tables(runs, comparison["decision_step"]),
        "disagreements": tables.temperature_disagreements(comparison["winners"], comparison["temperature"]),
        "versions": tables.versions(study["runs"]["runs"]),
        "looks": looks(run.variant for run in runs),
        "metrics": METRICS,
        "commands": commands,
    }


def environment() -> Environment:
    """Jinja that escapes everything, refuses names it does not know, and writes numbers as this page does."""
    here = FileSystemLoader(Path(__file__).parent)
    env = Environment(loader=here, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    env.filters |= {"metric": metric_value, "lead": lead_value, "number": number, "moment": moment, "duration": duration}
    env.filters["inline"] = inline
    return env


def metric_value(value: float | None, unit: str) -> str:
    """Bins and nats to two decimals, fractions to four."""
    return NONE if value is None else f"{value:.2f}" if unit else f"{value:.4f}"


def lead_value(value: float, unit: str) -> str:
    """The same with a sign."""
    return number(value, "+.2f" if unit else "+.4f")


def number(value: float | None, form: str = ",.0f") -> str:
    """A number with a true minus; what rounds to zero has no sign."""
    if value is None or not math.isfinite(value):
        return NONE
    text = format(value, form)
    return text.replace("-", MINUS) if text.strip("+-0.") else text.lstrip("+-")


def moment(iso: str | None) -> str:
    """`2026-11-23T19:22:14+00:00` as `2026-11-23 19:22 UTC`."""
    return NONE if iso is None else datetime.fromisoformat(iso).strftime("%Y-%m-%d %H:%M UTC")


def duration(seconds: float | None) -> str:
    if seconds is None:
        return NONE
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def inline(svg: str) -> Markup:
    """An SVG file as part of the page: no prologue, no ids (they would repeat), and the page's own ink and paper."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r'<g id="[^"]*">', "<g>", body)
    return Markup(body.replace(INK, "currentColor").replace(PAPER, "var(--paper)"))
