"""Every objective with every parametrisation, regulariser and network source, through the plan and
the command line, for a few steps on digits."""

from __future__ import annotations

import itertools
import json

import pytest
import torch

from dd import plugins
from dd.command import main
from dd.config.recipes import resolve, uses_pretrained
from dd.config.run import load_run
from dd.config.settings import build
from dd.data import synthetic
from dd.distill.objectives import OBJECTIVES
from dd.distill.parametrisations import PARAMETRISATIONS
from dd.distill.regularisers import REGULARISERS
from dd.plan.jobs import Distillation, Pretraining, command_words
from dd.plan.plan import Plan
from dd.report.read.vectors import load_extras

SMALL = "convnet:depth=1,norm=batch,width=8"
OTHER = "vit:depth=1,heads=1,width=8"
POOL = f"""\
title: two small networks
main: {SMALL}
probability: 0.5
others: ["{OTHER}"]
"""
EXPERTS = {"experts": 2, "student_steps": 2, "expert_epochs": 1, "max_start_epoch": 1}
RECIPES = {
    "dc": {"batch_real": 8},
    "dsa": {"batch_real": 8},
    "dm": {"batch_real": 8},
    "mtt": EXPERTS,
    "iadd": EXPERTS,
    "sre2l": {},
    "dd": {"batch_real": 20, "lr_label": 0.1},
    "frepo": {"batch_real": 20, "online": 2, "online_steps": 1},
    "buffer": {"experts": 2, "epochs": 1},
    "pretrain": {"epochs": 1},
    "generator": {"epochs": 1},
    "metadd": {"auxiliary": f"{SMALL}.{OTHER}"},
    "glad": {},
}
# with those of installed plug-ins, whose authors may run these tests (docs/own.md)
MOVING = [name for name in OBJECTIVES.names() if OBJECTIVES[name].optimises]
DRAWING = [name for name in MOVING if "network" in resolve(name, "digits", 2)]
STEPS = 2


