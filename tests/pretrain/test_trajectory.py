"""Expert buffers against a plain loop; what shards keep, and which of them are refused."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from dd.artifacts.headers import read_header
from dd.artifacts.tensors import load_tensors, save_tensors
from dd.command import main
from dd.data import augment
from dd.data.dataset import load_dataset
from dd.errors import DDError
from dd.networks.build import create
from dd.pretrain.agreement import agreement
from dd.pretrain.trajectories import ShardWriter, Trajectories, layout
from dd.rng import generator
from dd.training.train import accuracy

SPEC = "convnet:depth=1,width=8"
EPOCHS = 3
CPU = torch.device("cpu")
STRATEGY = "crop_scale_rotate"
RECIPE = {
    "epochs": EPOCHS, "lr": 0.05, "momentum": 0.5, "weight-decay": 0.001, "batch": 200,
    "augment": STRATEGY,
}  # fmt: skip


def buffer(data, out, **changes):
    """The command of a small buffer."""
    options = RECIPE | {"network": SPEC, "experts": 2, "seed": 4} | changes
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    where = ["--data", str(data), "--out", str(out), "--device", "cpu", "--threads", "1"]
    return ["buffer", *where, *words]


def rows(path):
    """The trajectories [experts, epochs + 1, P] of a shard."""
    return load_file(path)["trajectories"]


@pytest.fixture(scope="module")
def shard(digits_file, tmp_path_factory):
    """Two experts, trained in turn."""
    path = tmp_path_factory.mktemp("shards") / "shard.safetensors"
    assert main(buffer(digits_file, path)) == 0
    return path


def flat(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def fresh(number, seed=4):
    """Expert ``number`` as it starts."""
    return create(SPEC, 1, (8, 8), 10, generator=generator(seed, "buffer", number, "weights"))


def plain_expert(dataset, number):
    """SGD with momentum and weight decay written out: the parameters after each epoch."""
    network, order = fresh(number), generator(4, "buffer", number, "order")
    images, labels = dataset.train.take(slice(None)), dataset.train.labels
    parameters, momentum = list(network.parameters()), None
    path = [flat(network)]
    for _ in range(EPOCHS):
        for indices in torch.randperm(len(labels), generator=order).split(200):
            transform = augment.draw(STRATEGY, order, len(indices), (8, 8))
            logits = network(augment.apply(transform, images[indices]))
            gradients = torch.autograd.grad(F.cross_entropy(logits, labels[indices]), parameters)
            with torch.no_grad():
                steps = [g + 0.001 * p for g, p in zip(gradients, parameters, strict=True)]
                if momentum is None:
                    momentum = steps
                else:
                    momentum = [0.5 * m + s for m, s in zip(momentum, steps, strict=True)]
                for p, m in zip(parameters, momentum, strict=True):
                    p -= 0.05 * m
        path.append(flat(network))
    return torch.stack(path), accuracy(network.eval(), dataset.test)


def test_experts_are_those_of_a_plain_loop(shard, digits):
    found, header = rows(shard), read_header(shard)
    assert found.shape == (2, EPOCHS + 1, 10 * (8 * 4 * 4) + 10 + 8 * 9 + 3 * 8)
    for number, expert in enumerate(header["experts"]):
        expected, percent = plain_expert(digits, number)
        torch.testing.assert_close(found[number], expected, rtol=1e-4, atol=1e-5)
        assert expert == {"number": number, "test_accuracy": pytest.approx(percent, abs=0.3)}
    assert (found[:, 1:] != found[:, :-1]).any(2).all()  # every epoch moves


def test_the_first_row_is_the_network_as_it_was_drawn(shard):
    found = rows(shard)
    for number in range(2):
        assert torch.equal(found[number, 0], flat(fresh(number)))
    assert not torch.equal(found[0, 0], found[1, 0])


def test_together_is_in_turn(shard, digits_file, tmp_path):
    out = tmp_path / "together.safetensors"
    assert main(buffer(digits_file, out, together="yes")) == 0
    torch.testing.assert_close(rows(out), rows(shard), rtol=1e-4, atol=1e-5)
    assert read_header(out)["together"] is True and read_header(shard)["together"] is False


def test_an_expert_is_the_same_in_any_shard(shard, digits_file, tmp_path):
    out = tmp_path / "one.safetensors"
    assert main(buffer(digits_file, out, first=1, experts=1)) == 0
    assert torch.equal(rows(out)[0], rows(shard)[1])
    assert [expert["number"] for expert in read_header(out)["experts"]] == [1]
    assert main(buffer(digits_file, out, first=1, experts=1, seed=5)) == 0
    assert not torch.equal(rows(out)[0, 0], rows(shard)[1, 0])


def test_the_header_says_what_the_shard_is(shard, digits):
    header = read_header(shard)
    assert header["kind"] == "trajectories" and header["network"] == SPEC
    assert header["fingerprint"] == digits.fingerprint and header["whitening"] == "none"
    assert header["layout"] == [[name, shape] for name, shape in layout(fresh(0))]
    settings = {name.replace("-", "_"): value for name, value in RECIPE.items()}
    assert settings.items() <= header["settings"].items()
    assert header["provenance"]["wall_seconds"] >= 0
    assert [path.name for path in shard.parent.iterdir()] == [shard.name]  # no checkpoint is left


def test_bfloat16_is_half_the_file_and_recorded(shard, digits_file, tmp_path):
    out = tmp_path / "half.safetensors"
    assert main(buffer(digits_file, out, stored="bfloat16")) == 0
    whole, half = rows(shard), rows(out)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, whole.bfloat16())  # trained in float32, rounded when stored
    assert shard.stat().st_size - out.stat().st_size == 2 * whole.numel()
    assert read_header(out)["settings"]["stored"] == "bfloat16"
    segment = opened(out).segment(SPEC, 1, 1, 2)
    assert segment.start.dtype == torch.float32
    assert torch.equal(segment.target, half[1, 3].float())


def test_zca_experts_see_whitened_images(digits_file, tmp_path):
    data, out = tmp_path / "zca.safetensors", tmp_path / "shard.safetensors"
    assert main(["prepare", "--source", "digits", "--zca", "--out", str(data)]) == 0
    assert main(buffer(data, out, whitening="zca", experts=1)) == 0
    expected, _ = plain_expert(load_dataset(data, whitening="zca"), 0)
    torch.testing.assert_close(rows(out)[0], expected, rtol=1e-4, atol=1e-5)
    assert read_header(out)["whitening"] == "zca"


def test_a_diverging_expert_is_told(digits_file, tmp_path, capsys):
    out = tmp_path / "shard.safetensors"
    assert main(buffer(digits_file, out, lr=1e30)) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and not out.exists()
    for word in ("diverged", "after 1 epochs", "learning rate 1e+30", "use a smaller one"):
        assert word in said
    assert main(buffer(digits_file, out)) == 0  # and can be tried again


def test_a_full_disk_is_told_before_the_first_epoch(digits_file, tmp_path, monkeypatch, capsys):
    def full(descriptor, offset, length):
        assert length > 2 * (EPOCHS + 1) * 4 * 1000  # room for all rows is asked for
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    out = tmp_path / "deep" / "shard.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        patch.setattr("dd.pretrain.buffer.train_epoch", None)
        assert main(buffer(digits_file, out)) == 1
    assert capsys.readouterr().err == f"error: {out}: the disk is full; free space and run again\n"
    assert list(out.parent.iterdir()) == []
    assert main(buffer(digits_file, out)) == 0


# Shards as a distillation reads them.

FACTS = {
    "version": "1", "dataset": "digits", "fingerprint": "abc", "whitening": "none",
    "width_factor": 1.0,
}  # fmt: skip
LAYOUT = [("weight", [2, 3]), ("bias", [2])]


def made(path: Path, numbers=(0, 1), epochs=3, network="mlp", seed=0, more=0, **changes) -> Path:
    """A shard whose value i of expert n at epoch t is 100 n + 10 t + i + ``more``."""
    facts = {**FACTS, "network": network, "seed": seed, "settings": {}, "layout": LAYOUT, **changes}
    writer = ShardWriter(path, (len(numbers), epochs + 1, 8), "float32", facts)
    for row, number in enumerate(numbers):
        for epoch in range(epochs + 1):
            writer.write(row, epoch, torch.arange(8.0) + 100 * number + 10 * epoch + more)
    entries = [{"number": number, "test_accuracy": 1.0} for number in numbers]
    writer.finish(facts | {"experts": entries})
    return path


def opened(*paths: Path, **facts) -> Trajectories:
    """The shards at ``paths``, read as what the first of them says it is of (and ``facts``)."""
    header = read_header(paths[0])
    return Trajectories(paths, {key: header.get(key) for key in FACTS} | facts, CPU)


def test_segments_are_rows_of_the_shards(tmp_path):
    """Experts are numbered through the shards, whatever the order these are given in."""
    late = made(tmp_path / "a.safetensors", numbers=(2, 3))
    early = made(tmp_path / "b.safetensors", numbers=(0, 1), epochs=5)
    trajectories = opened(late, early)
    for index, epoch, length in [(0, 0, 1), (1, 3, 2), (2, 1, 2), (3, 0, 3)]:
        segment = trajectories.segment("mlp", index, epoch, length)
        assert (segment.expert, segment.epoch) == (index, epoch)
        assert torch.equal(segment.start, torch.arange(8.0) + 100 * index + 10 * epoch)
        assert torch.equal(segment.target, segment.start + 10 * length)


def test_segments_are_drawn_from_all_that_is_allowed(tmp_path):
    trajectories = opened(made(tmp_path / "a.safetensors", numbers=range(4), epochs=6))
    stream = generator(0)
    drawn = [trajectories.draw("mlp", 3, 4, 2, stream) for _ in range(300)]
    assert {(s.expert, s.epoch) for s in drawn} == {(n, t) for n in range(3) for t in range(4)}
    assert all(torch.equal(s.target, s.start + 20) for s in drawn)
    again = generator(0)
    assert all(
        (s.expert, s.epoch) == (t.expert, t.epoch)
        for s, t in zip(
            drawn, (trajectories.draw("mlp", 3, 4, 2, again) for _ in drawn), strict=True
        )
    )


def resident(kind: str) -> int:
    """Bytes of this process in memory: ``VmRSS`` now, ``VmHWM`` at most since :func:`forget`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(f"{kind}:")]
    return int(line.split()[1]) * 1024


