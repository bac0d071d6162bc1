"""Recipes: settings against those published, and what is said where there are none."""

import dataclasses

import pytest
import yaml

from dd.artifacts.headers import read_header
from dd.artifacts.tensors import load_tensors, save_tensors
from dd.command import main
from dd.config import recipes
from dd.config.recipes import Fallback, evaluation_fallback, fallback, resolve, resolve_part
from dd.config.run import load_run
from dd.errors import DDError
from dd.plan.plan import Plan
from dd.report import fallbacks
from dd.report.captions import facts
from tests.support.recipes import forget_recipes

SUBSETS = ("imagenette", "imagewoof", "imagefruit", "imageyellow", "imagemeow", "imagesquawk")
LITTLE = ["--threads", "1", "--device", "cpu"]

# steps, expert epochs, max start epoch, lr_img, lr_lr, initial student lr, ZCA, batch (0: all):
# arXiv:2203.11932, Table 6, with CIFAR-10 at IPC 10 as its author corrected it
MTT = {
    ("cifar10", 1): (50, 2, 2, 100, 1e-7, 0.01, True, 0),
    ("cifar10", 10): (30, 2, 20, 100, 1e-5, 0.001, True, 0),
    ("cifar10", 50): (30, 2, 40, 1000, 1e-5, 0.001, False, 0),
    ("cifar100", 1): (20, 3, 20, 1000, 1e-5, 0.01, True, 0),
    ("cifar100", 10): (20, 2, 20, 1000, 1e-5, 0.01, False, 0),
    ("cifar100", 50): (80, 2, 40, 1000, 1e-5, 0.01, True, 125),
    ("tiny_imagenet", 1): (10, 2, 10, 10000, 1e-4, 0.01, False, 0),
    ("tiny_imagenet", 10): (20, 2, 40, 10000, 1e-4, 0.01, False, 200),
    ("tiny_imagenet", 50): (20, 2, 40, 10000, 1e-4, 0.01, False, 300),
    # the README of the public code, ConvNet of depth 5 at 128 pixels
    **{(name, 1): (20, 2, 10, 1000, 1e-6, 0.01, False, 0) for name in SUBSETS},
}


@pytest.mark.parametrize("objective", ["mtt", "iadd"])
def test_settings_of_trajectory_matching(objective):
    for (dataset, ipc), wanted in MTT.items():
        found = resolve(objective, dataset, ipc)
        names = ("student_steps", "expert_epochs", "max_start_epoch", "lr_img", "lr_lr")
        zca = found["whitening"] == "zca"
        values = (*(found[n] for n in names), found["lr_student"], zca, found["batch_syn"])
        assert values == wanted, (dataset, ipc)
        assert (found["iterations"], found["momentum_img"], found["experts"]) == (5000, 0.5, 100)
        assert fallback(objective, dataset, ipc) is None


def test_settings_of_distribution_matching():
    """The README of the public code: rate 1 for CIFAR-10 at IPC 1, 10, 50 and for CIFAR-100, 10 for
    CIFAR-10 from IPC 100 on."""
    known = {"cifar10": (1, 10, 50), "cifar100": (1, 10, 50, 100, 125)}
    rates = {(name, ipc): 1.0 for name, listed in known.items() for ipc in listed}
    rates |= {("cifar10", ipc): 10.0 for ipc in (100, 200, 500, 1000, 1250)}
    for (dataset, ipc), rate in rates.items():
        found = resolve("dm", dataset, ipc)
        assert (found["lr_img"], found["iterations"], fallback("dm", dataset, ipc)) == (
            rate, 20000, None,
        )  # fmt: skip


TRAJECTORIES = "those for CIFAR-10 at IPC 10, without ZCA and with an initial student rate of 0.01"
CODES = "those for digits, lr_latent in proportion to lr_img"
WEIGHTS = "those for digits and CIFAR-10 (lambda_ai of MTT and IADD: 0.1 / lr_img)"
ONE, TEN = "those for IPC 1", "those for IPC 10"
AS_CIFAR100 = "those for CIFAR-100, and customary ones for the teacher"
AS_IMAGENET = "those for ImageNet, and customary ones for the teacher"
AS_TINY = "those for Tiny ImageNet, and customary ones for the teacher"
CHOSEN = "ones that this suite chose for it"
DATASETS = (
    "digits", "cifar10", "cifar100", "tiny_imagenet", "imagenette", "imagewoof", "covid_cxr",
    "nobody_knows", "fashion_mnist",
)  # fmt: skip

