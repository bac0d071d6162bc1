# Synthetic sets of others, in place of distillations. Where their files lie does not matter; other files mean another set.
rule import_set:
    input:
        unpack(inputs("import")),
    output:
        f"{RUN.root}/distilled/{{job}}.safetensors",
    log:
        f"{RUN.root}/logs/import/{{job}}.log",
    wildcard_constraints:
        job=exactly(JOBS["import"]),
    conda:
        "../../environment.yml"
    threads: needed("import", "threads")
    resources:
        mem_mb=growing("import", "mem_mb"),
        runtime=growing("import", "runtime"),
    params:
        words=words("import"),
        places=places("import"),
        source=lambda wildcards, output: str(JOBS["import"][wildcards.job].path(RUN)),
        images=images("import"),
    message:
        "import {wildcards.job}"
    shell:
        "python -m dd import {params.source:q} {params.words} {params.places} --out {output:q} "
        "2>&1 | tee -i {log:q}"
