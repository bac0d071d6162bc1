"""What does not change the images of a run repeats no work; what changes them repeats all."""

import os
import shutil
from pathlib import Path

import pytest
import yaml

from tests.support.broken import image, image_folder
from tests.support.runs import TINY, copy_workflow, jobs, snakemake

WORK = {"prepare", "distill_1", "evaluate"}  # what must not be done again for nothing


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run on a folder of images, and a file of groups that a second dataset needs."""
    folder = copy_workflow(tmp_path_factory.mktemp("finished"))
    document = yaml.safe_load(TINY)
    pets = {"source": "image-folder", "root": "pets", "label": "pets", "resize": 8, "channels": 1}
    document["datasets"] = {"pets": pets}
    document |= {"tables": ["modelpool_ablation"], "device": "auto"}
    document["axes"]["setting"] = ["baseline"]
    (folder / "tiny.yaml").write_text(yaml.safe_dump(document))
    image_folder(folder / "pets", count=12, size=(8, 8))
    done = snakemake(folder, "--config", "run=tiny.yaml")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """The finished run, in a folder of its own, with all times."""
    shutil.copytree(finished, tmp_path / "mine", symlinks=True)  # copies times
    folder = tmp_path / "mine"
    assert work(folder) == {}
    return folder


def work(folder, *config):
    """How many jobs of :data:`WORK` would run, with these values of ``--config``."""
    found = jobs(folder, "--config", "run=tiny.yaml", *config)
    return {rule: count for rule, count in found.items() if rule in WORK}


def edit(folder, **changes):
    """Change options of the dataset in the file of the run."""
    path = folder / "tiny.yaml"
    document = yaml.safe_load(path.read_text())
    document["datasets"]["pets"] |= changes
    path.write_text(yaml.safe_dump(document))


ALL = {"prepare": 1, "distill_1": 1, "evaluate": 1}


@pytest.mark.slow
def test_nothing_is_done_again_for_nothing(run):
    assert work(run, "device=cpu") == {}
    for place in ("./pets/", str(run / "x" / ".." / "pets")):
        edit(run, root=place)
        assert work(run) == {}, place
    assert work(run, "data_root=pets/") == {}
    assert work(run, "results=results/") == work(run, f"results={run}/results") == {}
    (run / "pets").rename(run / "moved")  # another path to the same data
    assert work(run) == {}  # there is no such folder any more, but what was prepared is there
    edit(run, root="moved", label="the same pets")
    assert work(run) == {}
    (run / "link").symlink_to("moved")
    edit(run, root="link")
    assert work(run) == {}
    # tables and figures do change, and they alone
    done = snakemake(run, "--config", "run=tiny.yaml")
    assert done.returncode == 0, done.stderr
    assert "the same pets" in (run / "results/tiny/tables/modelpool_ablation.md").read_text()


@pytest.mark.slow
def test_other_images_repeat_all(run):
    image(run / "pets/train/dog/new.png", (8, 8), seed=5)
    assert work(run) == ALL
    (run / "pets/train/dog/new.png").unlink()
    assert work(run) == {}
    edit(run, resize=4)
    assert work(run) == ALL
    edit(run, resize=8, normalise_as="data")  # as before, said
    assert work(run) == {}


@pytest.mark.slow
def test_an_image_of_the_same_size_counts_when_the_prepared_file_is_deleted(run):
    """As docs/architecture.md says: only names and sizes of files are compared."""
    (image,) = run.glob("pets/train/dog/0.png")
    data = bytearray(image.read_bytes())
    data[-20] ^= 1
    image.write_bytes(data)
    assert work(run) == {}
    (run / "results/tiny/data/pets.safetensors").unlink()
    assert work(run) == ALL


@pytest.mark.slow
def test_whitening_for_one_method_repeats_no_other(run):
    """A method that needs whitened images has a file of its own of them."""
    document = yaml.safe_load((run / "tiny.yaml").read_text())
    document["tables"].append("iadd_sota")
    document["axes"] |= {"method": ["mtt"]}
    document["recipes"] |= {
        "buffer": {"experts": 1, "epochs": 2},
        "mtt": {
            "experts": 1,
            "student_steps": 1,
            "expert_epochs": 1,
            "max_start_epoch": 1,
            "iterations": 1,
            "whitening": "zca",
        },
    }
    document["resources"]["buffer"] = document["resources"]["distill"]
    (run / "tiny.yaml").write_text(yaml.safe_dump(document))
    assert work(run) == {"prepare": 1, "distill_1": 1, "evaluate": 1}  # those of mtt
    done = snakemake(run, "--config", "run=tiny.yaml")
    assert done.returncode == 0, done.stderr
    assert work(run) == {}


@pytest.mark.slow
def test_results_without_times_are_made_current(run):
    """A clone or an archive brings results without their times and without Snakemake's records."""
    shutil.rmtree(run / ".snakemake")
    files = sorted(path for path in (run / "results").rglob("*") if path.is_file())
    for number, path in enumerate(reversed(files)):
        os.utime(path, (number, number))
    before = {path: path.read_bytes() for path in files}
    assert work(run) != {}
    done = snakemake(run, "--touch", "--forceall", "--config", "run=tiny.yaml")
    assert done.returncode == 0, done.stderr
    assert jobs(run, "--config", "run=tiny.yaml") == {}
    assert {path: path.read_bytes() for path in files} == before
    edit(run, resize=4)  # and from now on, changes count
    assert work(run) == ALL


@pytest.mark.slow
def test_missing_images_stop_a_run_before_its_first_job(tmp_path):
    folder = copy_workflow(tmp_path)
    document = yaml.safe_load(TINY)
    given = {"source": "image-folder", "root": "pets", "label": "pets"}
    document["datasets"] = {"pets": given}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(document))
    assert jobs(folder, "--config", "run=tiny.yaml")["prepare"] == 1  # it can be planned
    done = snakemake(folder, "--config", "run=tiny.yaml")
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert "dataset pets: root pets is no folder; give the folder" in said
    assert "Traceback" not in said
    assert not Path(folder, "results/tiny/config.json").exists()
