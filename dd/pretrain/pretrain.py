"""Train one network on real data and freeze it: SRe2L's squeeze, MetaDD's auxiliary networks.

It measures the test accuracy after the last epoch; nothing is selected on test data. If it is
killed and started again with the same options, it goes on from its last checkpoint. With --weights
nothing is trained: the given weights are checked, tested and written in the same format. Settings
that are not given come from the recipe `pretrain` for the network and the dataset
(dd/config/recipes.yaml).
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import torch

from dd.artifacts.atomic import check_out, check_safetensors
from dd.artifacts.checkpoint import or_anew
from dd.artifacts.fields import NAME
from dd.artifacts.provenance import stage_provenance
from dd.artifacts.tensors import load_tensors
from dd.config import recipes
from dd.config.settings import add_recipe_options, build, declared, given_settings, setting
from dd.data.dataset import Dataset, Split, load_dataset
from dd.data.space import WHITENINGS
from dd.errors import DDError
from dd.networks.base import Network
from dd.networks.build import create
from dd.networks.options import canonical, width_factor
from dd.pretrain import frozen
from dd.pretrain.agreement import agreement, warning
from dd.rng import generator
from dd.runtime import precision
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
from dd.training.train import accuracy, augmented, check_losses, train_epoch

TRAIN_SAMPLE = 10_000  # training accuracy is measured on at most this many training images


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(Recipe):
    """How a network is trained, and the accuracy that it should reach."""

    least_accuracy: float = setting(
        "test accuracy in percent; tables warn if they use a network below it; 0: no warning",
        at_least=0,
        at_most=100,
    )


def train(
    network: Network,
    dataset: Dataset,
    settings: Settings,
    seed: int,
    job: Checkpoints,
) -> None:
    """Train ``network`` in place, from the last checkpoint if any; leave it in evaluation mode.

    Args:
        network: newly initialised, on the device of ``dataset``.
        dataset: its training split is used.
        settings: how the network is trained.
        seed: seed of the order of the images and of their augmentation.
        job: its checkpoints.

    Raises:
        DDError: if the loss becomes NaN or infinite.
    """
    split = dataset.train.resident()
    feed = augmented(split, settings.augment)
    student = ensemble([network.train()])
    streams = {"order": generator(seed, "pretrain", "order")}
    total, first = len(settings.rates()), job.at.get("epoch", 0)
    with Progress("pretrain", total, "epochs", initial=first) as progress:
        for epoch, optimizer in epochs(student, settings, job, streams):
            order = list(streams.values())
            losses = train_epoch(student, optimizer, feed, split.labels, settings, order)
            progress.update(loss=check_losses(losses, settings, epoch + 1))
    student.finish()
    if not all(tensor.isfinite().all() for tensor in network.state_dict().values()):
        raise DDError(
            f"training diverged: its last step left NaN or infinite values, at learning rate "
            f"{settings.lr}; use a smaller one"
        )


def give(network: Network, spec: str, path: Path) -> None:
    """Load the weights in ``path`` into ``network`` and put it in evaluation mode.

    Args:
        network: the network.
        spec: its canonical spec.
        path: a safetensors file: a plain state dict, or a file that this stage wrote.

    Raises:
        DDError: if the file is missing, broken, or does not hold the weights of this network.
    """
    tensors, header = load_tensors(path, frozen.KIND, fields={"network": NAME})
    if header.get("network", spec) != spec:
        raise DDError(f"--weights: {path} holds a {header['network']}, --network is {spec}")
    frozen.take_weights(network, tensors, path, spec)
    network.eval()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``python -m dd pretrain``."""
    need = parser.add_argument_group("what to train")
    need.add_argument("--data", required=True, type=Path, help="prepared dataset", metavar="FILE")
    need.add_argument("--out", required=True, type=Path, metavar="FILE", help="file to write")
    need.add_argument(
        "--network", required=True, help="architecture, NAME or NAME:key=value,...", metavar="SPEC"
    )
    need.add_argument("--whitening", default="none", choices=WHITENINGS, help="space of the images")
    need.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="safetensors file of a state dict to use instead of training, without settings of "
        "training; the network must expect images in the units of the prepared dataset "
        "(default: none)",
    )
    parser.add_argument(
        "--width-factor", type=width_factor, default=1.0, help="scales network widths"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of weights, order and augmentation"
    )
    add_checkpoint_option(parser)
    add_machine_options(parser)
    add_precision_option(parser)
    add_recipe_options(parser, declared(Settings))


def run(arguments: argparse.Namespace) -> None:
    """The stage: check everything, then train, measure and write."""
    out, seed = arguments.out, arguments.seed
    if arguments.weights:
        check_safetensors("--weights", arguments.weights)
    spec = canonical(arguments.network)
    check_out(out, ".safetensors", arguments.data, arguments.weights)
    device = setup(arguments.device, arguments.threads, arguments.precision)
    dataset = load_dataset(arguments.data, device, arguments.whitening)
    own = given_settings(declared(Settings), vars(arguments))
    if arguments.weights and (unused := own.keys() - {recipes.ASKED_OF_WEIGHTS}):
        name = min(unused).replace("_", "-")
        raise DDError(f"--{name}: nothing is trained with --weights; leave it out")
    settings = build(
        Settings, recipes.resolve_training("pretrain", dataset.name, own, spec), "pretrain"
    )
    shape = (dataset.channels, dataset.size, len(dataset.classes))
    scale = {"width_factor": arguments.width_factor, "device": device}
    facts = {
        **agreement(dataset, arguments.width_factor),
        "dataset_label": dataset.label,
        "network": spec,
        "origin": "given" if arguments.weights else "trained",
        "seed": None if arguments.weights else seed,
        "settings": {} if arguments.weights else dataclasses.asdict(settings),
        "device": device.type,
        "precision": precision.chosen(),
    }

    def trained() -> tuple[Network, Checkpoints]:
        made = create(spec, *shape, generator=generator(seed, "pretrain", "weights"), **scale)
        job = Checkpoints("pretrain", out, arguments.checkpoint_every)
        job.resume(facts)
        train(made, dataset, settings, seed, job)
        return made, job

    if arguments.weights:
        network = create(spec, *shape, generator=None, **scale)
        give(network, spec, arguments.weights)
        seconds, before = 0.0, []
    else:
        network, job = or_anew("pretrain", trained)
        # of the training only, without the measurements below
        seconds, before = job.seconds, job.continued_from
    tested = round(accuracy(network, dataset.test), 4)
    facts |= {
        "accuracy": tested,
        "train_accuracy": round(accuracy(network, _sample(dataset.train, seed)), 4),
        "least_accuracy": settings.least_accuracy,
        "provenance": stage_provenance(device, seconds, before),
    }
    frozen.save(out, network, facts)
    if not arguments.weights:
        job.remove()
    if weak := warning(facts, dataset.label):
        say(f"pretrain: {weak}")
    say(
        f"pretrain: {spec} {facts['origin']}, test accuracy {tested:.2f} % on {dataset.label}; "
        f"{out}"
    )


def _sample(split: Split, seed: int) -> Split:
    """At most :data:`TRAIN_SAMPLE` random images of ``split``."""
    stream = generator(seed, "pretrain", "sample")
    chosen = torch.randperm(len(split), generator=stream)[:TRAIN_SAMPLE].to(split.labels.device)
    images, labels = split.images[chosen], split.labels[chosen]
    return dataclasses.replace(split, images=images, labels=labels, by_class=[])
