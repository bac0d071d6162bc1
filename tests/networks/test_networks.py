"""Networks against parameter counts of the reference, plain loops and finite differences."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import models
from torchvision.models.vision_transformer import VisionTransformer

from dd.distill.gradients import match_apart, match_together
from dd.errors import DDError
from dd.networks.architectures import NETWORKS, from_torchvision
from dd.networks.base import SpatialNetwork, count_parameters
from dd.networks.batchnorm import freeze_batch_statistics, has_batch_norm
from dd.networks.build import create
from dd.networks.init import initialise
from dd.networks.layers import LayerNorm
from dd.networks.options import canonical, parse
from dd.networks.pool import PoolDefinition
from dd.networks.source import PoolSource, SingleSource
from dd.rng import generator
from dd.training.ensemble import ensemble

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

VARIANTS = [
    "convnet:norm=batch",
    "convnet:norm=layer,pooling=max",
    "convnet:norm=group,activation=swish",
    "convnet:norm=none,activation=leakyrelu",
    "convnet:activation=sigmoid",
    "convnet:depth=2,pooling=none",
    "vit:depth=2,heads=2,patch=3,width=128",
]
SIZES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64), (3, 48, 32)]
TORCHVISION = ["alexnet_tv", "googlenet", "resnet18_tv", "vgg11_tv", "vit_b_16"]
SLOW = ("googlenet", "resnet18_tv", "vgg11_tv")  # of the same layers as others
LARGE_SIZES = SIZES[:1] + SIZES[2:3]  # for these, which take long; see also the sizes of maps below


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small(spec: str, channels: int = 3, size: tuple[int, int] = (32, 32), seed: int = 0):
    """A narrow network; of torchvision's, which are of fixed width, the hidden layers at least."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(from_torchvision, "HIDDEN", 32)
        return create(spec, channels, size, 10, generator=generator(seed), width_factor=1 / 16)


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


AVERAGES = ("resnet18", "resnet18_bn", "resnet18_tv", "googlenet")
HALVED = {  # by the pooling after the last map
    "convnet": F.avg_pool2d,
    "alexnet": F.max_pool2d,
    "vgg11": F.max_pool2d,
    "vgg11_bn": F.max_pool2d,
}
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


def perturbed(spec, size=(32, 32), channels=3):
    """A small network in float64 whose norms are not the identity."""
    network = small(spec, channels, size).double()
    rng = generator(5)
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
            parameter.add_(0.3 * noise)
    return network


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


@pytest.mark.parametrize("layer", [nn.Conv2d(8, 64, 5), nn.Linear(50, 400)], ids=["conv", "linear"])
def test_initial_values_are_uniform_with_torchs_bounds(layer):
    fan_in = layer.weight[0].numel()
    theirs = layer.weight.detach().clone()
    initialise(layer, generator(0))
    ours = layer.weight.detach()
    bound = 1 / math.sqrt(fan_in)
    for tensor, share in [(ours, 0.999), (theirs, 0.999), (layer.bias.detach(), 0.9)]:
        assert share * bound < tensor.abs().max() <= bound
    # Kolmogorov and Smirnov: the distance of two samples' distributions, at the 1e-6 level.
    points = torch.linspace(-bound, bound, 201)
    distances = [
        torch.stack([(ours <= p).float().mean() - (theirs <= p).float().mean() for p in points]),
        torch.stack([(ours <= p).float().mean() for p in points]) - torch.linspace(0, 1, 201),
    ]
    for distance, scale in zip(distances, (2, 1), strict=True):
        assert distance.abs().max() < 2.69 * math.sqrt(scale / ours.numel())
    assert not torch.equal(ours, theirs)


def test_initial_deviations_of_torchvisions_networks():
    vgg, google, vit = (
        create(spec, 3, (32, 32), 10, generator=generator(0))
        for spec in ("vgg11_tv", "googlenet", "vit")
    )
    convolution = vgg.body[-2]
    assert convolution.weight.std().item() == pytest.approx(math.sqrt(2 / (512 * 9)), rel=0.01)
    assert vgg.hidden[0].weight.std().item() == pytest.approx(math.sqrt(2 / 512), rel=0.01)
    assert convolution.bias.eq(0).all() and vgg.classifier.bias.eq(0).all()
    assert google.classifier.weight.std().item() == pytest.approx(0.01, rel=0.03)
    assert vit.positions.weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert convolution.weight.abs().max() > 3.5 * convolution.weight.std()  # not uniform


