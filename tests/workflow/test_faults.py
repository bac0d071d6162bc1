"""Stages killed at random moments, started twice, on a full disk, with damaged input (CPU)."""

from __future__ import annotations

import multiprocessing
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dd.artifacts.atomic import sweep
from dd.artifacts.headers import read_header
from dd.artifacts.lock import alone as locked
from dd.artifacts.row_files import RowWriter
from dd.command import STAGES, main
from dd.errors import DDError
from tests.support.others import a_set, dc_form
from tests.support.runs import flip
from tests.support.tables import claimed
from tests.support.timeless import timeless

KILLS = 10
DEADLINE = 60  # seconds for what should take one
# Children of a process that has imported what the stages need and computed nothing: a start takes
# milliseconds, and no thread of torch's is forked.
FORKS = multiprocessing.get_context("forkserver")
NEEDED = ("pytest", "sklearn.datasets", "torch._dynamo")  # torch imports that at the first step
FORKS.set_forkserver_preload([*NEEDED, *(module for module, _ in STAGES.values())])
NETWORK = "convnet:depth=1,norm=batch,width=8"
OTHER = "vit:depth=1,heads=1,width=8"
CPU = "--threads 1 --device cpu"
OFTEN = f"--data DATA --checkpoint-every 0 {CPU}"
COMMANDS = {
    "prepare": "--source digits --zca --out OUT/digits.safetensors --threads 1",
    "buffer": f"--network {NETWORK} --experts 2 --epochs 6 --out OUT/shard.safetensors {OFTEN}",
    "pretrain": f"--network {NETWORK} --epochs 12 --out OUT/network.safetensors {OFTEN}",
    "generator": f"--width 8 --epochs 4 --out OUT/generator.safetensors {OFTEN}",
    "distill": f"--objective dm --ipc 1 --batch-real 16 --network {NETWORK} --snapshots 0 10 25 "
    f"--out OUT/set {OFTEN}",
    "relabel": f"--synthetic SET --teacher ONE TWO --views 60 --out OUT/l.safetensors {OFTEN}",
    "evaluate": "--synthetic SET --data DATA --arch mlp lenet --networks 4 --epochs 30 "
    f"--width-factor 0.1 --out OUT/hard.csv {CPU}",
    "cams": f"--synthetic SET --data DATA --pretrained ONE TWO --out OUT/cams.safetensors {CPU}",
    "erase": f"--data DATA --pretrained ONE TWO --regions-from {NETWORK}.{OTHER} "
    f"--out OUT/erasing.csv {CPU}",
    "import": "THEIRS --data DATA --out OUT/x.safetensors",
    "export": "SET --data DATA --out OUT/pictures",
    "configure": "--run tiny.yaml --workflow workflow --out OUT/config.json",
    "table": "--config results/tiny/config.json --out OUT/table.csv "
    "--table workflow/config/tables/modelpool_ablation.yaml",
    "figure": "--config results/tiny/config.json --out OUT/figure.png "
    "--figure workflow/config/figures/modelpool_ablation.yaml",
    "record": "--config results/tiny/config.json --out OUT/run.json",
    "index": "--config OUT/config.json --out OUT/README.md",  # of a copy of the run
    "evidence": "CLAIMED --out OUT/evidence.md",
    "export-metrics": "results/tiny --out OUT/events",
}
ONLY_READ = {"estimate", "verify", "inspect"}
KEPT = {  # what a stage goes on from
    "buffer": ".shard.safetensors.state",
    "pretrain": ".network.safetensors.state",
    "generator": ".generator.safetensors.state",
    "distill": "set/.checkpoint/state.safetensors",
    "relabel": ".l.safetensors.state",
    "evaluate": ".hard.csv.partial.json",
}


class Killed(BaseException):
    """In place of SIGKILL."""


@pytest.fixture(scope="module")
def files(digits_file, finished_run, tmp_path_factory) -> dict[str, str]:
    """What commands read, by the words that stand for it; ``RUN`` is where they are started."""
    folder = tmp_path_factory.mktemp("files")
    found = {"DATA": digits_file, "RUN": finished_run, "SET": folder / "set/it0.safetensors"}
    words = f"distill --objective random --ipc 1 --data {digits_file} --out {folder}/set {CPU}"
    assert main([*words.split(), "--snapshots", "0"]) == 0
    found["THEIRS"] = dc_form(folder / "theirs.pt", a_set())
    for name, network in (("ONE", NETWORK), ("TWO", OTHER)):
        found[name] = folder / f"{name}.safetensors"
        words = f"pretrain --network {network} --epochs 1 --data {digits_file} {CPU}"
        assert main([*words.split(), "--out", str(found[name])]) == 0
    found["CLAIMED"] = claimed(folder)
    return {name: str(path) for name, path in found.items()}


