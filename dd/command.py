"""The command line of ``python -m dd STAGE``.

A stage is a module with ``add_arguments(parser)`` and ``run(arguments)``. Only the module of the
requested stage is imported, so ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from dd import __version__, contracts, plugins
from dd.artifacts.atomic import check_ending, check_target
from dd.config import plugin_files
from dd.errors import (
    DDError,
    is_out_of_gpu_memory,
    is_out_of_memory,
    no_memory,
    printable,
    unknown,
)
from dd.plan import jobs, measurements
from dd.runtime.caches import provide_caches
from dd.runtime.limits import near_memory_limit
from dd.runtime.preemption import Ended, heeding_signals

STAGES = {stage.stage: (stage.module, stage.summary) for stage in jobs.STAGES} | {
    "export": ("dd.exchange.export", "a synthetic set as PNG files by class, or in DC's form"),
    "configure": ("dd.plan.configure", "a run's resolved and checked configuration"),
    "estimate": ("dd.plan.estimate", "what a run takes: jobs, arithmetic, time, memory, disk"),
    "table": ("dd.report.table", "a table (CSV, Markdown, LaTeX, HTML) of a run"),
    "figure": ("dd.report.figure", "a figure (PNG, PDF) of a run"),
    "record": ("dd.report.record", "the record of a finished run: code, machines, checksums"),
    "index": ("dd.report.index", "a page that shows a finished run: README.md"),
    "verify": ("dd.report.verify", "a check of a finished run"),
    "evidence": ("dd.report.evidence", "which claims hold: the verdicts of several runs"),
    "export-metrics": ("dd.report.export_metrics", "metrics of distillations for TensorBoard"),
    "inspect": ("dd.artifacts.inspect", "a description of an artifact: kind, shapes, provenance"),
}


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the default of every option that has one, unless its help text already names it."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or "default" in (action.help or ""):
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An argparse parser with one-line errors and with defaults in its help."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", HelpFormatter)
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise DDError(f"{message} (see {self.prog} --help)")


def add_plugin_option(parser: argparse.ArgumentParser) -> None:
    """``--plugin``, for every stage."""
    parser.add_argument(
        "--plugin",
        nargs="+",
        action="extend",
        default=[],
        metavar="MODULE",
        help="modules that bring methods, networks or protocols and are not installed "
        "(docs/own.md) (default: none; installed plug-ins are found)",
    )


def add_benchmark_option(parser: argparse.ArgumentParser) -> None:
    """``--benchmark``, for the stages whose jobs the table of costs counts."""
    parser.add_argument(
        "--benchmark",
        type=Path,
        metavar="FILE",
        help="a .tsv for what the command took: wall and CPU seconds, memory (default: none)",
    )


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
    started = time.monotonic()
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview(), end="")
        return 0
    if argv[0] == "--version":
        print(__version__)
        return 0
    provide_caches()
    try:
        if argv[0] not in STAGES:
            raise unknown("stage", argv[0], STAGES)
        module_name, text = STAGES[argv[0]]
        prog = f"python -m dd {argv[0]}"
        # first, because the names that they bring are among the options of the stage
        named = Parser(prog=prog, add_help=False)
        add_plugin_option(named)
        plugins.begin()
        plugin_files.use(named.parse_known_args(argv[1:])[0].plugin)
        module = importlib.import_module(module_name)
        parser = Parser(prog=prog, description=(module.__doc__ or text))
        module.add_arguments(parser)
        add_plugin_option(parser)
        if module_name in {stage.module for stage in jobs.STAGES}:
            add_benchmark_option(parser)
        with heeding_signals():
            arguments = parser.parse_args(argv[1:])
            if benchmark := getattr(arguments, "benchmark", None):
                check_target(benchmark)
                check_ending("--benchmark", benchmark, measurements.ENDING)
            module.run(arguments)
            if benchmark:
                measurements.write(benchmark, time.monotonic() - started)
    except DDError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 2
    except Ended as ended:
        print(f"{ended.said}; run the same command to resume", file=sys.stderr)
        return ended.status
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
    except (Exception, SystemExit) as error:
        # near its limit a process fails anywhere: a library may lose a part that it has not loaded
        if isinstance(error, SystemExit) or not (is_out_of_memory(error) or near_memory_limit()):
            if message := contracts.blame(error):
                print(f"error: {message}", end="", file=sys.stderr)
                return 2
            raise
        reason = no_memory(error) or "the system gives no more"
        if not is_out_of_memory(error):
            first = str(error).partition("\n")[0]
            reason = f"near the limit of the process: {type(error).__name__}: {first}"
        more = "give the job more memory (mem_mb in the run's resources, ulimit -v)"
        if is_out_of_gpu_memory(error, surely=True):
            more = "end what else uses the GPU, take one with more memory"
        print(
            f"error: out of memory ({printable(reason)}); {more}, or use a smaller batch, network "
            "or IPC",
            file=sys.stderr,
        )
        return 1
    return 0


def run_as_process() -> int:
    """:func:`main` in a process of its own, which no character ends that its terminal lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    return main()