# by recipe, for each of DATASETS: what is taken at IPC 1, 5, 10, 50; None: its own
OWN = (None, None, None, None)
LISTED = (None, ONE, None, None)  # at 1, 10 and 50
FLAGS = {
    "random": (OWN,) * 9,
    "herding": (OWN,) * 9,
    "kcenter": (OWN,) * 9,
    "full": (OWN,) * 9,
    "dc": (LISTED,) * 9,
    "dsa": (LISTED,) * 9,
    "dm": (
        ("those for CIFAR-10 up to IPC 50",) * 4, LISTED, LISTED, LISTED,
        *(("those for CIFAR-10 up to IPC 50",) * 4,) * 5,
    ),
    "mtt": (
        (TRAJECTORIES,) * 4, LISTED, LISTED, LISTED, (None, ONE, ONE, ONE), (None, ONE, ONE, ONE),
        *((TRAJECTORIES,) * 4,) * 3,
    ),
    "dd": ((CHOSEN,) * 4, LISTED, *(("those for CIFAR-10",) * 4,) * 7),
    "frepo": (
        (CHOSEN,) * 4, LISTED, LISTED, (None, ONE, None, TEN),
        *(("those for CIFAR-10",) * 4,) * 4, LISTED,
    ),
    "sre2l": (
        (CHOSEN,) * 4, (AS_CIFAR100,) * 4, OWN, OWN, (AS_IMAGENET,) * 4, (AS_IMAGENET,) * 4,
        (AS_TINY,) * 4, (AS_TINY,) * 4, (AS_CIFAR100,) * 4,
    ),
    "glad": (OWN, *((CODES,) * 4,) * 8),
    "metadd": (OWN, OWN, *((WEIGHTS,) * 4,) * 7),
}  # fmt: skip
FLAGS |= {"iadd": FLAGS["mtt"], "relabel": FLAGS["sre2l"]}


@pytest.mark.parametrize("name", FLAGS)
def test_every_fallback_is_flagged(name):
    found = [[fallback(name, dataset, ipc) for ipc in (1, 5, 10, 50)] for dataset in DATASETS]
    taken = [tuple(one and one.takes for one in row) for row in found]
    assert taken == list(FLAGS[name])
    of_ipc = [one.of_ipc for row in found for one in row if one]
    assert of_ipc == [one.takes in (ONE, TEN) for row in found for one in row if one]


def test_the_table_above_has_every_recipe_and_every_dataset_of_a_run():
    from dd.config.run import stems

    names = {*recipes.objectives(), *recipes.parametrisations(), *recipes.regularisers()}
    assert FLAGS.keys() == names | {"relabel"}
    runs = [load_run(name) for name in stems("workflow/config/runs")]
    assert {dataset for run in runs for dataset in run.datasets} <= set(DATASETS)


def test_what_is_taken_at_an_ipc_between():
    assert fallback("mtt", "cifar10", 20) == Fallback(TEN, of_ipc=True)
    assert fallback("dc", "digits", 45) == Fallback("those for IPC 40", of_ipc=True)
    assert resolve("mtt", "cifar10", 20) == resolve("mtt", "cifar10", 10)
    assert resolve("dc", "digits", 45) == resolve("dc", "digits", 40)
    for ipc in (10, 50):
        for subset in SUBSETS:
            assert fallback("iadd", subset, ipc) == Fallback(ONE, of_ipc=True)
            assert resolve("iadd", subset, ipc) == resolve("iadd", subset, 1)


def test_what_is_said_of_the_settings_taken_is_true():
    upright = {"augment": "color_crop_cutout_scale_rotate"}
    other = {"whitening": "none", "lr_student": 0.01, **upright}
    for objective in ("mtt", "iadd"):
        for ipc in (1, 5, 10, 50):
            assert resolve(objective, "covid_cxr", ipc) == (
                resolve(objective, "cifar10", 10) | other
            )
    for ipc in (1, 10, 50):
        assert resolve("dm", "imagenette", ipc) == resolve("dm", "cifar10", ipc)
    assert resolve("dm", "covid_cxr", 100) == resolve("dm", "cifar10", 50) | upright
    pairs = {"cifar10": "cifar100", "imagewoof": "imagenet", "covid_cxr": "tiny_imagenet"}
    for dataset, taken in pairs.items():
        unflipped = {"flip": 0.0} if dataset == "covid_cxr" else {}
        assert resolve("sre2l", dataset, 10) == resolve("sre2l", taken, 10) | unflipped
        assert recipes.resolve_evaluation("sre2l", dataset, 10) == (
            recipes.resolve_evaluation("sre2l", taken, 10)
        )
        assert (
            recipes.resolve_training("relabel", dataset)
            == recipes.resolve_training("relabel", taken) | unflipped
        )
    others = ("digits", "covid_cxr", "svhn", "imagenet")
    customary = [
        recipes.resolve_training("pretrain", name, network="resnet18_bn")["lr"] for name in others
    ]
    assert set(customary) == {0.1}