def forget() -> None:
    """Let the kernel count the most resident memory from now on."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("the kernel does not tell the peak of a part of a process")


def test_a_row_is_read_and_no_more(tmp_path, monkeypatch):
    """Rows of 4 MB out of a shard of 600 MB (with holes: it takes no room on the disk)."""
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: None)
    count, shape = 1_000_000, (15, 10)
    facts = {**FACTS, "network": "mlp", "seed": 0, "settings": {}, "layout": [("w", [count])]}
    path = tmp_path / "large.safetensors"
    writer = ShardWriter(path, (*shape, count), "float32", facts)
    ends = torch.rand(2, count, generator=generator(0))
    writer.write(14, 7, ends[0])
    writer.write(14, 9, ends[1])
    for index in range(5):
        for epoch in (0, 1):
            writer.write(index, epoch, ends[epoch])
    writer.finish(facts | {"experts": [{"number": n, "test_accuracy": 1.0} for n in range(15)]})
    assert path.stat().st_size > 600e6
    trajectories = opened(path)
    forget()
    before = resident("VmRSS")
    segment = trajectories.segment("mlp", 14, 7, 2)
    for index in range(5):
        trajectories.segment("mlp", index, 0, 1)
    assert torch.equal(segment.start, ends[0]) and torch.equal(segment.target, ends[1])
    assert resident("VmHWM") - before < 150e6


def test_a_long_list_of_experts_fits_the_header(tmp_path):
    """The header grows when the shard is finished: by an entry an expert."""
    numbers = range(1000)
    path = made(tmp_path / "many.safetensors", numbers=numbers, epochs=0)
    assert len(opened(path).shards["mlp"][0].numbers) == 1000
    assert torch.equal(rows(path)[999, 0], torch.arange(8.0) + 99_900)


@pytest.mark.parametrize(
    ("key", "theirs", "words"),
    [
        ("version", "0", "code version of the buffer is 0, of this distillation 1"),
        ("dataset", "mnist", "dataset of the buffer is mnist, of this distillation digits"),
        ("fingerprint", "xyz", "contents of the dataset of the buffer is xyz, .* distillation abc"),
        ("whitening", "zca", "whitening of the buffer is zca, of this distillation none"),
        ("width_factor", 0.5, "width factor of the buffer is 0.5, of this distillation 1.0"),
    ],
)
def test_a_buffer_of_something_else_is_refused(key, theirs, words, tmp_path):
    path = made(tmp_path / "a.safetensors", **{key: theirs})
    with pytest.raises(DDError, match=words) as caught:
        Trajectories([path], FACTS, CPU)
    assert str(caught.value).startswith(f"{path}: ") and "make the buffer again" in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("lenet", LAYOUT, 2, 3), "trajectories of lenet are needed, those given are of mlp"),
        (("mlp", LAYOUT, 3, 3), "hold 2 experts of mlp, but the setting experts asks for 3"),
        (("mlp", LAYOUT, 2, 4), "has 3 epochs, but max_start_epoch and expert_epochs ask for 4"),
        (("mlp", LAYOUT[:1], 2, 3), r"not those of mlp here \(8 and 6\)"),
        (("mlp", LAYOUT[::-1], 2, 3), "parameters are not those of mlp here"),
    ],
)
def test_too_little_is_refused(arguments, words, tmp_path):
    trajectories = opened(made(tmp_path / "a.safetensors"))
    trajectories.check("mlp", LAYOUT, 2, 3)
    with pytest.raises(DDError, match=words):
        trajectories.check(*arguments)


def test_an_expert_is_taken_once(tmp_path):
    one, other = made(tmp_path / "a.safetensors"), made(tmp_path / "b.safetensors", (1, 2))
    with pytest.raises(DDError, match=f"{other}: holds expert 1, as {one} does"):
        opened(one, other)
    with pytest.raises(DDError, match=f"{one}: is given twice"):
        opened(one, one)
    elsewhere = made(tmp_path / "c.safetensors", network="lenet")
    assert set(opened(one, elsewhere).describe()) == {"mlp", "lenet"}


def test_other_weights_are_other_experts(tmp_path):
    """Whatever they were trained with: a distillation goes on with its own only."""
    one, again, other = (
        opened(made(tmp_path / f"{name}.safetensors", more=more)).describe()
        for name, more in (("a", 0), ("b", 0), ("c", 1))
    )
    assert one == again != other
    assert len(one["mlp"][0]["digest"]) == 16


def broken(folder: Path) -> dict[str, Path]:
    """Files that are no shards, by what is wrong with them."""
    paths = {
        name: folder / f"{name}.safetensors"
        for name in ("other", "foreign", "hollow", "bare", "cut")
    }
    save_tensors(paths["other"], "synthetic", {"labels": torch.zeros(1)}, {})
    save_file({"trajectories": torch.zeros(1, 2, 8)}, paths["foreign"])
    save_tensors(paths["hollow"], "trajectories", {"rows": torch.zeros(1)}, FACTS)
    save_tensors(paths["bare"], "trajectories", {"trajectories": torch.zeros(1, 2, 8)}, FACTS)
    whole = made(paths["cut"]).read_bytes()
    paths["cut"].write_bytes(whole[:-10])
    return paths | {"absent": folder / "absent.safetensors", "folder": folder}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("other", "is a synthetic file, one of trajectories is needed"),
        ("foreign", "is no file of trajectories"),
        ("hollow", "is no file of trajectories"),
        ("bare", "is no file of trajectories"),
        ("cut", "truncated, broken or no safetensors file"),
        ("absent", "no such file"),
        ("folder", "no such file"),
    ],
)
def test_what_is_no_shard_is_refused(fault, words, tmp_path):
    path = broken(tmp_path)[fault]
    with pytest.raises(DDError, match=words) as caught:
        Trajectories([path], FACTS, CPU)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_buffer_and_its_dataset_agree(digits):
    """What the stage writes is what a distillation asks for."""
    assert agreement(digits, 0.5) == {
        "version": agreement(digits, 1.0)["version"],
        "dataset": "digits",
        "fingerprint": digits.fingerprint,
        "whitening": "none",
        "width_factor": 0.5,
    }


def test_an_unfinished_shard_is_not_there(digits_file, tmp_path, monkeypatch):
    """Rows lie in a hidden file until the last one is written; a checkpoint of them goes on."""
    out = tmp_path / "shard.safetensors"

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "finish", killed)
        assert main(buffer(digits_file, out, **{"checkpoint-every": 0})) == 130
    assert not out.exists()
    _, header = load_tensors(tmp_path / ".shard.safetensors.state", "checkpoint")
    assert header["at"]["epoch"] == EPOCHS - 1 and json.dumps(header["facts"])
