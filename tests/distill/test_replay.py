"""Steps of students as CUDA graphs, on a pretended GPU: what they give, when they are not used."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from dd.data import augment
from dd.distill import replay
from dd.distill.replay import OneByOne, Replay, Runner
from dd.distill.student import Model, Student
from dd.networks.build import create
from dd.rng import generator
from tests.support.pretended_gpu import pretended_gpu

CLASSES, SIZE, SPEC = 3, (8, 8), "convnet:depth=2,width=8"
BATCHES = (4, 2, 4, 2)  # as where the number of images is no multiple of the batch
DSA = "color_crop_cutout_flip_scale_rotate"


@pytest.fixture
def gpu():
    with pretended_gpu() as traffic:
        yield traffic


def network():
    made = create(SPEC, 3, SIZE, CLASSES, generator=generator(0), device="cuda")
    return made.double().train()


def student(seed, strategy=DSA):
    """A student, its start and its rate, all of ``seed``; their network has other parameters."""
    draw = generator(seed)
    images = torch.rand(6, 3, *SIZE, generator=draw, dtype=torch.float64).to("cuda")
    labels = torch.randint(CLASSES, (6,), generator=draw).to("cuda")
    parts = [torch.randperm(6, generator=draw)[:count] for count in BATCHES]
    drawn = [augment.draw(strategy, draw, len(part), SIZE) for part in parts]
    transforms, indices = augment.moved(drawn, images.device, *parts)
    made = network()
    size = sum(p.numel() for p in made.parameters())
    start = 0.1 * torch.randn(size, generator=draw, dtype=torch.float64).to("cuda")
    return Student(made, images, labels, indices, transforms), start, 0.05 * (1 + seed)


def values(steps, cotangent):
    gradient, by_rate = steps.gradients(cotangent)
    return steps.end.clone(), gradient, torch.tensor(by_rate)


@pytest.mark.parametrize("keep", [0, 3, len(BATCHES)])
@pytest.mark.parametrize("strategy", [DSA, "none"])
def test_a_replay_gives_what_steps_one_by_one_give(gpu, keep, strategy):
    """For students that differ in start, rate, images, labels and augmentation, in any order."""
    made = Replay(*student(0, strategy)[:2], keep)
    found = {}
    for seed in (1, 2, 1):
        one, start, rate = student(seed, strategy)
        cotangent = start.roll(1)
        expected = values(OneByOne(one, start, rate, keep), cotangent)
        found[seed] = values(made.steps(one, start, rate), cotangent)
        for mine, theirs in zip(found[seed], expected, strict=True):
            torch.testing.assert_close(mine.cpu(), theirs.cpu(), rtol=1e-9, atol=1e-12)
    assert not torch.equal(found[1][1].cpu(), found[2][1].cpu())


def test_a_runner_captures_once_and_compares_once(gpu, capsys, monkeypatch):
    runner, taken = Runner(captures=True), []

    def counted(*words, **named):
        taken.append(named["keep"])
        return OneByOne(*words, **named)

    monkeypatch.setattr(replay, "OneByOne", counted)
    kinds = [type(runner.steps(*student(seed), keep=4)).__name__ for seed in range(3)]
    assert kinds == ["Replayed"] * 3
    assert taken == [0] and not capsys.readouterr().out  # the graphs have the memory: none is kept


def test_what_cannot_be_captured_is_taken_one_by_one(gpu, capsys, monkeypatch):
    logits = Model.logits

    def waiting(self, parameters, images):
        return logits(self, parameters, images) * float(images.detach().sum().isfinite())

    monkeypatch.setattr(Model, "logits", waiting)
    runner = Runner(captures=True)
    for seed in range(3):
        one, start, rate = student(seed)
        steps = runner.steps(one, start, rate, keep=4)
        assert isinstance(steps, OneByOne) and len(steps.walk.graphs) == 4
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "steps of students are taken one by one" in said
    assert "called a synchronizing CUDA operation" in said


def spoilt(monkeypatch, change):
    """Replays that ``change`` has spoilt after they were captured."""
    init = Replay.__init__

    def spoiling(self, *given):
        init(self, *given)
        change(self)

    monkeypatch.setattr(Replay, "__init__", spoiling)


def assert_given_up(capsys, seen):
    runner = Runner(captures=True)
    assert isinstance(runner.steps(*student(1), keep=4), OneByOne)
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and seen in said
    assert isinstance(runner.steps(*student(2), keep=4), OneByOne)
    assert not capsys.readouterr().out


@pytest.mark.parametrize("lost", ["labels", "seen", "start", "rate", "cotangent"])
def test_a_graph_that_does_not_read_a_value_is_found_out(gpu, capsys, monkeypatch, lost):
    """One whose tensor is not the one into which new values are copied."""

    def change(made):
        own = getattr(made, lost)
        setattr(made, lost, [x.clone() for x in own] if isinstance(own, list) else own.clone())

    spoilt(monkeypatch, change)
    assert_given_up(capsys, "a CUDA graph of them differs by")


def test_a_wrong_derivative_by_the_rate_is_found_out(gpu, capsys, monkeypatch):
    """Which alone is not among the images'."""

    def change(made):
        images, by_rate = made.back.made
        made.back = made.back._replace(made=(images, by_rate.clone()))

    spoilt(monkeypatch, change)
    assert_given_up(capsys, "in a derivative")


def test_no_value_of_the_first_student_is_kept(gpu):
    """Its images would stay on the GPU as long as the job."""
    one, start, _ = student(0)
    seen = weakref.ref(one.shown[0])
    made = Replay(one, start, keep=4)
    del one
    gc.collect()
    assert seen() is None and made.forth.made[0] is not start
