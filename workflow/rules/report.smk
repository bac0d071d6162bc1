# Texts for Snakemake's report (snakemake --report report.html) about the run, its tables and figures.
from dd.report import escape
from dd.report.labels import paper_label

ABOUT = "The run"  # the category of the report besides the papers


def paper(kind, name):
    """The report's category of a table or figure."""
    return escape.report_label(paper_label(PLAN.exhibits[kind, name].definition["paper"]))


def title(kind, name):
    """The label of a table or figure in the report's lists: its title, unique within a paper."""
    return {kind.capitalize(): escape.report_label(PLAN.exhibits[kind, name].definition["title"])}


def described(kind, name):
    """The caption of a table or figure, for the report."""
    from dd.report.captions import caption

    return escape.rst(caption(PLAN.exhibits[kind, name]))


def run_described():
    """The description of the run, for the first page of the report."""
    from dd.artifacts.text import load_json
    from dd.report.index import about

    made = Path(RUN.root, "run.json")
    sheet = about(PLAN.main, load_json(made) if made.exists() else None)
    return {
        "title": escape.rst(sheet.title),
        "caption": escape.rst(sheet.caption),
        "facts": [[escape.rst(cell.text) for cell in row] for row in sheet.body],
    }


# The templates in workflow/report can use `config`. They are filled only when a report is made.
config |= {"described": described, "run_described": run_described, "rst": escape.rst}


report: "../report/run.rst"
