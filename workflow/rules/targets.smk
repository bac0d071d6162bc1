# What the run rests on, written when its tables and figures are there.
rule record:
    input:
        config=CONFIG,
        files=recorded(),
    output:
        f"{RUN.root}/run.json",
    log:
        f"{RUN.root}/logs/record.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=growing("render", "mem_mb"),
        runtime=growing("render", "runtime"),
    message:
        "record {RUN.name}"
    shell:
        "python -m dd record --config {input.config:q} --out {output:q} 2>&1 | tee {log:q}"


# `snakemake NAME` for each paper, table and figure of the run; a table and a figure of one name
# share the target.
for target, (target_tables, target_figures) in PLAN.targets().items():

    rule:
        name:
            target
        input:
            rendered("table", target_tables),
            rendered("figure", target_figures),
        localrule: True
