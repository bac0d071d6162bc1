"""FRePo against its algorithm written out in float64, and its parts by hand."""

from __future__ import annotations

import copy
import dataclasses
import math

import numpy
import pytest
import torch
import torch.nn.functional as F

from dd.config.run import load_run
from dd.distill import ridge
from dd.distill.objectives import frepo
from dd.distill.objectives.frepo import RECORDED
from dd.distill.parametrisations import Labelled, Pixels
from dd.errors import DDError, Divergence
from dd.evaluate.protocols import PROTOCOLS, RegressionSettings, StepsSettings, Task
from dd.networks.build import create
from dd.plan.jobs import Distillation, Evaluation
from dd.rng import generator
from dd.runtime.memory import Fitting
from dd.training.lamb import Lamb
from dd.training.regression import centred, scaled, squared_error
from dd.training.state import load_optimizer_state, optimizer_state
from tests.support.objectives import NORMED, make
from tests.support.training import recipe

SPEC = "convnet:width=8,depth=2,norm=none"
SMALL = {
    "batch_real": 40, "online": 2, "online_steps": 3, "lr_img": 0.05, "lr_label": 0.02,
    "lr_net": 0.01, "batch_train": 12, "lambda_label": 0.5, "mirror": "yes", "iterations": 10,
}  # fmt: skip


def normal(seed, *shape):
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


# --- the regression


def plain_loss(features, targets, real, wanted, lam):
    """In NumPy, with the inverse written out."""
    x, y, r, w = (t.detach().numpy() for t in (features, targets, real, wanted))
    kernel = x @ x.T
    kernel = kernel + lam * numpy.trace(kernel) / len(x) * numpy.eye(len(x))
    found = r @ x.T @ numpy.linalg.inv(kernel) @ y
    return 0.5 * ((found - w) ** 2).sum(1).mean(), numpy.linalg.cond(kernel, 1)


@pytest.mark.parametrize(("count", "width"), [(6, 9), (12, 5)])  # of full rank, or by the ridge
def test_the_regression_by_hand_and_by_finite_differences(count, width):
    features, targets = normal(0, count, width), normal(1, count, 3)
    real, wanted, lam = normal(2, 7, width), normal(3, 7, 3), 0.01
    found = ridge.fit(features, targets, real, wanted, lam)
    loss, condition = plain_loss(features, targets, real, wanted, lam)
    assert found.loss.item() == pytest.approx(loss, rel=1e-9) and found.positive
    assert found.condition.item() == pytest.approx(condition, rel=1e-6)
    for name, base in (("features", features), ("targets", targets)):
        along = normal(4, *base.shape)
        values = []
        for sign in (1, -1):
            moved = {"features": features, "targets": targets} | {name: base + sign * 1e-6 * along}
            values.append(plain_loss(**moved, real=real, wanted=wanted, lam=lam)[0])
        expected = (values[0] - values[1]) / 2e-6
        assert (getattr(found, name) * along).sum().item() == pytest.approx(expected, rel=1e-5)


def test_the_regression_is_in_float64_where_float32_leaves_no_digit():
    """Images almost alike: the condition is about 1 / ridge."""
    base = normal(0, 1, 6)
    features = (base + 1e-4 * normal(1, 8, 6)).float()
    targets, real, wanted = (
        normal(2, 8, 3).float(),
        normal(3, 5, 6).float(),
        normal(4, 5, 3).float(),
    )
    found = ridge.fit(features, targets, real, wanted, 1e-6)
    exact, _ = plain_loss(*(t.double() for t in (features, targets, real, wanted)), 1e-6)
    assert found.loss.dtype == torch.float64
    assert found.loss.item() == pytest.approx(exact, rel=1e-6) and found.condition > 1e5
    kernel = features @ features.T
    kernel = kernel + 1e-6 * kernel.diagonal().mean() * torch.eye(8)
    single = real @ features.T @ torch.linalg.solve(kernel, targets)
    assert abs(0.5 * (single - wanted).square().sum(1).mean().item() / exact - 1) > 1e-4


