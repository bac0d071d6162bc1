# Networks and generators that are trained on the real data and later used frozen.
rule pretrain:
    input:
        unpack(inputs("pretrain")),
    output:
        f"{RUN.root}/pretrained/{{job}}.safetensors",
    log:
        f"{RUN.root}/logs/pretrain/{{job}}.log",
    wildcard_constraints:
        job=exactly(JOBS["pretrain"]),
    conda:
        "../../environment.yml"
    threads: needed("pretrain", "threads")
    resources:
        mem_mb=growing("pretrain", "mem_mb"),
        runtime=growing("pretrain", "runtime"),
        gpu=GPUS,
    params:
        words=words("pretrain"),
        places=places("pretrain"),
        images=images("pretrain"),
    message:
        "pretrain {wildcards.job}"
    shell:
        "python -m dd pretrain {params.words} {params.places} --out {output:q} --threads {threads:q} "
        "2>&1 | tee -i {log:q}"


rule generator:
    input:
        unpack(inputs("generator")),
    output:
        f"{RUN.root}/pretrained/{{job}}.safetensors",
    log:
        f"{RUN.root}/logs/generator/{{job}}.log",
    wildcard_constraints:
        job=exactly(JOBS["generator"]),
    conda:
        "../../environment.yml"
    threads: needed("pretrain", "threads")
    resources:
        mem_mb=growing("pretrain", "mem_mb"),
        runtime=growing("pretrain", "runtime"),
        gpu=GPUS,
    params:
        words=words("generator"),
        places=places("generator"),
        images=images("generator"),
    message:
        "train {wildcards.job}"
    shell:
        "python -m dd generator {params.words} {params.places} --out {output:q} --threads {threads:q} "
        "2>&1 | tee -i {log:q}"
