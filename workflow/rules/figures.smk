# Figures: PNG and PDF.
rule figure:
    input:
        config=CONFIG,
        definition=lambda w: PLAN.exhibits["figure", w.figure].path,
        files=lambda w: read_by("figure", w.figure),
    output:
        png=report(
            f"{RUN.root}/figures/{{figure}}.png",
            caption="../report/figure.rst",
            category=lambda w: paper("figure", w.figure),
            subcategory="Figures",
            labels=lambda w: title("figure", w.figure),
        ),
        pdf=f"{RUN.root}/figures/{{figure}}.pdf",
    log:
        f"{RUN.root}/logs/figures/{{figure}}.log",
    wildcard_constraints:
        figure=exactly(name for kind, name in PLAN.exhibits if kind == "figure"),
    conda:
        "../../environment.yml"
    resources:
        mem_mb=growing("render", "mem_mb"),
        runtime=growing("render", "runtime"),
    message:
        "figure {wildcards.figure}"
    shell:
        "python -m dd figure --config {input.config:q} --figure {input.definition:q} --out {output.png:q} "
        "2>&1 | tee -i {log:q}"
