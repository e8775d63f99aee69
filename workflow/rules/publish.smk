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
        directory(f"{STUDY.path}/tables"),
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


use rule report as latest with:
    input:
        f"{STUDY.path}/report.html",
    output:
        directory(str(STUDY.latest)),
    log:
        f"{LOGS}/latest.log",
    benchmark:
        f"{BENCHMARKS}/latest.tsv"
    priority: 100
    params:
        step="publish",
        study=subpath(input[0], parent=True),
    message:
        "Point results/{STUDY.name}/latest at this study."


# MLflow comes after the report, and after the link, which has a priority: if it fails, the study is
# decided, reported and linked. The second output is shared by all studies of a name: going back to
# an older one imports it again, which moves the aliases to its checkpoints. It lies beside the
# database and goes with it, so that a removed database is made again.
rule mlflow_import:
    input:
        f"{STUDY.path}/recommendation.json",
        f"{STUDY.path}/report.html",
    output:
        f"{STUDY.path}/mlflow.json",
        touch(f"results/mlflow/{STUDY.name}.imported"),
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
