"""Layers that networks choose by name."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = Literal["instance", "batch", "layer", "group", "none"]
Activation = Literal["relu", "sigmoid", "leakyrelu", "swish"]
Pooling = Literal["avg", "max", "none"]

GROUPS = 4  # groups of group norm, as in the reference code


def conv3x3(inputs: int, outputs: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    """A 3 × 3 convolution that keeps the size (at stride 1)."""
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=bias)


def instance_norm(channels: int) -> nn.GroupNorm:
    """Affine instance norm, written as group norm with one channel per group.

    It has no running statistics, so it computes the same in training and evaluation mode. Its
    values are those of ``nn.InstanceNorm2d(channels, affine=True)``. The difference is that group
    norm also accepts maps of a single pixel in a batch of two or more images.
    """
    return nn.GroupNorm(channels, channels)


class LayerNorm(nn.LayerNorm):
    """Layer norm over whole maps ``[C, H, W]``, in elementary operations.

    torch's own kernel has a wrong second derivative under ``torch.func.vmap`` (seen in 2.15; the
    tests of gradient matching show it). Matching the gradients of all classes at once needs this
    derivative.
    """

    def forward(self, input: Tensor) -> Tensor:
        """``[N, C, H, W]`` to the same shape, in the type of the weight."""
        input = input.to(self.weight.dtype)  # a mean in bfloat16 would be too coarse
        axes = tuple(range(-len(self.normalized_shape), 0))
        centred = input - input.mean(axes, keepdim=True)
        variance = centred.square().mean(axes, keepdim=True)
        return centred * (variance + self.eps).rsqrt() * self.weight + self.bias


def normalisation(name: Norm, channels: int, size: tuple[int, int]) -> nn.Module:
    """The affine norm of a feature map ``[N, channels, *size]``; ``none`` is the identity."""
    match name:
        case "instance":
            return instance_norm(channels)
        case "batch":
            return nn.BatchNorm2d(channels)
        case "layer":
            return LayerNorm([channels, *size])
        case "group":
            return nn.GroupNorm(GROUPS, channels)
        case "none":
            return nn.Identity()


def activation(name: Activation) -> nn.Module:
    """The non-linearity; in place if the backward pass needs only the output."""
    match name:
        case "relu":
            return nn.ReLU(inplace=True)
        case "leakyrelu":
            return nn.LeakyReLU(0.01, inplace=True)
        case "sigmoid":
            return nn.Sigmoid()
        case "swish":
            return nn.SiLU()


class AveragePool(nn.Module):
    """2 × 2 average pooling with stride 2; a last row or column without a partner is left out.

    On the CPU it is a matrix product: two rows of a map, one after the other, times a matrix that
    averages their columns in pairs. torch's kernel for this memory layout takes about 2.5 times as
    long, which is a sixth of a ConvNet's training step.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``[..., H, W]`` to ``[..., H // 2, W // 2]``."""
        if x.device.type != "cpu":
            return F.avg_pool2d(x, 2)
        *outer, height, width = x.shape
        if height % 2 or width % 2:
            return self(x[..., : height // 2 * 2, : width // 2 * 2])
        pairs = torch.eye(width // 2, dtype=x.dtype).repeat_interleave(2, 0) / 4
        return x.reshape(*outer, height // 2, 2 * width) @ pairs.repeat(2, 1)


def pooling(name: Pooling) -> nn.Module:
    """2 × 2 pooling with stride 2; ``none`` is the identity."""
    match name:
        case "avg":
            return AveragePool()
        case "max":
            return nn.MaxPool2d(2)
        case "none":
            return nn.Identity()
