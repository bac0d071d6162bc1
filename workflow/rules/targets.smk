# The record of the run, written after its tables and figures; beside it the same as RO-Crate.
rule record:
    input:
        config=CONFIG,
        files=recorded(),
    output:
        record=report(
            f"{RUN.root}/run.json",
            caption="../report/record.rst",
            category=ABOUT,
            labels={"Page": "Record (JSON)"},
        ),
        crate=f"{RUN.root}/ro-crate-metadata.json",
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
        "python -m dd record --config {input.config:q} --out {output.record:q} 2>&1 | tee -i {log:q}"


# Pages for readers: README.md for a code host, and two pages for Snakemake's report.
rule index:
    input:
        config=CONFIG,
        record=f"{RUN.root}/run.json",
        definitions=[exhibit.path for exhibit in PLAN.main.exhibits.values()],
    output:
        page=f"{RUN.root}/README.md",
        run=report(
            f"{RUN.root}/run.html",
            caption="../report/about.rst",
            category=ABOUT,
            labels={"Page": "What it is"},
        ),
        settings=report(
            f"{RUN.root}/settings.html",
            caption="../report/settings.rst",
            category=ABOUT,
            labels={"Page": "Settings"},
        ),
    log:
        f"{RUN.root}/logs/index.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=growing("render", "mem_mb"),
        runtime=growing("render", "runtime"),
    message:
        "index {RUN.name}"
    shell:
        "python -m dd index --config {input.config:q} --out {output.page:q} 2>&1 | tee -i {log:q}"


# A target `snakemake NAME` for each paper, table and figure of the run. A table and a figure with the same name
# share a target.
for target, (target_tables, target_figures) in PLAN.targets().items():
    if target in {rule.name for rule in workflow.rules}:
        sys.exit(
            f"error: run {RUN.name}: a table, figure or paper is called '{target}', as a rule of the workflow; "
            "rename it"
        )

    rule:
        name:
            target
        input:
            rendered("table", target_tables),
            rendered("figure", target_figures),
        localrule: True