def test_margins_by_hand():
    labels = torch.tensor([[0.5, 0.1, -0.6], [0.2, 0.0, 0.15]], requires_grad=True)
    loss = ridge.margin_loss(labels)
    assert loss.item() == pytest.approx(-(1 / 3 + 0.05) / 2)  # the first counts up to 1 / K
    (gradient,) = torch.autograd.grad(loss, labels)
    assert gradient.tolist() == [[0, 0, 0], [-0.5, 0, 0.5]]


def test_targets_by_hand():
    assert centred(torch.tensor([1]), 4).tolist() == [[-0.25, 0.75, -0.25, -0.25]]
    assert scaled(torch.tensor([1]), 40)[0, 1].item() == pytest.approx(0.975 / 2)
    soft = torch.tensor([[0.7, 0.3]])
    torch.testing.assert_close(centred(soft, 2), torch.tensor([[0.2, -0.2]]))
    error = squared_error(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 2], [0, 0]]))
    assert error.item() == pytest.approx(0.5 * 5 / 2)


# --- LAMB


def plain_lamb(value, gradients, lr):
    first = second = torch.zeros_like(value)
    for count, gradient in enumerate(gradients, start=1):
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        update = first / (1 - 0.9**count) / ((second / (1 - 0.999**count)).sqrt() + 1e-6)
        factor = value.norm() / update.norm() if value.norm() and update.norm() else 1.0
        value = value - lr * factor * update
    return value


@pytest.mark.parametrize("size", [1.0, 0.0])
def test_lamb_by_hand(size):
    start, slopes = size * normal(0, 3, 4), normal(1, 4, 3, 4)
    parameter = start.clone().requires_grad_()
    optimizer = Lamb([{"params": [parameter], "lr": 0.1}])
    for slope in slopes:
        parameter.grad = slope
        optimizer.step()
    torch.testing.assert_close(parameter.detach(), plain_lamb(start, slopes, 0.1))
    step = (plain_lamb(start, slopes[:1], 0.1) - start).norm()
    assert size == 0 or step == pytest.approx(0.1 * start.norm().item())


def test_lamb_goes_on_bit_for_bit():
    slopes = normal(1, 4, 3)
    made = []
    for _ in range(2):
        parameter = normal(0, 3).requires_grad_()
        made.append((parameter, Lamb([{"params": [parameter], "lr": 0.1}])))
    (steady, ours), (other, theirs) = made
    for count, slope in enumerate(slopes):
        steady.grad = slope
        ours.step()
        if count == 1:
            other.data.copy_(steady.data)
            load_optimizer_state(theirs, optimizer_state(ours))
        elif count > 1:
            other.grad = slope
            theirs.step()
    assert torch.equal(steady, other)
    lame = {name: v for name, v in optimizer_state(ours).items() if not name.endswith("step")}
    with pytest.raises(DDError, match="incomplete"):
        load_optimizer_state(theirs, lame)


# --- the objective


def in_double(digits, spec=SPEC, piece=None, **changes):
    """The objective and its canvas in float64, and its networks, too."""
    objective = make("frepo", digits, 2, spec, **SMALL | changes)
    objective.synthetic = {name: Fitting(piece or 1000) for name in objective.networks.specs()}
    draw = objective.networks.draw
    objective.networks.draw = lambda *a: (lambda name, net: (name, net.double()))(*draw(*a))
    s = objective.settings
    canvas = Pixels(objective.start().double(), objective.labels(), s.lr_img, objective.optimizer)
    if learned := objective.learned_labels():
        canvas = Labelled(canvas, learned, objective.optimizer)
        canvas._values.data = canvas._values.data.double()
        canvas._refresh()
    return objective, canvas


