"""Numbers that public code gave once, for tensors that a seed makes.

They stand beside the tests that compute the same things independently. Each group names the
repository and the commit whose code gave its numbers, run in float64. Where the code reads a random
number, it was handed the one written here. A large tensor is told by one number: its product,
summed up, with normal numbers of seed 99.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dd.data import augment, zca
from dd.distill.gradients import distance, match_apart, match_together
from dd.distill.objectives.dm import mean_distance
from dd.distill.objectives.mtt import TrajectoryMatching
from dd.distill.objectives.sre2l import watched
from dd.distill.student import Student
from dd.evaluate import kd, soft_labels
from dd.networks.build import create
from dd.pretrain.trajectories import Segment
from dd.training.train import train
from tests.support.training import recipe

# Both logits and losses of the two implementations differ by rounding alone, below 1e-12 of them.
CLOSE = {"rel": 1e-9, "abs": 1e-10}


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(seed, *shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def told(tensor):
    return (tensor.detach() * normal(99, *tensor.shape)).sum().item()


def seeded(spec, channels=3, size=(32, 32), classes=10, seed=1):
    """A network in float64 whose parameters follow from the seed, in their order: weights normal
    with deviation 1 / √fan_in, biases with 0.1, those of norms too, about 0 or (scales) 1."""
    network = create(spec, channels, size, classes, generator=None).double()
    stream = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in network.modules():
            for name, parameter in layer.named_parameters(recurse=False):
                drawn = torch.randn(parameter.shape, generator=stream, dtype=torch.float64)
                if name == "bias":
                    parameter.copy_(0.1 * drawn)
                elif isinstance(layer, nn.Conv2d | nn.Linear):
                    parameter.copy_(drawn / math.sqrt(parameter[0].numel()))
                else:
                    parameter.copy_(1 + 0.1 * drawn)
            if isinstance(layer, nn.BatchNorm2d):
                layer.reset_running_stats()
    return network


def small(norm="instance"):
    return seeded(f"convnet:depth=2,norm={norm},width=8", size=(16, 16), classes=3, seed=2)


# --- VICO-UoE/DatasetCondensation 53f63a6: networks.py

LOGITS = {
    "convnet": 0.5567939495738717,
    "convnet:norm=batch": -0.1801756221983668,
    "convnet:norm=layer": -0.6315081557683102,
    "convnet:norm=group": 0.5440962752748058,
    "convnet:activation=swish,pooling=max": 1.744279112669525,
    "convnet:activation=leakyrelu,depth=2,norm=none,pooling=none": -1.653692180601513,
    "convnet:activation=sigmoid,depth=1": 4.201258814027273,
    "mlp": 0.9202856544973469,
    "lenet": 3.533291087088726,
    "alexnet": -1.529548093193163,
    "vgg11": 5.027753092234505,
    "vgg11_bn": 8.930214271978679,
    "resnet18": -1.2558492383117672,
    "resnet18_bn": -1.0568182325760955,
    "resnet18_ap": -1.069041141142099,
}
LOGITS_OF_DIGITS = {
    "convnet": -2.020036983244493,
    "mlp": 1.0565100526703302,
    "lenet": -1.2028540302498048,
    "alexnet": -0.323490962260505,
    "vgg11": 8.822216005318696,
}


@pytest.mark.parametrize("spec", LOGITS)
def test_logits(spec):
    logits = seeded(spec)(normal(0, 2, 3, 32, 32))
    assert told(logits) == pytest.approx(LOGITS[spec], **CLOSE)


@pytest.mark.parametrize("spec", LOGITS_OF_DIGITS)
def test_logits_of_one_channel_and_28_pixels(spec):
    logits = seeded(spec, 1, (28, 28))(normal(0, 2, 1, 28, 28))
    assert told(logits) == pytest.approx(LOGITS_OF_DIGITS[spec], **CLOSE)


# --- VICO-UoE/DatasetCondensation 53f63a6: match_loss of utils.py, losses of main.py and main_DM.py


@pytest.mark.parametrize(
    ("scale", "expected"), [(1.0, 13.332676099931867), (1e-3, 13.333090275967468)]
)
def test_gradient_distance(scale, expected):
    shapes = [(4, 3, 3, 3), (4,), (6, 2, 2), (5, 8)]
    real = [normal(10 + i, *shape) for i, shape in enumerate(shapes)]
    synthetic = [scale * normal(20 + i, *shape) for i, shape in enumerate(shapes)]
    assert distance(real, synthetic).item() == pytest.approx(expected, **CLOSE)


@pytest.mark.parametrize("match", [match_apart, match_together])
def test_gradient_matching(match):
    real, synthetic = normal(3, 3, 5, 3, 16, 16), normal(4, 3, 2, 3, 16, 16)
    loss, gradient = match(small(), real, synthetic)
    gradient = torch.stack(list(gradient))
    assert loss.item() == pytest.approx(41.017497126532675, **CLOSE)
    assert told(gradient) == pytest.approx(2.171266652973768, **CLOSE)


def test_distribution_matching():
    real, synthetic = normal(3, 3, 5, 3, 16, 16), normal(4, 3, 2, 3, 16, 16).requires_grad_()
    network = small()
    embedded = [network.embed(x.flatten(0, 1)).unflatten(0, x.shape[:2]) for x in (real, synthetic)]
    loss = mean_distance(*embedded)
    (gradient,) = torch.autograd.grad(loss, synthetic)
    assert loss.item() == pytest.approx(17.27554928885987, **CLOSE)
    assert told(gradient) == pytest.approx(-1.2605847297922543, **CLOSE)


# --- VICO-UoE/DatasetCondensation 53f63a6: the operations of DiffAugment in utils.py.
# What the code drew: uniform numbers or pixels, one an image. Then what our parameters are of them.

FIRST, SECOND, THIRD = torch.tensor(
    [[0.1, 0.45, 0.9], [0.2, 0.7, 0.35], [0.6, 0.05, 0.8]], dtype=torch.float64
)
ZOOM = 1.2 - 1 / 1.2
DRAWN = {
    "color": (FIRST - 0.5, 2 * SECOND, THIRD + 0.5),
    "crop": (torch.tensor([-1, 1, 0]), torch.tensor([2, -2, 1])),
    "cutout": (torch.tensor([0, 3, 8]), torch.tensor([12, 5, 1])),
    "flip": (FIRST,),
    "scale": (1 / 1.2 + ZOOM * FIRST, 1 / 1.2 + ZOOM * SECOND),
    "rotate": ((FIRST - 0.5) * math.pi / 6,),
}
AUGMENTED = {  # the images, and the gradient of the sum of their cubes
    "color": (5.609610317517138, -27.270987815085817),
    "crop": (76.73787992742766, -29.732264819463715),
    "cutout": (-20.76990891468355, -84.88765823240405),
    "flip": (26.797979771330105, -5.606361164806771),
    "scale": (13.874793979357982, 77.68926204582291),
    "rotate": (6.604035137498938, 78.82120493565905),
}


@pytest.mark.parametrize("operation", AUGMENTED)
def test_augmentation(operation):
    images = normal(5, 3, 3, 8, 12).requires_grad_()
    augmented = augment.apply(augment.Transform(operation, DRAWN[operation]), images)
    (gradient,) = torch.autograd.grad(augmented.pow(3).sum(), images)
    expected = pytest.approx(AUGMENTED[operation], **CLOSE)
    assert (told(augmented), told(gradient)) == expected


# --- VICO-UoE/DatasetCondensation 53f63a6: evaluate_synset of utils.py


@pytest.mark.parametrize(
    ("epochs", "runs"),
    [
        (300, [(152, 0.01), (149, 0.001)]),
        (1000, [(502, 0.01), (499, 0.001)]),
        (7, [(5, 0.01), (3, 0.001)]),
        (1, [(2, 0.01)]),
    ],
)
def test_schedule_of_the_evaluation(epochs, runs):
    """Epochs and learning rate of each optimiser that the code makes."""
    found = []
    for rate, anew in released(epochs).rates():
        if anew:
            found.append([0, rate])
        found[-1][0] += 1
        assert rate == pytest.approx(found[-1][1])
    assert [tuple(run) for run in found] == [(n, pytest.approx(rate)) for n, rate in runs]


def test_training_of_an_evaluation():
    network, losses = small(), []

    def watch(logits, labels, teacher, epoch):
        loss = F.cross_entropy(logits, labels)
        losses.append(loss.item())
        return loss

    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    stream = torch.Generator().manual_seed(0)
    train([network], normal(7, 6, 3, 16, 16), labels, released(7), [stream], criterion=watch)
    # the sixth is the first after the rate has fallen, the seventh shows that momentum was lost
    expected = [1.1051403146265373, 1.073525583319328, 1.017174152929343, 0.945108475425042]
    expected += [0.8660637885484442, 0.7876427564681273, 0.7861030919229396, 0.7831856997065975]
    assert losses == pytest.approx(expected, **CLOSE)
    logits = network(normal(8, 2, 3, 16, 16))
    assert told(logits) == pytest.approx(-0.7227636573702323, **CLOSE)


def released(epochs):
    return recipe(epochs=epochs, lr=0.01, batch=256, schedule="released")


# --- GeorgeCazenavette/mtt-distillation 50dccea: reparam_module.py and the loss of distill.py


def test_trajectory_matching():
    network = small()
    start = nn.utils.parameters_to_vector(network.parameters()).detach()
    segment = Segment(start, start + 0.01 * normal(9, len(start)), expert=0, epoch=0)
    steps = [torch.tensor(part) for part in ([0, 3, 4], [5, 1, 2], [2, 0, 5])]
    images, labels = normal(4, 6, 3, 16, 16), torch.tensor([0, 0, 1, 1, 2, 2])
    student = Student(network, images, labels, steps, [augment.Transform("none")] * len(steps))
    walk = student.walk(start, 0.05)
    objective = TrajectoryMatching.__new__(TrajectoryMatching)  # the comparison needs no buffers
    loss, cotangent = objective.compare("convnet", walk.end, segment)
    gradient, by_rate = student.gradients(walk, 0.05, cotangent)
    assert loss == pytest.approx(1.2782205463219438, **CLOSE)
    assert by_rate == pytest.approx(11.276118906477086, **CLOSE)
    assert told(gradient) == pytest.approx(0.11626511303125366, **CLOSE)


# --- kornia 0.9.0: ZCAWhitening with eps 0.1, which mtt-distillation fits on pixels in [0, 1]


def test_whitening():
    pixels = uniform(11, 40, 3, 4, 4)
    whitened = zca.whiten(pixels, *zca.fit([pixels], eps=0.1))
    assert told(whitened) == pytest.approx(-2.2291168147249483, **CLOSE)


# --- VILA-Lab/SRe2L 8d00cba: SRe2L/recover/utils.py, the losses of data_synthesis.py, train_FKD.py


def test_recovery():
    network = small("batch").eval()
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    for i, norm in enumerate(norms):
        norm.running_mean.copy_(0.3 * normal(30 + i, 8))
        norm.running_var.copy_(0.5 + uniform(40 + i, 8))
    images, labels = normal(4, 6, 3, 16, 16).requires_grad_(), torch.tensor([0, 0, 1, 1, 2, 2])
    with watched(network) as distances:
        loss = F.cross_entropy(network(images), labels)
    first, second = distances
    loss = loss + 0.05 * (10 * first + second)
    (gradient,) = torch.autograd.grad(loss, images)
    found = [first.item(), second.item(), loss.item(), told(gradient)]
    expected = [1.761716402855848, 3.7167564856125574, 2.1565200173307852, 0.0019249443056208182]
    assert found == pytest.approx(expected, **CLOSE)


def test_loss_of_soft_labels():
    student, teacher = 3 * normal(12, 5, 7), (3 * normal(13, 5, 7)).log_softmax(1)
    found = soft_labels.loss(student, teacher, 20.0, "one").item()
    assert found == pytest.approx(0.010304369884832177, **CLOSE)


# --- Distill-Generalization-Group/Distill-Generalization 3d1dbb5: epoch of utils.py


@pytest.mark.parametrize(
    ("temperature", "expected", "slope"),
    [
        (1.5, 6.374087644313562, 1.2096632498850983),
        (0.3, 1.2658134924369033, 0.24230717669214685),
    ],
)
def test_distillation_of_the_temperature_sweep(temperature, expected, slope):
    """The loss, and the norm of its gradient by the student's logits."""
    student, teacher = (3 * normal(12, 5, 7)).requires_grad_(), 3 * normal(13, 5, 7)
    labels = torch.tensor([0, 6, 3, 2, 2])
    loss = kd.loss(student, teacher, labels, temperature, 0.5, variant="released")
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.item() == pytest.approx(expected, **CLOSE)
    assert gradient.norm().item() == pytest.approx(slope, **CLOSE)
