"""Every network: parameters as in the reference, sizes, derivatives, embeddings and maps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dd.distill.gradients import match_apart, match_together
from dd.networks.architectures import NETWORKS
from dd.networks.base import SpatialNetwork, count_parameters
from dd.networks.build import create
from dd.rng import generator
from dd.training.ensemble import ensemble
from tests.support.networks import TORCHVISION, VARIANTS, perturbed, small

# Counted in the public implementations of DC and its heirs.
COUNTS = [
    ("convnet", 3, 32, 10, 320_010),
    ("mlp", 3, 32, 10, 411_146),
    ("lenet", 3, 32, 10, 62_006),
    ("alexnet", 3, 32, 10, 1_872_202),
    ("vgg11", 3, 32, 10, 9_231_114),
    ("vgg11_bn", 3, 32, 10, 9_231_114),
    ("resnet18", 3, 32, 10, 11_173_962),
    ("resnet18_bn", 3, 32, 10, 11_173_962),
    ("resnet18_ap", 3, 32, 10, 11_250_762),
    ("convnet:depth=1", 3, 32, 10, 331_530),
    ("convnet:depth=2", 3, 32, 10, 233_610),
    ("convnet:depth=4", 3, 32, 10, 452_490),
    ("convnet:width=32", 3, 32, 10, 24_714),
    ("convnet:width=64", 3, 32, 10, 86_282),
    ("convnet:width=256", 3, 32, 10, 1_229_834),
    ("convnet:norm=none", 3, 32, 10, 319_242),
    ("convnet:norm=batch", 3, 32, 10, 320_010),
    ("convnet:norm=group", 3, 32, 10, 320_010),
    ("convnet:norm=layer", 3, 32, 10, 663_306),
    ("convnet:pooling=max", 3, 32, 10, 320_010),
    ("convnet:pooling=none", 3, 32, 10, 1_610_250),
    ("convnet", 3, 32, 100, 504_420),
    ("convnet:depth=4", 3, 64, 200, 857_160),
    ("convnet", 3, 64, 200, 857_160),  # without a depth it goes by image size
    ("convnet", 1, 28, 10, 317_706),
    ("convnet:depth=1", 1, 28, 10, 329_226),
    ("convnet:depth=2", 1, 28, 10, 231_306),
    ("convnet:depth=4", 1, 28, 10, 450_186),
    ("convnet:norm=layer", 1, 28, 10, 661_002),
    ("convnet:pooling=none", 1, 28, 10, 1_607_946),
    ("mlp", 1, 28, 10, 118_282),
    ("lenet", 1, 28, 10, 61_706),
    ("alexnet", 1, 28, 10, 1_865_802),
    ("vgg11", 1, 28, 10, 9_229_962),
    ("vgg11_bn", 1, 28, 10, 9_229_962),
    ("resnet18", 1, 28, 10, 11_172_810),
    ("resnet18_bn", 1, 28, 10, 11_172_810),
    ("resnet18_ap", 1, 28, 10, 11_213_770),
    # published by torchvision
    ("alexnet_tv", 3, 224, 1000, 61_100_840),
    ("vgg11_tv", 3, 224, 1000, 132_863_336),
    ("resnet18_tv", 3, 224, 1000, 11_689_512),
    ("googlenet", 3, 224, 1000, 6_624_904),
    ("vit_b_16", 3, 224, 1000, 86_567_656),
    ("resnet18_tv", 3, 32, 10, 11_173_962),
    # by hand: patches and positions, blocks (norms, attention, two linear layers), norm, linear
    ("vit", 3, 32, 10, 9408 + 12288 + 6 * (768 + 111168 + 37056 + 148224 + 147648) + 384 + 1930),
]
SIZES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64), (3, 48, 32)]
SLOW = ("googlenet", "resnet18_tv", "vgg11_tv")  # of the same layers as others
LARGE_SIZES = SIZES[:1] + SIZES[2:3]  # for these, which take long; see also the sizes of maps below


@pytest.mark.parametrize(("spec", "channels", "side", "classes", "count"), COUNTS)
def test_parameter_counts(spec, channels, side, classes, count):
    network = create(spec, channels, (side, side), classes, generator=None, device="meta")
    assert count_parameters(network) == count


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        (spec, shape)
        for spec in [*NETWORKS, *VARIANTS]
        for shape in (LARGE_SIZES if spec in TORCHVISION else SIZES)
    ],
    ids=str,
)
def test_any_size_and_channels_also_one_image(spec, shape):
    network = small(spec, shape[0], shape[1:])
    x = torch.randn(1, *shape, generator=generator(1), requires_grad=True)
    logits = network(x)
    assert logits.shape == (1, 10)
    assert network.embed(x).shape == (1, network.classifier.in_features)
    loss = F.cross_entropy(logits, torch.tensor([3]))
    gradients = torch.autograd.grad(loss, list(network.parameters()), create_graph=True)
    sum(g.square().sum() for g in gradients).backward()
    assert x.grad.isfinite().all() and x.grad.abs().max() > 0


@pytest.mark.parametrize("spec", [s for s in [*NETWORKS, *VARIANTS] if s not in SLOW])
def test_second_derivatives_agree_with_finite_differences(spec):
    network = small(spec, 2, (8, 8)).double()
    parameters = list(network.parameters())
    rng = generator(2)
    x = torch.randn(4, 2, 8, 8, generator=rng, dtype=torch.float64)
    direction = torch.randn(x.shape, generator=rng, dtype=torch.float64)
    labels = torch.tensor([0, 3, 3, 9])

    def gradient_size(images, create_graph):
        loss = F.cross_entropy(network(images), labels)
        gradients = torch.autograd.grad(loss, parameters, create_graph=create_graph)
        return sum(g.square().sum() for g in gradients)

    x.requires_grad_()
    (slope,) = torch.autograd.grad(gradient_size(x, create_graph=True), x)
    step = 1e-8  # networks with thousands of ReLUs have a kink within 1e-6
    ahead, behind = (gradient_size(x + s * direction, False) for s in (step, -step))
    expected = (ahead - behind) / (2 * step)
    torch.testing.assert_close((slope * direction).sum(), expected, rtol=1e-4, atol=1e-7)


AVERAGES = ("resnet18", "resnet18_bn", "resnet18_tv", "googlenet")
HALVED = {  # by the pooling after the last map
    "convnet": F.avg_pool2d,
    "alexnet": F.max_pool2d,
    "vgg11": F.max_pool2d,
    "vgg11_bn": F.max_pool2d,
}


@pytest.mark.parametrize("spec", NETWORKS)
def test_logits_come_from_the_embedding_and_it_from_the_features(spec):
    network = small(spec)
    x = torch.randn(2, 3, 32, 32, generator=generator(8))
    embedded = network.embed(x)
    torch.testing.assert_close(network(x), network.classifier(embedded))
    if not isinstance(network, SpatialNetwork):
        return  # no map to speak of
    features = network.features(x)
    assert features.dim() == 4 and len(features) == 2
    torch.testing.assert_close(network.neck(features), embedded)
    torch.testing.assert_close(network.head(features), network(x))
    assert network.averages == (spec in AVERAGES)
    if spec in AVERAGES:
        torch.testing.assert_close(embedded, features.mean((2, 3)))
    elif spec not in ("lenet", "alexnet_tv", "vgg11_tv"):  # whose necks hold layers
        pooled = HALVED[spec](features, 2) if spec in HALVED else features
        torch.testing.assert_close(embedded, pooled.flatten(1))


@pytest.mark.parametrize("spec", ["vit", "vit_b_16"])
def test_the_classifier_reads_tokens_and_the_embedding(spec):
    network = small(spec, 2, (16, 8))
    rows, columns = network.grid
    assert (rows, columns) == ((8, 4) if spec == "vit" else (16, 8))
    x = torch.randn(2, 2, 16, 8, generator=generator(8))
    embedded, tokens = network.encode(x)
    assert tokens.shape == (2, rows * columns, network.classifier.in_features)
    if spec == "vit":
        torch.testing.assert_close(embedded, tokens.mean(1))
    # row by row: without attention and positions a token knows its own patch alone
    with torch.no_grad():
        network.positions.weight.zero_()
        for block in network.blocks:
            block.first[1].output.weight.zero_()
    patch = 16 // rows
    changed = x.clone()
    changed[:, :, 5 * patch, 3 * patch] += 1  # row 5, column 3
    moved = (network.encode(changed)[1] - network.encode(x)[1]).abs().amax((0, 2)) > 1e-6
    assert moved.nonzero().tolist() == [[5 * columns + 3]]


@pytest.mark.parametrize("spec", NETWORKS)
def test_odd_sizes_are_zero_padded_around_the_image(spec):
    small_images = small(spec, 1, (28, 27))
    height, width = getattr(small_images, "padded", (28, 27))  # these, where taken as they are
    assert 28 <= height <= 32 and 27 <= width <= 32
    full = small(spec, 1, (height, width))
    full.load_state_dict(small_images.state_dict())
    x = torch.randn(2, 1, 28, 27, generator=generator(9))
    frame = torch.zeros(2, 1, height, width)
    top, left = (height - 28) // 2, (width - 27) // 2
    frame[:, :, top : top + 28, left : left + 27] = x
    torch.testing.assert_close(small_images(x), full(frame))


@pytest.mark.parametrize(
    ("spec", "grids"),
    [
        ("alexnet_tv", {224: 13, 128: 7, 64: 15, 32: 7, 28: 13, 8: 7}),
        ("googlenet", {224: 7, 64: 8, 8: 2}),
        ("resnet18_tv", {224: 7, 128: 4, 64: 8, 32: 4, 28: 4, 8: 2}),
        ("vgg11_tv", {224: 14, 128: 8, 64: 4, 32: 2, 28: 2, 8: 2}),
        ("vit", {224: 7, 128: 8, 64: 8, 32: 8, 28: 7, 8: 4}),
        ("vit_b_16", {224: 14, 128: 16, 64: 16, 32: 16, 28: 14, 8: 8}),
    ],
)
def test_maps_are_large_enough_to_look_at(spec, grids):
    for side, expected in grids.items():
        network = create(spec, 3, (side, side), 10, generator=None, device="meta")
        x = torch.zeros(1, 3, side, side, device="meta")
        grid = network.features(x).shape[2:] if hasattr(network, "features") else network.grid
        assert tuple(grid) == (expected, expected)


@pytest.mark.parametrize("spec", ["alexnet_tv", "vit"])
def test_classes_at_once_are_each_alone_also_in_second_derivatives(spec):
    """Gradient matching of all classes by ``vmap``."""
    network = perturbed(spec, (8, 8))
    rng = generator(2)
    real, synthetic = (
        torch.randn(2, count, 3, 8, 8, generator=rng, dtype=torch.float64) for count in (3, 2)
    )
    expected, slopes = match_apart(network, list(real), list(synthetic))
    together, slope = match_together(network, real, synthetic)
    torch.testing.assert_close(together, expected)
    torch.testing.assert_close(slope, torch.stack(slopes))


@pytest.mark.parametrize("spec", ["googlenet", "vit_b_16"])
def test_stacked_networks_are_each_alone(spec):
    networks = [small(spec, 1, (8, 8), seed).double() for seed in (0, 1)]
    x = torch.randn(2, 3, 1, 8, 8, generator=generator(2), dtype=torch.float64)
    stack = ensemble(networks)
    together = stack.forward(x)
    slopes = torch.autograd.grad(together.square().sum(), stack.parameters)
    for n, network in enumerate(networks):
        alone = network(x[n])
        torch.testing.assert_close(together[n], alone)
        for slope, own in zip(
            slopes, torch.autograd.grad(alone.square().sum(), network.parameters()), strict=True
        ):
            torch.testing.assert_close(slope[n], own)


def test_width_factor_scales_hidden_widths_only():
    network = create("convnet", 3, (32, 32), 7, generator=None, width_factor=0.1)
    widths = [m.out_channels for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert widths == [13, 13, 13]  # 12.8
    assert network.classifier.weight.shape == (7, 13 * 16)
    tiny = create("lenet", 3, (32, 32), 7, generator=None, width_factor=0.001)
    assert [m.out_channels for m in tiny.modules() if isinstance(m, nn.Conv2d)] == [6, 8]  # least
    groups = create("convnet:norm=group", 3, (32, 32), 7, generator=None, width_factor=0.1)
    assert groups.body[0].out_channels == 12
