"""DSA: every operation against a per-pixel loop, gradients, and how parameters are drawn."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from dd.data.augment import Transform, apply, check_strategy, draw
from dd.errors import DDError
from dd.rng import generator

OPERATIONS = ("color", "crop", "cutout", "flip", "scale", "rotate")
NATURAL = "color_crop_cutout_flip_scale_rotate"
SIZE = (7, 6)  # neither square nor even: mixed-up axes would show


def images(count=4, channels=3, size=SIZE):
    shape = (count, channels, *size)
    return torch.randn(shape, dtype=torch.float64, generator=generator(1, "images"))


def pixel(image, channel, row, column):
    height, width = len(image[0]), len(image[0][0])
    if 0 <= row < height and 0 <= column < width:
        return image[channel][row][column]
    return 0.0


def bilinear(image, channel, y, x):
    """Value at a real position in pixels, zeros outside."""
    top, left = math.floor(y), math.floor(x)
    fy, fx = y - top, x - left
    return (
        (1 - fy) * (1 - fx) * pixel(image, channel, top, left)
        + (1 - fy) * fx * pixel(image, channel, top, left + 1)
        + fy * (1 - fx) * pixel(image, channel, top + 1, left)
        + fy * fx * pixel(image, channel, top + 1, left + 1)
    )


def slow_affine(image, matrix):
    (a, b), (c, d) = matrix
    height, width = len(image[0]), len(image[0][0])

    def value(channel, row, column):
        # pixel centres lie at (2 i + 1) / size - 1 in [-1, 1]
        x, y = (2 * column + 1) / width - 1, (2 * row + 1) / height - 1
        at_x, at_y = a * x + b * y, c * x + d * y
        return bilinear(image, channel, ((at_y + 1) * height - 1) / 2, ((at_x + 1) * width - 1) / 2)

    return value


def slow_color(image, brightness, saturation, contrast):
    channels, height, width = len(image), len(image[0]), len(image[0][0])
    bright = [[[v + brightness for v in row] for row in plane] for plane in image]
    saturated = [[[0.0] * width for _ in range(height)] for _ in range(channels)]
    for row in range(height):
        for column in range(width):
            grey = sum(bright[c][row][column] for c in range(channels)) / channels
            for c in range(channels):
                saturated[c][row][column] = (bright[c][row][column] - grey) * saturation + grey
    values = [v for plane in saturated for row in plane for v in row]
    mean = sum(values) / len(values)
    return lambda c, row, column: (saturated[c][row][column] - mean) * contrast + mean


def slow_crop(image, down, right):
    return lambda c, row, column: pixel(image, c, row + down, column + right)


def slow_cutout(image, centre_row, centre_column):
    height, width = len(image[0]), len(image[0][0])

    def covered(side, centre):
        span = int(side * 0.5 + 0.5)
        return {min(max(centre - span // 2 + k, 0), side - 1) for k in range(span)}

    rows, columns = covered(height, centre_row), covered(width, centre_column)
    return lambda c, row, column: (
        0.0 if row in rows and column in columns else image[c][row][column]
    )


def slow_flip(image, uniform):
    width = len(image[0][0])
    return lambda c, row, column: image[c][row][width - 1 - column if uniform < 0.5 else column]


def slow_scale(image, across, down):
    return slow_affine(image, ((across, 0.0), (0.0, down)))


def slow_rotate(image, angle):
    cos, sin = math.cos(angle), math.sin(angle)
    return slow_affine(image, ((cos, -sin), (sin, cos)))


SLOW = {
    "color": slow_color,
    "crop": slow_crop,
    "cutout": slow_cutout,
    "flip": slow_flip,
    "scale": slow_scale,
    "rotate": slow_rotate,
}


def slowly(transform, batch):
    """The transform by plain loops over images, channels and pixels."""
    out = torch.empty_like(batch)
    parameters = [p.tolist() for p in transform.parameters]
    for n, image in enumerate(batch.tolist()):
        mine = [p[n if len(p) > 1 else 0] for p in parameters]
        value = SLOW[transform.operation](image, *mine)
        for c in range(batch.shape[1]):
            for row in range(batch.shape[2]):
                for column in range(batch.shape[3]):
                    out[n, c, row, column] = value(c, row, column)
    return out


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_operation_equals_plain_loop(operation, shared):
    batch = images()
    for round_ in range(8):
        transform = draw(operation, generator(round_, "draw"), len(batch), SIZE, shared)
        assert transform.operation == operation
        assert {len(p) for p in transform.parameters} == {1 if shared else len(batch)}
        torch.testing.assert_close(
            apply(transform, batch), slowly(transform, batch), rtol=1e-6, atol=1e-6
        )


@pytest.mark.parametrize("operation", OPERATIONS)
def test_gradient_by_finite_differences(operation):
    transform = draw(operation, generator(3), 2, (4, 5))
    batch = images(2, 2, (4, 5)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: apply(transform, x), batch)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_shared_transform_fits_any_batch_and_treats_images_alike(operation):
    batch = images(5)
    transform = draw(operation, generator(0), 5, SIZE, shared=True)
    together = apply(transform, batch)
    for n in range(5):
        torch.testing.assert_close(apply(transform, batch[n : n + 1]), together[n : n + 1])


@pytest.mark.parametrize("operation", OPERATIONS)
def test_input_is_left_alone_and_form_is_kept(operation):
    batch = images().float()
    before = batch.clone()
    result = apply(draw(operation, generator(0), len(batch), SIZE), batch)
    assert torch.equal(batch, before)
    assert (result.shape, result.dtype) == (batch.shape, batch.dtype)


def test_crop_and_cutout_by_hand():
    batch = torch.arange(1.0, 17.0).view(1, 1, 4, 4)
    crop = apply(Transform("crop", (torch.tensor([1]), torch.tensor([-2]))), batch)
    assert crop[0, 0].tolist() == [[0, 0, 5, 6], [0, 0, 9, 10], [0, 0, 13, 14], [0, 0, 0, 0]]
    # side 4: the hole has side 2; centre 0 clamps rows {-1, 0} to {0}, centre 4 gives {3}
    cutout = apply(Transform("cutout", (torch.tensor([0]), torch.tensor([4]))), batch)
    assert (cutout == 0).nonzero()[:, 2:].tolist() == [[0, 3]]
    cutout = apply(Transform("cutout", (torch.tensor([2]), torch.tensor([1]))), batch)
    assert (cutout == 0).nonzero()[:, 2:].tolist() == [[1, 0], [1, 1], [2, 0], [2, 1]]


def test_parameters_have_the_papers_ranges():
    count = 20000

    def drawn(name, size=(32, 28)):
        return draw(name, generator(0, name), count, size).parameters

    def spans(values, low, high, mean):
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < values.max() <= high
        assert values.double().mean() == pytest.approx(mean, abs=0.02 * (high - low))

    brightness, saturation, contrast = drawn("color")
    spans(brightness, -0.5, 0.5, 0)
    spans(saturation, 0, 2, 1)
    spans(contrast, 0.5, 1.5, 1)
    for side in drawn("scale"):
        spans(side, 1 / 1.2, 1.2, (1.2 + 1 / 1.2) / 2)
    spans(drawn("rotate")[0].rad2deg(), -15, 15, 0)
    spans(drawn("flip")[0], 0, 1, 0.5)
    down, right = drawn("crop")  # int(32 / 8 + .5) = 4, int(28 / 8 + .5) = 4
    for shift in (down, right):
        assert sorted(set(shift.tolist())) == list(range(-4, 5))
    row, column = drawn("cutout", (32, 10))  # holes of sides 16 and 5 (odd: one place fewer)
    assert sorted(set(row.tolist())) == list(range(33))
    assert sorted(set(column.tolist())) == list(range(10))


def test_flip_mirrors_about_half_of_the_images():
    batch = images(2000, 1, (1, 2))
    result = apply(draw("flip", generator(0), 2000, (1, 2)), batch)
    mirrored = (result == batch.flip(3)).all(dim=(1, 2, 3))
    assert torch.equal(result[~mirrored], batch[~mirrored])
    assert 900 < int(mirrored.sum()) < 1100


def test_operations_are_drawn_uniformly():
    stream = generator(0, "uniform")
    drawn = Counter(
        draw(NATURAL, stream, 1, SIZE).operation for _ in range(3000)
    )  # expected 500 each, standard deviation 20
    assert set(drawn) == set(OPERATIONS)
    assert all(400 < number < 600 for number in drawn.values())


def test_same_generator_same_draws():
    def sequence(seed):
        stream = generator(seed)
        return [draw(NATURAL, stream, 3, SIZE) for _ in range(20)]

    for one, other in zip(sequence(5), sequence(5), strict=True):
        assert one.operation == other.operation
        assert all(map(torch.equal, one.parameters, other.parameters))
    assert [t.operation for t in sequence(5)] != [t.operation for t in sequence(6)]


def test_global_random_state_is_untouched():
    before = torch.get_rng_state()
    apply(draw(NATURAL, generator(0), 4, SIZE), images())
    assert torch.equal(torch.get_rng_state(), before)


def test_none_is_the_identity():
    batch = images()
    stream = generator(0)
    assert apply(draw("none", stream, 4, SIZE), batch) is batch
    assert check_strategy("none") == ()


def test_strategies():
    assert check_strategy(NATURAL) == OPERATIONS
    assert check_strategy("dc:crop_scale_rotate") == ("crop", "scale", "rotate")


@pytest.mark.parametrize("strategy", ["color_corp", "", "color__crop", "color crop", "none_crop"])
def test_unknown_operation_is_named(strategy):
    with pytest.raises(DDError, match="unknown operation"):
        check_strategy(strategy)
