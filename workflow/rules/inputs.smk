# What every run starts from: records and base model, each in a directory named by its configuration's digest.


rule data:
    output:
        update("results/data/{name}-{hash8}/data.json"),
    log:
        "results/logs/data/{name}-{hash8}.log",
    benchmark:
        "results/benchmarks/data/{name}-{hash8}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=60,
    params:
        overrides=lambda wildcards, output: STUDY.overrides_for_data(wildcards.hash8),
    shell:
        "python -m coordexp.cli prepare --only data {params.overrides:q} > {log} 2>&1"


rule base_model:
    output:
        update("results/base/{name}-{hash8}/base.json"),
    log:
        "results/logs/base/{name}-{hash8}.log",
    benchmark:
        "results/benchmarks/base/{name}-{hash8}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        overrides=lambda wildcards, output: STUDY.overrides_for_base(wildcards.hash8),
    shell:
        "python -m coordexp.cli prepare --only base {params.overrides:q} > {log} 2>&1"
