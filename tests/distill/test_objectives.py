"""Objectives against independent slow versions of their papers' algorithms."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from dd.config import recipes
from dd.data import augment
from dd.distill.objectives import OBJECTIVES
from dd.distill.objectives.dm import mean_distance
from dd.distill.objectives.selections import herding, kcenter
from dd.networks.batchnorm import freeze_batch_statistics
from dd.networks.options import canonical
from dd.rng import generator
from tests.support.objectives import NORMED, SPEC, canvas, make


# with those of installed plug-ins, whose authors may run this test (docs/own.md)
@pytest.mark.parametrize("name", [n for n in OBJECTIVES.names() if not OBJECTIVES[n].takes_all])
@pytest.mark.parametrize("ipc", [1, 3])
def test_every_objective_starts_and_moves(name, ipc, digits, shard_file):
    small = {"batch_real": 8, "outer": 2, "inner": 1, "feature_epochs": 1}
    small |= {"online": 2, "online_steps": 1}
    small |= {"students": 2, "student_epochs": 2, "decay_every": 1}
    small |= {"experts": 2, "student_steps": 2, "expert_epochs": 1, "max_start_epoch": 2}
    known = recipes.resolve(name, "digits", ipc)
    changes = {setting: value for setting, value in small.items() if setting in known}
    shards = [shard_file] if OBJECTIVES[name].needs_trajectories else []
    spec = NORMED if OBJECTIVES[name].needs_pretrained else SPEC
    objective = make(name, digits, ipc, spec, shards, **changes)
    synthetic = canvas(objective)
    before = synthetic.images().clone()
    assert before.shape == (10 * ipc, 1, 8, 8) and torch.isfinite(before).all()
    if objective.settings.iterations:
        values = objective.iteration(1, synthetic)
        after = synthetic.images()
        assert values["loss"] > 0
        assert values.get("network") == (canonical(spec) if "network" in known else None)
        assert torch.isfinite(after).all()
        assert (after != before).flatten(1).any(1).all()  # every image moved


def test_the_whole_training_split_is_named_by_its_indices(digits):
    objective = make("full", digits, ipc=0)
    synthetic = canvas(objective)
    assert len(synthetic.images()) == 0
    assert torch.equal(objective.outcome(synthetic).indices, torch.arange(len(digits.train)))
    assert torch.equal(objective.labels(), digits.train.labels)


def test_real_start_is_of_the_right_class(digits):
    start = make("dsa", digits, 3).start()
    real = digits.train.take(slice(None))
    for position, image in enumerate(start):
        matches = (real == image).flatten(1).all(1).nonzero().flatten()
        assert {int(digits.train.labels[m]) for m in matches} == {position // 3}


def plain_dc(dataset, source, streams, images, ipc, s):
    """Algorithm 1 of DC, class by class, every image update and training step written out."""
    classes = len(dataset.classes)
    _, network = source.draw(0, streams.network)
    parameters = list(network.parameters())
    momentum = torch.zeros_like(images)
    for step in range(s.outer):
        real = [dataset.train.sample(k, s.batch_real, streams.host) for k in range(classes)]
        transforms = [
            augment.draw(s.augment, streams.host, 1, dataset.size, shared=True)
            for _ in range(classes)
        ]
        leaf = images.clone().requires_grad_(True)
        total = 0
        for k in range(classes):
            batches = dataset.train.take(real[k]), leaf[k * ipc : (k + 1) * ipc]
            gradients = []
            for batch in batches:
                batch = augment.apply(transforms[k], batch)
                loss = F.cross_entropy(network(batch), torch.full((len(batch),), k))
                gradients.append(torch.autograd.grad(loss, parameters, create_graph=True))
            for a, b in zip(*gradients, strict=True):
                if a.ndim > 1:
                    rows = zip(a.flatten(1), b.flatten(1), strict=True)
                    total = total + sum(1 - (x @ y) / (x.norm() * y.norm() + 1e-6) for x, y in rows)
        (gradient,) = torch.autograd.grad(total, leaf)
        momentum = gradient if step == 0 else s.momentum_img * momentum + gradient
        images = images - s.lr_img * momentum
        if step < s.outer - 1:
            labels = torch.arange(classes).repeat_interleave(ipc)
            for _ in range(s.inner):
                for indices in torch.randperm(len(images), generator=streams.host).split(
                    s.batch_train
                ):
                    batch = images[indices]
                    if s.augment != "none":
                        drawn = augment.draw(s.augment, streams.host, len(batch), dataset.size)
                        batch = augment.apply(drawn, batch)
                    loss = F.cross_entropy(network(batch), labels[indices])
                    steps = torch.autograd.grad(loss, parameters)
                    with torch.no_grad():
                        for p, g in zip(parameters, steps, strict=True):
                            p -= s.lr_net * g
    return images


@pytest.mark.parametrize("name", ["dc", "dsa"])
@pytest.mark.parametrize("together", [True, False])
def test_an_iteration_is_algorithm_one(name, together, digits, monkeypatch):
    monkeypatch.setattr("dd.distill.objectives.dc.TOGETHER_PIXELS", 10**6 if together else 0)
    settings = {"outer": 3, "inner": 2, "batch_real": 6, "batch_train": 8, "lr_img": 0.01}
    ours, theirs = (make(name, digits, 2, init="real", **settings) for _ in range(2))
    synthetic = canvas(ours, lr=0.01)
    ours.iteration(1, synthetic)
    expected = plain_dc(digits, theirs.networks, theirs.streams, theirs.start(), 2, theirs.settings)
    torch.testing.assert_close(synthetic.images(), expected, rtol=1e-3, atol=1e-3)


def test_matching_brings_the_loss_down(digits):
    """Many steps on one network: the distance falls well below where it started."""
    objective = make("dc", digits, 1, outer=40, inner=0, batch_real=32)
    synthetic = canvas(objective)
    _, network = objective.networks.draw(0, objective.streams.network)
    losses = [objective._match(network, synthetic) for _ in range(40)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_batch_norm_statistics_are_fixed_from_sixteen_real_images_a_class(digits, monkeypatch):
    seen = []

    def spy(network, images):
        seen.append(tuple(images.shape))
        freeze_batch_statistics(network, images)

    monkeypatch.setattr("dd.distill.objectives.dc.freeze_batch_statistics", spy)
    objective = make("dc", digits, 1, NORMED, batch_real=8, outer=2)
    objective.iteration(1, canvas(objective))
    assert seen == [(160, 1, 8, 8)] * 2


def test_dm_is_the_distance_of_class_means(digits):
    ours, theirs = (make("dm", digits, 2, batch_real=7) for _ in range(2))
    synthetic, s = canvas(ours, lr=1.0), theirs.settings
    ours.iteration(1, synthetic)
    _, network = theirs.networks.draw(0, theirs.streams.network)
    start = theirs.start()
    transforms = [
        augment.draw(s.augment, theirs.streams.host, 1, (8, 8), shared=True) for _ in range(10)
    ]
    leaf = start.clone().requires_grad_(True)
    total = 0
    for k in range(10):
        real = digits.train.take(digits.train.sample(k, 7, theirs.streams.host))
        a = network.embed(augment.apply(transforms[k], real)).mean(0)
        b = network.embed(augment.apply(transforms[k], leaf[2 * k : 2 * k + 2])).mean(0)
        total = total + sum((x - y) ** 2 for x, y in zip(a, b, strict=True))
    (gradient,) = torch.autograd.grad(total, leaf)
    torch.testing.assert_close(synthetic.images(), start - gradient, rtol=1e-4, atol=1e-5)


def test_mean_distance_by_hand():
    real = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [2.0, 2.0]]])
    synthetic = torch.tensor([[[2.0, 5.0]], [[1.0, 0.0]]])
    # class 0: means (2, 3) and (2, 5): 4; class 1: (1, 1) and (1, 0): 1
    assert mean_distance(real, synthetic).item() == 5.0


def features(seed, count=12):
    return torch.randn(count, 3, generator=generator(seed, "features"), dtype=torch.float64)


@pytest.mark.parametrize("seed", range(3))
def test_herding_against_a_plain_loop(seed):
    points = features(seed).tolist()
    mean = [sum(axis) / len(points) for axis in zip(*points, strict=True)]
    picked = []
    for size in range(1, 6):

        def gap(index, size=size):
            chosen = [points[i] for i in [*picked, index]]
            centre = [sum(axis) / size for axis in zip(*chosen, strict=True)]
            return sum((m - c) ** 2 for m, c in zip(mean, centre, strict=True))

        picked.append(min((i for i in range(len(points)) if i not in picked), key=gap))
    assert herding(features(seed), 5).tolist() == picked


@pytest.mark.parametrize("seed", range(3))
def test_kcenter_against_a_plain_loop(seed):
    points = features(seed).tolist()

    def squared(a, b):
        return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))

    mean = [sum(axis) / len(points) for axis in zip(*points, strict=True)]
    picked = [min(range(len(points)), key=lambda i: squared(points[i], mean))]
    while len(picked) < 5:
        far = {i: min(squared(points[i], points[j]) for j in picked) for i in range(len(points))}
        picked.append(max((i for i in far if i not in picked), key=far.__getitem__))
    assert kcenter(features(seed), 5).tolist() == picked


@pytest.mark.parametrize("pick", [herding, kcenter])
def test_selections_never_pick_twice(pick):
    same = torch.zeros(6, 2)
    for points, count in itertools.product((same, features(0, 6).float()), (1, 4, 6)):
        assert len(set(pick(points, count).tolist())) == count


@pytest.mark.parametrize("name", ["random", "herding", "kcenter"])
def test_selected_images_are_real_and_distinct(name, digits):
    changes = {} if name == "random" else {"feature_epochs": 1}
    start = make(name, digits, 5, **changes).start()
    real = digits.train.take(slice(None))
    found = []
    for position, image in enumerate(start):
        where = (real == image).flatten(1).all(1).nonzero().flatten()
        assert len(where) and int(digits.train.labels[where[0]]) == position // 5
        found.append(int(where[0]))
    assert len(set(found)) == len(found)


def test_a_class_smaller_than_the_real_batch_is_used_whole(digits):
    objective = make("dc", digits, 1, batch_real=10_000)
    smallest = min(len(indices) for indices in digits.train.by_class)
    batch = objective.real_batch(10_000)
    assert batch.shape == (10, smallest)
    assert all((digits.train.labels[row] == k).all() for k, row in enumerate(batch))
