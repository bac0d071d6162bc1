"""Jobs that a fork server carries out: what a process of their own would do, to the bit."""

import errno
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from dd.command import STAGES
from dd.plan.jobs import STAGES as OF_JOBS
from dd.runtime import fork_server
from tests.support.resuming import SNAPSHOTS, assert_same, distill
from tests.support.timeless import timeless
from tests.support.waiting import wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="starts servers on Linux"),
]

HELP = ["evaluate", "--help"]
SPY = (sys.executable, "-m", "tests.support.spy", fork_server.COMMAND)


def unserved():
    """The environment of commands that no server carries out yet."""
    return {name: value for name, value in os.environ.items() if name != fork_server.VARIABLE}


@pytest.fixture(scope="module")
def both():
    """The environment of commands that servers carry out, and the servers."""
    environment = unserved()
    servers = fork_server.start(environment)
    yield environment, servers
    fork_server.end(servers)


@pytest.fixture
def served(both):
    return both[0]


@pytest.fixture
def servers(both):
    return both[1]


@pytest.fixture
def preloaded(monkeypatch):
    """Servers that only spy import the libraries of their jobs all the same."""
    monkeypatch.setenv("SPY_LIBRARIES", "1")


@pytest.fixture
def spied(monkeypatch, tmp_path):
    """The environment of commands that servers only spy on, and the servers."""
    monkeypatch.setattr(fork_server, "_SERVER", SPY)
    facts = {"SPY": str(tmp_path / "spy.json"), "SPY_WAITS": "0", "SPY_STATUS": "0"}
    environment = unserved() | facts
    servers = fork_server.start(environment)
    yield environment, servers
    fork_server.end(servers)


def started(argv, environment, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "dd", *argv],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def done(argv, environment, **options):
    process = started(argv, environment, **options)
    out, error = process.communicate(timeout=100)
    return process.returncode, out, error


def seen(process, environment):
    """What the spy wrote."""
    assert process.stdout.readline() == "seen\n"
    return json.loads(Path(environment["SPY"]).read_text())


