"""Jobs that start at once: processes that have imported the libraries of a job fork for each job.

To import torch takes two seconds of CPU, as long as a small job works. For a run on this machine
Snakemake starts a server for each of :data:`KINDS` (:func:`start`) and names the folder of their
sockets in the variable ``DD_FORK_SERVER``. A command then hands itself over (:func:`carried_out`):
it sends its words, environment and standard streams, passes on the signals that it gets, and ends
with the status of the forked process. That process does what a new one would do:

- Only libraries are imported beforehand, and only those of its kind of job: memory that it shares
  counts as its own. It imports this package itself, as it is on the disk now.
- It has the environment and the streams of the command. If the command is killed, so is it.
- Stages that compute set their number of threads themselves. The others have one.

Without a server, or in another folder or with other limits, a command runs in its own process, with
the same result. A server ends when the process that started it has ended and its last job is done.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from select import select
from typing import Any, Literal, NoReturn, TextIO

from dd.runtime.caches import provide_caches

VARIABLE = "DD_FORK_SERVER"
"""The environment variable with the folder of the sockets. Where it is set, even to nothing,
:func:`start` starts no servers."""

COMMAND = "fork-server"
"""The first word of a server's command line; its kind and the descriptor of its socket follow."""

_COMPUTING = ("jsonschema", "safetensors.torch", "torch.func", "tqdm", "yaml")
_TABLES = ("jsonschema", "numpy", "safetensors", "scipy.special", "yaml")
KINDS: Mapping[str, Sequence[str]] = {
    "computing": _COMPUTING,
    # torch loads its compiler with the first gradient that torch.func takes
    "distilling": (*_COMPUTING, "torch._dynamo"),
    "table": _TABLES,
    "figure": (*_TABLES, "matplotlib.backends.backend_pdf", "PIL.Image", "seaborn", "torch"),
}
"""The libraries that each kind of job imports."""

_KIND_OF: Mapping[str, str] = {  # all other stages compute
    "distill": "distilling",
    **dict.fromkeys(("table", "record", "index"), "table"),
    "figure": "figure",
}
_SERVER = (sys.executable, "-m", "dd", COMMAND)
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PASSED_ON = (*_ENDING, signal.SIGTSTP)
_LIMITS = (resource.RLIMIT_AS, resource.RLIMIT_DATA, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE)
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"
)
_ACCEPTED, _REFUSED = b"y", b"n"
_SECONDS = 2.0  # for the words of a command, which come at once
_PR_SET_PDEATHSIG = 1


def start(environment: MutableMapping[str, str] = os.environ) -> list[subprocess.Popen[bytes]]:
    """Start servers for the commands that this process starts from now on.

    It starts none if ``environment`` has :data:`VARIABLE`, on other systems than Linux, without
    standard streams, and where no sockets can be made.

    Returns:
        The servers. They :func:`end` with this process, or when nobody keeps them.
    """
    if VARIABLE in environment or not sys.platform.startswith("linux"):
        return []
    if not all(map(_is_open, range(3))):
        return []
    folder = ""
    servers: list[subprocess.Popen[bytes]] = []
    try:
        folder = tempfile.mkdtemp(prefix="dd-")  # of this user alone
        for kind in KINDS:
            servers.append(_started(kind, f"{folder}/{kind}", environment))
    except OSError as error:  # no place for files, or its name is too long for a socket
        end(servers)
        if folder:
            shutil.rmtree(folder, ignore_errors=True)
        print(f"each job imports its libraries itself: no fork servers ({error})", flush=True)
        return []
    environment[VARIABLE] = folder
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # if servers could not
    return servers


def end(servers: Sequence[subprocess.Popen[bytes]]) -> None:
    """Let servers end as soon as their last job is done, and wait for that."""
    for server in servers:
        if server.stdin is not None:
            server.stdin.close()
    for server in servers:
        server.wait()


def _started(kind: str, path: str, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)  # here, so that commands can wait for the server from now on
        listener.listen(128)
        own = {**environment, **_ONE_THREAD}
        provide_caches(own)  # as every command does before it imports
        return subprocess.Popen(
            [*_SERVER, kind, str(listener.fileno())],
            stdin=subprocess.PIPE,  # at its end if this process is
            stdout=subprocess.DEVNULL,
            # a library with threads of its own might wait for them for ever after a fork
            env=own,
            pass_fds=[listener.fileno()],
            start_new_session=True,  # Ctrl-C is for the commands, which pass it on
        )


def kind_of(words: Sequence[str]) -> str | None:
    """The kind of a command's job, one of :data:`KINDS`; None if it names no stage (``--help``)."""
    if not words or words[0].startswith("-"):
        return None
    return _KIND_OF.get(words[0], "computing")


