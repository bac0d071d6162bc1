"""What a method needs beside the data: networks, auxiliary networks, pools."""

from __future__ import annotations

from typing import Any

from dd.config.methods import Part
from dd.config.run import Run
from dd.errors import DDError
from dd.networks.options import auxiliaries, canonical
from dd.networks.pool import load_pool


def pool_files(run: Run, method: str) -> list[str]:
    """The definition of the pool that ``method`` draws networks from, if it does."""
    pool = run.parse(method).pool
    return [run.path("pools", f"{pool}.yaml")] if pool else []


def networks(run: Run, method: str, dataset: str, ipc: int) -> list[str]:
    """The networks that ``method`` distils with, canonical; none where it uses none."""
    pools = pool_files(run, method)
    if pools:
        return [name for name, _ in load_pool(pools[0]).networks()]
    settings = run.distillation(method, dataset, ipc)
    return [canonical(settings["network"])] if "network" in settings else []


def auxiliary_networks(run: Run, method: str, dataset: str, ipc: int) -> list[str]:
    """The auxiliary networks of the regulariser of ``method``, canonical; none without one."""
    parsed = run.parse(method)
    if parsed.regulariser is None:
        return []
    settings = run.part(parsed.regulariser, parsed.objective, dataset, ipc)
    return auxiliaries(settings["auxiliary"])


def auxiliary(run: Run, dataset: str) -> list[str]:
    """The auxiliary networks that the run's MetaDD uses unless a method says otherwise."""
    return auxiliaries(metadd(run, dataset)["auxiliary"])


def metadd(run: Run, dataset: str) -> dict[str, Any]:
    """The settings that the run's MetaDD has unless a method or an objective says otherwise."""
    return run.part(Part("metadd"), "", dataset, run.axes["ipc"][0])


def cam_rectify(run: Run) -> str:
    """What all class activation maps of the run's tables and figures do with negative values, as
    its MetaDD does unless a method says otherwise.

    Raises:
        DDError: if it is not the same for all datasets.
    """
    found = {dataset: metadd(run, dataset)["rectify"] for dataset in run.datasets}
    chosen = list(dict.fromkeys(found.values()))
    if len(chosen) > 1:
        said = ", ".join(f"{value} for {dataset}" for dataset, value in found.items())
        raise DDError(f"rectify of metadd is {said}; all class activation maps of a run follow one")
    return chosen[0]


def seen(run: Run, method: str, dataset: str, ipc: int) -> list[str]:
    """The networks that ``method`` uses while it distils: its own and the auxiliary ones."""
    own = networks(run, method, dataset, ipc)
    return list(dict.fromkeys([*own, *auxiliary_networks(run, method, dataset, ipc)]))


def cam_networks(run: Run) -> list[str]:
    """The networks whose class activation maps the run measures."""
    named = run.cam_networks or auxiliary(run, next(iter(run.datasets)))
    return [canonical(name) for name in named]
