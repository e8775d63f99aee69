# From finished runs to the card. Every file is in the study directory, which is named by the digest
# of runs, rule and probe settings.


rule preregister:
    output:
        update(f"{STUDY.path}/preregistration.json"),
    log:
        f"{LOGS}/preregister.log",
    benchmark:
        f"{BENCHMARKS}/preregister.tsv"
    priority: 100
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        settings=lambda wildcards, output: json.dumps(config),
    message:
        "Write down the runs of the study and the decision rule."
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
        f"{LOGS}/audit.log",
    benchmark:
        f"{BENCHMARKS}/audit.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        step="audit",
        code=CODE["audit"],
        study=subpath(output[0], parent=True),
    message:
        "Audit the logs: are they plausible, and do the runs differ only in their objective?"
    shell:
        "python -m coordexp.cli step {params.step} {params.study} > {log} 2>&1"


use rule audit as compare with:
    input:
        f"{STUDY.path}/preregistration.json",
        f"{STUDY.path}/runs.json",
    output:
        f"{STUDY.path}/comparison.json",
        f"{STUDY.path}/comparison.csv",
    log:
        f"{LOGS}/compare.log",
    benchmark:
        f"{BENCHMARKS}/compare.tsv"
    params:
        step="compare",
        code=CODE["compare"],
        study=subpath(output[0], parent=True),
    message:
        "Compare the variants on metrics that are comparable, at the steps that all runs share."


use rule audit as collect_probes with:
    input:
        f"{STUDY.path}/preregistration.json",
        f"{STUDY.path}/comparison.json",
        STUDY.probes,
    output:
        f"{STUDY.path}/probe.json",
    log:
        f"{LOGS}/collect_probes.log",
    benchmark:
        f"{BENCHMARKS}/collect_probes.tsv"
    params:
        step="collect-probes",
        code=CODE["collect-probes"],
        study=subpath(output[0], parent=True),
    message:
        "Collect the Stage-2 probes of the runs."


use rule audit as recommend with:
    input:
        f"{STUDY.path}/preregistration.json",
        f"{STUDY.path}/audit.json",
        f"{STUDY.path}/comparison.json",
        f"{STUDY.path}/probe.json",
    output:
        f"{STUDY.path}/recommendation.json",
        report(
            f"{STUDY.path}/recommendation.md",
            caption="../report/card.rst",
            category="Decision",
            labels={"shows": "card"},
        ),
    log:
        f"{LOGS}/recommend.log",
    benchmark:
        f"{BENCHMARKS}/recommend.tsv"
    params:
        step="recommend",
        code=CODE["recommend"],
        study=subpath(output[0], parent=True),
    message:
        "Apply the decision rule and write the card."
