"""What a distillation is put together from: what its objective declares, and nothing guessed."""

from __future__ import annotations

import re

import pytest
import torch

from dd.artifacts.headers import read_header
from dd.command import main
from dd.config import recipes
from dd.data import synthetic
from dd.distill.objectives import OBJECTIVES
from dd.distill.objectives.base import NetworkSettings, OptimisingSettings
from dd.distill.parametrisations import Still
from dd.networks.source import NoSource
from dd.rng import generator
from tests.support.recipes import forget_recipes
from tests.support.runs import ROOT

DOC = ROOT / "docs" / "own.md"
POOL = "title: small\nmain: mlp\nprobability: 0.5\nothers: [lenet]\n"


def distill(data, out, *words):
    where = ["--data", str(data), "--out", str(out), "--device", "cpu", "--threads", "1"]
    return main(["distill", *where, *words])


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_the_types_of_its_settings_say_what_an_objective_uses(name):
    chosen, known = OBJECTIVES[name], recipes.resolve(name, "digits", 1)
    assert issubclass(chosen.Settings, OptimisingSettings) == chosen.optimises
    assert issubclass(chosen.Settings, NetworkSettings) == ("network" in known)


def test_a_selection_names_no_network_that_it_does_not_use(digits_file, tmp_path):
    assert distill(digits_file, tmp_path / "random", "--objective", "random", "--ipc", "1") == 0
    header = read_header(tmp_path / "random" / "it0.safetensors")
    assert (header["networks"], header["seen"]) == ({"source": "none"}, [])
    words = ["--objective", "kcenter", "--ipc", "1", "--network", "mlp", "--feature-epochs", "0"]
    assert distill(digits_file, tmp_path / "kcenter", *words) == 0
    header = read_header(tmp_path / "kcenter" / "it0.safetensors")
    assert header["networks"] == {"source": "single", "network": "mlp"}
    assert header["seen"] == ["mlp"]


def test_a_pool_for_an_objective_without_networks_is_refused(digits_file, tmp_path, capsys):
    (tmp_path / "pool.yaml").write_text(POOL)
    words = ["--objective", "random", "--ipc", "1", "--pool", str(tmp_path / "pool.yaml")]
    assert distill(digits_file, tmp_path / "out", *words) == 2
    assert capsys.readouterr().err == "error: --pool: random uses no network; leave it out\n"
    assert not (tmp_path / "out").exists()


def test_what_there_is_not_cannot_be_used():
    images, labels = torch.randn(3, 1, 2, 2), torch.arange(3)
    still = Still(images, labels)
    with pytest.raises(TypeError, match="do not move"):
        still.update(images)
    assert torch.equal(still.images(), images) and still.labels is labels
    other = Still(torch.zeros_like(images), labels)
    other.load_state(still.state())
    assert torch.equal(other.images(), images)
    source = NoSource()
    assert source.specs() == []
    for use in (lambda: source.draw(0, generator(0)), lambda: source.skeleton("mlp")):
        with pytest.raises(TypeError, match="no network"):
            use()


def test_the_documented_objective_works_as_it_stands(digits_file, tmp_path, monkeypatch):
    """It optimises images and uses no network."""
    text = DOC.read_text(encoding="utf-8").partition("## An objective")[2]
    code, block = (re.search(rf"```{kind}\n(.*?)```", text, re.S)[1] for kind in ("python", "yaml"))
    path = tmp_path / "recipes.yaml"
    path.write_text(recipes.RECIPES.read_text(encoding="utf-8") + block, encoding="utf-8")
    monkeypatch.setattr(recipes, "RECIPES", path)
    monkeypatch.setattr(OBJECTIVES, "_items", dict(OBJECTIVES._items))
    forget_recipes()
    try:
        exec(compile(code, str(DOC), "exec", dont_inherit=True), {"__name__": __name__})
        words = ["--objective", "centroid", "--ipc", "1", "--snapshots", "0", "2"]
        assert distill(digits_file, tmp_path / "out", *words) == 0
    finally:
        forget_recipes()
    start, end = (synthetic.load(tmp_path / "out" / f"it{n}.safetensors") for n in (0, 2))
    assert (start.images != end.images).flatten(1).any(1).all()
    assert end.header["networks"] == {"source": "none"} and end.header["seen"] == []
