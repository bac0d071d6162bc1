"""What one network of an evaluation is trained with, where it differs from the others."""

from datetime import UTC, datetime, timedelta

import pytest
import torch

from dd.artifacts.provenance import code_version, provenance_of_rows
from dd.command import main
from dd.data import synthetic
from dd.rng import generator
from tests.support.timeless import timeless

BATCHED = "convnet:norm=batch"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A set by DC: an image a class."""
    images = torch.randn(10, 1, 8, 8, generator=generator(0))
    path = tmp_path_factory.mktemp("made") / "set.safetensors"
    synthetic.save(
        path, synthetic.SyntheticSet(images, torch.arange(10), header={"objective": "dc"})
    )
    return path


@pytest.fixture
def evaluate(made, digits_file, tmp_path):
    """Runs the stage and returns its rows without the wall time."""

    def run(*words, name="e.csv"):
        what = ["--synthetic", str(made), "--data", str(digits_file), "--networks", "1"]
        how = ["--device", "cpu", "--threads", "1", "--width-factor", "0.05"]
        out = tmp_path / name
        assert main(["evaluate", *what, *how, "--out", str(out), *words]) == 0
        return timeless(out)

    return run


def test_the_recipe_of_a_network_is_its_own(evaluate):
    """DC's code augments for ConvNets with batch norm alone; what is given wins for all."""
    batched, other = evaluate("--arch", BATCHED, "convnet", "--epochs", "3")
    assert (batched["augment"], other["augment"]) == ("dc:crop_noise", "none")
    assert (batched["epochs"], other["epochs"]) == ("3", "3")
    (alone,) = evaluate("--arch", BATCHED, "--epochs", "3", "--augment", "dc:crop_noise")
    assert batched == alone
    assert evaluate("--arch", BATCHED, "--epochs", "3", "--augment", "none") != [alone]


def test_without_options_the_epochs_are_the_recipes(evaluate):
    mlp, batched = evaluate("--arch", "mlp", BATCHED)
    assert (mlp["epochs"], batched["epochs"]) == ("300", "1000")


def test_settings_of_one_network(evaluate):
    """As the workflow gives them, in any spelling of the network; rows are those of a run with
    that network alone and these settings."""
    own = "convnet:width=128,norm=batch@augment=flip,epochs=2,lr=0.5"
    mlp, batched = evaluate("--arch", "mlp", BATCHED, "--epochs", "4", "--arch-settings", own)
    common = ["--arch", BATCHED, "--augment", "flip", "--epochs", "2", "--lr", "0.5"]
    assert [batched] == evaluate(*common)
    assert [mlp] == evaluate("--arch", "mlp", "--epochs", "4")
    twice = [f"{BATCHED}@epochs=2,lr=0.5", "mlp@epochs=4", f"{BATCHED}@augment=flip"]
    assert evaluate("--arch", "mlp", BATCHED, "--arch-settings", *twice) == [mlp, batched]


@pytest.mark.parametrize("together", ["yes", "no"])
def test_architectures_may_have_other_numbers_of_networks(evaluate, together):
    """The networks themselves are the same as if all had the larger number."""
    words = ["--arch", "mlp", BATCHED, "--epochs", "2", "--width-factor", "0.1"]
    words += ["--together", together, "--networks", "3"]
    every = evaluate(*words)
    rows = evaluate(*words, "--networks-of", f"{BATCHED}=1", name="f.csv")
    assert [(row["arch"], row["network"]) for row in rows] == [
        ("mlp", "0"), ("mlp", "1"), ("mlp", "2"), (BATCHED, "0"),
    ]  # fmt: skip
    if together == "no":
        assert rows == every[:4]
    # stacked, the one network of the second architecture is not in a stack of three
    assert [row["accuracy"] for row in rows[:3]] == [row["accuracy"] for row in every[:3]]


def test_a_teacher_has_its_own(evaluate):
    kd = ["--protocol", "kd", "--teacher", "convnet", "--epochs", "4"]
    (student,) = evaluate("--arch", "mlp", *kd, "--arch-settings", "convnet@epochs=7,lr=0.1")
    (alike,) = evaluate("--arch", "lenet", *kd, "--arch-settings", "convnet@epochs=7,lr=0.1")
    (other,) = evaluate("--arch", "mlp", *kd)
    assert student["teacher_accuracy"] == alike["teacher_accuracy"] != other["teacher_accuracy"]
    assert student["epochs"] == "4"


def test_a_killed_evaluation_with_other_settings_of_one_starts_anew(
    evaluate, tmp_path, monkeypatch, capsys
):
    import dd.evaluate.evaluate as stage

    class Killed(BaseException):
        """Stands for SIGKILL."""

    def dying(*_):
        raise Killed

    words = ["--arch", "mlp", BATCHED, "--epochs", "2", "--arch-settings"]
    with monkeypatch.context() as patch:
        patch.setattr(stage, "save_rows", dying)
        with pytest.raises(Killed):
            evaluate(*words, f"{BATCHED}@epochs=3")
    again = evaluate(*words, f"{BATCHED}@epochs=5")
    assert "starting anew" in capsys.readouterr().out
    assert again == evaluate(*words, f"{BATCHED}@epochs=5", name="alone.csv")


def test_a_diverging_network_is_named_and_how_it_would_count(made, digits_file, tmp_path, capsys):
    what = ["--synthetic", str(made), "--data", str(digits_file), "--out", str(tmp_path / "e.csv")]
    how = ["--arch", "mlp", "--networks", "1", "--epochs", "4", "--lr", "1e30", "--threads", "1"]
    assert main(["evaluate", *what, *how]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith(
        "error: mlp: training diverged: the loss is nan"
    )
    assert "use a smaller one, or" in said and said.endswith("--diverged record\n")


def test_rows_say_what_code_made_them_and_on_which_gpu(evaluate, monkeypatch):
    (row,) = evaluate("--arch", "mlp", "--epochs", "1")
    assert row["code"] == code_version() and "gpu" not in row
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Card {device}")
    made = provenance_of_rows(torch.device("cuda:1"))
    past = datetime.now(UTC) - datetime.fromisoformat(made.pop("created"))
    assert timedelta(0) <= past < timedelta(minutes=1)
    assert made == {"code": code_version(), "gpu": "Card cuda:1"}
