# What people look at: the report, MLflow, and the link to the latest study.


rule report:
    input:
        f"{STUDY.path}/recommendation.json",
        f"{STUDY.path}/comparison.json",
        f"{STUDY.path}/audit.json",
    output:
        directory(f"{STUDY.path}/figures"),
        f"{STUDY.path}/report.html",
    log:
        f"results/logs/{STUDY.name}/{STUDY.hash8}/report.log",
    conda:
        "../../environment.yml"
    params:
        study=subpath(output[0], parent=True),
    shell:
        "python -m coordexp.cli report {params.study} > {log} 2>&1"


rule mlflow_database:
    output:
        update("results/mlflow/experiment.json"),
    log:
        "results/logs/mlflow_database.log",
    conda:
        "../../environment.yml"
    shell:
        "python -m coordexp.cli track-init > {log} 2>&1"


rule mlflow_import:
    input:
        ancient("results/mlflow/experiment.json"),
        f"{STUDY.path}/recommendation.json",
        f"{STUDY.path}/report.html",
    output:
        f"{STUDY.path}/mlflow.json",
    log:
        f"results/logs/{STUDY.name}/{STUDY.hash8}/mlflow.log",
    conda:
        "../../environment.yml"
    params:
        study=subpath(output[0], parent=True),
    shell:
        "python -m coordexp.cli track {params.study} > {log} 2>&1"


rule latest:
    input:
        f"{STUDY.path}/mlflow.json",
    output:
        directory(str(STUDY.latest)),
    log:
        f"results/logs/{STUDY.name}/{STUDY.hash8}/latest.log",
    conda:
        "../../environment.yml"
    params:
        study=subpath(input[0], parent=True),
    shell:
        "python -m coordexp.cli publish {params.study} > {log} 2>&1"
