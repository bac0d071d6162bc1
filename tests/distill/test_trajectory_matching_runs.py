"""MTT and IADD from the command line: what they write, diverging ones, what is refused."""

from __future__ import annotations

import json

import numpy
import pytest
import torch

from dd.artifacts.headers import read_header
from dd.artifacts.tensors import load_tensors, save_tensors
from dd.command import main
from dd.data import synthetic
from dd.distill.objectives import base
from dd.distill.objectives.iadd import WEIGHTS
from dd.distill.parametrisations.pixels import Pixels
from dd.distill.student import Student
from dd.report.read.vectors import load_extras
from dd.rng import generator
from tests.support.matching import FAST, LEARNED, PARAMETERS, SMALL, SPEC, made, make


def distill(data, shards, out, objective="mtt", **changes):
    """The command of a small distillation."""
    options = {"network": SPEC, "ipc": 1, "objective": objective, "threads": 1, "device": "cpu"}
    options |= SMALL | changes
    words = []
    for name, value in options.items():
        values = value if isinstance(value, list) else [value]
        words += [f"--{name.replace('_', '-')}", *map(str, values)]
    buffers = ["--buffers", *map(str, shards)] if shards else []
    return ["distill", "--data", str(data), "--out", str(out), *buffers, *words]


def metrics(out, *dropped):
    lines = (out / "metrics.jsonl").read_text().splitlines()
    dropped = {"seconds", *dropped}
    return [{k: v for k, v in json.loads(line).items() if k not in dropped} for line in lines]


def test_without_weights_iadd_is_mtt(digits_file, shard, tmp_path):
    """All that a short run makes has the same bytes."""
    common = {"snapshots": [0, 2, 5], "batch_syn": 4}
    given = {"mtt": {}, "iadd": {"weights": "none"}}
    for name, changes in given.items():
        command = distill(digits_file, [shard], tmp_path / name, name, **common, **changes)
        assert main(command) == 0
    for n in common["snapshots"]:
        ours, theirs = (
            load_tensors(tmp_path / name / f"it{n}.safetensors", "synthetic")[0] for name in given
        )
        assert ours.keys() == theirs.keys() and "learned_lr" in ours
        assert all(ours[name].numpy().tobytes() == theirs[name].numpy().tobytes() for name in ours)
    rows = metrics(tmp_path / "mtt")
    assert rows == metrics(tmp_path / "iadd", "weight_low", "weight_high")
    assert len(rows) == 5 and len({row["loss"] for row in rows}) == 5
    assert all(row["expert"] in (0, 1) and row["start_epoch"] in (0, 1, 2) for row in rows)


@pytest.mark.parametrize("objective", ["mtt", "iadd"])
def test_memory_changes_no_byte(objective, digits_file, shard, tmp_path, monkeypatch):
    """Neither of the images nor of what is learned, whatever is kept."""
    kept = []
    walk = Student.walk

    def counted(student, start, rate, keep=0):
        kept.append(keep)
        return walk(student, start, rate, keep)

    monkeypatch.setattr(Student, "walk", counted)
    found = []
    for memory in ("0", "20"):
        out = tmp_path / memory
        command = distill(digits_file, [shard], out, objective, snapshots=[3], memory=memory)
        assert main(command) == 0
        found.append((out / "it3.safetensors", max(kept)))
        kept.clear()
    (flat, none), (fast, most) = found
    assert (none, most) == (0, SMALL["student_steps"])
    ours, theirs = (load_tensors(path, "synthetic")[0] for path in (flat, fast))
    assert all(ours[name].numpy().tobytes() == theirs[name].numpy().tobytes() for name in ours)


def test_what_fits_into_the_memory_is_kept(digits, shard, monkeypatch):
    """Beside what has been used yet, and room for two more graphs."""
    objective = make("mtt", digits, shard)
    canvas = Pixels(objective.start(), objective.labels(), 1.0, objective.optimizer)
    student = objective._student(
        *objective.networks.draw(0, generator(0))[1:], canvas, generator(0)
    )
    start = torch.zeros(PARAMETERS)
    each = student.graph_bytes(start)
    monkeypatch.setattr(base, "peak_memory", lambda device: 1e9)
    for room, expected in ((0.0, 0), (2.9, 0), (3.1, 1), (5.5, 3), (6.1, 4), (1000.0, 4)):
        objective.kept.clear()
        objective.memory = 1e9 + room * each
        assert objective.keep(SPEC, student, start) == expected, room


def test_weights_make_a_difference(digits_file, shard, tmp_path):
    """Each mode goes its own way, and those with learned weights keep them in the set."""
    found = {}
    for mode in WEIGHTS:
        options = {"weights": mode, "snapshots": [3], **FAST}
        command = distill(digits_file, [shard], tmp_path / mode, "iadd", **options)
        assert main(command) == 0
        path = tmp_path / mode / "it3.safetensors"
        found[mode] = synthetic.load(path).images.numpy().tobytes()
        assert bool(load_extras(path, "importance")) == (mode in LEARNED)
        assert load_extras(path, "difference")[SPEC].shape == (PARAMETERS,)
    assert len(set(found.values())) == len(WEIGHTS)


