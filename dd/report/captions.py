"""What captions say of the numbers shown: data, averages, settings, comparability, warnings."""

from __future__ import annotations

from typing import Any

from dd.artifacts.headers import read_header
from dd.plan.exhibits import Exhibit
from dd.plan.kinds import networks_behind
from dd.pretrain.agreement import warning
from dd.report import fallbacks


def warnings(exhibit: Exhibit) -> list[str]:
    """What has to be said of the frozen networks behind a table or figure, a sentence each: which
    are less accurate than their dataset asks.

    They are behind all that was made with them, not behind single numbers: no cell has a mark.
    """
    run = exhibit.run
    phrases = [
        warning(read_header(job.file(run)), run.datasets[job.dataset]["label"])
        for job in networks_behind(exhibit)
    ]
    return [f"Note: {phrase}." for phrase in dict.fromkeys(filter(None, phrases))]


def facts(exhibit: Exhibit, rows: list[dict[str, Any]]) -> str:
    """What a caption has to say of the numbers: data, averages, settings, comparability."""
    run, cells, sets = exhibit.run, exhibit.cells(), len(exhibit.run.seeds)
    labels = [options["label"] for options in exhibit.datasets.values()]
    sentences = [f"Dataset: {' and '.join(labels)}."]
    if run.stands_in_for:
        sentences.append(
            f"It stands in for {run.stands_in_for} in this run ({run.name}): nothing here compares "
            "with published numbers."
        )
    copies = [options["copy"] for options in exhibit.datasets.values() if "copy" in options]
    if copies and any(row["published"] is not None for row in rows):
        sentences.append(
            f"Published values are of the original images, ours of a {' and a '.join(copies)} copy."
        )
    sentences += fallbacks.of_exhibit(exhibit)
    if rows:
        sentences.append(
            f"Test accuracy in %, mean ± standard deviation over {run.networks} networks on "
            f"{'one synthetic set' if sets == 1 else f'each of {sets} synthetic sets'}."
        )
        settings = (run.evaluation(c.method, c.dataset, c.ipc, str(c.arch)) for c in cells)
        epochs = {each["epochs"] for each in settings}
        sentences.append(f"Evaluation: {' or '.join(map(str, sorted(epochs)))} epochs.")
    if any(row["diverged"] for row in rows):
        sentences.append(
            "Networks whose loss became NaN count with the accuracy of their constant answer."
        )
    if run.width_factor != 1:
        sentences.append(f"Network widths are scaled by {run.width_factor:g}, to no less than 8.")
    return " ".join(sentences)


def caption(exhibit: Exhibit) -> str:
    """What a table or figure shows and on what data, as far as its definition and run say it."""
    said = [exhibit.definition["caption"]]
    if exhibit.definition["kind"] != "listing":  # which shows nothing of the run
        accuracies = any(cell.arch is not None for cell in exhibit.cells())
        said += [facts(exhibit, [{"diverged": 0}] if accuracies else []), *warnings(exhibit)]
    return " ".join(said)
