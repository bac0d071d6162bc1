# Expert trajectories, in shards. Each shard is a job, so a cluster can make them in parallel.
rule buffer:
    input:
        unpack(inputs("buffer")),
    output:
        f"{RUN.root}/buffers/{{job}}.safetensors",
    log:
        f"{RUN.root}/logs/buffer/{{job}}.log",
    wildcard_constraints:
        job=exactly(JOBS["buffer"]),
    conda:
        "../../environment.yml"
    threads: needed("buffer", "threads")
    resources:
        mem_mb=growing("buffer", "mem_mb"),
        runtime=growing("buffer", "runtime"),
        gpu=GPUS,
    params:
        words=words("buffer"),
        places=places("buffer"),
        images=images("buffer"),
    message:
        "buffer {wildcards.job}"
    shell:
        "python -m dd buffer {params.words} {params.places} --out {output:q} --threads {threads:q} "
        "2>&1 | tee -i {log:q}"
