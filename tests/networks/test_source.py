"""Where a distillation's networks come from: all that may be drawn, and skeletons."""

from __future__ import annotations

import pytest
import torch

from dd.networks.build import create
from dd.networks.pool import PoolDefinition
from dd.networks.source import PoolSource, SingleSource
from dd.rng import generator

POOL = PoolDefinition("p", "mlp", 0.5, (("lenet", 0.25), ("convnet:norm=batch", 0.25)))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (SingleSource("convnet:norm=instance,depth=1", 1, (8, 8), 10), ["convnet:depth=1"]),
        (PoolSource(POOL, 1, (8, 8), 10), ["mlp", "lenet", "convnet:norm=batch"]),
    ],
)
def test_a_source_tells_all_that_it_may_draw(source, expected):
    assert source.specs() == expected
    stream = generator(0)
    assert {source.draw(n, stream)[0] for n in range(30)} == set(expected)


def test_a_skeleton_is_of_the_shape_drawn_and_in_training_mode():
    source = PoolSource(POOL, 1, (8, 8), 10, width_factor=0.25)
    for spec in source.specs():
        skeleton = source.skeleton(spec)
        expected = create(spec, 1, (8, 8), 10, generator=None, width_factor=0.25)
        assert [(n, p.shape) for n, p in skeleton.named_parameters()] == [
            (n, p.shape) for n, p in expected.named_parameters()
        ]
        skeleton.eval()  # as evaluation leaves a network
        assert source.skeleton(spec).training


def test_a_skeleton_does_not_disturb_what_is_drawn():
    """Asking for one draws nothing, and a draw fills its values anew."""
    sources = [SingleSource("convnet:depth=1", 1, (8, 8), 10) for _ in range(2)]
    stream = generator(3)
    before = stream.get_state()
    skeleton = sources[0].skeleton("convnet:depth=1")
    assert torch.equal(stream.get_state(), before)
    with torch.no_grad():
        for parameter in skeleton.parameters():
            parameter.fill_(7.0)
    (_, drawn), (_, expected) = (
        source.draw(0, s) for source, s in zip(sources, (stream, generator(3)), strict=True)
    )
    for ours, theirs in zip(drawn.parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours, theirs)
