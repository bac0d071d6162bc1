"""The plain side of the benchmark: loops in the style of the field's reference code.

This code is only for comparison: one class after the other, whole batches in one piece, a new
module in each iteration, loaders that fetch single images, one network after the other. It computes
the same as ``dd`` (``tests/project/test_benchmarks.py``). Both sides use the augmentation of the
suite (:mod:`dd.data.augment`).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import DataLoader, Dataset, TensorDataset

from dd.data import augment
from dd.data.dataset import Split

BATCH = 256


class ConvNet(nn.Module):
    """Three blocks of convolution 128, affine instance norm, ReLU, average pooling; 32 × 32."""

    def __init__(self, channels: int, classes: int, width: int = 128) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for inputs in (channels, width, width):
            blocks += [
                nn.Conv2d(inputs, width, kernel_size=3, padding=1),
                nn.GroupNorm(width, width, affine=True),
                nn.ReLU(),
                nn.AvgPool2d(kernel_size=2, stride=2),
            ]
        self.features = nn.Sequential(*blocks)
        self.classifier = nn.Linear(width * 4 * 4, classes)

    def embed(self, x: Tensor) -> Tensor:
        """``[N, C, 32, 32]`` to ``[N, F]``."""
        x = self.features(x)
        return x.view(x.size(0), -1)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.embed(x))


class SingleImages(Dataset):
    """Images of a split, normalised one at a time, as a torchvision transform does."""

    def __init__(self, split: Split) -> None:
        self.images, self.labels = split.images.cpu(), split.labels.cpu()
        self.mean, self.std = (v.cpu().view(-1, 1, 1) for v in (split.space.mean, split.space.std))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = (self.images[index].float() / 255 - self.mean) / self.std
        return image, self.labels[index]


class Plain:
    """Real data in memory as float32, and the loops over it.

    Args:
        train, test: splits of a dataset of 32 × 32 images, uint8, with labels on the device to
            work on.
        classes: number of classes.
        strategy: DSA operations for matching and training, or ``none``.
        lr_img: learning rate of the synthetic images.
        batch_real: real images per class and step.
    """

    def __init__(
        self,
        train: Split,
        test: Split,
        classes: int,
        strategy: str = "none",
        lr_img: float = 0.1,
        batch_real: int = 256,
    ) -> None:
        self.device = train.labels.device
        mean, std = (value.view(-1, 1, 1) for value in (train.space.mean, train.space.std))
        self.images = (train.images.to(self.device).float() / 255 - mean) / std
        self.labels, self.by_class = train.labels, train.by_class
        self.test = SingleImages(test)
        self.classes, self.strategy = classes, strategy
        self.lr_img, self.batch_real = lr_img, batch_real
        self.generator = torch.Generator().manual_seed(0)

    def network(self) -> ConvNet:
        """A new network, with torch's own initialisation."""
        return ConvNet(self.images.shape[1], self.classes).to(self.device)

    def synthetic(self, ipc: int) -> tuple[Tensor, torch.optim.Optimizer]:
        """Noise images ``[classes * ipc, C, H, W]`` that require grad, and their optimiser."""
        shape = (self.classes * ipc, *self.images.shape[1:])
        images = torch.randn(shape, generator=self.generator).to(self.device).requires_grad_(True)
        return images, torch.optim.SGD([images], lr=self.lr_img, momentum=0.5)

    def real(self, label: int) -> Tensor:
        """A random batch ``[B, C, H, W]`` of real images of a class."""
        members = self.by_class[label]
        chosen = torch.randperm(len(members), generator=self.generator)[: self.batch_real]
        return self.images[members[chosen].to(self.device)]

    def draw(self, count: int, shared: bool = False) -> augment.Drawn:
        """An augmentation for ``count`` images, one for each image or one for all."""
        size = tuple(self.images.shape[-2:])
        return augment.draw(self.strategy, self.generator, count, size, shared)

    def siamese(self, *batches: Tensor) -> list[Tensor]:
        """All batches with the same augmentation."""
        transform = self.draw(1, shared=True)
        return [augment.apply(transform, batch) for batch in batches]

    def dc(self, images: Tensor, optimizer: torch.optim.Optimizer, network: nn.Module) -> float:
        """One matching step of DC or DSA, class by class; returns the sum of the distances."""
        network.train()
        parameters = list(network.parameters())
        loss = torch.tensor(0.0, device=self.device)
        for label, own in enumerate(images.chunk(self.classes)):
            real, synthetic = self.siamese(self.real(label), own)
            loss = loss + match(network, parameters, real, synthetic, label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    def dm(self, images: Tensor, optimizer: torch.optim.Optimizer, network: ConvNet) -> float:
        """One iteration of DM, class by class; returns the sum of the distances."""
        network.train()
        for parameter in network.parameters():
            parameter.requires_grad = False
        loss = torch.tensor(0.0, device=self.device)
        for label, own in enumerate(images.chunk(self.classes)):
            real, synthetic = self.siamese(self.real(label), own)
            real_embedding = network.embed(real).detach()
            gap = real_embedding.mean(dim=0) - network.embed(synthetic).mean(dim=0)
            loss = loss + torch.sum(gap**2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    def mtt(
        self,
        images: Tensor,
        rate: Tensor,
        optimizers: tuple[torch.optim.Optimizer, torch.optim.Optimizer],
        network: nn.Module,
        start: Tensor,
        target: Tensor,
        steps: int,
    ) -> float:
        """One iteration of MTT; returns the matching loss.

        Args:
            images: the synthetic images; rate: the student's learning rate; both require grad.
            optimizers: that of the images and that of the rate.
            network: the architecture of the student.
            start, target: flat parameter vectors ``[P]`` of this architecture.
            steps: steps of the student, each on the whole synthetic set.
        """
        network.train()
        labels = torch.arange(self.classes, device=self.device)
        labels = labels.repeat_interleave(len(images) // self.classes)
        student = start.clone().requires_grad_(True)
        for _ in range(steps):
            order = torch.randperm(len(images), generator=self.generator).to(self.device)
            batch = augment.apply(self.draw(len(order)), images[order])
            output = functional_call(network, unflatten(student, network), (batch,))
            loss = F.cross_entropy(output, labels[order])
            (gradient,) = torch.autograd.grad(loss, student, create_graph=True)
            student = student - rate * gradient
        loss = F.mse_loss(student, target, reduction="sum")
        loss = loss / F.mse_loss(start, target, reduction="sum")
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        return loss.item()

    def real_loader(self) -> DataLoader:
        """The real training images in random order."""
        own = TensorDataset(self.images.cpu(), self.labels.cpu())
        return DataLoader(own, batch_size=BATCH, shuffle=True, num_workers=0)

    def loader(self, images: Tensor) -> DataLoader:
        """The synthetic set, whose images are sorted by class, in random order."""
        labels = torch.arange(self.classes).repeat_interleave(len(images) // self.classes)
        own = TensorDataset(images.detach().clone().cpu(), labels)
        return DataLoader(own, batch_size=BATCH, shuffle=True, num_workers=0)

    def train(
        self,
        network: nn.Module,
        loader: Iterable[list[Tensor]],
        optimizer: torch.optim.Optimizer,
        epochs: int,
    ) -> None:
        """Train for ``epochs``; add up loss and accuracy in each step, as reference code does."""
        network.train()
        for _ in range(epochs):
            loss_sum = right = 0.0
            for images, labels in loader:
                images, labels = images.to(self.device), labels.to(self.device)
                images = augment.apply(self.draw(len(images)), images)
                output = network(images)
                loss = F.cross_entropy(output, labels)
                loss_sum += loss.item() * len(labels)
                right += (output.argmax(1) == labels).sum().item()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    @torch.no_grad()
    def accuracy(self, network: nn.Module) -> float:
        """Percentage of the test split that is classified correctly."""
        network.eval()
        right = 0
        for images, labels in DataLoader(self.test, batch_size=BATCH, num_workers=0):
            output = network(images.to(self.device))
            right += (output.argmax(1) == labels.to(self.device)).sum().item()
        return 100.0 * right / len(self.test)


def unflatten(flat: Tensor, network: nn.Module) -> dict[str, Tensor]:
    """``flat [P]`` as the named parameters of ``network``."""
    named, position = {}, 0
    for name, parameter in network.named_parameters():
        size = parameter.numel()
        named[name] = flat[position : position + size].view(parameter.shape)
        position += size
    return named


def match(
    network: nn.Module,
    parameters: list[nn.Parameter],
    real: Tensor,
    synthetic: Tensor,
    label: int,
) -> Tensor:
    """Gradient distance of one class, differentiable with respect to ``synthetic``."""
    labels = torch.full((len(real),), label, device=real.device)
    loss = F.cross_entropy(network(real), labels)
    g_real = [g.detach().clone() for g in torch.autograd.grad(loss, parameters)]
    labels = torch.full((len(synthetic),), label, device=real.device)
    loss = F.cross_entropy(network(synthetic), labels)
    g_synthetic = torch.autograd.grad(loss, parameters, create_graph=True)
    total = torch.tensor(0.0, device=real.device)
    for a, b in zip(g_real, g_synthetic, strict=True):
        total = total + layer_distance(a, b)
    return total


def layer_distance(one: Tensor, other: Tensor) -> Tensor:
    """Sum of 1 - cosine over the output rows of two gradients; 0 for biases and norms."""
    if one.dim() == 4:
        one = one.reshape(one.shape[0], -1)
        other = other.reshape(other.shape[0], -1)
    elif one.dim() == 1:
        return torch.tensor(0.0, device=one.device)
    norms = torch.norm(one, dim=-1) * torch.norm(other, dim=-1)
    return torch.sum(1 - torch.sum(one * other, dim=-1) / (norms + 0.000001))
