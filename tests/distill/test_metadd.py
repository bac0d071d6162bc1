"""MetaDD's loss against one graph of everything, finite differences and a slow loop."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from benchmarks import metadd as benchmark
from dd.config import recipes
from dd.config.settings import build
from dd.distill.regularisers import REGULARISERS
from dd.distill.regularisers.metadd import Settings, invariance
from dd.errors import DDError
from dd.networks import activation_maps as cam
from dd.networks.activation_maps import common_grid
from dd.networks.build import create
from dd.rng import generator
from tests.support.saved import most_saved

CLASSES, IPC, SIZE = 3, 2, (16, 16)  # alexnet's map has 4 x 4 positions
SPECS = ["resnet18_bn", "alexnet", "vit"]  # one of each kind of activation map
SMOOTH = ["convnet:activation=swish,depth=1", "convnet:activation=sigmoid,depth=1,norm=none"]
CHOSEN = Settings(
    lambda_ai=0.7,
    lambda_ce=0.5,
    lambda_kl=2.0,
    compare="maps",
    temperature=0.3,
    logit_temperature=2.0,
    rectify="relu",
    confidence=0.0,
    auxiliary=".".join(SPECS),
    draw=0,
    images=0,
    grid=0,
    piece=4,
)


def frozen(specs, dtype=torch.float64, factor=0.05):
    """Networks with random weights, by spec."""
    made = {}
    for number, spec in enumerate(specs):
        network = create(spec, 2, SIZE, CLASSES, generator=generator(number), width_factor=factor)
        made[spec] = network.to(dtype).eval().requires_grad_(False)
    return made


def synthetic(dtype=torch.float64):
    """Random images ``[6, 2, 16, 16]``, two of each class."""
    images = torch.randn(CLASSES * IPC, 2, *SIZE, generator=generator(0), dtype=dtype)
    return images, torch.arange(CLASSES).repeat_interleave(IPC)


def bound(networks, **changes):
    settings = dataclasses.replace(CHOSEN, auxiliary=".".join(networks), **changes)
    return REGULARISERS["metadd"](settings, networks, generator(0, "regulariser"))


def close(found, expected, limit=1e-10):
    """Equal to ``limit`` relative to the size of the whole tensor, which is not 0."""
    assert expected.norm() > 0
    return (found - expected).norm() / expected.norm() < limit


@pytest.mark.parametrize("specs", [*itertools.combinations(SPECS, 2), SPECS], ids="+".join)
@pytest.mark.parametrize("piece", [4, 100])
def test_equal_to_one_graph(specs, piece):
    networks, (images, labels) = list(frozen(specs).values()), synthetic()
    options = {"ce": 0.5, "kl": 2.0, "temperature": 0.3, "grid": (4, 4)}
    found, metrics = invariance(networks, images, labels, piece=piece, **options)
    expected, told = benchmark.whole_graph(networks, images, labels, piece=piece, **options)
    assert close(found, expected)
    assert metrics == pytest.approx(told, rel=1e-10)
    assert metrics["ai_kl"] > 0 and metrics["cam_variance"] > 0


READINGS = {  # of the divergence: other than CHOSEN's
    "negative values stay": {"rectify": "none"},
    "confident positions": {"confidence": 0.4},
    "logits": {"compare": "logits"},
}


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("piece", [4, 100])
def test_readings_are_plain_autograd_through_all_networks_at_once(reading, piece):
    """Each written anew here, by other functions of torch."""
    networks, (images, labels) = frozen([*SPECS, "convnet"]), synthetic()
    settings = dataclasses.replace(CHOSEN, lambda_ai=1.0, piece=piece, **READINGS[reading])
    leaf, entropy, rows, shown = images.clone().requires_grad_(), 0.0, [], []
    for network in networks.values():
        logits, raw = cam.activation_maps(network, leaf, labels, settings.rectify)
        entropy = entropy + F.cross_entropy(logits, labels, reduction="sum")
        maps = F.interpolate(raw[:, None], (4, 4), mode="bilinear").flatten(1)
        maps = maps - maps.min(1, keepdim=True).values
        high = maps.max(1, keepdim=True).values
        maps = maps / high.where(high > 0, 1)  # ReLU makes some maps 0 everywhere
        shown.append(maps.detach())
        left = maps * (maps >= settings.confidence)
        rows.append(logits / 2.0 if settings.compare == "logits" else left / 0.3)
    logs = torch.stack(rows).log_softmax(-1)
    mean = logs.logsumexp(0, keepdim=True) - math.log(len(networks))
    apart = F.kl_div(mean.expand_as(logs), logs, reduction="none", log_target=True).sum(-1).mean(0)
    (expected,) = torch.autograd.grad((0.5 * entropy + 2.0 * apart.sum()) / IPC, leaf)

    regulariser = REGULARISERS["metadd"](
        dataclasses.replace(settings, auxiliary=".".join(networks)), networks, generator(0)
    )
    found, metrics = regulariser.gradient(images, labels)
    assert torch.stack(shown).amax(-1).eq(0).any() == (settings.rectify == "relu")
    assert close(found, expected)
    assert metrics["ai_kl"] == pytest.approx(apart.mean().item(), rel=1e-10)
    assert metrics["ai_ce"] == pytest.approx(entropy.item() / (4 * len(images)), rel=1e-10)
    spread = torch.stack(shown).var(0, correction=0).mean().item()  # of whole maps, always
    assert metrics["cam_variance"] == pytest.approx(spread, rel=1e-10)
    plain, _ = bound(networks, lambda_ai=1.0).gradient(images, labels)
    assert not close(found, plain, 1e-3)  # the reading is another one


@torch.no_grad()
def slow_loss(networks, images, labels, s) -> float:
    """λ L_ai, image after image, from the networks' maps or logits."""
    total = 0.0
    for image, label in zip(images[:, None], labels[:, None], strict=True):
        shares = []
        for network in networks.values():
            logits, raw = cam.activation_maps(network, image, label, s.rectify)
            odds = logits[0].exp() / logits[0].exp().sum()
            total += s.lambda_ce * -math.log(odds[label[0]])
            values = cam.normalised(cam.resized(raw, (4, 4))).flatten().tolist()
            assert all(abs(value - s.confidence) > 1e-4 for value in values if 0 < value < 1)
            values = [value if value >= s.confidence else 0.0 for value in values]
            weights = [math.exp(value / s.temperature) for value in values]
            if s.compare == "logits":
                weights = [math.exp(value / s.logit_temperature) for value in logits[0].tolist()]
            shares.append([weight / sum(weights) for weight in weights])
        mean = [sum(column) / len(shares) for column in zip(*shares, strict=True)]
        for share in shares:
            apart = sum(p * math.log(p / q) for p, q in zip(share, mean, strict=True))
            total += s.lambda_kl / len(shares) * apart
    return s.lambda_ai * total / IPC


