# Test accuracies: one job for each snapshot and protocol, with all architectures that tables and figures need.
rule evaluate:
    input:
        unpack(inputs("evaluate")),
    output:
        f"{RUN.root}/evaluations/{{job}}.csv",
    log:
        f"{RUN.root}/logs/evaluate/{{job}}.log",
    wildcard_constraints:
        job=exactly(JOBS["evaluate"]),
    conda:
        "../../environment.yml"
    threads: needed("evaluate", "threads")
    resources:
        mem_mb=growing("evaluate", "mem_mb"),
        runtime=growing("evaluate", "runtime"),
        gpu=GPUS,
    params:
        words=words("evaluate"),
        places=places("evaluate"),
        images=images("evaluate"),
    message:
        "evaluate {wildcards.job}"
    shell:
        "python -m dd evaluate {params.words} {params.places} --out {output:q} --threads {threads:q} "
        "2>&1 | tee -i {log:q}"
