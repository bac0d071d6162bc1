"""Every stage on a pretended GPU: no device is mixed up, results are those of the CPU, and the host
waits and copies only a few times an iteration, batch or epoch."""

from __future__ import annotations

import pytest
import torch

from benchmarks.every_stage import (
    COMMANDS,
    DISTILLATIONS,
    OTHERS,
    differences,
    results,
    target,
    words,
)
from dd.command import main
from dd.data import fit
from dd.distill import replay
from dd.distill.objectives import OBJECTIVES, base, dc, dm
from dd.distill.parametrisations import PARAMETRISATIONS
from dd.distill.regularisers import REGULARISERS
from dd.evaluate.protocols import PROTOCOLS
from dd.networks import init
from dd.networks.architectures import NETWORKS
from dd.plan.jobs import STAGES
from dd.training import train
from tests.support.networks import TORCHVISION, small
from tests.support.pretended_gpu import Traffic, pretended_gpu
from tests.support.resuming import Killed, stop_at

QUICK = {  # one of each kind; the others take longer together
    "dsa", "dm", "mtt", "iadd, raw", "dd", "frepo", "sre2l", "herding", "dm+glad+metadd",
    "pretrain", "buffer, stacked", "generator", "evaluate, stacked", "evaluate, kd",
    "evaluate, soft, mixed", "relabel, mixed", "cams", "erase",
}  # fmt: skip
QUICKER = {"dsa", "dm", "iadd, raw", "dd", "frepo", "sre2l", "buffer, stacked", "evaluate, stacked"}
# torch computes the derivative of SiLU, which generators use, in another way for unknown devices
ROUNDED = {"generator": 2e-3, "generator, zca": 2e-3, "dm+glad": 1e-5}
ROUNDED |= dict.fromkeys(("sre2l+glad, random start", "dm+glad+metadd"), 1e-5)
# in a CUDA graph the rate is a tensor, by which a step is multiplied before it is subtracted
CAPTURED = [name for name in COMMANDS if name.startswith(("mtt", "iadd"))]
ROUNDED |= dict.fromkeys(CAPTURED, 1e-5)


def some(names, quick=QUICK):
    """All ``names``; those that are not in ``quick`` are slow."""
    return [n if n in quick else pytest.param(n, marks=pytest.mark.slow) for n in names]


@pytest.fixture
def run(stage_files, tmp_path, monkeypatch):
    """``run(command, device)``: the path of its results and its traffic."""
    monkeypatch.setattr("dd.runtime.process.take_gpu", lambda: None)
    count = 0

    def running(command, device="cuda", out=None):
        nonlocal count
        count += 1
        out = out or target(command, tmp_path / str(count))
        argv = words(command, stage_files, out, device)
        if device == "cpu":
            assert main(argv) == 0
            return out, Traffic()
        with pretended_gpu() as traffic:
            assert main(argv) == 0
        return out, traffic

    return running


def assert_alike(name, one, other):
    """Bit for bit, or, where it rounds in another way, almost."""
    different = differences(one, other)
    if name not in ROUNDED:
        assert not different
    for what in different:
        if isinstance(one[what], torch.Tensor):
            worst = (one[what].double() - other[what].double()).abs().max()
            assert worst <= ROUNDED[name] * one[what].double().abs().max()


@pytest.mark.parametrize("name", some(COMMANDS))
def test_results_are_those_of_the_cpu(name, run):
    here, there = (results(run(COMMANDS[name], device)[0]) for device in ("cpu", "cuda"))
    assert_alike(name, here, there)


@pytest.mark.parametrize("name", some(CAPTURED, {"iadd, raw"}))
def test_without_cuda_graphs_nothing_is_rounded(name, run):
    command = f"{COMMANDS[name]} --memory 0"
    here, there = (results(run(command, device)[0]) for device in ("cpu", "cuda"))
    assert not differences(here, there)


@pytest.mark.parametrize("name", ["dsa", pytest.param("dc, batch norm", marks=pytest.mark.slow)])
def test_one_class_after_the_other(name, run, monkeypatch):
    """A real batch of all classes that is too large for the device, or for the CPU."""
    monkeypatch.setattr(dc, "TOGETHER_PIXELS", 0)
    monkeypatch.setattr(dc, "TOGETHER_VALUES", 0)
    called = []
    monkeypatch.setattr(dc, "match_together", called.append)
    here, there = (results(run(COMMANDS[name], device)[0]) for device in ("cpu", "cuda"))
    assert_alike(name, here, there)
    assert not called


@pytest.mark.slow
@pytest.mark.parametrize("spec", [*(n for n in NETWORKS if n not in TORCHVISION), *TORCHVISION])
def test_every_network(spec):
    """Logits and gradients of each network; average pooling rounds in another way on the CPU."""

    def passed(device):
        network = small(spec).to(device)
        images = torch.linspace(-1, 1, 3 * 3 * 32 * 32).view(3, 3, 32, 32).to(device)
        logits = network(images)
        loss = train.cross_entropy(logits, torch.arange(3, device=device), None, 0)
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        return [tensor.detach().cpu() for tensor in (logits, *gradients)]

    with pretended_gpu():
        there = passed("cuda")
    for one, other in zip(there, passed("cpu"), strict=True):
        scale = max(1e-3, other.abs().max().item())
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * scale)


