"""Bad input at the command line: one clear line, a non-zero status, nothing left behind.

The table below is the contract: a case is the command as a person would type it (``{name}`` stands
for a file of the fixture ``files``), and the words that its message must hold: what is wrong,
where, and what would be right.
"""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from dd.__main__ import main
from dd.artifacts.tensors import load_tensors, save_tensors
from dd.artifacts.text import load_rows

POOL = "title: P\nmain: mlp\nprobability: {p}\nothers: {others}\n"
POOLS = {
    "sum.yaml": POOL.format(p=0.9, others="[{network: lenet, probability: 0.3}]"),
    "high.yaml": POOL.format(p=1.5, others="[lenet]"),
    "key.yaml": POOL.format(p=0.9, others="[lenet]") + "warmpu: 3\n",
    "network.yaml": POOL.format(p=0.9, others="[lenett]"),
    "variant.yaml": POOL.format(p=0.9, others="{variants_of: convnet, norm: [bacth]}"),
    "lacks.yaml": "title: P\nmain: mlp\nprobability: 0.9\n",
    "list.yaml": "- mlp\n- lenet\n",
    "notyaml.yaml": "title: [P\nmain: {",
}


def image(path, size=(6, 6), mode="RGB", seed=0):
    """A random image file of ``size`` (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = 3 if mode == "RGB" else 1
    values = np.random.default_rng(seed).integers(0, 256, size[0] * size[1] * bands, np.uint8)
    Image.frombytes(mode, size, values.tobytes()).save(path)


def image_folder(root, classes=("cat", "dog"), count=4, size=(6, 6)):
    """A sound image folder."""
    for split in ("train", "test"):
        for label, name in enumerate(classes):
            for k in range(count):
                image(root / split / name / f"{k}.png", size, seed=97 * label + 7 * k + len(split))
    return root


def broken_folders(root):
    """Image folders with one fault each, named after it."""
    for fault in ("text", "gap", "mode", "size", "empty", "none", "flat", "constant"):
        image_folder(root / fault)
    (root / "text/train/dog/9.png").write_text("not an image")
    shutil.rmtree(root / "gap/test/dog")
    image(root / "mode/train/dog/9.png", mode="L")
    image(root / "size/test/cat/9.png", size=(6, 7))
    for file in (root / "empty/train/dog").iterdir():
        file.unlink()
    shutil.rmtree(root / "none/test")
    for split in ("train", "test"):
        shutil.rmtree(root / "flat" / split)
        image(root / "flat" / split / "0.png")
    for file in (root / "constant").rglob("*.png"):
        Image.new("RGB", (6, 6), (7, 8, 9)).save(file)


def broken_sets(root, good):
    """Synthetic sets with one fault each, from the tensors of a ``good`` one."""
    images, labels = good["images"], good["labels"]
    hole = images.clone()
    hole[0, 0, 0, 0] = float("nan")
    soft = torch.full((len(labels), 10), 0.1)
    minus = soft.clone()
    minus[:, :2] = torch.tensor([0.3, -0.1])
    faults = {
        "shape": {"images": images.flatten(1)},
        "dtype": {"images": images.double()},
        "side": {"images": torch.zeros(10, 1, 9, 9)},
        "colour": {"images": images.repeat(1, 3, 1, 1), "mean": None, "std": None},
        "nan": {"images": hole},
        "nobody": {"images": images[:0], "labels": labels[:0]},
        "range": {"labels": labels + 1},
        "negative": {"labels": labels - 1},
        "kind": {"labels": labels.int()},
        "fewer": {"labels": labels[:-1]},
        "soft": {"labels": torch.full((len(labels), 7), 1 / 7)},
        "softnan": {"labels": soft * float("nan")},
        "minus": {"labels": minus},
        "unlabelled": {"labels": None},
        "imageless": {"images": None},
        "meanonly": {"std": None},
        "meanlong": {"mean": torch.zeros(3), "std": torch.ones(3)},
        "stdzero": {"std": torch.zeros(1)},
        "rate": {"learned_lr": torch.zeros(2)},
        "ratenan": {"learned_lr": torch.tensor(float("nan"))},
    }
    for name, changes in faults.items():
        tensors = {k: v.contiguous() for k, v in (good | changes).items() if v is not None}
        save_file(tensors, root / f"{name}.safetensors")
    save_tensors(root / "white.safetensors", "synthetic", good, {"whitening": "zca"})
    save_tensors(root / "space.safetensors", "synthetic", good, {"whitening": "pca"})
    save_tensors(root / "plain.safetensors", "synthetic", good, {"whitening": "none"})
    chosen = {"indices": torch.arange(10), "labels": labels}
    save_tensors(root / "both.safetensors", "synthetic", good | chosen, {})
    for name, header in (("there", {}), ("elsewhere", {"fingerprint": "0123456789abcdef"})):
        tensors = chosen | {"indices": torch.arange(1430, 1440)}
        save_tensors(root / f"{name}.safetensors", "synthetic", tensors, header)
    save_tensors(root / "half.safetensors", "synthetic", chosen | {"indices": labels.half()}, {})


def broken_datasets(root, path):
    """Prepared datasets with one fault each."""
    tensors, header = load_tensors(path, "dataset")
    gap = tensors["train_labels"].clone()
    gap[gap == 3] = 4
    for name, changes, facts in (
        ("d_float", {"train_images": tensors["train_images"].float()}, {}),
        ("d_labels", {"test_labels": tensors["test_labels"] + 1}, {}),
        ("d_gap", {"train_labels": gap}, {}),
        ("d_std", {"std": torch.zeros(1)}, {}),
        ("d_classes", {}, {"classes": 10}),
        ("d_format", {}, {"format": 99}),
        ("d_name", {}, {"name": ["a", "list"]}),
    ):
        save_tensors(root / f"{name}.safetensors", "dataset", tensors | changes, header | facts)
    (root / "truncated.safetensors").write_bytes(path.read_bytes()[:5000])
    (root / "text.safetensors").write_text("hello, not tensors at all")
    (root / "nothing.safetensors").write_bytes(b"")
    save_file({"weights": torch.zeros(3)}, root / "foreign.safetensors")
    save_tensors(root / "checkpoint.safetensors", "checkpoint", {"images": torch.zeros(1)}, {})
    save_file(tensors, root / "header.safetensors", metadata={"dd": "no JSON"})


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a sound dataset, synthetic set and pool, and everything broken."""
    root = tmp_path_factory.mktemp("files")
    data, made = root / "data.safetensors", root / "made"
    assert main(["prepare", "--source", "digits", "--out", str(data)]) == 0
    assert run(f"distill --data {data} --objective random --ipc 1 --out {made}") == 0
    shutil.copy(made / "it0.safetensors", root / "set.safetensors")
    broken_sets(root, load_file(made / "it0.safetensors"))
    broken_datasets(root, data)
    broken_folders(root / "folders")
    image_folder(root / "small")
    for name, text in POOLS.items():
        (root / name).write_text(text)
    (root / "latin.yaml").write_bytes("title: Pool f\xfcr alle".encode("latin-1"))
    (root / "file").write_text("in the way")
    return root


