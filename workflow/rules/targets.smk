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