RESUMED = {  # at which of the files that are put in place the job dies
    "dsa": 4, "iadd, normalised": 4, "dd": 4, "frepo": 4, "sre2l": 4, "dm+glad+metadd": 4,
    "pretrain": 2, "buffer, stacked": 2, "buffer, apart": 2, "generator": 2,
    "relabel, mixed": 2, "evaluate, kd, augmented": 2,
}  # fmt: skip


@pytest.mark.parametrize("name", some(RESUMED, {"dd", "frepo", "sre2l"}))
def test_killed_and_started_again(name, run, tmp_path, monkeypatch, capsys):
    command = COMMANDS[name]
    if not command.startswith("evaluate"):
        command += " --checkpoint-every 0"
    reference, _ = run(command)
    out = tmp_path / f"again{reference.suffix}"
    with pytest.raises(Killed), monkeypatch.context() as patch:
        stop_at(patch, RESUMED[name])
        run(command, out=out)
    capsys.readouterr()
    run(command, out=out)
    said = capsys.readouterr().out
    assert "starting anew" not in said
    assert "going on" in said or command.startswith("evaluate")  # which keeps networks, and is mute
    assert not differences(results(out), results(reference))


def per(run, command, steps):
    """The traffic of one of the ``steps`` iterations or epochs by which two commands differ."""
    (_, short), (_, long) = (run(command.format(count)) for count in (1, 1 + steps))
    more = long - short
    assert all(n % steps == 0 for n in (more.reads, more.copies)), f"\n{more}"
    return more.reads // steps, more.copies // steps, f"\n{more}"


# Reads and copies of one iteration, with four classes of two images each.
# - one read: the loss, with all that is looked at beside it; a pool asks for the network, too
# - one copy: indices of real images and parameters of augmentations
# - dc, dsa: two matchings (one copy each, one read together), and between them a training of two
#   epochs in three batches (one read; one copy an epoch for the order, one a batch if augmented)
# - dd: a read for everything; initial parameters that are fixed are drawn on the CPU
# - mtt, iadd: loss and weights, the gradient, its derivative by the rate; two ends of a segment
# - metadd: one read an update; one copy for the images that it looks at
ITERATION = {
    "dc": (2, 4),
    "dsa": (2, 10),
    "dc, batch norm": (2, 4),
    "dc, noise, zca": (2, 4),
    "dc, pool": (3, 4),
    "dm": (1, 1),
    "dm, all operations": (1, 1),
    "dm, batch norm": (1, 1),
    "mtt": (3, 3),
    "iadd, raw": (3, 3),
    "iadd, normalised": (3, 3),
    "iadd, layer": (3, 3),
    "iadd, prune": (3, 3),
    "iadd, none": (3, 3),
    "dd": (1, 1),
    "frepo": (1, 1),
    "frepo, fixed labels, pool": (2, 1),
    "dd, learned labels": (1, 1),
    "dd, fixed start, pool": (2, 2),
    "sre2l": (1, 1),
    "dm+glad": (1, 1),
    "sre2l+glad, random start": (1, 1),
    "dm+metadd": (2, 2),
    "dc+metadd, signed": (4, 6),
    "mtt+metadd, logits": (4, 4),
    "dm+glad+metadd": (2, 2),
}


@pytest.mark.parametrize("name", some(ITERATION, QUICKER))
def test_an_iteration(name, run):
    command = f"{DISTILLATIONS[name]} --checkpoint-every 1000000 --snapshots {{}}"
    reads, copies, lines = per(run, command, 2)
    assert reads <= ITERATION[name][0] and copies <= ITERATION[name][1], lines


@pytest.mark.parametrize(("more", "captured"), [("", True), ("--memory 0", False)])
def test_steps_of_students_are_captured_if_there_is_memory_for_it(run, monkeypatch, more, captured):
    compared, errors = [], replay.Replay.errors

    def seen(*arguments):
        compared.append(errors(*arguments))
        return compared[-1]

    monkeypatch.setattr(replay.Replay, "errors", seen)
    run(f"{COMMANDS['mtt']} {more}")
    assert len(compared) == captured and all(max(found) < 1e-3 for found in compared)


def test_the_number_of_classes_does_not_matter(run, stage_files, tmp_path):
    """One copy an iteration, be it for four classes or for ten."""
    digits = stage_files | {"DATA": tmp_path / "digits.safetensors"}
    assert main(["prepare", "--source", "digits", "--out", str(digits["DATA"])]) == 0
    found = []
    for count in (1, 3):
        command = f"{DISTILLATIONS['dm']} --snapshots {count} --checkpoint-every 1000000"
        with pretended_gpu() as traffic:
            assert main(words(command, digits, tmp_path / str(count), "cuda")) == 0
        found.append(traffic)
    more = found[1] - found[0]
    assert (more.reads, more.copies) == (2, 2), f"\n{more}"


