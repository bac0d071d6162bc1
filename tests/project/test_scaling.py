"""The full run with more datasets, and the rates that its hours rest on."""

from pathlib import Path
from statistics import fmean

import pytest
import yaml

from benchmarks.scaling import enlarged, rates
from dd.config.run import Run, load_run
from dd.plan.jobs import Distillation, Erasing, Evaluation, Relabelling
from dd.plan.plan import Plan


@pytest.mark.slow
def test_more_datasets_are_more_jobs(tmp_path):
    once = Plan(load_run("paper")).main
    document = enlarged(load_run("paper"), 3)
    (tmp_path / "large.yaml").write_text(yaml.safe_dump(document))
    large = Plan(load_run(str(tmp_path / "large.yaml"))).main
    for stage in (Distillation, Evaluation, Relabelling, Erasing):
        assert len(large.of(stage)) == 3 * len(once.of(stage))


def test_measured_rates_agree():
    """Whatever the method: what the hours of one machine are worth. On a GPU, MTT reaches two
    thirds of the others' rate at IPC 10 and a tenth at IPC 1, as docs/scaling.md says."""
    found = rates(Path("benchmarks/results"))
    assert found
    for where, rows in found.items():
        on_cpu = "cores of" in where
        speeds = [rate for work, rate in rows if on_cpu or not work.startswith("mtt")]
        assert max(speeds) < 1.5 * min(speeds), where
        mtt = {work: rate / fmean(speeds) for work, rate in rows if work.startswith("mtt")}
        if not on_cpu:
            assert mtt == {
                "mtt, IPC 1": pytest.approx(1 / 10, abs=0.02),
                "mtt, IPC 10": pytest.approx(2 / 3, abs=0.04),
            }


def test_a_run_of_the_suite_is_unchanged_by_it():
    run = load_run("paper")
    assert isinstance(run, Run) and enlarged(run, 2) and run == load_run("paper")
