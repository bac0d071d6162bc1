"""Training against a plain loop; stacked against one after the other; schedules; failure."""

import pytest
import torch
import torch.nn.functional as F

from dd.contracts import Breach
from dd.data import augment
from dd.errors import DDError
from dd.networks.build import create
from dd.rng import generator
from dd.training.ensemble import Single, Stack, ensemble
from dd.training.state import load_optimizer_state, optimizer_state
from dd.training.train import (
    accuracy,
    augmented,
    cross_entropy,
    embed_all,
    shuffled,
    train,
    train_epoch,
)
from tests.support.training import recipe

IMAGES = torch.randn(12, 1, 8, 8, generator=generator(0, "images"))
LABELS = torch.arange(12) % 3
BATCHED = "convnet:width=4,norm=batch"


def networks(spec, count, double=False):
    made = [
        create(spec, 1, (8, 8), 3, generator=generator(n), width_factor=1.0) for n in range(count)
    ]
    return [network.double() for network in made] if double else made


def streams(count):
    return [generator(n, "order") for n in range(count)]


def plain_loop(network, images, labels, r, stream, phases):
    """SGD with momentum and weight decay written out; phases are (epochs, lr, forget momentum)."""
    parameters = list(network.parameters())
    momentum = None
    for epochs, lr, fresh in phases:
        momentum = None if fresh else momentum
        for _ in range(epochs):
            for indices in torch.randperm(len(images), generator=stream).split(r.batch):
                batch = images[indices]
                if r.augment != "none":
                    size = tuple(images.shape[-2:])
                    batch = augment.apply(augment.draw(r.augment, stream, len(batch), size), batch)
                loss = F.cross_entropy(network(batch), labels[indices])
                gradients = torch.autograd.grad(loss, parameters)
                with torch.no_grad():
                    steps = [
                        g + r.weight_decay * (r.decayed == "all" or p.ndim > 1) * p
                        for g, p in zip(gradients, parameters, strict=True)
                    ]
                    momentum = (
                        [s.clone() for s in steps]
                        if momentum is None
                        else [r.momentum * m + s for m, s in zip(momentum, steps, strict=True)]
                    )
                    for p, m in zip(parameters, momentum, strict=True):
                        p -= lr * m
    return network


def same(network, other, rtol=1e-9):
    for (name, value), (_, expected) in zip(
        network.state_dict().items(), other.state_dict().items(), strict=True
    ):
        torch.testing.assert_close(
            value, expected, rtol=rtol, atol=rtol, msg=f"{name}: {value} is not {expected}"
        )


@pytest.mark.parametrize(
    ("strategy", "changes"),
    [
        ("none", {}),
        ("crop_scale_rotate", {}),
        ("dc:crop_scale_rotate", {}),
        ("all:resized_flip", {}),
        ("none", {"decayed": "matrices", "weight_decay": 0.3}),
    ],
)
@pytest.mark.parametrize("together", [True, False])
def test_training_is_the_plain_loop(strategy, changes, together):
    r = recipe(augment=strategy, **changes)
    ours, theirs = networks("convnet:width=4", 2, True), networks("convnet:width=4", 2, True)
    images = IMAGES.double()
    train(ours, images, LABELS, r, streams(2), together=together)
    for network, stream in zip(theirs, streams(2), strict=True):
        plain_loop(network, images, LABELS, r, stream, [(2, 0.05, True), (2, 0.005, False)])
    for network, expected in zip(ours, theirs, strict=True):
        same(network, expected)
        assert not network.training


@pytest.mark.parametrize(
    "spec", ["convnet:width=4,norm=batch", "mlp:width=8", "lenet", "resnet18_bn"]
)
def test_together_is_in_turn(spec):
    factor = {"lenet": 1.0, "resnet18_bn": 0.05}.get(spec, 1.0)
    pairs = []
    for together in (True, False):
        made = [
            create(spec, 1, (8, 8), 3, generator=generator(n), width_factor=factor).double()
            for n in range(3)
        ]
        train(made, IMAGES.double(), LABELS, recipe(epochs=2), streams(3), together=together)
        pairs.append(made)
    for network, expected in zip(*pairs, strict=True):
        same(network, expected, rtol=1e-7)