# Reads and copies of an epoch of three batches (pretrain, buffer, generator: of 60 images in
# batches of 20; evaluate: of 8 images in batches of 3).
# - one copy for the order, and, if images are augmented, one a batch, for all stacked networks
# - where two networks are trained in turn, or two architectures stacked, twice that
# - pretrain, buffer, generator look at the loss of an epoch; a buffer reads its experts
# - the generator's noise is drawn on the CPU: one copy a batch
# - soft labels: those of the view, and how it is seen
EPOCH = {
    "pretrain": (1, 4),
    "pretrain, adamw, zca": (1, 4),
    "buffer, stacked": (2, 4),
    "buffer, zca, bfloat16": (2, 4),
    "generator": (1, 7),
    "evaluate, stacked": (0, 2 * 4),
    "evaluate, apart": (0, 4 * 1),
    "evaluate, all operations": (0, 4 * 4),
    "evaluate, kd": (0, 3 * 1),
    "evaluate, kd, augmented": (0, 6 * 4),
    "evaluate, probabilities": (0, 1),
    "evaluate, soft": (0, 4),
    "evaluate, soft, mixed": (0, 2 * 2),
}


@pytest.mark.parametrize("name", some(EPOCH, QUICKER))
def test_an_epoch(name, run):
    command = COMMANDS[name].replace("--epochs 2", "--epochs {}")
    if not command.startswith("evaluate"):
        command += " --checkpoint-every 1000000"
    reads, copies, lines = per(run, command, 2)
    assert reads <= EPOCH[name][0] and copies <= EPOCH[name][1], lines


@pytest.mark.parametrize(("name", "most"), [("relabel, mixed", (1, 1)), ("relabel", (2, 1))])
def test_a_view_of_soft_labels(name, most, run):
    """The labels are read, by tensor; the view is copied."""
    command = OTHERS[name].replace("--views 2", "--views {}") + " --checkpoint-every 1000000"
    reads, copies, lines = per(run, command, 2)
    assert reads <= most[0] and copies <= most[1], lines


@pytest.mark.parametrize(("name", "reads"), [("erase", 1), ("evaluate, apart", 0)])
def test_a_piece_of_the_test_split(name, reads, run, monkeypatch):
    """Measuring looks at values once a piece at most, and copies nothing: 3 pieces against 1."""
    found = []
    for size in (12, 4):
        monkeypatch.setattr("dd.networks.memory.piece_of", lambda each, device, n=size: n)
        found.append(run(OTHERS[name])[1])
    more = found[1] - found[0]
    assert more.reads <= 2 * reads and more.copies == 0, f"\n{more}"


# --- what would be noticed


def labels_of_the_host(self):
    return torch.arange(self.classes).repeat_interleave(self.ipc)


def drawn_wherever_the_tensor_is(tensor, generator, draw):
    draw(tensor)


def keys_without_a_copy(pixels):
    return [image.tobytes() for image in (pixels * 255).round().to(torch.uint8).numpy()]


def own_stream(self, number, synthetic):
    torch.rand(1, device=self.device, generator=self.streams.host)


FAULTS = {
    "labels on the CPU": ("sre2l", base.Objective, "labels", labels_of_the_host),
    "weights from a CPU stream": ("evaluate, stacked", init, "_fill", drawn_wherever_the_tensor_is),
    "NumPy": ("evaluate, stacked", fit, "_keys", keys_without_a_copy),
    "a CPU stream for device numbers": ("dm", dm.DistributionMatching, "iteration", own_stream),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught(fault, run, monkeypatch):
    name, where, attribute, wrong = FAULTS[fault]
    monkeypatch.setattr(where, attribute, wrong)
    with pytest.raises((RuntimeError, TypeError), match=r"same device|generator|to numpy"):
        run(COMMANDS[name])


def test_a_planted_look_is_counted(run, monkeypatch):
    """One ``item`` more an iteration, and one copy for each class."""
    iteration = dm.DistributionMatching.iteration

    def looking(self, number, synthetic):
        synthetic.images().sum().item()
        for label in range(self.classes):
            torch.tensor([label], device=self.device)
        return iteration(self, number, synthetic)

    monkeypatch.setattr(dm.DistributionMatching, "iteration", looking)
    command = f"{DISTILLATIONS['dm']} --checkpoint-every 1000000 --snapshots {{}}"
    reads, copies, _ = per(run, command, 2)
    assert (reads, copies) == (ITERATION["dm"][0] + 1, ITERATION["dm"][1] + 4)


def test_the_list_has_every_part():
    """A new objective, stage or protocol belongs on the list of commands."""
    used = " ".join(COMMANDS.values()) + " --protocol hard "  # the default
    for option, names in (("objective", OBJECTIVES), ("protocol", PROTOCOLS)):
        assert [name for name in names if f"--{option} {name} " not in used] == []
    for option, names in (("parametrisation", PARAMETRISATIONS), ("regulariser", REGULARISERS)):
        assert [name for name in names if f"--{option} {name}" not in used] == []
    begun = {command.partition(" ")[0] for command in COMMANDS.values()}
    assert begun == {stage.stage for stage in STAGES} - {"prepare", "import"}  # on no device
