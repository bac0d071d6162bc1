"""The workflow by dry run: which jobs it would do, again and after a change; its errors."""

import json
import os
import re
import subprocess
import sys

import pytest

from dd.config.methods import format_value
from dd.config.run import load_run, read_run
from dd.plan.jobs import Evaluation
from dd.plan.plan import Plan
from dd.runtime import fork_server
from tests.support.runs import TINY, jobs, snakemake


@pytest.mark.slow
def test_smoke_is_what_runs_without_configuration(checkout):
    # Model Pool. Ablation: 2 ipc x 2 snapshots x 6 settings = 24 evaluations; pool settings, at IPC
    # 1, add 2 pools: 2 x 2 = 4; temperatures, at IPC 1 and the first snapshot: 2 sets x 2
    # variants x 3 = 12, of which kd at 3 and kd-released at 0 (2 sets) are in the ablation.
    # Distillations: 2 network sources x 2 ipc and 2 more, with both snapshots.
    # IADD, at IPC 1. Selections: 3, and the full data; with both snapshots: mtt and three kinds of
    # learned weights; at the last alone: dsa, dm and pruning. Both snapshots of mtt and iadd are
    # evaluated (curves), of all others the last; dc is Model Pool's.
    # Families, at IPC 1: dd, and frepo after 300; the others are there.
    # MetaDD, at IPC 1. Of four methods, each alone, with glad and with metadd, three were there
    # (dm, dc and mtt alone); the ablation adds ce, kl and logits, the auxiliaries another choice.
    # Each is evaluated at the last snapshot; labels for the three of sre2l. Activation maps of dm
    # with and without metadd at three snapshots, of sre2l at two. Networks: three auxiliary, two
    # more.
    assert jobs(checkout) == {
        "configure": 1, "prepare": 1, "buffer": 1, "pretrain": 5, "generator": 1,
        "distill_0": 3 + 1, "distill_20_60": (2 * 2 + 2) + 4, "distill_0_20_60": 2,
        "distill_0_60": 2, "distill_60": (3 - 1) + 1 + (9 + 3 + 1 - 1 - 2), "distill_300": 1,
        "relabel": 3, "cams": 2 * 3 + 2 * 2, "erase": 1,
        "evaluate": (24 + 4 + 8) + (3 + 1) + 2 * 2 + 2 + 3 + 2 + (9 + 3 + 1),
        "table": 9 + 5 + 3 + 3, "figure": 8 + 4 + 3, "record": 1, "index": 1, "all": 1,
    }  # fmt: skip


@pytest.mark.slow
def test_no_job_of_the_paper_is_done_twice(checkout):
    run = ("--config", "run=cifar10")
    # ablation: 2 x 3 x 6 = 36 evaluations, of 2 specs x 2 ipc with all snapshots in one job
    assert jobs(checkout, "modelpool_ablation", *run) == {
        "configure": 1, "prepare": 1, "distill_1000_2000_3000": 4, "evaluate": 36,
        "table": 1, "figure": 1, "modelpool_ablation": 1,
    }  # fmt: skip
    # with the pool settings' two other pools (12), and 2 sets x 2 ipc x 2 variants x 13
    # temperatures, less the shared ones: kd at 3 and kd-released at 0
    every = jobs(checkout, *run)
    assert (every["distill_1000_2000_3000"], every["evaluate"]) == (8, 36 + 12 + 104 - 8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "kept"), [([], "None"), (["--max-jobs-per-timespan", "7/1s"], "7 a second")]
)
def test_the_scheduler_sleeps_unless_a_rate_is_asked_for(checkout, words, kept):
    snakefile = checkout / "Snakefile"
    text = snakefile.read_text()
    say = "limiter = workflow.scheduler.job_rate_limiter\n    print('limiter:', limiter and "
    say += "f'{limiter.max_jobs} a second')"
    assert text.count("report_made()") == 1
    snakefile.write_text(text.replace("report_made()", say))
    done = snakemake(checkout, "configure", *words)
    assert done.returncode == 0, done.stderr
    assert f"limiter: {kept}" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("words", [{}, {fork_server.VARIABLE: ""}])