@pytest.mark.parametrize("changes", [{}, *READINGS.values()], ids=["chosen", *READINGS])
def test_equal_to_finite_differences(changes):
    """Along a random direction, of the loss as its formula reads; smooth networks, and no value of
    a map within 0.0001 of the threshold."""
    networks, (images, labels) = frozen([*SMOOTH, "resnet18_bn"]), synthetic()
    regulariser = bound(networks, **changes)
    gradient, _ = regulariser.gradient(images, labels)
    along = torch.randn(images.shape, generator=generator(7), dtype=torch.float64)
    step = 1e-5
    ahead, behind = (
        slow_loss(networks, images + sign * step * along, labels, regulariser.settings)
        for sign in (1, -1)
    )
    assert (ahead - behind) / (2 * step) == pytest.approx((gradient * along).sum().item(), rel=1e-5)


class Passes:
    """How often images went through each of the networks."""

    def __init__(self, networks) -> None:
        self.images = [0] * len(networks)
        for number, network in enumerate(networks.values()):
            network.body.register_forward_pre_hook(lambda _, x, n=number: self.count(n, len(x[0])))

    def count(self, number: int, images: int) -> None:
        self.images[number] += images


@pytest.mark.parametrize("compare", ["maps", "logits"])
def test_parts_are_switched_off(compare):
    images, labels = synthetic()
    count = len(images)
    found = {}
    for name, changes, passes in [
        ("both", {}, 2),
        ("ce", {"lambda_kl": 0.0}, 1),
        ("kl", {"lambda_ce": 0.0}, 2),
        ("none", {"lambda_ce": 0.0, "lambda_kl": 0.0}, 0),
        ("off", {"lambda_ai": 0.0}, 0),
    ]:
        networks = frozen(SMOOTH)
        seen = Passes(networks)
        regulariser = bound(networks, compare=compare, **changes)
        found[name], metrics = regulariser.gradient(images, labels)
        assert seen.images == [passes * count] * 2, name
        assert ("ai_kl" in metrics) == (name in ("both", "kl")), name
        assert ("ai_ce" in metrics) == (passes > 0), name
    assert not found["none"].any() and not found["off"].any()
    assert close(found["ce"] + found["kl"], found["both"])
    assert found["ce"].norm() > 0 and found["kl"].norm() > 0


