# Test accuracies: one job for each snapshot and protocol, with all architectures asked for.
rule evaluate:
    input:
        data=lambda w: data_file(RUN, EVALUATIONS[w.evaluation].distillation.dataset),
        synthetic=lambda w: set_file(EVALUATIONS[w.evaluation]),
        labels=lambda w: label_files(EVALUATIONS[w.evaluation]),
    output:
        f"{RUN.root}/evaluations/{{evaluation}}.csv",
    log:
        f"{RUN.root}/logs/evaluate/{{evaluation}}.log",
    benchmark:
        f"{RUN.root}/benchmarks/evaluate/{{evaluation}}.tsv"
    wildcard_constraints:
        evaluation=exactly(EVALUATIONS),
    conda:
        "../../environment.yml"
    threads: needed("evaluate", "threads")
    resources:
        mem_mb=growing("evaluate", "mem_mb"),
        runtime=growing("evaluate", "runtime"),
        gpu=GPUS,
    params:
        options=lambda w: command_line(PLAN.evaluate_options(EVALUATIONS[w.evaluation])),
        archs=lambda w: shlex.join(PLAN.evaluations[EVALUATIONS[w.evaluation]]),
        labels=lambda w, input: option("labels", list(input.labels)),
        device=RUN.device,
    message:
        "evaluate {wildcards.evaluation}"
    shell:
        "python -m dd evaluate --synthetic {input.synthetic:q} --data {input.data:q} "
        "--arch {params.archs} {params.options} {params.labels} --out {output:q} --threads {threads:q} "
        "--device {params.device:q} 2>&1 | tee {log:q}"
