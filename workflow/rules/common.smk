# The study that `--config` describes. Which runs it has is decided in coordexp/study/plan.py.
import json
import os
import sys
from pathlib import Path

# The package of this clone, also where another one is installed.
sys.path.insert(0, str(Path(workflow.current_basedir.path).parents[1]))

from coordexp.cli.code_digest import code_digest
from coordexp.cli.steps import STUDY_STEPS
from coordexp.errors import UserError
from coordexp.study.plan import plan_study

try:
    STUDY = plan_study(config)
except UserError as error:
    sys.exit(f"stage1_ablation: {error}")

# A digest of the code of each step. It is a parameter of the rules of analysis and report, so they
# run again when their code has changed. Training and probe have none: a finished run is never
# repeated because of code. Neither has the preregistration: it is written once.
CODE = {name: code_digest(step) for name, step in STUDY_STEPS.items()}

LOGS = f"results/logs/{STUDY.name}/{STUDY.hash8}"
BENCHMARKS = f"results/benchmarks/{STUDY.name}/{STUDY.hash8}"

NEEDS_LOGS = "compare_logs: give the logs: --config logs='NAME=PATH NAME=PATH …'"
DECIDED = [
    f"{STUDY.path}/recommendation.json",
    f"{STUDY.path}/report.html",
    f"{STUDY.path}/mlflow.json",
    str(STUDY.latest),
]
