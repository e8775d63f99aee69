# One training. Its directory is named by the variant, the seed, and a digest of everything that
# determines the run. The manifest is the only output. It is marked `update`, so Snakemake does not
# delete it before the job: a trainer that survived a kill of Snakemake may have written it already.


rule train:
    input:
        data=lambda wildcards: f"{STUDY.run(**wildcards).data}/data.json",
        base=lambda wildcards: f"{STUDY.run(**wildcards).base}/base.json",
    output:
        update("results/runs/{variant}/s{seed}-{hash8}/run.json"),
    log:
        "results/logs/train/{variant}-s{seed}-{hash8}.log",
    benchmark:
        "results/benchmarks/train/{variant}-s{seed}-{hash8}.tsv"
    priority: 10  # before the probes of runs that are finished: no core is idle at the end
    conda:
        "../../environment.yml"
    threads: lambda wildcards: STUDY.run(**wildcards).cores
    resources:
        mem_mb=4000,
        runtime=1440,
    params:
        launch=lambda wildcards, output: STUDY.run(**wildcards).launcher,
        overrides=lambda wildcards, output: STUDY.run(**wildcards).overrides,
    message:
        "Train {wildcards.variant}, seed {wildcards.seed}, on {threads} cores."
    shell:
        "{params.launch} coordexp.training.train {params.overrides:q} runtime.wait=true runtime.diverged_ok=true >> {log} 2>&1"
