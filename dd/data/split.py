"""Draw a test split of images that come in groups; no group may be in both splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

import torch

from dd.errors import DDError


def stratified_groups(
    labels: Sequence[int],
    groups: Sequence[Hashable],
    classes: Sequence[str],
    share: float,
    generator: torch.Generator,
) -> list[bool]:
    """Choose whole groups for the test split, about ``share`` of each class.

    Groups are visited in random order. A group is chosen if that brings the classes nearer to
    their shares (the sum of (images chosen / images − share)² over classes falls) and leaves
    training images of each class. Then each class without a test image takes the group that
    increases this sum least. If every image is its own group, a class of n images gets n · share
    test images, rounded, but at least 1.

    Args:
        labels: [N] class of each image, 0 to K − 1; every class occurs.
        groups: [N] group of each image.
        classes: K names, for messages.
        share: above 0 and below 1.
        generator: draws the order of the groups.

    Returns:
        [N] whether the image is in the test split; each class is in both splits.

    Raises:
        DDError: if the groups leave a class without test or training images.
    """
    counts: dict[Hashable, Counter[int]] = {}
    for label, group in zip(labels, groups, strict=True):
        counts.setdefault(group, Counter())[label] += 1
    total, chosen = Counter(labels), Counter[int]()
    _check_divisible(counts, total, classes)
    names = list(counts)
    order = [names[k] for k in torch.randperm(len(names), generator=generator).tolist()]

    def gain(group: Hashable) -> float:
        """By how much the sum of squares falls if the group is chosen."""
        return sum(
            (chosen[k] / total[k] - share) ** 2 - ((chosen[k] + n) / total[k] - share) ** 2
            for k, n in counts[group].items()
        )

    def spared(group: Hashable) -> bool:
        """Whether every class of the group keeps training images if the group is chosen."""
        return all(chosen[k] + n < total[k] for k, n in counts[group].items())

    tested: set[Hashable] = set()

    def choose(group: Hashable) -> None:
        tested.add(group)
        chosen.update(counts[group])

    for group in order:
        if gain(group) > 0 and spared(group):
            choose(group)
    for label, name in enumerate(classes):
        if chosen[label]:
            continue
        possible = [group for group in order if counts[group][label] and spared(group)]
        if not possible:
            raise DDError(
                f"class '{name}' gets no test image: each of its groups holds all training images "
                "left of some class; use smaller groups or another --split-seed"
            )
        choose(max(possible, key=gain))
    return [group in tested for group in groups]


def _check_divisible(
    counts: Mapping[Hashable, Counter[int]], total: Counter[int], classes: Sequence[str]
) -> None:
    """Raise a :class:`DDError` for a class whose images are all in one group."""
    for group, by_class in counts.items():
        for label, number in by_class.items():
            if number == total[label]:
                reason = f"all its images are in the group '{group}'"
                if number == 1:
                    reason = "it has a single image"
                raise DDError(
                    f"class '{classes[label]}' cannot be in both splits: {reason}; add images or "
                    "drop it"
                )
