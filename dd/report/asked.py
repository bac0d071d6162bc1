"""The table or figure that a command names, and where it may be written."""

from __future__ import annotations

from pathlib import Path

from dd.artifacts.atomic import check_apart, check_out
from dd.config.run import Run, read_run, stems
from dd.errors import DDError
from dd.plan.exhibits import Exhibit, load_exhibit
from dd.plan.kinds import inputs
from dd.plan.plan import ENDINGS, Plan


def asked(kind: str, given: str, config: str, out: Path) -> Exhibit:
    """The table or figure (``kind``) of the run of ``config`` whose definition is the file
    ``given``.

    Raises:
        DDError: if there is no such file, it is no definition, or ``out`` or a file that is written
            beside it is one from which the table or figure is made, or another file of the run.
    """
    endings = [f".{ending}" for ending in ENDINGS[kind]]
    check_out(out, endings[0], config, given)
    run = read_run(config)
    if not Path(given).is_file():
        raise _no_definition(kind, given, run)
    exhibit = load_exhibit(kind, given, run)
    there = [path for path in map(out.with_suffix, endings) if path.exists()]
    if there:
        plan = Plan(run)
        own = {f"{run.root}/{kind}s/{exhibit.name}{ending}" for ending in endings}
        for path in there:
            check_apart(path, config, given, *inputs(exhibit, plan.main.jobs))
            others = [file for file in plan.files() if file not in own]
            check_apart(path, *others, because="is another file of the run")
    return exhibit


def _no_definition(kind: str, given: str, run: Run) -> DDError:
    """A :class:`DDError` for a definition that is not there; it names that of this name."""
    known = run.path(f"{kind}s")
    name = Path(given).stem
    hint = f"did you mean {known}/{name}.yaml? " if name in stems(known) else ""
    return DDError(f"--{kind}: {given} is no file; {hint}it must be a YAML file, as in {known}")
