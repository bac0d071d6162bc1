"""Where a command may not write, or not all: one line, no half file."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys

import pytest
from safetensors import SafetensorError

from dd.command import main
from tests.support.commands import DIGITS, DM, HARD, command


@pytest.mark.parametrize("case", [DIGITS, DM, HARD])
def test_no_right_to_write(case, files, tmp_path, capsys, monkeypatch):
    """Said at once, as for a user who may not write there (a superuser always may)."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert main(command(case, files, tmp_path)) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1
    assert f"{tmp_path} may not be written to" in err


def test_full_disk(files, tmp_path, capsys, monkeypatch):
    """What was there stays, the message names the file."""
    out = tmp_path / "x.safetensors"
    out.write_bytes(b"before")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert main(["prepare", "--source", "digits", "--out", str(out)]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: {out}: the disk is full") and err.count("\n") == 1
    assert out.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [out]


def test_full_disk_met_by_the_library(files, tmp_path, capsys, monkeypatch):
    """The same where safetensors meets the end; it has the error's number in its text alone."""

    def full(*arguments, **options):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("dd.artifacts.tensors.save_file", full)
    out = tmp_path / "x.safetensors"
    assert main(["prepare", "--source", "digits", "--out", str(out)]) == 1
    err = capsys.readouterr().err
    assert err == f"error: {out}: the disk is full; free space and run again\n"
    assert list(tmp_path.iterdir()) == []


def test_others_may_read_what_the_umask_lets_them(files, tmp_path):
    """An artifact has the rights of any other new file."""
    (tmp_path / "any").touch()
    assert main(["prepare", "--source", "digits", "--out", str(tmp_path / "x.safetensors")]) == 0
    assert (tmp_path / "x.safetensors").stat().st_mode == (tmp_path / "any").stat().st_mode


@pytest.mark.slow
@pytest.mark.parametrize("limit", [50_000, 5_000])
def test_write_cut_short(limit, files, tmp_path):
    """The system refuses to write on: no half file under any name."""
    argv = ["prepare", "--source", "digits", "--out", str(tmp_path / "x.safetensors")]
    done = subprocess.run(
        [sys.executable, "-B", "-m", "dd", *argv],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 1
    assert done.stderr == f"error: {tmp_path / 'x.safetensors'}: File too large\n"
    assert list(tmp_path.iterdir()) == []
