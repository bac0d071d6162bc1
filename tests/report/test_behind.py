"""What ``verify --claim`` says: from a verdict to the rows that it rests on."""

import pytest

from dd.artifacts.text import load_json, save_json
from dd.errors import DDError
from dd.report.behind import behind, claim_of
from tests.support.tables import fill, render


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """A run with two sets, whose networks of FRePo are the better ones."""
    return fill(
        "smoke",
        tmp_path_factory.mktemp("results"),
        lambda job, arch, n: (
            50 + (job.distillation.method == "frepo") * (4 + job.distillation.seed + 0.1 * n)
        ),
        seeds=[0, 1],
    )


def told(plan, name):
    return list(behind(claim_of(plan.run, name)))


def test_each_cell_has_its_own_rows(plan):
    """FRePo is tested on the network of its authors, under its own protocol."""
    lines = told(plan, "frepo-families")
    assert lines[0].startswith("frepo-families: FRePo beats gradient")
    assert lines[1] == "  digits (scikit-learn, 8x8): holds"
    # differences 4.05 and 5.05: their mean ± 6.3138 × 0.5
    interval = "90 % interval +1.39 to +7.71, 2 × 2 networks; alone: for"
    assert lines[2] == f"    FRePo − DC: +4.55 points, {interval}"
    folder = f"{plan.run.root}/evaluations/digits"
    ends = ", 2 networks of each set"
    assert lines[3:9] == [
        "      IPC 1, ConvNet, FRePo: rows arch=convnet:growth=2,norm=none, protocol=regression"
        + ends,
        f"        {folder}/frepo/ipc1/seed0/it300/regression.csv",
        f"        {folder}/frepo/ipc1/seed1/it300/regression.csv",
        f"      IPC 1, ConvNet, DC: rows arch=convnet, protocol=hard{ends}",
        f"        {folder}/dc/ipc1/seed0/it60/hard.csv",
        f"        {folder}/dc/ipc1/seed1/it60/hard.csv",
    ]


def test_the_files_are_those_of_the_table(plan):
    config = f"{plan.run.root}/config.json"
    document = load_json(config)
    document["run"] |= {"tables": ["families", "modelpool_ablation", "claims"], "figures": []}
    save_json(config, document)
    rows = [row for row in render(plan, "claims") if row["files"]]
    assert {row["verdict"] for row in rows} == {"holds", "undecided"}
    for row in rows:
        said = told(plan, row["claim"])
        assert f": {row['verdict']}" in said[1]
        assert {*row["files"].split()} <= {
            line.strip().removeprefix(f"{plan.run.root}/") for line in said
        }


def test_why_a_claim_is_not_tested(plan):
    said = told(plan, "metadd-glad")[1:]
    assert said == [
        "  digits (scikit-learn, 8x8): not tested (the run uses the suite's own generator, "
        "not that of GLaD)"
    ]


@pytest.mark.parametrize("name", ["", "frepo-familie"])
def test_unknown_claims(plan, name):
    with pytest.raises(DDError, match=r"unknown claim of .*known are .*frepo-families"):
        claim_of(plan.run, name)
