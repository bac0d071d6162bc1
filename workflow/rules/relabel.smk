# Soft labels of each view of synthetic sets, for the protocols that learn from them.
rule relabel:
    input:
        unpack(inputs("relabel")),
    output:
        f"{RUN.root}/labels/{{job}}.safetensors",
    log:
        f"{RUN.root}/logs/relabel/{{job}}.log",
    wildcard_constraints:
        job=exactly(JOBS["relabel"]),
    conda:
        "../../environment.yml"
    threads: needed("relabel", "threads")
    resources:
        mem_mb=growing("relabel", "mem_mb"),
        runtime=growing("relabel", "runtime"),
        gpu=GPUS,
    params:
        words=words("relabel"),
        places=places("relabel"),
        images=images("relabel"),
    message:
        "relabel {wildcards.job}"
    shell:
        "python -m dd relabel {params.words} {params.places} --out {output:q} --threads {threads:q} "
        "2>&1 | tee -i {log:q}"
