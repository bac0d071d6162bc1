"""What a method needs besides the data: networks, auxiliary networks, model pools."""

from __future__ import annotations

from typing import Any

from dd.config.methods import Part
from dd.config.run import Run
from dd.errors import DDError
from dd.networks.options import auxiliaries, canonical
from dd.networks.pool import load_pool


def pool_files(run: Run, method: str) -> list[str]:
    """The file of the model pool that ``method`` draws networks from; empty without a pool."""
    pool = run.parse(method).pool
    return [run.path("pools", f"{pool}.yaml")] if pool else []


def networks(run: Run, method: str, dataset: str, ipc: int) -> list[str]:
    """Canonical specs of the networks that ``method`` distils with; empty if it uses none."""
    pools = pool_files(run, method)
    if pools:
        return [name for name, _ in load_pool(pools[0]).networks()]
    settings = run.distillation(method, dataset, ipc)
    return [canonical(settings["network"])] if "network" in settings else []


def auxiliary_networks(run: Run, method: str, dataset: str, ipc: int) -> list[str]:
    """Canonical specs of the auxiliary networks of the regulariser of ``method``.

    Empty if the method has no regulariser, or one without the setting ``auxiliary``.
    """
    parsed = run.parse(method)
    if parsed.regulariser is None:
        return []
    settings = run.part(parsed.regulariser, parsed.objective, dataset, ipc)
    return auxiliaries(settings["auxiliary"]) if "auxiliary" in settings else []


def auxiliary(run: Run, dataset: str) -> list[str]:
    """The auxiliary networks that MetaDD uses in this run unless a method sets others."""
    return auxiliaries(metadd(run, dataset)["auxiliary"])


def metadd(run: Run, dataset: str) -> dict[str, Any]:
    """The settings of MetaDD in this run unless a method or an objective sets others."""
    return run.part(Part("metadd"), "", dataset, run.axes.get("ipc", [1])[0])


def cam_rectify(run: Run) -> str:
    """How the class activation maps in all tables and figures of the run treat negative values.

    This is the value of ``rectify`` of MetaDD unless a method sets another one.

    Raises:
        DDError: if the value is not the same for all datasets.
    """
    by_dataset = {dataset: metadd(run, dataset)["rectify"] for dataset in run.datasets}
    values = list(dict.fromkeys(by_dataset.values()))
    if len(values) > 1:
        listed = ", ".join(f"{value} for {dataset}" for dataset, value in by_dataset.items())
        raise DDError(
            f"rectify of metadd is {listed}; all class activation maps of a run need the same value"
        )
    return values[0]


def seen(run: Run, method: str, dataset: str, ipc: int) -> list[str]:
    """The networks that ``method`` uses in its distillation: its own and the auxiliary ones."""
    own = networks(run, method, dataset, ipc)
    return list(dict.fromkeys([*own, *auxiliary_networks(run, method, dataset, ipc)]))


def cam_networks(run: Run) -> list[str]:
    """Canonical specs of the networks whose class activation maps the run computes.

    Raises:
        DDError: if ``cam_networks`` has an unknown network, or one twice.
    """
    if run.cam_networks:
        return auxiliaries(".".join(run.cam_networks))
    return auxiliary(run, next(iter(run.datasets)))
