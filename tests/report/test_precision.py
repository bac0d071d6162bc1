"""What tables, figures and pages of a run say if it does not compute in float32."""

from dataclasses import replace

import pytest

from dd.config.run import load_run
from dd.plan.plan import Plan
from dd.report import index
from dd.report.captions import caption, facts
from tests.support.tables import cell, fill, render

SENTENCE = "Networks were trained and tested in bf16, with float32 parameters and sums."


@pytest.mark.parametrize("name", ["smoke", "iadd", "metadd", "cifar10"])
def test_every_caption_says_it(name):
    for precision, said in (("float32", False), ("bf16", True)):
        plan = Plan(load_run(name, {"precision": precision}))
        for exhibit in plan.exhibits.values():
            if exhibit.definition["kind"] != "listing":  # it shows no numbers of the run
                assert (SENTENCE in facts(exhibit, [])) == said
        assert (SENTENCE in index.about(plan, None).caption) == said
        assert (SENTENCE in index.settings(plan).caption) == said
        rows = {line[0].text: line[1].text for line in index.about(plan, None).body}
        assert rows.get("Precision") == ("bf16" if said else None)


def test_published_values_stand_beside_it_with_a_word(tmp_path):
    said = {}
    for precision in ("float32", "bf16"):
        plan = fill("cifar10", tmp_path, lambda *_: 20.0, networks=1, precision=precision)
        rows = render(plan, "modelpool_ablation")
        place = {"ipc": 1, "iterations": 1000, "setting": "baseline", "arch": "resnet18"}
        row = cell(rows, **place)
        assert row["published"] == "18.13"
        text = (tmp_path / "cifar10" / "tables" / "modelpool_ablation.md").read_text()
        said[precision] = row["published_note"], "not known to be in bf16" in text, SENTENCE in text
        beside_nothing = cell(rows, **place | {"setting": "kd"})
        assert beside_nothing["published_note"] == ""
    assert said == {"float32": ("", False, False), "bf16": ("ours in bf16", True, True)}


def test_without_published_values_the_caption_says_nothing_of_them():
    plan = Plan(load_run("smoke", {"precision": "bf16"}))
    exhibit = plan.exhibits["table", "modelpool_ablation"]
    assert "Published values" not in facts(exhibit, [{"published": None, "diverged": 0}])
    assert "Published values" in facts(exhibit, [{"published": 20.0, "diverged": 0}])


def test_the_caption_of_a_figure_whose_dataset_is_a_copy():
    """The page of a run has captions without the rows of the figure."""
    run = load_run("cifar10", {"precision": "bf16"})
    options = {**run.datasets["cifar10"], "source": "image-folder", "copy": "JPEG"}
    run = replace(run, datasets={"cifar10": options})
    for exhibit in Plan(run).exhibits.values():
        assert exhibit.definition["kind"] == "listing" or SENTENCE in caption(exhibit)


def test_the_commands_of_a_page_have_it(tmp_path):
    run = load_run("smoke", {"precision": "bf16"})
    assert "precision=bf16" in index.config_words(run)
    assert not any("precision" in word for word in index.config_words(load_run("smoke")))
