"""Make one safetensors file of raw images: both splits as uint8, normalisation, optional ZCA.

The field's datasets are normalised with the field's constants, others with their own statistics.
ZCA is fitted to pixels in [0, 1], whatever the normalisation (:mod:`dd.data.space`).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dd.artifacts.atomic import check_out
from dd.artifacts.headers import FORMAT
from dd.artifacts.provenance import command_line, provenance
from dd.artifacts.tensors import load_tensors, save_tensors
from dd.artifacts.text import through_json
from dd.config.normalisation import CONSTANTS, DATA, constants, of_source
from dd.config.settings import at_most
from dd.data import zca
from dd.data.dataset import fingerprint
from dd.data.raw import (
    IMAGE_FILES,
    TAKEN_BY,
    ZCA_EPS,
    check_taken,
    identity,
    listing_digest,
)
from dd.data.sources import SOURCES, RawDataset, SourceOptions
from dd.data.space import PIXELS
from dd.errors import DDError
from dd.runtime.process import setup
from dd.runtime.say import say

LARGEST_SIDE = 10_000  # pixels
_CHUNK = 4096  # images in float at a time


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``python -m dd prepare``."""
    parser.add_argument("--source", required=True, help=f"one of {', '.join(SOURCES)}")
    parser.add_argument("--out", required=True, type=Path, help="file to write (.safetensors)")
    parser.add_argument(
        "--root",
        type=Path,
        help="folder to read (image-folder: holds train/<class>/ and test/<class>/; class-folders: "
        "holds <class>/ or <class>/images/, without a split; tiny-imagenet: the unpacked archive). "
        "For torchvision's datasets: the folder to download into (default: none, as digits needs)",
    )
    parser.add_argument(
        "--name", help="short name for paths (default: the source's or the folder's)"
    )
    parser.add_argument("--label", help="name shown in tables and captions (default: the source's)")
    files = parser.add_argument_group("image files (image-folder, class-folders, tiny-imagenet)")
    files.add_argument(
        "--resize",
        type=at_most("--resize", LARGEST_SIDE),
        metavar="N",
        help="crop to the central square and resize to this side in pixels (default: unchanged)",
    )
    files.add_argument(
        "--channels",
        type=int,
        choices=(1, 3),
        help="convert to grey (1) or colour (3) (default: unchanged; tiny-imagenet: colour)",
    )
    split = parser.add_argument_group("split of images that come without one (class-folders)")
    split.add_argument(
        "--test-share",
        type=float,
        metavar="SHARE",
        help=f"share of each class in the test split (default: {SourceOptions.test_share})",
    )
    split.add_argument(
        "--split-seed",
        type=int,
        metavar="N",
        help=f"seed that draws the test images (default: {SourceOptions.split_seed})",
    )
    split.add_argument(
        "--groups",
        type=Path,
        metavar="FILE",
        help="CSV with columns file (relative to ROOT, or its name if no other has it) and group "
        "(for example the patient): a group is in one split only (default: each image is a group)",
    )
    parser.add_argument(
        "--normalise-as",
        metavar="NAME",
        help=f"mean and std of each channel: the field's for {', '.join(CONSTANTS)}, or {DATA}: "
        "those of the training images (default: the source's if it is one of these, else data)",
    )
    parser.add_argument(
        "--zca",
        action="store_true",
        help="add a ZCA whitening, for stages that ask for it",
    )
    parser.add_argument(
        "--zca-eps",
        type=float,
        metavar="EPS",
        help=f"with --zca: added to the covariance's eigenvalues (default: {ZCA_EPS})",
    )
    parser.add_argument("--no-download", action="store_true", help="read --root, never download")
    parser.add_argument("--threads", type=int, default=0, help="CPU cores to use (0: all)")


