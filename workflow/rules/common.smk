# The plan of the run that --config names, and functions that give the rules what they need of it.
import json
import os
import shlex
import shutil
import sys
from pathlib import Path

from dd.config.run import load_run
from dd.errors import DDError, printable
from dd.plan import kinds
from dd.plan.jobs import STAGES, command_words
from dd.plan.plan import Plan
from dd.plan.wildcards import exactly
from dd.runtime import fork_server

# All jobs use the `python` that runs Snakemake, even if its environment is not active.
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
    if workflow.is_main_process:  # once, and not again in each job on a cluster
        from dd.plan.validate import check_plan

        check_plan(PLAN, OVERRIDES)
    JOBS = {stage.stage: {str(job): job for job in PLAN.of(stage)} for stage in STAGES}
except DDError as error:
    sys.exit(f"error: {printable(str(error))}")

RUN = PLAN.run
FORK_SERVERS = []  # they end with this process
CONFIG = f"{RUN.root}/config.json"
RENDERING = {
    "threads": 1,
    "mem_mb": 3000,
    "runtime": 15,
}  # default of `render` in a run's resources
# `auto` looks at this machine. The front end of a cluster may have no GPU: there, set device=cuda.
GPUS = int(
    RUN.device.startswith("cuda") or (RUN.device == "auto" and bool(shutil.which("nvidia-smi")))
)


def rendered(kind, names):
    """The main file of each table or figure (its other formats come with it)."""
    ending = {"table": "csv", "figure": "png"}[kind]
    return [f"{RUN.root}/{kind}s/{name}.{ending}" for name in names]


def listed(kind):
    """The names of the tables or figures that are not optional."""
    return [name for of, name in PLAN.main.exhibits if of == kind]


def needed(stage, resource):
    """Threads, memory or time of a stage's jobs; those of distill if the run does not list the stage."""
    return {"render": RENDERING, **RUN.resources}.get(stage, RUN.resources["distill"])[resource]


def growing(stage, resource):
    """The same, multiplied by the number of the attempt: a job that ran out of it gets more."""
    return lambda wildcards, attempt: attempt * needed(stage, resource)


def inputs(stage):
    """The files that a job of ``stage`` reads, by the option that names them.

    The time of a prepared file does not count while it holds the images that the run asks for: it
    may have been written again. Other images also change :func:`images`.
    """

    def of(wildcards):
        files = JOBS[stage][wildcards.job].inputs(RUN)
        prepared = files.get("data", [])
        if prepared and all(map(PLAN.is_current, prepared)):
            files["data"] = ancient(prepared)
        return files

    return of


def images(stage):
    """What the images of a job of ``stage`` depend on. If it changes, the job runs again."""
    return lambda wildcards: json.dumps(JOBS[stage][wildcards.job].images(RUN, PLAN.listing))


def places(stage):
    """Options of a job of ``stage`` that may change without making it run again.

    Snakemake does not compare the parameters whose functions look at the output. Modules of
    plug-ins are among them: what a job uses of them is in its other options.
    """

    def of(wildcards, output):
        job = JOBS[stage][wildcards.job]
        measured = {"benchmark": job.measured(RUN).benchmark, "plugin": RUN.plugins}
        return shlex.join(command_words(job.places(RUN) | measured))

    return of


def read_by(kind, name):
    """The files that a table or figure is rendered from, besides its definition."""
    return kinds.inputs(PLAN.exhibits[kind, name], PLAN.main.jobs)


def words(stage):
    """The quoted command line of a job of ``stage``: the files that it reads, then its options."""

    def of(wildcards):
        job = JOBS[stage][wildcards.job]
        return shlex.join(command_words(job.inputs(RUN) | job.options(RUN)))

    return of


def check_start():
    """Stop before the first job if images or weights that the run reads are missing."""
    from dd.plan.validate import check_found

    try:
        check_found(PLAN)
    except DDError as error:
        sys.exit(f"error: {printable(str(error))}")


def rest_between_jobs():
    """Let Snakemake's scheduler sleep while jobs work.

    As long as the rate of new jobs has a limit, each pass of the scheduler sets a timer for another
    pass, and each finished job adds one. So after n jobs it wakes up n times a second, with n threads.
    The default limit, 100 jobs a second, is above what a machine can start. Any other is kept.
    """
    limiter = getattr(workflow.scheduler, "job_rate_limiter", None)
    if limiter is not None and (limiter.max_jobs, limiter.timespan) == (100, 1):
        workflow.scheduler.job_rate_limiter = None


def fork_jobs():
    """Let this machine's jobs start from processes that have imported their libraries."""
    does = workflow.executor_plugin.common_settings
    if does.local_exec and not (does.touch_exec or workflow.deployment_settings.deployment_method):
        FORK_SERVERS.extend(fork_server.start())


def recorded():
    """All files of the run, without those of optional tables and figures."""
    return PLAN.main.files()


def lost():
    """The files that a finished run no longer has. The record asks for those of other runs."""
    if not Path(RUN.root, "run.json").is_file():
        return []
    return [path for path in recorded() if not Path(path).is_file()]


def report_stop():
    """Print why the run ended early. Ctrl-C and SIGTERM end it without a failed job."""
    failed = getattr(workflow.scheduler, "failed", ())
    why = "a job failed (its message is above)" if failed else "stopped before its end"
    print(f"run {RUN.name}: {why}; the same command goes on from here")


def report_made():
    """Print where the tables and figures are."""
    for kind in ("table", "figure"):
        names = [name for of, name in PLAN.exhibits if of == kind]
        made = [path for path in rendered(kind, names) if Path(path).exists()]
        if made:
            print(f"{kind}s of run {RUN.name}:", *made, sep="\n  ")