@pytest.mark.parametrize("together", [True, False])
def test_adamw_under_a_cosine_is_the_plain_loop(together):
    """Adam with decoupled weight decay (arXiv:1711.05101, Algorithm 2), written out."""
    r = recipe(epochs=3, lr=0.01, weight_decay=0.1, optimizer="adamw", schedule="cosine")
    ours, theirs = networks("mlp:width=8", 2, True), networks("mlp:width=8", 2, True)
    train(ours, IMAGES.double(), LABELS, r, streams(2), together=together)
    for network, stream in zip(theirs, streams(2), strict=True):
        parameters, step = list(network.parameters()), 0
        first, second = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
        for rate in (0.01, 0.0075, 0.0025):
            for indices in torch.randperm(12, generator=stream).split(5):
                step += 1
                loss = F.cross_entropy(network(IMAGES[indices].double()), LABELS[indices])
                gradients = torch.autograd.grad(loss, parameters)
                with torch.no_grad():
                    for p, g, m, v in zip(parameters, gradients, first, second, strict=True):
                        m.mul_(0.9).add_(0.1 * g)
                        v.mul_(0.999).add_(0.001 * g**2)
                        p.mul_(1 - rate * 0.1)
                        p -= rate * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
    for network, expected in zip(ours, theirs, strict=True):
        same(network, expected)


def test_released_schedule_is_one_epoch_more_and_forgets_momentum():
    r = recipe(epochs=6, schedule="released")
    # the public loop: for ep in range(7), rate x 0.1 and a new optimiser after ep == 6 // 2 + 1
    assert r.phases() == [(5, 0.05, True), (2, 0.005000000000000001, True)]
    (ours,), (theirs,) = networks("mlp:width=8", 1, True), networks("mlp:width=8", 1, True)
    train([ours], IMAGES.double(), LABELS, r, streams(1))
    plain_loop(theirs, IMAGES.double(), LABELS, r, streams(1)[0], r.phases())
    same(ours, theirs)


@pytest.mark.parametrize("schedule", ["paper", "released", "cosine", "constant"])
@pytest.mark.parametrize("epochs", [0, 1, 2, 3, 300])
def test_phases_add_up(schedule, epochs):
    total = sum(count for count, _, _ in recipe(epochs=epochs, schedule=schedule).phases())
    assert total == epochs + (schedule == "released" and epochs > 0)
    assert all(count >= 0 for count, _, _ in recipe(epochs=epochs, schedule=schedule).phases())


@pytest.mark.parametrize("strategy", ["none", "crop"])
def test_each_student_has_its_own_teacher(strategy):
    """The criterion sees the logits of teacher n on what student n sees."""
    teachers = networks("mlp:width=8", 2)
    students = networks("convnet:width=4", 2)
    for teacher in teachers:
        teacher.eval()
    seen = []

    def criterion(logits, labels, guide, epoch):
        seen.append(guide.detach().clone())
        return cross_entropy(logits, labels, guide, epoch)

    r = recipe(epochs=1, batch=12, augment=strategy)
    train(
        students,
        IMAGES,
        LABELS,
        r,
        streams(2),
        criterion=criterion,
        teachers=teachers,
        together=True,
    )
    for n, stream in enumerate(streams(2)):
        batch = IMAGES[torch.randperm(12, generator=stream)]
        if strategy != "none":
            batch = augment.apply(augment.draw(strategy, stream, 12, (8, 8)), batch)
        torch.testing.assert_close(seen[n], teachers[n](batch))


def test_a_feed_and_a_guide_of_ones_own():
    """What they are asked, in order, and that training sees what they answer."""
    asked, guided = [], []

    class Views:
        def batches(self, generators, size, epoch):
            return shuffled(generators, 12, size)

        def batch(self, indices, generators, epoch):
            asked.append((epoch, indices.clone()))
            return IMAGES[indices] + epoch

    class Soft:
        def at(self, indices, batch, epoch):
            assert torch.equal(batch, IMAGES[indices] + epoch)
            return torch.full((*indices.shape, 3), float(epoch))

    def criterion(logits, labels, guide, epoch):
        assert torch.equal(labels, LABELS[asked[-1][1][0]]) and guide.eq(epoch).all()
        guided.append(len(guide))
        return cross_entropy(logits, labels, guide, epoch)

    (network,), r = networks("mlp:width=8", 1), recipe(epochs=2, augment="crop")
    train([network], Views(), LABELS, r, streams(1), criterion=criterion, guide=Soft())
    stream = streams(1)[0]  # the recipe's augmentation is not applied, nor drawn
    expected = [part for _ in range(2) for part in torch.randperm(12, generator=stream).split(5)]
    assert [epoch for epoch, _ in asked] == [0, 0, 0, 1, 1, 1] and guided == [5, 5, 2] * 2
    for (_, indices), order in zip(asked, expected, strict=True):
        assert torch.equal(indices[0], order)


