"""Networks take the steps for which DD made a set."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from dd.artifacts.text import load_rows
from dd.command import main
from dd.config.run import load_run
from dd.data import synthetic
from dd.data.synthetic import Schedule
from dd.errors import DDError
from dd.evaluate.protocols import PROTOCOLS, FixedStart, StepsSettings, Task
from dd.networks.build import create
from dd.networks.init import fixed_start, initialise
from dd.plan.jobs import Distillation, Evaluation
from dd.rng import generator
from dd.training.train import TrainingDiverged
from tests.support.training import recipe

SPEC = "convnet:depth=1,width=8"
RATES, BATCHES = [0.3, 0.01, 0.2], [0, 1, 0, 0, 1, 1, 0, 1]
KNOWN = recipe(epochs=300, batch=256, augment="flip", optimizer="adamw")


def task(digits, labels=None, fixed=None, rates=RATES):
    images = torch.randn(8, 1, 8, 8, generator=generator(0))
    if labels is None:
        labels = torch.arange(8) % 10
    schedule = Schedule(torch.tensor(rates), torch.tensor(BATCHES))
    return Task(
        digits, images, labels, KNOWN, 7, 1.0, False, True, schedule=schedule, fixed_start=fixed
    )


def by_hand(given, network):
    """Three steps of SGD, batch 0, 1 and 0, written out."""
    network.train()
    for rate, members in zip(RATES, ([0, 2, 3, 6], [1, 4, 5, 7], [0, 2, 3, 6]), strict=True):
        loss = F.cross_entropy(network(given.images[members]), given.labels[members])
        network.zero_grad()
        loss.backward()
        with torch.no_grad():
            for p in network.parameters():
                p -= rate * p.grad
    return network


def same(one, other):
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.allclose(a, b, atol=1e-6) for a, b in pairs)


@pytest.mark.parametrize("soft", [False, True])
def test_networks_take_the_steps_of_the_set(soft, digits):
    labels = torch.randn(8, 10, generator=generator(1)).softmax(1) if soft else None
    given = task(digits, labels)
    trained = PROTOCOLS["steps"](None, given).train(SPEC, [2, 0])
    for number, network in zip((2, 0), trained, strict=True):
        assert not network.training
        assert same(network, by_hand(given, given.networks(SPEC, [number])[0]))
    assert not same(*trained)


def test_fixed_initial_parameters_are_those_of_the_students(digits):
    given = task(digits, fixed=FixedStart(5, 2, frozenset([SPEC])))
    protocol = PROTOCOLS["steps"](None, given)
    trained = protocol.train(SPEC, [0, 1])
    for number, network in enumerate(trained):
        start = create(SPEC, 1, (8, 8), 10, generator=None)
        initialise(start, fixed_start(5, number))
        assert same(network, by_hand(given, start))
    assert not same(*trained)
    assert protocol.facts(0)["fixed_start"] == 1


def test_other_networks_start_at_random(digits):
    given = task(digits, fixed=FixedStart(5, 1, frozenset([SPEC])))
    protocol = PROTOCOLS["steps"](None, given)
    trained = protocol.train("lenet", [0, 1])
    for number, network in enumerate(trained):
        assert same(network, by_hand(given, given.networks("lenet", [number])[0]))
    assert not same(*trained) and protocol.facts(0)["fixed_start"] == 0


def test_a_network_that_diverges(digits):
    wild = task(digits, rates=[1e38, 1e38, 1e38])
    with pytest.raises(TrainingDiverged, match="--diverged record"):
        PROTOCOLS["steps"](None, wild).train(SPEC, [0])
    recorded = dataclasses.replace(wild, strict=False)
    (network,) = PROTOCOLS["steps"](None, recorded).train(SPEC, [0])
    assert not all(p.isfinite().all() for p in network.parameters())


def test_what_the_steps_are_as_a_recipe(digits):
    made = PROTOCOLS["steps"].adapted(KNOWN, task(digits).schedule)
    assert (made.epochs, made.batch, made.optimizer, made.schedule) == (2, 4, "sgd", "constant")
    assert made.lr == pytest.approx(0.17)
    assert (made.momentum, made.weight_decay, made.augment) == (0, 0, "none")


@pytest.fixture(scope="module")
def made(digits_file, tmp_path_factory):
    """Sets of DD after one iteration, from random and from fixed initial parameters."""
    folder = tmp_path_factory.mktemp("made")
    words = ["--objective", "dd", "--ipc", "3", "--steps", "2", "--student-epochs", "2"]
    words += ["--batch-real", "20", "--lr-student", "0.1", "--network", SPEC, "--students", "2"]
    where = ["--data", str(digits_file), "--device", "cpu", "--snapshots", "1", "--seed", "4"]
    for start in ("random", "fixed"):
        more = ["--initialisation", start, "--out", str(folder / start)]
        assert main(["distill", *where, *words, *more]) == 0
    return {start: folder / start / "it1.safetensors" for start in ("random", "fixed")}


def test_a_set_says_its_steps(made):
    read = synthetic.load(made["fixed"])
    assert read.schedule.rates.shape == (4,)
    assert read.schedule.rates.tolist() == pytest.approx([0.1] * 4, rel=0.2)
    assert len(set(read.schedule.rates.tolist())) > 1  # one step of Adam
    assert read.schedule.batches.tolist() == [0, 0, 1] * 10
    assert [part.tolist()[:3] for part in read.schedule.indices()] == [[0, 1, 3], [2, 5, 8]]
    assert read.header["fixed_start"] == {"seed": 4, "students": 2, "networks": [SPEC]}
    assert "fixed_start" not in synthetic.load(made["random"]).header


@pytest.mark.parametrize("start", ["random", "fixed"])
def test_the_command(start, made, digits_file, tmp_path):
    words = ["--synthetic", str(made[start]), "--data", str(digits_file), "--device", "cpu"]
    more = ["--arch", SPEC, "mlp", "--networks", "2", "--protocol", "steps"]
    assert main(["evaluate", *words, *more, "--out", str(tmp_path / "e.csv")]) == 0
    rows = load_rows(tmp_path / "e.csv")
    assert len(rows) == 4
    told = {"protocol": "steps", "steps": "4", "epochs": "2", "batch": "20", "momentum": "0.0"}
    assert all(row.items() >= told.items() for row in rows)
    for row in rows:
        assert row["fixed_start"] == str(int(start == "fixed" and row["arch"] == SPEC))
    seen = [row["accuracy"] for row in rows if row["arch"] == SPEC]
    assert seen[0] != seen[1]


def test_no_more_networks_than_fixed_starts(made, digits_file, tmp_path, capsys):
    words = ["--synthetic", str(made["fixed"]), "--data", str(digits_file), "--device", "cpu"]
    words += ["--arch", SPEC, "--networks", "3", "--protocol", "steps"]
    assert main(["evaluate", *words, "--out", str(tmp_path / "e.csv")]) == 2
    assert f"give --networks-of {SPEC}=2" in capsys.readouterr().err
    # of another width they are others
    words += ["--width-factor", "2"]
    assert main(["evaluate", *words, "--out", str(tmp_path / "e.csv")]) == 0
    assert "its initial parameters are random" in capsys.readouterr().out
    assert {row["fixed_start"] for row in load_rows(tmp_path / "e.csv")} == {"0"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--protocol steps --lr 5", "lr is 5.0, but --protocol steps takes 0."),
        ("--protocol steps --augment flip", "augment is flip, but --protocol steps takes none"),
        ("--protocol steps --arch-settings mlp@epochs=7", "epochs is 7 for mlp, but"),
        ("--protocol regression --schedule paper", "schedule is paper, but --protocol regression"),
    ],
)
def test_what_the_protocol_decides_is_no_option(
    words, message, made, digits_file, tmp_path, capsys
):
    where = ["--synthetic", str(made["random"]), "--data", str(digits_file), "--device", "cpu"]
    where += ["--arch", "mlp", "--out", str(tmp_path / "e.csv")]
    assert main(["evaluate", *where, *words.split()]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    same_as_taken = ["--protocol", "steps", "--optimizer", "sgd", "--epochs", "2"]
    assert main(["evaluate", *where, *same_as_taken, "--networks", "1"]) == 0


def test_a_set_without_steps_is_refused(made, digits_file, tmp_path, capsys):
    tensors = load_file(made["random"])
    save_file({n: tensors[n] for n in ("images", "labels")}, tmp_path / "bare.safetensors")
    words = ["--synthetic", str(tmp_path / "bare.safetensors"), "--data", str(digits_file)]
    words += ["--arch", "mlp", "--out", str(tmp_path / "e.csv"), "--protocol", "steps"]
    assert main(["evaluate", *words, "--device", "cpu"]) == 2
    assert "does not say which steps networks should take" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rates": None}, "'rates' and 'batches' come together"),
        ({"batches": None}, "'rates' and 'batches' come together"),
        ({"rates": torch.ones(2, 2)}, r"'rates' is .* must be float32 \[steps\]"),
        ({"rates": torch.ones(0)}, r"must be float32 \[steps\]"),
        ({"rates": torch.tensor([1.0, -1.0])}, "finite numbers from 0"),
        ({"rates": torch.tensor([1.0, float("nan")])}, "finite numbers from 0"),
        ({"batches": torch.zeros(29, dtype=torch.int64)}, r"must be int64 \[30\]"),
        ({"batches": torch.zeros(30)}, r"must be int64 \[30\]"),
        ({"batches": torch.arange(30)}, "at most 4 batches"),
        ({"batches": torch.full((30,), 1)}, "from 0, without a gap"),
    ],
)
def test_a_schedule_is_checked(changes, message, made, tmp_path):
    tensors = load_file(made["random"]) | changes
    path = tmp_path / "changed.safetensors"
    kept = ("images", "labels", "rates", "batches")
    save_file({n: tensors[n] for n in kept if tensors[n] is not None}, path)
    with pytest.raises(DDError, match=message):
        synthetic.load(path)


def test_a_run_that_asks_for_steps_of_other_methods_stops():
    run = load_run("smoke")

    def job(method):
        return Evaluation(Distillation("digits", method, 1, 0), 5, "steps", ("mlp",))

    options = job("dd@student_epochs=4").options(run)
    assert (options["protocol"], options["epochs"], options["momentum"]) == ("steps", 4, 0.0)
    assert not {"lr", "batch"} & {*options, *job("dd").described(run)}  # the set says them
    job("dd").check(run, [KNOWN, StepsSettings()])
    with pytest.raises(DDError, match="dc makes sets for no steps"):
        job("dc").check(run, [KNOWN, StepsSettings()])
    fixed = Distillation("digits", "dd@initialisation=fixed", 1, 0)
    Evaluation(fixed, 5, "steps", ("mlp",)).check(run, [KNOWN, StepsSettings()])
    with pytest.raises(DDError, match=r"2 networks of convnet, but .* parameters of 1"):
        Evaluation(fixed, 5, "steps", ("convnet",)).check(run, [KNOWN, StepsSettings()])
