"""A home folder that cannot be written to, and memory that runs out: no line more than needed."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys

import pytest
import torch

import dd.command as command_line
from dd.command import main
from dd.errors import is_out_of_gpu_memory, is_out_of_memory
from dd.runtime import caches
from dd.runtime.caches import provide_caches
from dd.runtime.limits import near_memory_limit
from tests.support.runs import ROOT, copy_workflow, tiny_run

HOMES = {"missing": "/proc/1/nonexistent", "no folder": "/dev/null/home", "unset": None}


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder of temporary files, a new one."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(caches.tempfile, "gettempdir", lambda: str(folder))
    return folder


@pytest.mark.parametrize("home", ["/proc/1/nonexistent", "/dev/null/home", "/proc/self"])
def test_caches_move_where_the_home_folder_is_no_place_for_them(home, temporary, monkeypatch):
    monkeypatch.setenv("HOME", home)
    given = {"HOME": home}
    provide_caches(given)
    folder = temporary / f"dd-caches-{os.getuid()}"
    assert given == {
        "HOME": home,
        "XDG_CACHE_HOME": str(folder / "cache"),
        "MPLCONFIGDIR": str(folder / "matplotlib"),
    }
    assert folder.stat().st_mode & 0o777 == 0o700


def test_caches_stay_where_somebody_has_put_them(temporary, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/proc/1/nonexistent")
    given = {"MPLCONFIGDIR": "/mine", "XDG_CACHE_HOME": "/mine, too"}
    provide_caches(given)
    assert given == {"MPLCONFIGDIR": "/mine", "XDG_CACHE_HOME": "/mine, too"}
    monkeypatch.setenv("HOME", str(tmp_path))  # can be written to: nothing to do
    given = {}
    provide_caches(given)
    assert given == {} and not list(temporary.iterdir())


def test_a_link_of_somebody_is_not_followed(temporary, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/proc/1/nonexistent")
    monkeypatch.setattr(caches.tempfile, "tempdir", str(temporary))
    (tmp_path / "theirs").mkdir()
    (temporary / f"dd-caches-{os.getuid()}").symlink_to(tmp_path / "theirs")
    given = {}
    provide_caches(given)
    assert given and not any(str(tmp_path / "theirs") in path for path in given.values())
    assert f"dd-caches-{os.getuid()}/" not in given["MPLCONFIGDIR"]


def surroundings(home, folder):
    """The environment of a process whose home folder is ``home``; None: not set."""
    mine = {"TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}
    kept = {
        k: v for k, v in os.environ.items() if k not in ("HOME", "USER", "LOGNAME", *caches.CACHES)
    }
    return kept | mine | ({} if home is None else {"HOME": home})  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("home", HOMES)
def test_a_run_needs_no_home_folder(home, tmp_path):
    folder, temporary = tiny_run(tmp_path / "run"), tmp_path / "tmp"
    temporary.mkdir()
    environment = surroundings(HOMES[home], temporary)
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", "--cores", "2", "--config", "run=tiny.yaml"],
            cwd=folder, capture_output=True, text=True, timeout=300, env=environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    assert "Nothing to be done" in done.stdout + done.stderr
    words = ["figure", "--config", "results/tiny/config.json", "--out", "f.png", "--figure",
             "workflow/config/figures/modelpool_ablation.yaml"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "dd", *words], cwd=folder, capture_output=True, text=True,
        timeout=120, env=environment,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_a_home_folder_that_is_mounted_read_only(tmp_path, digits_file):
    home = tmp_path / "home"
    home.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(home)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here: run the tests as root")
    try:
        words = ["distill", "--objective", "random", "--ipc", "1", "--data", str(digits_file)]
        done = subprocess.run(
            [sys.executable, "-m", "dd", *words, "--out", str(tmp_path / "made")],
            capture_output=True, text=True, timeout=120, env=surroundings(str(home), tmp_path),
        )  # fmt: skip
    finally:
        subprocess.run(["umount", str(home)], check=True)
    assert (done.returncode, done.stderr) == (0, "")


def raising(error, chain=None):
    def fail(*_):
        raise error from chain

    return fail


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("std::bad_alloc"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 8 bytes"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("can't start new thread"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        ImportError("IMPORTANT: READ THIS\n\nOriginal: x.so: cannot allocate memory in TLS block"),
    ],
)
def test_memory_that_runs_out_is_one_line(error, monkeypatch, capsys):
    monkeypatch.setattr(command_line.importlib, "import_module", raising(error))
    assert main(["distill"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: out of memory (") and said.count("\n") == 1
    assert "more memory (mem_mb" in said


CUDA_SAYS = [
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB",
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
    "cuda runtime error (2) : out of memory at /pytorch/aten/src/THC/THCGeneral.cpp:50",
    "CUDA driver error: out of memory",
    "HIP out of memory. Tried to allocate 20.00 MiB",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
    "cuFFT error: CUFFT_ALLOC_FAILED",
    'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "CUDACachingAllocator.cpp":1131',
]
CUDA_HINTS = [  # what a library says that gets no workspace, or for other reasons
    "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a "
    "non-contiguous input.",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "GET was unable to find an engine to execute this computation",
    "Unable to find a valid cuDNN algorithm to run convolution",
]
NOT_OF_A_GPU = [
    "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: 8 bytes",
    "CUDA error: an illegal memory access was encountered",
    "CUDA error: device-side assert triggered",
    "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    "mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)",
]


@pytest.mark.parametrize("said", [*CUDA_SAYS, *CUDA_HINTS, *NOT_OF_A_GPU])
def test_every_way_in_which_cuda_says_that_its_memory_is_full(said):
    error = RuntimeError(said)
    assert is_out_of_gpu_memory(error) == (said not in NOT_OF_A_GPU)
    assert is_out_of_gpu_memory(error, surely=True) == (said in CUDA_SAYS)
    assert is_out_of_memory(error) == (said in CUDA_SAYS or said == NOT_OF_A_GPU[0])
    late = ValueError("later")
    late.__context__ = error
    assert is_out_of_gpu_memory(late) == is_out_of_gpu_memory(error)


def test_a_type_of_error_is_enough():
    error = torch.OutOfMemoryError("Allocation would exceed what is allowed")
    assert is_out_of_gpu_memory(error, surely=True) and is_out_of_memory(error)
    assert not is_out_of_gpu_memory(MemoryError())


@pytest.mark.parametrize("said", CUDA_SAYS)
def test_memory_of_a_gpu_that_runs_out_is_one_line(said, monkeypatch, capsys):
    """More memory of the job would not help."""
    monkeypatch.setattr(command_line.importlib, "import_module", raising(RuntimeError(said)))
    assert main(["evaluate"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: out of memory (") and told.count("\n") == 1
    assert "mem_mb" not in told and "GPU" in told


def test_an_error_after_one_of_memory_is_of_memory_too(monkeypatch):
    late = ImportError("cannot import name 'x'")
    late.__context__ = MemoryError()
    assert is_out_of_memory(late)
    assert not is_out_of_memory(ImportError("cannot import name 'x'"))


def test_other_errors_are_not_hidden(monkeypatch):
    monkeypatch.setattr(command_line.importlib, "import_module", raising(ZeroDivisionError("x")))
    with pytest.raises(ZeroDivisionError):
        main(["distill"])


@pytest.mark.parametrize(("limit", "peak", "near"), [(1000, 990, True), (1000, 500, False)])
def test_how_near_the_limit_is(limit, peak, near, tmp_path, monkeypatch):
    status = tmp_path / "status"
    status.write_text(f"Name:\tpython\nVmPeak:\t  {peak} kB\nVmSize:\t 1 kB\n")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit << 10, limit << 10))
    assert near_memory_limit(status) == near
    assert not near_memory_limit(tmp_path / "none")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    assert not near_memory_limit(status)


@pytest.mark.slow
@pytest.mark.parametrize("megabytes", [100, 400, 1500])
@pytest.mark.parametrize("stage", ["prepare", "evaluate", "figure"])
def test_a_limit_of_the_address_space(stage, megabytes, tmp_path):
    """Too little even to load the libraries: one line, and neither a result nor a traceback."""
    copy_workflow(tmp_path)
    words = {
        "prepare": "--source digits --out x.safetensors",
        "evaluate": "--synthetic s --data d --arch mlp --out e.csv",
        "figure": "--config c.json --out f.png "
        "--figure workflow/config/figures/modelpool_ablation.yaml",
    }[stage]
    command = f"ulimit -v {megabytes << 10} && exec {sys.executable} -m dd {stage} {words}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env=surroundings(str(tmp_path), tmp_path) | {"OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr, done.stderr
    said = re.compile(r"error: (out of memory|c.json: no such file)|OpenBLAS error: Memory")
    assert said.match(done.stderr) and done.stderr.count("\n") == 1, done.stderr
    assert not list(tmp_path.glob("*.safetensors"))
