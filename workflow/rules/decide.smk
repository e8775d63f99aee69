# From finished runs to the card. Every file lies in the study directory, named by the digest of runs and rule.


rule preregister:
    output:
        update(f"{STUDY.path}/preregistration.json"),
    log:
        f"results/logs/{STUDY.name}/{STUDY.hash8}/preregister.log",
    benchmark:
        f"results/benchmarks/{STUDY.name}/{STUDY.hash8}/preregister.tsv"
    priority: 100
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        settings=lambda wildcards, output: json.dumps(config),
    shell:
        "python -m coordexp.cli step preregister {params.settings:q} > {log} 2>&1"


rule audit:
    input:
        f"{STUDY.path}/preregistration.json",
        STUDY.evidence,
    output:
        f"{STUDY.path}/runs.json",
        f"{STUDY.path}/audit.json",
        f"{STUDY.path}/audit.csv",
    log:
        f"results/logs/{STUDY.name}/{STUDY.hash8}/audit.log",
    benchmark:
        f"results/benchmarks/{STUDY.name}/{STUDY.hash8}/audit.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        study=subpath(output[0], parent=True),
        code=CODE["audit"],
    shell:
        "python -m coordexp.cli step audit {params.study} > {log} 2>&1"


rule compare:
    input:
        f"{STUDY.path}/preregistration.json",
        f"{STUDY.path}/runs.json",
    output:
        f"{STUDY.path}/comparison.json",
        f"{STUDY.path}/comparison.csv",
    log:
        f"results/logs/{STUDY.name}/{STUDY.hash8}/compare.log",
    benchmark:
        f"results/benchmarks/{STUDY.name}/{STUDY.hash8}/compare.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        study=subpath(output[0], parent=True),
        code=CODE["compare"],
    shell:
        "python -m coordexp.cli step compare {params.study} > {log} 2>&1"


rule fitness:
    input:
        f"{STUDY.path}/preregistration.json",
        f"{STUDY.path}/comparison.json",
        STUDY.probes,
    output:
        f"{STUDY.path}/probe.json",
    log:
        f"results/logs/{STUDY.name}/{STUDY.hash8}/fitness.log",
    benchmark:
        f"results/benchmarks/{STUDY.name}/{STUDY.hash8}/fitness.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        study=subpath(output[0], parent=True),
        code=CODE["fitness"],
    shell:
        "python -m coordexp.cli step fitness {params.study} > {log} 2>&1"


rule recommend:
    input:
        f"{STUDY.path}/preregistration.json",
        f"{STUDY.path}/audit.json",
        f"{STUDY.path}/comparison.json",
        f"{STUDY.path}/probe.json",
    output:
        f"{STUDY.path}/recommendation.json",
        f"{STUDY.path}/recommendation.md",
    log:
        f"results/logs/{STUDY.name}/{STUDY.hash8}/recommend.log",
    benchmark:
        f"results/benchmarks/{STUDY.name}/{STUDY.hash8}/recommend.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        study=subpath(output[0], parent=True),
        code=CODE["recommend"],
    shell:
        "python -m coordexp.cli step recommend {params.study} > {log} 2>&1"
