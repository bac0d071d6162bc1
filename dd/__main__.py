"""``python -m dd STAGE``: every rule of the workflow runs one such command; so can a person.

A stage is a module with ``add_arguments(parser)`` and ``run(arguments)``. Only the module of the
requested stage is imported, so ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

from dd import __version__
from dd.errors import DDError, printable, unknown
from dd.runtime.preemption import STATUS, Terminated, heeding_sigterm

STAGES = {
    "prepare": ("dd.data.prepare", "make one safetensors file of raw images"),
    "buffer": ("dd.pretrain.buffer", "train experts on a dataset and store their trajectories"),
    "pretrain": ("dd.pretrain.pretrain", "train a network on a dataset, to be used frozen"),
    "generator": ("dd.pretrain.generator", "train a generator, whose latents can replace pixels"),
    "distill": ("dd.distill.distill", "distil a synthetic set from a dataset"),
    "relabel": ("dd.evaluate.relabel", "make soft labels of a synthetic set, for each view"),
    "evaluate": ("dd.evaluate.evaluate", "train networks on a synthetic set and test them"),
    "cams": ("dd.analyse.cams", "make class activation maps of a synthetic set"),
    "erase": ("dd.analyse.erase", "measure accuracy with regions of the test images erased"),
    "configure": ("dd.plan.configure", "resolve and check the configuration of a run"),
    "table": ("dd.report.table", "make a table (CSV, Markdown, LaTeX, HTML) of a run"),
    "figure": ("dd.report.figure", "make a figure (PNG, PDF) of a run"),
    "record": ("dd.report.record", "record code, machines and checksums of a finished run"),
    "index": ("dd.report.index", "make a page that shows a finished run: README.md"),
    "verify": ("dd.report.verify", "check a finished run again"),
    "inspect": ("dd.artifacts.inspect", "describe an artifact: kind, shapes, provenance"),
}


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the default of every option that has one, unless its help text already names it."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or "default" in (action.help or ""):
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An argparse parser with one-line errors and with defaults in its help."""

    def __init__(self, *args, **kwargs) -> None:
        kwargs.setdefault("formatter_class", HelpFormatter)
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise DDError(f"{message} (see {self.prog} --help)")


def _overview() -> str:
    width = max(map(len, STAGES))
    stages = "\n".join(f"  {name:<{width}}  {text}" for name, (_, text) in STAGES.items())
    return (
        f"usage: python -m dd STAGE [options]\n\nDataset distillation, version {__version__}. "
        f"Stages:\n{stages}\n\n'python -m dd STAGE --help' explains a stage's options.\n"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one stage and return the exit status: 0 done, 1 the machine failed, 2 bad input, 130
    interrupted, 143 terminated by SIGTERM."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview(), end="")
        return 0
    if argv[0] == "--version":
        print(__version__)
        return 0
    try:
        if argv[0] not in STAGES:
            raise unknown("stage", argv[0], STAGES)
        module_name, text = STAGES[argv[0]]
        module = importlib.import_module(module_name)
        parser = Parser(prog=f"python -m dd {argv[0]}", description=(module.__doc__ or text))
        module.add_arguments(parser)
        with heeding_sigterm():
            module.run(parser.parse_args(argv[1:]))
    except DDError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 2
    except Terminated:
        print("terminated (SIGTERM); run the same command to resume", file=sys.stderr)
        return STATUS
    except KeyboardInterrupt:
        print("interrupted; run the same command to resume", file=sys.stderr)
        return 130
    except OSError as error:
        where = f"{printable(str(error.filename))}: " if error.filename else ""
        if error.errno == errno.ENOSPC:
            print(f"error: {where}the disk is full; free space and run again", file=sys.stderr)
        else:
            print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        reason = str(error).splitlines()[0] if str(error) else "the system gives no more"
        print(
            f"error: out of memory ({reason}); use a smaller batch, network or IPC", file=sys.stderr
        )
        return 1
    return 0


def _is_out_of_memory(error: Exception) -> bool:
    """Whether Python, or torch on the CPU or a GPU, raised it because memory ran out."""
    phrases = ("out of memory", "can't allocate memory")
    return isinstance(error, MemoryError) or any(phrase in str(error) for phrase in phrases)


if __name__ == "__main__":
    # a terminal that cannot show a character must not stop a job
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")
    sys.exit(main())
