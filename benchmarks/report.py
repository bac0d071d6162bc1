"""Write the result tables of README.md and docs/scaling.md from the measured JSON files.

Run it with ``python -m benchmarks.report``.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu import PARTS, wrong_graphs
from benchmarks.metadd import LABELS as METADD_LABELS
from benchmarks.unrolling import labels, peak
from dd.artifacts.text import load_json, save_text

HERE = Path(__file__).parent
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table with the first column aligned left and the others aligned right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def speed(facts: dict[str, Any]) -> str:
    """The tables of a file of :mod:`benchmarks.speed`."""
    labels = list(facts["rows"][0]["sides"])
    against = [label for label in labels if label != "suite"]
    head = ["work", *[f"{_side(label)}, s" for label in labels]]
    head += [f"speed-up over {_side(label)}" for label in against]
    head += [f"peak {_side(label)}, MB" for label in labels]
    rows = []
    for row in facts["rows"]:
        sides = row["sides"]
        line = [f"{_work(row)}: {row['unit']}"]
        line += [f"{sides[label]['seconds']:.3g}" for label in labels]
        line += [f"**{row['ratios'][label]:.2f}**" for label in against]
        line += [f"{peak(sides[label]['peak_mb']):.0f}" for label in labels]
        rows.append(line)
    scaled = [
        f"- {_work(row)}: "
        + " + ".join(
            f"{piece['occurs']} × {name} (measured {'/'.join(map(str, piece['measured'].values()))}"
            f" at a time: {'/'.join(map(_side, piece['measured']))})"
            for name, piece in row["scaled"].items()
        )
        for row in facts["rows"]
        if sum(piece["occurs"] for piece in row["scaled"].values()) > 1
    ]
    text = f"{_conditions(facts)}\n\n{table(head, rows)}"
    if not scaled:
        return text
    return text + "\n\nComposed of measured pieces, not run in full:\n\n" + "\n".join(scaled)


def choices(facts: dict[str, Any]) -> str:
    """The tables of a file of :mod:`benchmarks.choices`."""
    head = ["work", "image", "width", "apart / in turn, s", "together, s", "speed-up of together"]
    rows = [
        [
            row["work"],
            f"{row['size']} × {row['size']}",
            row["width"],
            f"{row['apart']:.3g}",
            f"{row['together']:.3g}",
            f"{row['gain']:.2f} ×",
        ]
        for row in facts["stacking"]
    ]
    chunk = table(
        ["images at once", *facts["chunk"]],
        [["seconds", *[f"{seconds:.3g}" for seconds in facts["chunk"].values()]]],
    )
    return (
        f"{_conditions(facts)} Matching: 10 classes × {facts['batch']} real images; "
        f"training: an epoch of 10 networks.\n\n{table(head, rows)}\n\n"
        f"Gradient of {facts['batch']} images of 32 × 32 in chunks:\n\n{chunk}"
    )


def optimisers(facts: dict[str, Any]) -> str:
    """The table of a file of :mod:`benchmarks.optimisers`."""
    head = ["network", "width ×", "optimiser", "step, torch's, ms", "step, suite, ms"]
    head += ["suite / torch's", "optimiser alone, torch's, ms", "optimiser alone, suite, ms"]
    rows = []
    for row in facts["rows"]:
        whole, alone = (
            {name: 1000 * seconds for name, seconds in row[what].items()}
            for what in ("step", "alone")
        )
        rows.append(
            [
                row["network"],
                f"{row['width_factor']:g}",
                {"sgd": "SGD", "adamw": "AdamW"}[row["optimizer"]],
                f"{whole['torch']:.3g}",
                f"{whole['suite']:.3g}",
                f"**{whole['suite'] / whole['torch']:.2f} ×**",
                f"{alone['torch']:.3g}",
                f"{alone['suite']:.3g}",
            ]
        )
    return f"{_conditions(facts)} Ten images of 32 × 32.\n\n{table(head, rows)}"


def starts(facts: dict[str, Any]) -> str:
    """The table of a file of :mod:`benchmarks.starts`."""
    head = ["job", "in a process of its own, s", "forked, s", "less by, s"]
    rows = [
        [
            row["command"],
            f"{row['own']:.2f}",
            f"{row['forked']:.2f}",
            f"**{row['own'] - row['forked']:.2f}**",
        ]
        for row in facts["rows"]
    ]
    return f"{_conditions(facts)}\n\n{table(head, rows)}"


def unrolling(facts: dict[str, Any]) -> str:
    """The table of a file of :mod:`benchmarks.unrolling`."""
    method = facts.get("method", "mtt")  # which older files do not say
    named = labels(method)
    whole = named["whole"]
    others = [side for side in named if side != "whole"]
    head = ["steps", *[f"{label}, s" for label in named.values()]]
    head += [f"{named[side]} / {whole}" for side in others]
    head += [f"peak {label}, MB" for label in named.values()]
    rows = []
    for row in facts["rows"]:
        ratios = {"suite": 1.0, **row["ratios"]}  # of each side to the suite
        line = [row["steps"], *[f"{row['sides'][side]['seconds']:.3g}" for side in named]]
        line += [f"**{ratios[side] / ratios['whole']:.2f} ×**" for side in others]
        rows.append(line + [f"{peak(row['sides'][side]['peak_mb']):.0f}" for side in named])
    return f"{_conditions(facts)} {method.upper()}, IPC 1, an iteration.\n\n{table(head, rows)}"


def precision(facts: dict[str, Any]) -> str:
    """The table of a file of :mod:`benchmarks.precision`."""
    lower = facts["precision"]
    head = ["work", "float32, s", f"{lower}, s", f"speed-up of {lower}"]
    head += ["peak float32, MB", f"peak {lower}, MB"]
    rows = []
    for row in facts["rows"]:
        sides = [row["sides"][side] for side in ("float32", "suite")]
        line = [f"{_work(row)}: {row['unit']}", *[f"{side['seconds']:.3g}" for side in sides]]
        line += [f"**{row['ratios']['float32']:.2f} ×**"]
        rows.append(line + [f"{peak(side['peak_mb']):.0f}" for side in sides])
    return f"{_conditions(facts)} The suite in two precisions.\n\n{table(head, rows)}"


def rounding(facts: dict[str, Any]) -> str:
    """The table of a file of :mod:`benchmarks.rounding`."""
    ways = ("float32", "bf16", "all")
    head = ["gradient", "network", "float32", "`--precision bf16`", "everything in bf16"]
    rows = [
        [row["gradient"], row["network"], *(f"{row[way]['angle']:.1e}" for way in ways)]
        for row in facts["rows"]
    ]
    real = ", ".join(f"{network} {count}" for network, count in facts["real"].items())
    return (
        f"{_conditions(facts)} 1 − cosine between a gradient and that in float64, median over "
        f"{facts['repeats']} seeds; real images of a class: {real}.\n\n{table(head, rows)}"
    )


def metadd(facts: dict[str, Any]) -> str:
    """The table of a file of :mod:`benchmarks.metadd`."""
    whole, suite = METADD_LABELS["whole"], METADD_LABELS["suite"]
    head = ["networks", f"{whole}, s", f"{suite}, s", f"{suite} / {whole}"]
    head += [f"peak {whole}, MB", f"peak {suite}, MB"]
    rows = []
    for row in facts["rows"]:
        sides = [row["sides"][side] for side in METADD_LABELS]
        line = [row["networks"], *[f"{side['seconds']:.3g}" for side in sides]]
        line += [f"**{row['ratio']:.2f} ×**"]
        rows.append(line + [f"{peak(side['peak_mb']):.0f}" for side in sides])
    return (
        f"{_conditions(facts)} MetaDD: one gradient of L_ai for {facts['images']} images of "
        f"32 × 32; auxiliary networks {facts['network']}, untrained.\n\n{table(head, rows)}"
    )


GPU = {"least": "GPU memory a job at least, GB", "whole": "at most, GB"}


def _training(facts: dict[str, Any]) -> tuple[str, str]:
    """What networks take in evaluations, one by one and side by side."""
    head = ["network", "image", "batch", "in parts, GB", "one network, GB", "all at once, GB"]
    rows = [
        [
            row["network"],
            f"{row['size']} × {row['size']}",
            row["batch"],
            *(_short(row[key] / 1e9) for key in ("least", "one", "all")),
        ]
        for row in facts["gpu_training"]
    ]
    return "GPU memory of training in an evaluation, where a network takes most:", table(head, rows)


def scaling(facts: dict[str, Any]) -> str:
    """The tables of a file of :mod:`benchmarks.scaling`."""
    rates = {
        where: statistics.median(rate for _, rate in rows) for where, rows in facts["rates"].items()
    }
    hours = [f"hours on {where}" for where in rates]

    def times(operations: float) -> list[str]:
        return [_short(operations / rate / 3600) for rate in rates.values()]

    def shared(title: str, groups: dict[str, dict[str, float]]) -> str:
        head = [title, "distillations", "PFLOP", "PFLOP of their evaluations", *hours]
        rows = [
            [
                name,
                f"{one['jobs']:,}",
                _short(one["distill"] / 1e15),
                _short(one["evaluate"] / 1e15),
                *times(one["distill"] + one["evaluate"]),
            ]
            for name, one in groups.items()
        ]
        return table(head, rows)

    stages = {name: stage for name, stage in facts["stages"].items() if stage["jobs"]}
    whole = {
        key: sum(stage[key] for stage in stages.values()) for key in ("jobs", "operations", "bytes")
    }
    by_name = facts["gpu_memory"]
    gpu = by_name | {"all": {key: max(one[key] for one in by_name.values()) for key in GPU}}
    by_stage = [
        [
            name,
            f"{stage['jobs']:,}",
            _short(stage["operations"] / 1e15),
            *times(stage["operations"]),
            *(_short(gpu[name][key] / 1e9) for key in GPU),
            _short(stage["bytes"] / 1e9),
        ]
        for name, stage in [*stages.items(), ("all", whole)]
    ]
    measured = [
        [where, work, f"{rate / 1e9:,.0f}"]
        for where, rows in facts["rates"].items()
        for work, rate in rows
    ]
    planned = [
        [f"{more} ×", f"{plan['jobs']:,}", f"{plan['seconds']:.1f}"]
        for more, plan in facts["planning"].items()
    ]
    return "\n\n".join(
        (
            f"Run `{facts['run']}`; {_conditions(facts)}",
            "By stage:",
            table(["stage", "jobs", "PFLOP", *hours, *GPU.values(), "disk, GB"], by_stage),
            *_training(facts),
            "By objective:",
            shared("objective", facts["objectives"]),
            "By dataset and IPC:",
            shared("dataset", facts["sizes"]),
            "Rates, from the rows of the speed benchmark (the hours above use their median):",
            table(["machine", "work", "GFLOP/s"], measured),
            "Planning: time of `snakemake -n` from start to end:",
            table(["datasets", "jobs", "seconds"], planned),
        )
    )


GPU_SIDES = {
    "plain": "plain",
    "plain_float32": "plain float32",
    "suite": "float32",
    "bf16": "bf16",
    "tf32": "tf32",
    "every": "all graphs kept",
}
"""Columns of seconds in the table of a GPU's rows."""