def test_jobs_are_forked_unless_that_is_switched_off(checkout, monkeypatch, words):
    monkeypatch.delenv(fork_server.VARIABLE, raising=False)
    for name, value in {"PYTHONPROFILEIMPORTTIME": "1", **words}.items():
        monkeypatch.setenv(name, value)
    done = snakemake(checkout, "configure")
    assert done.returncode == 0, done.stderr
    (log,) = checkout.glob("results/*/logs/configure.log")
    imported = {line.rpartition("|")[2].strip() for line in log.read_text().splitlines()}
    assert "dd.runtime.fork_server" in imported
    assert ("torch" in imported) == bool(words)  # by the command itself


@pytest.mark.slow
def test_nothing_is_forked_where_no_job_runs(checkout, monkeypatch):
    monkeypatch.delenv(fork_server.VARIABLE, raising=False)
    snakefile = checkout / "Snakefile"
    text = snakefile.read_text()
    assert text.count("report_made()") == 1
    snakefile.write_text(text.replace("report_made()", "print('servers:', len(FORK_SERVERS))"))
    for words, servers in (([], len(fork_server.KINDS)), (["--touch", "--forceall"], 0)):
        done = snakemake(checkout, "configure", *words)
        assert done.returncode == 0, done.stderr
        assert f"servers: {servers}" in done.stdout


@pytest.mark.slow
def test_the_papers_own_run_of_metadd(checkout):
    found = jobs(checkout, "metadd_cross_arch", "--config", "run=paper")
    # Tiny ImageNet and two subsets of ImageNet at 128 px; 12 methods, 3 ipc, 3 seeds
    sets = 3 * 12 * 3 * 3
    assert sum(count for rule, count in found.items() if rule.startswith("distill_")) == sets
    assert (found["evaluate"], found["relabel"]) == (sets, sets // 4)  # soft labels: sre2l's
    assert (found["prepare"], found["pretrain"], found["generator"]) == (3, 3 * 3, 3)
    assert found["buffer"] == 3 * 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "tables", "figures"),
    [
        ("modelpool", 4, 3),
        ("iadd", 5, 5),
        ("metadd", 5, 4),
        ("tables", 20, 0),
        ("figures", 0, 15),
        ("cost", 1, 1),
        ("ranking", 1, 1),
        ("claims", 1, 1),
        ("modelpool_taxonomy", 1, 0),
    ],
)
def test_targets(checkout, target, tables, figures):
    found = jobs(checkout, target)
    assert (found.get("table", 0), found.get("figure", 0)) == (tables, figures)


@pytest.mark.slow
def test_a_table_without_numbers_needs_no_data(checkout):
    assert jobs(checkout, "modelpool_taxonomy") == {
        "configure": 1, "table": 1, "modelpool_taxonomy": 1,
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config", "run=smok"], "unknown run 'smok': did you mean 'smoke'?"),
        (["--config", "netwroks=2"], "unknown configuration key 'netwroks': did you mean"),
        (["--config", "networks=two"], "networks is 'two', it must be a whole number"),
        (["--config", "run=cifar10", "data_root=no/where"], "no/where is no folder"),
        (
            ["--config", "device=cpu", "seeds=[0,one]"],
            "seeds.1 is 'one', it must be a whole number",
        ),
    ],
)
def test_wrong_configuration_is_one_line(checkout, words, message):
    done = snakemake(checkout, "-n", *words)
    assert done.returncode != 0
    said = [line for line in (done.stdout + done.stderr).splitlines() if "profile" not in line]
    assert len(said) == 1 and said[0].startswith("error: ") and message in said[0]


@pytest.mark.slow
def test_a_target_called_like_a_rule_is_one_line(checkout):
    folder = checkout / "workflow/config"
    (folder / "tables/modelpool_taxonomy.yaml").rename(folder / "tables/evaluate.yaml")
    run = folder / "runs/smoke.yaml"
    run.write_text(run.read_text().replace("- modelpool_taxonomy", "- evaluate"))
    done = snakemake(checkout, "-n")
    said = [line for line in (done.stdout + done.stderr).splitlines() if "profile" not in line]
    assert done.returncode != 0 and said == [
        "error: run smoke: a table, figure or paper is called 'evaluate', as a rule of the "
        "workflow; rename it"
    ]


