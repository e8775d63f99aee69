# The Stage-2 probe of one run at the decision step. It reserves as many cores as the run's training.
# Where a training uses all GPUs of the machine, this keeps a probe from starting at the same time as
# a training or another probe.


rule probe:
    input:
        "results/runs/{variant}/s{seed}-{hash8}/run.json",
    output:
        update("results/runs/{variant}/s{seed}-{hash8}/stage2/{recipe}/probe.json"),
    log:
        "results/logs/probe/{variant}-s{seed}-{hash8}-{recipe}.log",
    benchmark:
        "results/benchmarks/probe/{variant}-s{seed}-{hash8}-{recipe}.tsv"
    conda:
        "../../environment.yml"
    threads: lambda wildcards: STUDY.run(wildcards.variant, wildcards.seed, wildcards.hash8).cores
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        run=subpath(input[0], parent=True),
        step=lambda wildcards, output: STUDY.decision_step,
        overrides=lambda wildcards, output: STUDY.overrides_for_probe(
            wildcards.variant, wildcards.seed, wildcards.hash8
        ),
    message:
        "Probe {wildcards.variant}, seed {wildcards.seed}, on {threads} cores:"
        " rollouts, a short geometric fine-tune, rollouts again."
    shell:
        "python -m coordexp.cli probe {params.run} {params.overrides:q} runtime.wait=true"
        " --step {params.step} --allow-missing > {log} 2>&1"
