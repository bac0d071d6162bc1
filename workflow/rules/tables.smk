# Tables, as CSV, Markdown, LaTeX and HTML.
rule table:
    input:
        config=CONFIG,
        definition=lambda w: PLAN.exhibits["table", w.table].path,
        files=lambda w: read_by("table", w.table),
    output:
        csv=f"{RUN.root}/tables/{{table}}.csv",
        md=f"{RUN.root}/tables/{{table}}.md",
        tex=f"{RUN.root}/tables/{{table}}.tex",
        html=report(
            f"{RUN.root}/tables/{{table}}.html",
            caption="../report/table.rst",
            category=lambda w: paper("table", w.table),
            subcategory="Tables",
            labels=lambda w: title("table", w.table),
        ),
    log:
        f"{RUN.root}/logs/tables/{{table}}.log",
    wildcard_constraints:
        table=exactly(name for kind, name in PLAN.exhibits if kind == "table"),
    conda:
        "../../environment.yml"
    resources:
        mem_mb=growing("render", "mem_mb"),
        runtime=growing("render", "runtime"),
    message:
        "table {wildcards.table}"
    shell:
        "python -m dd table --config {input.config:q} --table {input.definition:q} --out {output.csv:q} "
        "2>&1 | tee -i {log:q}"
