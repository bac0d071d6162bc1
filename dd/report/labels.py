"""How axes, networks and settings are called in tables and figures."""

from __future__ import annotations

from typing import Any

from dd.spec import format_value

AXES = {
    "dataset": "Dataset",
    "ipc": "IPC",
    "iterations": "Iterations",
    "setting": "Setting",
    "arch": "Architecture",
    "temperature": "Temperature",
    "variant": "Variant",
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
}


def axis_label(axis: str) -> str:
    """The heading of an axis."""
    return AXES.get(axis, axis[:1].upper() + axis[1:])


def value_label(axis: str, value: Any) -> str:
    """A value of ``axis`` as it is shown; what has no other name is shown as it is written."""
    return NETWORKS.get(str(value), str(value)) if axis == "arch" else format_value(value)
