"""Pixels as the optimised variables."""

from __future__ import annotations

import torch


class Pixels:
    """Synthetic images optimised directly, by SGD with momentum.

    Args:
        images: ``[M, C, H, W]`` start, normalised units; copied.
        labels: ``[M]`` int64, fixed.
        lr: learning rate of the images.
        momentum: its momentum.
    """

    def __init__(
        self, images: torch.Tensor, labels: torch.Tensor, lr: float, momentum: float
    ) -> None:
        self.labels = labels
        self._images = images.detach().clone().requires_grad_(True)
        self._optimizer = torch.optim.SGD([self._images], lr=lr, momentum=momentum)

    def images(self) -> torch.Tensor:
        """The images ``[M, C, H, W]`` as they are now, detached; not to be written to."""
        return self._images.detach()

    def update(self, gradient: torch.Tensor) -> None:
        """One optimiser step from ``gradient``, d loss / d images ``[M, C, H, W]``."""
        self._images.grad = gradient
        self._optimizer.step()

    def state(self) -> dict[str, torch.Tensor]:
        """What a checkpoint needs to go on exactly."""
        momentum = self._optimizer.state[self._images].get("momentum_buffer")
        return {"images": self.images()} | ({} if momentum is None else {"momentum": momentum})

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Take over what :meth:`state` returned."""
        self._images.data.copy_(state["images"])
        if "momentum" in state:
            buffer = state["momentum"].to(self._images.device)
            self._optimizer.state[self._images]["momentum_buffer"] = buffer
