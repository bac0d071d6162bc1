# What Snakemake's report (snakemake --report report.html) says of the run, its tables and figures.
from dd.report import escape
from dd.report.labels import paper_label

ABOUT = "The run"  # the report's category beside the papers


def paper(kind, name):
    """The report's category of a table or figure."""
    return escape.report_label(paper_label(PLAN.exhibits[kind, name].definition["paper"]))


def title(kind, name):
    """A table or figure in the report's lists, by title: no two of a paper share one."""
    return {kind.capitalize(): escape.report_label(PLAN.exhibits[kind, name].definition["title"])}


def described(kind, name):
    """What a table or figure shows and on what data, for the report."""
    from dd.report.captions import caption  # imports torch, which a report alone needs

    return escape.rst(caption(PLAN.exhibits[kind, name]))


def run_described():
    """What the run is, for the first page of the report."""
    from dd.artifacts.text import load_json
    from dd.report.index import about

    made = Path(RUN.root, "run.json")
    sheet = about(PLAN.main, load_json(made) if made.exists() else None)
    return {
        "title": escape.rst(sheet.title),
        "caption": escape.rst(sheet.caption),
        "facts": [[escape.rst(cell.text) for cell in row] for row in sheet.body],
    }


# The templates in workflow/report see `config`; they are filled when a report is made, and only then.
config |= {"described": described, "run_described": run_described, "rst": escape.rst}


report: "../report/run.rst"
