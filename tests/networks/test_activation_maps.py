"""Activation maps against package grad-cam, values by hand, and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from dd.analyse.regions import regions
from dd.errors import DDError
from dd.networks import activation_maps as cam
from dd.networks.architectures import NETWORKS
from dd.networks.base import SpatialNetwork
from dd.networks.build import create
from dd.networks.options import RECTIFY
from dd.rng import generator

LABELS = torch.tensor([3, 0, 7, 7])


def small(spec, size=(32, 32), dtype=torch.float32, seed=0):
    network = create(spec, 3, size, 10, generator=generator(seed), width_factor=1 / 8)
    network = network.to(dtype).requires_grad_(False)
    for layer in network.modules():  # as training leaves it: not the identity
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    network.train()(pictures(size, dtype, seed=4))
    return network.eval()


def pictures(size=(32, 32), dtype=torch.float32, seed=3):
    return torch.randn(4, 3, *size, generator=generator(seed), dtype=dtype)


class Tiny(SpatialNetwork):
    """Two maps of 1 × 2 positions: the image's channels as they are."""

    def __init__(self, averages):
        super().__init__((1, 2), grain=1)
        self.body, self.averages = nn.Identity(), averages
        self.classifier = nn.Linear(2 if averages else 4, 2)

    def neck(self, maps):
        return maps.mean((2, 3)) if self.averages else maps.flatten(1)


IMAGE = torch.tensor([[[[1.0, 2.0]], [[3.0, 5.0]]]])  # two channels of one row


def test_cam_by_hand():
    network = Tiny(averages=True)
    network.classifier.weight.data = torch.tensor([[1.0, 0.0], [2.75, -1.0]])
    network.classifier.bias.data = torch.tensor([0.5, 0.25])
    logits, maps = cam.activation_maps(network, IMAGE, torch.tensor([1]), "none")
    assert logits.tolist() == [[2.0, 2.75 * 1.5 - 4 + 0.25]]
    assert maps.tolist() == [[[2.75 * 1.0 - 3.0, 2.75 * 2.0 - 5.0]]]  # -0.25 and 0.5; no bias
    again, rectified = cam.activation_maps(network, IMAGE, torch.tensor([1]))
    assert torch.equal(again, logits) and rectified.tolist() == [[[0.0, 0.5]]]


def test_grad_cam_by_hand():
    network = Tiny(averages=False)
    network.classifier.weight.data = torch.tensor([[0.0, 0.0, 0.0, 0.0], [4.0, 2.0, -1.0, -2.0]])
    logits, maps = cam.activation_maps(network, IMAGE, torch.tensor([1]))
    torch.testing.assert_close(logits, network(IMAGE))
    # channels weigh (4 + 2) / 2 and (-1 - 2) / 2: 3 * 1 - 1.5 * 3 < 0 and 3 * 2 - 1.5 * 5 < 0
    assert maps.tolist() == [[[0.0, 0.0]]]
    kept = cam.activation_maps(network, IMAGE, torch.tensor([1]), "none")[1]
    assert kept.tolist() == [[[-1.5, -1.5]]]
    network.classifier.weight.data[1, 3] = -1.0  # now -1: 3 - 3 and 6 - 5
    assert cam.activation_maps(network, IMAGE, torch.tensor([1]))[1].tolist() == [[[0.0, 1.0]]]


COMPARABLE = (
    "convnet lenet alexnet alexnet_tv vgg11_tv resnet18 resnet18_ap resnet18_tv googlenet vit"
)


