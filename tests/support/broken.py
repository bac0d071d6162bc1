"""Files that commands refuse, and sound ones beside them."""

from __future__ import annotations

import shutil

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from dd.artifacts.tensors import load_tensors, save_tensors

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
    bare = {name: tensor for name, tensor in good.items() if name not in ("mean", "std")}
    save_tensors(root / "white.safetensors", "synthetic", bare, {"whitening": "zca"})
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
