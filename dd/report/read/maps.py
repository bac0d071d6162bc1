"""Class activation maps of synthetic sets, from files of ``python -m dd cams``, and regions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy

from dd.analyse.regions import KIND, SHOWN, regions
from dd.artifacts.fields import NAME, NUMBER, TEXT, WHOLE, block, list_of, optional
from dd.artifacts.headers import Fields, load_arrays
from dd.errors import DDError, unknown
from dd.networks.options import RELU, canonical
from dd.plan.exhibits import Exhibit
from dd.plan.needs import auxiliary, cam_networks, cam_rectify, seen

_FIELDS: Fields = {  # of a header
    "networks": list_of(block({"network": NAME})),
    "threshold": NUMBER,
    "rectify": optional(TEXT),
    "images_per_class": optional(WHOLE),
    "set": optional(block({"ipc": optional(WHOLE)})),
}
_NEEDED = ("networks", "threshold")
AUXILIARY, UNSEEN = "auxiliary", "unseen"
META, HETEROGENEOUS, VARIANCE = "meta_area", "heterogeneous_area", "cam_variance"


@dataclass(frozen=True)
class Maps:
    """Maps of a synthetic set.

    Attributes:
        path: the file.
        networks: specs of the M networks.
        maps: ``[M, n, h, w]`` float32, each normalised to 0..1.
        images: ``[n]`` int64, the indices of the images in the set.
        threshold: a network looks where its map is at least this.
        images_per_class: the maps are of the first so many images of each class; 0: of all.
    """

    path: str
    networks: list[str]
    maps: numpy.ndarray
    images: numpy.ndarray
    threshold: float
    images_per_class: int

    def of(self, networks: list[str]) -> numpy.ndarray:
        """The maps of ``networks``, in their order.

        Raises:
            DDError: if a network has no maps; the message names it.
        """
        for name in networks:
            if name not in self.networks:
                raise DDError(f"{self.path}: {unknown('network', name, self.networks)}")
        return self.maps[[self.networks.index(name) for name in networks]]


def read(path: str, rectify: str) -> Maps:
    """The maps in the file ``path``.

    Args:
        path: the file.
        rectify: how the maps of the run treat negative values, see
            :mod:`dd.networks.activation_maps`.

    Raises:
        DDError: if the file is missing or no file of ``python -m dd cams``, or if its maps treat
            negative values in another way.
    """
    arrays, header = load_arrays(path, KIND, ("maps", "images"), fields=_FIELDS)
    if not header.keys() >= set(_NEEDED):
        raise DDError(f"{path}: its header names no networks; make it by `python -m dd cams`")
    maps, images = arrays["maps"], arrays["images"]
    if images.ndim != 1 or images.dtype != numpy.int64 or (images.size and images.min() < 0):
        raise DDError(f"{path}: 'images' must be int64 [n], positions in the set")
    networks = [entry["network"] for entry in header["networks"]]
    threshold = float(header["threshold"])
    check_rectify(path, header.get("rectify"), rectify)
    if maps.ndim != 4 or maps.shape[:2] != (len(networks), len(images)):
        raise DDError(
            f"{path}: 'maps' is {list(maps.shape)}, it must be [{len(networks)}, {len(images)}, h, "
            "w], for each network and image"
        )
    if maps.dtype.kind != "f":
        raise DDError(f"{path}: 'maps' is {maps.dtype}, it must be in floating point")
    maps = maps.astype(numpy.float32)
    if not (maps.size and maps.min() >= 0 and maps.max() <= 1):  # NaN fails this, too
        raise DDError(f"{path}: 'maps' must be values from 0 to 1")
    return Maps(path, networks, maps, images, threshold, _images_per_class(header))


def _images_per_class(header: dict[str, Any]) -> int:
    """How many images of each class have maps; 0: all. Older code did not write it, and its jobs
    took the default."""
    if (said := header.get("images_per_class")) is not None:
        return said
    return SHOWN if ((header.get("set") or {}).get("ipc") or 0) > SHOWN else 0


def check_rectify(path: str, stored: Any, rectify: str) -> None:
    """Raise a :class:`DDError` unless ``stored``, from the file ``path``, is the run's ``rectify``.

    Maps of two conventions cannot be compared.
    """
    if stored == rectify:
        return
    fault = (
        f"rectify is '{stored}', the run's is '{rectify}'"
        if stored
        else "does not say how its maps treat negative values (older code kept them for some "
        "networks and not for others)"
    )
    raise DDError(f"{path}: {fault}; make it again")


def convention(exhibit: Exhibit) -> str:
    """The sentence of a caption about negative values of maps."""
    if cam_rectify(exhibit.run) == RELU:
        return "Negative values of all maps are set to 0 (ReLU)."
    return "Maps keep their negative values (no ReLU)."


def groups(exhibit: Exhibit, dataset: str) -> dict[str, list[str]]:
    """The networks whose maps are compared, by group.

    The networks of group ``auxiliary`` are those that the run's MetaDD uses. The networks of group
    ``unseen`` were not used in the distillation by any method of the table or figure. The groups
    are the same for all methods, so that their numbers can be compared. A group with a single
    network is left out, because it has nothing to compare.

    Raises:
        DDError: if no group is left.
    """
    run = exhibit.run
    known = cam_networks(run)
    used = {canonical(name) for name in auxiliary(run, dataset)}
    for cell in exhibit.cells():
        if cell.dataset == dataset:
            used.update(seen(run, cell.method, dataset, cell.ipc))
    by_group = {
        AUXILIARY: [name for name in known if name in auxiliary(run, dataset)],
        UNSEEN: [name for name in known if name not in used],
    }
    by_group = {group: members for group, members in by_group.items() if len(members) > 1}
    if not by_group:
        raise DDError(
            f"run {run.name}: cam_networks are {', '.join(known)}: a comparison of maps needs at "
            "least 2 auxiliary networks, or 2 networks that no method used in its distillation"
        )
    return by_group


def check(exhibit: Exhibit) -> None:
    """Raise a :class:`DDError` if the run has too few networks for a comparison of maps."""
    for dataset in dict.fromkeys(cell.dataset for cell in exhibit.cells()):
        groups(exhibit, dataset)


def measures(maps: numpy.ndarray, threshold: float) -> dict[str, numpy.ndarray]:
    """Measures of the maps of each image.

    Args:
        maps: ``[M, n, h, w]``.
        threshold: a network looks where its map is at least this.

    Returns:
        ``meta_area``: the area where all networks look, in % of the image;
        ``heterogeneous_area``: the area where only some of them look, in %;
        ``cam_variance``: the variance of the maps over the networks, mean over positions;
        each ``[n]`` float64.
    """
    meta, own = regions(maps, threshold)
    return {
        META: 100 * meta.mean((1, 2)),
        HETEROGENEOUS: 100 * own.any(0).mean((1, 2)),
        VARIANCE: maps.astype(numpy.float64).var(0).mean((1, 2)),
    }


class Pooled(NamedTuple):
    """The :func:`measures` of all images in some files.

    Attributes:
        by_image: by name of the measure; ``[n]``.
        threshold: of all files.
        images_per_class: of each file in which some images have no maps, see :class:`Maps`.
    """

    by_image: dict[str, numpy.ndarray]
    threshold: float
    images_per_class: set[int]


def pooled(paths: list[str], networks: list[str], rectify: str) -> Pooled:
    """The :func:`measures` of all images in the files ``paths``.

    Args:
        paths: one file per seed of a cell; their images are concatenated.
        networks: the networks whose maps are measured.
        rectify: see :func:`read`.

    Raises:
        DDError: if the files have different thresholds, or a file has another ``rectify``.
    """
    files = [read(path, rectify) for path in paths]
    for file in files[1:]:
        if file.threshold != files[0].threshold:
            raise DDError(
                f"{file.path}: its threshold is {file.threshold:g}, that of {files[0].path} is "
                f"{files[0].threshold:g}; make both with the same threshold"
            )
    by_file = [measures(file.of(networks), file.threshold) for file in files]
    joined = {name: numpy.concatenate([m[name] for m in by_file]) for name in by_file[0]}
    return Pooled(joined, files[0].threshold, {file.images_per_class for file in files} - {0})
