"""Recipes resolved: by IPC, dataset, network and what a run overrides."""

import pytest

from dd.config.recipes import (
    merged,
    objectives,
    resolve,
    resolve_evaluation,
    resolve_training,
)
from dd.config.run import load_run
from dd.errors import DDError
from dd.plan.jobs import (
    Distillation,
)
from dd.plan.plan import Plan


@pytest.mark.parametrize(
    ("ipc", "outer", "inner"),
    [(1, 1, 1), (2, 1, 1), (10, 10, 50), (19, 10, 50), (20, 20, 25), (50, 50, 10), (99, 50, 10)],
)
def test_dc_loops_by_ipc(ipc, outer, inner):
    recipe = resolve("dc", "cifar10", ipc)
    assert (recipe["outer"], recipe["inner"]) == (outer, inner)


def test_recipes_layer_dataset_over_general_and_overrides_over_all():
    assert resolve("dsa", "cifar10", 1)["augment"].split("_").count("flip") == 1
    assert "flip" not in resolve("dsa", "digits", 1)["augment"]
    assert resolve("dm", "svhn", 1, {"augment": "none", "lr_img": 2})["augment"] == "none"
    assert resolve_evaluation("dc", "cifar10", 1)["epochs"] == 300
    assert resolve_evaluation("dm", "cifar10", 1)["epochs"] == 1000
    with pytest.raises(DDError, match="unknown distillation setting of dc 'lr'"):
        resolve("dc", "cifar10", 1, {"lr": 1})
    with pytest.raises(DDError, match=r"'outer' of dc is 1\.5, it must be a whole number"):
        resolve("dc", "cifar10", 1, {"outer": 1.5})


def test_dcs_evaluation_augments_where_its_code_does():
    """On MNIST, and for a ConvNet with batch norm on every dataset; then for 1000 epochs."""

    def found(objective, dataset, network=""):
        settings = resolve_evaluation(objective, dataset, 1, network=network)
        return settings["augment"], settings["epochs"]

    for objective in ("dc", "random", "herding", "kcenter"):
        assert found(objective, "cifar10") == found(objective, "svhn", "convnet") == ("none", 300)
        assert found(objective, "mnist") == ("dc:crop_scale_rotate", 1000)
        assert found(objective, "mnist", "vgg11_bn") == ("dc:crop_scale_rotate", 1000)
        for dataset in ("cifar10", "mnist", "svhn"):
            for network in ("convnet:norm=batch", "convnet:depth=3,norm=batch,width=64"):
                assert found(objective, dataset, network) == ("dc:crop_noise", 1000)
    for objective in ("dsa", "dm", "mtt", "full"):
        assert found(objective, "cifar10", "convnet:norm=batch") == found(objective, "cifar10")


def test_sections_by_network_with_more_options_win():
    block = {
        "lr": 1,
        "network": {
            "convnet:depth=2,norm=batch": {"lr": 4},
            "convnet": {"lr": 2, "epochs": 2},
            "convnet:norm=batch": {"lr": 3, "batch": 3},
        },
    }
    found = {
        network: merged(block, "", network=network)
        for network in ("", "mlp", "convnet", "convnet:norm=batch", "convnet:norm=batch,depth=2")
    }
    assert list(found.values()) == [
        {"lr": 1},
        {"lr": 1},
        {"lr": 2, "epochs": 2},
        {"lr": 3, "epochs": 2, "batch": 3},
        {"lr": 4, "epochs": 2, "batch": 3},
    ]


def test_what_is_no_image_in_a_mirror_is_flipped_nowhere():
    """Experts, students, frozen networks, generator and views of one dataset agree."""
    for dataset in ("digits", "mnist", "svhn", "covid_cxr"):
        told = [
            resolve_training("buffer", dataset),
            resolve_training("generator", dataset),
            resolve_training("relabel", dataset),
        ]
        told += [
            resolve_training("pretrain", dataset, network=network)
            for network in ("", "resnet18_bn", "vit")
        ]
        for objective in objectives():
            told.append(resolve(objective, dataset, 10))
            told.append(resolve_evaluation(objective, dataset, 10, network="convnet:norm=batch"))
        for settings in told:
            assert "flip" not in settings.get("augment", "") and not settings.get("flip")


@pytest.mark.parametrize("name", ["covid", "iadd", "iadd-digits", "smoke"])
def test_experts_and_students_see_the_same_augmentation(name):
    plan = Plan(load_run(name))
    matched = [job for job in plan.of(Distillation) if "experts" in job.settings(plan.run)]
    assert matched
    for job in matched:
        used = {
            job.settings(plan.run)["augment"],
            plan.run.evaluation(job.method, job.dataset, job.ipc)["augment"],
            plan.run.training("buffer", job.dataset)["augment"],
        }
        assert len(used) == 1


def test_labels_are_mixed_in_the_students_batches():
    for dataset in ("cifar10", "mnist", "digits", "imagenet", "imagewoof", "tiny_imagenet", "x"):
        batch = resolve_evaluation("sre2l", dataset, 10)["batch"]
        assert resolve_training("relabel", dataset)["batch"] == batch
    for dataset in ("imagenet", "imagenette", "imagewoof"):
        assert resolve_evaluation("sre2l", dataset, 1)["decayed"] == "matrices"
    assert resolve_evaluation("sre2l", "tiny_imagenet", 1)["decayed"] == "all"


def test_recipes_fit_the_objectives_that_are_registered():
    from dd.config.settings import build
    from dd.distill.objectives import OBJECTIVES

    assert tuple(OBJECTIVES) == objectives()
    for name in OBJECTIVES:
        build(OBJECTIVES[name].Settings, resolve(name, "cifar10", 10), name)