def gpu(facts: dict[str, Any]) -> str:
    """The tables of a file of :mod:`benchmarks.gpu`."""
    parts = {part: facts.get(part, {}) for part in PARTS}  # older files have fewer
    tables = [
        _ways("matching step of 10 classes", parts["matching"]),
        _ways("one CUDA graph", parts["graphs"]),
        _stacked(parts["stacking"]),
        _steps(parts["training"]),
        _rows_of_a_gpu(parts["rows"]),
        _profiles(parts["profile"]),
    ]
    return "\n\n".join((_conditions(facts) + _checked(facts), *filter(None, tables)))


def _ways(name: str, found: dict[str, Any]) -> str:
    """Seconds of work in several ways, a row for each work."""
    ways = list(dict.fromkeys(way for one in found.values() for way in one["seconds"]))
    rows = [[work, *(_seconds(one["seconds"], way) for way in ways)] for work, one in found.items()]
    return table([name, *(f"{way}, s" for way in ways)], rows) if rows else ""


def _stacked(found: dict[str, dict[str, float]]) -> str:
    """An epoch of networks in turn and together."""
    return _ways("epoch of 10 networks", {work: {"seconds": one} for work, one in found.items()})


def _steps(found: dict[str, float]) -> str:
    """A training step in several ways."""
    plain = found.get("as it is")
    rows = [
        [way, f"{seconds:.3g}", f"{plain / seconds:.2f} ×" if plain else "–"]
        for way, seconds in found.items()
    ]
    return table(["training step of a ConvNet", "seconds", "speed-up"], rows) if rows else ""