@pytest.fixture(scope="module")
def alone(files, tmp_path_factory):
    """``alone(stage)``: the folder of an undisturbed process, made once, and its seconds."""
    first = FORKS.Process(target=int)  # waits for the imports, which no stage's time should count
    first.start()
    first.join()
    made = {}

    def run(stage):
        if stage not in made:
            out, started = tmp_path_factory.mktemp(stage) / "out", time.monotonic()
            process = begin(stage, files, out)
            process.join()
            assert process.exitcode == 0, said(out)
            made[stage] = out, time.monotonic() - started
        return made[stage]

    return run


def command(stage, files, out) -> list[str]:
    words = [files.get(word, word) for word in COMMANDS[stage].split()]
    words = [str(out) + word.removeprefix("OUT") if "OUT/" in word else word for word in words]
    return [stage, *words]


def begin(stage, files, out, log=None):
    """Start a stage that writes below ``out``; what it says goes to ``log``, or a file beside."""
    words = command(stage, files, out)
    if stage == "index" and not out.exists():
        shutil.copytree(Path(files["RUN"], "results/tiny"), out)
    process = FORKS.Process(target=_run, args=(words, files["RUN"], log or f"{out}.log"))
    process.start()
    return process


def _run(words: list[str], folder: str, log: str) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.chdir(folder)
    sys.exit(main(words))


def said(out: Path) -> list[str]:
    """The lines that the processes of ``out`` wrote."""
    log = Path(f"{out}.log")
    return log.read_text().splitlines() if log.exists() else []


def contents(folder: Path) -> dict[str, object]:
    """All below a folder, hidden files included, without provenance and wall times."""
    paths = sorted(folder.rglob("*"))
    return {str(p.relative_to(folder)): None if p.is_dir() else _content(p) for p in paths}


def _content(path: Path) -> object:
    if path.suffix == ".safetensors":
        header = {k: v for k, v in read_header(path).items() if k != "provenance"}
        tensors = load_file(path).items()
        return header, {n: t.reshape(-1).view(torch.uint8).numpy().tobytes() for n, t in tensors}
    if path.suffix == ".csv":
        return timeless(path)
    if path.suffix == ".jsonl":
        return [line.partition(', "seconds"')[0] for line in path.read_text().splitlines()]
    return path.read_bytes()


def test_every_stage_that_writes_is_here():
    assert COMMANDS.keys() == STAGES.keys() - ONLY_READ


@pytest.mark.slow
@pytest.mark.parametrize("stage", COMMANDS)
def test_killed_at_random_moments(stage, files, alone, tmp_path):
    """Whenever SIGKILL comes, the next start ends with the same bytes, and nothing stays behind."""
    (expected, seconds), out = alone(stage), tmp_path / "out"
    chance, kills, inside = random.Random(stage), 0, stage not in KEPT
    for _ in range(10 * KILLS):
        enough = kills >= KILLS and inside
        process = begin(stage, files, out)
        process.join(DEADLINE if enough else chance.uniform(0, seconds))
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            assert not enough, f"not done after {DEADLINE} s: {said(out)}"
            kills += 1
            inside = inside or (out / KEPT[stage]).exists()
            continue
        assert process.exitcode == 0, said(out)
        assert contents(out) == contents(expected)
        if enough:
            return
        shutil.rmtree(out)  # it was faster than its end: once more
    pytest.fail(f"{kills} kills, none of them in the work: {said(out)}")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["distill", "buffer", "relabel"])
def test_those_that_fill_the_same_files_wait_for_each_other(stage, files, alone, tmp_path):
    out = tmp_path / "out"
    words = command(stage, files, out)
    with locked(Path(words[words.index("--out") + 1])):
        logs = [tmp_path / f"{n}.log" for n in range(2)]
        both = [begin(stage, files, out, log) for log in logs]
        until = time.monotonic() + DEADLINE
        while not all(map(waits, logs)):
            assert time.monotonic() < until, [log.read_text() for log in logs if log.exists()]
            time.sleep(0.01)
        assert all(process.is_alive() for process in both)
        assert not (out / KEPT[stage]).exists()
    for process in both:
        process.join(DEADLINE)
    assert [process.exitcode for process in both] == [0, 0], [log.read_text() for log in logs]
    assert contents(out) == contents(alone(stage)[0])


def waits(log: Path) -> bool:
    """Whether the process of ``log`` has said that it waits for another one."""
    return log.exists() and "another process is making it" in log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["buffer", "relabel"])
