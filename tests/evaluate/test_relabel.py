"""Views, the soft labels of them on disk, and the protocol that learns from them."""

import dataclasses
import math
import os

import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms.functional import resized_crop

from dd.artifacts.headers import read_header
from dd.artifacts.row_files import RowWriter
from dd.artifacts.tensors import load_tensors, save_tensors
from dd.artifacts.text import load_rows
from dd.command import main
from dd.data import synthetic
from dd.data.views import ViewSettings, draw, draw_boxes, resized_crops
from dd.errors import DDError
from dd.evaluate import soft_labels
from dd.evaluate.protocols import Soft, SoftSettings, Task
from dd.evaluate.soft_labels import LabelledViews, SoftLabels
from dd.networks.build import create
from dd.pretrain import frozen
from dd.rng import generator
from dd.training.recipe import Recipe
from tests.support.timeless import timeless, without_times

MIXED = ViewSettings(crop=0.2, flip=0.5, cutmix=0.7, batch=8)
LITTLE = ["--device", "cpu", "--threads", "1"]


def teacher(path, digits, spec):
    """A file of an untrained network, as `python -m dd pretrain` writes it."""
    network = create(spec, 1, (8, 8), 10, generator=generator(7, spec), width_factor=1.0)
    facts = {
        "dataset": digits.name, "whitening": "none", "fingerprint": digits.fingerprint,
        "width_factor": 1.0, "network": spec, "origin": "trained", "seed": 0, "settings": {},
        "accuracy": 12.5, "least_accuracy": 0.0,
    }  # fmt: skip
    frozen.save(path, network, facts)
    return path


@pytest.fixture(scope="module")
def files(digits, digits_file, tmp_path_factory):
    """A synthetic set of 30 images, one of 20, and two teachers."""
    folder = tmp_path_factory.mktemp("soft")
    for name, ipc in (("set", 3), ("other", 2)):
        images = torch.randn(10 * ipc, 1, 8, 8, generator=generator(ipc))
        labels = torch.arange(10).repeat_interleave(ipc)
        made = synthetic.SyntheticSet(images, labels, header={"objective": "sre2l"})
        synthetic.save(folder / f"{name}.safetensors", made)
    for name, spec in (("lenet", "lenet"), ("mlp", "mlp")):
        teacher(folder / f"{name}.safetensors", digits, spec)
    return {"data": digits_file} | {path.stem: path for path in folder.glob("*.safetensors")}


def relabel(files, out, *more, teachers=("lenet",)):
    """The command of a small relabelling that checkpoints after every view."""
    words = ["--synthetic", files["set"], "--data", files["data"], "--out", out, "--views", "3"]
    words += ["--crop", "0.2", "--flip", "0.5", "--cutmix", "0.7", "--batch", "8"]
    words += ["--checkpoint-every", "0"]
    words += ["--teacher", *(files[name] for name in teachers)]
    return ["relabel", *map(str, words), *LITTLE, *more]


def evaluate(files, labels, out, *more):
    words = ["--synthetic", files["set"], "--data", files["data"], "--out", out, "--arch", "mlp"]
    words += ["--protocol", "soft", "--labels", labels, "--epochs", "5", "--networks", "2"]
    words += ["--batch", "8"]
    return ["evaluate", *map(str, words), "--width-factor", "0.1", *LITTLE, *more]


@pytest.fixture(scope="module")
def labels(files, tmp_path_factory):
    path = tmp_path_factory.mktemp("labels") / "all.safetensors"
    assert main(relabel(files, path)) == 0
    return path


def loaded(path):
    return synthetic.load(path).images


# views


def test_crops_against_torchvision():
    images = torch.rand(6, 3, 12, 16, generator=generator(0))
    boxes = torch.tensor(
        [[0, 0, 12, 16], [3, 5, 1, 1], [2, 0, 7, 9], [11, 15, 1, 1], [0, 7, 12, 2], [5, 3, 6, 13]]
    )
    flipped = torch.tensor([False, True, True, False, True, False])
    found = resized_crops(images, boxes, flipped)
    for image, box, flip, view in zip(images, boxes.tolist(), flipped, found, strict=True):
        expected = resized_crop(image, *box, size=[12, 16], antialias=True)
        torch.testing.assert_close(view, expected.flip(2) if flip else expected)
    assert torch.equal(found[0], images[0])
    double = torch.rand(2, 1, 4, 4, generator=generator(1), dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: resized_crops(x, torch.tensor([[1, 0, 2, 3]]), torch.tensor([True])),
        double.requires_grad_(True),
    )