def test_teachers_see_the_images_of_each_epoch_of_a_feed():
    """Also if the recipe augments nothing: the feed does it itself."""
    (teacher,), (student,) = networks("mlp:width=8", 1), networks("convnet:width=4", 1)
    teacher.eval()
    seen = []

    class Views:
        def batches(self, generators, size, epoch):
            yield torch.arange(12)[None]

        def batch(self, indices, generators, epoch):
            return IMAGES[indices] + epoch

    def criterion(logits, labels, guide, epoch):
        seen.append(guide.detach().clone())
        return cross_entropy(logits, labels, guide, epoch)

    r = recipe(epochs=2, augment="none")
    train([student], Views(), LABELS, r, streams(1), criterion=criterion, teachers=[teacher])
    for epoch, found in enumerate(seen):
        torch.testing.assert_close(found, teacher(IMAGES + epoch))
    with pytest.raises(Breach, match="teachers and a guide"):
        train([student], Views(), LABELS, r, streams(1), teachers=[teacher], guide=Views())


def test_a_feed_says_what_the_batches_are():
    """In whatever sizes and however often it shows an image."""
    wanted = [[0, 1, 2], [2, 3], [2]]
    shown = []

    class Fixed:
        def batches(self, generators, size, epoch):
            return (torch.tensor([part] * len(generators)) for part in wanted)

        def batch(self, indices, generators, epoch):
            shown.append(indices.tolist())
            return IMAGES[indices]

    train(networks("mlp:width=8", 2), Fixed(), LABELS, recipe(epochs=1), streams(2), together=True)
    assert shown == [[part, part] for part in wanted]