def run(command):
    """Exit status of a command, in this process."""
    return main(shlex.split(command))


DISTILL = (
    "distill --data {data} --objective {o} --ipc 1 --snapshots 2 --width-factor 0.05 --out OUT"
)
DM, DC = DISTILL.replace("{o}", "dm"), DISTILL.replace("{o}", "dc")
EVALUATE = "evaluate --data {data} --arch mlp --networks 1 --epochs 1 --out OUT/e.csv"
HARD = EVALUATE + " --synthetic {set}"
FOLDER = "prepare --source image-folder --out OUT/x.safetensors"
TINY = FOLDER.replace("image-folder", "tiny-imagenet")
CLASSES = FOLDER.replace("image-folder", "class-folders")
DIGITS = "prepare --source digits --out OUT/x.safetensors"

CASES = {
    # stages and sources
    "unknown stage": ("distil --data {data}", "unknown stage 'distil'", "'distill'"),
    "unknown option": (f"{DM} --learning-rate 1", "--learning-rate", "distill --help"),
    "option missing": ("prepare --source digits", "--out", "prepare --help"),
    "unknown source": ("prepare --source digit --out OUT/x", "unknown data source", "'digits'"),
    "unknown objective": (DISTILL.replace("{o}", "dcc"), "unknown objective 'dcc'", "dc, dm"),
    "unknown protocol": (f"{HARD} --protocol smooth", "unknown protocol 'smooth'", "hard, kd"),
    "unknown device": (f"{DM} --device tpu9", "--device", "tpu9", "cpu"),
    "device not here": (f"{DM} --device cuda:99", "--device", "cuda:99", "use cpu"),
    "device not here, evaluate": (f"{HARD} --device cuda:99", "--device", "cuda:99", "use cpu"),
    "threads negative": (f"{DM} --threads -1", "--threads is -1", "0 (torch's choice)"),
    # networks
    "unknown network": (f"{DM} --network convent", "unknown network 'convent'", "'convnet'"),
    "unknown network, evaluate": (
        HARD.replace("mlp", "restnet18"),
        "unknown network 'restnet18'",
        "'resnet18'",
    ),
    "unknown network option": (f"{DM} --network convnet:dept=2", "'dept'", "'depth'"),
    "network option's value": (f"{DM} --network convnet:norm=bach", "norm", "'bach'", "'batch'"),
    "network option's number": (f"{DM} --network convnet:depth=0", "depth is '0'", "from 1"),
    "network option's form": (f"{DM} --network convnet:depth", "'depth'", "key=value"),
    "network too deep": (f"{DM} --network convnet:depth=9", "depth=9", "512 × 512", "8 × 8"),
    "width 0": (f"{DM} --width-factor 0", "width_factor is 0.0", "positive"),
    "width 0, evaluate": (f"{HARD} --width-factor 0", "width_factor is 0.0", "positive"),
    "width infinite": (f"{HARD} --width-factor inf", "width_factor is inf", "at most"),
    "unknown teacher": (
        f"{HARD} --protocol kd --teacher vg11",
        "unknown network 'vg11'",
        "'vgg11'",
    ),
    # settings
    "setting of another objective": (f"{DM} --outer 2", "'outer'", "dm", "known are"),
    "setting of a selection": (DISTILL.replace("{o}", "random") + " --lr-img 1", "'lr_img'"),
    "setting of another protocol": (f"{HARD} --alpha 0.5", "--alpha", "--protocol hard"),
    "no number": (f"{DM} --lr-img fast", "--lr-img is 'fast'", "a number"),
    "no whole number": (f"{DC} --outer 1.5", "--outer is 1.5", "a whole number"),
    "rate 0": (f"{DM} --lr-img 0", "lr_img is 0.0", "above 0"),
    "rate NaN": (f"{DM} --lr-img nan", "--lr-img is nan", "float32 can hold"),
    "rate infinite": (f"{DM} --lr-img inf", "--lr-img is inf", "float32 can hold"),
    "rate too large": (f"{DM} --lr-img 1e300", "--lr-img is 1e+300", "float32 can hold"),
    "momentum": (f"{DM} --momentum-img 1.5", "momentum_img is 1.5", "at most 1"),
    "start": (f"{DM} --init zeros", "init", "'zeros'", "noise, real"),
    "family of augmentation": (f"{DM} --augment dcc:crop", "family 'dcc'", "did you mean 'dc'"),
    "DC's augmentation": (f"{HARD} --augment dc:crop_flip", "'flip'", "crop, noise, rotate, scale"),
    "settings of a network": (f"{HARD} --arch-settings mlp", "--arch-settings", "ARCH@SETTING"),
    "settings of no network": (f"{HARD} --arch-settings mpl@lr=1", "'mpl'", "did you mean 'mlp'"),
    "settings of another network": (f"{HARD} --arch-settings vgg11@lr=1", "'vgg11'", "are mlp"),
    "unknown setting of a network": (
        f"{HARD} --arch-settings mlp@epoch=1",
        "did you mean 'epochs'",
    ),
    "setting of a network": (
        f"{HARD} --arch-settings mlp@epochs=x",
        "epochs is 'x'",
        "a whole number",
    ),
    "value for a network": (f"{HARD} --arch-settings mlp@lr=-1", "lr is -1.0", "above 0"),
    "what decays": (f"{HARD} --decayed weights", "decayed", "'weights'", "all, matrices"),
    "augmentation": (f"{DM} --augment flip_colour", "colour", "color"),
    "ipc 0": (DM.replace("--ipc 1", "--ipc 0"), "--ipc is 0", "at least 1"),
    "ipc negative": (DM.replace("--ipc 1", "--ipc -1"), "--ipc is -1", "at least 1"),
    "ipc above a class": (DM.replace("--ipc 1", "--ipc 200"), "--ipc is 200", "class '", "has 1"),
    "snapshot negative": (f"{DM} --snapshots -5", "--snapshots: -5", "from 0"),
    "snapshot 0 alone": (f"{DM} --snapshots 0", "iterations is 0", "at least 1"),
    "iterations of a selection": (DISTILL.replace("{o}", "random"), "iterations is 2", "0"),
    "checkpoint interval": (
        f"{DM} --checkpoint-every -1",
        "--checkpoint-every is -1",
        "at least 0",
    ),
    "checkpoint never": (f"{DM} --checkpoint-every nan", "--checkpoint-every is nan", "at least 0"),
    "networks 0": (HARD.replace("--networks 1", "--networks 0"), "--networks is 0", "at least 1"),
    "epochs negative": (f"{HARD} --epochs -1", "epochs is -1", "at least 0"),
    "temperature": (f"{HARD} --protocol kd --temperature -1", "temperature is -1.0", "at least 0"),
    "alpha": (f"{HARD} --protocol kd --alpha 2", "alpha is 2.0", "at most 1"),
    "schedule": (f"{HARD} --schedule cosin", "'cosin'", "did you mean 'cosine'"),
    # files of the suite
    "dataset missing": (DM.replace("{data}", "{files}/no.safetensors"), "no.safetensors: no such"),
    "dataset a folder": (DM.replace("{data}", "{files}"), "no such file"),
    "dataset truncated": (DM.replace("{data}", "{truncated}"), "truncated.safetensors", "broken"),
    "dataset empty": (DM.replace("{data}", "{nothing}"), "nothing.safetensors", "broken"),
    "dataset a text": (DM.replace("{data}", "{text}"), "text.safetensors", "no safetensors file"),
    "dataset foreign": (DM.replace("{data}", "{foreign}"), "'train_images' is missing", "weights"),
    "dataset header": (DM.replace("{data}", "{header}"), "header.safetensors", "not JSON"),
    "dataset format": (DM.replace("{data}", "{d_format}"), "format 99", "reads 1"),
    "dataset dtype": (DM.replace("{data}", "{d_float}"), "'train_images'", "uint8"),
    "dataset labels": (DM.replace("{data}", "{d_labels}"), "'test_labels'", "1 to 10", "0..9"),
    "dataset lacks a class": (DM.replace("{data}", "{d_gap}"), "'train_labels'", "class 3"),
    "dataset std": (DM.replace("{data}", "{d_std}"), "'std'", "above 0"),
    "dataset classes": (DM.replace("{data}", "{d_classes}"), "classes", "list"),
    "dataset's name": (DM.replace("{data}", "{d_name}"), "'name'", "must be text"),
    "set given as dataset": (DM.replace("{data}", "{set}"), "is a synthetic file", "dataset file"),
    "dataset given as set": (f"{EVALUATE} --synthetic {{data}}", "is a dataset file", "synthetic"),
    "checkpoint given as set": (f"{EVALUATE} --synthetic {{checkpoint}}", "is a checkpoint file"),
    "set missing": (f"{EVALUATE} --synthetic {{files}}/no", "no: no such file"),
    "set foreign": (f"{EVALUATE} --synthetic {{foreign}}", "'labels' is missing", "weights"),
    "set unlabelled": (f"{EVALUATE} --synthetic {{unlabelled}}", "'labels' is missing"),
    "set's shape": (f"{EVALUATE} --synthetic {{shape}}", "'images'", "[10, 64]", "[M, C, H, W]"),
    "set's dtype": (f"{EVALUATE} --synthetic {{dtype}}", "'images'", "float64", "float32"),
    "set's size": (f"{EVALUATE} --synthetic {{side}}", "1x9x9", "1x8x8"),
    "set's channels": (f"{EVALUATE} --synthetic {{colour}}", "3x8x8", "1x8x8"),
    "set with NaN": (f"{EVALUATE} --synthetic {{nan}}", "'images' holds NaN"),
    "set without images": (f"{EVALUATE} --synthetic {{nobody}}", "'images'", "[0, 1, 8, 8]"),
    "set's labels too high": (f"{EVALUATE} --synthetic {{range}}", "1 to 10", "0 to 9"),
    "set's labels negative": (f"{EVALUATE} --synthetic {{negative}}", "-1 to 8", "0 to 9"),
    "set's labels' dtype": (f"{EVALUATE} --synthetic {{kind}}", "'labels'", "int32", "int64"),
    "set's labels too few": (f"{EVALUATE} --synthetic {{fewer}}", "'labels'", "[9]", "[10]"),
    "soft labels' classes": (f"{EVALUATE} --synthetic {{soft}}", "7 classes", "has 10"),
    "soft labels with NaN": (f"{EVALUATE} --synthetic {{softnan}}", "'labels' holds NaN"),
    "soft labels negative": (f"{EVALUATE} --synthetic {{minus}}", "'labels'", "probabilities"),
    "set's std missing": (f"{EVALUATE} --synthetic {{meanonly}}", "'mean' and 'std'", "missing"),
    "set's mean too long": (f"{EVALUATE} --synthetic {{meanlong}}", "'mean'", "[1]"),
    "set's std 0": (f"{EVALUATE} --synthetic {{stdzero}}", "'std'", "above 0"),
    "set's rate a vector": (f"{EVALUATE} --synthetic {{rate}}", "'learned_lr'", "one number"),
    "set's rate NaN": (f"{EVALUATE} --synthetic {{ratenan}}", "'learned_lr'", "above 0"),
    "set whitened": (f"{EVALUATE} --synthetic {{white}}", "data.safetensors", "--zca"),
    "set's whitening": (f"{EVALUATE} --synthetic {{space}}", "space.saf", "'pca'", "none, zca"),
    "set not whitened": (
        f"{EVALUATE} --synthetic {{plain}} --whitening zca",
        "--whitening is zca",
        "plain.safetensors says",
        "none",
    ),
    "whitening": (f"{HARD} --whitening pca", "--whitening", "'pca'", "'auto', 'none', 'zca'"),
    "no whitening": (f"{HARD} --whitening zca", "--whitening is zca", "set.safetensors"),
    "set without any image": (f"{EVALUATE} --synthetic {{imageless}}", "'images' is missing"),
    "images and indices": (f"{EVALUATE} --synthetic {{both}}", "'images' and 'indices'"),
    "indices' dtype": (f"{EVALUATE} --synthetic {{half}}", "'indices'", "float16", "int64 [M]"),
    "indices too high": (f"{EVALUATE} --synthetic {{there}}", "1430 to 1439", "0 to 1437"),
    "indices elsewhere": (f"{EVALUATE} --synthetic {{elsewhere}}", "0123456789abcdef", "digits"),
    # pools
    "pool missing": (f"{DM} --pool {{files}}/no.yaml", "no.yaml: no such file"),
    "pool a folder": (f"{DM} --pool {{files}}", "directory"),
    "pool's sum": (f"{DM} --pool {{files}}/sum.yaml", "sum.yaml", "sum to 1.2", "not to 1"),
    "pool's probability": (f"{DM} --pool {{files}}/high.yaml", "probability: is 1.5", "0 to 1"),
    "pool's key": (f"{DM} --pool {{files}}/key.yaml", "'warmpu'", "'warmup'"),
    "pool's key missing": (f"{DM} --pool {{files}}/lacks.yaml", "key 'others'", "missing"),
    "pool's network": (f"{DM} --pool {{files}}/network.yaml", "others", "'lenett'", "'lenet'"),
    "pool's variant": (f"{DM} --pool {{files}}/variant.yaml", "others.norm", "'bacth'", "'batch'"),
    "pool a list": (f"{DM} --pool {{files}}/list.yaml", "list.yaml", "mapping"),
    "pool no YAML": (f"{DM} --pool {{files}}/notyaml.yaml", "notyaml.yaml", "is not YAML"),
    "pool not UTF-8": (f"{DM} --pool {{files}}/latin.yaml", "latin.yaml", "is not YAML"),
    "pool and network": (f"{DM} --network mlp --pool {{files}}/key.yaml", "--pool", "--network"),
    # image folders
    "folder missing": (f"{FOLDER} --root {{files}}/no", "--root", "is no folder"),
    "folder not given": (FOLDER, "--root", "image-folder needs"),
    "folder a file": (f"{FOLDER} --root {{files}}/file", "--root", "is no folder"),
    "folder without test": (f"{FOLDER} --root {{folders}}/none", "no folder 'test'", "expected"),
    "folder without classes": (f"{FOLDER} --root {{folders}}/flat", "holds no class folders"),
    "class missing in test": (f"{FOLDER} --root {{folders}}/gap", "class 'dog'", "not in test"),
    "class empty": (f"{FOLDER} --root {{folders}}/empty", "class 'dog' has no image", ".png"),
    "no image": (f"{FOLDER} --root {{folders}}/text", "dog/9.png", "not an image"),
    "channels mixed": (f"{FOLDER} --root {{folders}}/mode", "is grey", "is colour", "--channels"),
    "sizes mixed": (f"{FOLDER} --root {{folders}}/size", "6x7", "6x6", "--resize"),
    "constant channel": (f"{FOLDER} --root {{folders}}/constant", "channel 0", "constant"),
    "resize 0": (f"{FOLDER} --root {{files}}/small --resize 0", "--resize", "1 or more"),
    "channels 2": (f"{FOLDER} --root {{files}}/small --channels 2", "--channels", "1, 3"),
    "resize of digits": (f"{DIGITS} --resize 9", "--resize", "image-folder"),
    "eps of ZCA": (f"{DIGITS} --zca --zca-eps -1", "--zca-eps", "above 0"),
    "torchvision not there": (
        "prepare --source cifar10 --no-download --root {files} --out OUT/x",
        "cifar10 is not complete",
        "cifar-10-batches-py/",
    ),
    # other layouts
    "layout's folder missing": (f"{TINY} --root {{files}}/no", "--root", "is no folder"),
    "layout of another source": (f"{TINY} --root {{folders}}/none", "no folder 'val/images'"),
    "classes without images": (f"{CLASSES} --root {{folders}}", "class 'constant' has no image"),
    "test share": (f"{CLASSES} --root {{files}} --test-share 1.5", "--test-share", "below 1"),
    "groups missing": (
        f"{CLASSES} --root {{folders}}/none/train --groups {{files}}/no",
        "no: no such file",
    ),
    "groups without columns": (
        f"{CLASSES} --root {{folders}}/none/train --groups {{files}}/high.yaml",
        "no column 'file'",
        "'file' and 'group'",
    ),
    "groups of another source": (f"{TINY} --groups {{files}}/no", "--groups", "class-folders"),
    # numbers that explode
    "loss NaN, distill": (f"{DC} --snapshots 9 --lr-img 1e30", "iteration 2", "nan", "--lr-img"),
    "loss NaN, evaluate": (f"{HARD} --epochs 9 --lr 1e30", "diverged", "nan", "1e+30", "smaller"),
    "loss NaN, inner loop": (
        f"{DC} --outer 2 --inner 9 --lr-net 1e30",
        "diverged",
        "1e+30",
        "smaller",
    ),
    "memory": (f"{DM} --network mlp --width-factor 1e6", "out of memory", "smaller"),
    # places to write to
    "out below a file": ("prepare --source digits --out {file}/x", "a file is in the way"),
    "out a folder, prepare": (
        "prepare --source digits --out {files}",
        "is a folder",
        "a file in it",
    ),
    "out a file, distill": (DM.replace("OUT", "{file}"), "a file is in the way"),
    "out a folder, evaluate": (HARD.replace("OUT/e.csv", "{files}"), "is a folder", "a file in it"),
    "out below a file, evaluate": (HARD.replace("OUT", "{file}"), "a file is in the way"),
    # inspect
    "inspect nothing": ("inspect {files}/no", "no: no such file"),
    "inspect a folder": ("inspect {files}", "is a folder", "file in it"),
    "inspect a text": ("inspect {text}", "no safetensors file"),
}


