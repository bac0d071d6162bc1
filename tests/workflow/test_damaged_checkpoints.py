"""Checkpoints that are damaged, of another layout or of other code: used, or set aside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dd.artifacts import provenance
from dd.artifacts.headers import read_header
from dd.artifacts.tensors import load_tensors, save_tensors
from dd.artifacts.text import digest, load_json, load_rows
from dd.command import main
from tests.support.resuming import FILES, TRAINED, Killed, buffer, distill, evaluate, stop_at
from tests.support.timeless import timeless, without_times

SNAPSHOTS = [0, 2, 6]
CPU = ["--threads", "1", "--device", "cpu", "--checkpoint-every", "0"]
TENSORS = ("iadd", "dm", "buffer", "pretrain", "generator")  # jobs whose checkpoints have tensors
JSON = ("evaluate", "relabel")
KEPT = {
    "iadd": "out/.checkpoint/state.safetensors",
    "dm": "out/.checkpoint/state.safetensors",
    "buffer": "out/.made.safetensors.state",
    "pretrain": "out/.made.safetensors.state",
    "generator": "out/.made.safetensors.state",
    "relabel": "out/.made.safetensors.state",
    "evaluate": "out/.made.csv.partial.json",
}
DIES = {"iadd": 7, "dm": 7, "buffer": 2, "pretrain": 3, "generator": 3, "relabel": 3, "evaluate": 3}


@pytest.fixture(scope="module")
def command(data, alone):
    """``command(job, folder)``: a small job that writes below ``folder``."""

    def words(job, folder):
        made = folder / "out" / "made.safetensors"
        if job in ("iadd", "dm"):
            return distill(data, job, folder / "out", SNAPSHOTS)
        if job == "buffer":
            return buffer(data, made, epochs=3)
        if job == "evaluate":
            return evaluate(data, alone, folder / "out/made.csv", "--epochs", "3")
        what = {
            "pretrain": ["--network", TRAINED, "--epochs", "5", "--optimizer", "adamw"],
            "generator": ["--width", "8", "--epochs", "5"],
            "relabel": ["--synthetic", str(alone("dm") / "it25.safetensors"), "--views", "5",
                        "--teacher", str(data.with_name(FILES["TRAINED"]))],
        }  # fmt: skip
        return [job, *what[job], "--data", str(data), "--out", str(made), *CPU]

    return words


@pytest.fixture(scope="module")
def stopped(command, tmp_path_factory):
    """``stopped(job)``: the files of a job that died, by name, and what one left alone gives."""
    made = {}

    def stop(job):
        if job not in made:
            whole, part = (tmp_path_factory.mktemp(f"{job}-{n}") for n in range(2))
            assert main(command(job, whole)) == 0
            with pytest.MonkeyPatch.context() as patch:
                stop_at(patch, DIES[job])
                with pytest.raises(Killed):
                    main(command(job, part))
            assert (part / KEPT[job]).exists()
            files = {p.relative_to(part): p.read_bytes() for p in part.rglob("*") if p.is_file()}
            made[job] = files, results(whole)
        return made[job]

    return stop


def results(folder: Path) -> dict[str, object]:
    """What a job made, without provenance and times."""
    found: dict[str, object] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = str(path.relative_to(folder))
        if path.suffix == ".safetensors":
            tensors, header = load_tensors(path, read_header(path)["kind"])
            values = {n: t.reshape(-1).view(torch.uint8).tolist() for n, t in tensors.items()}
            found[name] = values, {k: v for k, v in header.items() if k != "provenance"}
        elif path.suffix == ".csv":
            found[name] = timeless(path)
        else:
            found[name] = [line.partition(', "seconds"')[0] for line in path.open()]
    return found


def laid(files: dict[Path, bytes], folder: Path) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def bytes_of(change):
    return lambda path: path.write_bytes(change(path.read_bytes()))


def flipped(data: bytes) -> bytes:
    return bytes([*data[:-9], data[-9] ^ 4, *data[-8:]])


def at(**changes):
    """Other values of ``at``; None: the key is gone."""

    def change(tensors, header):
        now = header["at"] | changes
        header["at"] = {key: value for key, value in now.items() if value is not None}

    return change


def header(**changes):
    return lambda tensors, header: header.update(changes)


def first(name: str, change):
    """Change the first tensor whose name holds ``name``; None: leave it out."""

    def changed(tensors, header):
        found = next(key for key in sorted(tensors) if name in key)
        value = tensors.pop(found)
        if change is not None:
            tensors[found] = change(value)

    return changed


def every(change):
    def changed(tensors, header):
        tensors |= {name: change(value) for name, value in tensors.items()}

    return changed


RAW = {
    "truncated": bytes_of(lambda data: data[:-20]),
    "cut in two": bytes_of(lambda data: data[: len(data) // 2]),
    "empty": bytes_of(lambda data: b""),
    "a flipped bit": bytes_of(flipped),
    "a text": bytes_of(lambda data: b"no checkpoint at all"),
    "deep": bytes_of(lambda data: b"[" * 100_000),
}
INNER = {  # written again with sound checksums, as other code would
    "at is gone": lambda tensors, header: header.pop("at"),
    "at is a list": header(at=[1]),
    "at is null": header(at=None),
    "no seconds": at(seconds=None),
    "seconds a text": at(seconds="long"),
    "seconds NaN": at(seconds=float("nan")),
    "seconds negative": at(seconds=-1),
    "makers a text": header(makers="me"),
    "makers empty": header(makers=[]),
    "facts a list": header(facts=[]),
    "stream lost": first("stream.", None),
    "stream short": first("stream.", lambda t: t[:10]),
    "stream of another type": first("stream.", lambda t: t.float()),
    "stream without sense": first("stream.", lambda t: torch.full_like(t, 255)),
    "everything shorter": every(lambda t: t[:-1] if t.ndim else t.view(1)),
    "everything in another type": every(lambda t: t.double()),
    "one more": lambda tensors, header: tensors.update({"optimizer.99.momentum_buffer": CHANGE}),
    "nothing": lambda tensors, header: tensors.clear(),
}
CHANGE = torch.zeros(3)
OWN = {
    "dm": {
        "start of earlier versions": first("stream.start", None),
        "iteration lost": at(iteration=None),
        "iteration a text": at(iteration="2"),
        "iteration true": at(iteration=True),
        "iteration 0": at(iteration=0),
        "iteration beyond the end": at(iteration=7),
        "images lost": first("canvas.images", None),
        "images one number": first("canvas.images", lambda t: t.flatten()[0]),
        "images of one channel more": first("canvas.images", lambda t: t.repeat(1, 2, 1, 1)),
        "momentum of another shape": first("momentum_buffer", lambda t: t[:1]),
        "momentum one number": first("momentum_buffer", lambda t: t.flatten()[0]),
    },
    "iadd": {
        "rate lost": first("objective.rate", None),
        "rate a vector": first("objective.rate", lambda t: t.repeat(2)),
        "differences lost": first("objective.initial", None),
        "differences shorter": first("objective.initial", lambda t: t[:-1]),
        "weights shorter": first("objective.weights", lambda t: t[:-1]),
    },
    "pretrain": {
        "epoch lost": at(epoch=None),
        "epoch the last": at(epoch=5),
        "epoch huge": at(epoch=10**30),
        "weights lost": first("network.", None),
        "step lost": first(".step", None),
        "a moment lost": first("exp_avg_sq", None),
        "a moment of another shape": first("exp_avg_sq", lambda t: t.sum()),
        "number of no parameter": lambda tensors, header: tensors.update(
            {"optimizer.one.step": torch.zeros(())}
        ),
    },
    "generator": {"epoch lost": at(epoch=None)},
    "buffer": {
        "done lost": at(done=None),
        "done another number": at(done=5),
        "accuracies of text": at(accuracies=["a"]),
        "accuracies of all": at(accuracies=[1.0, 1.0], done=8),
    },
}  # fmt: skip
CASES = [
    *((job, name) for job in (*TENSORS, *JSON) for name in RAW),
    *((job, name) for job in TENSORS for name in (*INNER, *OWN[job])),
]


@pytest.mark.slow
@pytest.mark.parametrize(("job", "damage"), CASES)
def test_it_starts_anew_and_says_so(job, damage, command, stopped, tmp_path, capsys):
    files, expected = stopped(job)
    kept = laid(files, tmp_path) / KEPT[job]
    if damage in RAW:
        RAW[damage](kept)
    else:
        tensors, facts = load_tensors(kept, "checkpoint")
        (INNER | OWN[job])[damage](tensors, facts)
        save_tensors(kept, "checkpoint", tensors, facts)
    starts_anew(job, command(job, tmp_path), capsys)
    assert results(tmp_path) == expected


def starts_anew(job, words, capsys):
    capsys.readouterr()
    assert main(words) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "starting anew" in line]
    assert len(said) == 1 and said[0].startswith(f"{words[0]}: starting anew, "), said


OTHER = {  # a setting that changes the result but not the layout of any file
    "dm": ["--lr-img", "7"],
    "iadd": ["--lr-img", "0.7"],
    "buffer": ["--lr", "0.5"],
    "pretrain": ["--lr", "0.5"],
    "generator": ["--noise", "0.5"],
    "relabel": ["--crop", "0.9"],
    "evaluate": ["--lr", "0.5"],
}


@pytest.mark.slow
@pytest.mark.parametrize("job", OTHER)
def test_two_settings_do_not_mix_in_one_place(job, command, stopped, tmp_path, monkeypatch, capsys):
    """A job is killed; one of other settings starts in its place and dies before its first
    checkpoint, after it has written rows or snapshots; then the first one starts again."""
    files, expected = stopped(job)
    laid(files, tmp_path)
    words, dies = command(job, tmp_path), {"dm": 3, "iadd": 3}.get(job, 1)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_at(patch, dies)
        main([*words, *OTHER[job], *([] if job == "evaluate" else ["--checkpoint-every", "1000"])])
    assert "belongs to other settings" in capsys.readouterr().out
    assert not (tmp_path / KEPT[job]).exists()
    assert main(words) == 0
    assert "going on" not in capsys.readouterr().out
    assert results(tmp_path) == expected


@pytest.mark.slow
@pytest.mark.parametrize("job", ["dm", "buffer", "relabel"])
def test_a_checkpoint_knows_rows_and_snapshots_of_other_settings(
    job, command, stopped, tmp_path, monkeypatch, capsys
):
    """Also if an earlier version, or a copy, left a checkpoint beside them."""
    files, expected = stopped(job)
    words = command(job, laid(files, tmp_path))
    kept = (tmp_path / KEPT[job]).read_bytes()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_at(patch, DIES[job])
        main([*words, *OTHER[job]])
    (tmp_path / KEPT[job]).write_bytes(kept)
    starts_anew(job, words, capsys)
    assert results(tmp_path) == expected


def signed(path, now):
    """Write a progress of rows with a sound checksum, as other code would."""
    del now["sha256"]
    path.write_text(json.dumps(now | {"sha256": digest(json.dumps(now).encode())}))


ROWS = {
    "rows a text": {"rows": "x"},
    "rows of numbers": {"rows": [1, 2]},
    "rows lost": {"rows": None},
    "a row without columns": {"rows": [{}]},
    "done lost": {"done": None},
    "done a text": {"done": "2"},
    "done all": {"done": 5},
    "seconds a list": {"seconds": []},
    "makers numbers": {"makers": [1]},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("job", "damage"),
    [("evaluate" if "row" in damage else "relabel", damage) for damage in ROWS],
)  # fmt: skip
def test_progress_of_rows_that_is_none(job, damage, command, stopped, tmp_path, capsys):
    files, expected = stopped(job)
    kept = laid(files, tmp_path) / KEPT[job]
    now = load_json(kept) | ROWS[damage]
    signed(kept, {key: value for key, value in now.items() if value is not None})
    starts_anew(job, command(job, tmp_path), capsys)
    assert results(tmp_path) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"accuracy": "high"}, {"accuracy": None}, {"accuracy": float("inf")}, {"network": "0"},
        {"network": -1}, {"arch": 5}, {"seconds": []}, {"extra": 1}, {"diverged": 7},
    ],
)  # fmt: skip
def test_rows_of_an_evaluation_that_are_none(change, command, stopped, tmp_path, capsys):
    files, expected = stopped("evaluate")
    kept = laid(files, tmp_path) / KEPT["evaluate"]
    now = load_json(kept)
    now["rows"][0] |= change
    signed(kept, now)
    starts_anew("evaluate", command("evaluate", tmp_path), capsys)
    assert results(tmp_path) == expected


@pytest.mark.slow
def test_the_same_network_twice(command, stopped, tmp_path, capsys):
    files, expected = stopped("evaluate")
    kept = laid(files, tmp_path) / KEPT["evaluate"]
    now = load_json(kept)
    signed(kept, now | {"rows": now["rows"][:1] * 2})
    starts_anew("evaluate", command("evaluate", tmp_path), capsys)
    assert results(tmp_path) == expected


@pytest.mark.slow
@pytest.mark.parametrize("job", ["buffer", "relabel"])
def test_a_flipped_bit_of_a_row_that_was_written(job, command, stopped, tmp_path, capsys):
    files, expected = stopped(job)
    (rows,) = laid(files, tmp_path).glob("out/*.partial")
    data = bytearray(rows.read_bytes())
    # the first row: after the room of the header and the checksums of all rows
    place = next(n for n in range(len(data)) if data[n : n + 64].count(0) < 8)
    data[place + 32] ^= 1
    rows.write_bytes(data)
    starts_anew(job, command(job, tmp_path), capsys)
    assert results(tmp_path) == expected


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["metrics cut", "metrics a text", "snapshot cut"])
def test_what_lies_beside_a_checkpoint(damage, command, stopped, tmp_path, capsys):
    files, expected = stopped("dm")
    folder = (laid(files, tmp_path) / KEPT["dm"]).parent
    if damage == "metrics cut":
        bytes_of(lambda data: data[:-20])(folder / "metrics.jsonl")
    elif damage == "metrics a text":
        (folder / "metrics.jsonl").write_bytes(b"\xff\n" * 9)
    else:
        bytes_of(lambda data: data[:-20])(folder / "it2.safetensors")
    starts_anew("dm", command("dm", tmp_path), capsys)
    assert results(tmp_path) == expected


FIRST, SECOND = ("0.3.0+gaaaa", "2.11.0"), ("0.3.0+gbbbb", "2.12.1")


def made_by(monkeypatch, code, number):
    monkeypatch.setattr(provenance, "code_version", lambda: code)
    monkeypatch.setattr(torch, "__version__", number)


@pytest.mark.slow
@pytest.mark.parametrize("job", [*TENSORS, *JSON])
def test_other_code_that_goes_on_says_so_once_and_records_it(
    job, command, stopped, tmp_path, monkeypatch, capsys
):
    """A job begun by the first code, gone on with twice by the second, ended by this one."""
    expected = stopped(job)[1]
    words = command(job, tmp_path)
    said = []
    for made, dies in ((FIRST, DIES[job]), (SECOND, 2), (SECOND, 1)):
        with monkeypatch.context() as patch:
            made_by(patch, *made)
            stop_at(patch, dies)
            capsys.readouterr()
            with pytest.raises(Killed):
                main(words)
            said.append("other code" in capsys.readouterr().out)
    # with a checkpoint by the second code, its second start has nothing to say
    makers = kept_makers(tmp_path / KEPT[job])
    earlier = [dict(zip(("code", "torch"), one, strict=True)) for one in (FIRST, SECOND)]
    assert makers in (earlier, earlier[:1])
    assert said == [False, True, makers == earlier[:1]]
    assert main(words) == 0
    code, number = makers[-1].values()
    line = f"{words[0]}: goes on from a checkpoint that other code made ({code}, torch {number})\n"
    assert capsys.readouterr().out.count(line) == 1
    made = tmp_path / "out" / ("it6.safetensors" if job in ("dm", "iadd") else "made.safetensors")
    if job == "evaluate":
        rows = load_rows(tmp_path / "out/made.csv")
        text = "; ".join(f"{one['code']}, torch {one['torch']}" for one in makers)
        assert {row.pop("continued_from") for row in rows} == {text}
        assert provenance.makers_from_text(text) == makers
        assert without_times(rows) == expected["out/made.csv"]
        return
    assert read_header(made)["provenance"]["continued_from"] == makers
    assert results(tmp_path) == expected


def kept_makers(path: Path) -> list[dict[str, str]]:
    return (
        load_json(path)["makers"] if path.read_bytes()[:1] == b"{" else read_header(path)["makers"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("job", ["dm", "pretrain"])
def test_a_checkpoint_that_does_not_name_its_code_is_of_unknown_code(
    job, command, stopped, tmp_path, capsys
):
    """As those of versions before this key."""
    files, expected = stopped(job)
    kept = laid(files, tmp_path) / KEPT[job]
    tensors, facts = load_tensors(kept, "checkpoint")
    del facts["makers"]
    save_tensors(kept, "checkpoint", tensors, facts)
    assert main(command(job, tmp_path)) == 0
    assert "that other code made (unknown code, torch unknown)" in capsys.readouterr().out
    assert results(tmp_path) == expected


@pytest.mark.slow
@pytest.mark.parametrize("job", [*TENSORS, *JSON])
def test_the_same_code_says_and_records_nothing(job, command, stopped, tmp_path, capsys):
    files, expected = stopped(job)
    laid(files, tmp_path)
    assert main(command(job, tmp_path)) == 0
    out = capsys.readouterr().out
    assert "going on" in out or job == "evaluate"
    assert "other code" not in out and "starting anew" not in out
    assert results(tmp_path) == expected
    for path in tmp_path.rglob("*.safetensors"):
        assert "continued_from" not in read_header(path)["provenance"]
