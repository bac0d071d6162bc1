# Trajectories of experts, in shards: jobs of their own, which a cluster can do side by side.
rule buffer:
    input:
        data=lambda w: data_file(RUN, SHARDS[w.shard].dataset),
    output:
        f"{RUN.root}/buffers/{{shard}}.safetensors",
    log:
        f"{RUN.root}/logs/buffer/{{shard}}.log",
    benchmark:
        f"{RUN.root}/benchmarks/buffer/{{shard}}.tsv"
    wildcard_constraints:
        shard=exactly(SHARDS),
    conda:
        "../../environment.yml"
    threads: needed("buffer", "threads")
    resources:
        mem_mb=growing("buffer", "mem_mb"),
        runtime=growing("buffer", "runtime"),
        gpu=GPUS,
    params:
        options=lambda w: command_line(PLAN.buffer_options(SHARDS[w.shard])),
        device=RUN.device,
    message:
        "buffer {wildcards.shard}"
    shell:
        "python -m dd buffer --data {input.data:q} {params.options} --out {output:q} "
        "--threads {threads:q} --device {params.device:q} 2>&1 | tee {log:q}"
