"""Shared by all tests: the digits dataset, prepared once; real images where a machine has them."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from dd.command import main
from dd.data.dataset import load_dataset
from dd.runtime import memory, precision
from tests.support.browser import Browser
from tests.support.runs import ROOT, copy_workflow, snakemake, tiny_run


def pytest_configure():
    """Tests name the files of the workflow from the root, wherever pytest was started."""
    os.chdir(ROOT)


# The same examples in each run, and no folder of them; a slow machine is no fault.
settings.register_profile("suite", derandomize=True, database=None, deadline=None)
settings.load_profile("suite")


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Tiny tensors: one thread is fastest, and two test runs do not fight."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def in_float32():
    """A test that chooses another precision leaves it behind for no other test."""
    yield
    precision.choose(precision.FLOAT32, torch.device("cpu"))


@pytest.fixture(autouse=True)
def told_anew():
    """What a process says once, a test may expect after another one has heard it."""
    memory.tell.cache_clear()


@pytest.fixture(scope="session")
def digits_file(tmp_path_factory) -> Path:
    """``digits`` as ``python -m dd prepare`` writes it."""
    path = tmp_path_factory.mktemp("data") / "digits.safetensors"
    assert main(["prepare", "--source", "digits", "--out", str(path)]) == 0
    return path


@pytest.fixture(scope="session")
def digits(digits_file):
    return load_dataset(digits_file)


@pytest.fixture(scope="session")
def shard_file(digits_file, tmp_path_factory) -> Path:
    """Trajectories of two small ConvNets on digits over three epochs."""
    path = tmp_path_factory.mktemp("buffers") / "shard0.safetensors"
    words = ["--network", "convnet:width=8,depth=2", "--experts", "2", "--epochs", "3"]
    data = ["--data", str(digits_file), "--out", str(path), "--device", "cpu"]
    assert main(["buffer", *data, *words]) == 0
    return path


@pytest.fixture(scope="session")
def real_images() -> Path:
    """The folder of real image sets named by DD_TEST_DATA (cifar10/, tiny_imagenet/, ...)."""
    folder = os.environ.get("DD_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("DD_TEST_DATA names no folder of real images")
    return Path(folder)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory) -> Path:
    """A folder with a finished run, ``results/tiny``; to be copied, not to be written to."""
    folder = tiny_run(tmp_path_factory.mktemp("finished"))
    done = snakemake(folder, "--config", "run=tiny.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A copy of the workflow to run in."""
    return copy_workflow(tmp_path)


@pytest.fixture
def browser(tmp_path):
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("needs Chromium (Debian: apt-get install chromium)")
    browser = Browser(program, tmp_path / "profile")
    yield browser
    browser.close()
