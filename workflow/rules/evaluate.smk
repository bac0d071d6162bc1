# Test accuracies: one job for each snapshot and protocol, with all architectures asked for.
rule evaluate:
    input:
        data=lambda w: data_file(RUN, EVALUATIONS[w.evaluation].distillation.dataset),
        synthetic=lambda w: synthetic_file(
            RUN, EVALUATIONS[w.evaluation].distillation, EVALUATIONS[w.evaluation].iterations
        ),
    output:
        f"{RUN.root}/evaluations/{{evaluation}}.csv",
    log:
        f"{RUN.root}/logs/evaluate/{{evaluation}}.log",
    benchmark:
        f"{RUN.root}/benchmarks/evaluate/{{evaluation}}.tsv"
    wildcard_constraints:
        evaluation=named(EVALUATIONS),
    conda:
        "../../environment.yml"
    threads: RUN.resources["evaluate"]["threads"]
    resources:
        mem_mb=RUN.resources["evaluate"]["mem_mb"],
        runtime=RUN.resources["evaluate"]["runtime"],
        gpu=GPUS,
    params:
        options=lambda w: command_line(PLAN.evaluate_options(EVALUATIONS[w.evaluation])),
        archs=lambda w: shlex.join(PLAN.evaluations[EVALUATIONS[w.evaluation]]),
        device=RUN.device,
    message:
        "evaluate {wildcards.evaluation}"
    shell:
        "python -m dd evaluate --synthetic {input.synthetic:q} --data {input.data:q} "
        "--arch {params.archs} {params.options} --out {output:q} --threads {threads} "
        "--device {params.device} 2>&1 | tee {log:q}"