def _profiles(found: dict[str, Any]) -> str:
    """How busy a device is in each piece of a row, and with what."""
    rows = [
        [
            work,
            f"{one['seconds']:.3g}",
            f"{100 * one['busy']:.0f} %",
            f"{one['launches']:,}",
            ", ".join(f"`{kernel}` {100 * share:.0f} %" for kernel, share in one["kernels"][:3]),
        ]
        for work, one in found.items()
    ]
    head = ["piece of the suite", "seconds", "in kernels", "launches", "most of the kernels' time"]
    return table(head, rows) if rows else ""


def _rows_of_a_gpu(found: dict[str, Any]) -> str:
    """The rows of the speed benchmark in all columns that were measured."""
    measured = {side for row in found.values() for side in row["sides"]}
    columns = [side for side in GPU_SIDES if side in measured]
    over = [side for side in ("plain", "plain_float32") if side in measured]
    own = [side for side in columns if side not in (*over, "suite")]
    head = ["work", *(f"{GPU_SIDES[side]}, s" for side in columns)]
    head += [f"speed-up over {GPU_SIDES[side]}" for side in over]
    head += [
        *(f"speed-up of {GPU_SIDES[side]}" for side in own),
        *(f"peak {GPU_SIDES[side]}, MB" for side in (*over, "suite")),
    ]
    rows = []
    for row in found.values():
        ratios = row["ratios"]
        seconds = {side: one["seconds"] for side, one in row["sides"].items()}
        line = [f"{_work(row)}: {row['unit']}"]
        line += [_seconds(seconds, side) for side in columns]
        line += [f"**{ratios[side]:.2f} ×**" if side in ratios else "–" for side in over]
        line += [f"{1 / ratios[side]:.2f} ×" if side in ratios else "–" for side in own]
        peaks = {side: one["peak_mb"] for side, one in row["sides"].items()}
        line += [f"{peak(peaks[side]):.0f}" if side in peaks else "–" for side in (*over, "suite")]
        rows.append(line)
    return table(head, rows) if rows else ""