def test_norms_start_as_the_identity_and_statistics_are_reset():
    network = small("convnet:norm=batch")
    norm = network.body[1]
    network(torch.randn(4, 3, 32, 32, generator=generator(3)))
    with torch.no_grad():
        norm.weight.mul_(2)
        norm.bias.add_(1)
    before = [tensor.data_ptr() for tensor in network.state_dict().values()]
    initialise(network, generator(4))
    assert [tensor.data_ptr() for tensor in network.state_dict().values()] == before
    assert norm.weight.eq(1).all() and norm.bias.eq(0).all()
    assert norm.running_mean.eq(0).all() and norm.running_var.eq(1).all()
    assert norm.num_batches_tracked == 0


@pytest.mark.parametrize("spec", ["resnet18_bn", "resnet18_tv", "googlenet", "vit_b_16"])
def test_draws_come_from_the_generator_alone(spec):
    state = torch.get_rng_state()
    networks = [small(spec, seed=seed) for seed in (0, 0, 1)]
    initialise(networks[1], generator(0))
    assert torch.equal(torch.get_rng_state(), state)
    first, again, other = ([p.detach() for p in n.parameters()] for n in networks)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    stream = generator(0)
    initialise(networks[0], stream)
    initialise(networks[1], stream)
    assert not torch.equal(first[0], again[0])


def test_without_a_generator_all_parameters_are_zero():
    network = create("vgg11_bn", 3, (32, 32), 10, generator=None, width_factor=1 / 16)
    assert all(tensor.eq(0).all() for tensor in network.state_dict().values())


def test_a_layer_without_a_known_initialisation_is_refused():
    with pytest.raises(TypeError, match="PReLU"):
        initialise(nn.Sequential(nn.Linear(2, 2), nn.PReLU()), generator(0))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("convnet", "convnet"),
        ("convnet:norm=instance", "convnet"),
        ("convnet:width=64,depth=1", "convnet:depth=1,width=64"),
        ("convnet:pooling=none,norm=none", "convnet:norm=none,pooling=none"),
        ("mlp:width=128", "mlp"),
        ("lenet", "lenet"),
    ],
)
def test_canonical_specs(spec, expected):
    assert canonical(spec) == expected
    assert canonical(expected) == expected


def test_parse_gives_typed_values():
    given = {"depth": 1, "norm": "batch"}
    assert parse("convnet:norm=batch,depth=1") == ("convnet", given)
    assert parse("resnet18") == ("resnet18", {})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("convnt", "did you mean 'convnet'"),
        ("", "unknown network ''"),
        ("convnet:", "should read key=value"),
        ("convnet:depth", "should read key=value"),
        ("convnet:depth=", "should read key=value"),
        ("convnet:dept=3", "did you mean 'depth'"),
        ("convnet:depth=three", "whole number from 1"),
        ("convnet:depth=0", "whole number from 1"),
        ("convnet:depth=-1", "whole number from 1"),
        ("convnet:depth=1.5", "whole number from 1"),
        ("convnet:depth=1,depth=2", "depth is given twice"),
        ("convnet:norm=bacth", "did you mean 'batch'"),
        ("lenet:width=3", "lenet has no options"),
        ("convnet:norm=group,width=30", "multiple of 4"),
        ("convnet:depth=40", "depth=40"),
        ("vit:heads=5", "width=192: must be a multiple of heads=5"),
        ("vit:patch=33", "patch=33: is larger than the images, which are 32 × 32"),
    ],
)
def test_bad_specs_get_one_clear_line(spec, message):
    with pytest.raises(DDError) as caught:
        create(spec, 3, (32, 32), 10, generator=None, device="meta")
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 0}, "channels is 0"),
        ({"size": (0, 32)}, "height is 0"),
        ({"size": (32, -1)}, "width is -1"),
        ({"classes": 0}, "classes is 0"),
        ({"width_factor": 0.0}, "width_factor is 0"),
        ({"width_factor": math.nan}, "width_factor is nan"),
    ],
)
def test_numbers_must_be_positive(change, message):
    arguments = {"channels": 3, "size": (32, 32), "classes": 10, "generator": None, **change}
    with pytest.raises(DDError, match=message):
        create("convnet", **arguments)


