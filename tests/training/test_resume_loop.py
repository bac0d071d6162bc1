"""The loop over epochs and its checkpoints, without a stage around them."""

from __future__ import annotations

import pytest
import torch

from dd.artifacts.headers import read_header
from dd.artifacts.row_files import RowWriter
from dd.networks.build import create
from dd.rng import generator
from dd.training.ensemble import ensemble
from dd.training.recipe import Recipe
from dd.training.resume import Checkpoints, epochs

COMMON = {"momentum": 0.9, "weight_decay": 0.01, "batch": 8, "augment": "none"}
FACTS = {"what": "test", "size": (8, 8)}  # a tuple, which JSON knows as a list


def recipe(**changes):
    return Recipe(**{"epochs": 4, "lr": 0.1, "schedule": "released", **COMMON, **changes})


def students(count):
    return ensemble(
        [
            create("mlp", 1, (8, 8), 10, generator=generator(n), width_factor=0.1)
            for n in range(count)
        ]
    )


def checkpoints(folder, facts=FACTS, rows=None, every=0.0):
    job = Checkpoints("test", folder / "out.safetensors", every)
    job.resume(facts, rows)
    return job


def walk(trained, made, job=None, stop=None):
    """Train on noise; end after ``stop`` epochs, as if killed. Returns the epochs trained."""
    streams, seen = {"noise": generator(7)}, []
    for epoch, optimizer in epochs(trained, made, job, streams):
        if len(seen) == stop:
            return seen
        seen.append(epoch)
        images = torch.randn(len(trained.networks), 8, 1, 8, 8, generator=streams["noise"])
        optimizer.zero_grad()
        trained.forward(images).square().mean().backward()
        optimizer.step()
    return seen


def test_rates_and_optimisers_are_those_of_the_recipe():
    made = recipe()
    found, before = [], None
    for epoch, optimizer in epochs(students(1), made):
        found.append((optimizer.param_groups[0]["lr"], optimizer is not before))
        assert epoch == len(found) - 1
        before = optimizer
    assert found == made.rates() and [fresh for _, fresh in found].count(True) == 2
    assert list(epochs(students(1), recipe(epochs=0, schedule="constant"))) == []


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_it_goes_on_to_the_same_bytes_after_any_epoch(optimizer, count, tmp_path, capsys):
    made = recipe(optimizer=optimizer)
    alone = students(count)
    assert walk(alone, made) == [0, 1, 2, 3, 4]
    for stop in range(1, 5):
        folder = tmp_path / str(stop)
        folder.mkdir()
        walk(students(count), made, checkpoints(folder), stop)
        job, trained = checkpoints(folder), students(count)
        assert job.found and walk(trained, made, job) == list(range(stop, 5))
        assert f"test: going on after {stop} epochs" in capsys.readouterr().out
        assert not job.found
        for name, values in alone.state().items():
            assert torch.equal(trained.state()[name], values), (stop, name)


def test_what_a_stage_adds_and_the_time_it_took_are_kept(tmp_path):
    job = checkpoints(tmp_path)
    job.at["accuracies"] = [1.5]
    job._started -= 100
    walk(students(1), recipe(), job, 2)
    again = checkpoints(tmp_path)
    assert again.at["accuracies"] == [1.5] and again.at["epoch"] == 2
    assert 100 < again.seconds < 200
    again.remove()
    assert list(tmp_path.iterdir()) == []


def test_no_checkpoint_before_its_time_nor_after_the_last_epoch(tmp_path):
    walk(students(1), recipe(), checkpoints(tmp_path, every=1000.0))
    assert list(tmp_path.iterdir()) == []
    job = checkpoints(tmp_path)
    walk(students(1), recipe(), job)
    assert read_header(job.path)["at"]["epoch"] == 4


def test_the_next_training_of_a_job_starts_anew(tmp_path):
    walk(students(1), recipe(), checkpoints(tmp_path), 2)
    job = checkpoints(tmp_path)
    assert walk(students(1), recipe(), job) == [2, 3, 4]
    assert walk(students(1), recipe(), job) == [0, 1, 2, 3, 4]


def test_a_checkpoint_of_something_else_is_set_aside(tmp_path, capsys):
    walk(students(1), recipe(), checkpoints(tmp_path), 2)
    job = checkpoints(tmp_path, {**FACTS, "what": "other"})
    assert f"test: starting anew, {job.path} belongs to other settings" in capsys.readouterr().out
    assert not job.found and job.at == {} and job.seconds < 60
    assert not job.path.exists()


def test_rows_and_checkpoint_belong_together(tmp_path, monkeypatch, capsys):
    """A checkpoint waits for the rows to be on the disk and is worth nothing without them."""

    def rows():
        tensors = {"values": (torch.float32, (2, 3))}
        return RowWriter(tmp_path / "out.safetensors", "test", 1, tensors, {})

    done, sync, writer = [], RowWriter.sync, rows()
    job = checkpoints(tmp_path, rows=writer)

    def synced(self):
        done.append(job.path.exists())
        sync(self)

    monkeypatch.setattr(RowWriter, "sync", synced)
    walk(students(1), recipe(), job, 2)
    assert done == [False, True]  # before each of the two checkpoints
    assert checkpoints(tmp_path, rows=rows()).found
    writer.discard()
    capsys.readouterr()
    assert not checkpoints(tmp_path, rows=rows()).found
    assert "starting anew" in (said := capsys.readouterr().out) and "are gone" in said
