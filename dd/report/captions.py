"""Sentences of captions about the numbers: data, averages, settings, comparability, warnings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from dd.artifacts.fields import NAME, PERCENT, missing
from dd.artifacts.headers import Fields, read_header
from dd.config.recipes import joined
from dd.config.run import Run
from dd.errors import DDError
from dd.plan.exhibits import Exhibit
from dd.plan.jobs import Import, Snapshot, evaluations, snapshots
from dd.plan.kinds import networks_behind
from dd.pretrain.agreement import warning
from dd.report import fallbacks
from dd.report.labels import in_rule, in_words, value_label
from dd.report.read.places import labels

_FROZEN: Fields = {"network": NAME, "accuracy": PERCENT, "least_accuracy": PERCENT}


def warnings(exhibit: Exhibit) -> list[str]:
    """One sentence for each frozen network behind a table or figure that is not accurate enough.

    The least accuracy depends on the dataset. Such a network affects everything that was made with
    it, not single numbers, so no cell has a mark.
    """
    run = exhibit.run
    phrases = [
        warning(_frozen(job.file(run)), run.datasets[job.dataset]["label"])
        for job in networks_behind(exhibit)
    ]
    return [f"Note: {phrase}." for phrase in dict.fromkeys(filter(None, phrases))]


def _frozen(path: str) -> dict[str, Any]:
    """The header of a frozen network."""
    header = read_header(path, _FROZEN)
    if name := missing(header, _FROZEN):
        raise DDError(f"{path}: its header has no '{name}'; make it by `python -m dd pretrain`")
    return header


def facts(exhibit: Exhibit, rows: list[dict[str, Any]]) -> str:
    """The sentences about the numbers: data, averages, settings, comparability."""
    run, cells = exhibit.run, exhibit.cells()
    labels = [options["label"] for options in exhibit.datasets.values()]
    sentences = [f"Dataset: {' and '.join(labels)}."]
    if run.stands_in_for:
        sentences.append(
            f"It stands in for {run.stands_in_for} in this run ({run.name}): the numbers cannot be "
            "compared with published ones."
        )
    copies = [options["copy"] for options in exhibit.datasets.values() if "copy" in options]
    published = any(row.get("published") is not None for row in rows)
    if copies and published:
        sentences.append(
            "Published values are for the original images, ours for a "
            f"{' and a '.join(copies)} copy."
        )
    sentences += in_precision(run, published)
    sentences += fallbacks.of_exhibit(exhibit)
    sentences += [*imported(exhibit), *left_out(exhibit), *cut_short(exhibit)]
    if rows:
        sentences.append(
            f"Test accuracy in %, mean ± standard deviation over {_networks(exhibit)} on "
            f"{_sets(exhibit)}."
        )
        jobs = ((job, str(c.arch)) for c in cells for job in evaluations(c, run))
        settings = (job.conditions(run, arch) for job, arch in jobs)
        epochs = {each["epochs"] for each in settings}
        sentences.append(f"Evaluation: {' or '.join(map(str, sorted(epochs)))} epochs.")
    if any(row["diverged"] for row in rows):
        sentences.append(
            "Networks whose loss became NaN are included with the accuracy of their constant "
            "answer."
        )
    if run.width_factor != 1:
        sentences.append(f"Network widths are scaled by {run.width_factor:g}, but are at least 8.")
    return " ".join(sentences)


def _networks(exhibit: Exhibit) -> str:
    """The number of networks of most cells, and the range of the other numbers."""
    run = exhibit.run
    counts = Counter(
        job.count(run, job.archs[0]) for cell in exhibit.cells() for job in evaluations(cell, run)
    )
    usual = usual_number(counts.elements(), run.networks)
    others = sorted(counts.keys() - {usual})
    networks = f"{usual} network{'s' * (usual != 1)}"
    if not others:
        return networks
    last = f" to {others[-1]}" if len(others) > 1 else ""
    return f"{networks} (in some cells {others[0]}{last})"


def usual_number(counts: Iterable[int], otherwise: int) -> int:
    """The most frequent of ``counts``, the larger one of two; ``otherwise`` if there is none."""
    found = Counter(counts)
    return max(found, key=lambda count: (found[count], count), default=otherwise)


def _sets(exhibit: Exhibit) -> str:
    sets = number_of_sets(exhibit)
    return sets if sets.startswith("one ") else f"each of {sets}"


def number_of_sets(exhibit: Exhibit) -> str:
    """``3 synthetic sets``, those of a cell; ``1 to 3`` if others published fewer for some."""
    run = exhibit.run
    counts = sorted({len(made) for cell in exhibit.cells() if (made := snapshots(cell, run))})
    if len(counts) > 1:
        return f"{counts[0]} to {counts[-1]} synthetic sets"
    sets = counts[0] if counts else len(exhibit.seeds)
    return "one synthetic set" if sets == 1 else f"{sets} synthetic sets"


def first_sets(exhibit: Exhibit) -> list[str]:
    """The sentence about which sets a figure shows that shows the first of each cell; none if there
    is but one seed. Others may have published fewer sets of some cells."""
    if len(exhibit.seeds) == 1:
        return []
    shown: dict[str, list[dict[str, Any]]] = {}
    for cell in exhibit.cells():
        if made := snapshots(cell, exhibit.run):
            first = f"seed {made[0].distillation.seed}"
            which = f"of {len(made)} synthetic sets, that of {first}"
            which = which if len(made) > 1 else f"the synthetic set of {first}"
            shown.setdefault(which, []).append(labels(exhibit, cell))
    everywhere = [at for places in shown.values() for at in places]
    several = [axis for axis in exhibit.axes if len({at[axis] for at in everywhere}) > 1]
    said = [
        which
        if len(shown) == 1
        else f"{which} ({'; '.join(in_words(several, [at[a] for a in several]) for at in places)})"
        for which, places in shown.items()
    ]
    text = "; ".join(said)
    return [f"{text[:1].upper()}{text[1:]}."]


def imported(exhibit: Exhibit) -> list[str]:
    """The sentence about whose sets a table or figure shows; none if all are of this run."""
    return imported_of(exhibit.run, _shown_sets(exhibit))


def imported_of(run: Run, sets: Iterable[Snapshot]) -> list[str]:
    """The same of any ``sets``."""
    by, others = _makers(run, sets)
    if not by:
        return []
    if not others and len(by) == 1:
        return [f"Synthetic sets {next(iter(by))}, imported."]
    said = "; ".join(f"those of {joined(list(names))} {maker}" for maker, names in by.items())
    return [f"Imported synthetic sets: {said}."]


def whose(exhibit: Exhibit) -> list[str]:
    """``sets by ...`` for each maker of imported sets in a table or figure."""
    return [
        f"sets {maker.partition(' (')[0]}"
        for maker in _makers(exhibit.run, _shown_sets(exhibit))[0]
    ]


def _shown_sets(exhibit: Exhibit) -> Iterator[Snapshot]:
    return (made for cell in exhibit.cells() for made in snapshots(cell, exhibit.run))


def _makers(run: Run, sets: Iterable[Snapshot]) -> tuple[dict[str, dict[str, None]], bool]:
    """By maker of imported sets (``by ...``) the labels of the methods; and whether there are other
    sets, too."""
    makers: dict[str, dict[str, None]] = {}
    others = False
    for made in sets:
        job = made.job(run)
        if isinstance(job, Import):
            entry = job.entry(run)
            source = f" ({entry['from']})" if "from" in entry else ""
            name = value_label("method", job.distillation.method)
            makers.setdefault(f"by {entry['by']}{source}", {})[name] = None
        else:
            others = True
    return makers, others


def left_out(exhibit: Exhibit) -> list[str]:
    """The sentence about the cells that the run leaves out of a table or figure."""
    rules = "; ".join(map(in_rule, exhibit.left_out()))
    return [f"Left out in this run: {rules}."] if rules else []


def cut_short(exhibit: Exhibit) -> list[str]:
    """The sentence of a figure over iterations that ends before the recipe of a method does."""
    run = exhibit.run
    if "iterations" not in exhibit.definition.get("layout", {}).get("x", []):
        return []
    last: dict[tuple[str, str, int], int] = {}
    for cell in exhibit.cells():
        if not run.is_imported(cell.dataset, cell.method):  # whose recipe is that of others
            made = (cell.dataset, cell.method, cell.ipc)
            last[made] = max(last.get(made, 0), cell.iterations)
    early: dict[str, dict[str, None]] = {}
    for (dataset, method, ipc), shown in last.items():
        whole = run.distillation(method, dataset, ipc)["iterations"]
        if shown < whole:
            said = f"{whole} iterations in the recipe, shown are the first {shown}"
            early.setdefault(said, {})[value_label("method", method)] = None
    return [f"{', '.join(methods)}: {said}." for said, methods in early.items()]


def in_precision(run: Run, published: bool = False) -> list[str]:
    """The sentences about the precision of a run; none for float32.

    Args:
        run: the run.
        published: whether published values stand beside its numbers.
    """
    sentences = {
        "float32": [],
        "bf16": ["Networks were trained and tested in bf16, with float32 parameters and sums."],
        "tf32": ["Networks computed in tf32."],
    }[run.precision]
    if sentences and published:
        sentences.append(f"Published values are not known to be in {run.precision}.")
    return sentences


def caption(exhibit: Exhibit) -> str:
    """The caption of a table or figure, as far as it follows from its definition and the run."""
    sentences = [exhibit.definition["caption"]]
    if exhibit.definition["kind"] != "listing":  # a listing shows no numbers of the run
        accuracies = any(cell.arch is not None for cell in exhibit.cells())
        sentences += [facts(exhibit, [{"diverged": 0}] if accuracies else []), *warnings(exhibit)]
    return " ".join(sentences)