def words(command, given, **files):
    """The command line of a stage, as the workflow writes it."""
    for name, paths in files.items():
        if paths:
            command = [*command, f"--{name}", *map(str, paths)]
    return [*command, *command_words(given), "--threads", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """A run on digits with one small network, and a pool called pool."""
    folder = tmp_path_factory.mktemp("combinations")
    run = load_run("smoke")
    recipes = {
        name: RECIPES.get(name, {}) | ({"network": SMALL} if name in DRAWING else {})
        for name in {*RECIPES, *MOVING}
    }
    (folder / "pool.yaml").write_text(POOL)

    class Here(type(run)):
        def path(self, *parts):
            own = folder / parts[-1]
            return str(own) if own.is_file() else super().path(*parts)

    values = {"recipes": recipes, "results": str(folder), "width_factor": 1.0}
    values |= {"axes": {"ipc": [2], "iterations": [STEPS]}, "axes_for": {}, "optional": []}
    values |= {"tables": [], "figures": ["modelpool_images"]}
    return Plan(Here(**run.document() | values))


@pytest.fixture(scope="module")
def made(plan, digits_file):
    """``made(jobs)``: the files of pretrained networks, generators and experts, each made once."""
    files = {}

    def make(jobs):
        for job in jobs:
            if job in files:
                continue
            path = job.file(plan.run)
            command = [job.stage, "--data", str(digits_file), "--out", path]
            assert main(words(command, job.options(plan.run))) == 0
            files[job] = path
        return [files[job] for job in jobs]

    return make


COMBINATIONS = [
    parts
    for parts in itertools.product(
        MOVING, ["", *PARAMETRISATIONS.names()], ["", *REGULARISERS.names()], ["", "pool"]
    )
    if parts[0] in DRAWING or not parts[-1]
]


def test_the_seams_are_those_of_the_architecture():
    assert {"dc", "dsa", "dm", "mtt", "iadd", "dd", "frepo", "sre2l"} <= set(MOVING)
    brought = {entry.name for entry in plugins.catalogue().entries}
    assert {*PARAMETRISATIONS} - brought == {"glad"} and {*REGULARISERS} - brought == {"metadd"}
    for name in OBJECTIVES.names():
        assert uses_pretrained(name) == OBJECTIVES[name].needs_pretrained, name


def settings_of(header):
    """The settings of the regulariser of a set."""
    values = dict(header["regulariser"])
    name = values.pop("name")
    return build(REGULARISERS[name].Settings, values, name)


@pytest.mark.parametrize("parts", COMBINATIONS, ids=lambda parts: "+".join(filter(None, parts)))
def test_every_combination_distils(parts, plan, made, digits_file, digits, tmp_path):
    objective, parametrisation, regulariser, pool = parts
    spec = "+".join(filter(None, (objective, pool, parametrisation, regulariser)))
    job = Distillation("digits", spec, 2, 0, (0, STEPS))
    command = ["distill", "--data", str(digits_file), "--out", str(tmp_path)]
    reads = job.reads(plan.run)
    files = {name: made(reads[name]) for name in ("buffers", "pretrained", "generator")}
    files["pool"] = reads["pool"]
    assert main(words(command, job.options(plan.run), **files)) == 0

    start, end = (synthetic.load(tmp_path / f"it{n}.safetensors") for n in (0, STEPS))
    assert end.images.shape == (20, 1, 8, 8)
    moved = (end.images - start.images).flatten(1).abs().amax(1)
    assert (moved > 0).all()  # each image, by each objective
    header = end.header
    drawn = {SMALL} if objective in DRAWING else set()
    assert header["networks"]["source"] == ("pool" if pool else "single" if drawn else "none")
    assert ("regulariser" in header, "parametrisation" in header) == (
        bool(regulariser),
        bool(parametrisation),
    )
    auxiliary = {*REGULARISERS[regulariser].needs(settings_of(header))} if regulariser else set()
    assert regulariser != "metadd" or auxiliary == {SMALL, OTHER}
    assert set(header["seen"]) == drawn | auxiliary | ({SMALL, OTHER} if pool else set())
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert len(lines) == STEPS and all("loss" in line for line in lines)
    assert all(("cam_variance" in line) == (regulariser == "metadd") for line in lines)
    latents = load_extras(tmp_path / f"it{STEPS}.safetensors", "latent")
    assert bool(latents) == (parametrisation == "glad")


def test_a_regulariser_of_weight_0_changes_nothing(plan, made, digits_file, tmp_path):
    made_by = {}
    for spec in ("dm", "dm+metadd@lambda_ai=0"):
        job = Distillation("digits", spec, 2, 0, (STEPS,))
        command = ["distill", "--data", str(digits_file), "--out", str(tmp_path / spec)]
        files = {"pretrained": made(job.reads(plan.run)["pretrained"])}
        assert main(words(command, job.options(plan.run), **files)) == 0
        made_by[spec] = synthetic.load(tmp_path / spec / f"it{STEPS}.safetensors").images
    assert torch.equal(*made_by.values())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--regulariser", "metadd"], "--pretrained: a"),
        (["--regulariser", "metad"], "did you mean 'metadd'"),
        (["--regulariser", "metadd@lamda_ce=1"], "did you mean 'lambda_ce'"),
        (["--parametrisation", "glad"], "--generator: glad needs one"),
        (["--adapter", "a:b"], "--generator and --adapter belong to --parametrisation"),
        (["--pretrained", "NETWORK"], "nothing here uses"),
    ],
)
def test_what_does_not_fit_together(more, message, plan, made, digits_file, tmp_path, capsys):
    (network,) = made([Pretraining("digits", "none", SMALL)])
    more = [network if word == "NETWORK" else word for word in more]
    command = ["distill", "--data", str(digits_file), "--objective", "dm", "--ipc", "1"]
    assert main([*command, "--out", str(tmp_path), *more]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
