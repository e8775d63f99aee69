"""The verbs of `coordexp`. What needs torch or mlflow is imported only by the verb that uses it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from coordexp.analysis.card import card
from coordexp.config import compose
from coordexp.files import point_link, read_json
from coordexp.runs import RESULTS
from coordexp.schema import UserError
from coordexp.study import plan_study, preregister


def main(arguments: Sequence[str] | None = None) -> None:
    args = parser().parse_args(arguments)
    try:
        args.verb(args)
    except UserError as error:
        sys.exit(f"coordexp: {error}")
    except BrokenPipeError:
        sys.exit(1)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="coordexp", description=__doc__)
    verbs = top.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, function, help_text: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=help_text, description=function.__doc__)
        sub.set_defaults(verb=function)
        return sub

    sub = verb("show", show, "print the card of the latest (or that) study")
    sub.add_argument("study", type=Path, nargs="?", help="a study directory; default: the newest results/*/latest")
    sub = verb("ui", ui, "serve MLflow and keep importing what the runs write")
    sub.add_argument("--port", type=int, default=5000)
    sub = verb("prepare", prepare, "make the records and the base model a configuration needs")
    sub.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="Hydra overrides, as for coordexp-train")
    sub.add_argument("--only", choices=("data", "base"), help="just one of the two")
    sub = verb("preregister", preregister_study, "write down runs and rule of a study before training")
    sub.add_argument("settings", help="the --config of snakemake, as JSON")
    for name, function, help_text in (
        ("audit", audit_study, "audit the finished runs of a study"),
        ("compare", compare_study, "compare the runs of a study"),
        ("recommend", recommend_study, "apply the rule and write the card"),
        ("report", report_study, "draw the figures and write report.html"),
        ("track", track_study, "import a study into MLflow"),
        ("publish", publish_study, "make a study the latest one"),
    ):
        verb(name, function, help_text).add_argument("study", type=Path, help="a study directory")
    verb("track-init", track_init, "create the MLflow database and experiment")
    return top


def show(args: argparse.Namespace) -> None:
    """Print the decision card."""
    study = args.study or latest_study()
    if not (study / "recommendation.json").exists():
        raise UserError(f"{study}: holds no recommendation: run `snakemake --cores all stage1_ablation`")
    print(card(read_json(study / "recommendation.json"), study), end="")


def latest_study() -> Path:
    """The study that was decided or returned to last."""
    links = sorted(RESULTS.glob("*/latest"), key=lambda link: link.lstat().st_mtime)
    if not links:
        raise UserError("no study has been decided here yet: run `snakemake --cores all stage1_ablation` first")
    return links[-1].parent / links[-1].readlink()


def ui(args: argparse.Namespace) -> None:
    """Serve MLflow on 127.0.0.1 and keep importing whatever the runs have written so far."""
    from coordexp.ui import serve

    serve(args.port)


def prepare(args: argparse.Namespace) -> None:
    """Make the records and the base model that these overrides need, where they are not there yet."""
    cfg = compose(args.overrides)
    if args.only != "base":
        from coordexp.data.prepare import prepare_data

        print(prepare_data(cfg))
    if args.only != "data":
        from coordexp.model import prepare_base

        print(prepare_base(cfg))


def preregister_study(args: argparse.Namespace) -> None:
    """Write down which runs a study consists of and the rule that decides, before training."""
    print(preregister(plan_study(json.loads(args.settings))))


def audit_study(args: argparse.Namespace) -> None:
    """Collect the finished runs of a study (runs.json) and audit them (audit.json, audit.csv)."""
    from coordexp.analysis.audit import audit, write_audit
    from coordexp.analysis.inputs import collect

    write_audit(args.study, audit(collect(args.study)))


def compare_study(args: argparse.Namespace) -> None:
    """Compare the runs of a study (comparison.json, comparison.csv)."""
    from coordexp.analysis.compare import compare, write_comparison
    from coordexp.analysis.inputs import load_runs

    rule = read_json(args.study / "preregistration.json")["rule"]
    write_comparison(args.study, compare(load_runs(args.study), rule))


def recommend_study(args: argparse.Namespace) -> None:
    """Apply the decision rule (recommendation.json, recommendation.md)."""
    from coordexp.analysis.inputs import load_runs
    from coordexp.analysis.recommend import recommend, write_recommendation

    study, audit, comparison = (read_json(args.study / f"{name}.json") for name in ("preregistration", "audit", "comparison"))
    write_recommendation(args.study, recommend(study, load_runs(args.study), audit, comparison))


def report_study(args: argparse.Namespace) -> None:
    """Draw the figures and write the self-contained report.html."""
    from coordexp.report.html import write_report

    print(write_report(args.study))


def track_init(_: argparse.Namespace) -> None:
    """Create the MLflow database and experiment, once, before anything writes to it in parallel."""
    from coordexp.tracking import create_database

    print(create_database())


def track_study(args: argparse.Namespace) -> None:
    """Import a study's runs, comparison and recommended checkpoints into MLflow (mlflow.json)."""
    from coordexp.tracking import import_study

    print(import_study(args.study)["ui_link"])


def publish_study(args: argparse.Namespace) -> None:
    """Point results/<study>/latest at this study and the registry's aliases at its checkpoints."""
    from coordexp.tracking import import_study

    import_study(args.study)
    point_link(args.study.parent / "latest", args.study)


if __name__ == "__main__":
    main()
