# Stage-1 ablation: conf -> records -> base model -> runs -> audit, comparison, recommendation -> MLflow and report.
# What runs there are is decided in coordexp/study/plan.py; every rule is one job.
import json
import os
import sys

from snakemake.utils import min_version

min_version("9.27")
sys.path.insert(0, workflow.basedir)

from coordexp.cli.code_digest import code_digest
from coordexp.errors import UserError
from coordexp.cli.steps import STUDY_STEPS
from coordexp.study.plan import plan_study

try:
    STUDY = plan_study(config)
except UserError as error:
    sys.exit(f"stage1_ablation: {error}")

# A digest of the code of each step. It is a parameter of the rules of analysis and report, so they run
# again when their code has changed. Training and probe have none: a finished run is never repeated
# because of code. Neither has the preregistration: it is written once.
CODE = {name: code_digest(step) for name, step in STUDY_STEPS.items()}

NEEDS_LOGS = "compare_logs: give the logs: --config logs='NAME=PATH NAME=PATH …'"
DECIDED = [
    f"{STUDY.path}/recommendation.json",
    f"{STUDY.path}/report.html",
    f"{STUDY.path}/mlflow.json",
    str(STUDY.latest),
]


rule stage1_ablation:
    default_target: True
    input:
        DECIDED,


# The same from runs that exist already; nothing is trained.
rule compare_logs:
    input:
        lambda wildcards: DECIDED if STUDY.sources else sys.exit(NEEDS_LOGS),


include: "workflow/rules/inputs.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/probe.smk"
include: "workflow/rules/decide.smk"
include: "workflow/rules/publish.smk"


# `make` prints the card itself, also when nothing had to run; a run of part of the DAG may have none yet.
onsuccess:
    if (
        "MAKELEVEL" not in os.environ
        and (STUDY.path / "recommendation.json").exists()
    ):
        shell("python -m coordexp.cli show {STUDY.path}")
