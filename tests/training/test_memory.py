"""Memory of a training: counted against torch's allocator; too little of it changes no result."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from dd.evaluate import kd
from dd.networks.build import create
from dd.rng import generator
from dd.training import memory
from dd.training.ensemble import Single, ensemble
from dd.training.memory import IMAGES, networks_that_fit, training_bytes
from dd.training.train import Teachers, accuracy, augmented, train, train_step
from tests.support import training

SHAPE, CLASSES = (3, 32, 32), 10
FULL = "CUDA out of memory. Tried to allocate 2.00 GiB"

recipe = partial(training.recipe, epochs=3, schedule="constant")


def network(spec, seed=0, factor=0.25, shape=SHAPE, device=None):
    stream = None if device == "meta" else generator(seed)
    return create(
        spec, shape[0], shape[1:], CLASSES, generator=stream, width_factor=factor, device=device
    )


def allocated(spec, batch, count, factor):
    """The peak of what torch allocates in a step, and what is there before it."""
    made = [network(spec, n, factor).train() for n in range(count)]
    students, r = ensemble(made), recipe()
    optimizer = r.new_optimizer(students.parameters, students.stacked)
    images = torch.randn(count, batch, *SHAPE)
    labels = torch.zeros(count, batch, dtype=torch.int64)

    def loss(logits, part):
        pairs = zip(logits, labels[:, part], strict=True)
        return torch.stack([F.cross_entropy(own, target) for own, target in pairs])

    train_step(students, optimizer, images, loss)  # the optimiser has its state
    optimizer.zero_grad()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        train_step(students, optimizer, images, loss)
    now = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    values = sum(p.numel() for one in made for p in one.parameters())
    before = values * (3 if count > 1 else 2) + IMAGES * images.numel()
    return peak + 4 * before


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("spec", ["convnet:pooling=max", "resnet18_bn", "vgg11", "vit", "alexnet"])
def test_counted_bytes_are_those_that_torch_allocates(spec, count):
    counted = training_bytes(network(spec, device="meta"), SHAPE, CLASSES, recipe(), 16, count)
    assert counted == pytest.approx(allocated(spec, 16, count, 0.25), rel=0.05)


def test_counted_bytes_by_hand():
    """Parameters and gradients, a momentum if there is one, images; activations are few."""
    made = network("mlp", factor=1.0, device="meta")
    values = sum(p.numel() for p in made.parameters())
    plain = recipe(momentum=0.0, weight_decay=0.0)
    counted = training_bytes(made, SHAPE, CLASSES, plain, 1)
    heavy = training_bytes(made, SHAPE, CLASSES, recipe(weight_decay=0.0), 1)
    assert heavy - counted == pytest.approx(4 * values, rel=0.01)  # the momentum
    images = IMAGES * 4 * math.prod(SHAPE)
    assert counted == pytest.approx(2 * 4 * values + images, rel=0.05)  # values and gradients


def test_what_is_counted_grows_with_images_and_networks():
    made = network("convnet", device="meta")
    at = {
        (batch, count): training_bytes(made, SHAPE, CLASSES, recipe(), batch, count)
        for batch in (8, 16, 24)
        for count in (2, 3, 4)
    }
    assert at[24, 2] - at[16, 2] == pytest.approx(at[16, 2] - at[8, 2], rel=0.01)
    assert at[8, 4] - at[8, 3] == pytest.approx(at[8, 3] - at[8, 2], rel=0.01)
    assert at[16, 4] == pytest.approx(2 * at[16, 2], rel=0.02)


def test_adamw_keeps_two_moments():
    made = network("mlp", factor=1.0, device="meta")
    values = sum(p.numel() for p in made.parameters())
    one, two = (
        training_bytes(made, SHAPE, CLASSES, recipe(optimizer=name), 1) for name in ("sgd", "adamw")
    )
    assert two - one >= 4 * values


def test_counting_copies_no_values_and_changes_none():
    made = network("resnet18_bn")
    before = {name: value.clone() for name, value in made.state_dict().items()}
    assert training_bytes(made, SHAPE, CLASSES, recipe(), 4) > 0
    for name, value in made.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(p.grad is None for p in made.parameters())


@pytest.mark.parametrize(("pairs", "fitting"), [(0.2, 1), (0.7, 1), (1.0, 2), (1.7, 3), (9.0, 5)])
def test_as_many_networks_as_fit(pairs, fitting, monkeypatch):
    made = network("convnet", device="meta")
    pair = training_bytes(made, SHAPE, CLASSES, recipe(), 8, 2)
    monkeypatch.setattr(memory, "available", lambda device: pairs * pair)
    given = (made, SHAPE, CLASSES, recipe(), 8, 5)
    assert networks_that_fit(*given, torch.device("cuda"), "networks") == fitting
    monkeypatch.undo()
    assert networks_that_fit(*given, torch.device("cpu"), "networks") == 5


# --- one network for whose batch the memory is too small

IMAGES_12 = torch.randn(12, 3, 8, 8, generator=generator(0, "images"), dtype=torch.float64)
HARD = torch.arange(12) % CLASSES
SOFT = torch.softmax(torch.randn(12, CLASSES, generator=generator(1), dtype=torch.float64), 1)


def distilling(logits, labels, guide, epoch):
    return kd.loss(logits, guide, labels, 3.0, 0.5)


def small(spec, seed=0):
    return network(spec, seed, 0.1, (3, 8, 8)).double()


def trained(spec, labels=HARD, teacher=None, criterion=None, **changes):
    made, r = small(spec), recipe(**changes)
    more = {"criterion": criterion} if criterion else {}
    if teacher:
        more["teachers"] = [small(teacher, 7).eval()]
    train([made], IMAGES_12, labels, r, [generator(0, "order")], **more)
    return made


@pytest.fixture
def too_small(monkeypatch):
    """``too_small(most)``: from now on more than ``most`` images at once do not fit."""
    forward = Single.forward
    seen = []

    def limited(most, error=torch.OutOfMemoryError):
        def checked(self, images):
            seen.append(images.shape[1])
            logits = forward(self, images)
            if images.shape[1] > most:
                raise error(FULL)
            return logits

        monkeypatch.setattr(Single, "forward", checked)
        return seen

    return limited


CASES = {
    "hard": {},
    "soft": {"labels": SOFT},
    "a teacher": {"teacher": "mlp", "criterion": distilling},
    "augmented": {"augment": "color_crop_cutout_flip_scale_rotate"},
    "adamw": {"optimizer": "adamw", "lr": 0.01},
}


# AdamW divides a gradient by its size, even one that is 0 up to rounding (a bias before a norm)
PAIRS = [(c, s) for c in CASES for s in ("convnet:depth=1", "mlp", "vit:depth=1")]


@pytest.mark.parametrize(("case", "spec"), [p for p in PAIRS if p[0] != "adamw" or p[1] == "mlp"])
def test_parts_of_a_batch_give_the_same_training(case, spec, too_small):
    """In float64, with batches of 5, 5 and 2 images in parts of at most 2."""
    expected = trained(spec, **CASES[case])
    seen = too_small(2)
    found = trained(spec, **CASES[case])
    for (name, one), other in zip(
        found.state_dict().items(), expected.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12, msg=name)
    assert max(seen[-20:]) <= 2


def test_what_did_not_fit_once_is_not_tried_again(too_small, capsys):
    seen = too_small(2)
    trained("mlp", epochs=2)
    #           5 fail, 3 fail, 2 + 2 + 1, then parts of the next batches
    assert seen == [5, 3, 2, 2, 1, 2, 2, 1, 2, *(2, 2, 1, 2, 2, 1, 2)]
    (line,) = capsys.readouterr().out.splitlines()
    assert "5 images of a batch at a time are too many, going on with 2" in line


def test_one_image_that_does_not_fit_is_an_error(too_small):
    too_small(0)
    with pytest.raises(torch.OutOfMemoryError):
        trained("mlp")


def test_a_shortage_of_the_cpu_is_no_reason_to_split(too_small):
    seen = too_small(2, lambda said: RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        trained("mlp")
    assert seen == [5]


@pytest.mark.parametrize("spec", ["convnet:depth=1,norm=batch", "resnet18_bn"])
def test_batch_norm_sees_the_whole_batch_and_is_recorded_once(spec, monkeypatch, capsys):
    """The first step fails after the running statistics have changed."""
    expected = trained(spec)
    forward = Single.forward
    ways = []

    def checked(self, images):
        ways.append((images.shape[1], self.recomputes))
        logits = forward(self, images)
        if not self.recomputes:
            raise torch.OutOfMemoryError(FULL)
        return logits

    monkeypatch.setattr(Single, "forward", checked)
    found = trained(spec)
    for (name, one), other in zip(
        found.state_dict().items(), expected.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name
    assert ways == [(5, False), *[(5, True), (5, True), (2, True)] * 3]
    (line,) = capsys.readouterr().out.splitlines()
    assert "batch norm" in line and "same result" in line


def test_batch_norm_without_memory_is_an_error(monkeypatch):
    def never(self, images):
        raise torch.OutOfMemoryError(FULL)

    monkeypatch.setattr(Single, "forward", never)
    with pytest.raises(torch.OutOfMemoryError):
        trained("convnet:depth=1,norm=batch")


def test_teachers_answer_in_pieces(too_small):
    teachers, feed = ensemble([small("mlp").eval()]), augmented(IMAGES_12, "none")
    whole = Teachers(teachers, feed, 12).cached
    seen = too_small(5)
    torch.testing.assert_close(Teachers(teachers, feed, 12).cached, whole, rtol=1e-12, atol=1e-12)
    assert seen == [12, 6, 3, 3, 3, 3]
    # images that change: what fitted once is tried from then on
    seen.clear()
    moving = Teachers(teachers, None, 12)
    for _ in range(2):
        moving.at(torch.arange(12)[None], IMAGES_12[None], 0)
    assert seen == [12, 6, 3, 3, 3, 3, 3, 3, 3, 3]


def test_test_images_go_in_pieces(digits, monkeypatch):
    made = create("mlp", 1, (8, 8), 10, generator=generator(0)).eval()
    whole, sizes, forward = accuracy(made, digits.test), [], type(made).forward

    def checked(self, images):
        sizes.append(len(images))
        if len(images) > 70:
            raise torch.OutOfMemoryError(FULL)
        return forward(self, images)

    monkeypatch.setattr(type(made), "forward", checked)
    assert accuracy(made, digits.test) == whole
    assert sizes == [256, 128, 64, 64, 64, 64, 64, 39]
