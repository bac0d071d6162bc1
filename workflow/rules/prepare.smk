# The checked configuration of the run, and one file of images per dataset.
rule configure:
    output:
        CONFIG,
    log:
        f"{RUN.root}/logs/configure.log",
    conda:
        "../../environment.yml"
    params:
        run=config.get("run", "smoke"),
        # JSON, so that `configure` reads each value as what it is here: 'no' and '2024-11-27' stay text
        overrides=shlex.join(
            f"{key}={json.dumps(value, ensure_ascii=False)}"
            for key, value in sorted(OVERRIDES.items())
        ),
        workflow=RUN.workflow,
        # not used in the command; if the document changes, Snakemake makes the file again
        document=PLAN.document(),
    message:
        "configure {params.run}"
    shell:
        "python -m dd configure --run {params.run:q} --workflow {params.workflow:q} --out {output:q} "
        "--set {params.overrides} 2>&1 | tee -i {log:q}"


rule prepare:
    input:
        unpack(inputs("prepare")),
    output:
        update(f"{RUN.root}/data/{{job}}.safetensors"),  # left as it is if nothing in it changes
    log:
        f"{RUN.root}/logs/prepare/{{job}}.log",
    wildcard_constraints:
        job=exactly(JOBS["prepare"]),
    conda:
        "../../environment.yml"
    threads: needed("prepare", "threads")
    resources:
        mem_mb=growing("prepare", "mem_mb"),
        runtime=growing("prepare", "runtime"),
    params:
        words=words("prepare"),
        places=places("prepare"),
        images=images("prepare"),
    message:
        "prepare {wildcards.job}"
    shell:
        "python -m dd prepare {params.words} {params.places} --out {output:q} --threads {threads:q} "
        "2>&1 | tee -i {log:q}"