def _checked(facts: dict[str, Any]) -> str:
    """What a file of :mod:`benchmarks.gpu` says of its checks, and of what it has not measured."""
    checks = facts["checks"]
    wrong = [name for name, found in checks.items() if not found["ok"]]
    graphs = [f"graph of {name}" for name in wrong_graphs(facts)]
    said = []
    if checks:
        right = f"{len(checks) - len(wrong)} of {len(checks)}"
        said.append(f"Within tolerance of the CPU: {right} checks")
        worst = max(checks, key=lambda name: checks[name]["error"])
        error = f"{checks[worst]['error']:.1e} ({worst})"
        said.append(f"the largest error of a tensor, relative to its norm, is {error}")
    if wrong or graphs:
        said.append(f"not within tolerance: {', '.join([*wrong, *graphs])}")
    said += [f"failed: {name} ({why})" for name, why in facts["failed"].items()]
    if facts["skipped"]:
        said.append(f"left out for want of time: {', '.join(facts['skipped'])}")
    if "parts" in facts and len(facts["parts"]) < len(PARTS):
        said.append(f"only these parts were asked for: {', '.join(facts['parts'])}")
    if "asked_rows" in facts:
        said.append(f"only these rows: {', '.join(facts['asked_rows'])}")
    text = "; ".join(said)
    return f" {text[0].upper()}{text[1:]}." if text else ""


def _seconds(values: dict[str, float], name: str) -> str:
    return f"{values[name]:.3g}" if name in values else "–"


RENDERERS = {
    "gpu": gpu,
    "rounding": rounding,
    "speed": speed,
    "choices": choices,
    "optimisers": optimisers,
    "starts": starts,
    "unrolling": unrolling,
    "precision": precision,
    "metadd": metadd,
    "scaling": scaling,
}
README = HERE / "README.md"
PAGES = {"scaling": HERE.parent / "docs/scaling.md"}  # kinds of result that are not in the README


def render(folder: Path, page: Path = README) -> str:
    """All results in ``folder`` that belong on ``page``, as Markdown: one section per file, sorted
    by file name."""
    sections = []
    for path in sorted(folder.glob("*.json")):
        facts = load_json(path)
        if PAGES.get(facts["kind"], README) != page:
            continue
        section = f"### {path.stem}\n\n{RENDERERS[facts['kind']](facts)}"
        if path.with_suffix(".png").exists():
            section += f"\n\n![{path.stem}]({folder.name}/{path.stem}.png)"
        sections.append(section)
    return "\n\n".join(sections)


def updated(readme: str, results: str) -> str:
    """The page with ``results`` between its markers, in place of the old results."""
    before, _, rest = readme.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{results}\n\n{END}{rest.partition(END)[2]}"


def _conditions(facts: dict[str, Any]) -> str:
    origin = facts["provenance"]
    machine = origin["machine"]
    where = machine["gpu"] or f"{machine['cores']} cores of {machine['cpu']}"
    loads = f"{machine['load'][0]} before, {facts['load_after'][0]} after"
    threads = "thread" if facts["threads"] == 1 else "threads"
    note = f" Running at the same time: {facts['note']}." if facts["note"] else ""
    return (
        f"{where}, {facts['threads']} {threads}, torch {origin['torch']}, {machine['libc']}; code "
        f"{origin['code']}, {origin['created'][:10]}; median of {facts['repeats']}; "
        f"load average {loads}.{note}"
    )


def _short(value: float) -> str:
    """Three significant digits, then zeros as needed."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if rounded >= 100 else f"{rounded:g}"


def _side(label: str) -> str:
    return label.replace("_", " ")


def _work(row: dict[str, Any]) -> str:
    return row["work"] if row["ipc"] is None else f"{row['work']}, IPC {row['ipc']}"


def main() -> None:
    """Rewrite the results on all pages."""
    for page in (README, *PAGES.values()):
        results = render(HERE / "results", page)
        save_text(page, updated(page.read_text(encoding="utf-8"), results))


if __name__ == "__main__":
    main()
