"""Knowledge distillation at evaluation (Model Pool, arXiv:2402.13007, Eq. 1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from dd.config.methods import needs_teacher

VARIANTS = ("paper", "released")
# At this tau^2 and below, float32 rounds the factor of the KL term to 0 (half of its smallest
# number), and with it the term and its gradient. Logits / tau overflow only at a much smaller tau.
NO_WEIGHT = 2.0**-150


def divergence(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """KL(softmax(p) || softmax(q)) in nats, mean over the batch, from logits ``[B, K]``."""
    log_p, log_q = F.log_softmax(p, 1), F.log_softmax(q, 1)
    return (log_p.exp() * (log_p - log_q)).sum(1).mean()


def released_divergence(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """KL(softmax(student) || softmax(teacher)) as in the public code, see :func:`divergence`.

    It uses the student's probabilities, not their logarithms. Once one of them underflows to 0 (in
    float32 if logits are more than 103 apart), the gradient becomes NaN, and so does the network.
    This gives the 10 % at high temperatures in the published sweep.
    """
    return F.kl_div(F.log_softmax(teacher, 1), F.softmax(student, 1), reduction="batchmean")


def loss(
    student: torch.Tensor,
    teacher: torch.Tensor | None,
    labels: torch.Tensor,
    temperature: float,
    alpha: float,
    variant: str = "paper",
) -> torch.Tensor:
    """The loss of a student that learns from labels and from a teacher's logits.

    ``paper``: alpha tau^2 KL(teacher / tau || student / tau) + (1 - alpha) CE, Eq. 1 in the usual
    reading (Hinton et al. 2015, arXiv:1503.02531): the teacher's distribution is the target.
    ``released``: alpha tau^3 KL(student || teacher) + (1 - alpha) CE, the loss of the published
    sweep over temperatures. Here logits are not divided by the temperature, the KL is multiplied by
    it, and goes from the student to the teacher. (In the sweep tau falls by a factor of 0.9 per
    epoch.) At temperature 0 both are (1 - alpha) CE, their limit; so is ``paper`` where tau^2 is
    0 in float32 (:data:`NO_WEIGHT`).

    Args:
        student: logits ``[B, K]``; labels: ``[B]`` int64 or ``[B, K]`` probabilities.
        teacher: logits ``[B, K]``; may be None if it has no weight (``needs_teacher``).
        temperature: tau, at least 0; alpha: 0 to 1.
    """
    hard = (1 - alpha) * F.cross_entropy(student, labels)
    if not needs_teacher(temperature, alpha):
        return hard
    if variant == "paper" and temperature**2 <= NO_WEIGHT:
        return hard
    assert teacher is not None  # it has a weight
    if variant == "paper":
        soft = temperature**2 * divergence(teacher / temperature, student / temperature)
    else:
        soft = temperature**3 * released_divergence(student, teacher)
    return alpha * soft + hard
