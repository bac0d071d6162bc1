"""Train experts on real data and store their parameters after each epoch: expert trajectories.

It writes one shard: the trajectories of --experts networks; --first is the number of the first one.
Expert n of a seed is the same in every shard, so shards can be made in any order and on any
machine. If it is killed and started again with the same options, it goes on from its last
checkpoint. Settings that are not given come from the recipe `buffer` for the dataset
(dd/config/recipes.yaml).
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dd.artifacts.atomic import check_out
from dd.artifacts.checkpoint import or_anew
from dd.artifacts.fields import PERCENT, Field, block, list_of, whole
from dd.artifacts.lock import alone
from dd.artifacts.provenance import stage_provenance
from dd.config import recipes
from dd.config.settings import (
    MOST,
    add_recipe_options,
    at_most,
    build,
    declared,
    given_settings,
    setting,
)
from dd.data.dataset import Dataset, load_dataset
from dd.data.space import WHITENINGS
from dd.errors import DDError, unknown
from dd.networks.base import Network, count_parameters
from dd.networks.build import create
from dd.networks.options import canonical, width_factor
from dd.pretrain.agreement import agreement
from dd.pretrain.trajectories import STORED, ShardWriter, layout
from dd.rng import generator
from dd.runtime import precision
from dd.runtime.memory import in_pieces
from dd.runtime.process import (
    add_checkpoint_option,
    add_machine_options,
    add_precision_option,
    add_together_option,
    asked_together,
    setup,
)
from dd.runtime.progress import Progress
from dd.runtime.say import say
from dd.runtime.stacking import stacks
from dd.training.ensemble import Ensemble, ensemble
from dd.training.memory import networks_that_fit
from dd.training.recipe import Recipe
from dd.training.resume import Checkpoints, epochs
from dd.training.train import accuracy, augmented, check_losses, train_epoch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(Recipe):
    """How experts are trained and stored (MTT, arXiv:2203.11932, section 3.2)."""

    experts: int = setting("number of networks in the shard", at_least=1, at_most=10_000)
    stored: str = setting(
        "type of the stored parameters: float32, or bfloat16 with half the disk space",
        choices=tuple(STORED),
    )


@dataclasses.dataclass
class Buffer:
    """Makes one shard.

    Attributes:
        dataset: the data on which the experts are trained.
        network: canonical spec of their architecture.
        numbers: the numbers of the experts.
        settings: how they are trained.
        seed, width_factor: see ``python -m dd buffer --help``.
        out: the file of the shard.
        together: train the experts stacked, as many as fit; otherwise one after the other.
        every: seconds between checkpoints.
    """

    dataset: Dataset
    network: str
    numbers: list[int]
    settings: Settings
    seed: int
    width_factor: float
    out: Path
    together: bool
    every: float

    def run(self) -> list[float]:
        """Train all experts, from the last checkpoint if any; return test accuracies in percent.

        Raises:
            Unusable: if the checkpoint turns out not to fit.
        """
        job = Checkpoints("buffer", self.out, self.every)
        split, count = self.dataset.train.resident(), len(self.settings.rates())
        skeleton = self._expert(None, torch.device("meta"))
        facts = self.facts() | {"layout": layout(skeleton)}
        rows = (len(self.numbers), count + 1, count_parameters(skeleton))
        writer = ShardWriter(self.out, rows, self.settings.stored, facts)

        def written(at: Mapping[str, Any]) -> Iterator[tuple[int, int]]:
            finished = len(at["accuracies"])
            for row in range(finished + at["group"]):
                last = count if row < finished else at["epoch"]
                yield from ((row, epoch) for epoch in range(last + 1))

        own = _progress(count, len(self.numbers))
        job.resume(facts, writer, own=own, written=written, done="done", unit="expert-epochs")
        # A checkpoint holds the group that is being trained. The groups before it are done: their
        # rows are in the shard, and only their accuracies are still needed.
        accuracies: list[float] = job.at.setdefault("accuracies", [])
        done = job.at.setdefault("done", 0)
        left = list(range(len(accuracies), len(self.numbers)))
        begun = job.at["group"] if job.found else 0
        with Progress(
            "buffer", len(self.numbers) * count, "expert-epochs", initial=done
        ) as progress:

            def trained(group: Sequence[int]) -> list[float]:
                """Train the experts of some rows; their test accuracies in percent."""
                orders = {
                    str(n): generator(self.seed, "buffer", self.numbers[n], "order") for n in group
                }
                networks = [
                    self._expert(
                        generator(self.seed, "buffer", self.numbers[n], "weights"),
                        split.labels.device,
                    ).train()
                    for n in group
                ]
                experts = ensemble(networks)
                if not job.found:
                    job.at |= {"group": len(group), "done": len(accuracies) * count}
                    self._write(writer, group, 0, experts)
                feed = augmented(split, self.settings.augment)
                for epoch, optimizer in epochs(experts, self.settings, job, orders):
                    losses = train_epoch(
                        experts,
                        optimizer,
                        feed,
                        split.labels,
                        self.settings,
                        list(orders.values()),
                    )
                    loss = check_losses(losses, self.settings, epoch + 1)
                    self._write(writer, group, epoch + 1, experts)
                    job.at["done"] += len(group)
                    progress.update(len(group), loss=loss)
                experts.finish()
                test = self.dataset.test
                return [round(accuracy(network, test), 4) for network in networks]

            for part, size in (
                (left[:begun], begun),
                (left[begun:], self._side_by_side(skeleton, len(left))),
            ):
                for _, tested in in_pieces(part, size, trained, "experts"):
                    accuracies += tested
        entries = [
            {"number": number, "test_accuracy": tested}
            for number, tested in zip(self.numbers, accuracies, strict=True)
        ]
        made = stage_provenance(split.labels.device, job.seconds, job.continued_from)
        writer.finish(facts | {"experts": entries, "provenance": made})
        job.remove()
        return accuracies

    def _expert(self, stream: torch.Generator | None, device: torch.device) -> Network:
        shape = (self.dataset.channels, self.dataset.size, len(self.dataset.classes))
        return create(
            self.network, *shape, generator=stream, width_factor=self.width_factor, device=device
        )

    def _side_by_side(self, skeleton: Network, count: int) -> int:
        """How many of ``count`` experts are trained together."""
        if not self.together:
            return 1
        split = self.dataset.train
        return networks_that_fit(
            skeleton,
            split.shape,
            len(self.dataset.classes),
            self.settings,
            min(self.settings.batch, len(split)),
            max(1, count),
            split.labels.device,
            "experts",
        )

    def facts(self) -> dict[str, Any]:
        """What identifies the shard."""
        return {
            **agreement(self.dataset, self.width_factor),
            "dataset_label": self.dataset.label,
            "network": self.network,
            "seed": self.seed,
            "numbers": self.numbers,
            "settings": dataclasses.asdict(self.settings),
            "device": self.dataset.train.labels.device.type,
            "precision": precision.chosen(),
            "together": self.together,
        }

    def _write(
        self, writer: ShardWriter, group: Sequence[int], epoch: int, experts: Ensemble
    ) -> None:
        for row, parameters in zip(group, experts.flat().cpu(), strict=True):
            writer.write(row, epoch, parameters)


def _progress(epochs: int, experts: int) -> Field:
    """What a checkpoint says of ``experts`` experts, ``group`` of them in training."""

    def fits(at: Any) -> bool:
        finished, size = len(at["accuracies"]), at["group"]
        trained = finished * epochs + at["epoch"] * size
        return finished + size <= experts and at["done"] == trained

    own = block({"done": whole(0), "group": whole(1), "accuracies": list_of(PERCENT)})
    return Field(own.what, lambda at: own.fits(at) and fits(at))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``python -m dd buffer``."""
    need = parser.add_argument_group("what to train")
    need.add_argument("--data", required=True, type=Path, help="prepared dataset", metavar="FILE")
    need.add_argument("--out", required=True, type=Path, metavar="FILE", help="shard to write")
    need.add_argument(
        "--network", default="convnet", help="architecture, NAME or NAME:key=value,..."
    )
    need.add_argument(
        "--first",
        type=at_most("--first", MOST),
        default=0,
        help="number of the shard's first expert",
    )
    need.add_argument(
        "--whitening", default="none", help=f"space of the images, {' or '.join(WHITENINGS)}"
    )
    parser.add_argument(
        "--width-factor", type=width_factor, default=1.0, help="scales network widths"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of all experts")
    add_together_option(parser, "the experts of a shard")
    add_checkpoint_option(parser)
    add_machine_options(parser)
    add_precision_option(parser)
    add_recipe_options(parser, declared(Settings))


def run(arguments: argparse.Namespace) -> None:
    """The stage: check everything, then train."""
    if arguments.first < 0:
        raise DDError(f"--first is {arguments.first}, it must be at least 0")
    if arguments.whitening not in WHITENINGS:
        raise unknown("--whitening", arguments.whitening, WHITENINGS)
    network = canonical(arguments.network)
    check_out(arguments.out, ".safetensors", arguments.data)
    device = setup(arguments.device, arguments.threads, arguments.precision)
    dataset = load_dataset(arguments.data, device, arguments.whitening)
    own = given_settings(declared(Settings), vars(arguments))
    settings = build(Settings, recipes.resolve_training("buffer", dataset.name, own), "buffer")
    buffer = Buffer(
        dataset=dataset,
        network=network,
        numbers=list(range(arguments.first, arguments.first + settings.experts)),
        settings=settings,
        seed=arguments.seed,
        width_factor=arguments.width_factor,
        out=arguments.out,
        together=stacks(
            asked_together(arguments.together),
            device.type,
            min(settings.batch, len(dataset.train)),
            dataset.size,
        ),
        every=arguments.checkpoint_every,
    )
    with alone(buffer.out):
        tested = torch.tensor(or_anew("buffer", buffer.run))
    say(
        f"buffer: {len(tested)} experts of {network}, {len(settings.rates())} epochs, "
        f"test accuracy {tested.mean():.2f} % ({tested.min():.2f} to {tested.max():.2f}) "
        f"on {dataset.label}; {arguments.out}"
    )