def command(template, files, out):
    """The argument list of a case."""
    names = {path.stem: path for path in files.glob("*.safetensors")}
    names |= {"files": files, "file": files / "file", "folders": files / "folders"}
    argv = shlex.split(template.replace("OUT", "{out}"))
    return [word.format(**names, out=out) for word in argv]


def everything(folder):
    """Every file under ``folder`` with its size and time, to see that nothing was touched."""
    stats = {path: path.stat() for path in folder.rglob("*") if path.is_file()}
    return {path: (stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}


@pytest.mark.parametrize("case", CASES)
def test_one_clear_line(case, files, tmp_path, capsys):
    template, *words = CASES[case]
    before = everything(files)
    out = tmp_path / "out"
    status = main(command(template, files, out))
    err = capsys.readouterr().err
    assert status != 0
    assert err.startswith("error: ") and err.endswith("\n") and err.count("\n") == 1, err
    for word in words:
        assert word in err
    assert everything(files) == before
    assert everything(out) == {}


def test_as_a_process(files, tmp_path):
    """The same through the operating system: no traceback, no warning, status 2."""
    argv = command(DM.replace("--ipc 1", "--ipc 200"), files, tmp_path / "out")
    done = subprocess.run(
        [sys.executable, "-m", "dd", *argv], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: --ipc is 200") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("--objective herding --feature-epochs 1 --lr-net 1e30", ("diverged", "1e+30", "smaller")),
        ("--objective dc --snapshots 1 --lr-img 3.4e38", ("images are infinite", "--lr-img")),
    ],
)
def test_found_at_the_end(more, words, files, tmp_path, capsys):
    """What shows only once a progress line is out still ends in one line, and no file."""
    out = tmp_path / "out"
    argv = command(f"distill --data {{data}} --ipc 1 --network mlp --out OUT {more}", files, out)
    assert main(argv) == 2
    *progress, last = capsys.readouterr().err.splitlines()
    assert all(re.match(r"(distill|feature network): \d+/\d+ ", line) for line in progress)
    assert last.startswith("error: ")
    for word in words:
        assert word in last
    assert everything(out) == {}