def test_gradient_of_an_image_falls_with_ipc():
    """L_ai sums over classes the mean over a class's images."""
    networks, (images, labels) = frozen(SMOOTH), synthetic()
    one, _ = bound(networks).gradient(images[::IPC], labels[::IPC])
    two, _ = bound(networks).gradient(images, labels)
    assert close(two[::IPC] * IPC, one)


def test_some_images_stand_for_all():
    networks, (images, labels) = frozen(SMOOTH), synthetic()
    full, _ = bound(networks).gradient(images, labels)
    some, again = bound(networks, images=4), bound(networks, images=4)
    drawn = set()
    for _ in range(5):
        gradient, _ = some.gradient(images, labels)
        seen = gradient.flatten(1).any(1)
        assert seen.sum() == 4
        assert close(gradient[seen], full[seen] * 6 / 4)
        assert torch.equal(gradient, again.gradient(images, labels)[0])
        drawn.add(tuple(seen.tolist()))
    assert len(drawn) > 1
    assert torch.equal(bound(networks, images=99).gradient(images, labels)[0], full)


def test_some_networks_stand_for_all():
    specs = [*SMOOTH, "resnet18_bn"]
    networks, (images, labels) = frozen(specs), synthetic()
    changes = {"lambda_kl": 0.0}
    each = [bound({spec: networks[spec]}, **changes).gradient(images, labels)[0] for spec in specs]
    assert close(sum(each), bound(networks, **changes).gradient(images, labels)[0])
    drawing = bound(networks, draw=1, **changes)
    seen = set()
    for _ in range(12):
        gradient, _ = drawing.gradient(images, labels)
        (number,) = [n for n in range(3) if close(gradient, 3 * each[n])]
        seen.add(number)
    assert seen == {0, 1, 2}


@pytest.mark.parametrize("compare", ["maps", "logits"])
def test_one_network_s_graph_is_alive_at_a_time(compare):
    """What autograd keeps grows with the networks by their small maps; in one graph, by all."""
    images, labels = synthetic(torch.float32)
    options = {"ce": 1.0, "kl": 1.0, "temperature": 0.3, "grid": (4, 4)}

    def kept(compute, count: int, piece: int = 6) -> int:
        shape = (2, SIZE, CLASSES)
        networks = [
            create("resnet18_bn", *shape, generator=generator(n), width_factor=0.1).eval()
            for n in range(count)
        ]
        for network in networks:
            network.requires_grad_(False)
        own = options | ({"compare": compare} if compute is invariance else {})
        return most_saved(lambda: compute(networks, images, labels, piece=piece, **own))

    two, six = kept(invariance, 2), kept(invariance, 6)
    assert 0 < two <= six < 1.05 * two
    assert kept(benchmark.whole_graph, 6) > 2.5 * kept(benchmark.whole_graph, 2) > 4 * two
    assert kept(invariance, 2, piece=3) < 0.7 * two


def test_nothing_given_is_changed():
    networks, (images, labels) = frozen(SPECS), synthetic()
    before = images.clone(), labels.clone()
    weights = [{k: v.clone() for k, v in n.state_dict().items()} for n in networks.values()]
    gradient, _ = bound(networks).gradient(images, labels)
    assert not gradient.requires_grad
    assert torch.equal(images, before[0]) and torch.equal(labels, before[1])
    for network, then in zip(networks.values(), weights, strict=True):
        assert all(torch.equal(value, then[name]) for name, value in network.state_dict().items())
        assert not any(p.grad is not None or p.requires_grad for p in network.parameters())


