"""Every stage after ``prepare``, and every variant of one that may compute otherwise on a GPU.

Commands are small: four classes of images of 3 x 8 x 8 pixels at random. Words in capitals are
names of files: what ``prepare`` and other stages made. Networks pool by maxima, since average
pooling alone is computed in another way on the CPU.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors.torch import save_file
from torch import Tensor

from dd.artifacts.headers import read_header
from dd.artifacts.tensors import load_tensors, save_tensors
from dd.artifacts.text import load_rows
from dd.command import main
from dd.data import synthetic
from dd.data.prepare import prepare
from dd.data.sources import RawDataset

TRAINED = "convnet:depth=1,norm=batch,pooling=max,width=8"
TOKENS = "vit:depth=1,heads=1,patch=4,width=8"
PLAIN = "convnet:depth=1,pooling=max,width=8"
GRADIENTS = "alexnet"  # its maps are Grad-CAM
POOL = f"""\
title: small pool
main: "{PLAIN}"
probability: 0.5
others: ["{TRAINED}", "{TOKENS}"]
"""
DSA = "color_crop_cutout_flip_scale_rotate"
OWN = "dc:crop_scale_rotate_noise"  # one an image
ALL = "all:resized_color_crop_cutout_flip_scale_rotate"

_MATCH = f"--ipc 2 --batch-real 5 --network {PLAIN}"
_DC = f"distill DATA --objective dc {_MATCH} --outer 2 --inner 2 --batch-train 3"
_DM = f"distill DATA --objective dm {_MATCH}"
_SEGMENTS = (
    f"--ipc 2 --network {PLAIN} --buffers SHARD --experts 2 --student-steps 3 --expert-epochs 1 "
    "--max-start-epoch 1 --batch-syn 3 --lr-img 0.5 --lr-lr 0.0001"
)
_IADD = f"distill DATA --objective iadd {_SEGMENTS} --lr-weights 0.1 --weights"
_DD = (
    f"distill DATA --objective dd --ipc 2 --network {PLAIN} --batch-real 20 --steps 2 "
    "--student-epochs 2 --lr-student 0.1"
)
_FREPO = (
    "distill DATA --objective frepo --ipc 2 --whitening none --batch-real 20 --online-steps 2 "
    "--online"
)
_SRE2L = f"distill DATA --objective sre2l --ipc 2 --network {TRAINED} --pretrained TRAINED"
_SELECT = f"--ipc 2 --network {PLAIN} --feature-epochs 2 --batch-train 20"
_METADD = "--pretrained TRAINED TOKENS GRADIENTS --regulariser metadd@auxiliary="
_ALL_THREE = f"{TRAINED}.{TOKENS}.{GRADIENTS}"
_BUFFER = f"buffer DATA --network {PLAIN} --experts 2 --epochs 2 --batch 20"
_EVALUATE = "evaluate DATA --networks 2 --epochs 2 --batch 3"
_HARD = f"{_EVALUATE} --synthetic SET --arch {PLAIN} mlp"
_STEPS = "evaluate DATA --networks 2 --protocol steps"
_KD = f"{_HARD} --protocol kd --teacher {PLAIN} --augment"
_SOFT = f"{_EVALUATE} --synthetic SET --protocol soft"
_RELABEL = "relabel DATA --synthetic SET --views 2 --batch 3"

DISTILLATIONS = {
    "dc": f"{_DC} --augment none",
    "dsa": f"{_DC} --augment {DSA}".replace("--objective dc", "--objective dsa"),
    "dc, its own augmentation": f"{_DC} --augment {OWN}",
    "dc, batch norm": _DC.replace(PLAIN, TRAINED),
    "dc, noise, zca": f"{_DC.replace('DATA', 'ZCA')} --whitening zca --init noise",
    "dc, pool": f"{_DC} --pool POOL".replace(f"--network {PLAIN}", ""),
    "dm": f"{_DM} --augment {DSA}",
    "dm, all operations": f"{_DM} --augment {ALL}",
    "dm, batch norm": _DM.replace(PLAIN, TRAINED),
    "mtt": f"distill DATA --objective mtt {_SEGMENTS} --augment {DSA}",
    "mtt, all images": f"distill DATA --objective mtt {_SEGMENTS} --batch-syn 0 --augment {OWN}",
    "iadd, raw": f"{_IADD} raw --augment {DSA}",
    "iadd, normalised": f"{_IADD} normalised",
    "iadd, layer": f"{_IADD} layer",
    "iadd, prune": f"{_IADD} prune",
    "iadd, none": f"{_IADD} none",
    "dd": _DD,
    "dd, learned labels": f"{_DD} --lr-label 0.1",
    "dd, fixed start, pool": f"{_DD} --initialisation fixed --pool POOL".replace(
        f"--network {PLAIN}", ""
    ),
    "frepo": f"{_FREPO} 1 --network {TRAINED}",
    "frepo, two networks": f"{_FREPO} 2 --network {TRAINED}",
    "frepo, fixed labels, pool": f"{_FREPO} 1 --pool POOL --mirror no --lr-label 0 --batch-train 5",
    "sre2l": f"{_SRE2L} --batch-syn 3 --crop 0.3 --flip 0.5 --jitter 2",
    "random": "distill DATA --objective random --ipc 2",
    "full": "distill DATA --objective full --ipc 0",
    "herding": f"distill DATA --objective herding {_SELECT}",
    "kcenter": f"distill ZCA --objective kcenter {_SELECT} --whitening zca",
    "dm+glad": f"{_DM} --parametrisation glad@piece=3 --generator GENERATOR",
    "sre2l+glad, random start": f"{_SRE2L} --parametrisation glad@start=random "
    "--generator GENERATOR",
    "dm+metadd": f"{_DM} {_METADD}{_ALL_THREE},draw=2,images=5,piece=3,confidence=0.2",
    "dc+metadd, signed": f"{_DC} {_METADD}{_ALL_THREE},rectify=none",
    "mtt+metadd, logits": f"distill DATA --objective mtt {_SEGMENTS} --pretrained TRAINED TOKENS "
    f"--regulariser metadd@auxiliary={TRAINED}.{TOKENS},compare=logits",
    "dm+glad+metadd": f"{_DM} --parametrisation glad --generator GENERATOR --pretrained TRAINED "
    f"TOKENS --regulariser metadd@auxiliary={TRAINED}.{TOKENS}",
}
"""Distillations; two iterations each."""

OTHERS = {
    "pretrain": f"pretrain DATA --network {TRAINED} --epochs 2 --batch 20 --augment {DSA}",
    "pretrain, adamw, zca": f"pretrain ZCA --whitening zca --network {TOKENS} --epochs 2 "
    f"--batch 20 --optimizer adamw --decayed matrices --augment {ALL}",
    "pretrain, given weights": f"pretrain DATA --network {PLAIN} --weights WEIGHTS",
    "buffer, stacked": f"{_BUFFER} --together yes --augment {DSA}",
    "buffer, apart": f"{_BUFFER} --together no --augment {OWN}",
    "buffer, zca, bfloat16": f"{_BUFFER.replace('DATA', 'ZCA')} --whitening zca --together yes "
    "--stored bfloat16",
    "generator": "generator DATA --epochs 2 --batch 20 --width 8 --augment flip",
    "generator, zca": "generator ZCA --whitening zca --epochs 1 --batch 20 --width 8",
    "evaluate, stacked": f"{_HARD} --together yes --augment {DSA}",
    "evaluate, apart": f"{_HARD} --together no --augment none",
    "evaluate, one operation an image": f"{_HARD} --together yes --augment {OWN}",
    "evaluate, all operations": f"{_HARD} --together no --augment {ALL}",
    "evaluate, probabilities": f"{_EVALUATE} --synthetic SOFT --arch {PLAIN}",
    "evaluate, indices": f"{_EVALUATE} --synthetic FULL --arch {PLAIN} --augment {DSA}",
    "evaluate, zca": f"{_EVALUATE.replace('DATA', 'ZCA')} --synthetic WHITE --arch {PLAIN}",
    "evaluate, kd": f"{_KD} none --together yes",
    "evaluate, kd, augmented": f"{_KD} {DSA} --together no --variant released",
    "evaluate, kd, no teacher": f"{_KD} none --temperature 0",
    "evaluate, steps": f"{_STEPS} --synthetic STEPS --arch {PLAIN} mlp",
    "evaluate, fixed steps": f"{_STEPS} --synthetic FIXED --arch {PLAIN} mlp",
    "evaluate, regression": f"{_EVALUATE} --synthetic TARGETS --arch {PLAIN} mlp --protocol "
    f"regression --augment {DSA} --together yes",
    "evaluate, regression of classes": f"{_EVALUATE} --synthetic SET --arch {PLAIN} --protocol "
    "regression --together no",
    "evaluate, soft": f"{_SOFT} --labels LABELS --arch {PLAIN}",
    "evaluate, soft, mixed": f"{_SOFT} --labels MIXED --arch {PLAIN} {TRAINED} --together yes",
    "relabel": f"{_RELABEL} --teacher TRAINED --cutmix 0 --keep 2",
    "relabel, mixed": f"{_RELABEL} --teacher TRAINED TOKENS --cutmix 1 --crop 0.3 --flip 0.5",
    "cams": "cams DATA --synthetic SET --pretrained TRAINED TOKENS GRADIENTS",
    "cams, signed": "cams DATA --synthetic SET --pretrained TRAINED TOKENS GRADIENTS "
    "--rectify none --images-per-class 1",
    "erase": f"erase DATA --pretrained TRAINED TOKENS GRADIENTS --regions-from {TRAINED}.{TOKENS}",
    "erase, zca": "erase ZCA --whitening zca --pretrained WHITE_TRAINED WHITE_TOKENS "
    f"--regions-from {TRAINED}.{TOKENS}",
}
"""All other stages."""

COMMANDS = DISTILLATIONS | OTHERS

_SUFFIXES = {"evaluate": ".csv", "erase": ".csv", "distill": ""}


def small_raw(count: int = 40, shape: tuple[int, ...] = (3, 4, 4)) -> RawDataset:
    """``count`` training and 12 test images of four classes, at random."""
    draw = numpy.random.default_rng(0)
    pixels = draw.integers(0, 256, (count + 12, *shape), dtype=numpy.uint8)
    images, labels = torch.from_numpy(pixels), torch.arange(count + 12) * 7 % 4
    split = images[:count], labels[:count], images[count:], labels[count:]
    return RawDataset("small", "Small", *split, list("abcd"))


def make_files(folder: Path) -> dict[str, Path]:
    """What the commands read, by its name in them; made on the CPU."""
    files = {name: folder / f"{name.lower()}.safetensors" for name in ("DATA", "ZCA")}
    raw = small_raw(60, (3, 8, 8))
    for name, eps in (("DATA", None), ("ZCA", 0.1)):
        facts = {"name": "small", "classes": raw.classes, "zca": {"of": "pixels in 0 to 1"}}
        save_tensors(files[name], "dataset", prepare(raw, eps), facts)
    files["POOL"] = folder / "pool.yaml"
    files["POOL"].write_text(POOL)

    def run(name: str, command: str, inside: str = "") -> None:
        out = target(command, folder / name.lower())
        assert main(words(command, files, out, "cpu")) == 0
        files[name] = out / inside

    train = "--epochs 1 --batch 20"
    white = f"ZCA --whitening zca {train}"
    run("SHARD", f"buffer DATA --network {PLAIN} --experts 2 --epochs 2 --batch 20 --together no")
    for name, spec in (("TRAINED", TRAINED), ("TOKENS", TOKENS), ("GRADIENTS", GRADIENTS)):
        run(name, f"pretrain DATA --network {spec} {train}")
    run("WHITE_TRAINED", f"pretrain {white} --network {TRAINED}")
    run("WHITE_TOKENS", f"pretrain {white} --network {TOKENS}")
    run("GENERATOR", f"generator DATA --width 8 {train}")
    run("SET", "distill DATA --objective random --ipc 2", "it0.safetensors")
    run("FULL", "distill DATA --objective full --ipc 0", "it0.safetensors")
    run("WHITE", "distill ZCA --objective random --ipc 2 --whitening zca", "it0.safetensors")
    run("STEPS", f"{_DD} --snapshots 1", "it1.safetensors")
    starts = "--initialisation fixed --students 2"
    run("FIXED", f"{_DD} {starts} --snapshots 1", "it1.safetensors")
    run("TARGETS", f"{_FREPO} 1 --network {PLAIN} --snapshots 1", "it1.safetensors")
    run("LABELS", f"{_RELABEL} --teacher TRAINED --cutmix 0 --keep 2")
    run("MIXED", f"{_RELABEL} --teacher TRAINED --cutmix 1")
    made = synthetic.load(files["SET"])
    made.labels = torch.nn.functional.one_hot(made.labels).float() * 0.6 + 0.1
    files["SOFT"] = folder / "soft.safetensors"
    synthetic.save(files["SOFT"], made)
    run("PLAIN", f"pretrain DATA --network {PLAIN} {train}")
    files["WEIGHTS"] = folder / "weights.safetensors"
    save_file(load_tensors(files["PLAIN"], "network")[0], files["WEIGHTS"])
    return files


def target(command: str, path: Path) -> Path:
    """``path`` with the ending of what a command makes: none for a folder."""
    stage = command.partition(" ")[0]
    return path.with_name(f"{path.name}{_SUFFIXES.get(stage, '.safetensors')}")


def words(command: str, files: Mapping[str, Path], out: Path, device: str) -> list[str]:
    """The arguments of a command that writes to ``out``."""
    stage, *rest = command.split()
    given = [str(files[word]) if word in files else word for word in rest]
    given[0:0] = ["--data"]
    if stage != "generator":
        given += ["--width-factor", "0.05"]
    if stage == "distill" and "--snapshots" not in given:
        selects = any(name in given for name in ("random", "full", "herding", "kcenter"))
        given += ["--snapshots", *(["0"] if selects else ["0", "2"])]
    return [stage, *given, "--out", str(out), "--device", device, "--threads", "1"]


def results(out: Path) -> dict[str, Any]:
    """Everything in a file or folder of results, except times and the machine: tensors and rows."""
    if out.is_dir():
        found = {
            f"{path.name}: {name}": value
            for path in sorted(out.glob("it*.safetensors"))
            for name, value in results(path).items()
        }
        lines = (out / "metrics.jsonl").read_text().splitlines()
        return found | {"metrics": [_timeless(json.loads(line)) for line in lines]}
    if out.suffix == ".csv":
        return {"rows": [_timeless(row) for row in load_rows(out)]}
    header = read_header(out)
    tensors, _ = load_tensors(out, header["kind"])
    told = {key: header[key] for key in ("accuracy", "experts", "reconstruction") if key in header}
    return {**tensors, **told}


def _timeless(row: Mapping[str, Any]) -> dict[str, Any]:
    left_out = ("seconds", "created", "device", "gpu", "code")
    return {key: value for key, value in row.items() if key not in left_out}


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The names of what differs in the slightest between two :func:`results`."""
    assert one.keys() == other.keys()
    return [name for name in one if not _same(one[name], other[name])]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return one == other