def test_boxes_are_drawn_as_they_should_be():
    boxes = draw_boxes(generator(0), 20000, (64, 64), 0.08)
    top, left, height, width = boxes.unbind(1)
    assert top.min() == 0 and (top + height).max() == 64 and (left + width).max() == 64
    area, ratio = (height * width) / 64**2, width / height
    assert 0.07 < area.min() < 0.09 and area.max() == 1
    whole = (height == 64) & (width == 64)
    assert whole.float().mean() < 0.01  # what fits nowhere in ten tries, and what is drawn so
    assert ratio.min() > 0.72 and ratio.max() < 1.39
    assert ratio.log().mean().abs() < 0.01  # as often high as wide
    # uniform in [.08, 1]: the mean would be .54, but large boxes are the ones that do not fit
    assert 0.46 < area.mean() < 0.54
    inside = (top.float() / (64 - height).clamp(min=1))[height < 40]
    assert abs(inside.mean() - 0.5) < 0.01
    assert torch.equal(
        draw_boxes(generator(0), 3, (4, 9), 1.0), torch.tensor([[0, 0, 4, 9]]).expand(3, -1)
    )


def test_views_are_the_same_in_any_order():
    """CutMix included, against a loop over images; to the last bit whatever the batch."""
    images = torch.randn(40, 3, 8, 10, generator=generator(0))
    views = draw(5, 2, 40, (8, 10), MIXED)
    plain = torch.cat(
        [resized_crops(images[n : n + 1], views.boxes[n : n + 1], views.flipped[n : n + 1])
         for n in range(40)]
    )  # fmt: skip
    expected = plain.clone()
    for n, (top, left, bottom, right) in enumerate(views.holes.tolist()):
        expected[n, :, top:bottom, left:right] = plain[views.partners[n], :, top:bottom, left:right]
    assert torch.equal(views.apply(images, torch.arange(40)), expected)
    order = torch.randperm(40, generator=generator(1))
    again = draw(5, 2, 40, (8, 10), MIXED)
    shuffled = torch.cat([again.apply(images, part) for part in order.split(7)])
    assert torch.equal(shuffled, expected[order])
    assert 0.2 < views.flipped.float().mean() < 0.8
    assert views.partners.sort().values.equal(torch.arange(40))
    for seed, epoch in ((5, 3), (6, 2)):
        assert not torch.equal(draw(seed, epoch, 40, (8, 10), MIXED).boxes, views.boxes)


def test_a_batch_has_one_box_and_is_mixed_within_itself():
    """As in SRe2L's code; 60 images are seven batches of 8 and one of 4."""
    shares, mixed, tops = [], 0, set()
    for epoch in range(60):
        views = draw(1, epoch, 60, (16, 16), MIXED)
        assert views.order.sort().values.equal(torch.arange(60))
        for part in views.order.split(8):
            holes = {tuple(hole) for hole in views.holes[part].tolist()}
            assert len(holes) == 1
            ((top, left, bottom, right),) = holes
            mixed += (bottom > top) and (right > left)
            shares.append((bottom - top) * (right - left) / 16**2)
            tops.add(top)
            assert set(views.partners[part].tolist()) == set(part.tolist())
    assert mixed / len(shares) == pytest.approx(0.7, abs=0.15)  # small boxes round to nothing
    assert max(shares) > 0.6 and len(tops) > 8
    orders = [draw(1, epoch, 60, (16, 16), MIXED).order for epoch in (0, 1)]
    assert not torch.equal(*orders)
    every = ViewSettings(crop=1.0, flip=0.0, cutmix=1.0, batch=100)
    assert len(draw(1, 0, 60, (16, 16), every).holes.unique(dim=0)) == 1


# labels


