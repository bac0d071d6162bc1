"""A job starts by importing torch; stages of many jobs import nothing else that takes long."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from benchmarks.every_stage import COMMANDS, target, words
from tests.support.runs import ROOT

HEAVY = ("torch._dynamo", "torch._inductor", "sympy", "pandas", "scipy", "sklearn", "matplotlib")
NAMES = (
    "evaluate, apart", "evaluate, kd", "evaluate, soft", "pretrain", "buffer, apart", "relabel",
    "cams", "erase", "dd", "sre2l", "random",
)  # fmt: skip
PROGRAM = """
import json, sys
from dd.command import main
for name, argv in json.load(sys.stdin).items():
    assert main(argv) == 0
    found = [module for module in {heavy} if module in sys.modules]
    if found:
        sys.exit(f"{{name}} imports {{found}}")
"""


@pytest.mark.slow
def test_stages_import_nothing_heavy_but_torch(stage_files, tmp_path):
    commands = {
        name: words(COMMANDS[name], stage_files, target(COMMANDS[name], tmp_path / str(n)), "cpu")
        for n, name in enumerate(NAMES)
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(heavy=HEAVY)],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
