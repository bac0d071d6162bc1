# Where networks look: class activation maps of synthetic sets, and accuracy on test images without these regions.
rule cams:
    input:
        unpack(inputs("cams")),
    output:
        f"{RUN.root}/cams/{{job}}.safetensors",
    log:
        f"{RUN.root}/logs/cams/{{job}}.log",
    wildcard_constraints:
        job=exactly(JOBS["cams"]),
    conda:
        "../../environment.yml"
    threads: needed("analyse", "threads")
    resources:
        mem_mb=growing("analyse", "mem_mb"),
        runtime=growing("analyse", "runtime"),
        gpu=GPUS,
    params:
        words=words("cams"),
        places=places("cams"),
        images=images("cams"),
    message:
        "class activation maps of {wildcards.job}"
    shell:
        "python -m dd cams {params.words} {params.places} --out {output:q} --threads {threads:q} "
        "2>&1 | tee -i {log:q}"


rule erase:
    input:
        unpack(inputs("erase")),
    output:
        f"{RUN.root}/erasing/{{job}}.csv",
    log:
        f"{RUN.root}/logs/erase/{{job}}.log",
    wildcard_constraints:
        job=exactly(JOBS["erase"]),
    conda:
        "../../environment.yml"
    threads: needed("analyse", "threads")
    resources:
        mem_mb=growing("analyse", "mem_mb"),
        runtime=growing("analyse", "runtime"),
        gpu=GPUS,
    params:
        words=words("erase"),
        places=places("erase"),
        images=images("erase"),
    message:
        "erase regions of the test images of {wildcards.job}"
    shell:
        "python -m dd erase {params.words} {params.places} --out {output:q} --threads {threads:q} "
        "2>&1 | tee -i {log:q}"