@pytest.mark.parametrize("keep", [0, 3, 9])
def test_what_is_kept_of_the_labels(keep):
    full = (4 * torch.randn(6, 10, generator=generator(0))).log_softmax(1)
    found = soft_labels.expand(soft_labels.compact(full, keep), 10)
    for row, kept in zip(full.exp().tolist(), found.exp().tolist(), strict=True):
        largest = sorted(row, reverse=True)[: keep or 10]
        rest = sum(sorted(row)[: 10 - keep]) / (10 - keep) if keep else 0
        expected = [p if p in largest else rest for p in row]
        assert kept == pytest.approx(expected, rel=0.02)  # float16 of the logarithm
    stored = soft_labels.compact(full, keep)
    bytes_a_view = sum(t.numel() * t.element_size() for t in stored.values()) / 6
    assert bytes_a_view == (4 * keep + 2 if keep else 20)


def test_labels_are_the_teachers_answers(files, labels, digits):
    """Each epoch's batch is the view that was labelled, in any order; epochs go round."""
    network = frozen.load(files["lenet"], digits, 1.0, "cpu").network
    images = loaded(files["set"])
    views = LabelledViews(SoftLabels(labels), images, 10)
    indices = torch.randperm(30, generator=generator(0)).view(2, 15)
    batches = []
    for epoch in (0, 1, 2, 3):
        batch = views.batch(indices, [], epoch)
        assert batch.shape == (2, 15, 1, 8, 8)
        found = views.at(indices, batch, epoch)
        expected = network(batch.flatten(0, 1)).log_softmax(1).unflatten(0, (2, 15))
        torch.testing.assert_close(found, expected.detach(), rtol=1e-3, atol=1e-3)
        batches.append(batch)
    assert torch.equal(batches[0], batches[3]) and not torch.equal(batches[0], batches[1])
    header = read_header(labels)
    assert header["views"] == 3 and header["teachers"][0]["accuracy"] == 12.5


def test_several_teachers_and_few_classes(files, digits, tmp_path):
    """The mean of their probabilities; the most probable classes of it."""
    both = relabel(files, tmp_path / "two.safetensors", teachers=("mlp", "lenet"))
    assert main([*both, "--keep", "4"]) == 0
    found = SoftLabels(tmp_path / "two.safetensors")
    assert found.teacher == "mlp.lenet" and found.header["keep"] == 4
    views = LabelledViews(found, loaded(files["set"]), 10)
    every = torch.arange(30)[None]
    batch = views.batch(every, [], 1)
    answers = [
        frozen.load(files[name], digits, 1.0, "cpu").network(batch[0]).softmax(1)
        for name in ("mlp", "lenet")
    ]
    mean = (answers[0] + answers[1]) / 2
    top, classes = mean.topk(4, 1)
    rest = ((1 - top.sum(1, keepdim=True)) / 6).expand(-1, 10)
    given = views.at(every, batch, 1)[0].exp()
    torch.testing.assert_close(given, rest.scatter(1, classes, top), rtol=0.01, atol=1e-4)


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.mark.parametrize("call", [0, 1, 3])
def test_killed_and_started_again(call, files, labels, tmp_path, monkeypatch, capsys):
    out, calls = tmp_path / "all.safetensors", iter(range(100))
    pwrite = os.pwrite

    def dying(*arguments):
        if next(calls) == call:
            raise Killed
        return pwrite(*arguments)

    # labels in four parts and their checksum: a view may be left half written
    monkeypatch.setattr("dd.networks.memory.CPU_PIECE", 8)
    whole = tmp_path / "whole.safetensors"
    assert main(relabel(files, whole)) == 0
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", dying)
        with pytest.raises(Killed):
            main(relabel(files, out))
    assert not out.exists()
    assert main(relabel(files, out)) == 0
    assert ("going on after 1 views" in capsys.readouterr().out) == (call == 3)
    (one, told), (other, telling) = (load_tensors(path, "labels") for path in (out, whole))
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
    del told["provenance"], telling["provenance"]
    assert told == telling
    assert {path.name for path in tmp_path.iterdir()} == {"all.safetensors", "whole.safetensors"}


