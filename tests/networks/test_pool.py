"""Model pools: what they hold, how often each network is drawn, what is refused."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter

import pytest
import torch

from dd.errors import DDError
from dd.networks.architectures import NETWORKS
from dd.networks.batchnorm import freeze_batch_statistics
from dd.networks.build import create
from dd.networks.options import canonical
from dd.networks.pool import load_pool
from dd.networks.source import PoolSource, SingleSource
from dd.rng import generator
from tests.support.runs import ROOT

POOLS = ROOT / "workflow" / "config" / "pools"
GOOD = """\
title: a pool
main: convnet
probability: 0.9
others: [lenet, alexnet]
"""


def written(folder, text):
    path = folder / "pool.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def source(name, **settings):
    settings = {"width_factor": 1 / 32, **settings}
    return PoolSource(load_pool(POOLS / f"{name}.yaml"), 1, (8, 8), 10, **settings)


def test_main_and_similar_holds_every_combination_of_table_3():
    shares = dict(load_pool(POOLS / "pool.yaml").networks())
    combinations = itertools.product(
        ["relu", "sigmoid", "leakyrelu", "swish"],
        ["instance", "batch", "layer", "group"],
        ["avg", "max"],
    )
    specs = {canonical(f"convnet:activation={a},norm={n},pooling={p}") for a, n, p in combinations}
    assert len(specs) == 32 and set(shares) == specs
    assert shares.pop("convnet") == pytest.approx(0.9 + 0.1 / 32)  # it is among its own variants
    assert all(share == pytest.approx(0.1 / 32) for share in shares.values())


def test_the_released_reading_has_one_block_and_a_warm_up():
    pool = load_pool(POOLS / "pool-released.yaml")
    assert pool.warmup == 501  # the public code: `if it <= 500`, counted from 0
    shares = dict(pool.networks())
    assert shares.pop("convnet") == pytest.approx(0.9)
    assert len(shares) == 32 and all("depth=1" in spec for spec in shares)


@pytest.mark.parametrize(("name", "main"), [("pool-various", 0.9), ("pool-random", 0.25)])
def test_pools_of_other_families(name, main):
    rest = (1 - main) / 3
    expected = {"convnet": main, "lenet": rest, "alexnet": rest, "vgg11": rest}
    assert dict(load_pool(POOLS / f"{name}.yaml").networks()) == pytest.approx(expected)


@pytest.mark.parametrize("path", sorted(POOLS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_pool_sums_to_one_and_can_be_built(path):
    networks = load_pool(path).networks()
    assert math.isclose(sum(share for _, share in networks), 1)
    for spec, _ in networks:
        create(spec, 3, (32, 32), 10, generator=None, device="meta")


def test_own_probabilities(tmp_path):
    text = GOOD.replace(
        "[lenet, alexnet]",
        "[{network: lenet, probability: 0.06}, "
        "{network: 'convnet:norm=instance', probability: 0.04}]",
    )
    networks = dict(load_pool(written(tmp_path, text)).networks())
    assert networks == pytest.approx({"convnet": 0.94, "lenet": 0.06})


def test_a_pool_of_the_main_model_alone(tmp_path):
    text = GOOD.replace("0.9", "1").replace("[lenet, alexnet]", "[]")
    assert load_pool(written(tmp_path, text)).networks() == [("convnet", 1.0)]


@pytest.mark.parametrize("name", ["pool", "pool-various", "pool-random"])
def test_networks_are_drawn_as_often_as_the_pool_says(name):
    draws = 20_000
    pool = source(name)
    stream = generator(0, "draws")
    counts = Counter(pool.choose(i, stream) for i in range(draws))
    shares = dict(pool.definition.networks())
    assert set(counts) == set(shares)
    chi_square = sum((counts[s] - draws * p) ** 2 / (draws * p) for s, p in shares.items())
    freedom = len(shares) - 1
    assert chi_square < freedom + 5 * math.sqrt(2 * freedom)  # five standard deviations


def test_warm_up_is_the_main_model_alone():
    pool = source("pool-released")
    stream = generator(0)
    assert {pool.choose(i, stream) for i in range(501)} == {"convnet"}
    after = [pool.choose(501, stream) for _ in range(500)]
    assert 20 < sum(spec != "convnet" for spec in after) < 90  # 50 expected


def test_modules_are_used_again_with_new_parameters():
    single = SingleSource("convnet:width=4,norm=instance", 1, (8, 8), 10)
    stream = generator(0)
    spec, first = single.draw(0, stream)
    before = first.classifier.weight.detach().clone()
    first(torch.zeros(1, 1, 8, 8)).sum().backward()
    _, second = single.draw(1, stream)
    assert spec == "convnet:width=4" and second is first
    assert not torch.equal(second.classifier.weight, before)
    assert all(parameter.grad is None for parameter in second.parameters())


def test_a_draw_depends_on_the_generator_alone():
    used = SingleSource("convnet:norm=batch,width=4", 1, (8, 8), 10)
    images = torch.randn(4, 1, 8, 8, generator=generator(1))
    _, network = used.draw(0, generator(0))
    freeze_batch_statistics(network, images)
    _, again = used.draw(7, generator(7))
    _, fresh = SingleSource("convnet:norm=batch,width=4", 1, (8, 8), 10).draw(7, generator(7))
    for key, value in fresh.state_dict().items():
        assert torch.equal(again.state_dict()[key], value)
    assert all(module.training for module in again.modules())


def test_pool_draws_have_the_spec_that_they_say():
    pool = source("pool-random")
    stream = generator(3)
    seen = {}
    for iteration in range(60):
        spec, network = pool.draw(iteration, stream)
        assert seen.setdefault(spec, network) is network
        assert network(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    assert set(seen) == {"convnet", "lenet", "alexnet", "vgg11"}
    assert len({type(network) for network in seen.values()}) == 4


def test_sources_describe_themselves_for_provenance():
    assert SingleSource("convnet:norm=instance", 1, (8, 8), 10).describe() == {
        "source": "single",
        "network": "convnet",
    }
    facts = json.loads(json.dumps(source("pool-released").describe()))
    assert facts["warmup"] == 501 and facts["main"] == "convnet" and len(facts["networks"]) == 33


def test_a_pool_may_hold_any_network(tmp_path):
    text = GOOD.replace("[lenet, alexnet]", f"[{', '.join(NETWORKS)}]")
    assert {spec for spec, _ in load_pool(written(tmp_path, text)).networks()} == set(NETWORKS)


SIMILAR = "{variants_of: convnet, norm: [batch]}"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (GOOD, "", "must be a mapping with the keys title, main, probability, others"),
        (GOOD, "a: [", "is not YAML"),
        ("main:", "mian:", "did you mean 'main'"),
        ("main: convnet\n", "", "key 'main' of a pool is missing"),
        ("main: convnet", "main: convnt", "main: unknown network 'convnt'"),
        ("main: convnet", "main: 3", "main: is 3, it must be text"),
        ("main: convnet", "main: convnet:depth=x", "main: network 'convnet:depth=x'"),
        ("title: a pool", "title: [a]", "title: is ['a'], it must be text"),
        ("0.9", "1.2", "probability: is 1.2, it must be a number from 0 to 1"),
        ("0.9", "-0.1", "probability: is -0.1"),
        ("0.9", "true", "probability: is True"),
        ("0.9", "'0.9'", "probability: is '0.9'"),
        ("[lenet, alexnet]", "[]", "sum to 0.9 with the main model's, not to 1"),
        ("[lenet, alexnet]", "lenet", "others: must be a list of networks"),
        ("[lenet, alexnet]", "[lenet, 3]", "others: must be a list of networks"),
        ("[lenet, alexnet]", "[lenet, alexnot]", "others: unknown network 'alexnot'"),
        (
            "[lenet, alexnet]",
            "[{network: lenet, probability: 0.05}]",
            "sum to 0.95 with the main model's, not to 1",
        ),
        ("[lenet, alexnet]", "[{network: lenet}]", "key 'probability' of others[0] is missing"),
        (
            "[lenet, alexnet]",
            "[{network: lenet, probability: 2}]",
            "others[0].probability: is 2",
        ),
        ("[lenet, alexnet]", SIMILAR.replace("variants_of: convnet, ", ""), "variants_of is missi"),
        ("[lenet, alexnet]", SIMILAR.replace("convnet", "convent"), "unknown network 'convent'"),
        ("[lenet, alexnet]", SIMILAR.replace("norm", "nrm"), "did you mean 'norm'"),
        ("[lenet, alexnet]", SIMILAR.replace("batch", "btch"), "others.norm: unknown norm"),
        ("[lenet, alexnet]", SIMILAR.replace("[batch]", "[]"), "others.norm: is empty"),
        ("others:", "warmup: -1\nothers:", "warmup: is -1"),
        ("others:", "warmup: 1.5\nothers:", "warmup: is 1.5"),
    ],
)
def test_bad_pools_get_one_line_naming_file_and_key(tmp_path, old, new, message):
    path = written(tmp_path, GOOD.replace(old, new))
    with pytest.raises(DDError) as caught:
        load_pool(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_pool_is_named(tmp_path):
    with pytest.raises(DDError, match="no such file"):
        load_pool(tmp_path / "none.yaml")
