"""The report of a study: figures/*.svg, and report.html, a self-contained file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from coordexp.analysis.comparison.leads import leads
from coordexp.analysis.recommendation.confidence import GRADES
from coordexp.metrics import METRICS
from coordexp.report import numbers
from coordexp.report.figures import draw
from coordexp.report.labels import temperature_label
from coordexp.report.lead_tables import METHODS, summed_up
from coordexp.report.page import Page, page_of
from coordexp.report.plot import Figure
from coordexp.report.study_files import read_study
from coordexp.report.style import Look, glyph, looks
from coordexp.report.svg import INK, PAPER, element
from coordexp.storage.files import write_text
from coordexp.study.inputs import RunData, load_runs

TEMPLATES = Path(__file__).parent / "templates"


def write_report(study_dir: Path, runs: Sequence[RunData] | None = None) -> Path:
    """Draw the figures and write report.html; returns its path.

    Both depend only on the study's files; the figure of the losses also on the logs of its runs. A
    caller that has already read the logs passes them as `runs`.

    Raises:
        UserError: a file of the study, or the log of one of its runs, is missing or damaged.
    """
    study = read_study(study_dir)
    if runs is None:
        runs = load_runs(study_dir)
    shown = looks(run.variant for run in study.runs)
    of_primary = summed_up(leads(study.comparison.differences, study.primary))
    figures = draw(study, runs, of_primary.all, shown)
    write_figures(study_dir / "figures", figures)
    path = study_dir / "report.html"
    write_text(path, render(page_of(study_dir, study, of_primary, figures, shown)))
    return path


def write_figures(directory: Path, figures: Mapping[str, Figure]) -> None:
    """Write each figure to a file, and remove those of an earlier report."""
    directory.mkdir(exist_ok=True)
    for file in directory.glob("*.svg"):
        if file.stem not in figures:
            file.unlink()
    for figure in figures.values():
        write_text(directory / f"{figure.name}.svg", figure.svg)


def render(page: Page) -> str:
    """The page as HTML."""
    return environment().get_template("report.html").render(vars(page))


@cache  # compiling the templates takes longer than drawing and laying out a report
def environment() -> Environment:
    """The templates: they escape all values, refuse unknown names, and have number filters."""
    env = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {
        "metric": numbers.metric_value,
        "number": numbers.number,
        "moment": numbers.moment,
        "inline": inline,
        "swatch": swatch,
    }
    env.globals |= {
        "METRICS": METRICS,
        "METHODS": METHODS,
        "GRADES": GRADES,
        "temperature_label": temperature_label,
    }
    return env


def inline(svg: str) -> Markup:
    """An SVG file as part of the page, in the page's own ink and paper."""
    return Markup(svg.replace(INK, "currentColor").replace(PAPER, "var(--paper)"))


def swatch(look: Look) -> Markup:
    """A variant's marker at the size of a letter."""
    marker = glyph(look, (6, 6), 4.2)
    svg = element("svg", marker, viewBox="0 0 12 12", width=12, height=12, aria_hidden="true")
    return Markup(svg.replace(PAPER, "none"))