class Plain:
    """Algorithm 1 of FRePo, one graph through the whole regression."""

    def __init__(self, objective, canvas, digits):
        self.o, self.digits, self.s = objective, digits, objective.settings
        self.images, self.labels = canvas.images().clone(), canvas.labels.clone()
        self.slots, self.counts = [], []
        self.by_images, self.by_labels = ([self.images], [self.labels])  # start, then gradients

    def new(self):
        _, network = self.o.networks.draw(0, self.o.streams.network)
        network = copy.deepcopy(network)
        return network, torch.optim.Adam(network.parameters(), lr=self.s.lr_net)

    def targets(self, labels):
        if labels.ndim == 2:
            return labels
        count = len(self.digits.classes)
        return (F.one_hot(labels, count).double() - 1 / count) / math.sqrt(count / 10)

    def iteration(self, number):
        s, host = self.s, self.o.streams.host
        if not self.slots:
            self.slots = [self.new() for _ in range(s.online)]
            self.counts = [k * (s.online_steps // s.online) for k in range(s.online)]
        k = int(torch.randint(s.online, (), generator=host))
        network, adam = self.slots[k]
        real = torch.randperm(len(self.digits.train), generator=host)[: s.batch_real]
        few = torch.randperm(len(self.images), generator=host)[: s.batch_train]
        network.eval()
        images = self.images.clone().requires_grad_()
        labels = self.labels.clone()
        learned = labels.ndim == 2
        labels = labels.requires_grad_() if learned else labels
        both, goals = images, self.targets(labels)
        if s.mirror == "yes":
            both = torch.cat([images, torch.flip(images, [3])])
            goals = torch.cat([goals, goals])
        x = network.embed(both)
        kernel = x @ x.T + s.ridge * (x @ x.T).trace() / len(x) * torch.eye(len(x))
        with torch.no_grad():
            r = network.embed(self.digits.train.take(real).double())
        found = r @ x.T @ torch.linalg.inv(kernel) @ goals
        count = len(self.digits.classes)
        wanted = F.one_hot(self.digits.train.labels[real], count).double() - 1 / count
        loss = 0.5 * (found - wanted).square().sum(1).mean()
        total = loss
        if learned:
            ordered = labels.sort(1, descending=True).values
            margin = (ordered[:, 0] - ordered[:, 1]).clamp(max=1 / count)
            total = loss - s.lambda_label * margin.mean()
        slopes = torch.autograd.grad(total, [images, labels] if learned else [images])
        factor = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (number - 1) / s.iterations))
        self.by_images.append((slopes[0], factor))
        self.images = self.lamb(self.by_images, s.lr_img)
        if learned:
            self.by_labels.append((slopes[1], factor))
            self.labels = self.lamb(self.by_labels, s.lr_label)
        if self.counts[k] > s.online_steps:
            self.slots[k], self.counts[k] = self.new(), 0
        else:
            network.train()
            error = network(self.images[few]) - self.targets(self.labels)[few]
            adam.zero_grad()
            (0.5 * error.square().sum(1).mean()).backward()
            adam.step()
            self.counts[k] += 1
        return loss.item()

    @staticmethod
    def lamb(history, lr):
        value, first, second = history[0].clone(), 0.0, 0.0
        for count, (gradient, factor) in enumerate(history[1:], start=1):
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient**2
            update = first / (1 - 0.9**count) / ((second / (1 - 0.999**count)).sqrt() + 1e-6)
            value = value - lr * factor * value.norm() / update.norm() * update
        return value


@pytest.fixture
def four(digits):
    """The digits 0 to 3. With ten classes, one of the scales is 1."""
    kept = (digits.train.labels < 4).nonzero()[:, 0]
    labels = digits.train.labels[kept]
    by_class = [(labels == k).nonzero()[:, 0] for k in range(4)]
    train = dataclasses.replace(
        digits.train, images=digits.train.images[kept], labels=labels, by_class=by_class
    )
    return dataclasses.replace(digits, classes=digits.classes[:4], train=train)


@pytest.mark.parametrize("piece", [None, 7])
@pytest.mark.parametrize("changes", [{}, {"lr_label": 0.0}, {"mirror": "no", "ridge": 0.1}])
@pytest.mark.parametrize("data", ["digits", "four"])
def test_iterations_are_the_algorithm(data, changes, piece, request):
    """Images, labels and networks after enough iterations that networks are replaced."""
    dataset = request.getfixturevalue(data)
    changes = {"ridge": 1e-3} | changes
    ours, canvas = in_double(dataset, piece=piece, **changes)
    theirs, other = in_double(dataset, **changes)
    plain = Plain(theirs, other, dataset)
    start, before = canvas.images().clone(), canvas.labels.clone()
    for number in range(1, 9):
        values = ours.iteration(number, canvas)
        assert values["loss"] == pytest.approx(plain.iteration(number), rel=1e-6)
    assert (canvas.images() - plain.images).norm() / (plain.images - start).norm() < 1e-5
    torch.testing.assert_close(canvas.labels, plain.labels, rtol=1e-6, atol=1e-8)
    assert torch.equal(canvas.labels, before) == (not ours.settings.lr_label)
    assert [slot.steps for slot in ours.slots] == plain.counts
    assert 0 in plain.counts or sum(plain.counts) < 8 + 1  # one was replaced
    for slot, (network, _) in zip(ours.slots, plain.slots, strict=True):
        for one, two in zip(slot.network.parameters(), network.parameters(), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-7)


