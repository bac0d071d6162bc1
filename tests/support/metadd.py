"""Made-up results of MetaDD."""

from pathlib import Path

import torch

from dd.artifacts.tensors import save_tensors

CONFIG = Path("workflow/config")
NETWORKS = ["resnet18_bn", "alexnet", "vit", "vgg11", "lenet"]  # three auxiliary, two unseen
RUN = {
    "title": "MetaDD on made-up numbers",
    "datasets": {"digits": {"source": "digits", "label": "digits (8x8)"}},
    "seeds": [0, 1],
    "networks": 2,
    "width_factor": 0.125,
    "axes": {"ipc": [1], "iterations": [20, 60]},
    "axes_for": {
        "metadd_cross_arch": {"method": ["dm", "dm+metadd"], "arch": ["convnet", "vit", "vgg11"]},
        "metadd_ablation": {"loss": ["DM: none", "DM: ce", "DM: kl", "DM: both"], "arch": ["vit"]},
        "metadd_auxiliary": {"arch": ["vit"]},
        "metadd_cost": {"method": ["dm", "dm+metadd"]},
        "metadd_meta_area": {"method": ["dm", "dm+metadd"]},
        "metadd_images": {"method": ["dm", "dm+metadd"]},
        "metadd_cams": {"method": ["dm", "dm+metadd"]},
        "metadd_variance": {"method": ["dm", "dm+metadd"], "iterations": [0, 20, 60]},
    },
    "cam_networks": NETWORKS,
    "recipes": {"dm": {"iterations": 60}, "metadd": {"auxiliary": "resnet18_bn.alexnet.vit"}},
    "tables": ["metadd_cross_arch", "metadd_ablation", "metadd_auxiliary", "metadd_cost",
               "metadd_meta_area"],
    "figures": ["metadd_images", "metadd_cams", "metadd_erasing", "metadd_variance"],
    "resources": {
        stage: {"threads": 1, "mem_mb": 1000, "runtime": 5}
        for stage in ("prepare", "distill", "evaluate")
    },
}  # fmt: skip
FIRST = [[[0.9, 0.6], [0.2, 0.0]], [[1.0, 0.4], [0.3, 0.0]], [[0.8, 0.0], [0.7, 0.1]],
         [[1.0, 0.9], [0.0, 0.0]], [[0.5, 0.4], [0.0, 1.0]]]  # fmt: skip
SECOND = [[[1.0, 1.0], [0.5, 0.0]]] * 5
ORIGIN = {"machine": "Linux x86_64", "device": "cpu", "threads": 2, "torch": "2.11.0"}


def save_maps(path: str, values, iteration: int, threshold: float = 0.5, **more) -> None:
    """``values [M, n, h, w]`` of the first n images of a set."""
    found = torch.tensor(values)
    facts = [{"network": name, "accuracy": 90.0, "least_accuracy": 80.0} for name in NETWORKS]
    header = {"networks": facts, "threshold": threshold, "iteration": iteration}
    header |= {"rectify": "relu"} | more
    images = torch.arange(found.shape[1])
    save_tensors(path, "cams", {"maps": found.half(), "images": images}, header)


def first_maps(seed: int) -> list:
    """Maps of three images: of seed 0 twice FIRST, else twice SECOND, then 1 in every corner."""
    same = SECOND if seed else FIRST
    return [[one, one, [[1.0, 1.0], [1.0, 1.0]]] for one in same]


def erasing_rows() -> list[dict]:
    changes = {"nothing": 0.0, "meta": -9.0, "heterogeneous": -4.0, "random": -2.0}
    return [
        {
            "dataset": "digits (8x8)", "network": name, "erased": kind,
            "role": "region network" if name in NETWORKS[:3] else "other",
            "accuracy": 90 + change + n, "difference": change * (1 + n / 4),
            "standard_error": 0.0 if kind == "nothing" else 0.5,
            "area": 0.0 if kind == "nothing" else 12.5, "images": 359, "images_changed": 300,
            "threshold": 0.5, "rectify": "relu",
        }
        for n, name in enumerate(["vgg11", *NETWORKS[:3], "lenet"])
        for kind, change in changes.items()
    ]  # fmt: skip
