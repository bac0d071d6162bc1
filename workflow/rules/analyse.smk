# What networks look at: class activation maps of synthetic sets, and test images without them.
rule cams:
    input:
        data=lambda w: data_file(RUN, SNAPSHOTS[w.snapshot].distillation.dataset),
        synthetic=lambda w: set_file(SNAPSHOTS[w.snapshot]),
        pretrained=lambda w: pretrained_files(PLAN.seers_of(SNAPSHOTS[w.snapshot].distillation)),
    output:
        f"{RUN.root}/cams/{{snapshot}}.safetensors",
    log:
        f"{RUN.root}/logs/cams/{{snapshot}}.log",
    benchmark:
        f"{RUN.root}/benchmarks/cams/{{snapshot}}.tsv"
    wildcard_constraints:
        snapshot=exactly(SNAPSHOTS),
    conda:
        "../../environment.yml"
    threads: needed("analyse", "threads")
    resources:
        mem_mb=growing("analyse", "mem_mb"),
        runtime=growing("analyse", "runtime"),
        gpu=GPUS,
    params:
        options=lambda w: command_line(PLAN.cams_options()),
        device=RUN.device,
    message:
        "class activation maps of {wildcards.snapshot}"
    shell:
        "python -m dd cams --synthetic {input.synthetic:q} --data {input.data:q} "
        "--pretrained {input.pretrained:q} {params.options} --out {output:q} --threads {threads:q} "
        "--device {params.device:q} 2>&1 | tee {log:q}"


rule erase:
    input:
        data=lambda w: data_file(RUN, ERASINGS[w.erasing].dataset),
        pretrained=lambda w: pretrained_files(PLAN.erased_for(ERASINGS[w.erasing])),
    output:
        f"{RUN.root}/erasing/{{erasing}}.csv",
    log:
        f"{RUN.root}/logs/erase/{{erasing}}.log",
    benchmark:
        f"{RUN.root}/benchmarks/erase/{{erasing}}.tsv"
    wildcard_constraints:
        erasing=exactly(ERASINGS),
    conda:
        "../../environment.yml"
    threads: needed("analyse", "threads")
    resources:
        mem_mb=growing("analyse", "mem_mb"),
        runtime=growing("analyse", "runtime"),
        gpu=GPUS,
    params:
        options=lambda w: command_line(PLAN.erase_options(ERASINGS[w.erasing])),
        device=RUN.device,
    message:
        "erase regions of the test images of {wildcards.erasing}"
    shell:
        "python -m dd erase --data {input.data:q} --pretrained {input.pretrained:q} {params.options} "
        "--out {output:q} --threads {threads:q} --device {params.device:q} 2>&1 | tee {log:q}"
