"""The names of axes, papers, networks and settings in tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dd.config.methods import format_value

AXES = {
    "dataset": "Dataset",
    "ipc": "IPC",
    "iterations": "Iterations",
    "setting": "Setting",
    "arch": "Architecture",
    "temperature": "Temperature",
    "variant": "Variant",
}
PAPERS = {
    "modelpool": "Model Pool",
    "iadd": "IADD",
    "metadd": "MetaDD",
    "families": "Families of methods",
    "cost": "Cost",
    "evaluations": "Every network",
    "baselines": "Baselines",
    "claims": "Claims",
    "ranking": "Ranking",
}
NETWORKS = {
    "convnet": "ConvNet",
    "mlp": "MLP",
    "lenet": "LeNet",
    "alexnet": "AlexNet",
    "vgg11": "VGG11",
    "vgg11_bn": "VGG11-BN",
    "resnet18": "ResNet18",
    "resnet18_bn": "ResNet18-BN",
    "resnet18_ap": "ResNet18-AP",
    "vit": "ViT (small)",
    "alexnet_tv": "AlexNet (torchvision)",
    "googlenet": "GoogLeNet",
    "vgg11_tv": "VGG11 (torchvision)",
    "resnet18_tv": "ResNet18 (torchvision)",
    "vit_b_16": "ViT-B/16",
}
METHODS = {
    "random": "Random",
    "herding": "Herding",
    "kcenter": "k-centre",
    "dc": "DC",
    "dsa": "DSA",
    "dm": "DM",
    "mtt": "MTT",
    "iadd": "IADD",
    "full": "Full dataset",
    "dd": "DD",
    "frepo": "FRePo",
    "sre2l": "SRe2L",
    "glad": "GLaD",
    "metadd": "MetaDD",
}
VALUES = {"arch": NETWORKS, "method": METHODS, "weights": {"none": "none (MTT)"}}
SETTINGS = {
    "iterations": "Iterations",
    "student_steps": "Student steps J",
    "expert_epochs": "Expert epochs K",
    "max_start_epoch": "Max start epoch",
    "batch_syn": "Synthetic batch (images)",
    "lr_img": "lr of images",
    "lr_student": "Initial student lr α",
    "lr_lr": "lr of α",
    "lr_weights": "lr of W",
    "lr_softmax": "lr of v (normalised)",
    "lr_layer": "lr of v (layer)",
    "whitening": "Whitening",
    "experts": "Experts",
    "buffer.epochs": "Expert training (epochs)",
    "buffer.lr": "Expert lr",
    "buffer.batch": "Expert batch (images)",
    "buffer.augment": "Expert augmentation",
}


def axis_label(axis: str) -> str:
    """The heading of an axis."""
    return AXES.get(axis, axis[:1].upper() + axis[1:])


def paper_label(paper: str) -> str:
    """The name of the paper to which a table or figure belongs."""
    return PAPERS.get(paper, paper)


def value_label(axis: str, value: Any) -> str:
    """The label of a value of ``axis``; a value without a label is shown as written.

    Each part of a method has its own label and settings: ``dm+metadd@lambda_kl=0`` becomes DM +
    MetaDD (lambda_kl=0). What follows a space stays as written: ``dd (trained)``, DD (trained).
    """
    known = VALUES.get(axis, {})
    name, colon, options = str(value).partition(":")
    if axis == "arch" and colon:
        return f"{known.get(name, name)}, {options.replace(',', ', ')}"
    if axis == "method" and any(sign in str(value) for sign in "+@ "):
        return " + ".join(_part(part) for part in str(value).split("+"))
    return known.get(str(value), format_value(value))


def in_words(axes: Sequence[str], values: Sequence[Any]) -> str:
    """Values on ``axes`` as text for a caption: ``IPC 10, 1000 iterations``."""
    words = []
    for axis, value in zip(axes, values, strict=True):
        shown = value_label(axis, value)
        if axis == "iterations":
            shown = f"{shown} iterations"
        elif axis == "ipc":
            shown = f"{axis_label(axis)} {shown}"
        words.append(shown)
    return ", ".join(words)


def in_rule(rule: Mapping[str, Sequence[Any]]) -> str:
    """A rule that leaves cells out, as text: ``IPC 10, Architecture VGG11 or ResNet18``."""
    return ", ".join(
        f"{axis_label(axis)} {' or '.join(value_label(axis, value) for value in values)}"
        for axis, values in rule.items()
    )


def _part(text: str) -> str:
    """A part of a method: its label, then any text after a space, then its settings in brackets."""
    part, _, settings = text.partition("@")
    word, gap, rest = part.partition(" ")
    shown = f"{METHODS.get(word, word)}{gap}{rest}"
    return f"{shown} ({settings.replace(',', ', ')})" if settings else shown


def setting_label(name: str) -> str:
    """The heading of a setting; settings of a buffer are called ``buffer.<name>``."""
    return SETTINGS.get(name, name)