@pytest.mark.slow
def test_a_value_means_the_same_in_the_plan_and_in_its_job(checkout):
    """Snakemake takes a date for text, and YAML for a date."""
    words = ["results=2024-11-27", "sets_root=2024", "device=cpu", "datasets=[digits]"]
    done = snakemake(checkout, "configure", "--config", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    run = read_run(checkout / "2024-11-27/smoke/config.json")
    assert (run.sets_root, run.device, list(run.datasets)) == ("2024", "cpu", ["digits"])


@pytest.mark.slow
def test_what_changes_is_what_runs_again(checkout):
    """Real jobs, then dry runs: each change repeats what depends on it, and all of it at once."""
    run, words = checkout / "tiny.yaml", ("--config", "run=tiny.yaml")
    run.write_text(TINY)
    done = snakemake(checkout, *words)
    assert done.returncode == 0, done.stderr
    assert jobs(checkout, *words) == {}

    def after(file, old, new):
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))
        found = jobs(checkout, *words)
        file.write_text(text)
        return {rule: count for rule, count in found.items() if rule != "all"}

    config = checkout / "workflow/config"
    caption = after(config / "tables/modelpool_taxonomy.yaml", "The families", "Families")
    assert caption == {"table": 1, "record": 1, "index": 1}
    longer = {"configure": 1, "evaluate": 2, "table": 3, "record": 1, "index": 1}
    assert after(run, "epochs: 2", "epochs: 3") == longer
    more = {"configure": 1, "distill_1": 2, "evaluate": 2, "table": 3, "record": 1, "index": 1}
    assert after(run, "batch_real: 8", "batch_real: 9") == more
    # the pool's sets, and the tables that show them or the pool
    pool = {"distill_1": 1, "evaluate": 1, "table": 2, "record": 1, "index": 1}
    assert after(config / "pools/pool.yaml", "probability: 0.9", "probability: 0.8") == pool


@pytest.mark.slow
def test_a_finished_run_can_be_checked_again(checkout):
    def verify(*words):
        command = [sys.executable, "-m", "dd", "verify", "results/tiny", *words]
        return subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=60)

    one = TINY.replace("[baseline, pool]", "[baseline]")
    one = one.replace("modelpool_ablation]", "modelpool_ablation, cost, claims]")
    (checkout / "tiny.yaml").write_text(one)
    words = ("--config", "run=tiny.yaml")
    assert snakemake(checkout, *words).returncode == 0
    done = verify()
    assert done.returncode == 0 and "5 tables from 1 evaluations of 1 distillations" in done.stdout
    # a claim of a run with one setting is not tested, so no file is behind it
    done = verify("--claim", "modelpool-pool-mlp")
    assert done.returncode == 0 and "digits: not tested (this run has no such cells)" in done.stdout
    assert "unknown claim of results/tiny ''" in verify("--claim", "").stderr
    record = json.loads((checkout / "results/tiny/run.json").read_text())
    assert record["seeds"] == [0] and record["configuration"]["run"]["title"] == record["title"]
    assert record["started"] <= record["ended"] and record["hardware"]["cores"] == os.cpu_count()

    table = checkout / "results/tiny/tables/modelpool_ablation.csv"
    made = table.read_bytes()
    evaluation = next((checkout / "results/tiny/evaluations").rglob("*.csv"))
    text = evaluation.read_text()
    evaluation.write_text(text.replace(",mlp,0,", ",mlp,1,", 1))
    done = verify()
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"{evaluation.name} is not what was recorded" in done.stderr

    assert verify("--remove").returncode == 2 and not evaluation.exists()
    assert jobs(checkout, *words)["evaluate"] == 1
    assert snakemake(checkout, *words).returncode == 0
    assert verify().returncode == 0 and table.read_bytes() == made


@pytest.mark.slow
def test_commands_can_be_copied(checkout):
    done = snakemake(checkout, "-n", "-p", "--config", "networks=4")
    said = " ".join((done.stdout + done.stderr).split())
    assert (
        "python -m dd distill --data results/smoke/data/digits.safetensors "
        "--pool workflow/config/pools/pool.yaml --objective dc --ipc 10 --seed 0 "
        "--width-factor 0.125" in said
    )
    released = "--protocol kd --variant released --temperature 10 --temperature-decay 0.9"
    assert f"{released} --alpha 0.5" in said
    assert "--networks 4" in said and "--snapshots 20 60 " in said


def test_every_path_is_plain(tmp_path):
    """Protocols and specs in paths keep to characters that shells and file systems take."""
    for job in Plan(load_run("cifar10")).of(Evaluation):
        assert re.fullmatch(r"[A-Za-z0-9_./+@=,-]+", str(job)), job
    assert format_value(3.0) == "3" and format_value(0.05) == "0.05"


@pytest.mark.slow
def test_lint_finds_nothing(checkout):
    done = snakemake(checkout, "--lint")
    assert done.returncode == 0, done.stdout + done.stderr
