"""Label each view of a synthetic set with a frozen network. SRe2L's students learn from this.

A view is a random resized crop; it may be mirrored, and it may have a box from the view of another
image (CutMix). Views follow from --seed, so the file holds only their labels: 2 bytes per class and
view, or 4 per class kept and 2 more (--keep). Several teachers give the mean of their
probabilities. If it is killed and started again with the same options, it goes on from its last
checkpoint. Settings that are not given come from the recipe `relabel` for the dataset
(dd/config/recipes.yaml).
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dd.artifacts.atomic import check_out
from dd.artifacts.checkpoint import state_path
from dd.artifacts.fields import SECONDS, block, whole
from dd.artifacts.lock import alone
from dd.artifacts.provenance import stage_provenance
from dd.artifacts.resume_rows import load_progress, save_progress
from dd.artifacts.row_files import RowWriter
from dd.config import recipes
from dd.config.settings import add_recipe_options, build, declared, given_settings, setting
from dd.data.dataset import Dataset
from dd.data.views import Views, ViewSettings, draw
from dd.evaluate.set_options import add_set_options, read_set
from dd.evaluate.soft_labels import KIND, agreement, class_type, compact
from dd.networks.base import Network
from dd.networks.memory import test_piece
from dd.networks.options import width_factor
from dd.pretrain import frozen
from dd.pretrain.frozen import Pretrained
from dd.runtime import precision
from dd.runtime.memory import Fitting
from dd.runtime.preemption import Pace
from dd.runtime.process import (
    add_checkpoint_option,
    add_machine_options,
    add_precision_option,
    setup,
)
from dd.runtime.progress import Progress
from dd.runtime.say import say


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(ViewSettings):
    """Which views are labelled, and how much of their labels is kept."""

    views: int = setting(
        "views of each image; students see one per epoch, in turn", at_least=1, at_most=100_000
    )
    keep: int = setting(
        "most probable classes to keep; the others share the rest evenly; 0: keep all", at_least=0
    )


@torch.no_grad()
def soft_labels(teachers: Sequence[Network], images: Tensor) -> Tensor:
    """Logarithm of the teachers' mean probabilities ``[n, K]`` for ``images [n, C, H, W]``."""
    each = torch.stack([precision.forward(teacher, images).log_softmax(1) for teacher in teachers])
    return each.logsumexp(0) - math.log(len(teachers))