def test_rows_of_another_layout_are_set_aside(stage, files, alone, tmp_path, monkeypatch, capsys):
    """As those of a job that was killed before rows had checksums."""
    out = tmp_path / "out"
    words = command(stage, files, out)
    with monkeypatch.context() as patch:
        patch.setattr(RowWriter, "finish", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            main(words)
    (rows,) = out.glob(".*.partial")
    os.truncate(rows, rows.stat().st_size - 8)
    capsys.readouterr()
    assert (out / KEPT[stage]).exists()
    assert main(words) == 0
    assert "starting anew" in capsys.readouterr().out
    assert contents(out) == contents(alone(stage)[0])


@pytest.mark.parametrize(("name", "lock"), [("set.v1", "set.v1/.lock"), ("l.safetensors", None)])
def test_who_has_waited_long_enough_is_told(name, lock, tmp_path):
    out = tmp_path / name
    with locked(out):
        assert (tmp_path / (lock or f".{name}.lock")).exists()
        told = pytest.raises(DDError, match=f"{out}: another process is making it; wait")
        with told, locked(out, patience=0):
            pass
    with locked(out, patience=0):
        pass
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attempt", "days", "stays"),
    [
        (".set.csv.{gone}@node1", 0, False),
        ("..set.csv.partial.json.{gone}@node1", 0, False),
        (".set.csv.{here}@node1", 0, True),
        (".set.csv.{gone}@gpu-node1", 0, True),
        (".set.csv.{gone}@node1-2", 0, True),
        (".set.csv.{gone}@node1.example", 0, True),
        (".set.csv.{gone}@node1.example", 2, False),
        (".offset.csv.{gone}@node1", 2, True),  # of another file
        (".set.csv.old", 2, True),  # somebody's
    ],
)
def test_what_killed_processes_left_is_swept(attempt, days, stays, tmp_path, monkeypatch):
    """Those of this machine at once, those of others once they have rested for a day."""
    monkeypatch.setattr(platform, "node", lambda: "node1")
    process = FORKS.Process(target=int)
    process.start()
    process.join()
    left = tmp_path / f"{attempt.format(gone=process.pid, here=os.getpid())}.part"
    left.mkdir()
    (left / "set.csv").touch()
    for path in (left / "set.csv", left):
        os.utime(path, (time.time() - days * 86400,) * 2)
    sweep(tmp_path / "set.csv")
    assert left.exists() == stays


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["pretrain", "generator", "evaluate"])
def test_two_that_replace_whole_files_do_not_disturb_each_other(stage, files, alone, tmp_path):
    out = tmp_path / "out"
    both = [begin(stage, files, out) for _ in range(2)]
    for process in both:
        process.join(DEADLINE)
    assert [process.exitcode for process in both] == [0, 0], said(out)
    assert contents(out) == contents(alone(stage)[0])


@pytest.fixture
def disk(tmp_path) -> Path:
    """A file system of 1 MiB in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here: run the tests as root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "free"), [("prepare", 64), ("buffer", 8), ("distill", 48), ("evaluate", 4)]
)
def test_a_full_disk(stage, free, files, alone, disk, capsys):
    """``free`` KiB do not suffice: one line, nothing half done; with more it goes on."""
    out, ballast = disk / "out", disk / "ballast"
    space = os.statvfs(disk)
    with open(ballast, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, space.f_bavail * space.f_frsize - (free << 10))
    assert main(command(stage, files, out)) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {out}/") and said.count("\n") == 1, said
    assert said.endswith(": the disk is full; free space and run again\n")
    made = contents(alone(stage)[0])
    assert not made.keys() & {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    assert not list(disk.rglob("*.part"))
    ballast.unlink()
    assert main(command(stage, files, out)) == 0
    assert contents(out) == made


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "name", "damage"),
    [
        ("buffer", "DATA", truncate),
        ("distill", "DATA", lambda path: flip(path, -20_000)),
        ("relabel", "SET", truncate),
        ("evaluate", "SET", lambda path: flip(path, -9)),
        ("cams", "TWO", lambda path: flip(path, -9)),
        ("erase", "ONE", truncate),
        ("import", "THEIRS", truncate),
    ],
)  # fmt: skip
def test_damaged_input_is_named(stage, name, damage, files, tmp_path, capsys):
    damaged = shutil.copy(files[name], tmp_path)
    damage(Path(damaged))
    assert main(command(stage, files | {name: damaged}, tmp_path / "out")) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {damaged}: ") and said.count("\n") == 1
    assert not list((tmp_path / "out").rglob("*"))


@pytest.mark.slow
def test_damaged_rows_are_named(files, tmp_path, capsys):
    """Those of trajectories and of soft labels, which are read one by one."""
    shard, labels = tmp_path / "shard.safetensors", tmp_path / "labels.safetensors"
    made = [
        f"buffer --data DATA --network {NETWORK} --experts 1 --epochs 1 --out {shard} {CPU}",
        f"relabel --data DATA --synthetic SET --teacher ONE --views 2 --out {labels} {CPU}",
    ]
    readers = [
        f"distill --objective mtt --ipc 1 --network {NETWORK} --experts 1 --expert-epochs 1 "
        f"--max-start-epoch 1 --student-steps 2 --snapshots 1 --buffers {shard} --whitening none",
        f"evaluate --synthetic SET --arch mlp --protocol soft --labels {labels} --epochs 2",
    ]
    outs = [tmp_path / "of-shard", tmp_path / "of-labels.csv"]
    for making, path, reading, out in zip(made, (shard, labels), readers, outs, strict=True):
        words = [files.get(word, word) for word in making.split()]
        assert main(words) == 0
        flip(path, -3)  # of the last row
        capsys.readouterr()
        words = [files.get(word, word) for word in f"{reading} --data DATA {CPU}".split()]
        assert main([*words, "--out", str(out)]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"error: {path}: '") and said.count("\n") == 1
        assert "1 is not what was written" in said