@pytest.mark.parametrize("dataset", ["digits", "cifar10", "cifar100", "tiny_imagenet", *SUBSETS])
def test_rates_of_latents_and_weights_follow_the_rate_of_images(dataset):
    """lr_latent is proportional to lr_img; of MTT and IADD, lambda_ai x lr_img is 0.1."""
    for objective in ("dm", "mtt", "iadd"):
        for ipc in (1, 10, 50, 100):
            rate = resolve(objective, dataset, ipc)["lr_img"]
            latent = resolve_part("glad", objective, dataset, ipc)["lr_latent"]
            assert latent == pytest.approx(0.3 * rate)
            if objective != "dm":
                weight = resolve_part("metadd", objective, dataset, ipc)["lambda_ai"]
                assert weight * rate == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"own": None}, "mtt: its settings differ by dataset; say in 'own'"),
        ({"fallback": None}, "mtt: 'fallback' must say under 'any' whose settings others take"),
        ({"fallback": {"digits": "those for SVHN"}}, "'fallback' must say under 'any'"),
    ],
)
def test_a_recipe_cannot_fall_back_in_silence(tmp_path, monkeypatch, change, message):
    blocks = yaml.safe_load(recipes.RECIPES.read_text(encoding="utf-8"))
    blocks["mtt"] = {k: v for k, v in (blocks["mtt"] | change).items() if v is not None}
    path = tmp_path / "recipes.yaml"
    path.write_text(yaml.safe_dump(blocks), encoding="utf-8")
    monkeypatch.setattr(recipes, "RECIPES", path)
    forget_recipes()
    try:
        with pytest.raises(DDError, match=message):
            recipes.load_recipes()
    finally:
        monkeypatch.undo()
        forget_recipes()


def test_below_all_listed_ipcs(monkeypatch):
    blocks = {"mine": {"own": {"digits": [10]}, "fallback": {"any": "those for SVHN"}}}
    monkeypatch.setattr(recipes, "load_recipes", lambda: blocks)
    assert fallback("mine", "digits", 1) == Fallback("its general ones", of_ipc=True)
    assert fallback("mine", "digits", 10) is None
    assert fallback("mine", "cifar10", 10) == Fallback("those for SVHN")
    with pytest.raises(DDError, match="unknown recipe 'min': did you mean 'mine'"):
        fallback("min", "cifar10", 10)


def test_of_evaluations_alone():
    """Networks on sets of MTT are trained alike on every dataset, augmentation apart."""
    assert evaluation_fallback("mtt", "digits", 1) is None
    assert evaluation_fallback("dc", "digits", 5) is None
    assert evaluation_fallback("sre2l", "digits", 1) == Fallback(CHOSEN)


def test_nothing_is_published_of_a_fallback():
    """Where the field has constants for a dataset, what counts is whose settings run."""
    names = ("cifar10", "svhn")
    datasets = {name: {"source": name, "label": name, "comparable_to": name} for name in names}
    run = dataclasses.replace(load_run("iadd"), datasets=datasets)
    assert run.as_published("mtt", "cifar10", 10) and not run.as_published("mtt", "cifar10", 5)
    assert not run.as_published("mtt", "svhn", 10)
    assert run.as_published("dc", "svhn", 10) and not run.as_published("dc", "svhn", 5)


OPENING = "Fallback, if neither the recipe nor the run has settings for a dataset or IPC: "
DIGITS = "digits (scikit-learn, 8x8)"
MTT_ON_DIGITS = f"MTT and IADD on {DIGITS} take {TRAJECTORIES}"
DM_ON_DIGITS = f"DM on {DIGITS} takes those for CIFAR-10 up to IPC 50"
SRE2L_ON_DIGITS = f"SRe2L and relabelling on {DIGITS} take {CHOSEN}"