def test_a_checkpoint_of_other_labels_is_set_aside(files, tmp_path, monkeypatch, capsys):
    out = tmp_path / "all.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(RowWriter, "finish", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            main(relabel(files, out, "--seed", "1"))
    assert main(relabel(files, out)) == 0
    assert "starting anew" in capsys.readouterr().out
    assert main(relabel(files, tmp_path / "alone.safetensors")) == 0
    found = [load_tensors(path, "labels")[0] for path in tmp_path.glob("*.safetensors")]
    assert torch.equal(*(tensors["log_probabilities"] for tensors in found))


# the protocol


@pytest.mark.parametrize("factor", soft_labels.FACTORS)
def test_loss_against_sums(factor):
    student = torch.randn(4, 5, generator=generator(0), dtype=torch.float64).requires_grad_(True)
    labels = (3 * torch.randn(4, 5, generator=generator(1), dtype=torch.float64)).log_softmax(1)
    total = 0.0
    for s, t in zip(student.tolist(), labels.tolist(), strict=True):
        p, q = ([math.exp(v / 20) for v in row] for row in (t, s))
        p, q = [v / sum(p) for v in p], [v / sum(q) for v in q]
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / 4
    found = soft_labels.loss(student, labels, 20.0, factor)
    assert found.item() == pytest.approx(total * (400 if factor == "squared" else 1), rel=1e-9)
    assert torch.autograd.gradcheck(lambda x: soft_labels.loss(x, labels, 20.0, factor), student)


