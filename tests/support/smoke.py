"""The smoke run with changes."""

from pathlib import Path

import yaml


def write_run(folder: Path, **changes) -> Path:
    """The smoke run with ``changes``, as a file of its own."""
    document = yaml.safe_load(Path("workflow/config/runs/smoke.yaml").read_text())
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(document | changes))
    return path
