"""What networks are called, with their options, and what is said of a wrong name."""

from __future__ import annotations

import math

import pytest

from dd.errors import DDError
from dd.networks.build import create
from dd.networks.options import canonical, parse


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("convnet", "convnet"),
        ("convnet:norm=instance", "convnet"),
        ("convnet:width=64,depth=1", "convnet:depth=1,width=64"),
        ("convnet:pooling=none,norm=none", "convnet:norm=none,pooling=none"),
        ("mlp:width=128", "mlp"),
        ("lenet", "lenet"),
    ],
)
def test_canonical_specs(spec, expected):
    assert canonical(spec) == expected
    assert canonical(expected) == expected


def test_parse_gives_typed_values():
    given = {"depth": 1, "norm": "batch"}
    assert parse("convnet:norm=batch,depth=1") == ("convnet", given)
    assert parse("resnet18") == ("resnet18", {})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("convnt", "did you mean 'convnet'"),
        ("", "unknown network ''"),
        ("convnet:", "should read key=value"),
        ("convnet:depth", "should read key=value"),
        ("convnet:depth=", "should read key=value"),
        ("convnet:dept=3", "did you mean 'depth'"),
        ("convnet:depth=three", "whole number from 1"),
        ("convnet:depth=0", "whole number from 1"),
        ("convnet:depth=-1", "whole number from 1"),
        ("convnet:depth=1.5", "whole number from 1"),
        ("convnet:depth=1,depth=2", "depth is given twice"),
        ("convnet:norm=bacth", "did you mean 'batch'"),
        ("lenet:width=3", "lenet has no options"),
        ("convnet:norm=group,width=30", "multiple of 4"),
        ("convnet:depth=40", "depth=40"),
        ("vit:heads=5", "width=192: must be a multiple of heads=5"),
        ("vit:patch=33", "patch=33: is larger than the images, which are 32 × 32"),
    ],
)
def test_bad_specs_get_one_clear_line(spec, message):
    with pytest.raises(DDError) as caught:
        create(spec, 3, (32, 32), 10, generator=None, device="meta")
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 0}, "channels is 0"),
        ({"size": (0, 32)}, "height is 0"),
        ({"size": (32, -1)}, "width is -1"),
        ({"classes": 0}, "classes is 0"),
        ({"width_factor": 0.0}, "width_factor is 0"),
        ({"width_factor": math.nan}, "width_factor is nan"),
    ],
)
def test_numbers_must_be_positive(change, message):
    arguments = {"channels": 3, "size": (32, 32), "classes": 10, "generator": None, **change}
    with pytest.raises(DDError, match=message):
        create("convnet", **arguments)
