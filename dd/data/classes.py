"""The names of classes, in the order in which published datasets and public codes number them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_DIGITS = tuple("0123456789")

NAMES: Mapping[str, Sequence[str]] = {
    "digits": _DIGITS,
    "svhn": _DIGITS,
    "mnist": (
        *("0 - zero", "1 - one", "2 - two", "3 - three", "4 - four"),
        *("5 - five", "6 - six", "7 - seven", "8 - eight", "9 - nine"),
    ),
    "fashion_mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    "cifar10": (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    ),
    "imagenette": (
        *("n01440764", "n02102040", "n02979186", "n03000684", "n03028079"),
        *("n03394916", "n03417042", "n03425413", "n03445777", "n03888257"),
    ),
    "imagewoof": (
        *("n02086240", "n02087394", "n02088364", "n02089973", "n02093754"),
        *("n02096294", "n02099601", "n02105641", "n02111889", "n02115641"),
    ),
}
"""By published dataset, as far as they are few: as torchvision has them; of subsets of ImageNet the
folders, whose order is that of ImageNet's own numbers."""

_IN_CODE: Mapping[tuple[str, str], Sequence[str]] = {
    # its numbers in ImageNet are 193, 182, 258, 162, 155, 167, 159, 273, 207, 229
    ("imagewoof", "mtt"): (
        *("n02096294", "n02093754", "n02111889", "n02088364", "n02086240"),
        *("n02089973", "n02087394", "n02115641", "n02099601", "n02105641"),
    ),
}


def order_in(dataset: str | None, code: str | None) -> Sequence[str] | None:
    """The classes of a published dataset as a method's public code numbers them; None if in the
    dataset's own order.

    Args:
        dataset: its name.
        code: the method: ``mtt`` (arXiv:2203.11932), whose code GLaD and DATM build on.
    """
    return _IN_CODE.get((dataset or "", code or ""))