def test_batch_norm_is_recognised():
    with_it = {spec for spec in [*NETWORKS, *VARIANTS] if has_batch_norm(small(spec))}
    torchvisions = {"resnet18_tv", "googlenet"}
    assert with_it == {"vgg11_bn", "resnet18_bn", "convnet:norm=batch"} | torchvisions


def test_frozen_statistics_are_a_blend_with_the_images():
    network = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(2, 1))
    images = torch.tensor([[[[1.0, 2.0]]], [[[3.0, 6.0]]]])  # mean 3, unbiased variance 14 / 3
    freeze_batch_statistics(network.eval(), images)
    norm = network[0]
    assert norm.running_mean.item() == pytest.approx(0.1 * 3)
    assert norm.running_var.item() == pytest.approx(0.9 + 0.1 * 14 / 3)
    assert network.training and not norm.training
    other = torch.tensor([[[[10.0, 20.0]]]])
    expected = (other - 0.3) / math.sqrt(0.9 + 1.4 / 3 + 1e-5)
    torch.testing.assert_close(norm(other), expected)
    assert norm.running_mean.item() == pytest.approx(0.3)
    norm(other).sum().backward()
    assert norm.weight.grad is not None and norm.bias.grad is not None


def test_freezing_leaves_networks_without_batch_norm_alone():
    network = small("convnet").eval()
    freeze_batch_statistics(network, torch.zeros(2, 3, 32, 32))
    assert not network.training


def test_layer_norm_is_torchs():
    ours, theirs = LayerNorm([3, 4, 5]), torch.nn.LayerNorm([3, 4, 5])
    stream = generator(0)
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, generator=stream)
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 4, 5, generator=stream)
    torch.testing.assert_close(ours(images), theirs(images))


POOL = PoolDefinition("p", "mlp", 0.5, (("lenet", 0.25), ("convnet:norm=batch", 0.25)))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (SingleSource("convnet:norm=instance,depth=1", 1, (8, 8), 10), ["convnet:depth=1"]),
        (PoolSource(POOL, 1, (8, 8), 10), ["mlp", "lenet", "convnet:norm=batch"]),
    ],
)
def test_a_source_tells_all_that_it_may_draw(source, expected):
    assert source.specs() == expected
    stream = generator(0)
    assert {source.draw(n, stream)[0] for n in range(30)} == set(expected)


def test_a_skeleton_is_of_the_shape_drawn_and_in_training_mode():
    source = PoolSource(POOL, 1, (8, 8), 10, width_factor=0.25)
    for spec in source.specs():
        skeleton = source.skeleton(spec)
        expected = create(spec, 1, (8, 8), 10, generator=None, width_factor=0.25)
        assert [(n, p.shape) for n, p in skeleton.named_parameters()] == [
            (n, p.shape) for n, p in expected.named_parameters()
        ]
        skeleton.eval()  # as evaluation leaves a network
        assert source.skeleton(spec).training


def test_a_skeleton_does_not_disturb_what_is_drawn():
    """Asking for one draws nothing, and a draw fills its values anew."""
    sources = [SingleSource("convnet:depth=1", 1, (8, 8), 10) for _ in range(2)]
    stream = generator(3)
    before = stream.get_state()
    skeleton = sources[0].skeleton("convnet:depth=1")
    assert torch.equal(stream.get_state(), before)
    with torch.no_grad():
        for parameter in skeleton.parameters():
            parameter.fill_(7.0)
    (_, drawn), (_, expected) = (
        source.draw(0, s) for source, s in zip(sources, (stream, generator(3)), strict=True)
    )
    for ours, theirs in zip(drawn.parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours, theirs)
