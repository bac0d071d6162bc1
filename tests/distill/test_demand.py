"""What is counted for a stage is what it allocates on a pretended GPU."""

from __future__ import annotations

import pytest
import torch

from benchmarks.every_stage import small_raw
from dd.artifacts.tensors import save_tensors
from dd.command import main
from dd.data.extent import Extent
from dd.data.prepare import prepare
from dd.distill import demand
from tests.support.pretended_gpu import pretended_gpu

PLAIN, NORMED = (f"convnet:width=32,pooling=max{more}" for more in ("", ",norm=batch"))
DATA = Extent(0, 0, 4, (32, 32), 3)  # four classes
TRAIN, TEST, IPC, IMAGES = 80, 12, 4, 16  # images of each split, of a class, of a set
RESIDENT = (TRAIN + TEST) * DATA.values
SET = 4 * IMAGES * DATA.values
CANVAS = 6 * SET
DSA = "color_crop_cutout_flip_scale_rotate"
_MATCH = f"--ipc {IPC} --batch-real 10 --network {PLAIN} --snapshots 2"
_MTT = (
    f"distill --objective mtt --ipc {IPC} --buffers BUFFER --network {PLAIN} --experts 3 "
    "--student-steps 6 --expert-epochs 1 --max-start-epoch 1 --snapshots 2 --lr-img 1 --lr-lr 1e-5"
)
of, normed = (PLAIN, DATA, 1.0), (NORMED, DATA, 1.0)
STAGES = {
    "pretrain": (
        f"pretrain --network {NORMED} --epochs 1 --batch 20 --augment {DSA}",
        lambda: [demand.train(*normed, "sgd", 1, 20), demand.forward(*normed, TRAIN)],
        0,
    ),
    "buffer": (
        f"buffer --network {PLAIN} --experts 3 --epochs 2 --batch 20 --augment {DSA}",
        lambda: [demand.train(*of, "sgd", 3, 20)],
        0,
    ),
    "dm": (
        f"distill --objective dm {_MATCH}",
        lambda: [demand.embedding(*of, 10, IMAGES)],
        CANVAS,
    ),
    "dm, batch norm": (
        f"distill --objective dm {_MATCH}".replace(PLAIN, NORMED),
        lambda: [demand.embedding(*normed, 10, IMAGES)],
        CANVAS,
    ),
    "dsa": (
        f"distill --objective dsa {_MATCH} --outer 2 --inner 1",
        lambda: [demand.matching_together(*of, 10, IPC)],
        CANVAS,
    ),
    "mtt": (
        f"{_MTT} --memory 0",
        lambda: [demand.replaying(*of, 0.0, 6, IMAGES)],
        CANVAS,
    ),
    "mtt with graphs": (
        f"{_MTT} --memory 3",
        lambda: [demand.replaying(*of, 3e9, 6, IMAGES)],
        CANVAS,
    ),
    "dd": (
        f"distill --objective dd --ipc {IPC} --network {PLAIN} --batch-real 10 --steps 2 "
        "--student-epochs 3 --snapshots 2 --memory 0",
        lambda: [demand.unrolling(*of, 0.0, 6, IMAGES // 2), demand.mean_gradient(*of, 10)],
        CANVAS,
    ),
    "dd, batch norm": (
        f"distill --objective dd --ipc {IPC} --network {NORMED} --batch-real 40 --steps 2 "
        "--student-epochs 1 --snapshots 2 --memory 0",
        lambda: [demand.unrolling(*normed, 0.0, 2, IMAGES // 2), demand.mean_gradient(*normed, 40)],
        CANVAS,
    ),
    "frepo": (
        f"distill --objective frepo --ipc {IPC} --network {NORMED} --batch-real 10 --online 3 "
        "--whitening none --snapshots 2",
        lambda: [
            demand.regression(*normed, 3, 10, 2 * IMAGES),
            demand.train(*normed, "adamw", 1, IMAGES),
        ],
        CANVAS,
    ),
    "sre2l": (
        f"distill --objective sre2l --ipc {IPC} --network {NORMED} --pretrained TRAINED "
        "--batch-syn 8 --snapshots 2",
        lambda: [demand.recovery(*normed, 8)],
        CANVAS,
    ),
    "metadd": (
        f"distill --objective dm {_MATCH} --pretrained TRAINED "
        f"--regulariser metadd@auxiliary={NORMED},lambda_kl=0",
        lambda: [demand.embedding(*of, 10, IMAGES), demand.regularising(*normed, IMAGES)],
        CANVAS,
    ),
    "generator": (
        "generator --epochs 1 --batch 20 --width 16",
        lambda: [demand.generator_training(DATA, 16, 0, 20)],
        0,
    ),
    "evaluate": (
        f"evaluate --synthetic SET --arch {PLAIN} --networks 3 --epochs 2 --batch 8",
        lambda: [demand.train(*of, "sgd", 3, 8), demand.forward(*of, TEST)],
        SET,
    ),
    "relabel": (
        "relabel --synthetic SET --teacher TRAINED --views 2 --batch 4",
        lambda: [demand.forward(*normed, IMAGES)],
        SET,
    ),
    "cams": (
        "cams --synthetic SET --pretrained TRAINED",
        lambda: [demand.maps(*normed, IMAGES)],
        SET,
    ),
}
QUICK = {"dm", "mtt", "evaluate"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Images, and what stages read."""
    folder = tmp_path_factory.mktemp("files")
    raw, data = small_raw(TRAIN, (3, 32, 32)), folder / "data.safetensors"
    save_tensors(data, "dataset", prepare(raw, None), {"name": "small", "classes": raw.classes})
    made = {"DATA": data, "SET": folder / "random/it0.safetensors"}
    on_cpu = ["--data", str(data), "--device", "cpu", "--out"]
    for name, command in (("BUFFER", STAGES["buffer"][0]), ("TRAINED", STAGES["pretrain"][0])):
        made[name] = folder / f"{name.lower()}.safetensors"
        assert main([*command.split(), *on_cpu, str(made[name])]) == 0
    drawn = f"distill --objective random --ipc {IPC} --snapshots 0"
    assert main([*drawn.split(), *on_cpu, str(folder / "random")]) == 0
    return made


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in STAGES]
)
def test_a_stage_takes_what_is_counted(name, files, tmp_path, monkeypatch):
    monkeypatch.setattr("dd.runtime.process.take_gpu", lambda: None)
    command, parts, beside = STAGES[name]
    given = [str(files.get(word, word)) for word in command.split()]
    out = tmp_path / "made" if given[0] == "distill" else tmp_path / "made.safetensors"
    out = out.with_suffix(".csv") if given[0] == "evaluate" else out
    with pretended_gpu():
        where = ["--data", str(files["DATA"]), "--out", str(out), "--device", "cuda"]
        assert main([*given, *where, "--threads", "1"]) == 0
        taken = torch.cuda.max_memory_allocated(torch.device("cuda"))
    counted = max(part.whole for part in parts()) + RESIDENT + beside
    assert taken == pytest.approx(counted, rel=0.12)


def test_more_steps_of_a_student_add_as_much_each(monkeypatch):
    short = demand.unrolling(*of, 1e12, 9, IMAGES)
    bounded = demand.unrolling(*of, (short.least + short.whole) / 2, 9, IMAGES)
    assert short.least < bounded.whole < short.whole and bounded.least == short.least
    one = demand.unrolling(*of, 1e12, 1, IMAGES)
    assert one.least == one.whole < short.least
    monkeypatch.setattr(demand, "COUNTED_STEPS", 7)
    long = demand.unrolling.__wrapped__(*of, 1e12, 9, IMAGES)
    assert short.least == pytest.approx(long.least, rel=0.02)
    assert short.whole == pytest.approx(long.whole, rel=0.02)
    assert short.whole > 3 * short.least


def test_the_least_is_less():
    for spec in (PLAIN, NORMED, "vit", "googlenet"):
        one, five = (demand.train(spec, DATA, 0.5, "sgd", count, 64) for count in (1, 5))
        assert one.least == five.least <= one.whole < five.whole / 3
    # parts of a batch are one image large; batch norm has the whole batch, but not all activations
    assert demand.train(PLAIN, DATA, 1.0, "sgd", 1, 64).least < 0.2 * one.whole
    tested = demand.forward(*of, 10**6)
    assert tested.least < tested.whole == pytest.approx(4e9, rel=0.01)


def test_batch_norm_keeps_all_images_together():
    plain, batched = (demand.embedding(spec, DATA, 1.0, 10, 10**5) for spec in (PLAIN, NORMED))
    assert plain.whole < 5e9 < batched.least == batched.whole
