# Networks and generators trained on the real data, to be used frozen.
rule pretrain:
    input:
        data=lambda w: data_file(RUN, PRETRAININGS[w.network].dataset),
        weights=lambda w: given_weights(PRETRAININGS[w.network]),
    output:
        f"{RUN.root}/pretrained/{{network}}.safetensors",
    log:
        f"{RUN.root}/logs/pretrain/{{network}}.log",
    benchmark:
        f"{RUN.root}/benchmarks/pretrain/{{network}}.tsv"
    wildcard_constraints:
        network=exactly(name for name, job in PRETRAININGS.items() if job.network != GENERATOR),
    conda:
        "../../environment.yml"
    threads: needed("pretrain", "threads")
    resources:
        mem_mb=growing("pretrain", "mem_mb"),
        runtime=growing("pretrain", "runtime"),
        gpu=GPUS,
    params:
        options=lambda w: command_line(PLAN.pretrain_options(PRETRAININGS[w.network])),
        device=RUN.device,
    message:
        "pretrain {wildcards.network}"
    shell:
        "python -m dd pretrain --data {input.data:q} {params.options} --out {output:q} "
        "--threads {threads:q} --device {params.device:q} 2>&1 | tee {log:q}"


rule generator:
    input:
        data=lambda w: data_file(RUN, PRETRAININGS[w.generator].dataset),
    output:
        f"{RUN.root}/pretrained/{{generator}}.safetensors",
    log:
        f"{RUN.root}/logs/generator/{{generator}}.log",
    benchmark:
        f"{RUN.root}/benchmarks/generator/{{generator}}.tsv"
    wildcard_constraints:
        generator=exactly(name for name, job in PRETRAININGS.items() if job.network == GENERATOR),
    conda:
        "../../environment.yml"
    threads: needed("pretrain", "threads")
    resources:
        mem_mb=growing("pretrain", "mem_mb"),
        runtime=growing("pretrain", "runtime"),
        gpu=GPUS,
    params:
        options=lambda w: command_line(PLAN.generator_options(PRETRAININGS[w.generator])),
        device=RUN.device,
    message:
        "train {wildcards.generator}"
    shell:
        "python -m dd generator --data {input.data:q} {params.options} --out {output:q} "
        "--threads {threads:q} --device {params.device:q} 2>&1 | tee {log:q}"
