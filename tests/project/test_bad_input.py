"""Bad input at the command line: one clear line, a non-zero status, nothing left behind.

The table below is the contract: a case is the command as a person would type it (``{name}`` stands
for a file of the fixture ``files``), and the words that its message must hold: what is wrong,
where, and what would be right.
"""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from dd.command import main
from tests.support.commands import DC, DIGITS, DISTILL, DM, EVALUATE, HARD, command, everything

FOLDER = "prepare --source image-folder --out OUT/x.safetensors"
TINY = FOLDER.replace("image-folder", "tiny-imagenet")
SET = "--data {data} --synthetic {set}"
ERASE = "erase --data {data} --pretrained {foreign} --regions-from mlp.convnet"
PRETRAIN = "pretrain --data {data} --network mlp"
CLASSES = FOLDER.replace("image-folder", "class-folders")

CASES = {
    # stages and sources
    "unknown stage": ("distil --data {data}", "unknown stage 'distil'", "'distill'"),
    "unknown option": (f"{DM} --learning-rate 1", "--learning-rate", "distill --help"),
    "option missing": ("prepare --source digits", "--out", "prepare --help"),
    "unknown source": ("prepare --source digit --out OUT/x", "unknown data source", "'digits'"),
    "unknown objective": (DISTILL.replace("{o}", "dcc"), "unknown objective 'dcc'", "dc, dd, dm"),
    "unknown protocol": (f"{HARD} --protocol smooth", "unknown protocol 'smooth'", "hard, kd"),
    "unknown device": (f"{DM} --device tpu9", "--device", "tpu9", "cpu"),
    "a number of the CPU": (f"{DM} --device cpu:1", "--device", "'cpu:1' is not supported", "cpu"),
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
    "networks 0": (HARD.replace("--networks 1", "--networks 0"), "--networks is 0", "must be 1 to"),
    "networks of no network": (
        f"{HARD} --networks-of mpl=1",
        "--networks-of",
        "did you mean 'mlp'",
    ),
    "networks of another": (f"{HARD} --networks-of lenet=1", "'lenet'", "known are mlp"),
    "networks twice": (
        f"{HARD} --networks-of mlp=1 mlp=2",
        "--networks-of: mlp is given twice",
    ),
    "augmentation of views": (
        f"{HARD} --protocol soft --labels {{set}} --augment flip",
        "augment is flip, but --protocol soft takes none",
    ),
    "no number of networks": (f"{HARD} --networks-of mlp", "'mlp' must be ARCH=N"),
    "half a network": (f"{HARD} --networks-of mlp=0.5", "--networks-of is 0.5", "whole number"),
    "no network": (f"{HARD} --networks-of mlp=0", "--networks-of is 0 for mlp", "1 to 1000"),
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
    "pool a folder": (f"{DM} --pool {{files}}", "is a folder, no file"),
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
    "eps without ZCA": (f"{DIGITS} --zca-eps 0.1", "--zca-eps", "without --zca"),
    "eps of ZCA": (f"{DIGITS} --zca --zca-eps -1", "--zca-eps", "above 0"),
    "torchvision not there": (
        "prepare --source cifar10 --no-download --root {files} --out OUT/x.safetensors",
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
    "out the set, evaluate": (HARD.replace("OUT/e.csv", "{set}"), "set.safetensors is read by"),
    "out the data, evaluate": (HARD.replace("OUT/e.csv", "{data}"), "data.safetensors is read by"),
    "out no CSV, evaluate": (HARD.replace("e.csv", "e.json"), "--out", "must end in .csv"),
    "out the set, relabel": (f"relabel {SET} --teacher {{foreign}} --out {{set}}", "is read by"),
    "out a teacher": (f"relabel {SET} --teacher {{foreign}} --out {{foreign}}", "is read by"),
    "out the set, cams": (f"cams {SET} --pretrained {{foreign}} --out {{set}}", "is read by"),
    "out no tensors, cams": (f"cams {SET} --pretrained {{foreign}} --out OUT/m", ".safetensors"),
    "out the data, erase": (f"{ERASE} --out {{data}}", "--out", "is read by this command"),
    "out a network, erase": (f"{ERASE} --out {{foreign}}", "--out", "is read by this command"),
    "out no CSV, erase": (f"{ERASE} --out OUT/e.safetensors", "--out", "must end in .csv"),
    "out the data, buffer": ("buffer --data {data} --out {data}", "is read by this command"),
    "out the data, generator": ("generator --data {data} --out {data}", "is read by this command"),
    "out the data, pretrain": (f"{PRETRAIN} --out {{data}}", "is read by this command"),
    "epochs of given weights": (
        f"{PRETRAIN} --weights {{foreign}} --epochs 3 --out OUT/x.safetensors",
        "--epochs: nothing is trained with --weights",
    ),
    "out the weights": (f"{PRETRAIN} --weights {{foreign}} --out {{foreign}}", "is read by"),
    "out the groups": (
        f"{CLASSES.replace('OUT/x.safetensors', '{set}')} --groups {{set}}",
        "set.safetensors is read by",
    ),
    "out the data, distill": (
        DM.replace("{data}", "{it2}").replace("OUT", "{files}"),
        "it2.safetensors is read by this command",
    ),
    "out the set, export": ("export {set} --out {set}", "is read by this command"),
    "out a document, configure": (
        "configure --run smoke --out {files}/high.yaml",
        "--out",
        "must end in .json",
    ),
    # inspect
    "inspect nothing": ("inspect {files}/no", "no: no such file"),
    "inspect a folder": ("inspect {files}", "is a folder", "file in it"),
    "inspect a text": ("inspect {text}", "no safetensors file"),
    # sets of others
    "import nothing": ("import {files}/no --dataset mnist --out OUT/x.safetensors", "no: no such"),
    "import for no dataset": ("import {set} --out OUT/x.safetensors", "--dataset NAME or --data"),
    "import a dataset": (
        "import {data} --data {data} --out OUT/x.safetensors",
        "data.safetensors: is a dataset file",
    ),
    "import with a set as dataset": (
        "import {set} --data {set} --out OUT/x.safetensors",
        "set.safetensors: is no dataset file",
    ),
    "export nothing": ("export {files}/no --out OUT", "no: no such file"),
    "export a dataset": ("export {data} --out OUT", "is a dataset file", "a synthetic file"),
    "export by another dataset": ("export {colour} --data {data} --out OUT", "3x8x8", "1x8x8"),
    "export labels too high": ("export {range} --data {data} --out OUT", "1 to 10", "from 0 to 9"),
}


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


@pytest.mark.slow
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
        (
            "--objective dc --snapshots 1 --lr-img 3.4e38",
            ("iteration 1: images are infinite", "--lr-img"),
        ),
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