def test_labels_begin_as_the_targets_of_their_classes(digits, four):
    objective, canvas = in_double(digits)
    assert objective.learned_labels().kind == "targets"
    expected = [0.9 if k == 1 else -0.1 for k in range(10)]
    assert canvas.labels[2].tolist() == pytest.approx(expected)
    expected = [(0.75 if k == 1 else -0.25) / math.sqrt(0.4) for k in range(4)]
    assert in_double(four)[1].labels[2].tolist() == pytest.approx(expected)


def test_batch_norms_record_the_newest_batch(digits):
    """In evaluation mode they do not couple images, so pieces change nothing."""
    objective = make("frepo", digits, 2, NORMED, **SMALL)
    slot = objective._new(1, 0)
    (norm, *_) = [m for m in slot.network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    canvas = Labelled(
        Pixels(objective.start(), objective.labels(), 0.1, objective.optimizer),
        objective.learned_labels(),
        objective.optimizer,
    )
    maps = slot.network.body[0](slot.network.fitted(canvas.images()))
    objective._train(slot, canvas, torch.arange(20))
    expected = (1 - RECORDED) * 0 + RECORDED * maps.mean((0, 2, 3))
    torch.testing.assert_close(norm.running_mean, expected.detach(), rtol=1e-4, atol=1e-6)
    found = []
    for most in (100, 7):
        objective.synthetic = {slot.spec: Fitting(most)}
        found.append(objective._fitted(slot, canvas, torch.arange(30))[1])
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-6)


def test_networks_are_replaced_one_after_the_other(digits):
    objective = make("frepo", digits, 1, SPEC, **SMALL | {"online": 3, "online_steps": 9})
    canvas = Labelled(
        Pixels(objective.start(), objective.labels(), 0.1, objective.optimizer),
        objective.learned_labels(),
        objective.optimizer,
    )
    objective.iteration(1, canvas)
    assert sorted(slot.steps for slot in objective.slots) in ([0, 3, 7], [0, 4, 6], [1, 3, 6])
    states = [slot.network.state_dict()["classifier.weight"] for slot in objective.slots]
    assert not any(torch.equal(states[0], other) for other in states[1:])


def test_bad_conditioning_is_named_once(digits, capsys):
    objective, canvas = in_double(digits, ridge=1e-12)
    canvas.canvas._images.data[:] = canvas.images()[:1]  # all alike
    for number in range(1, 4):
        assert objective.iteration(number, canvas)["condition"] > frepo.ILL
    assert capsys.readouterr().out.count("has a condition of") == 1


@pytest.mark.parametrize("features", [torch.zeros(4, 6), torch.full((4, 6), math.nan)])
def test_a_kernel_without_an_inverse_is_said(features):
    found = ridge.fit(features, normal(1, 4, 3), normal(2, 5, 6), normal(3, 5, 3), 1e-6)
    assert not found.positive


def test_features_that_are_0_stop_before_images_move(digits):
    objective, canvas = in_double(digits)
    objective.iteration(1, canvas)
    before = canvas.images().clone()
    for slot in objective.slots:
        for parameter in slot.network.body.parameters():
            parameter.data.fill_(-1.0)
    with pytest.raises(Divergence, match="not positive definite"):
        objective.iteration(2, canvas)
    assert torch.equal(canvas.images(), before)