def test_training_against_a_plain_loop(files, labels, digits):
    """Networks under the protocol, alone and stacked, against SGD written out."""
    images = loaded(files["set"])
    recipe = Recipe(
        epochs=4, lr=0.5, momentum=0.0, weight_decay=0.0, batch=8, augment="none",
        schedule="constant",
    )  # fmt: skip
    task = Task(
        dataset=digits, images=images, labels=torch.arange(10).repeat_interleave(3), recipe=recipe,
        seed=4, width_factor=0.1, together=False, strict=True, soft=SoftLabels(labels),
    )  # fmt: skip
    alone = Soft(SoftSettings(temperature=2.0), task).train("mlp", [0, 1])
    stacked = dataclasses.replace(task, together=True)
    together = Soft(SoftSettings(temperature=2.0), stacked).train("mlp", [0, 1])
    answers = load_tensors(labels, "labels")[0]["log_probabilities"].float()
    for number, (one, other) in enumerate(zip(alone, together, strict=True)):
        network = task.networks("mlp", [number])[0]
        for epoch in range(4):
            drawn = draw(0, epoch % 3, 30, (8, 8), MIXED)
            views = drawn.apply(images, torch.arange(30))
            for part in drawn.order.split(8):  # the batches that were mixed, for every network
                p = (answers[epoch % 3, part] / 2).softmax(1)
                q = (network(views[part]) / 2).log_softmax(1)
                loss = 4 * F.kl_div(q, p, reduction="batchmean")
                gradients = torch.autograd.grad(loss, list(network.parameters()))
                with torch.no_grad():
                    for p, g in zip(network.parameters(), gradients, strict=True):
                        p -= 0.5 * g
        for mine, found, side in zip(*(n.parameters() for n in (network, one, other)), strict=True):
            torch.testing.assert_close(found, mine, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(side, mine, rtol=1e-4, atol=1e-5)


def test_what_is_not_mixed_comes_in_an_order_of_each_network(files, tmp_path):
    assert main(relabel(files, tmp_path / "l.safetensors", "--cutmix", "0")) == 0
    views = LabelledViews(SoftLabels(tmp_path / "l.safetensors"), loaded(files["set"]), 10)
    found = torch.cat(list(views.batches([generator(0), generator(1)], 7, 0)), 1)
    assert torch.equal(found[0], torch.randperm(30, generator=generator(0)))
    assert torch.equal(found[1], torch.randperm(30, generator=generator(1)))


def test_evaluation_of_a_set(files, labels, tmp_path, monkeypatch):
    """By the command; killed after its first network it goes on to the same rows."""
    out, alone = tmp_path / "e.csv", tmp_path / "alone.csv"
    assert main(evaluate(files, labels, alone, "--teacher", "lenet", "--views", "3")) == 0
    rows = load_rows(alone)
    assert len(rows) == 2 and rows[0]["accuracy"] != rows[1]["accuracy"]
    told = {"protocol": "soft", "teacher": "lenet", "teacher_accuracy": "12.5", "views": "3"}
    told |= {"temperature": "20.0", "kl_factor": "squared", "cutmix": "0.7", "augment": "none"}
    assert rows[0].items() >= told.items()
    with monkeypatch.context() as patch:
        train = Task.train
        calls = iter(range(9))

        def dying(*arguments, **named):
            if next(calls):
                raise Killed
            return train(*arguments, **named)

        patch.setattr(Task, "train", dying)
        with pytest.raises(Killed):
            main(evaluate(files, labels, out))
    assert main(evaluate(files, labels, out)) == 0
    assert timeless(out) == without_times(rows)


def test_what_does_not_fit_is_refused(files, labels, tmp_path, capsys):
    out = tmp_path / "e.csv"
    other = {**files, "set": files["other"]}
    hard = [word for word in evaluate(files, labels, out) if word not in ("--protocol", "soft")]
    cases = [
        (evaluate(other, labels, out), "contents of the synthetic set", "dd relabel"),
        (evaluate(files, files["lenet"], out), "is a network file", "labels"),
        (evaluate(files, files["set"], out), "is a synthetic file", "labels"),
        (evaluate(files, labels, out, "--teacher", "mlp"), "--teacher is mlp", "lenet"),
        (evaluate(files, labels, out, "--views", "4"), "--views is 4", "3"),
        (evaluate(files, labels, out, "--teacher", "lenot"), "lenot", "did you mean 'lenet'"),
        (evaluate(files, labels, out, "--temperature", "0"), "temperature", "above 0"),
        (evaluate(files, labels, out, "--batch", "16"), "--batch is 16", "evaluate with --batch 8"),
        (evaluate(files, labels, out, "--arch-settings", "mlp@batch=9"), "--batch is 9", "batch 8"),
        (hard, "--labels", "leave it out"),
        ([w for w in evaluate(files, labels, out) if w not in ("--labels", str(labels))],
         "--labels", "dd relabel"),
        (relabel(files, tmp_path / "l.csv"), "must end in .safetensors"),
        (relabel(files, tmp_path / "l.safetensors", "--views", "0"), "views is 0", "at least 1"),
        (relabel(files, tmp_path / "l.safetensors", teachers=("set",)), "set.safetensors"),
    ]  # fmt: skip
    for command, *words in cases:
        assert main(command) == 2, command
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and all(word in said for word in words), said
    assert not any(tmp_path.iterdir())


def test_labels_of_views_that_are_no_longer_drawn_so_are_refused(labels, files, tmp_path):
    """Before, each view had a box of its own, and the header said nothing of batches."""
    tensors, header = load_tensors(labels, "labels")
    for number, settings in enumerate(({"crop": 0.2, "flip": 0.5, "cutmix": 0.7}, None)):
        path = tmp_path / f"{number}.safetensors"
        save_tensors(path, "labels", tensors, header | {"settings": settings})
        with pytest.raises(DDError, match=r"views that are no longer drawn like this.*dd relabel"):
            SoftLabels(path)


def test_a_whole_set_is_one_batch_of_whatever_size(files, tmp_path):
    out = tmp_path / "l.safetensors"
    assert main(relabel(files, out, "--batch", "30")) == 0
    SoftLabels(out).check_batch(256)
    with pytest.raises(DDError, match="batches of 30"):
        SoftLabels(out).check_batch(29)


def test_a_file_with_other_shapes_is_refused(labels, files, digits, tmp_path):
    tensors, header = load_tensors(labels, "labels")
    shorter = {name: tensor[:2] for name, tensor in tensors.items()}
    save_tensors(tmp_path / "short.safetensors", "labels", shorter, header)
    with pytest.raises(DDError, match=r"\[2, 30, 10\], it must be \[3, 30, 10\]"):
        SoftLabels(tmp_path / "short.safetensors").check(digits, files["set"], 30)
