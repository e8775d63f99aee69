"""The report of a study: report.html, a self-contained file, with figures/ and tables/ beside it.

Figures are saved as SVG, tables as CSV and LaTeX. A script on the page saves a figure as PNG.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from coordexp.analysis.comparison.leads import leads
from coordexp.analysis.recommendation.confidence import GRADES
from coordexp.metrics import METRICS
from coordexp.report import numbers
from coordexp.report.export import to_csv, to_latex
from coordexp.report.figures import draw
from coordexp.report.labels import temperature_label
from coordexp.report.lead_tables import METHODS, summed_up
from coordexp.report.page import Page, page_of
from coordexp.report.study_files import read_study
from coordexp.report.style import Look, glyph, looks
from coordexp.report.svg import INK, PAPER, element
from coordexp.report.table import Table
from coordexp.storage.files import write_text
from coordexp.study.inputs import RunData, load_runs

TEMPLATES = Path(__file__).parent / "templates"


def write_report(study_dir: Path, runs: Sequence[RunData] | None = None) -> Path:
    """Draw the figures, write them and the tables, and report.html; returns its path.

    All depend only on the study's files; the figure of the losses also on the logs of its runs. A
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
    page = page_of(study_dir, study, of_primary, figures, shown)
    write_files(study_dir / "figures", {f"{f.name}.svg": f.svg for f in figures.values()})
    write_files(study_dir / "tables", exported(page.tables.all))
    path = study_dir / "report.html"
    write_text(path, render(page))
    return path


def exported(tables: Iterable[Table]) -> dict[str, str]:
    """The content of each table's files, by their names."""
    files = {}
    for table in tables:
        files[f"{table.name}.csv"] = to_csv(table)
        files[f"{table.name}.tex"] = to_latex(table)
    return files


def write_files(directory: Path, files: Mapping[str, str]) -> None:
    """Write the files of a report, and remove those of an earlier one."""
    directory.mkdir(exist_ok=True)
    for file in directory.iterdir():
        if file.name not in files:
            file.unlink()
    for name, content in files.items():
        write_text(directory / name, content)


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
    script = (TEMPLATES / "save_png.js").read_text()
    env.globals |= {
        "script": Markup(script),
        "script_digest": digest_of(script),
        "METRICS": METRICS,
        "METHODS": METHODS,
        "GRADES": GRADES,
        "temperature_label": temperature_label,
    }
    return env


def digest_of(script: str) -> str:
    """What the page's policy names to allow this script and no other."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def inline(svg: str) -> Markup:
    """An SVG file as part of the page, in the page's own ink and paper."""
    return Markup(svg.replace(INK, "currentColor").replace(PAPER, "var(--paper)"))


def swatch(look: Look) -> Markup:
    """A variant's marker at the size of a letter."""
    marker = glyph(look, (6, 6), 4.2)
    svg = element("svg", marker, viewBox="0 0 12 12", width=12, height=12, aria_hidden="true")
    return Markup(svg.replace(PAPER, "none"))
