"""Networks against plain loops over their parameters, and against torchvision's."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import models
from torchvision.models.vision_transformer import VisionTransformer

from dd.rng import generator
from tests.support.networks import TORCHVISION, perturbed

# Plain loops over the parameters in order. A step: c0, c1, c2 convolution with that padding,
# d convolution 3 × 3 with stride 2, i instance norm, b batch norm, y layer norm, g group norm,
# r ReLU, l leaky ReLU, s sigmoid, w swish, m max pooling, a average pooling, f flatten, n linear.


def moments_norm(x, dims, weight, bias):
    mean = x.mean(dims, keepdim=True)
    variance = (x - mean).square().mean(dims, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt() * weight + bias


def plain(steps, parameters, x):
    for step in steps.split():
        match step:
            case "c0" | "c1" | "c2":
                x = F.conv2d(x, next(parameters), next(parameters), padding=int(step[1]))
            case "i" | "b" | "g":
                weight, bias = (next(parameters)[:, None, None] for _ in range(2))
                if step == "g":
                    split = x.unflatten(1, (4, -1))
                    parts = (weight.unflatten(0, (4, -1)), bias.unflatten(0, (4, -1)))
                    x = moments_norm(split, (2, 3, 4), *parts).flatten(1, 2)
                else:
                    x = moments_norm(x, (2, 3) if step == "i" else (0, 2, 3), weight, bias)
            case "y":
                x = moments_norm(x, (1, 2, 3), next(parameters), next(parameters))
            case "r":
                x = x.clamp(min=0)
            case "l":
                x = torch.where(x > 0, x, 0.01 * x)
            case "s":
                x = 1 / (1 + (-x).exp())
            case "w":
                x = x / (1 + (-x).exp())
            case "m":
                x = x.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))
            case "a":
                x = x.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
            case "f":
                x = x.flatten(1)
            case "n":
                x = x @ next(parameters).T + next(parameters)
    return x


VGG = "c1 {n} r m c1 {n} r m" + " c1 {n} r c1 {n} r m" * 3 + " f n"
PLAIN = {
    "convnet": "c1 i r a " * 3 + "f n",
    "convnet:depth=2,norm=batch,activation=leakyrelu,pooling=max": "c1 b l m " * 2 + "f n",
    "convnet:norm=layer,activation=sigmoid": "c1 y s a " * 3 + "f n",
    "convnet:norm=group,activation=swish,depth=1": "c1 g w a f n",
    "convnet:norm=none,pooling=none,depth=2": "c1 r c1 r f n",
    "mlp": "f n r n r n",
    "lenet": "c0 r m c0 r m f n r n r n",
    "alexnet": "c2 r m c2 r m c1 r c1 r c1 r m f n",
    "vgg11": VGG.format(n="i"),
    "vgg11_bn": VGG.format(n="b"),
}


@pytest.mark.parametrize("spec", PLAIN)
def test_forward_agrees_with_a_plain_loop(spec):
    network = perturbed(spec)
    x = torch.randn(3, 3, 32, 32, generator=generator(6), dtype=torch.float64)
    parameters = iter([p.detach() for p in network.parameters()])
    expected = plain(PLAIN[spec], parameters, x)
    torch.testing.assert_close(network(x).detach(), expected)
    assert next(parameters, None) is None


@pytest.mark.parametrize(
    ("spec", "steps"),
    [
        *PLAIN.items(),
        ("convnet:depth=1", "c1 i r a f n"),
        ("convnet:pooling=none", "c1 i r " * 3 + "f n"),
    ],
)
def test_mnist_is_padded_to_32_pixels(spec, steps):
    """As in DC's code, whose first convolution pads a grey image by two pixels more; the MLP alone
    takes it as it is, and so does ResNet18 below."""
    network = perturbed(spec, (28, 28), channels=1)
    x = torch.randn(3, 1, 28, 28, generator=generator(6), dtype=torch.float64)
    parameters = iter([p.detach() for p in network.parameters()])
    expected = plain(steps, parameters, x if spec == "mlp" else F.pad(x, (2, 2, 2, 2)))
    torch.testing.assert_close(network(x).detach(), expected)


@pytest.mark.parametrize("side", [32, 28])
@pytest.mark.parametrize("spec", ["resnet18", "resnet18_bn", "resnet18_ap"])
def test_resnet_agrees_with_a_plain_loop(spec, side):
    """At 28 pixels without padding, as in DC's code: maps of 28, 14, 7, 4, under AP 3."""
    network = perturbed(spec, (side, side))
    parameters = iter([p.detach() for p in network.parameters()])
    average = spec == "resnet18_ap"
    over = (0, 2, 3) if spec == "resnet18_bn" else (2, 3)

    def norm(x):
        weight, bias = (next(parameters)[:, None, None] for _ in range(2))
        return moments_norm(x, over, weight, bias)

    def conv(x, halve=False):
        """Strided, or (AP) at full resolution: the caller pools where AP does."""
        kernel = next(parameters)
        x = F.conv2d(x, kernel, padding=kernel.shape[-1] // 2)
        return x[:, :, ::2, ::2] if halve and not average else x

    def pool(x):
        return F.avg_pool2d(x, 2) if average else x

    x = torch.randn(2, 3, side, side, generator=generator(7), dtype=torch.float64)
    out = norm(conv(x)).clamp(min=0)
    for halve in [False, False, True, False, True, False, True, False]:
        inner = norm(conv(out, halve)).clamp(min=0)
        inner = norm(conv(pool(inner) if halve else inner))
        if halve:
            short = conv(out, halve)
            out = norm(pool(short))
        out = (inner + out).clamp(min=0)
    assert out.shape[2:] == ((3, 3) if average and side == 28 else (4, 4))
    out = out.flatten(1) if average else out.mean((2, 3))
    expected = out @ next(parameters).T + next(parameters)
    torch.testing.assert_close(network(x).detach(), expected)
    assert next(parameters, None) is None


@pytest.mark.parametrize("spec", TORCHVISION)
def test_at_full_size_they_are_torchvisions_networks(spec):
    """Ours has the parameters in the order of torchvision's, but for the class token's place."""
    ours = perturbed(spec, (224, 224)).eval()
    with torch.device("meta"):
        if spec == "vit_b_16":  # as narrow as `small` makes ours
            narrow = {"num_layers": 12, "num_heads": 12, "hidden_dim": 48, "mlp_dim": 192}
            theirs = VisionTransformer(224, 16, num_classes=10, **narrow)
        else:
            options = {"aux_logits": False, "init_weights": False} if spec == "googlenet" else {}
            theirs = getattr(models, spec.removesuffix("_tv"))(num_classes=10, **options)
        if spec in ("alexnet_tv", "vgg11_tv"):
            theirs.classifier = nn.Sequential(*copy.deepcopy(ours.hidden), nn.Linear(32, 10))
    theirs = theirs.double().to_empty(device="cpu").eval()
    values = list(ours.state_dict().values())
    if spec == "vit_b_16":
        patches, bias, token, positions, *rest = values
        values = [token[None], patches, bias, positions[None], *rest]
    for own, tensor in zip(values, theirs.state_dict().values(), strict=True):
        assert own.shape == tensor.shape
        tensor.copy_(own)
    x = torch.randn(1, 3, 224, 224, generator=generator(1), dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))