def carried_out(words: Sequence[str]) -> int | None:
    """Have a server carry out ``python -m dd`` with these words.

    Returns:
        The exit status; None: no server does it, so do it here.
    """
    folder, kind = os.environ.get(VARIABLE), kind_of(words)
    if not folder or not kind or not all(map(_is_open, range(3))):
        return None  # in place of a closed stream, the socket would be sent
    with socket.socket(socket.AF_UNIX) as server, _heeding_signals() as signals:
        try:
            server.connect(f"{folder}/{kind}")
            socket.send_fds(server, [b"\n"], [0, 1, 2])
            server.sendall(json.dumps(_described(words)).encode() + b"\n")
            if server.recv(1) != _ACCEPTED:
                return None
        except OSError:  # it has ended, or is on another machine
            return None
        return _outcome(server, signals)


def _is_open(stream: int) -> bool:
    try:
        os.fstat(stream)
    except OSError:
        return False
    return True


def _described(words: Sequence[str]) -> dict[str, Any]:
    return {"words": [*words], "environment": dict(os.environ), "place": _place()}


def _place() -> list[Any]:
    """What a command and its server have in common; another command starts by itself."""
    os.umask(mask := os.umask(0))  # there is no other way to read it
    limits = [list(resource.getrlimit(limit)) for limit in _LIMITS]
    of_python = sorted([*pair] for pair in os.environ.items() if pair[0].startswith("PYTHON"))
    return [sys.prefix, sys.version, os.getcwd(), mask, limits, of_python]


@contextlib.contextmanager
def _heeding_signals() -> Iterator[socket.socket]:
    """A socket with a byte for every signal that comes; those that nobody reads come again."""
    coming, signals = socket.socketpair()
    for end in (coming, signals):
        end.setblocking(False)
    heeded = [number for number in _PASSED_ON if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, lambda *_: None) for number in heeded}
    signal.set_wakeup_fd(coming.fileno())
    try:
        yield signals
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)
        coming.close()
        with signals, contextlib.suppress(BlockingIOError):
            for missed in signals.recv(64):
                os.kill(os.getpid(), missed)


def _outcome(server: socket.socket, signals: socket.socket) -> int:
    """Pass signals on until the exit status comes."""
    said = b""
    try:
        while not said.endswith(b"\n"):
            ready, _, _ = select([server, signals], [], [])
            if signals in ready:
                for signal_number in signals.recv(64):
                    _pass_on(server, signal_number)
            if server in ready:
                said += (came := server.recv(64))
                if not came:
                    raise ConnectionError
    except ConnectionError:
        print(
            "error: the process that started this job has ended; run the same command to resume",
            file=sys.stderr,
        )
        return 1
    status = int(said)
    return status if status >= 0 else 128 - status  # as a shell reports a signal


def _pass_on(server: socket.socket, number: int) -> None:
    with contextlib.suppress(ConnectionError):  # the job has just ended; its status comes
        if number != signal.SIGTSTP:
            server.sendall(bytes([number]))
            return
        server.sendall(bytes([signal.SIGSTOP]))
        os.kill(os.getpid(), signal.SIGSTOP)  # both rest, as one process would, until SIGCONT
        server.sendall(bytes([signal.SIGCONT]))


@dataclass
class _Command:
    """What a command has sent.

    Attributes:
        words: of its command line, without the program.
        environment: its environment variables.
        streams: descriptors of its standard streams.
        client: the connection to it.
    """

    words: list[str]
    environment: dict[str, str]
    streams: list[int]
    client: socket.socket

    def become(self) -> None:
        """Make this process, which has just been forked, that of the command."""
        for number, stream in enumerate(self.streams):
            os.dup2(stream, number)
        self.close_streams()
        self.client.close()
        atexit._clear()  # what libraries do at the end is for the server to do
        os.environ.clear()
        os.environ.update(self.environment)
        sys.argv[1:] = self.words
        tempfile.tempdir = None  # the environment says anew where it is
        sys.stdin = _opened(0, "r", sys.stdin)
        sys.stdout, sys.stderr = _opened(1, "w", sys.stdout), _opened(2, "w", sys.stderr)
        with contextlib.suppress(OSError):  # the name in `top`
            Path("/proc/self/comm").write_text(f"dd {self.words[0]}", encoding="utf-8")

    def refuse(self) -> None:
        """Leave it to itself."""
        with contextlib.suppress(OSError):
            self.client.sendall(_REFUSED)
        self.close_streams()
        self.client.close()

    def close_streams(self) -> None:
        for stream in self.streams:
            os.close(stream)


def _opened(stream: int, mode: Literal["r", "w"], like: TextIO) -> TextIO:
    """A standard stream as Python opens it: errors, and what is on a terminal, line by line."""
    at_once = stream == 2 or os.isatty(stream) or getattr(like, "write_through", False)
    lines = 1 if mode == "w" and at_once else -1
    return open(stream, mode, lines, encoding=like.encoding, errors=like.errors, closefd=False)


