# Synthetic sets. The outputs of a job are the snapshots that tables and figures need. The outputs of a rule are
# fixed, so there is one rule for each list of snapshots, for the distillations that have this list.
for snapshots in sorted({job.snapshots for job in JOBS["distill"].values()}):

    rule:
        name:
            f"distill_{'_'.join(map(str, snapshots))}"
        input:
            unpack(inputs("distill")),
        output:
            [f"{RUN.root}/distilled/{{job}}/it{iteration}.safetensors" for iteration in snapshots],
            metrics=f"{RUN.root}/distilled/{{job}}/metrics.jsonl",
        log:
            f"{RUN.root}/logs/distill/{{job}}.log",
        wildcard_constraints:
            job=exactly(name for name, job in JOBS["distill"].items() if job.snapshots == snapshots),
        conda:
            "../../environment.yml"
        threads: needed("distill", "threads")
        resources:
            mem_mb=growing("distill", "mem_mb"),
            runtime=growing("distill", "runtime"),
            gpu=GPUS,
        params:
            words=words("distill"),
            places=places("distill"),
            images=images("distill"),
            out=f"{RUN.root}/distilled/{{job}}",
        message:
            "distil {wildcards.job}"
        shell:
            "python -m dd distill {params.words} {params.places} --out {params.out:q} --threads {threads:q} "
            "2>&1 | tee -i {log:q}"
