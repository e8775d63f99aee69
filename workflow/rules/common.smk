# The study that `--config` describes. coordexp/study/plan.py decides which runs it has.
import json
import os
import sys
from pathlib import Path

# Import the package of this clone, even if another version is installed.
sys.path.insert(0, str(Path(workflow.current_basedir.path).parents[1]))

from coordexp.errors import UserError, tell_interruption

# Ctrl-C, until Snakemake starts the first job: one line.
sys.excepthook = tell_interruption("stage1_ablation", sys.excepthook)

from coordexp.cli.code_digest import code_digest
from coordexp.cli.progress import print_card, show_progress
from coordexp.cli.steps import STUDY_STEPS
from coordexp.storage.runs import RESULTS, refuse_no_directory
from coordexp.study.plan import plan_study
from coordexp.study.quotes import refuse_unpaired_quotes

try:
    refuse_unpaired_quotes(sys.argv)
    refuse_no_directory(RESULTS)
    STUDY = plan_study(config)
except UserError as error:
    sys.exit(f"stage1_ablation: {error}")

# A digest of the code of each step. It is a parameter of the rules of analysis and report, so that
# they run again when their code has changed. Training and probe have no such parameter: a finished
# run is never repeated because of changed code. Nor has the preregistration, which is written once.
CODE = {name: code_digest(step) for name, step in STUDY_STEPS.items()}

# One line for the whole study instead of Snakemake's own messages.
show_progress(workflow, logger, STUDY, "results/logs")

LOGS = f"results/logs/{STUDY.name}/{STUDY.hash8}"
BENCHMARKS = f"results/benchmarks/{STUDY.name}/{STUDY.hash8}"

NEEDS_LOGS = "compare_logs: give the logs: --config logs='NAME=PATH NAME=PATH …'"
DECIDED = [
    f"{STUDY.path}/recommendation.json",
    f"{STUDY.path}/report.html",
    f"{STUDY.path}/mlflow.json",
    f"results/mlflow/{STUDY.name}.imported",
    str(STUDY.latest),
]