@pytest.mark.parametrize("decayed", ["all", "matrices"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("count", [1, 3])
def test_an_optimiser_goes_on_from_its_state(optimizer, count, decayed):
    """Two epochs are one epoch, a copy of networks, optimiser and streams, and another one."""
    r = recipe(optimizer=optimizer, lr=0.01, weight_decay=0.5, decayed=decayed)
    feed, orders = augmented(IMAGES, "none"), streams(count)
    whole = ensemble(networks(BATCHED, count))
    steady = r.new_optimizer(whole.parameters, whole.stacked)
    train_epoch(whole, steady, feed, LABELS, r, orders)
    half = ensemble(networks(BATCHED, count))
    half.load_state({name: tensor.clone() for name, tensor in whole.state().items()})
    resumed = r.new_optimizer(half.parameters, half.stacked)
    load_optimizer_state(resumed, optimizer_state(steady) | {"network.weight": torch.ones(1)})
    again = streams(count)
    for order, other in zip(again, orders, strict=True):
        order.set_state(other.get_state())
    for students, moved, own in ((whole, steady, orders), (half, resumed, again)):
        before = students.flat().clone()
        train_epoch(students, moved, feed, LABELS, r, own)
        assert not torch.equal(students.flat(), before)
    assert torch.equal(half.flat(), whole.flat())


def test_a_diverging_loss_is_an_error():
    with pytest.raises(DDError, match=r"training diverged.*learning rate 1e\+30"):
        train(networks("mlp:width=8", 1), IMAGES, LABELS, recipe(lr=1e30), streams(1))


@pytest.mark.parametrize("together", [True, False])
def test_frozen_batch_norms_are_trained_again(together):
    """Gradient matching freezes them; between two matching steps the reference trains them."""
    frozen, fresh = (networks("convnet:width=4,norm=batch", 2, True) for _ in range(2))
    for network in frozen:
        network.eval()
    for given in (frozen, fresh):
        train(given, IMAGES.double(), LABELS, recipe(epochs=2), streams(2), together=together)
    for network, expected in zip(frozen, fresh, strict=True):
        same(network, expected)


def test_a_diverging_network_may_be_kept():
    (network,) = networks("mlp:width=8", 1)
    train([network], IMAGES, LABELS, recipe(lr=1e30), streams(1), strict=False)
    assert not torch.isfinite(network.classifier.weight).all()


def test_accuracy_and_embeddings(digits):
    (network,) = [create("mlp:width=8", 1, (8, 8), 10, generator=generator(0)).eval()]
    with torch.no_grad():
        images = digits.test.take(torch.arange(len(digits.test)))
        right = (network(images).argmax(1) == digits.test.labels).sum().item()
        features = network.embed(images[5:9])
    assert accuracy(network, digits.test) == pytest.approx(100 * right / len(digits.test))
    torch.testing.assert_close(embed_all(network, digits.test, torch.arange(5, 9)), features)


def test_soft_labels_train_like_hard_ones_when_certain():
    certain = F.one_hot(LABELS, 3).double()
    (hard,), (soft,) = networks("mlp:width=8", 1, True), networks("mlp:width=8", 1, True)
    train([hard], IMAGES.double(), LABELS, recipe(), streams(1))
    train([soft], IMAGES.double(), certain, recipe(), streams(1))
    same(hard, soft)


def test_rates_tell_each_epoch():
    """The learning rate, and whether the optimiser is new."""
    assert recipe(epochs=3, schedule="constant").rates() == [(0.05, True)] + [(0.05, False)] * 2
    tenth = pytest.approx(0.005)
    assert recipe(epochs=4).rates() == [(0.05, True), (0.05, False), (tenth, False), (tenth, False)]
    assert recipe(epochs=1).rates() == [(tenth, True)]  # its first half has no epoch
    # one epoch more than asked for, the rate drops after epoch index 4 // 2 + 1
    released = recipe(epochs=4, schedule="released").rates()
    assert released == [(0.05, True)] + [(0.05, False)] * 3 + [(tenth, True)]
    # half a turn of the cosine: all, a share of (1 + √½) / 2, a half, (1 - √½) / 2
    cosine = [rate for rate, _ in recipe(epochs=4, schedule="cosine").rates()]
    assert cosine == pytest.approx([0.05, 0.05 * 0.8535534, 0.025, 0.05 * 0.1464466])
    assert [fresh for _, fresh in recipe(epochs=4, schedule="cosine").rates()] == [True] + 3 * [
        False
    ]
    for schedule in ("paper", "released", "cosine", "constant"):
        assert recipe(epochs=0, schedule=schedule).rates() == []


@pytest.mark.parametrize("spec", ["mlp:width=8", BATCHED])
@pytest.mark.parametrize("count", [1, 3])
def test_an_ensemble_is_its_networks(spec, count):
    """Logits, parameters and statistics of each network on its own images."""
    ours, theirs = networks(spec, count, True), networks(spec, count, True)
    experts = ensemble(ours)
    assert type(experts) is (Single if count == 1 else Stack)
    images = torch.randn(count, 5, 1, 8, 8, generator=generator(2), dtype=torch.float64)
    expected = torch.stack([network(own) for network, own in zip(theirs, images, strict=True)])
    torch.testing.assert_close(experts.forward(images), expected)
    before = torch.stack([flat(network) for network in theirs])
    assert torch.equal(experts.flat(), before) and not experts.flat().requires_grad
    with torch.no_grad():
        for parameter in experts.parameters:
            parameter.mul_(2)
    assert torch.equal(experts.flat(), 2 * before)
    experts.finish()
    with torch.no_grad():
        for network in theirs:
            for parameter in network.parameters():
                parameter.mul_(2)
    for network, expected in zip(ours, theirs, strict=True):
        same(network, expected)
        assert not network.training


@pytest.mark.parametrize("count", [1, 3])
def test_an_ensemble_goes_on_from_its_state(count):
    """Parameters and batch statistics of another ensemble are taken over, as copies."""
    images = torch.randn(count, 5, 1, 8, 8, generator=generator(2))
    one = ensemble(networks(BATCHED, count))
    one.forward(images)  # moves the statistics
    with torch.no_grad():
        for parameter in one.parameters:
            parameter.add_(1)
    kept = {name: tensor.clone() for name, tensor in one.state().items()}
    other_networks = networks(BATCHED, count)
    other = ensemble(other_networks)
    fresh = other.state()["body.1.running_mean"].clone()
    other.load_state(kept)
    assert other.state().keys() == kept.keys()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in other.state().items())
    assert not torch.equal(other.state()["body.1.running_mean"], fresh)
    other.forward(images)
    assert not torch.equal(other.state()["body.1.running_mean"], kept["body.1.running_mean"])
    other.finish()
    assert torch.equal(torch.stack([flat(network) for network in other_networks]), one.flat())


def flat(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])