def test_captions_of_a_run_on_digits():
    exhibits = Plan(load_run("smoke")).exhibits
    wanted = {
        ("table", "iadd_sota"): [DM_ON_DIGITS, MTT_ON_DIGITS],
        ("table", "iadd_hyperparameters"): [MTT_ON_DIGITS],
        ("table", "modelpool_settings"): [
            DM_ON_DIGITS,
            MTT_ON_DIGITS,
            f"SRe2L, DD, FRePo and relabelling on {DIGITS} take {CHOSEN}",
        ],
        ("table", "families"): [
            DM_ON_DIGITS,
            f"MTT on {DIGITS} takes {TRAJECTORIES}",
            f"DD and FRePo on {DIGITS} take {CHOSEN}",
        ],
        ("figure", "iadd_curves"): [MTT_ON_DIGITS],
        ("figure", "iadd_images"): [MTT_ON_DIGITS],
        ("figure", "iadd_parameter_difference"): [MTT_ON_DIGITS],
        ("table", "metadd_ablation"): [DM_ON_DIGITS],
        ("figure", "metadd_cams"): [DM_ON_DIGITS],
    }
    for key, sentences in wanted.items():
        said = facts(exhibits[key], [])
        assert f"{OPENING}{'; '.join(sentences)}." in said and said.count(OPENING) == 1, key
    # SRe2L learns from soft labels in the one, the other shows no accuracies
    assert SRE2L_ON_DIGITS in facts(exhibits["table", "metadd_cross_arch"], [])
    assert f"SRe2L on {DIGITS} takes {CHOSEN}" in facts(exhibits["table", "metadd_cost"], [])
    for key in (("table", "modelpool_ablation"), ("figure", "modelpool_temperature")):
        assert OPENING not in facts(exhibits[key], [])  # DC's settings are the same for all


def test_captions_of_datasets_with_recipes_and_without():
    for exhibit in Plan(load_run("iadd")).exhibits.values():
        assert OPENING not in facts(exhibit, [])
    said = facts(Plan(load_run("paper")).exhibits["table", "metadd_meta_area"], [])
    nets = "ImageNette (128x128) and ImageWoof (128x128)"
    assert f"MTT on {nets} at IPC 10 and 50 takes those for IPC 1" in said
    assert f"SRe2L on {nets} takes {AS_IMAGENET}" in said
    assert f"MetaDD on Tiny ImageNet, {nets[:20]} and {nets[25:]} takes {WEIGHTS}" in said
    assert "MTT on Tiny" not in said and "SRe2L on Tiny" not in said


def test_an_override_does_not_hide_a_fallback():
    run = load_run("iadd-digits")
    assert run.recipes["mtt"]["student_steps"] == 20  # of its own
    (said,) = fallbacks.of_run(run)
    assert said == f"{OPENING}{DM_ON_DIGITS}; {MTT_ON_DIGITS}."


def test_by_hand(tmp_path, digits_file, capsys):
    out = tmp_path / "made"
    words = ["--data", str(digits_file), "--out", str(out), "--snapshots", "0", "1", *LITTLE]
    assert main(["distill", "--objective", "dm", "--ipc", "2", "--network", "mlp", *words]) == 0
    assert capsys.readouterr().out.splitlines()[0] == (
        "distill: dm has no settings of its own for digits; unless an option sets them, it "
        "takes those for CIFAR-10 up to IPC 50"
    )
    made = out / "it0.safetensors"
    assert read_header(made)["recipe"] == {"dm": "those for CIFAR-10 up to IPC 50"}
    assert main(["distill", "--objective", "dc", "--ipc", "5", "--network", "mlp", *words]) == 0
    assert "dc has no settings of its own for digits at IPC 5;" in capsys.readouterr().out
    words[words.index("1") :] = LITTLE
    assert main(["distill", "--objective", "random", "--ipc", "2", *words]) == 0
    assert capsys.readouterr().out.count("\n") == 1
    assert read_header(made)["recipe"] == {"random": "own"}


def test_evaluation_by_hand(tmp_path, digits_file, capsys):
    words = ["--data", str(digits_file), "--out", str(tmp_path / "made"), *LITTLE]
    command = ["distill", "--objective", "random", "--ipc", "1", "--snapshots", "0", *words]
    assert main(command) == 0
    made = tmp_path / "made" / "it0.safetensors"
    tensors, _ = load_tensors(made, "synthetic")
    capsys.readouterr()
    lines = {
        "random": None,
        "sre2l": "evaluate: sre2l has no settings of its own for digits; unless an option sets "
        f"them, it takes {CHOSEN}",
        "theirs": "evaluate: the set names no known method; unless an option sets them, settings "
        "are those of dc",
    }  # fmt: skip
    for objective, line in lines.items():
        path, out = tmp_path / f"{objective}.safetensors", tmp_path / f"{objective}.csv"
        save_tensors(path, "synthetic", tensors, {"objective": objective})
        options = ["--arch", "mlp", "--networks", "1", "--epochs", "1", "--out", str(out)]
        paths = ["--synthetic", str(path), "--data", str(digits_file)]
        assert main(["evaluate", *paths, *options, *LITTLE]) == 0
        classes, *before, _ = capsys.readouterr().out.splitlines()
        assert "names no classes" in classes and before == ([line] if line else [])
