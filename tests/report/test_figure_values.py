"""What figures show of the files that they read: tiles, ranks, weights, medians, metrics."""

from pathlib import Path

import numpy
import pytest
import torch

from dd.data import synthetic
from dd.data.synthetic import SyntheticSet
from dd.errors import DDError
from dd.networks.build import create
from dd.report.figures import difference, images, training_curves, weights
from dd.report.figures.bars import _offset
from dd.report.figures.images import joined, tiles
from dd.report.read.metrics import read_metric
from tests.support.figures import convnet


def test_tiles_show_true_pixels(tmp_path, digits):
    """Image n of class k is grey (k + n / 2) / 10: after normalisation and back it is tile k, n."""
    labels = torch.arange(10).repeat(2)
    grey = (labels + torch.arange(20) // 10 / 2).view(20, 1, 1, 1).expand(20, 1, 8, 8) / 10
    images = (grey - digits.space.mean) / digits.space.std
    path = tmp_path / "set.safetensors"
    synthetic.save(
        path, SyntheticSet(images.contiguous(), labels, digits.space.mean, digits.space.std)
    )
    shown, lacks = tiles(str(path), digits, 2)
    assert not lacks and shown.shape == (10, 2, 10, 10, 3)
    for k in range(10):
        for n in range(2):
            assert numpy.allclose(shown[k, n, 1:9, 1:9], (k + n / 2) / 10, atol=1e-5)
    assert (shown[:, :, 0] == 1).all() and (shown[:, :, :, -1] == 1).all()
    assert tiles(str(path), digits, 7)[0].shape == shown.shape  # it has no more
    assert numpy.array_equal(tiles(str(path), digits, 1)[0][:, 0], shown[:, 0])


def test_a_class_that_a_set_lacks_is_white(tmp_path, digits):
    """By learned labels, both images are of class 3."""
    labels = torch.zeros(2, 10)
    labels[:, 3] = 0.2
    labels[1, 0] = 0.1
    images = torch.zeros(2, 1, 8, 8)
    path = tmp_path / "set.safetensors"
    synthetic.save(path, SyntheticSet(images, labels, header={"labels": "targets"}))
    shown, lacks = tiles(str(path), digits, 2)
    assert lacks and shown.shape == (10, 2, 10, 10, 3)
    assert (shown[[0, 1, 2, 4, 5, 6, 7, 8, 9]] == 1).all()
    grey = digits.to_pixels(images)[0, 0].numpy()
    assert numpy.allclose(shown[3, :, 1:9, 1:9], grey[..., None], atol=1e-6)


def test_markers_stand_on_their_bars():
    # four bars of a group 0.8 wide: each 0.2, centred at -0.3, -0.1, 0.1, 0.3
    assert [round(_offset(i, 4), 6) for i in range(4)] == [-0.3, -0.1, 0.1, 0.3]
    assert _offset(0, 1) == 0


def test_joined_tiles_stand_in_their_places():
    shades = torch.arange(6).view(2, 3, 1, 1, 1).expand(2, 3, 4, 5, 3).numpy()
    picture = joined(shades)
    assert picture.shape == (8, 15, 3)
    assert [int(picture[4 * r, 5 * c, 0]) for r in range(2) for c in range(3)] == list(range(6))
    assert (picture[4:, 5:10] == 4).all()


@pytest.mark.parametrize(
    ("classes", "count", "stacked", "inches"),
    [
        (10, 10, False, 6.0 / 30),  # 10 rows for all three exhibits, 30 columns in 6 inches
        (3, 10, True, 4.5 / 9),  # 9 rows in 4.5 inches
        (3, 5, False, 6.0 / 15),  # under each other 0.5: not much larger
    ],
)
def test_grids_are_arranged_to_be_large(classes, count, stacked, inches):
    rows = {name: numpy.zeros((classes, count, 8, 8, 3)) for name in ("a", "b", "c")}
    assert images._arrangement(rows) == (stacked, pytest.approx(inches))


def test_ranks_by_hand():
    share, values = difference.ranked(numpy.array([3.0, 1.0, 2.0, 4.0]))
    assert share.tolist() == [25, 50, 75, 100] and values.tolist() == [4, 3, 2, 1]
    share, values = difference.ranked(numpy.arange(1001.0), points=5)  # ranks 0, 250, ..., 1000
    assert values.tolist() == [1000, 750, 500, 250, 0]
    assert share == pytest.approx([100 * k / 1001 for k in (1, 251, 501, 751, 1001)])
    assert difference.rms(numpy.array([3.0, 4.0])) == pytest.approx(12.5**0.5)


def test_tensors_have_names_in_the_order_of_the_vector():
    network = convnet(0.125)  # one block of 16 channels; 8 x 8 images have a 4 x 4 map after it
    assert weights.tensors(network) == [
        ("conv weight", 16 * 9), ("conv bias", 16), ("norm weight", 16), ("norm bias", 16),
        ("linear weight", network.classifier.weight.numel()), ("linear bias", 10),
    ]  # fmt: skip
    deep = create("convnet", 3, (32, 32), 10, generator=None, width_factor=0.1)
    named = weights.tensors(deep)
    assert [count for _, count in named] == [p.numel() for p in deep.parameters()]
    assert named[6][0] == "norm 2 weight" and len({name for name, _ in named}) == 14


def weighted_set(path: Path, vectors: dict[str, torch.Tensor], **header) -> str:
    header = {"classes": list("0123456789"), "width_factor": 0.125} | header
    made = SyntheticSet(torch.zeros(10, 1, 8, 8), torch.arange(10), extras=vectors, header=header)
    synthetic.save(path, made)
    return str(path)


def test_weights_are_split_by_tensor_and_joined_by_seed(tmp_path):
    sizes = [p.numel() for p in convnet(0.125).parameters()]
    one = torch.arange(sum(sizes)).float()
    paths = [
        weighted_set(tmp_path / f"{n}.safetensors", {"importance.convnet": one + n}) for n in (0, 1)
    ]
    found = weights.pooled(paths)
    start = sizes[0]
    expected = [*range(start, start + 16), *range(start + 1, start + 17)]
    assert found["conv bias"].tolist() == expected
    assert sum(map(len, found.values())) == 2 * sum(sizes)


@pytest.mark.parametrize(
    ("vectors", "header", "message"),
    [
        ({}, {}, "has no 'importance.<network>', which sets of iadd with learned weights have"),
        ({"importance.convnet": [1.0, 2.0]}, {}, "has 2 weights, convnet has"),
        ({"importance.convnet": [1.0, float("nan")]}, {}, "must be finite numbers [P]"),
        ({"importance.convnet": [[1.0]]}, {}, "must be finite numbers [P]"),
        ({"importance.convnet": [1.0], "importance.mlp": [1.0]}, {}, "has weights of 2 networks"),
        ({"importance.convnt": [1.0]}, {}, "unknown network 'convnt'"),
    ],
)
def test_weights_that_cannot_be_shown(tmp_path, vectors, header, message):
    tensors = {name: torch.tensor(values) for name, values in vectors.items()}
    path = weighted_set(tmp_path / "set.safetensors", tensors, **header)
    with pytest.raises(DDError) as error:
        weights.pooled([path])
    assert message in str(error.value) and str(error.value).count("\n") == 0


def test_running_median_by_hand():
    one, two = numpy.array([1.0, 9.0, 2.0, 8.0, 3.0]), numpy.array([5.0, 5.0, 5.0, 5.0, 5.0])
    # windows [1 9], [1 9 2], [9 2 8], [2 8 3], [8 3]
    assert training_curves.running_median([one], 3).tolist() == [5, 2, 8, 3, 5.5]
    assert training_curves.running_median([one, two], 3).tolist() == [5, 5, 5, 5, 5]
    assert [training_curves.width(n) for n in (60, 600, 5000)] == [5, 13, 101]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ('{"loss": 1}\n', "has 1 iterations, 2 are needed"),
        ('{"loss": 1}\n{"loss": NaN}\n', "line 2 has no finite 'loss'"),
        ('{"loss": 1}\n{"los', "line 2 has no finite 'loss'"),
        ('{"loss": 1}\n[]\n', "line 2 has no finite 'loss'"),
    ],
)
def test_bad_metrics(tmp_path, content, message):
    path = tmp_path / "metrics.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DDError, match=message) as error:
        read_metric(str(path), "loss", 2)
    assert str(path) in str(error.value)