@dataclasses.dataclass
class LabelWriter:
    """Writes one file of labels.

    Attributes:
        images: ``[M, C, H, W]`` normalised, on the device.
        dataset: has the classes of the labels.
        synthetic: the file of the images.
        teachers: by spec.
        settings: see :class:`Settings`.
        seed: seed of the views.
        out: the file to write.
        every: seconds between checkpoints.
    """

    images: Tensor
    dataset: Dataset
    synthetic: Path
    teachers: dict[str, Pretrained]
    settings: Settings
    seed: int
    out: Path
    every: float

    @property
    def keep(self) -> int:
        """The number of classes to keep; 0 (all) also if the setting is not below their number."""
        return self.settings.keep if self.settings.keep < len(self.dataset.classes) else 0

    def run(self) -> None:
        """Label all views, from the last checkpoint if any."""
        started, pace = time.monotonic(), Pace(self.every)
        count, classes, views = len(self.images), len(self.dataset.classes), self.settings.views
        size, device = (self.images.shape[2], self.images.shape[3]), self.images.device
        shape = (views, count, self.keep + 1 if self.keep else classes)
        tensors = {"log_probabilities": (torch.float16, shape)}
        if self.keep:  # first in the file, so that all numbers are aligned to their size
            tensors = {"classes": (class_type(classes), (*shape[:2], self.keep)), **tensors}
        facts = self.facts()
        writer = RowWriter(self.out, KIND, 1, tensors, facts)
        kept = state_path(self.out)
        needed = block({"done": whole(1, views - 1), "seconds": SECONDS})

        def lost(at: Mapping[str, Any]) -> str:
            return writer.lost((view,) for view in range(at["done"]))

        at, earlier = load_progress("relabel", kept, facts, needed, lost)
        done, before = at.get("done", 0), at.get("seconds", 0.0)
        if done:
            say(f"relabel: going on after {done} views")
        networks = [teacher.network for teacher in self.teachers.values()]
        shape = (self.images.shape[1], *size)
        # beside a pass: the logarithms of all networks' probabilities
        piece = test_piece(device, shape, *networks, beside=8.0 * classes * len(networks))
        each, fitting = torch.arange(count, device=device), Fitting(piece, "images")
        with Progress("relabel", views, "views", initial=done) as progress:
            for view in range(done, views):
                drawn = draw(self.seed, view, count, size, self.settings).to(device)
                labelled = partial(self._label, networks, drawn)
                stored = [
                    compact(labels, self.keep) for _, labels in fitting.pieces(each, labelled)
                ]
                for name in tensors:
                    writer.put(name, (view,), torch.cat([part[name] for part in stored]))
                progress.update()
                if pace.due() and view + 1 < views:
                    writer.sync()
                    seconds = before + time.monotonic() - started
                    save_progress(kept, facts, {"done": view + 1, "seconds": seconds}, earlier)
                    pace.saved()
        made = stage_provenance(device, before + time.monotonic() - started, earlier)
        writer.finish(facts | {"provenance": made})
        kept.unlink(missing_ok=True)

    def _label(self, networks: Sequence[Network], view: Views, part: Tensor) -> Tensor:
        """Soft labels ``[n, K]`` of the images at ``part [n]``, as ``view`` shows them."""
        return soft_labels(networks, view.apply(self.images, part))

    def facts(self) -> dict[str, Any]:
        """What identifies the labels."""
        views = {f.name: getattr(self.settings, f.name) for f in dataclasses.fields(ViewSettings)}
        return {
            **agreement(self.dataset, self.synthetic),
            "dataset": self.dataset.name,
            "dataset_label": self.dataset.label,
            "seed": self.seed,
            "views": self.settings.views,
            "keep": self.keep,
            "settings": views,
            "teachers": [
                {"network": spec, **teacher.describe()} for spec, teacher in self.teachers.items()
            ],
            "device": self.images.device.type,
            "precision": precision.chosen(),
        }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``python -m dd relabel``."""
    need = parser.add_argument_group("what to label")
    add_set_options(need)
    need.add_argument(
        "--teacher",
        required=True,
        type=Path,
        nargs="+",
        metavar="FILE",
        help="networks of `python -m dd pretrain`",
    )
    need.add_argument("--out", required=True, type=Path, metavar="FILE", help="labels to write")
    need.add_argument(
        "--width-factor",
        type=width_factor,
        default=1.0,
        help="factor on the widths of the teachers",
    )
    need.add_argument("--seed", type=int, default=0, help="seed of the views")
    add_checkpoint_option(parser)
    add_machine_options(parser)
    add_precision_option(parser)
    add_recipe_options(parser, declared(Settings))


def run(arguments: argparse.Namespace) -> None:
    """The stage: check everything, then label."""
    read = (arguments.synthetic, arguments.data, *arguments.teacher)
    check_out(arguments.out, ".safetensors", *read)
    device = setup(arguments.device, arguments.threads, arguments.precision)
    made, dataset, _ = read_set("relabel", arguments, device)
    own = given_settings(declared(Settings), vars(arguments))
    settings = build(Settings, recipes.resolve_training("relabel", dataset.name, own), "relabel")
    fallback = recipes.fallback("relabel", dataset.name, ipc=1)  # the same for every IPC
    if fallback:
        say(f"relabel: {fallback.said('relabelling', dataset.name)}")
    teachers = frozen.load_all(arguments.teacher, dataset, arguments.width_factor, device)
    writer = LabelWriter(
        images=made.images_for(dataset).to(device),
        dataset=dataset,
        synthetic=arguments.synthetic,
        teachers=teachers,
        settings=settings,
        seed=arguments.seed,
        out=arguments.out,
        every=arguments.checkpoint_every,
    )
    with alone(writer.out):
        writer.run()
    names = ", ".join(f"{t.spec} ({t.accuracy:.2f} %)" for t in teachers.values())
    say(
        f"relabel: {settings.views} views of {len(made)} images by {names}, "
        f"{arguments.out.stat().st_size / 2**20:.1f} MiB; {arguments.out}"
    )
