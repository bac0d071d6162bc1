"""The pretended GPU refuses what CUDA refuses, counts what it waits for, computes as the CPU."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap

from tests.support.pretended_gpu import OnDevice, pretended_gpu


@pytest.fixture
def traffic():
    with pretended_gpu() as counted:
        yield counted


def seeded(device="cpu", seed=0):
    return torch.Generator(device=device).manual_seed(seed)


def on(*shape):
    return torch.ones(shape, device="cuda")


TWO_DEVICES = {
    "sum": lambda: on(3) + torch.ones(3),
    "product of matrices": lambda: on(3, 3) @ torch.ones(3, 3),
    "product with a number of the host": lambda: on(3) @ torch.ones(3),
    "in place": lambda: on(3).add_(torch.ones(3)),
    "into the host": lambda: torch.ones(3).add_(on(3)),
    "a number of the host is changed": lambda: torch.ones(()).add_(on(1)[0]),
    "concatenation": lambda: torch.cat([on(3), torch.ones(3)]),
    "stack of numbers": lambda: torch.stack([on(1)[0], torch.ones(())]),
    "a device index of host values": lambda: torch.ones(3)[torch.zeros(1, device="cuda").long()],
    "index_select": lambda: on(3).index_select(0, torch.zeros(1).long()),
    "gather": lambda: on(3).gather(0, torch.zeros(1).long()),
    "where": lambda: torch.where(torch.ones(3) > 0, on(3), on(3)),
    "values for a device mask": lambda: on(3).index_put_((torch.zeros(1).long(),), torch.ones(1)),
    "loss with labels of the host": lambda: F.cross_entropy(on(2, 3), torch.zeros(2).long()),
    "a layer of the host": lambda: nn.Linear(3, 2)(on(1, 3)),
    "images of the host": lambda: nn.Conv2d(1, 1, 1).to("cuda")(torch.ones(1, 1, 2, 2)),
    "a derivative": lambda: torch.autograd.backward(on(3).requires_grad_() * 2, torch.ones(3)),
    "derivatives": lambda: (on(3).requires_grad_() * 2).backward(gradient=torch.ones(3)),
    "under vmap": lambda: vmap(lambda x: x + torch.ones(3))(on(2, 3)),
    "under grad": lambda: grad(lambda x: (x * torch.ones(3)).sum())(on(3)),
    "in a stack of networks": lambda: functional_call(
        nn.Linear(3, 2), {"weight": on(2, 3), "bias": torch.ones(2)}, (on(1, 3),)
    ),
    "another GPU": lambda: torch.ones(3, device="cuda:1"),
}


@pytest.mark.parametrize("fault", TWO_DEVICES)
def test_two_devices_are_refused(fault, traffic):
    with pytest.raises(RuntimeError, match=r"same device|invalid device|expected device"):
        TWO_DEVICES[fault]()


GENERATORS = {
    "a host stream, device numbers": lambda: torch.rand(3, device="cuda", generator=seeded()),
    "a device stream, host numbers": lambda: torch.rand(3, generator=seeded("cuda")),
    "randint": lambda: torch.randint(3, (2,), device="cuda", generator=seeded()),
    "randperm": lambda: torch.randperm(3, generator=seeded("cuda")),
    "in place": lambda: on(3).uniform_(0, 1, generator=seeded()),
    "in place on the host": lambda: torch.ones(3).normal_(0, 1, generator=seeded("cuda")),
    "dropout's way": lambda: torch.bernoulli(on(3), generator=seeded()),
}


@pytest.mark.parametrize("fault", GENERATORS)
def test_generators_of_another_device_are_refused(fault, traffic):
    with pytest.raises(RuntimeError, match="device type for generator"):
        GENERATORS[fault]()


@pytest.mark.parametrize("convert", [torch.Tensor.numpy, np.asarray])
def test_numpy_is_refused(convert, traffic):
    with pytest.raises(TypeError, match="can't convert cuda:0"):
        convert(on(3))


def test_numbers_of_the_host_are_allowed_where_cuda_allows_them(traffic):
    number = torch.tensor(2.0)
    assert (on(3) * number).tolist() == [2, 2, 2]
    assert torch.where(on(3) > 0, number, on(3)).tolist() == [2, 2, 2]
    assert traffic.copies == 0


READS = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x[0, 0]),
    "bool": lambda x: bool((x > 0).all()),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "to": lambda x: x.to("cpu"),
    "nonzero": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 0],
    "values at a mask": lambda x: x.index_put_((x > 0,), torch.ones(6, device="cuda")),
    "masked_select": lambda x: x.masked_select(x > 0),
    "equal": lambda x: torch.equal(x, x),
    "bincount": lambda x: x.flatten().long().bincount(),
    "unique": lambda x: x.unique(),
    "repeats": lambda x: x.repeat_interleave(x[:, 0].long(), 0),
    "solve": lambda x: torch.linalg.solve(torch.eye(2, device="cuda"), x),
    "copy into the host": lambda x: torch.empty(2, 3).copy_(x),
}


@pytest.mark.parametrize("read", READS)
def test_what_the_host_waits_for_is_counted(read, traffic):
    images = on(2, 3)
    READS[read](images)
    assert (traffic.reads, traffic.copies) == (1, 0)
    (line,) = traffic.read
    assert "test_pretended_gpu.py" in line  # nothing of dd/ is on the stack


COPIES = {
    "to": lambda x: torch.ones(3).to("cuda"),
    "cuda": lambda x: x + torch.ones(3).to(x.device),
    "tensor": lambda x: torch.tensor([1, 2], device="cuda"),
    "an index": lambda x: x[torch.tensor([0])],
    "an index of an assignment": lambda x: x.index_put_((torch.tensor([0]),), x[:1] + 1),
    "a list as index": lambda x: x[[0]],
    "copy_": lambda x: x.copy_(torch.ones(2, 3)),
    "a module": lambda x: nn.Linear(3, 2, bias=False).to("cuda"),
}


@pytest.mark.parametrize("copied", COPIES)
def test_copies_to_the_device_are_counted(copied, traffic):
    images = on(2, 3)
    COPIES[copied](images)
    assert (traffic.reads, traffic.copies) == (0, 1)


def test_what_stays_on_the_device_costs_nothing(traffic):
    images = torch.randn(2, 3, device="cuda", generator=seeded("cuda"))
    index = torch.arange(2, device="cuda")
    index = torch.cat([index, index.flip(0)])
    images[index].masked_fill(images[index] > 0, 0.0).sum(0).argmax()
    images[images > 0] = 0.5
    images.to("cuda").to(images.device, torch.float64).split([1, 1])
    images.repeat_interleave(2, 0).roll((1, 1), (0, 1))
    images[1:, 2].zero_()
    assert (traffic.reads, traffic.copies) == (0, 0)


def test_python_is_told_cuda(traffic):
    images = torch.zeros(2, device="cuda")
    assert isinstance(images, OnDevice)
    assert images.device == torch.device("cuda:0") != torch.device("cuda")  # as CUDA says it
    assert images.is_cuda and not images.cpu().is_cuda
    assert torch.Generator(device="cuda").device == torch.device("cuda:0")
    assert torch.cuda.is_available() and torch.cuda.device_count() == 1
    assert not isinstance(torch.zeros(2), OnDevice)
    seen = []
    vmap(lambda x: seen.append((x.device, x.is_cuda)) or x)(torch.zeros(2, 3, device="cuda"))
    assert seen == [(torch.device("cuda:0"), True)]


def test_afterwards_there_is_no_gpu():
    real = torch.Generator, torch.cuda.device_count()
    with pretended_gpu():
        left = torch.zeros(2, device="cuda")
    assert (torch.Generator, torch.cuda.device_count()) == real
    with pytest.raises(RuntimeError, match="that is gone"):
        left + 1


def trained(device, optimizer, stacked):
    """Some steps of a stack of networks, or of one: its parameters."""
    stream = seeded(device)
    layers = [nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * 9, 3)).to(device)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.uniform_(-0.3, 0.3, generator=stream)
    images = torch.rand(5, 2, 8, 8, device=device, generator=stream)
    labels = torch.randint(3, (5,), device=device, generator=stream)
    states, buffers = stack_module_state([network, copy.deepcopy(network)])
    buffers = {name: value.clone() for name, value in buffers.items()}
    parameters = list(states.values()) if stacked else list(network.parameters())
    steps = optimizer(parameters, lr=0.01)
    skeleton = copy.deepcopy(network).to("meta")
    for _ in range(3):
        if stacked:
            logits = vmap(lambda p, b: functional_call(skeleton, (p, b), (images,)))(
                states, buffers
            )
            loss = F.cross_entropy(logits.flatten(0, 1), labels.repeat(2))
        else:
            loss = F.cross_entropy(network(images), labels)
        steps.zero_grad()
        loss.backward()
        steps.step()
    return [parameter.detach().cpu() for parameter in parameters]


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_it_computes_as_the_cpu(optimizer, stacked):
    """Bit for bit, since CPU tensors are behind it: whatever differs is a fault of the pretence."""
    with pretended_gpu():
        found = trained("cuda", optimizer, stacked)
    expected = trained("cpu", optimizer, stacked)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert any(parameter.abs().sum() > 0 for parameter in found)


def test_second_derivatives_are_those_of_the_cpu():
    def second(device):
        x = torch.linspace(-1, 1, 6, device=device).requires_grad_()
        (first,) = torch.autograd.grad((x.sin() * x).sum(), x, create_graph=True)
        (twice,) = torch.autograd.grad(first.square().sum(), x)
        return twice.cpu()

    with pretended_gpu():
        found = second("cuda")
    assert torch.equal(found, second("cpu"))
