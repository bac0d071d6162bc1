"""The augmentation of DC's evaluation against plain loops and SciPy; strategies of all operations.

What the loops compute was read in DC's public code: each image gets one operation; crop and
rotation fill by the means of the batch as it was before, scale by 0.
"""

from collections import Counter

import pytest
import torch
from scipy import ndimage
from torchvision.transforms.functional import resized_crop

from dd.data.augment import apply, check_strategy, draw
from dd.data.dc_augment import OPERATIONS
from dd.errors import DDError
from dd.rng import generator

EVERY = "dc:crop_scale_rotate_noise"


def images(count=6, channels=2, size=(9, 9)):
    shape = (count, channels, *size)
    return torch.randn(shape, dtype=torch.float64, generator=generator(1, "images")) + 0.7


def slow_crop(image, means, down, right):
    """Cut from an image padded by 4 pixels of the means."""
    channels, height, width = image.shape
    padded = torch.empty(channels, height + 8, width + 8, dtype=image.dtype)
    for c in range(channels):
        padded[c] = means[c]
    padded[:, 4 : 4 + height, 4 : 4 + width] = image
    return padded[:, 4 + down : 4 + down + height, 4 + right : 4 + right + width]


def slow_scale(image, means, height, width):
    """Nearest pixels on a square of zeros, the middle of it."""
    channels, rows, columns = image.shape
    side = max(height, width, rows, columns)
    frame = torch.zeros(channels, side, side, dtype=image.dtype)
    top, left = (side - height) // 2, (side - width) // 2
    for i in range(height):
        for j in range(width):
            frame[:, top + i, left + j] = image[:, i * rows // height, j * columns // width]
    top, left = (side - rows) // 2, (side - columns) // 2
    return frame[:, top : top + rows, left : left + columns]


def slow_rotate(image, means, degrees):
    turned = ndimage.rotate(image.numpy(), degrees, axes=(-2, -1), cval=float(means.mean()))
    top, left = ((turned.shape[axis] - image.shape[axis]) // 2 for axis in (1, 2))
    rows, columns = image.shape[1:]
    return torch.from_numpy(turned[:, top : top + rows, left : left + columns])


def slow_noise(image, means, seed):
    stream = torch.Generator().manual_seed(seed)
    return image + 0.001 * torch.randn(image.shape, generator=stream)


SLOW = {"crop": slow_crop, "scale": slow_scale, "rotate": slow_rotate, "noise": slow_noise}


def slowly(transform, batch):
    means = torch.tensor([batch[:, c].mean() for c in range(batch.shape[1])])
    result = []
    for n, image in enumerate(batch):
        number = int(transform.chosen[n if len(transform.chosen) > 1 else 0])
        own = [int(p[n if len(p) > 1 else 0]) for p in transform.parameters[number]]
        result.append(SLOW[transform.operations[number]](image, means, *own))
    return torch.stack(result)


@pytest.mark.parametrize("size", [(9, 9), (28, 28), (32, 32)])
@pytest.mark.parametrize("strategy", [*(f"dc:{name}" for name in SLOW), EVERY])
def test_operations_equal_plain_loops(strategy, size):
    batch = images(size=size)
    for seed in range(12):
        transform = draw(strategy, generator(seed, "draw"), len(batch), size)
        torch.testing.assert_close(apply(transform, batch), slowly(transform, batch))


def test_rotation_at_every_angle():
    """-45 to 44 degrees, at sides whose difference from the rotated plane is odd and even."""
    for side in (1, 2, 8, 28):
        batch = images(90, 1, (side, side))
        means, degrees = batch.mean((0, 2, 3)), torch.arange(-45, 45)
        found = OPERATIONS["rotate"].apply(batch, means, degrees)
        for image, angle, turned in zip(batch, degrees, found, strict=True):
            torch.testing.assert_close(turned, slow_rotate(image, means, int(angle)))


def test_scale_to_every_side():
    for side in (8, 28):
        pairs = [(h, w) for h in range(6, 35, 3) for w in range(6, 35, 2)]
        batch = images(len(pairs), 1, (side, side))
        height, width = torch.tensor(pairs).unbind(1)
        found = OPERATIONS["scale"].apply(batch, batch.new_zeros(1), height, width)
        for image, pair, scaled in zip(batch, pairs, found, strict=True):
            assert torch.equal(scaled, slow_scale(image, None, *pair))


def test_sides_that_differ():
    """An image need not be square: each side has its own pixels."""
    batch = images(size=(7, 12))
    for seed in range(12):
        transform = draw("dc:crop_scale", generator(seed), len(batch), (7, 12))
        torch.testing.assert_close(apply(transform, batch), slowly(transform, batch))


def test_what_is_drawn():
    count = 20000

    def drawn(name, size=(28, 32)):
        return draw(f"dc:{name}", generator(0, name), count, size).parameters[0]

    for shift in drawn("crop"):
        assert Counter(shift.tolist()).keys() == set(range(-4, 4))
        assert shift.double().mean() == pytest.approx(-0.5, abs=0.05)
    height, width = drawn("scale")  # int(0.8 · 28) = 22 to int(1.2 · 28) = 33
    assert set(height.tolist()) == set(range(22, 34))
    assert set(width.tolist()) == set(range(25, 39))
    assert abs(torch.corrcoef(torch.stack([height, width]).double())[0, 1]) < 0.03
    (degrees,) = drawn("rotate")
    assert set(degrees.tolist()) == set(range(-45, 45))
    assert degrees.double().mean() == pytest.approx(-0.5, abs=0.6)


def test_noise_is_normal_and_each_pixels_own():
    batch = images(300, 3, (8, 8))
    noise = apply(draw("dc:noise", generator(0), 300, (8, 8)), batch) - batch
    assert noise.std() == pytest.approx(0.001, rel=0.02) and abs(noise.mean()) < 2e-5
    assert noise.flatten().unique().numel() > 57000  # of 57600: nothing is shared


def test_images_of_a_batch_get_different_operations():
    chosen = draw(EVERY, generator(0), 8000, (9, 9)).chosen
    assert all(1850 < n < 2150 for n in Counter(chosen.tolist()).values())  # 2000 expected, σ 39
    assert len(set(draw(EVERY, generator(3), 10, (9, 9)).chosen.tolist())) > 1


def test_the_same_generator_draws_the_same():
    def result(seed):
        return apply(draw(EVERY, generator(seed), 6, (9, 9)), images())

    before = torch.get_rng_state()
    assert torch.equal(result(4), result(4)) and not torch.equal(result(4), result(5))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", SLOW)
def test_gradient_by_finite_differences(name):
    transform = draw(f"dc:{name}", generator(3), 3, (5, 5))
    batch = images(3, 2, (5, 5)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: apply(transform, x), batch)


@pytest.mark.parametrize("strategy", [EVERY, "all:resized_color_flip"])
def test_form_is_kept_and_a_shared_draw_fits_any_batch(strategy):
    batch = images().float()
    before = batch.clone()
    result = apply(draw(strategy, generator(0), 6, (9, 9)), batch)
    assert torch.equal(batch, before) and (result.shape, result.dtype) == (batch.shape, batch.dtype)
    for seed in range(8):
        transform = draw(strategy, generator(seed), 6, (9, 9), shared=True)
        alike = batch[:1].expand(4, -1, -1, -1)  # whose mean is that of one
        one, four = apply(transform, batch[:1]), apply(transform, alike)
        torch.testing.assert_close(four, one.expand(4, -1, -1, -1), rtol=1e-5, atol=1e-6)


def test_all_operations_one_after_the_other():
    batch = images(40, 3, (12, 16))
    transform = draw("all:resized_flip", generator(0), 40, (12, 16))
    resized, flip = transform.steps
    found = apply(transform, batch)
    boxes, mirrored = resized.parameters[0].tolist(), flip.parameters[0] < 0.5
    assert 10 < mirrored.sum() < 30 and len(boxes) == 40
    for image, box, mirror, view in zip(batch, boxes, mirrored, found, strict=True):
        expected = resized_crop(image, *box, size=[12, 16], antialias=True)
        expected = expected.flip(2) if mirror else expected
        torch.testing.assert_close(view, expected, rtol=1e-5, atol=1e-6)


def test_a_resized_crop_has_at_least_8_percent_of_the_area():
    transform = draw("all:resized", generator(0), 5000, (64, 64))
    area = transform.steps[0].parameters[0][:, 2:].prod(1) / 64**2
    assert 0.075 < area.min() < 0.085 and area.max() == 1


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        ("dca:crop", "unknown family 'dca'.*did you mean 'dc'"),
        ("dc:crop_noize", "unknown operation 'noize'.*did you mean 'noise'"),
        ("dc:flip", "unknown operation 'flip'"),
        ("dc:", "unknown operation ''"),
        ("dc:none", "unknown operation 'none'"),
        ("all:resize", "did you mean 'resized'"),
        ("resized_flip", "unknown operation 'resized'"),
        (":crop", "unknown family ''"),
        ("all:dc:crop", "unknown family 'all:dc'"),
    ],
)
def test_what_is_no_strategy_is_named(strategy, words):
    with pytest.raises(DDError, match=f"augmentation '{strategy}': .*{words}"):
        check_strategy(strategy)


def test_operations_of_strategies():
    assert check_strategy("dc:crop_noise") == ("crop", "noise")
    assert check_strategy("all:resized_flip") == ("resized", "flip")