def run(args: argparse.Namespace) -> None:
    """Prepare a dataset and print one line about the file written."""
    read = SOURCES[args.source]
    given = {name: getattr(args, name) for name in TAKEN_BY if getattr(args, name) is not None}
    check_taken(args.source, given)
    if args.resize is not None and args.resize < 1:
        raise DDError(f"--resize: {args.resize} is no side in pixels; use 1 or more")
    if args.test_share is not None and not 0 < args.test_share < 1:
        raise DDError(f"--test-share: {args.test_share} must be above 0 and below 1, such as 0.2")
    if args.zca_eps is not None and not args.zca:
        raise DDError("--zca-eps: there is no whitening without --zca; give both or none")
    eps = ZCA_EPS if args.zca_eps is None else args.zca_eps
    if not 0 < eps < float("inf"):
        raise DDError(f"--zca-eps: {eps} must be a number above 0, for instance {ZCA_EPS}")
    if args.threads < 0:
        raise DDError(f"--threads: {args.threads} must be 0 (all cores) or more")
    normalise_as = args.normalise_as or of_source(args.source)
    constants(normalise_as)
    check_out(args.out, ".safetensors", args.groups)
    setup("cpu", args.threads)
    raw = read(
        SourceOptions(
            root=args.root,
            download=not args.no_download,
            workers=torch.get_num_threads(),  # all cores that this process may use
            **given,
        )
    )
    for note in raw.notes:
        say(f"prepare: {note}")
    name, label = args.name or raw.name, args.label or raw.label
    tensors = prepare(raw, eps if args.zca else None, normalise_as)
    header = {
        "name": name,
        "label": label,
        "classes": raw.classes,
        "source": args.source,
        "normalisation": normalise_as,
        "zca": {"eps": eps, "of": PIXELS} if args.zca else None,
        "fingerprint": fingerprint(tensors, raw.classes),
        "images": identity(
            vars(args) | {"normalise_as": normalise_as},
            listing_digest(args.root) if args.source in IMAGE_FILES else None,
        ),
        "provenance": provenance(command=command_line()),
    }
    kept = _holds(args.out, tensors, header)
    if not kept:
        save_tensors(args.out, "dataset", tensors, header)
    _, channels, height, width = raw.train_images.shape
    say(
        f"{args.out}: {'left as it is: ' if kept else ''}{label}, "
        f"{len(raw.train_images)} training and {len(raw.test_images)} test images of "
        f"{len(raw.classes)} classes, {channels}x{height}x{width}, normalised with "
        f"{_said(normalise_as)}{', ZCA' if args.zca else ''}"
    )


def _holds(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> bool:
    """Whether the file ``path`` has these tensors and this header, from whichever command."""
    try:
        kept, of_file = load_tensors(path, "dataset")
    except (DDError, OSError):  # there is none, or none that can be used
        return False
    facts = [{k: v for k, v in h.items() if k != "provenance"} for h in (of_file, header)]
    if facts[0] != {"kind": "dataset", "format": FORMAT} | through_json(facts[1]):
        return False
    return kept.keys() == tensors.keys() and all(
        kept[name].dtype == tensor.dtype and torch.equal(kept[name], tensor)
        for name, tensor in tensors.items()
    )


def _said(normalise_as: str) -> str:
    return "its own mean and std" if normalise_as == DATA else f"the constants of {normalise_as}"


def prepare(
    raw: RawDataset, zca_eps: float | None = None, normalise_as: str = DATA
) -> dict[str, Tensor]:
    """The tensors of a dataset file.

    Args:
        raw: both splits.
        zca_eps: ε of the ZCA whitening, which is fitted to pixels in [0, 1] of the training split;
            None: no whitening.
        normalise_as: whose mean and std to use: a name in
            :data:`dd.config.normalisation.CONSTANTS`, or ``data`` for those of the training split.

    Returns:
        ``train_images``, ``train_labels``, ``test_images``, ``test_labels`` as in ``raw``,
        ``mean`` and ``std`` [C] float32, and with ZCA ``zca_mean`` [D], ``zca_matrix`` [D, D].

    Raises:
        DDError: if a channel is constant, or the constants are for another number of channels.
    """
    mean, std = _normalisation(raw, normalise_as)
    tensors = {
        "train_images": raw.train_images,
        "train_labels": raw.train_labels,
        "test_images": raw.test_images,
        "test_labels": raw.test_labels,
        "mean": mean.float(),
        "std": std.float(),
    }
    if zca_eps is not None:
        whitening = zca.fit(_pixels(raw.train_images), zca_eps)
        tensors["zca_mean"], tensors["zca_matrix"] = (tensor.float() for tensor in whitening)
    return tensors


def _normalisation(raw: RawDataset, normalise_as: str) -> tuple[Tensor, Tensor]:
    """Mean and std of each channel, float64."""
    channels = raw.train_images.shape[1]
    if known := constants(normalise_as):
        if len(known.mean) != channels:
            raise DDError(
                f"--normalise-as: the constants of {normalise_as} are for {len(known.mean)} "
                f"channels, images of {raw.name} have {channels}; use --normalise-as {DATA}"
            )
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in known)
        return mean, std
    mean, std = channel_statistics(raw.train_images)
    if not std.all():
        channel = std.tolist().index(0)
        raise DDError(
            f"{raw.name}: channel {channel} of the training images is constant, "
            "so it cannot be normalised; drop it (--channels) or check the images"
        )
    return mean, std


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and (population) standard deviation of each channel, for pixels in [0, 1].

    Exact up to the last rounding: the sums are of integers, over the histogram of values.

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


def _pixels(images: Tensor) -> Iterator[Tensor]:
    for part in images.split(_CHUNK):
        yield part.double() / 255
