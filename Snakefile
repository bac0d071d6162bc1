# One experiment: prepare -> buffer -> distill -> evaluate -> tables and figures. `snakemake --cores all` makes
# the smoke run; `snakemake --cores all --config run=cifar10 data_root=DIR` makes the run of a paper.
from snakemake.utils import min_version

min_version("9.3")


include: "workflow/rules/common.smk"


localrules:
    all,
    tables,
    figures,
    configure,


rule all:
    input:
        expand(
            f"{RUN.root}/{{file}}",
            file=["run.json", "ro-crate-metadata.json", "README.md", "run.html", "settings.html"],
        ),
        lost(),  # so that a lost file of a finished run is made again


rule tables:
    input:
        rendered("table", listed("table")),


rule figures:
    input:
        rendered("figure", listed("figure")),


# Each stage (preparation, buffers, pretraining, distillation, ...) has a file of rules. New files need no entry here.
for rules in sorted(Path(workflow.basedir, "workflow", "rules").glob("*.smk")):
    if rules.stem != "common":

        include: rules


onstart:
    check_start()
    rest_between_jobs()
    fork_jobs()


onsuccess:
    report_made()


onerror:
    report_stop()
