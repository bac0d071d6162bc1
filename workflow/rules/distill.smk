# Synthetic sets. The snapshots that tables and figures ask for are a job's outputs, so there is one
# rule for each list of snapshots, for the distillations that have it.
for snapshots in sorted(set(PLAN.distillations.values())):

    rule:
        name:
            f"distill_{'_'.join(map(str, snapshots))}"
        input:
            data=lambda w: data_file(RUN, DISTILLATIONS[w.distillation].dataset),
            # not in the command, but in its options: an edited pool distils anew
            pool=lambda w: pool_files(RUN, DISTILLATIONS[w.distillation].method),
            buffers=lambda w: shard_files(DISTILLATIONS[w.distillation]),
            pretrained=lambda w: pretrained_files(PLAN.pretrained_of(DISTILLATIONS[w.distillation])),
            generator=lambda w: PLAN.generator_files(DISTILLATIONS[w.distillation]),
        output:
            [
                f"{RUN.root}/distilled/{{distillation}}/it{iteration}.safetensors"
                for iteration in snapshots
            ],
            metrics=f"{RUN.root}/distilled/{{distillation}}/metrics.jsonl",
        log:
            f"{RUN.root}/logs/distill/{{distillation}}.log",
        benchmark:
            f"{RUN.root}/benchmarks/distill/{{distillation}}.tsv"
        wildcard_constraints:
            distillation=exactly(
                str(job) for job, asked in PLAN.distillations.items() if asked == snapshots
            ),
        conda:
            "../../environment.yml"
        threads: needed("distill", "threads")
        resources:
            mem_mb=growing("distill", "mem_mb"),
            runtime=growing("distill", "runtime"),
            gpu=GPUS,
        params:
            options=lambda w: command_line(PLAN.distill_options(DISTILLATIONS[w.distillation])),
            read=lambda w, input: " ".join(
                option(name, list(getattr(input, name)))
                for name in ("buffers", "pretrained", "generator")
            ),
            snapshots=shlex.join(map(str, snapshots)),
            out=f"{RUN.root}/distilled/{{distillation}}",
            device=RUN.device,
        message:
            "distil {wildcards.distillation}"
        shell:
            "python -m dd distill --data {input.data:q} {params.options} {params.read} "
            "--snapshots {params.snapshots} --out {params.out:q} --threads {threads:q} --device {params.device:q} 2>&1 | tee {log:q}"
