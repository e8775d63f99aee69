# Records and base model, each in a directory named by the digest of its configuration.


# Converting annotations uses every core and holds the whole annotation file in memory. Drawing
# scenes uses one core.
rule data:
    input:
        lambda wildcards: STUDY.annotations(wildcards.hash8),
        # Another directory of pictures is compared with what was converted; what else happens in
        # it does not count.
        pictures=lambda wildcards: ancient(STUDY.picture_directories(wildcards.hash8)),
    output:
        update("results/data/{name}-{hash8}/data.json"),
    log:
        "results/logs/data/{name}-{hash8}.log",
    benchmark:
        "results/benchmarks/data/{name}-{hash8}.tsv"
    conda:
        "../../environment.yml"
    threads: lambda wildcards: 1 if wildcards.name == "scenes" else workflow.cores
    resources:
        mem_mb=lambda wildcards: 1000 if wildcards.name == "scenes" else 16000,
        runtime=lambda wildcards: 60 if wildcards.name == "scenes" else 720,
    params:
        overrides=lambda wildcards, output: STUDY.overrides_for_data(wildcards.hash8),
        code=lambda wildcards: STUDY.drawing_code(wildcards.hash8),
    message:
        "Make the records {wildcards.name}-{wildcards.hash8}."
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
    message:
        "Make the base model {wildcards.name}-{wildcards.hash8}, from which every variant starts."
    shell:
        "python -m coordexp.cli prepare --only base {params.overrides:q} > {log} 2>&1"