@pytest.mark.parametrize("case", [DIGITS, DM, HARD])
def test_no_right_to_write(case, files, tmp_path, capsys, monkeypatch):
    """Said at once, as for a user who may not write there (a superuser always may)."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert main(command(case, files, tmp_path)) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1
    assert f"{tmp_path} may not be written to" in err


def test_full_disk(files, tmp_path, capsys, monkeypatch):
    """What was there stays, the message names the file."""
    out = tmp_path / "x.safetensors"
    out.write_bytes(b"before")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert main(["prepare", "--source", "digits", "--out", str(out)]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: {out}: the disk is full") and err.count("\n") == 1
    assert out.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [out]


def test_full_disk_met_by_the_library(files, tmp_path, capsys, monkeypatch):
    """The same where safetensors meets the end; it has the error's number in its text alone."""

    def full(*arguments, **options):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("dd.artifacts.tensors.save_file", full)
    out = tmp_path / "x.safetensors"
    assert main(["prepare", "--source", "digits", "--out", str(out)]) == 1
    err = capsys.readouterr().err
    assert err == f"error: {out}: the disk is full; free space and run again\n"
    assert list(tmp_path.iterdir()) == []


def test_others_may_read_what_the_umask_lets_them(files, tmp_path):
    """An artifact has the rights of any other new file."""
    (tmp_path / "any").touch()
    assert main(["prepare", "--source", "digits", "--out", str(tmp_path / "x.safetensors")]) == 0
    assert (tmp_path / "x.safetensors").stat().st_mode == (tmp_path / "any").stat().st_mode


