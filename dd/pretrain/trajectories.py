"""Expert trajectories on disk: the parameters of networks after every epoch of their training.

A shard is a safetensors file with one tensor ``trajectories`` [experts, epochs + 1, P]. It is
written row by row, and read row by row through a memory map; each row has a checksum. So neither
writer nor reader holds more than the snapshots that it needs at the time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dd.artifacts.fields import BLOCK, NAME, NUMBER, WHOLE, Field, block, list_of, whole
from dd.artifacts.headers import Fields, describe_tensors, read_header
from dd.artifacts.row_files import CODES, ROOM, RowReader, RowWriter
from dd.data.space import check_space
from dd.errors import DDError
from dd.pretrain.agreement import AGREE

STORED = {"float32": torch.float32, "bfloat16": torch.bfloat16}  # types of stored parameters
_FIELDS: Fields = {  # of every header
    "kind": NAME,
    "network": NAME,
    "layout": list_of(Field("a name and a shape", lambda value: isinstance(value, list))),
    "seed": WHOLE,
    "settings": BLOCK,
    "experts": list_of(block({"number": whole(0)})),
    "width_factor": NUMBER,
}
_CODES = {CODES[dtype] for dtype in STORED.values()}
_ROOM_EACH = 1 << 7  # bytes by which the header may grow for each expert until it is finished


def layout(network: nn.Module) -> list[tuple[str, list[int]]]:
    """Names and shapes of the parameters, in the order of a flat parameter vector."""
    return [(name, list(p.shape)) for name, p in network.named_parameters()]


class ShardWriter(RowWriter):
    """Writes a shard, see :class:`dd.artifacts.row_files.RowWriter`.

    Args:
        path: the shard to make.
        shape: (experts, epochs + 1, P).
        stored: a key of :data:`STORED`.
        facts: the header as long as rows are missing.
    """

    def __init__(
        self, path: Path, shape: tuple[int, int, int], stored: str, facts: Mapping[str, Any]
    ) -> None:
        tensors = {"trajectories": (STORED[stored], shape)}
        super().__init__(path, "trajectories", 2, tensors, facts, ROOM + _ROOM_EACH * shape[0])

    def write(self, expert: int, epoch: int, parameters: torch.Tensor) -> None:
        """Store ``parameters [P]`` of ``expert`` (its row in the shard) after ``epoch`` epochs."""
        self.put("trajectories", (expert, epoch), parameters)


@dataclass(frozen=True)
class Segment:
    """A piece of a trajectory: where a student starts and where it should arrive.

    Attributes:
        start, target: parameters ``[P]``, float32, on the device of the distillation.
        expert: number of the expert.
        epoch: number of epochs after which the segment starts.
    """

    start: torch.Tensor
    target: torch.Tensor
    expert: int
    epoch: int


class Trajectories:
    """The shards that a distillation reads: trajectories by network.

    Args:
        paths: the shards.
        facts: the values with which they must agree, for each key of :data:`AGREE`.
        device: the device of segments.

    Raises:
        DDError: if a file is not a shard, or if its dataset, whitening, width factor or code
            version differ from ``facts``; the message names both values.
    """

    def __init__(
        self, paths: Sequence[Path], facts: Mapping[str, Any], device: torch.device
    ) -> None:
        self.device = device
        self.shards: dict[str, list[_Shard]] = {}
        numbers: dict[tuple[str, int], Path] = {}
        for path in paths:
            shard = _Shard(path)
            check_space(path, shard.header)
            for key, name in AGREE.items():
                if shard.header.get(key) != facts[key]:
                    raise DDError(
                        f"{path}: {name} of the buffer is {shard.header.get(key)}, of this "
                        f"distillation {facts[key]}; make the buffer again (python -m dd buffer)"
                    )
            for number in shard.numbers:
                if (other := numbers.get((shard.network, number))) == path:
                    raise DDError(f"{path}: is given twice")
                if other:
                    raise DDError(f"{path}: holds expert {number}, as {other} does; give one")
                numbers[shard.network, number] = path
            self.shards.setdefault(shard.network, []).append(shard)
        for shards in self.shards.values():
            shards.sort(key=lambda shard: shard.numbers)

    def check(
        self,
        network: str,
        parameters: Sequence[tuple[str, list[int]]],
        experts: int,
        last: int,
    ) -> None:
        """Raise a :class:`DDError` unless ``network`` has enough trajectories.

        Args:
            network: its canonical spec.
            parameters: the layout that they must have.
            experts: least number of trajectories.
            last: least number of epochs.
        """
        if network not in self.shards:
            given = ", ".join(self.shards) or "none"
            raise DDError(
                f"--buffers: trajectories of {network} are needed, those given are of {given}"
            )
        for shard in self.shards[network]:
            wanted = [[name, list(shape)] for name, shape in parameters]
            if shard.header["layout"] != wanted:
                raise DDError(
                    f"{shard.path}: its parameters are not those of {network} here "
                    f"({shard.parameters} and {sum(torch.Size(s).numel() for _, s in parameters)})"
                )
            if shard.epochs < last:
                raise DDError(
                    f"{shard.path}: has {shard.epochs} epochs, but max_start_epoch and "
                    f"expert_epochs ask for {last}"
                )
        held = sum(shard.experts for shard in self.shards[network])
        if held < experts:
            raise DDError(
                f"--buffers: hold {held} experts of {network}, but the setting experts asks for "
                f"{experts}"
            )

    def segment(self, network: str, index: int, epoch: int, length: int) -> Segment:
        """The segment of ``length`` epochs from ``epoch`` on of the ``index``-th expert."""
        for shard in self.shards[network]:
            if index < shard.experts:
                return Segment(
                    shard.read(index, epoch).to(self.device),
                    shard.read(index, epoch + length).to(self.device),
                    shard.numbers[index],
                    epoch,
                )
            index -= shard.experts
        raise IndexError(index)

    def draw(
        self, network: str, experts: int, starts: int, length: int, generator: torch.Generator
    ) -> Segment:
        """Draw a segment of one of the first ``experts`` experts that starts after 0 to
        ``starts`` - 1 epochs."""
        index = int(torch.randint(experts, (), generator=generator))
        epoch = int(torch.randint(starts, (), generator=generator))
        return self.segment(network, index, epoch, length)

    def describe(self) -> dict[str, Any]:
        """The experts of each network, for provenance."""
        return {
            network: [shard.identity for shard in shards] for network, shards in self.shards.items()
        }


class _Shard:
    """An open shard."""

    def __init__(self, path: Path) -> None:
        self.path, self.header = path, read_header(path, _FIELDS)
        kind = self.header.get("kind")
        if kind not in (None, "trajectories"):
            raise DDError(
                f"{path}: is a {kind} file, one of trajectories is needed (python -m dd buffer)"
            )
        shape, precision = describe_tensors(path).get("trajectories", ([], ""))
        if not self.header.keys() >= _FIELDS.keys() or len(shape) != 3:
            raise DDError(f"{path}: is no file of trajectories (python -m dd buffer)")
        if precision not in _CODES:
            raise DDError(
                f"{path}: 'trajectories' is {precision}, it must be {' or '.join(sorted(_CODES))}"
            )
        if len(self.header["experts"]) != shape[0]:
            raise DDError(
                f"{path}: 'experts' in the header names {len(self.header['experts'])}, "
                f"'trajectories' has {shape[0]}"
            )
        self.experts, self.epochs, self.parameters = shape[0], shape[1] - 1, shape[2]
        self.network: str = self.header["network"]
        self.numbers = [entry["number"] for entry in self.header["experts"]]
        self.rows = RowReader(path, ("row", "epoch"))
        self.identity = {
            "experts": self.numbers,
            "seed": self.header["seed"],
            "settings": self.header["settings"],
            "precision": self.header.get("precision", "float32"),
            "digest": self.rows.digest(),
        }

    def read(self, expert: int, epoch: int) -> torch.Tensor:
        """Parameters ``[P]``, float32, of an expert (its row in the shard) after an epoch."""
        parameters = self.rows.read("trajectories", (expert, epoch)).float()
        if not parameters.isfinite().all():
            raise DDError(
                f"{self.path}: row {expert}, epoch {epoch} of 'trajectories' holds NaN or infinite "
                "values; make it again (python -m dd buffer)"
            )
        return parameters
