"""The report: one self-contained page, in the order a doubter would ask, and its figures beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from msgspec import convert

from coordexp.analysis.audit.ratios import CONSISTENT
from coordexp.analysis.comparison.findings import Difference
from coordexp.analysis.comparison.leads import leads
from coordexp.analysis.recommendation.card import verdict
from coordexp.metrics import METRICS, SIGNALS
from coordexp.report import commands, numbers, tables
from coordexp.report.figures import draw
from coordexp.report.log_figures import EXPECTED
from coordexp.report.probes import signal_table
from coordexp.report.style import Look, glyph, looks
from coordexp.report.svg import INK, PAPER, element
from coordexp.storage.files import read_json, write_text
from coordexp.study.inputs import RunData, load_runs
from coordexp.study.preregistration import read_preregistration
from coordexp.study.study_runs import read_study_runs
from coordexp.tracking.files import read_imported

GRADES = ("descriptive", "provisional", "supported", "conclusive")


def write_report(study_dir: Path, runs: Sequence[RunData] | None = None) -> Path:
    """Draw the figures and write `report.html`; both depend on the study's files alone. Returns the page's path.

    Logs are read for the figure of the losses and nothing else; whoever holds them already hands them over as `runs`.

    Raises:
        UserError: a file of the study, or the log of one of its runs, is missing or broken.
    """
    study = read_study(study_dir)
    values = page_values(study)
    runs = load_runs(study_dir) if runs is None else runs
    figures = draw(study, runs, values["primary"], values["leads"], values["looks"])
    (study_dir / "figures").mkdir(exist_ok=True)
    for stale in {*study_dir.glob("figures/*.svg")} - {
        study_dir / "figures" / f"{name}.svg" for name in figures
    }:
        stale.unlink()
    for name, svg in figures.items():
        write_text(study_dir / "figures" / f"{name}.svg", svg)
    page = (
        environment()
        .get_template("report.html")
        .render(study_dir=study_dir, figures=figures, **values)
    )
    write_text(study_dir / "report.html", page)
    return study_dir / "report.html"


def read_study(study_dir: Path) -> dict[str, Any]:
    """The study's files by name. MLflow is filled after the report, or never: its file may be missing."""
    names = ("audit", "comparison", "probe", "recommendation")
    mlflow = study_dir / "mlflow.json"
    return {name: read_json(study_dir / f"{name}.json") for name in names} | {
        "runs": read_study_runs(study_dir),
        "preregistration": read_preregistration(study_dir),
        "mlflow": read_imported(mlflow) if mlflow.exists() else None,
    }


def page_values(study: dict[str, Any]) -> dict[str, Any]:
    """What the template lays out: the study's files as they are, and the tables made from them."""
    found, comparison, audit = study["recommendation"], study["comparison"], study["audit"]
    primary = found["primary"]["variant"] if found["primary"] else None
    pairs = leads(convert(comparison["differences"], list[Difference]), primary)
    headline, _, reason = verdict(found).partition(": ")
    roles = [(role, found[role]) for role in ("primary", "secondary") if found[role]]
    roles += [(role, entry) for role in ("optional", "tied") for entry in found[role]]
    columns = [
        m
        for m in METRICS.values()
        if roles and all(m.name in entry["metrics"] for _, entry in roles)
    ]
    main, terms = tables.family_columns(audit)
    return {
        **study,
        "headline": headline,
        "headline_reason": reason,
        "primary": primary,
        "roles": roles,
        "role_columns": columns,
        "role_best": {
            m.name: tables.best_of(
                [{"variant": e["variant"], "values": e["metrics"]} for _, e in roles], m
            )
            for m in columns
        },
        "grades": GRADES,
        "leads": pairs,
        "lead_table": tables.lead_table(pairs),
        "methods": tables.METHODS,
        "snapshots": tables.snapshot_tables(comparison["snapshots"]),
        "beside": tables.beside_columns(comparison["snapshots"]),
        "families": main,
        "terms": terms,
        "consistent": CONSISTENT,
        "expected": EXPECTED,
        "checks": tables.check_table(audit),
        "unchecked": tables.unchecked(audit),
        "temperatures": tables.temperature_tables(comparison),
        "disagreements": tables.temperature_disagreements(
            comparison["winners"], comparison["temperature"]
        ),
        "plateaus": tables.plateau_table(comparison["plateau"]),
        "versions": tables.versions(study["runs"]),
        "looks": looks(run.variant for run in study["runs"]),
        "signal_table": signal_table(study["probe"], stage1_primary(found)),
        "signals": SIGNALS,
        "metrics": METRICS,
        "commands": commands,
    }


def stage1_primary(found: dict[str, Any]) -> str | None:
    """Whom Stage-1 put first, also where the probe put another one before it."""
    if found["stage2"]:
        return found["stage2"]["stage1_ranking"][0]
    return found["primary"]["variant"] if found["primary"] else None


def environment() -> Environment:
    """Jinja that escapes everything, refuses names it does not know, and writes numbers as this page does."""
    here = FileSystemLoader(Path(__file__).parent)
    env = Environment(
        loader=here,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {
        "metric": numbers.metric_value,
        "lead": numbers.lead_value,
        "number": numbers.number,
    }
    env.filters |= {
        "probability": numbers.probability,
        "moment": numbers.moment,
        "duration": numbers.duration,
    }
    env.filters |= {"inline": inline, "swatch": swatch}
    return env


def inline(svg: str) -> Markup:
    """An SVG file as part of the page, in the page's own ink and paper."""
    return Markup(svg.replace(INK, "currentColor").replace(PAPER, "var(--paper)"))


def swatch(look: Look) -> Markup:
    """A variant's marker, as large as a letter."""
    marker = glyph(look, (6, 6), 4.2)
    return Markup(
        element(
            "svg", marker, viewBox="0 0 12 12", width=12, height=12, aria_hidden="true"
        ).replace(PAPER, "none")
    )