@pytest.mark.parametrize("spec", COMPARABLE.split())
def test_maps_are_those_of_package_grad_cam(spec):
    """Resized to the image and normalised, as the package gives them.

    On a network that averages its map of P positions Grad-CAM's weights are those of CAM divided
    by P, so that Grad-CAM = ReLU(CAM) / P. So for the mean of tokens, too.
    """
    network, images = small(spec), pictures().requires_grad_()
    tokens = spec == "vit"
    layer = network.norm if tokens else network.body
    options = {"reshape_transform": lambda t: t.mT.unflatten(2, network.grid)} if tokens else {}
    with GradCAM(network, [layer], **options) as theirs:
        expected = theirs(images, [ClassifierOutputTarget(int(y)) for y in LABELS])
    logits, maps = cam.activation_maps(network, images, LABELS)
    ours = cam.normalised(cam.resized(maps, (32, 32)))
    assert ours.amax((1, 2)).sum() >= 2  # some maps are 0 everywhere after ReLU, not all
    torch.testing.assert_close(ours, torch.from_numpy(expected), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(logits, network(images))


def test_cam_and_mean_tokens_add_up_to_the_logit():
    for spec in ("resnet18", "googlenet", "vit"):
        network = small(spec, dtype=torch.float64)
        logits, maps = cam.activation_maps(network, pictures(dtype=torch.float64), LABELS, "none")
        summed = maps.mean((1, 2)) + network.classifier.bias[LABELS]
        torch.testing.assert_close(summed, logits.gather(1, LABELS[:, None])[:, 0])


def test_patch_tokens_are_read_by_the_class_row():
    network, images = small("vit_b_16", (16, 8)), pictures((16, 8))
    logits, maps = cam.activation_maps(network, images, LABELS, "none")
    torch.testing.assert_close(logits, network(images))
    _, tokens = network.encode(images)
    row, column = 5, 3
    expected = tokens[2, row * 8 + column] @ network.classifier.weight[7]
    torch.testing.assert_close(maps[2, row, column], expected)
    assert maps.shape == (4, 16, 8)


@pytest.mark.parametrize("spec", ["lenet", "convnet", "resnet18", "vit", "vit_b_16"])
def test_one_convention_for_every_kind_of_network(spec):
    """ReLU, or none, whatever the network's map is made of."""
    network, images = small(spec), pictures()
    maps = {name: cam.activation_maps(network, images, LABELS, name)[1] for name in RECTIFY}
    assert (maps["none"] < 0).any() and (maps["none"] > 0).any()
    assert torch.equal(maps["relu"], maps["none"].clamp(min=0))
    assert torch.equal(cam.activation_maps(network, images, LABELS)[1], maps["relu"])
    shown = {name: cam.cams([network], images, LABELS, (7, 7), name)[0] for name in RECTIFY}
    for name in RECTIFY:  # ReLU comes before resizing, as in Grad-CAM
        expected = cam.normalised(cam.resized(maps[name], (7, 7)))
        torch.testing.assert_close(shown[name], expected)
    with pytest.raises(DDError, match="unknown rectification 'rely': did you mean 'relu'"):
        cam.activation_maps(network, images, LABELS, "rely")


def test_a_map_without_evidence_for_its_class():
    """Negative everywhere: under ReLU constant, so no region, no slope, a uniform distribution."""
    network, labels = Tiny(averages=True), torch.tensor([1])
    network.classifier.weight.data = torch.tensor([[1.0, 0.0], [2.0, -1.5]])
    image = torch.tensor([[[[1.0, 2.0, 4.0]], [[3.0, 5.0, 6.0]]]], requires_grad=True)
    found = {}
    for name in RECTIFY:
        shown = cam.normalised(cam.activation_maps(network, image, labels, name)[1])
        p = cam.distributions(shown, 1.0)
        (slope,) = torch.autograd.grad(p[0, 0, 0], image)
        found[name] = shown.flatten().tolist(), p.std().item(), slope.abs().sum().item()
        assert regions(shown[None], 0.5)[0].sum() == (name == "none")
    assert found["relu"] == ([0.0, 0.0, 0.0], 0.0, 0.0)
    shown, spread, slope = found["none"]
    assert shown == pytest.approx([0.4, 0.0, 1.0])  # of -2.5, -3.5 and -1
    assert spread > 0.1 and slope > 0.1


@pytest.mark.parametrize("rectify", RECTIFY)
@pytest.mark.parametrize("spec", ["lenet", "convnet", "resnet18_bn", "vit"])
def test_slopes_by_the_images_agree_with_finite_differences(spec, rectify):
    """Of maps through all that is made of them, and of logits."""
    size = (16, 16)
    networks = [small(spec, size, torch.float64, seed) for seed in (0, 1)]
    images = pictures(size, torch.float64).requires_grad_()
    direction = pictures(size, torch.float64, 9)

    def loss(x):
        looks = (cam.activation_maps(n, x, LABELS, rectify) for n in networks)
        logits, maps = zip(*looks, strict=True)
        shown = torch.stack([cam.normalised(cam.resized(m, (6, 5))) for m in maps])
        apart = cam.divergence(cam.distributions(shown, 0.3)) + cam.variance(shown)
        raw = sum(m.square().sum() for m in maps)
        return apart.sum() + raw + F.cross_entropy(sum(logits), LABELS)

    (slope,) = torch.autograd.grad(loss(images), images)
    step = 1e-7
    with torch.no_grad():  # which Grad-CAM must not mind
        ahead, behind = loss(images + step * direction), loss(images - step * direction)
    expected = (ahead - behind) / (2 * step)
    torch.testing.assert_close((slope * direction).sum(), expected, rtol=1e-5, atol=1e-7)
    assert slope.abs().amax((1, 2, 3)).min() > 0


@pytest.mark.parametrize("spec", ["lenet", "resnet18_bn", "vit"])
def test_without_gradients_the_same_maps_and_no_graph(spec):
    network, images = small(spec), pictures()
    with_graph = cam.activation_maps(network, images.clone().requires_grad_(), LABELS)
    assert all(t.requires_grad for t in with_graph)
    unneeded = cam.activation_maps(network, images, LABELS)  # frozen, constant images
    with torch.no_grad():
        without = cam.activation_maps(network, images.requires_grad_(), LABELS)
    for first, second, third in zip(with_graph, unneeded, without, strict=True):
        assert torch.equal(first, second) and torch.equal(first, third)
        assert not second.requires_grad and not third.requires_grad
    assert images.grad is None and all(p.grad is None for p in network.parameters())


def test_pieces_and_networks_are_each_alone():
    networks = [small(spec) for spec in ("convnet", "lenet", "resnet18_bn", "vit")]
    images = pictures()
    together = cam.cams(networks, images, LABELS, (9, 7), piece=3)
    assert together.shape == (4, 4, 9, 7) and not together.requires_grad
    for n, network in enumerate(networks):
        for i in range(4):
            _, maps = cam.activation_maps(network, images[i : i + 1], LABELS[i : i + 1])
            alone = cam.normalised(cam.resized(maps, (9, 7)))[0]
            torch.testing.assert_close(together[n, i], alone, rtol=1e-3, atol=1e-5)
    assert torch.equal(together, cam.cams(networks, images, LABELS, (9, 7), piece=3))


@pytest.mark.parametrize("spec", NETWORKS)
def test_every_network_but_the_mlp_has_maps(spec):
    network, images = small(spec, (8, 8)), pictures((8, 8))
    if spec != "mlp":
        maps = cam.cams([network], images, LABELS, (8, 8))
        assert maps.min() >= 0 and maps.max() <= 1 and maps.isfinite().all()
        return
    with pytest.raises(DDError, match=r"^MLP has no feature map.* networks have: alexnet, ") as e:
        cam.activation_maps(network, images, LABELS)
    assert "mlp" not in str(e.value) and "\n" not in str(e.value)
    assert all(name in str(e.value) for name in NETWORKS if name != "mlp")


def test_resizing_is_bilinear_between_the_centres():
    maps = torch.tensor([[[0.0, 4.0]]])
    assert cam.resized(maps, (1, 4)).tolist() == [[[0.0, 1.0, 3.0, 4.0]]]
    assert cam.resized(maps, (2, 2)).tolist() == [[[0.0, 4.0], [0.0, 4.0]]]


def test_normalised_maps_reach_from_0_to_1():
    maps = torch.tensor([[[[-2.0, 0.0], [2.0, -1.0]], [[5.0, 5.0], [5.0, 5.0]]]])
    expected = [[[[0.0, 0.5], [1.0, 0.25]], [[0.0, 0.0], [0.0, 0.0]]]]
    assert cam.normalised(maps).tolist() == expected
    torch.testing.assert_close(cam.normalised(1e-12 * maps), torch.tensor(expected))
    # one position brought to a grid is constant but for rounding
    rough = cam.resized(torch.full((1, 3, 3), 1 / 3) * torch.tensor([1, 1 + 2e-7, 1]), (32, 32))
    assert rough.std() > 0 and cam.normalised(rough).eq(0).all()


@pytest.mark.parametrize("value", [0.0, 5.0])
def test_a_constant_map_has_finite_slopes(value):
    maps = torch.full((2, 3, 4, 4), value, requires_grad=True)
    shown = cam.normalised(maps)
    loss = cam.divergence(cam.distributions(shown, 0.01)) + cam.variance(shown)
    (slope,) = torch.autograd.grad(loss.sum() + shown.sum(), maps)
    assert slope.eq(0).all()


def test_distributions_are_a_softmax_over_the_positions():
    maps = torch.tensor([[[0.0, math.log(2)], [math.log(3), 0.0]]])
    expected = torch.tensor([[[1.0, 4.0], [9.0, 1.0]]]) / 15
    torch.testing.assert_close(cam.distributions(maps, 0.5), expected)


def test_what_is_not_confident_is_removed():
    maps = torch.tensor([[[0.0, 0.29], [0.3, 1.0]], [[0.0, 0.0], [0.0, 0.0]]], requires_grad=True)
    left = cam.confident(maps, 0.3)
    assert torch.equal(left, torch.tensor([[[0, 0], [0.3, 1.0]], [[0, 0], [0, 0]]]))
    (slope,) = torch.autograd.grad((left * torch.tensor([[2.0, 3.0], [5.0, 7.0]])).sum(), maps)
    assert slope.tolist() == [[[0.0, 0.0], [5.0, 7.0]], [[0.0, 0.0], [0.0, 0.0]]]
    assert torch.equal(cam.confident(maps, 0.0), maps)


def test_slopes_of_confident_maps_agree_with_finite_differences():
    """By the normalised maps, each value at least 0.01 away from the threshold."""
    maps = torch.rand(3, 2, 4, 4, generator=generator(5), dtype=torch.float64)
    maps = torch.where((maps - 0.4).abs() < 0.01, 0.45, maps).requires_grad_()
    assert 0 < (maps < 0.4).sum() < maps.numel()

    def loss(x):
        return cam.divergence(cam.distributions(cam.confident(x, 0.4), 0.2)).sum()

    assert torch.autograd.gradcheck(loss, maps)
    (slope,) = torch.autograd.grad(loss(maps), maps)
    assert torch.equal(slope != 0, maps >= 0.4)


def test_divergence_by_hand():
    p = torch.tensor([[[[0.5, 0.5]], [[1.0, 0.0]]], [[[0.25, 0.75]], [[0.0, 1.0]]]])
    middle = (0.375, 0.625)
    first = sum(a * math.log(a / m) for a, m in zip((0.5, 0.5), middle, strict=True))
    second = sum(a * math.log(a / m) for a, m in zip((0.25, 0.75), middle, strict=True))
    assert cam.divergence(p).tolist() == pytest.approx([(first + second) / 2, math.log(2)])
    assert cam.divergence(p[:1]).tolist() == [0.0, 0.0]  # one network agrees with itself
    p.requires_grad_()
    (slope,) = torch.autograd.grad(cam.divergence(p).sum(), p)
    assert slope.isfinite().all()


def test_variance_is_over_networks():
    maps = torch.tensor([[[[0.0, 1.0]]], [[[1.0, 1.0]]], [[[2.0, 4.0]]]])
    assert cam.variance(maps).tolist() == pytest.approx([(2 / 3 + 2.0) / 2])


def test_regions_by_hand():
    maps = torch.tensor([[[[0.9, 0.5, 0.5, 0.1]]], [[[0.5, 0.4, 0.7, 0.2]]]])
    meta, heterogeneous = regions(maps, 0.5)
    assert meta.int().tolist() == [[[1, 0, 1, 0]]]
    assert heterogeneous.int().tolist() == [[[[0, 1, 0, 0]]], [[[0, 0, 0, 0]]]]
