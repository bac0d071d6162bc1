"""Parameters without a gradient, found by derivatives in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dd.networks.architectures import NETWORKS
from dd.networks.build import create
from dd.networks.inert import inert
from dd.rng import generator

SIZE = (16, 16)


def network(spec, width_factor=0.0625, size=SIZE):
    stream = generator(3, spec)
    made = create(spec, 3, size, 10, generator=stream, width_factor=width_factor)
    with torch.no_grad():  # no value is special
        for values in made.parameters():
            values += 0.2 * torch.randn(values.shape, generator=stream)
    return made.double().train()


def names(made, mask):
    """The tensors of which all parameters are in ``mask``, and those of which some are."""
    whole, some = [], []
    parts = mask.split([p.numel() for p in made.parameters()])
    for (name, _), part in zip(made.named_parameters(), parts, strict=True):
        if part.any():
            (whole if part.all() else some).append(name)
    return whole, some


# What can be read off the architectures: biases of convolutions before a norm that takes away the
# mean of each channel. Group and layer norm (of more than one channel) leave differences between
# channels; ResNets have no such bias.
CONVOLUTIONS = ["body.0.bias", "body.4.bias"]
VGG = [f"body.{n}.bias" for n in (0, 4, 8, 11, 15, 18, 22, 25)]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("convnet:depth=2", CONVOLUTIONS),
        ("convnet:depth=2,pooling=max", CONVOLUTIONS),
        ("convnet:depth=2,activation=sigmoid", CONVOLUTIONS),
        ("convnet:depth=2,norm=batch", CONVOLUTIONS),
        ("convnet:depth=2,norm=group", []),
        ("convnet:depth=2,norm=layer", []),
        ("convnet:depth=2,norm=none", []),
        ("mlp", []),
        ("lenet", []),
        ("alexnet", []),
        ("vgg11", VGG),
        ("vgg11_bn", VGG),
        ("resnet18", []),
        ("resnet18_bn", []),
        ("resnet18_ap", []),
    ],
)
def test_biases_before_a_norm_of_channels(spec, expected):
    made = network(spec)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    assert names(made, inert(made, 3, SIZE)) == (expected, [])
    after = made.state_dict()  # only a copy was looked at
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_keys_of_attention_need_no_bias():
    """Of the joint bias of queries, keys and values the third that belongs to keys."""
    made = network("vit:depth=2")
    whole, some = names(made, inert(made, 3, SIZE))
    assert whole == [] and len(some) == 2
    parts = dict(made.named_parameters())
    count = sum(parts[name].numel() // 3 for name in some)
    assert int(inert(made, 3, SIZE).sum()) == count


@pytest.mark.parametrize(
    "spec", [*(name for name in NETWORKS if "_tv" not in name and "_16" not in name),
             "convnet:norm=group", "convnet:norm=batch"],
)  # fmt: skip
def test_what_is_inert_can_be_changed_and_the_rest_cannot(spec):
    """Values of the whole mask at once, far away: same loss; a few single others: another."""
    size = (32, 32)
    made = network(spec, size=size)
    mask = inert(made, 3, size)
    parameters = list(made.parameters())
    stream = generator(5, spec)
    images = torch.randn(8, 3, *size, generator=stream, dtype=torch.float64)
    labels = torch.arange(8)
    flat = torch.nn.utils.parameters_to_vector(parameters).detach()

    def loss(values):
        torch.nn.utils.vector_to_parameters(values, parameters)
        with torch.no_grad():
            return float(F.cross_entropy(made(images), labels))

    plain = loss(flat)
    elsewhere = flat + mask * torch.randn(flat.shape, generator=stream, dtype=torch.float64)
    assert loss(elsewhere) == pytest.approx(plain, rel=1e-9)
    others = (~mask).nonzero().flatten()
    moved = flat.clone()
    moved[others] += 0.1 * torch.randn(len(others), generator=stream, dtype=torch.float64)
    assert abs(loss(moved) - plain) > 1e-4


def test_experts_do_not_move_what_is_inert(digits_file, tmp_path):
    """Rounding alone does, in float32; others move by orders of magnitude more."""
    from safetensors.torch import load_file

    from dd.command import main

    shard = tmp_path / "shard.safetensors"
    words = ["--data", str(digits_file), "--out", str(shard), "--network", "convnet"]
    numbers = ["--experts", "1", "--epochs", "3", "--lr", "0.05", "--width-factor", "0.125"]
    assert main(["buffer", *words, *numbers, "--device", "cpu", "--threads", "1"]) == 0
    path = load_file(shard)["trajectories"][0]
    made = create("convnet", 1, (8, 8), 10, generator=None, width_factor=0.125)
    mask = inert(made, 1, (8, 8))
    way = (path[-1] - path[0]).abs()
    assert 0 < int(mask.sum()) < 50
    assert way[mask].max() < 1e-5 < way[~mask].median()
