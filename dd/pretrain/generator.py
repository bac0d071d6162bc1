"""Train a generator, an autoencoder of the dataset's images. Its latents can replace pixels.

If it is killed and started again with the same options, it goes on from its last checkpoint.
Settings that are not given come from the recipe `generator` for the dataset
(dd/config/recipes.yaml).
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from dd import __version__
from dd.artifacts.atomic import check_out
from dd.artifacts.checkpoint import or_anew
from dd.artifacts.provenance import stage_provenance
from dd.artifacts.tensors import save_tensors
from dd.config import recipes
from dd.config.settings import add_recipe_options, build, declared, given_settings, setting
from dd.data.dataset import Dataset, Split, load_dataset
from dd.data.space import WHITENINGS
from dd.errors import DDError, unknown
from dd.networks.layers import GROUPS
from dd.networks.memory import CPU_PIECE, Shape, each_bytes, on_meta, piece_of
from dd.pretrain.generators.autoencoder import PATCH, Autoencoder, code_channels, create
from dd.rng import generator
from dd.runtime import precision
from dd.runtime.memory import in_pieces
from dd.runtime.process import (
    add_checkpoint_option,
    add_machine_options,
    add_precision_option,
    setup,
)
from dd.runtime.progress import Progress
from dd.runtime.say import say
from dd.training.ensemble import ensemble
from dd.training.recipe import Recipe
from dd.training.resume import Checkpoints, epochs
from dd.training.train import augmented, check_losses


def _check_width(width: int) -> None:
    if width % GROUPS:
        raise DDError(f"generator: width is {width}, it must be a multiple of {GROUPS}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(Recipe):
    """How the autoencoder is built and trained (our choice; GLaD uses StyleGAN-XL)."""

    code: int = setting(
        f"channels of the code; each has one value per {PATCH} x {PATCH} pixels; 0: a code with a "
        "third of the values of the image",
        at_least=0,
    )
    width: int = setting(
        f"channels at half the image size, a multiple of {GROUPS}; at a quarter twice as many",
        at_least=2 * GROUPS,
        check=_check_width,
    )
    noise: float = setting(
        "standard deviation of the noise on codes in training (that of codes is 1)", at_least=0
    )


@dataclasses.dataclass
class Training:
    """Trains an autoencoder by the mean squared error in normalised units, with noise on codes.

    Attributes:
        dataset: its training split is used.
        settings, seed: how the autoencoder is trained.
        out: the file to write.
        every: seconds between checkpoints.
    """

    dataset: Dataset
    settings: Settings
    seed: int
    out: Path
    every: float

    def run(self) -> dict[str, float]:
        """Train, from the last checkpoint if any; return the errors of :func:`reconstruction`.

        Raises:
            Unusable: if the checkpoint turns out not to fit.
        """
        job, s = Checkpoints("generator", self.out, self.every), self.settings
        split = self.dataset.train.resident()
        device = split.labels.device
        code = code_channels(s.code, self.dataset.channels)
        weights = generator(self.seed, "generator", "weights")
        network = create(self.dataset.channels, code, s.width, weights, device).train()
        streams = {name: generator(self.seed, "generator", name) for name in ("order", "noise")}
        facts = self.facts() | {"code": code}
        total = len(s.rates())
        job.resume(facts)
        first = job.at.get("epoch", 0)
        with Progress("generator", total, "epochs", initial=first) as progress:
            for epoch, optimizer in epochs(ensemble([network]), s, job, streams):
                loss = _epoch(network, optimizer, split, s, streams)
                progress.update(loss=check_losses(loss, s, epoch + 1))
        errors = reconstruction(network.eval(), self.dataset)
        made = stage_provenance(device, job.seconds, job.continued_from)
        header = facts | {"reconstruction": errors, "provenance": made}
        save_tensors(self.out, "generator", network.state_dict(), header)
        job.remove()
        return errors

    def facts(self) -> dict[str, Any]:
        """What identifies the generator."""
        return {
            "version": __version__,
            "dataset": self.dataset.name,
            "dataset_label": self.dataset.label,
            "fingerprint": self.dataset.fingerprint,
            "whitening": self.dataset.whitening,
            "architecture": "autoencoder",
            "channels": self.dataset.channels,
            "size": list(self.dataset.size),
            "seed": self.seed,
            "settings": dataclasses.asdict(self.settings),
            "device": self.dataset.train.labels.device.type,
            "precision": precision.chosen(),
        }


def _epoch(
    network: Autoencoder,
    optimizer: torch.optim.Optimizer,
    split: Split,
    settings: Settings,
    streams: dict[str, torch.Generator],
) -> torch.Tensor:
    """Train for one epoch on ``split``; return its mean loss."""
    feed, order = augmented(split, settings.augment), streams["order"]
    total = torch.zeros((), device=split.labels.device)
    for indices in feed.batches([order], settings.batch, 0):
        images = feed.batch(indices, [order], 0)[0]
        codes = precision.forward(network.encode, images)
        noise = torch.randn(codes.shape, generator=streams["noise"]).to(codes.device)
        decode = partial(network.decode, size=(images.shape[-2], images.shape[-1]))
        decoded = precision.forward(decode, codes + settings.noise * noise)
        loss = F.mse_loss(decoded, images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(images)
    return total / len(split)


@torch.no_grad()
def reconstruction(network: Autoencoder, dataset: Dataset) -> dict[str, float]:
    """How well ``network`` reconstructs the test images, in float32, as it decodes sets.

    Returns:
        ``mse_normalised``: mean squared error in normalised units, including the whitening in which
        the dataset was read; ``mse``: that of pixels in [0, 1]; ``psnr``: 10 log10(1 / mse), in dB;
        ``variance``: variance of the pixels about the mean test image, for comparison. It is the
        error of a network that returns the mean image for every image.
    """
    size, test = dataset.size, dataset.test
    # on the device in float64: looking at each piece would make the device wait
    sums = test.labels.new_zeros(2, dtype=torch.float64)
    first = test.labels.new_zeros((dataset.channels, *size), dtype=torch.float64)
    second = torch.zeros_like(first)

    def decoded(indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        images = test.take(indices)
        return images, network.decode(network.encode(images), size)

    device = test.labels.device
    each = torch.arange(len(test), device=device)
    for _, (images, again) in in_pieces(each, _piece(network, test.shape, device), decoded):
        pixels, shown = (dataset.to_pixels(x).double() for x in (images, again))
        sums[0] += (again - images).square().double().sum()
        sums[1] += (shown - pixels).square().sum()
        first += pixels.sum(0)
        second += pixels.square().sum(0)
        del images, again, pixels, shown  # before the next ones are made
    values = len(test) * first.numel()
    normalised, mse = (sums / values).tolist()
    variance = (second / len(test) - (first / len(test)).square()).mean().item()
    psnr = -10 * math.log10(max(mse, 1e-10))
    errors = {"mse_normalised": normalised, "mse": mse, "psnr": psnr, "variance": variance}
    return {name: float(f"{value:.5g}") for name, value in errors.items()}


def _piece(network: Autoencoder, shape: Shape, device: torch.device) -> int:
    """Images that are reconstructed in one pass."""
    if device.type == "cpu":
        return CPU_PIECE
    skeleton = on_meta(network)
    both = each_bytes(lambda images: skeleton.decode(skeleton.encode(images), shape[1:]), shape)
    return piece_of(both, device)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``python -m dd generator``."""
    need = parser.add_argument_group("what to train")
    need.add_argument("--data", required=True, type=Path, help="prepared dataset", metavar="FILE")
    need.add_argument("--out", required=True, type=Path, metavar="FILE", help="file to write")
    need.add_argument(
        "--whitening", default="none", help=f"space of the images, {' or '.join(WHITENINGS)}"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of all random numbers")
    add_checkpoint_option(parser)
    add_machine_options(parser)
    add_precision_option(parser)
    add_recipe_options(parser, declared(Settings))


def run(arguments: argparse.Namespace) -> None:
    """The stage: check everything, then train."""
    if arguments.whitening not in WHITENINGS:
        raise unknown("--whitening", arguments.whitening, WHITENINGS)
    check_out(arguments.out, ".safetensors", arguments.data)
    device = setup(arguments.device, arguments.threads, arguments.precision)
    dataset = load_dataset(arguments.data, device, arguments.whitening)
    own = given_settings(declared(Settings), vars(arguments))
    settings = build(
        Settings, recipes.resolve_training("generator", dataset.name, own), "generator"
    )
    limit = PATCH * PATCH * dataset.channels
    if settings.code >= limit:
        raise DDError(
            f"generator: code is {settings.code}, it must be below {limit}, the number of values "
            f"in {PATCH} x {PATCH} pixels: a code as large as the image is no prior"
        )
    training = Training(
        dataset, settings, arguments.seed, arguments.out, arguments.checkpoint_every
    )
    errors = or_anew("generator", training.run)
    say(
        f"generator: {len(settings.rates())} epochs, test images are reconstructed with "
        f"{errors['psnr']:.2f} dB (pixel MSE {errors['mse']:.3g}, variance "
        f"{errors['variance']:.3g}) on {dataset.label}; {arguments.out}"
    )