@dataclass
class _Job:
    """A forked process.

    Attributes:
        pid: its number.
        client: the connection to its command; closed once the command has been killed.
        end: of a pipe, open for reading; the other end is the job's, so it ends with the job.
    """

    pid: int
    client: socket.socket
    end: int

    def hear(self) -> None:
        """Do what the command passes on."""
        try:
            signals = self.client.recv(64)
        except OSError:
            signals = b""
        for number in signals or [signal.SIGKILL]:  # nothing: the command has been killed
            with contextlib.suppress(OSError):
                os.kill(self.pid, number)
        if not signals:
            self.client.close()

    def report(self) -> None:
        """Tell the command its exit status."""
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        with contextlib.suppress(OSError):
            self.client.sendall(b"%d\n" % status)
        self.forget()

    def forget(self) -> None:
        """Close what belongs to it."""
        os.close(self.end)
        self.client.close()


def serve(kind: str, descriptor: int, carry_out: Callable[[], int]) -> int:
    """Fork for every command that comes, until standard input is at its end.

    Args:
        kind: of the jobs.
        descriptor: of the listening socket.
        carry_out: does what the words in ``sys.argv`` ask for, and returns the exit status.

    Returns:
        The exit status of the server.
    """
    handlers = {number: signal.getsignal(number) for number in _ENDING}
    for number in handlers:  # sent to all processes: jobs save first, then the starter ends this
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=descriptor) as listener:
        path = Path(listener.getsockname())
        command = _fork_for_each(listener, KINDS[kind])
    if command is None:
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # of the last server
            path.parent.rmdir()
        return 0
    for number, handler in handlers.items():
        signal.signal(number, handler)
    command.become()
    try:
        status = carry_out()
    except SystemExit as leaving:
        if leaving.code:
            raise
        status = 0  # after --help
    _leave(status)


def _leave(status: int) -> NoReturn:
    """End a job, but do not take its libraries down: that would copy the memory they share."""
    atexit._run_exitfuncs()
    try:
        for file in (sys.stdout, sys.stderr):
            file.flush()
    except OSError:
        sys.exit(status)  # Python says why, as at the end of any process
    os._exit(status)


def _fork_for_each(listener: socket.socket, libraries: Sequence[str]) -> _Command | None:
    """In the process of a job: its command. In the server, when it may end: None."""
    jobs: dict[int, _Job] = {}  # by their ``end``
    starter = sys.stdin.fileno()
    new = [starter, listener.fileno()]
    while new or jobs:
        heard = {job.client.fileno(): job for job in jobs.values() if job.client.fileno() >= 0}
        ready = select([*new, *jobs, *heard], [], [])[0][0]
        if ready in jobs:
            jobs.pop(ready).report()
        elif ready in heard:
            heard[ready].hear()
        elif ready == starter:
            listener.close()  # who comes later starts by itself
            new = []
        elif command := _accepted(listener):
            _import(libraries)
            if not _forks_safely():
                command.refuse()
                continue
            try:
                job = _forked(command)
            except OSError:  # no more processes
                command.refuse()
                continue
            if job is None:
                for other in jobs.values():
                    other.forget()
                return command
            jobs[job.end] = job
    return None


def _accepted(listener: socket.socket) -> _Command | None:
    """The next command; None if it has gone away, or has to be carried out by itself."""
    try:
        client, _ = listener.accept()
    except OSError:  # it has gone away, or too many files are open
        time.sleep(0.1)
        return None
    client.settimeout(_SECONDS)
    streams: list[int] = []
    try:
        _, streams, _, _ = socket.recv_fds(client, 1, 3)
        with client.makefile("rb") as file:
            said = json.loads(file.readline())
        if len(streams) == 3 and said["place"] == _place():
            return _Command(said["words"], said["environment"], streams, client)
        client.sendall(_REFUSED)
    except (OSError, ValueError, LookupError, TypeError):
        pass
    for stream in streams:
        os.close(stream)
    client.close()
    return None


def _import(libraries: Sequence[str]) -> None:
    for name in libraries:
        with contextlib.suppress(Exception):  # the job that needs it says what is wrong
            importlib.import_module(name)
    gc.freeze()  # so that a job's collections do not touch, and thereby copy, what it shares


def _forks_safely(process: Path = Path("/proc/self")) -> bool:
    """Whether a fork of this process can do all that a new process can.

    It has no other threads, and none of the GPUs in use: their drivers do not work after a fork. No
    library of :data:`KINDS` leaves any of both; another version may.
    """
    used = []
    for file in (process / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that lists them
            used.append(os.readlink(file))
    threads = len(list((process / "task").iterdir()))
    return threads == 1 and not any(file.startswith(("/dev/nvidia", "/dev/kfd")) for file in used)


def _forked(command: _Command) -> _Job | None:
    """The new job; None in its process."""
    server = os.getpid()
    end, held = os.pipe()  # nobody closes `held` before the job ends
    try:
        pid = os.fork()
    except OSError:
        os.close(end)
        os.close(held)
        raise
    if pid == 0:
        os.close(end)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != server:  # it has just been killed
            sys.exit(1)
        return None
    os.close(held)
    command.close_streams()
    with contextlib.suppress(OSError):  # killed in the meantime: `hear` finds out
        command.client.sendall(_ACCEPTED)
    return _Job(pid, command.client, end)
