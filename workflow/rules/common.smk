# The plan of the run that --config asks for, and what the rules ask of it.
import os
import shlex
import shutil
import sys
from pathlib import Path

from dd.config.run import load_run
from dd.errors import DDError, printable
from dd.plan.jobs import (
    GENERATOR,
    data_file,
    labels_file,
    pretrained_file,
    shard_file,
    synthetic_file,
)
from dd.plan.needs import pool_files
from dd.plan.wildcards import exactly
from dd.plan.plan import Plan, options

# `python` of every job is the one that runs Snakemake, also where its environment is not active.
os.environ.update(PATH=os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()]))

OVERRIDES = {key: value for key, value in config.items() if key != "run"}

try:
    PLAN = Plan(
        load_run(
            config.get("run", "smoke"),
            OVERRIDES,
            os.path.relpath(Path(workflow.basedir) / "workflow"),
        )
    )
    if workflow.is_main_process:  # not again in each job that a cluster starts
        from dd.plan.validate import check_plan

        check_plan(PLAN)
    DISTILLATIONS = {str(job): job for job in PLAN.distillations}
    SHARDS = {str(shard): shard for shard in PLAN.shards}
    EVALUATIONS = {str(job): job for job in PLAN.evaluations}
    PRETRAININGS = {str(job): job for job in PLAN.pretrainings}
    RELABELLINGS = {str(job): job for job in PLAN.relabellings}
    SNAPSHOTS = {str(snapshot): snapshot for snapshot in PLAN.snapshots_with_cams}
    ERASINGS = {str(job): job for job in PLAN.erasings}
except DDError as error:
    sys.exit(f"error: {printable(str(error))}")

RUN = PLAN.run
CONFIG = f"{RUN.root}/config.json"
RENDERING = {"threads": 1, "mem_mb": 3000, "runtime": 15}  # as in a run's resources
# `auto` goes by this machine; a cluster's front end, which may have no GPU, is told device=cuda
GPUS = int(
    RUN.device.startswith("cuda") or (RUN.device == "auto" and bool(shutil.which("nvidia-smi")))
)


def rendered(kind, names):
    """The main file of each table or figure (its other formats come with it)."""
    ending = {"table": "csv", "figure": "png"}[kind]
    return [f"{RUN.root}/{kind}s/{name}.{ending}" for name in names]


def command_line(settings):
    """Settings as quoted command-line options."""
    return shlex.join(options(settings))


def needed(stage, resource):
    """Threads, memory or time of a stage's jobs; a stage that the run does not list has distill's."""
    return {"render": RENDERING, **RUN.resources}.get(stage, RUN.resources["distill"])[resource]


def growing(stage, resource):
    """The same, more of it at each attempt: a job that ran out of it is given more."""
    return lambda wildcards, attempt: attempt * needed(stage, resource)


def shard_files(distillation):
    """The buffers that a distillation reads."""
    return [shard_file(RUN, shard) for shard in PLAN.shards_of(distillation)]


def pretrained_files(jobs):
    """What the jobs train: frozen networks or generators."""
    return [pretrained_file(RUN, job) for job in jobs]


def given_weights(pretraining):
    """The user's weights that take the place of training, if any."""
    return PLAN.pretrain_options(pretraining)["weights"] or []


def set_file(snapshot):
    """The file of a snapshot, or of the set of an evaluation."""
    return synthetic_file(RUN, snapshot.distillation, snapshot.iterations)


def label_files(evaluation):
    """The soft labels that an evaluation learns from, if its protocol does."""
    return [labels_file(RUN, job) for job in PLAN.labels_of(evaluation)]


def option(name, files):
    """The option that names the files, if there are any."""
    return shlex.join([f"--{name}", *files]) if files else ""


def recorded():
    """All files of the run, those of optional tables and figures left out."""
    return PLAN.main.files()


def report_made():
    """Say where the tables and figures are."""
    for kind in ("table", "figure"):
        names = [name for of, name in PLAN.exhibits if of == kind]
        made = [path for path in rendered(kind, names) if Path(path).exists()]
        if made:
            print(f"{kind}s of run {RUN.name}:", *made, sep="\n  ")
