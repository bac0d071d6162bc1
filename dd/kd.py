"""Knowledge distillation at evaluation (Model Pool, arXiv:2402.13007, Eq. 1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

VARIANTS = ("paper", "released")


def divergence(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """KL(p_teacher || p_student), mean over the batch, from logits ``[B, K]``."""
    p, q = F.log_softmax(teacher, 1), F.log_softmax(student, 1)
    return (p.exp() * (p - q)).sum(1).mean()


def loss(
    student: torch.Tensor,
    teacher: torch.Tensor,
    labels: torch.Tensor,
    temperature: float,
    alpha: float,
    variant: str = "paper",
) -> torch.Tensor:
    """Loss of a student that learns from labels and from a teacher's logits.

    ``paper``: alpha tau^2 KL(teacher / tau || student / tau) + (1 - alpha) CE, Eq. 1 in the usual
    reading (Hinton et al. 2015, arXiv:1503.02531): the teacher's distribution is the target.
    ``released``: the logits are not divided by the temperature and the KL is multiplied by it,
    alpha tau^3 KL(teacher || student) + (1 - alpha) CE, which is what the public code computes.
    At temperature 0 both leave (1 - alpha) CE, their limit.

    Args:
        student, teacher: logits ``[B, K]``; labels: ``[B]`` int64 or ``[B, K]`` probabilities.
        temperature: tau, at least 0; alpha: 0 to 1.
    """
    hard = (1 - alpha) * F.cross_entropy(student, labels)
    if temperature == 0:
        return hard
    if variant == "paper":
        soft = temperature**2 * divergence(teacher / temperature, student / temperature)
    else:
        soft = temperature**3 * divergence(teacher, student)
    return alpha * soft + hard
