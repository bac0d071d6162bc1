# Soft labels of synthetic sets, view by view, for the protocols that learn from them.
rule relabel:
    input:
        data=lambda w: data_file(RUN, RELABELLINGS[w.labels].snapshot.distillation.dataset),
        synthetic=lambda w: set_file(RELABELLINGS[w.labels].snapshot),
        teachers=lambda w: pretrained_files(PLAN.teachers_of(RELABELLINGS[w.labels])),
    output:
        f"{RUN.root}/labels/{{labels}}.safetensors",
    log:
        f"{RUN.root}/logs/relabel/{{labels}}.log",
    benchmark:
        f"{RUN.root}/benchmarks/relabel/{{labels}}.tsv"
    wildcard_constraints:
        labels=exactly(RELABELLINGS),
    conda:
        "../../environment.yml"
    threads: needed("relabel", "threads")
    resources:
        mem_mb=growing("relabel", "mem_mb"),
        runtime=growing("relabel", "runtime"),
        gpu=GPUS,
    params:
        options=lambda w: command_line(PLAN.relabel_options(RELABELLINGS[w.labels])),
        device=RUN.device,
    message:
        "relabel {wildcards.labels}"
    shell:
        "python -m dd relabel --synthetic {input.synthetic:q} --data {input.data:q} "
        "--teacher {input.teachers:q} {params.options} --out {output:q} --threads {threads:q} "
        "--device {params.device:q} 2>&1 | tee {log:q}"
