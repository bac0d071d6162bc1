"""Networks in bf16: every one of them computes, apart and stacked, with float32 logits."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dd.networks.architectures import NETWORKS
from dd.networks.batchnorm import vectorisable
from dd.networks.layers import LayerNorm
from dd.rng import generator
from dd.runtime.precision import BF16, choose, forward
from dd.training.ensemble import Stack
from tests.support.networks import VARIANTS, small

CPU = torch.device("cpu")
EVERY_LAYER = ["mlp", "lenet", "alexnet", "resnet18", "resnet18_bn", "resnet18_tv", *VARIANTS]
EXACT = 1e-9  # 1 - cosine of two computations in float32 is below it


def images(count=4):
    return torch.randn(count, 3, 32, 32, generator=generator(1))


def apart(one, other):
    """1 - the cosine of two tensors, or of two lists of them."""
    a, b = (torch.cat([t.detach().double().flatten() for t in x]) for x in (one, other))
    return 1 - float(a @ b / (a.norm() * b.norm()))


def gradients(logits, parameters):
    loss = F.cross_entropy(logits, torch.arange(len(logits)))
    return torch.autograd.grad(loss, parameters, materialize_grads=True)


@pytest.mark.parametrize("spec", [*NETWORKS, *VARIANTS])
def test_logits_are_the_classifiers_in_float32(spec):
    network = small(spec).eval()
    seen = []
    network.classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        exact = network(images())
        choose(BF16, CPU)
        logits = forward(network, images())
    assert logits.dtype == torch.float32
    by_hand = F.linear(seen[1], *network.classifier.parameters())
    torch.testing.assert_close(logits, by_hand, rtol=1e-5, atol=1e-6)
    assert (logits != logits.bfloat16()).any()
    assert EXACT < apart(logits, exact) < 0.02


@pytest.mark.parametrize("spec", EVERY_LAYER)
def test_gradients_are_float32_and_those_of_a_stack_the_same(spec):
    """Rounding differs with the order of sums, and grows with depth."""
    alone = [small(spec, seed=n).train() for n in range(2)]
    batch = torch.stack([images(), images().flip(0)])
    exact = [gradients(n(x), [*n.parameters()]) for n, x in zip(alone, batch, strict=True)]
    choose(BF16, CPU)
    lower = [gradients(forward(n, x), [*n.parameters()]) for n, x in zip(alone, batch, strict=True)]
    assert {g.dtype for one in lower for g in one} == {torch.float32}
    assert EXACT < apart(lower[0], exact[0]) < 0.1

    stacked = Stack([small(spec, seed=n).train() for n in range(2)])
    logits = forward(stacked.forward, batch)
    assert logits.dtype == torch.float32
    losses = [F.cross_entropy(own, torch.arange(4)) for own in logits]
    together = torch.autograd.grad(sum(losses), stacked.parameters, materialize_grads=True)
    assert {g.dtype for g in together} == {torch.float32}
    for n in range(2):
        assert EXACT < apart([g[n] for g in together], exact[n]) < 0.1


def test_batch_norms_are_widened_only_in_a_copy():
    plain, batched = small("convnet"), small("convnet:norm=batch")
    assert vectorisable(plain) is plain
    copy = vectorisable(batched)
    assert not any(layer._forward_pre_hooks for layer in batched.modules())
    norms = [layer for layer in copy.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert norms and all(layer._forward_pre_hooks for layer in norms)
    assert copy.double().eval()(images().double()).dtype == torch.float64


def test_layer_norm_over_maps_is_not_of_rounded_means():
    """A map far from 0: with a mean in bfloat16 its deviations would be wrong by a tenth."""
    layer = LayerNorm([2, 4, 4])
    values = (100 + torch.randn(3, 2, 4, 4, generator=generator(0))).bfloat16()
    wide = values.double()
    variance, mean = torch.var_mean(wide, (1, 2, 3), correction=0, keepdim=True)
    by_hand = (wide - mean) / (variance + layer.eps).sqrt()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(layer(values).double(), by_hand, rtol=1e-3, atol=1e-4)
