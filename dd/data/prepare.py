"""Raw images to one safetensors file: both splits as uint8, normalisation, optional ZCA."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from dd.artifacts import check_target, command_line, provenance, save_tensors
from dd.data import zca
from dd.data.dataset import fingerprint
from dd.data.sources import SOURCES, RawDataset, SourceOptions
from dd.errors import DDError
from dd.runtime import setup

_CHUNK = 4096  # images in float at a time


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``python -m dd prepare``."""
    parser.add_argument("--source", required=True, help=f"one of {', '.join(SOURCES)}")
    parser.add_argument("--out", required=True, type=Path, help="file to write (.safetensors)")
    parser.add_argument(
        "--root",
        type=Path,
        help="folder to read (image-folder: holds train/<class>/ and test/<class>/), or for "
        "torchvision's datasets to download into (default: none, as digits needs)",
    )
    parser.add_argument(
        "--name", help="short name for paths (default: the source's or the folder's)"
    )
    parser.add_argument("--label", help="name shown in tables and captions (default: the source's)")
    parser.add_argument(
        "--resize",
        type=int,
        metavar="N",
        help="image-folder: side in pixels to resize to (default: as they are)",
    )
    parser.add_argument(
        "--channels",
        type=int,
        choices=(1, 3),
        help="image-folder: convert to grey or to colour (default: as they are)",
    )
    parser.add_argument("--zca", action="store_true", help="add a ZCA whitening")
    parser.add_argument(
        "--zca-eps", type=float, default=0.1, help="added to the covariance's eigenvalues"
    )
    parser.add_argument("--no-download", action="store_true", help="read --root, never download")
    parser.add_argument("--threads", type=int, default=0, help="CPU cores to use (0: all)")


def run(args: argparse.Namespace) -> None:
    """Prepare a dataset and say in one line what was written."""
    read = SOURCES[args.source]
    if args.source != "image-folder" and (args.resize or args.channels):
        raise DDError("--resize and --channels: only for --source image-folder")
    if args.resize is not None and args.resize < 1:
        raise DDError(f"--resize: {args.resize} is no side in pixels; use 1 or more")
    if not 0 < args.zca_eps < float("inf"):
        raise DDError(f"--zca-eps: {args.zca_eps} must be a number above 0, for instance 0.1")
    if args.threads < 0:
        raise DDError(f"--threads: {args.threads} must be 0 (all cores) or more")
    if args.root is not None and not args.root.is_dir() and args.source == "image-folder":
        raise DDError(f"--root: {args.root} is no folder")
    check_target(args.out)
    setup("cpu", args.threads)
    raw = read(
        SourceOptions(
            root=args.root,
            download=not args.no_download,
            resize=args.resize,
            channels=args.channels,
            workers=torch.get_num_threads(),  # all cores that this process may use
        )
    )
    name, label = args.name or raw.name, args.label or raw.label
    tensors = prepare(raw, args.zca_eps if args.zca else None)
    header = {
        "name": name,
        "label": label,
        "classes": raw.classes,
        "source": args.source,
        "zca": {"eps": args.zca_eps} if args.zca else None,
        "fingerprint": fingerprint(tensors, raw.classes),
        "provenance": provenance(command=command_line()),
    }
    save_tensors(args.out, "dataset", tensors, header)
    _, channels, height, width = raw.train_images.shape
    print(
        f"{args.out}: {label}, {len(raw.train_images)} training and {len(raw.test_images)} test "
        f"images of {len(raw.classes)} classes, {channels}x{height}x{width}"
        f"{', ZCA' if args.zca else ''}"
    )


def prepare(raw: RawDataset, zca_eps: float | None = None) -> dict[str, Tensor]:
    """The tensors of a dataset file.

    Args:
        raw: both splits.
        zca_eps: ε of the ZCA whitening to fit to the normalised training split; None for none.

    Returns:
        ``train_images``, ``train_labels``, ``test_images``, ``test_labels`` as in ``raw``,
        ``mean`` and ``std`` [C] float32, and with ZCA ``zca_mean`` [D], ``zca_matrix`` [D, D].

    Raises:
        DDError: if a channel is constant.
    """
    mean, std = channel_statistics(raw.train_images)
    if not std.all():
        channel = std.tolist().index(0)
        raise DDError(
            f"{raw.name}: channel {channel} of the training images is constant, "
            "so it cannot be normalised; drop it (--channels) or check the images"
        )
    tensors = {
        "train_images": raw.train_images,
        "train_labels": raw.train_labels,
        "test_images": raw.test_images,
        "test_labels": raw.test_labels,
        "mean": mean.float(),
        "std": std.float(),
    }
    if zca_eps is not None:
        whitening = zca.fit(_normalised(raw.train_images, mean, std), zca_eps)
        tensors["zca_mean"], tensors["zca_matrix"] = (tensor.float() for tensor in whitening)
    return tensors


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and (population) standard deviation of each channel, pixels in [0, 1].

    Exact up to the last rounding: sums are taken in integers over the histogram of values.

    Args:
        images: uint8 [N, C, H, W].

    Returns:
        mean [C] and std [C], float64.
    """
    means, stds = [], []
    for channel in range(images.shape[1]):
        histogram = torch.zeros(256, dtype=torch.int64)
        for part in images[:, channel].split(_CHUNK):
            histogram += part.flatten().bincount(minlength=256)
        counts = list(enumerate(histogram.tolist()))
        number = sum(count for _, count in counts)
        total = sum(value * count for value, count in counts)
        squares = sum(value * value * count for value, count in counts)
        means.append(total / number / 255)
        stds.append((number * squares - total * total) ** 0.5 / number / 255)
    return torch.tensor(means, dtype=torch.float64), torch.tensor(stds, dtype=torch.float64)


def _normalised(images: Tensor, mean: Tensor, std: Tensor) -> Iterator[Tensor]:
    for part in images.split(_CHUNK):
        yield (part.double() / 255 - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
