# The results for people: the report, MLflow, and the link to the latest study.


use rule audit as report with:
    input:
        f"{STUDY.path}/recommendation.json",
        f"{STUDY.path}/comparison.json",
        f"{STUDY.path}/audit.json",
    output:
        report(
            directory(f"{STUDY.path}/figures"),
            patterns=["{figure}.svg"],
            caption="../report/figure.rst",
            category="Figures",
            labels={"figure": "{figure}"},
        ),
        report(
            f"{STUDY.path}/report.html",
            caption="../report/page.rst",
            category="Decision",
            labels={"shows": "report with all evidence"},
        ),
    log:
        f"{LOGS}/report.log",
    benchmark:
        f"{BENCHMARKS}/report.tsv"
    params:
        step="report",
        code=CODE["report"],
        study=subpath(output[0], parent=True),
    message:
        "Draw the figures and write report.html."


rule mlflow_database:
    output:
        update("results/mlflow/experiment.json"),
    log:
        "results/logs/mlflow_database.log",
    benchmark:
        "results/benchmarks/mlflow_database.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    message:
        "Create the MLflow database, once, before jobs write to it."
    shell:
        "python -m coordexp.cli step track-init > {log} 2>&1"


rule mlflow_import:
    input:
        ancient("results/mlflow/experiment.json"),
        f"{STUDY.path}/recommendation.json",
        f"{STUDY.path}/report.html",
    output:
        f"{STUDY.path}/mlflow.json",
    log:
        f"{LOGS}/mlflow.log",
    benchmark:
        f"{BENCHMARKS}/mlflow.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        step="track",
        study=subpath(output[0], parent=True),
    message:
        "Import runs, comparison and recommended checkpoints into MLflow."
    shell:
        "python -m coordexp.cli step {params.step} {params.study} > {log} 2>&1"


use rule mlflow_import as latest with:
    input:
        f"{STUDY.path}/mlflow.json",
    output:
        directory(str(STUDY.latest)),
    log:
        f"{LOGS}/latest.log",
    benchmark:
        f"{BENCHMARKS}/latest.tsv"
    params:
        step="publish",
        study=subpath(input[0], parent=True),
    message:
        "Point results/{STUDY.name}/latest at this study."
