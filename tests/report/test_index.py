"""The page of a run: the command in it makes the same run; it says all seeds, and all GPUs."""

from dataclasses import replace
from pathlib import Path

import pytest

from dd.artifacts.text import load_rows, save_json, save_rows
from dd.config.run import load_run, read_run
from dd.plan.jobs import Evaluation
from dd.plan.plan import Plan
from dd.report.index import about, config_words
from dd.report.record import UNNAMED, record
from tests.support.tables import fill


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("fashion-mnist", {}, []),
        ("fashion-mnist", {"seeds": [0]}, ["'seeds=[0]'"]),
        ("cifar10-ipc1", {"networks": 10}, ["networks=10"]),
        ("smoke", {}, []),  # its recipes have sections by IPC, and it has optional tables
        ("smoke", {"networks": 2}, []),
    ],
)
def test_the_command_makes_the_same_run(tmp_path, name, given, words):
    plan = Plan(load_run(name, {"results": str(tmp_path), **given}))
    save_json(f"{plan.run.root}/config.json", plan.document())
    stored = Plan(read_run(f"{plan.run.root}/config.json")).main.run
    assert config_words(stored) == [f"run={name}", *words, "results=DIR"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cam_networks", ["mlp", "lenet"]),
        ("stands_in_for", "another dataset"),
        ("networks_for", [{"arch": ["mlp"], "networks": 1}]),
        ("seeds_for", {"iadd": [3]}),
        ("generators", {"digits": {"weights": "x", "adapter": "a:b"}}),
        ("pretrained", {"digits": {"resnet18_bn": "x"}}),
    ],
)
def test_a_run_of_somebody_with_the_name_of_ours_is_told_apart(key, value):
    assert config_words(replace(load_run("smoke"), **{key: value})) == ["run=DIR/smoke.yaml"]


def test_other_options_of_a_dataset_make_another_run():
    run = load_run("smoke")
    digits = {"digits": run.datasets["digits"] | {"resize": 16}}
    assert config_words(replace(run, datasets=digits)) == ["run=DIR/smoke.yaml"]


def described(plan: Plan, made=None) -> dict[str, str]:
    return {row[0].text: row[1].text for row in about(plan, made).body}


def test_all_seeds_are_said():
    said = described(Plan(load_run("fashion-mnist")))["Synthetic sets"]
    assert said == "one per method, IPC and seed (0); 0, 1, 2, 3, 4 for baselines_random"


def test_evaluations_count_in_the_time_of_a_run(tmp_path):
    """As far as they say theirs: files of older versions do not."""
    run = fill("smoke", tmp_path, lambda job, arch, n: 50.0).main.run
    axes = {"ipc": [1], "iterations": [20]}
    plan = Plan(replace(run, tables=["modelpool_ablation"], figures=[], axes_for={}, axes=axes))
    times = ["2026-01-01T10:00:01+00:00", "2026-01-01T10:59:59+00:00"]
    for job, more in zip(plan.of(Evaluation), [{"created": t} for t in times], strict=False):
        path = job.file(plan.run)
        save_rows(path, [row | more for row in load_rows(path)])
    set_made = {"created": "2026-01-01T10:00:02+00:00", "torch": "2.11.0+cu130"}
    made = record(Path(run.root, "config.json"), plan, {}, {"it20.safetensors": set_made})
    assert [made["started"], made["ended"]] == times
    said = described(plan, made)
    assert said["Last artifact"] == "2026-01-01 10:59:59 UTC"
    assert said["Torch"] == "2.11.0+cu130" and "where the run was recorded" in said["Libraries"]


@pytest.mark.parametrize(
    ("more", "gpu"),
    [
        ({"device": "cpu"}, "none"),
        ({"device": "cuda"}, UNNAMED),
        ({"device": "cuda", "gpu": "NVIDIA X", "code": "0.3.0+gab"}, "NVIDIA X"),
    ],
)
def test_a_gpu_that_only_evaluated_is_said(tmp_path, more, gpu):
    plan = fill("smoke", tmp_path, lambda job, arch, n: 50.0).main
    axes = {"ipc": [1], "iterations": [20]}
    changes = {"tables": ["modelpool_ablation"], "figures": [], "axes_for": {}, "axes": axes}
    run = replace(plan.run, **changes)
    plan = Plan(run)
    for job in plan.of(Evaluation):
        path = job.file(plan.run)
        save_rows(path, [row | more for row in load_rows(path)])
    made = record(Path(plan.run.root, "config.json"), plan, {}, {})
    assert made["code"]["artifacts"] == ([more["code"]] if "code" in more else [])
    said = described(plan, made)
    assert said["GPU"] == gpu and said["Cores"].endswith("(of the machine that recorded the run)")