def test_vision_transformer_agrees_with_a_plain_loop():
    network = perturbed("vit:depth=2,heads=2,patch=8,width=128")
    x = torch.randn(2, 3, 32, 32, generator=generator(6), dtype=torch.float64)
    p = iter([parameter.detach() for parameter in network.parameters()])

    def norm(x):
        weight, bias = next(p), next(p)
        mean = x.mean(-1, keepdim=True)
        variance = (x - mean).square().mean(-1, keepdim=True)
        return (x - mean) / (variance + 1e-6).sqrt() * weight + bias

    def linear(x):
        return x @ next(p).T + next(p)

    kernel, bias = next(p), next(p)
    patches = [x[:, :, r : r + 8, c : c + 8] for r in range(0, 32, 8) for c in range(0, 32, 8)]
    tokens = [torch.einsum("nchw,kchw->nk", part, kernel) + bias for part in patches]
    tokens = torch.stack(tokens, 1) + next(p)
    for _ in range(2):
        parts = linear(norm(tokens)).split(8, -1)  # query, key, value; each of 8 numbers
        attended = torch.zeros_like(tokens)
        for head in range(2):
            own = slice(4 * head, 4 * head + 4)
            for n in range(2):
                query, key, value = (part[n, :, own] for part in parts)
                for t in range(16):
                    shares = torch.tensor([query[t] @ key[s] / 2 for s in range(16)]).exp()
                    attended[n, t, own] = (shares.double() / shares.sum()) @ value
        tokens = tokens + linear(attended)
        inner = linear(norm(tokens))
        tokens = tokens + linear(inner * (1 + torch.erf(inner / math.sqrt(2))) / 2)
    expected = linear(norm(tokens).mean(1))
    torch.testing.assert_close(network(x).detach(), expected)
    assert next(p, None) is None