@pytest.mark.parametrize("spec", ["vit:depth=1,patch=8", "mlp"])
def test_networks_without_a_map(spec):
    """They serve the cross-entropy and the comparison of logits."""
    network = create(spec, 2, (8, 8), CLASSES, generator=generator(0)).eval().requires_grad_(False)
    images, labels = torch.randn(3, 2, 8, 8, generator=generator(1)), torch.arange(3)
    other = create("convnet", 2, (8, 8), CLASSES, generator=generator(0)).eval()
    options = {"temperature": 0.3, "grid": (4, 4), "piece": 4}
    with pytest.raises(DDError, match=r"(ViT sees images of 8 x 8 in one|MLP has no feature)"):
        invariance([other, network], images, labels, ce=1.0, kl=1.0, **options)
    gradient, _ = invariance([other, network], images, labels, ce=1.0, kl=0.0, **options)
    assert gradient.any()
    options |= {"ce": 0.0, "kl": 1.0, "compare": "logits"}
    gradient, metrics = invariance([other, network], images, labels, **options)
    leaf = images.clone().requires_grad_()
    logits = torch.stack([one(leaf) for one in (other, network)])
    apart = cam.divergence(cam.distributions(logits[:, :, None], 0.3))
    (expected,) = torch.autograd.grad(apart.sum(), leaf)
    assert close(gradient, expected, 1e-5)
    assert metrics["ai_kl"] == pytest.approx(apart.mean().item(), rel=1e-5)
    assert ("cam_variance" in metrics) == (spec != "mlp")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"auxiliary": "convnet"}, "at least 2 networks.*leave 1"),
        ({"draw": 1}, "at least 2 networks.*leave 1"),
        ({"draw": 4}, "draw is 4.*names 3"),
        ({"auxiliary": "convnet.convnet:width=128"}, "convnet is named twice"),
        ({"auxiliary": "convnet.resnet"}, "unknown network 'resnet'"),
        ({"temperature": 0.0}, "temperature is 0.0, it must be above 0"),
        ({"logit_temperature": 0.0}, "logit_temperature is 0.0, it must be above 0"),
        ({"compare": "logit"}, "unknown compare of metadd 'logit': did you mean 'logits'"),
        ({"rectify": "rely"}, "unknown rectify of metadd 'rely': did you mean 'relu'"),
        ({"confidence": -0.1}, "confidence is -0.1, it must be at least 0"),
        ({"confidence": 1.0}, "confidence is 1.0, it must be below 1"),
        ({"compare": "logits", "draw": 1}, "compares logits of at least 2 networks.*leave 1"),
        ({"lambda_kl": -1.0}, "lambda_kl is -1.0, it must be at least 0"),
    ],
)
def test_settings_are_checked(changes, words):
    with pytest.raises(DDError, match=words):
        build(Settings, dataclasses.asdict(CHOSEN) | changes, "metadd")


def test_recipe():
    """Every objective has settings; the networks are canonical, in the order they are named."""
    weights = set()
    for objective in ("dc", "dsa", "dm", "mtt", "iadd", "dd", "frepo", "sre2l"):
        values = recipes.resolve_part("metadd", objective, "cifar10", 10)
        settings = build(Settings, values, "metadd")
        weights.add(settings.lambda_ai)
        assert settings.lambda_ai > 0 and settings.lambda_ce == settings.lambda_kl > 0
        assert (settings.compare, settings.rectify, settings.confidence) == ("maps", "relu", 0)
    assert len(weights) > 2
    chosen = dataclasses.replace(CHOSEN, auxiliary="vit.convnet:width=64,norm=instance")
    assert REGULARISERS["metadd"].needs(chosen) == ["vit", "convnet:width=64"]


def test_common_grid():
    assert common_grid(0, (32, 32)) == (8, 8) and common_grid(0, (64, 48)) == (16, 12)
    assert common_grid(0, (8, 8)) == (4, 4) and common_grid(0, (224, 224)) == (16, 16)
    assert common_grid(5, (32, 32)) == (5, 5)


def test_benchmark_sums_up():
    rounds = [
        {
            side: {"seconds": seconds * scale, "peak_mb": {"host": 100.0 * scale}}
            for side, scale in {"whole": 2, "suite": 3}.items()
        }
        for seconds in (1.0, 3.0, 2.0)
    ]
    row = benchmark.summarise(4, rounds)
    assert row["networks"] == 4 and row["ratio"] == 1.5
    assert row["sides"]["suite"] == {"seconds": 6.0, "peak_mb": {"host": 300.0}}