@pytest.mark.parametrize("name", ["dd", "frepo"])
def test_labels_of_one_class_cannot_be_learned(name, four):
    one = dataclasses.replace(four, classes=four.classes[:1])
    with pytest.raises(DDError, match="give at least two"):
        make(name, one, 1, SPEC, lr_label=0.1)


def test_features_that_are_not_finite_stop_before_images_move(digits):
    objective, canvas = in_double(digits)
    objective.iteration(1, canvas)
    before = canvas.images().clone()
    for slot in objective.slots:
        slot.network.body[0].weight.data.fill_(math.nan)
    with pytest.raises(Divergence, match="or a larger --ridge"):
        objective.iteration(2, canvas)
    assert torch.equal(canvas.images(), before)


# --- the network, the protocol


def test_widths_double():
    network = create("convnet:growth=2,norm=batch", 3, (32, 32), 10, generator=None)
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [128, 256, 512]
    assert network.classifier.in_features == 512 * 4 * 4
    by_hand = 9 * (3 * 128 + 128 * 256 + 256 * 512) + 3 * (128 + 256 + 512) + 8192 * 10 + 10
    assert sum(p.numel() for p in network.parameters()) == by_hand


RECIPE = recipe(
    epochs=6, lr=0.02, weight_decay=0.0, batch=500, schedule="cosine", optimizer="adamw"
)


def task(digits, labels, regresses):
    images = torch.randn(8, 1, 8, 8, generator=generator(0))
    return Task(digits, images, labels, RECIPE, 7, 1.0, False, True, regresses=regresses)


@pytest.mark.parametrize("kind", ["classes", "probabilities", "targets"])
def test_networks_learn_targets(kind, digits):
    """Six steps of Adam by hand, with the rates by hand."""
    labels = {
        "classes": torch.arange(8),
        "probabilities": normal(5, 8, 10).softmax(1).float(),
        "targets": normal(5, 8, 10).float(),
    }[kind]
    given = task(digits, labels, kind == "targets")
    protocol = PROTOCOLS["regression"](RegressionSettings(warmup=2, floor=0.1), given)
    (network,) = protocol.train(SPEC, [3])
    plain = given.networks(SPEC, [3])[0].train()
    targets = labels
    if kind == "classes":
        targets = F.one_hot(labels, 10) - 0.1
    elif kind == "probabilities":
        targets = labels - 0.1
    adam = torch.optim.Adam(plain.parameters(), lr=1.0)
    rates = [0.0, 0.5, *(0.1 + 0.9 * (1 + math.cos(math.pi * e / 4)) / 2 for e in range(4))]
    for rate in rates:
        adam.param_groups[0]["lr"] = 0.02 * rate
        adam.zero_grad()
        (0.5 * (plain(given.images) - targets) ** 2).sum(1).mean().backward()
        adam.step()
    for one, two in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5)


def test_the_warm_up_is_at_most_half(digits):
    given = task(digits, torch.arange(8), False)
    warm = PROTOCOLS["regression"](RegressionSettings(warmup=500), given).task.recipe
    assert [rate / 0.02 for rate, _ in warm.rates()][:4] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert len(warm.rates()) == 6 and [fresh for _, fresh in warm.rates()] == [True] + [False] * 5


def test_the_warm_up_counts_steps(digits):
    """Eight images in batches of three are three steps an epoch; four steps are two epochs."""
    given = task(digits, torch.arange(8), False)
    given = dataclasses.replace(given, recipe=dataclasses.replace(RECIPE, batch=3))
    warm = PROTOCOLS["regression"](RegressionSettings(warmup=4), given).task.recipe
    assert [rate / 0.02 for rate, _ in warm.rates()][:3] == pytest.approx([0, 0.5, 1])


@pytest.mark.parametrize("protocol", ["hard", "kd"])
def test_a_run_that_asks_for_probabilities_of_targets_stops(protocol):
    run = load_run("smoke")

    def check(method, name):
        job = Evaluation(Distillation("digits", method, 1, 0), 5, name, ("mlp",))
        job.check(run, [RECIPE, StepsSettings()])

    check("frepo", "regression")
    check("frepo@lr_label=0", protocol)
    with pytest.raises(DDError, match="labels of frepo are targets of a regression"):
        check("frepo", protocol)