@pytest.mark.parametrize(
    ("changes", "words", "iteration", "cure"),
    [
        # a rate far too small is to grow, and grows at once
        ({"lr_student": 1e-5, "lr_lr": 1e6}, ("rate ran away from 1e-05 to",), 1, {"lr_lr": 1e-9}),
        ({"lr_student": 1e30}, ("the loss is", "smaller --lr-img or --lr-student"), 1,
         {"lr_student": 0.01}),
        ({"lr_img": 1e30, "lr_lr": 0.0}, ("the loss is", "smaller --lr-img"), 2, {"lr_img": 1.0}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("objective", ["mtt", "iadd"])
def test_divergence_is_told_and_can_be_retried(
    objective, changes, words, iteration, cure, digits_file, shard, tmp_path, capsys
):
    out, common = tmp_path / "out", {"snapshots": [0, 4], "augment": "none"}
    assert main(distill(digits_file, [shard], out, objective, **common | changes)) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith(f"error: {out}: diverged")
    last = out / f"last-it{iteration - 1}.safetensors"
    settings = [f"{name}={value}" for name, value in changes.items()]
    for word in (*words, *settings, f"iteration {iteration}:", "student_steps=4", str(last)):
        assert word in said
    kept = synthetic.load(last)
    assert kept.header["iteration"] == iteration - 1 and kept.images.isfinite().all()
    if iteration == 1:  # nothing has moved yet
        first = synthetic.load(out / ".checkpoint" / "it0.safetensors")
        assert torch.equal(kept.images, first.images) and kept.learned_lr == first.learned_lr
    extras = load_extras(last, "importance")
    assert bool(extras) == (objective == "iadd")
    assert all(numpy.isfinite(values).all() for values in extras.values())
    retried = common | changes | cure
    assert main(distill(digits_file, [shard], out, objective, **retried)) == 0
    assert synthetic.load(out / "it4.safetensors").learned_lr > 0
    assert not last.exists()  # it was of other settings


def test_images_that_overflow_are_not_kept(digits_file, shard, tmp_path, monkeypatch, capsys):
    """The loss tells it an iteration later, when there is nothing left to keep."""
    monkeypatch.setattr(Pixels, "images", lambda self: self._images.detach() * float("inf"))
    given = distill(digits_file, [shard], tmp_path, snapshots=[2])
    assert main(given) == 2
    assert "; its images are not finite any more, so none are kept\n" in capsys.readouterr().err
    assert not list(tmp_path.glob("last-it*"))


@pytest.mark.parametrize(
    ("mode", "rate"), [("raw", "lr_weights"), ("normalised", "lr_softmax"), ("layer", "lr_layer")]
)
def test_weights_that_run_away_are_told(mode, rate, digits_file, shard, tmp_path, capsys):
    command = {"weights": mode, "snapshots": [6]}
    given = distill(digits_file, [shard], tmp_path, "iadd", **command, **{rate: 3e38})
    assert main(given) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{tmp_path}: diverged at iteration" in said
    assert "the weights ran away (from " in said and f"smaller --{rate.replace('_', '-')}" in said
    given = distill(digits_file, [shard], tmp_path, "iadd", **command, **{rate: 1e-3})
    assert main(given) == 0


@pytest.fixture(scope="module")
def zca(tmp_path_factory):
    """Digits with a whitening, and a buffer in its space."""
    folder = tmp_path_factory.mktemp("zca")
    data = folder / "digits.safetensors"
    assert main(["prepare", "--source", "digits", "--zca", "--out", str(data)]) == 0
    return data, made(data, folder / "shard.safetensors", whitening="zca")


def test_whitened(zca, tmp_path):
    data, shard = zca
    assert main(distill(data, [shard], tmp_path, whitening="zca", snapshots=[2])) == 0
    assert synthetic.load(tmp_path / "it2.safetensors").whitening == "zca"


@pytest.fixture(scope="module")
def pool(digits_file, tmp_path_factory):
    """A pool of the buffered ConvNet and an MLP, and a buffer of that MLP."""
    folder = tmp_path_factory.mktemp("pool")
    (folder / "pool.yaml").write_text(
        f"title: two\nmain: '{SPEC}'\nprobability: 0.5\nothers: ['mlp:width=8']\n"
    )
    return folder / "pool.yaml", made(digits_file, folder / "mlp.safetensors", "mlp:width=8")


def test_a_pool_matches_the_experts_of_all_its_networks(pool, digits_file, shard, tmp_path, capsys):
    definition, other = pool
    options = {"snapshots": [8], "weights": "layer", "pool": definition}

    def command(shards, out):
        words = distill(digits_file, shards, out, "iadd", **options)
        at = words.index("--network")
        return words[:at] + words[at + 2 :]

    assert main(command([shard, other], tmp_path / "both")) == 0
    assert {row["network"] for row in metrics(tmp_path / "both")} == {SPEC, "mlp:width=8"}
    path = tmp_path / "both" / "it8.safetensors"
    assert load_extras(path, "importance").keys() == {SPEC, "mlp:width=8"}
    assert main(command([shard], tmp_path / "one")) == 2
    said = capsys.readouterr().err
    assert f"trajectories of mlp:width=8 are needed, those given are of {SPEC}" in said


# What is refused: the buffers given, changes of the command, and words of the message.
REFUSED = {
    "none": ([], {}, ["--buffers", "mtt needs shards", "python -m dd buffer"]),
    "none for iadd": ([], {"objective": "iadd"}, ["--buffers", "iadd needs shards"]),
    "not matched": (
        ["shard"], {"objective": "dm"}, ["--buffers", "dm matches no trajectories", "leave it out"],
    ),
    "selection": (["shard"], {"objective": "random"}, ["random matches no trajectories"]),
    "missing": (["absent"], {}, ["absent.safetensors", "no such file"]),
    "dataset file": (["data"], {}, ["is a dataset file", "trajectories is needed"]),
    "network": (
        ["shard"], {"network": "mlp"}, ["trajectories of mlp are needed", f"given are of {SPEC}"],
    ),
    "width": (
        ["shard"], {"width_factor": 0.5},
        ["shard0.safetensors", "width factor of the buffer is 1.0", "distillation 0.5"],
    ),
    "whitening": (
        ["whitened"], {}, ["contents of the dataset of the buffer is", "-zca", "of this"],
    ),
    "contents": (["other"], {}, ["other.safetensors", "contents of the dataset of the buffer is"]),
    "experts": (["shard"], {"experts": 3}, ["hold 2 experts", "the setting experts asks for 3"]),
    "epochs": (
        ["shard"], {"expert_epochs": 2}, ["has 3 epochs", "max_start_epoch", "ask for 4"],
    ),
    "twice": (["shard", "shard"], {}, ["shard0.safetensors", "is given twice"]),
    "copy": (["shard", "copy"], {}, ["copy.safetensors", "holds expert 0, as", "shard0"]),
    "batch": (
        ["shard"], {"batch_syn": 11}, ["batch_syn is 11", "has 10 images", "0 takes all"],
    ),
    "mode": (["shard"], {"objective": "iadd", "weights": "norm"}, ["weights of iadd 'norm'"]),
    "rate": (["shard"], {"lr_student": 0}, ["lr_student is 0.0", "above 0"]),
    "steps": (["shard"], {"student_steps": 0}, ["student_steps is 0", "at least 1"]),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(
    case, digits_file, shard, zca, tmp_path, tmp_path_factory, capsys
):
    given, changes, words = REFUSED[case]
    files = {"shard": shard, "data": digits_file, "whitened": zca[1]}
    if "other" in given:  # the same name, other contents: one image changed
        tensors, header = load_tensors(digits_file, "dataset")
        files["other"] = other_contents(tensors, header, tmp_path_factory.mktemp("other"))
    if "copy" in given:
        files["copy"] = tmp_path_factory.mktemp("copy") / "copy.safetensors"
        files["copy"].write_bytes(shard.read_bytes())
    shards = [files.get(name, tmp_path / f"{name}.safetensors") for name in given]
    out = tmp_path / "out"
    options = {"objective": "mtt"} | changes
    capsys.readouterr()
    command = distill(digits_file, shards, out, **options)
    if options["objective"] in ("dm", "random"):  # they have none of these settings
        command = command[: command.index("--experts")]
    if options["objective"] == "random":  # nor a network
        at = command.index("--network")
        del command[at : at + 2]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    for word in words:
        assert word in said
    assert not out.exists()


def other_contents(tensors, header, folder):
    """A buffer made with digits of which one pixel is another."""
    tensors["train_images"][0, 0, 0, 0] += 1
    data = folder / "digits.safetensors"
    save_tensors(data, "dataset", tensors, {k: header[k] for k in ("name", "label", "classes")})
    return made(data, folder / "other.safetensors")


def test_what_was_matched_is_in_the_provenance(digits_file, shard, tmp_path):
    assert main(distill(digits_file, [shard], tmp_path, snapshots=[1])) == 0
    buffers = read_header(tmp_path / "it1.safetensors")["buffers"]
    (held,) = buffers[SPEC]
    assert held["experts"] == [0, 1] and held["seed"] == 0
    assert held["settings"] == read_header(shard)["settings"]