@pytest.mark.parametrize("limit", [50_000, 5_000])
def test_write_cut_short(limit, files, tmp_path):
    """The system refuses to write on: no half file under any name."""
    argv = ["prepare", "--source", "digits", "--out", str(tmp_path / "x.safetensors")]
    done = subprocess.run(
        [sys.executable, "-B", "-m", "dd", *argv],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 1
    assert done.stderr == f"error: {tmp_path / 'x.safetensors'}: File too large\n"
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def exotic(tmp_path):
    """An image folder whose own name and class names hold spaces and non-ASCII letters."""
    return image_folder(tmp_path / "Bilder für alle", ("grüner Apfel", "猫", "l'œuf à 50 %"), 5)


def test_any_class_name_works(exotic, tmp_path):
    """From images to accuracies with class names that are not ASCII words."""
    data, out, csv = tmp_path / "ä b.safetensors", tmp_path / "o ü", tmp_path / "é.csv"
    argv = ["--source", "image-folder", "--root", str(exotic), "--out", str(data)]
    assert main(["prepare", *argv]) == 0
    argv = ["--data", str(data), "--objective", "dm", "--ipc", "2", "--snapshots", "1"]
    assert main(["distill", *argv, "--out", str(out), "--network", "mlp"]) == 0
    made = ["--synthetic", str(out / "it1.safetensors"), "--data", str(data), "--out", str(csv)]
    assert main(["evaluate", *made, "--arch", "mlp", "--networks", "1", "--epochs", "1"]) == 0
    assert main(["inspect", str(out / "it1.safetensors")]) == 0
    _, header = load_tensors(out / "it1.safetensors", "synthetic")
    # the order of code points, as sorted() gives it
    assert header["classes"] == ["grüner Apfel", "l'œuf à 50 %", "猫"]
    (row,) = load_rows(csv)
    assert row["dataset"] == "Bilder für alle"
    assert 0 <= float(row["accuracy"]) <= 100


def test_a_terminal_that_lacks_letters(exotic, tmp_path):
    """A log or terminal in another encoding must not stop a job."""
    data = tmp_path / "x.safetensors"
    argv = ["prepare", "--source", "image-folder", "--root", str(exotic), "--out", str(data)]
    done = subprocess.run(
        [sys.executable, "-m", "dd", *argv],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "Bilder f\\xfcr alle" in done.stdout
    assert load_tensors(data, "dataset")[1]["label"] == "Bilder für alle"


def test_foreign_set_is_welcome(files, tmp_path):
    """Only ``images`` and ``labels``, whatever the header says: the dataset's own normalisation,
    and the training of dc where the method is not known here."""
    images, labels = (load_file(files / "set.safetensors")[name] for name in ("images", "labels"))
    soft = torch.full((10, 10), 0.1)
    for name, tensors, header in (
        ("hard", {"images": images, "labels": labels}, {}),
        ("soft", {"images": images, "labels": soft}, {}),
        ("other", {"images": images, "labels": labels}, {"objective": "theirs", "ipc": "ten"}),
    ):
        path, csv = tmp_path / f"{name}.safetensors", tmp_path / f"{name}.csv"
        save_file(tensors, path, metadata={"dd": json.dumps(header)})
        argv = [*command(EVALUATE, files, tmp_path), "--synthetic", str(path), "--out", str(csv)]
        assert main(argv) == 0
        (row,) = load_rows(csv)
        assert (row["lr"], row["augment"]) == ("0.01", "none")


def test_an_architecture_is_evaluated_once(files, tmp_path):
    """Two spellings of one network are one."""
    argv = command(
        HARD.replace("--arch mlp", "--arch convnet convnet:norm=instance"), files, tmp_path
    )
    assert main([*argv, "--width-factor", "0.05"]) == 0
    assert [row["arch"] for row in load_rows(tmp_path / "e.csv")] == ["convnet"]


def test_a_diverging_evaluation_can_be_recorded(digits_file, tmp_path):
    """The workflow's choice: a setting that fails is a row, its networks answering constantly."""
    made, out = tmp_path / "set", tmp_path / "rows.csv"
    common = ["--data", str(digits_file), "--seed", "0"]
    assert (
        main(["distill", "--objective", "random", "--ipc", "1", "--out", str(made), *common]) == 0
    )
    command = ["evaluate", "--synthetic", str(made / "it0.safetensors"), "--arch", "mlp", *common]
    command += ["--networks", "1", "--epochs", "4", "--lr", "1e30", "--width-factor", "0.1"]
    assert main([*command, "--out", str(out), "--diverged", "record"]) == 0
    (row,) = load_rows(out)
    assert row["diverged"] == "1" and 5 < float(row["accuracy"]) < 15
