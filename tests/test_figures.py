"""Figures: they are drawn, not empty, the same each time, and show the pixels of the sets."""

import shutil
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from dd import synthetic
from dd.__main__ import main
from dd.artifacts import save_json, save_rows
from dd.data.dataset import load_dataset
from dd.errors import DDError
from dd.grid import load_grid
from dd.plan import Plan, evaluation_file, load_run, synthetic_file
from dd.report.bars import _offset
from dd.report.figures import check_layout
from dd.report.images import strip
from dd.synthetic import SyntheticSet

FIGURES = Path("workflow/config/figures")


@pytest.fixture(scope="module")
def plan(tmp_path_factory, digits, digits_file):
    """The smoke run with made-up evaluations and sets."""
    results = tmp_path_factory.mktemp("results")
    plan = Plan(load_run("smoke", {"results": str(results)}))
    run = plan.run
    save_json(f"{run.root}/config.json", plan.document())
    (results / "smoke" / "data").mkdir()
    (results / "smoke" / "data" / "digits.safetensors").write_bytes(digits_file.read_bytes())
    for job, archs in plan.evaluations.items():
        value = 20 + len(job.protocol)
        rows = [{"arch": a, "accuracy": value + len(a) + n} for a in archs for n in (0, 1)]
        save_rows(evaluation_file(run, job), rows)
    for job, snapshots in plan.distillations.items():
        for iteration in snapshots:
            labels = torch.arange(10).repeat_interleave(job.ipc)
            images = torch.zeros(len(labels), 1, 8, 8)
            made = SyntheticSet(images, labels, digits.mean, digits.std)
            synthetic.save(synthetic_file(run, job, iteration), made)
    return plan


def draw(plan: Plan, name: str, out: Path) -> None:
    config, figure = f"{plan.run.root}/config.json", str(FIGURES / f"{name}.yaml")
    assert main(["figure", "--config", config, "--figure", figure, "--out", str(out)]) == 0


@pytest.mark.parametrize(
    "name", ["modelpool_temperature", "modelpool_images", "modelpool_ablation"]
)
def test_figures_are_drawn_and_the_same_each_time(plan, tmp_path, name):
    first, second = tmp_path / "first.png", tmp_path / "second.png"
    draw(plan, name, first)
    draw(plan, name, second)
    pixels = numpy.asarray(Image.open(first).convert("L"))
    assert pixels.shape[0] > 500 and pixels.shape[1] > 1000
    assert pixels.min() < 60 and pixels.max() == 255
    assert first.read_bytes() == second.read_bytes()
    document = first.with_suffix(".pdf").read_bytes()
    assert document.startswith(b"%PDF") and len(document) > 5000
    assert document == second.with_suffix(".pdf").read_bytes()
    assert b"CreationDate" not in document


def test_strip_shows_true_pixels(tmp_path, digits):
    """Class k's image is grey k / 10: after normalisation and back it stands at column k."""
    grey = torch.arange(10).float().view(10, 1, 1, 1).expand(10, 1, 8, 8) / 10
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    images = ((grey - digits.mean) / digits.std)[order]
    path = tmp_path / "set.safetensors"
    synthetic.save(path, SyntheticSet(images.contiguous(), order, digits.mean, digits.std))
    shown = strip(str(path), digits)
    assert shown.shape == (10, 100, 3)
    for k in range(10):
        inside = shown[1:9, 10 * k + 1 : 10 * k + 9]
        assert numpy.allclose(inside, k / 10, atol=1e-5)
    assert (shown[0] == 1).all() and (shown[:, ::10] == 1).all()


def test_every_set_is_shown_in_pixels(plan, tmp_path):
    """The same images, all stored without whitening or every second set with it, look the same."""
    drawn = []
    for spaces in (("none",), ("none", "zca")):
        root = tmp_path / "-".join(spaces) / "smoke"
        shutil.copytree(plan.run.root, root)
        data, out = root / "data" / "digits.safetensors", tmp_path / f"{len(spaces)}.png"
        assert main(["prepare", "--source", "digits", "--zca", "--out", str(data)]) == 0
        for n, path in enumerate(sorted((root / "distilled").rglob("it*.safetensors"))):
            space = spaces[n % len(spaces)]
            train = load_dataset(data, whitening=space).train
            images = train.take(torch.stack([indices[0] for indices in train.by_class]))
            made = SyntheticSet(images, torch.arange(10), header={"whitening": space})
            synthetic.save(path, made)
        command = ["figure", "--config", str(root / "config.json"), "--out", str(out)]
        assert main([*command, "--figure", str(FIGURES / "modelpool_images.yaml")]) == 0
        drawn.append(numpy.asarray(Image.open(out).convert("L")).astype(int))
    assert numpy.abs(drawn[0] - drawn[1]).max() <= 2


def test_a_missing_class_is_named(tmp_path, digits):
    path = tmp_path / "set.safetensors"
    synthetic.save(path, SyntheticSet(torch.zeros(1, 1, 8, 8), torch.tensor([3])))
    with pytest.raises(DDError, match="has no image of class '0'"):
        strip(str(path), digits)


def test_layout_must_place_every_axis(plan):
    grid = load_grid("figure", FIGURES / "modelpool_ablation.yaml", plan.run)
    layout = {part: axes for part, axes in grid.definition["layout"].items() if part != "row"}
    grid.definition["layout"] = layout
    with pytest.raises(DDError, match="layout has no 'row'"):
        check_layout(grid, ("x", "row"))
    with pytest.raises(DDError, match="axis 'ipc' has several values but no part in layout"):
        check_layout(grid, ("x",))


def test_markers_stand_on_their_bars():
    # four bars of a group 0.8 wide: each 0.2, centred at -0.3, -0.1, 0.1, 0.3
    assert [round(_offset(i, 4), 6) for i in range(4)] == [-0.3, -0.1, 0.1, 0.3]
    assert _offset(0, 1) == 0
