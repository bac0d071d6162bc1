"""Commands as a person would type them, with names for files."""

from __future__ import annotations

import shlex

from dd.command import main


def run(command):
    """Exit status of a command, in this process."""
    return main(shlex.split(command))


DISTILL = (
    "distill --data {data} --objective {o} --ipc 1 --snapshots 2 --width-factor 0.05 --out OUT"
)
DM, DC = DISTILL.replace("{o}", "dm"), DISTILL.replace("{o}", "dc")
EVALUATE = "evaluate --data {data} --arch mlp --networks 1 --epochs 1 --out OUT/e.csv"
HARD = EVALUATE + " --synthetic {set}"
DIGITS = "prepare --source digits --out OUT/x.safetensors"


def command(template, files, out):
    """The argument list of a case."""
    names = {path.stem: path for path in files.glob("*.safetensors")}
    names |= {"files": files, "file": files / "file", "folders": files / "folders"}
    argv = shlex.split(template.replace("OUT", "{out}"))
    return [word.format(**names, out=out) for word in argv]


def everything(folder):
    """Every file under ``folder`` with its size and time, to see that nothing was touched."""
    stats = {path: path.stat() for path in folder.rglob("*") if path.is_file()}
    return {path: (stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}