def state(pid):
    """R, S, T (stopped), ... of a process; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def command_line(pid):
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def waiting(spied):
    """A command that waits for a minute, and the process that carries it out."""
    environment = spied[0] | {"SPY_WAITS": "60"}
    process = started(HELP, environment)
    pid = seen(process, environment)["pid"]
    yield process, pid
    process.kill()
    process.communicate()


def test_every_command_of_a_rule_has_a_kind():
    kinds = {stage: fork_server.kind_of([stage, "--out", "x"]) for stage in STAGES}
    assert set(kinds.values()) == set(fork_server.KINDS)
    assert kinds["distill"] == "distilling" and kinds["figure"] == "figure"
    assert {stage for stage, kind in kinds.items() if kind == "table"} == {
        "table",
        "record",
        "index",
    }
    assert {kinds[one.stage] for one in OF_JOBS} == {"computing", "distilling"}
    assert fork_server.kind_of([]) is fork_server.kind_of(["--version"]) is None


@pytest.mark.parametrize("kind", fork_server.KINDS)
def test_the_libraries_exist(kind):
    assert all(importlib.util.find_spec(name) for name in fork_server.KINDS[kind])


@pytest.mark.parametrize(
    ("stage", "modules"), [("evaluate", ["torch"]), ("figure", ["pandas", "torch"]), ("table", [])]
)
def test_the_process_is_that_of_the_command(preloaded, spied, stage, modules):
    own = {"OWN": "\udc80 \u2211", "SPY_STATUS": "7"}  # a byte that is no UTF-8
    process = started([stage, "--help"], environment := spied[0] | own)
    said = seen(process, environment)
    assert process.wait(30) == 7
    assert said["argv"] == [stage, "--help"] and said["environment"] == environment
    # libraries, and nothing of ours: that is read when the job starts
    assert sorted(said["modules"]) == modules
    assert said["threads"] == 1  # others would not be there after a fork


@pytest.mark.parametrize("threads", ["1", "2"])
def test_the_same_bits(data, served, tmp_path, threads):
    folders = [tmp_path / "served", tmp_path / "own"]
    for folder, environment in zip(folders, [served, unserved()], strict=True):
        argv = distill(data, "dsa", folder)
        argv[argv.index("--threads") + 1] = threads
        threaded = environment | {"OMP_NUM_THREADS": threads}  # as Snakemake sets it
        assert done(argv, threaded)[0] == 0
        networks = ["--arch", "convnet:width=8", "mlp", "--networks", "2", "--epochs", "3"]
        machine = ["--threads", threads, "--device", "cpu", "--out", str(folder) + ".csv"]
        files = ["--data", str(data), "--synthetic", str(folder / f"it{SNAPSHOTS[-1]}.safetensors")]
        assert done(["evaluate", *files, *networks, *machine], threaded)[0] == 0
    assert_same(*folders)
    rows = [timeless(Path(f"{folder}.csv")) for folder in folders]
    for row in rows[0] + rows[1]:
        del row["synthetic"]
    assert rows[0] == rows[1]


def test_bad_input_and_unknown_words(served):
    status, out, error = done(["evaluate", "--networks", "0"], served)
    assert status == 2 and not out and error.startswith("error: ") and error.count("\n") == 1
    assert done(["table", "--config", "no.json", "--table", "x", "--out", "y.csv"], served)[0] == 2


def test_a_signal_is_passed_on(waiting):
    process, pid = waiting
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 128 + signal.SIGTERM
    wait_for(lambda: not state(pid))


def test_a_checkpoint_is_saved_and_the_job_resumes(data, served, alone, tmp_path):
    out = tmp_path / "resumed"
    argv = distill(data, "dsa", out)
    process = started(argv, served)
    wait_for(lambda: list(out.glob(".checkpoint/*")))
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    if process.returncode:  # it was not done before the signal came
        assert process.returncode == 128 + signal.SIGTERM
        assert "run the same command to resume" in error
        assert done(argv, served)[0] == 0
    assert_same(out, alone("dsa"))


def test_a_signal_to_all_processes_saves_once(data, served, servers, alone, tmp_path):
    """As a service manager sends it, or a machine that goes down."""
    out = tmp_path / "resumed"
    argv = distill(data, "dsa", out)
    argv[argv.index("--checkpoint-every") + 1] = "100000"
    argv[argv.index("--inner") + 1] = argv[argv.index("--outer") + 1] = "30"  # long iterations
    process = started(argv, served)
    (distilling,) = (s.pid for s in servers if b"distilling" in command_line(s.pid))
    job = wait_for(lambda: [pid for pid in children(distilling) if out.exists()])[0]
    time.sleep(0.5)
    for pid in (distilling, process.pid, job):
        os.kill(pid, signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, error
    assert "terminated (SIGTERM); run the same command to resume" in error
    assert list(out.glob(".checkpoint/*"))
    assert done(HELP, served)[0] == 0 and command_line(distilling)


def test_a_killed_command_takes_its_process_along(waiting):
    process, pid = waiting
    process.kill()
    wait_for(lambda: not state(pid))


def test_a_killed_process_is_reported_as_by_a_shell(waiting):
    process, pid = waiting
    os.kill(pid, signal.SIGKILL)
    assert process.wait(30) == 128 + signal.SIGKILL


def test_both_rest_and_go_on(waiting):
    process, pid = waiting
    process.send_signal(signal.SIGTSTP)
    wait_for(lambda: state(process.pid) == "T" and state(pid) == "T")
    process.send_signal(signal.SIGCONT)
    wait_for(lambda: state(process.pid) != "T" and state(pid) != "T")
    process.send_signal(signal.SIGTERM)  # no SIGINT: a shell's job in the background ignores it
    assert process.wait(30) == 128 + signal.SIGTERM


def test_a_server_that_is_killed(spied):
    environment, servers = spied[0] | {"SPY_WAITS": "60"}, spied[1]
    process = started(HELP, environment)
    pid = seen(process, environment)["pid"]
    for server in servers:
        server.kill()
    _, error = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "the process that started this job has ended; run the same command to resume" in error
    wait_for(lambda: not state(pid))
    status, out, _ = done(HELP, environment)  # from now on commands do without
    assert status == 0 and "--networks" in out


def test_it_ends_after_its_last_job(spied):
    environment, servers = spied[0] | {"SPY_WAITS": "1"}, spied[1]
    process = started(HELP, environment)
    seen(process, environment)
    fork_server.end(servers)
    assert process.wait(30) == 0  # it was not cut short
    assert [server.returncode for server in servers] == [0] * len(servers)
    assert not Path(environment[fork_server.VARIABLE]).exists()


@pytest.mark.parametrize("change", ["umask 077", "ulimit -f 9999", "export PYTHONSAFEPATH=1"])
def test_other_conditions_have_no_server(spied, change):
    words = f"{change}; exec {sys.executable} -m dd evaluate --help"
    process = subprocess.run(["bash", "-c", words], env=spied[0], capture_output=True, text=True)
    assert process.returncode == 0 and process.stdout.startswith("usage")
    assert not Path(spied[0]["SPY"]).exists()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_without_a_standard_stream_there_is_no_server(served, closed):
    words = f"{sys.executable} -m dd evaluate --help {closed}; echo $?"
    found = [
        subprocess.run(["bash", "-c", words], env=environment, capture_output=True, text=True)
        for environment in (served, unserved())
    ]
    assert found[0].stdout == found[1].stdout and found[0].stdout.endswith("0\n")
    assert found[0].stderr == found[1].stderr
    assert done(HELP, served)[0] == 0  # the server lives


def test_output_that_cannot_be_written(served):
    both = [
        subprocess.run(
            ["bash", "-c", f"{sys.executable} -m dd table --help >/dev/full"],
            env=environment | {"PYTHONUNBUFFERED": ""},
            capture_output=True,
            text=True,
        )
        for environment in (served, unserved())
    ]
    assert both[0].returncode == both[1].returncode == 120
    assert both[0].stderr.count("\n") == both[1].stderr.count("\n") == 2


def test_a_broken_message_is_no_end(served):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{served[fork_server.VARIABLE]}/computing")
        socket.send_fds(client, [b"\n"], [0, 1, 2])
        client.sendall(b'{"words": []}\n')
        assert client.recv(1) == b""
    assert done(HELP, served)[0] == 0


def test_a_home_that_cannot_be_written(tmp_path):
    """The caches of libraries are elsewhere, in servers as in commands: nothing is said of them."""
    environment = unserved() | {"HOME": "/proc/nohome"}
    figure = [
        "figure",
        "--config",
        "no.json",
        "--figure",
        "no.yaml",
        "--out",
        str(tmp_path / "a.png"),
    ]
    alone = done(figure, environment)
    servers = fork_server.start(environment)
    found = [done(figure, environment) for _ in range(2)]
    fork_server.end(servers)
    assert found == 2 * [alone]
    assert alone[0] == 2 and alone[2].count("\n") == 1 and "no.json" in alone[2]


@pytest.mark.parametrize("argv", [HELP, ["--help"]])
def test_another_folder_and_other_commands_have_no_server(spied, argv, tmp_path):
    where = {"cwd": tmp_path} if argv == HELP else {}
    status, out, _ = done(argv, spied[0], **where)
    assert status == 0 and out.startswith("usage") and not Path(spied[0]["SPY"]).exists()


@pytest.mark.parametrize("name", ["n" * 120, "missing"])
def test_no_place_for_sockets(name, monkeypatch, tmp_path, capsys):
    folder = tmp_path / name
    if name != "missing":
        folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    environment = unserved()
    assert fork_server.start(environment) == [] and environment == unserved()
    assert capsys.readouterr().out.startswith("each job imports its libraries itself")
    assert not list(tmp_path.glob("*/*"))


@pytest.mark.parametrize(
    ("files", "threads", "safe"),
    [
        ({"0": "/dev/null", "7": "socket:[1]"}, ["11"], True),
        ({"0": "/dev/null"}, ["11", "12"], False),
        ({"0": "/dev/null", "9": "/dev/nvidiactl"}, ["11"], False),
        ({"3": "/dev/nvidia-uvm"}, ["11"], False),
        ({"3": "/dev/kfd"}, ["11"], False),
    ],
)
def test_no_fork_with_threads_or_a_gpu(files, threads, safe, tmp_path):
    (tmp_path / "fd").mkdir()
    for name, target in files.items():
        (tmp_path / "fd" / name).symlink_to(target)
    for thread in threads:
        (tmp_path / "task" / thread).mkdir(parents=True)
    assert fork_server._forks_safely(tmp_path) == safe


def test_a_server_with_a_thread_refuses(monkeypatch, tmp_path):
    """Its commands are carried out, by themselves."""
    program = "import sys, threading, time; from dd.runtime import fork_server as f\n"
    program += "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
    program += "sys.exit(f.serve(sys.argv[-2], int(sys.argv[-1]), lambda: 9))"
    monkeypatch.setattr(fork_server, "_SERVER", (sys.executable, "-c", program))
    environment = unserved()
    servers = fork_server.start(environment)
    status, out, _ = done(HELP, environment)
    fork_server.end(servers)
    assert status == 0 and out.startswith("usage")


def test_no_more_processes(monkeypatch):
    """Then a server refuses the command and goes on."""

    def full():
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    ours, client = socket.socketpair()
    command = fork_server._Command(["evaluate"], {}, [os.dup(0), os.dup(1), os.dup(2)], ours)
    monkeypatch.setattr(os, "fork", full)
    monkeypatch.setattr(fork_server, "_accepted", lambda listener: command)
    with tempfile.TemporaryFile() as nothing, socket.socket() as listener:
        monkeypatch.setattr(sys, "stdin", nothing)  # at its end: it says that the starter has ended
        turns = iter([[listener.fileno()], [nothing.fileno()]])
        monkeypatch.setattr(fork_server, "select", lambda *_: (next(turns), [], []))
        assert fork_server._fork_for_each(listener, []) is None
    assert client.recv(2) == b"n" and client.recv(1) == b""


def test_none_is_started_where_the_variable_is_set():
    environment = {fork_server.VARIABLE: ""}
    assert fork_server.start(environment) == [] and environment == {fork_server.VARIABLE: ""}
    assert done(HELP, unserved() | environment)[0] == 0
