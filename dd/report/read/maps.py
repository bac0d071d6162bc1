"""Class activation maps of synthetic sets as ``python -m dd cams`` left them, and their regions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy

from dd.analyse.regions import KIND, regions
from dd.artifacts.headers import load_arrays
from dd.errors import DDError, unknown
from dd.networks.options import RELU, canonical
from dd.plan.exhibits import Exhibit
from dd.plan.needs import auxiliary, cam_networks, cam_rectify, seen

AUXILIARY, UNSEEN = "auxiliary", "unseen"
META, HETEROGENEOUS, VARIANCE = "meta_area", "heterogeneous_area", "cam_variance"


@dataclass(frozen=True)
class Maps:
    """Maps of a synthetic set.

    Attributes:
        path: of the file.
        networks: M networks, as specs.
        maps: ``[M, n, h, w]`` float32, each normalised to 0..1.
        images: ``[n]`` int64, which images of the set.
        threshold: a network looks where its map is at least this.
    """

    path: str
    networks: list[str]
    maps: numpy.ndarray
    images: numpy.ndarray
    threshold: float

    def of(self, networks: list[str]) -> numpy.ndarray:
        """The maps of ``networks``, in their order.

        Raises:
            DDError: naming one that has none here.
        """
        for name in networks:
            if name not in self.networks:
                raise DDError(f"{self.path}: {unknown('network', name, self.networks)}")
        return self.maps[[self.networks.index(name) for name in networks]]


def read(path: str, rectify: str) -> Maps:
    """The maps in the file ``path``.

    Args:
        rectify: what the run's maps do with negative values, see
            :mod:`dd.networks.activation_maps`.

    Raises:
        DDError: if it is missing, no file of ``python -m dd cams``, or its maps do otherwise.
    """
    arrays, header = load_arrays(path, KIND, ("maps", "images"))
    maps, images = arrays["maps"].astype(numpy.float32), arrays["images"]
    try:
        networks = [entry["network"] for entry in header["networks"]]
        threshold = float(header["threshold"])
    except (KeyError, TypeError, ValueError):
        raise DDError(
            f"{path}: its header names no networks; make it by `python -m dd cams`"
        ) from None
    check_rectify(path, header.get("rectify"), rectify)
    if maps.ndim != 4 or maps.shape[:2] != (len(networks), len(images)):
        raise DDError(
            f"{path}: 'maps' is {list(maps.shape)}, it must be [{len(networks)}, {len(images)}, h, "
            "w], for each network and image"
        )
    return Maps(path, networks, maps, images, threshold)


def check_rectify(path: str, found: Any, rectify: str) -> None:
    """Raise a :class:`DDError` unless ``found`` in the file ``path`` is the run's ``rectify``:
    maps of two conventions do not compare."""
    if found == rectify:
        return
    said = (
        f"rectify is '{found}', the run's is '{rectify}'"
        if found
        else "does not say what negative values of its maps became (older code kept them for some "
        "networks and not for others)"
    )
    raise DDError(f"{path}: {said}; make it again")


def convention(exhibit: Exhibit) -> str:
    """What a caption has to say of negative values of maps."""
    if cam_rectify(exhibit.run) == RELU:
        return "Negative values of all maps count as 0 (ReLU)."
    return "Maps keep their negative values (no ReLU)."


def groups(exhibit: Exhibit, dataset: str) -> dict[str, list[str]]:
    """Networks whose maps are compared, by group: ``auxiliary``, those that the run's MetaDD uses,
    and ``unseen``, those that no method of the table or figure used while distilling.

    The groups are the same for all methods, so that their numbers compare; one of a single network
    has nothing to compare and is left out.

    Raises:
        DDError: if none is left.
    """
    run = exhibit.run
    known = cam_networks(run)
    used = {canonical(name) for name in auxiliary(run, dataset)}
    for cell in exhibit.cells():
        if cell.dataset == dataset:
            used.update(seen(run, cell.method, dataset, cell.ipc))
    found = {
        AUXILIARY: [name for name in known if name in auxiliary(run, dataset)],
        UNSEEN: [name for name in known if name not in used],
    }
    found = {group: members for group, members in found.items() if len(members) > 1}
    if not found:
        raise DDError(
            f"run {run.name}: cam_networks are {', '.join(known)}: maps are compared over at least "
            "2 auxiliary networks, or 2 that nothing was distilled with"
        )
    return found


def measures(maps: numpy.ndarray, threshold: float) -> dict[str, numpy.ndarray]:
    """Of each image: the share of its area in % that all networks look at (``meta_area``) and that
    only some of them do (``heterogeneous_area``), and the variance of the maps over the networks,
    a mean over positions (``cam_variance``).

    Args:
        maps: ``[M, n, h, w]``.

    Returns:
        ``[n]`` float64 each.
    """
    meta, own = regions(maps, threshold)
    return {
        META: 100 * meta.mean((1, 2)),
        HETEROGENEOUS: 100 * own.any(0).mean((1, 2)),
        VARIANCE: maps.astype(numpy.float64).var(0).mean((1, 2)),
    }


def pooled(
    paths: list[str], networks: list[str], rectify: str
) -> tuple[dict[str, numpy.ndarray], float]:
    """:func:`measures` of all images in the files ``paths`` (the seeds of a cell), one after the
    other, and their threshold.

    Raises:
        DDError: if the files have different thresholds, or a file another ``rectify``.
    """
    files = [read(path, rectify) for path in paths]
    for file in files[1:]:
        if file.threshold != files[0].threshold:
            raise DDError(
                f"{file.path}: its threshold is {file.threshold:g}, that of {files[0].path} is "
                f"{files[0].threshold:g}; make both with one"
            )
    found = [measures(file.of(networks), file.threshold) for file in files]
    joined = {name: numpy.concatenate([values[name] for values in found]) for name in found[0]}
    return joined, files[0].threshold
