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
    benchmark:
        f"results/benchmarks/{STUDY.name}/{STUDY.hash8}/report.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        study=subpath(output[0], parent=True),
        code=CODE["report"],
    shell:
        "python -m coordexp.cli step report {params.study} > {log} 2>&1"


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
        f"results/logs/{STUDY.name}/{STUDY.hash8}/mlflow.log",
    benchmark:
        f"results/benchmarks/{STUDY.name}/{STUDY.hash8}/mlflow.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        study=subpath(output[0], parent=True),
    shell:
        "python -m coordexp.cli step track {params.study} > {log} 2>&1"


rule latest:
    input:
        f"{STUDY.path}/mlflow.json",
    output:
        directory(str(STUDY.latest)),
    log:
        f"results/logs/{STUDY.name}/{STUDY.hash8}/latest.log",
    benchmark:
        f"results/benchmarks/{STUDY.name}/{STUDY.hash8}/latest.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        study=subpath(input[0], parent=True),
    shell:
        "python -m coordexp.cli step publish {params.study} > {log} 2>&1"
