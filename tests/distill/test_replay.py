"""Steps of students as CUDA graphs, on a pretended GPU: what they give, when they are not used."""

from __future__ import annotations

import pytest
import torch

from dd.data import augment
from dd.distill import replay
from dd.distill.replay import OneByOne, Replay, Runner
from dd.distill.student import Student
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
    made = Replay(*student(0, strategy), keep)
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
        taken.append(words[0])
        return OneByOne(*words, **named)

    monkeypatch.setattr(replay, "OneByOne", counted)
    kinds = [type(runner.steps("a", *student(seed), keep=4)).__name__ for seed in range(4)]
    assert kinds == ["OneByOne", "Replayed", "Replayed", "Replayed"]
    assert len(taken) == 2  # the first student's, and those that the second one's are compared with
    assert runner.replays.keys() == {"a"} and not capsys.readouterr().out


def test_what_cannot_be_captured_is_taken_one_by_one(gpu, capsys, monkeypatch):
    logits = Student.logits

    def waiting(self, parameters, images):
        return logits(self, parameters, images) * float(images.detach().sum().isfinite())

    monkeypatch.setattr(Student, "logits", waiting)
    runner = Runner(captures=True)
    for seed in range(3):
        one, start, rate = student(seed)
        steps = runner.steps("a", one, start, rate, keep=4)
        assert isinstance(steps, OneByOne)
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "steps of a are taken one by one" in said
    assert "not permitted when stream is capturing" in said


@pytest.mark.parametrize("lost", ["labels", "seen", "start", "rate", "cotangent"])
def test_a_replay_of_other_values_is_found_out(gpu, capsys, monkeypatch, lost):
    """One whose input is not what it reads: its own stays as it was."""
    runner = Runner(captures=True)
    runner.steps("a", *student(0), keep=4)
    made = runner.replays["a"]
    own = getattr(made, lost)
    apart = [x.clone() for x in own] if isinstance(own, list) else own.clone()
    forth, back = made._forth, made._back

    def reading(work):
        """``work`` on the values of the first student, whatever was copied since."""
        now = getattr(made, lost)
        setattr(made, lost, apart)
        found = work()
        setattr(made, lost, now)
        return found

    made.forth = made.forth._replace(replay=_again(made.forth.made, lambda: reading(forth)))
    made.back = made.back._replace(replay=_again(made.back.made, lambda: reading(back)))
    one, start, rate = student(1)
    steps = runner.steps("a", one, start, rate, keep=4)
    assert isinstance(steps, OneByOne) and runner.replays["a"] is None
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "a CUDA graph of them differs by" in said
    assert isinstance(runner.steps("a", *student(2), keep=4), OneByOne)
    assert not capsys.readouterr().out


def _again(made, work):
    """A replay that does ``work`` and writes over ``made``."""

    def flat(results):
        return [t for r in results for t in (r if isinstance(r, list) else [r])]

    def replay():
        for mine, new in zip(flat(made), flat(work()), strict=True):
            if mine is not new:
                mine.copy_(new)

    return replay
