"""Runs, methods and protocols; the cells and jobs of the tables against counts made by hand."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from dd.config.methods import Method, parse, parse_protocol
from dd.config.recipes import (
    merged,
    objectives,
    resolve,
    resolve_evaluation,
    resolve_training,
)
from dd.config.run import load_run, read_run
from dd.errors import DDError
from dd.plan.exhibits import Cell, Exhibit
from dd.plan.jobs import (
    Distillation,
    Evaluation,
    GeneratorTraining,
    Preparation,
    Pretraining,
    Shard,
    command_words,
)
from dd.plan.kinds import inputs
from dd.plan.plan import Plan

PROTOCOLS = {
    "hard": {"protocol": "hard"},
    "kd": {"protocol": "kd", "variant": "paper", "temperature": 3, "alpha": 0.5},
}


def write_run(folder: Path, **changes) -> Path:
    """The smoke run with ``changes``, as a file of its own."""
    document = yaml.safe_load(Path("workflow/config/runs/smoke.yaml").read_text())
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(document | changes))
    return path


@pytest.fixture(scope="module")
def cifar10():
    return Plan(load_run("cifar10"))


def with_axes(exhibit: Exhibit, **axes) -> list[Cell]:
    """The cells of ``exhibit`` with other axes."""
    return replace(exhibit, definition=exhibit.definition | {"axes": axes, "exclude": []}).cells()


@pytest.mark.parametrize(
    ("text", "method"),
    [
        ("dc", Method("dc")),
        ("dm+pool", Method("dm", pool="pool")),
        ("dc+pool-x", Method("dc", pool="pool-x")),
    ],
)
def test_methods(text, method):
    assert parse(text, ["pool", "pool-x"]) == method
    assert str(method) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dcc", "unknown objective 'dcc': did you mean 'dc'?"),
        ("dc+poool", "unknown modifier of method 'dc+poool' 'poool': did you mean 'pool'?"),
        ("dc+pool+pool-x", "names more than one network source"),
    ],
)
def test_wrong_methods(text, message):
    with pytest.raises(DDError) as error:
        parse(text, ["pool", "pool-x"])
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "canonical", "settings"),
    [
        ("iadd@weights=raw", "iadd@weights=raw", {"weights": "raw"}),
        ("iadd@weights=raw+pool", "iadd@weights=raw+pool", {"weights": "raw"}),
        ("mtt@student_steps=5,lr_img=10", "mtt@lr_img=10,student_steps=5",
         {"student_steps": 5, "lr_img": 10.0}),
        ("mtt@lr_lr=1e-7", "mtt@lr_lr=1e-07", {"lr_lr": 1e-7}),
    ],
)  # fmt: skip
def test_settings_in_a_method(text, canonical, settings):
    method = parse(text, ["pool"])
    assert (str(method), dict(method.settings)) == (canonical, settings)
    assert all(type(method.settings[name]) is type(value) for name, value in settings.items())
    assert parse(canonical, ["pool"]) == method


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("iadd@weight=raw", "unknown setting of iadd 'weight': did you mean 'weights'?"),
        ("iadd@weights", "'weights' must be NAME=VALUE"),
        ("mtt@student_steps=many", "student_steps is 'many', it must be a whole number"),
    ],
)
def test_wrong_settings_in_a_method(text, message):
    with pytest.raises(DDError) as error:
        parse(text)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "overrides", "name"),
    [
        ("kd", {}, "kd"),
        ("kd@temperature=3", {}, "kd"),
        ("kd@temperature=3.0", {}, "kd"),
        ("kd", {"temperature": 0.5}, "kd@temperature=0.5"),
        ("kd@temperature=0.5", {"alpha": 0.9}, "kd@alpha=0.9,temperature=0.5"),
        ("kd@temperature=0.5,alpha=0.9", {}, "kd@alpha=0.9,temperature=0.5"),
        ("kd@temperature=0.5", {"temperature": 3}, "kd"),
        ("kd@variant=released", {}, "kd@variant=released"),
    ],
)
def test_canonical_protocols(text, overrides, name):
    protocol = parse_protocol(text, PROTOCOLS, **overrides)
    assert str(protocol) == name
    assert parse_protocol(name, PROTOCOLS).options == protocol.options


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kdd", "unknown protocol 'kdd': did you mean 'kd'?"),
        (
            "kd@temperatur=1",
            "unknown option of protocol 'kd' 'temperatur': did you mean 'temperature'?",
        ),
        ("kd@temperature=warm", "temperature is 'warm', it must be a number"),
        ("kd@temperature", "must be NAME=VALUE"),
        ("hard@temperature=1", "unknown option of protocol 'hard' 'temperature'"),
    ],
)
def test_wrong_protocols(text, message):
    with pytest.raises(DDError) as error:
        parse_protocol(text, PROTOCOLS)
    assert message in str(error.value)


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

    assert sorted(OBJECTIVES) == objectives()
    for name in OBJECTIVES:
        build(OBJECTIVES[name].Settings, resolve(name, "cifar10", 10), name)


def test_ablation_has_204_cells(cifar10):
    # 2 ipc x 3 iterations x (6 settings x 5 networks + 4 settings on the ConvNet)
    cells = cifar10.exhibits["table", "modelpool_ablation"].cells()
    assert len(cells) == 2 * 3 * (6 * 5 + 4) == 204
    by_setting = Counter(cell.labels["setting"] for cell in cells if cell.arch == "convnet")
    assert by_setting == {
        "baseline": 6, "pool": 6, "baseline (0.5 CE)": 6, "pool (0.5 CE)": 6,
    }  # fmt: skip
    halved = {c.protocols for c in cells if "0.5 CE" in c.labels["setting"]}
    assert halved == {("kd-released@temperature=0",)}


def test_pool_settings_has_90_cells(cifar10):
    cells = cifar10.exhibits["table", "modelpool_pool_settings"].cells()
    assert len(cells) == 2 * 3 * 3 * 5 == 90
    assert {cell.protocols for cell in cells} == {("hard",)}


def test_distillations_are_shared(cifar10):
    # T4: dc and dc+pool; T5 adds two pools and shares dc+pool; the released table adds one
    expected = {
        Distillation("cifar10", method, ipc, 0): (1000, 2000, 3000)
        for method in ("dc", "dc+pool", "dc+pool-random", "dc+pool-various", "dc+pool-released")
        for ipc in (1, 10)
    }
    assert {job: job.snapshots for job in cifar10.of(Distillation)} == expected


def test_evaluations_are_shared_and_have_the_union_of_networks(cifar10):
    job = Evaluation(Distillation("cifar10", "dc+pool", 1, 0), 1000, "hard")
    everyone = ("alexnet", "convnet", "lenet", "mlp", "resnet18", "vgg11")
    assert cifar10.planned(job).archs == everyone
    at_default = Evaluation(Distillation("cifar10", "dc", 1, 0), 3000, "kd")
    assert cifar10.planned(at_default).archs == tuple(a for a in everyone if a != "convnet")
    ablation = inputs(cifar10.exhibits["table", "modelpool_ablation"], cifar10.main.jobs)
    curve = inputs(cifar10.exhibits["figure", "modelpool_temperature"], cifar10.main.jobs)
    shared = set(ablation) & set(curve)
    root = "results/cifar10/evaluations/cifar10"
    assert shared == {
        f"{root}/{method}/ipc{ipc}/seed0/it1000/{protocol}.csv"
        for method in ("dc", "dc+pool")
        for ipc in (1, 10)
        for protocol in ("kd", "kd-released@temperature=0")
    }
    # 2 sets x 2 ipc x 2 variants x 13 temperatures, and what is published
    evaluations = [name for name in curve if "/evaluations/" in name]
    assert len(evaluations) == 104
    assert set(curve) - set(evaluations) == {"workflow/reference/modelpool_temperature.csv"}


@pytest.mark.parametrize("seeds", [[0, 5], [0, "5"]])  # as in a file, and as --config gives them
def test_seeds_multiply_the_sets(seeds):
    plan = Plan(load_run("smoke", {"seeds": seeds}))
    once = Plan(load_run("smoke"))
    assert len(plan.of(Distillation)) == 2 * len(once.of(Distillation))
    assert len(plan.of(Evaluation)) == 2 * len(once.of(Evaluation))


def test_a_selection_is_evaluated_where_it_is_done(cifar10):
    """random has no iterations: whatever a table asks for, its set is that of iteration 0."""
    exhibit = cifar10.exhibits["table", "modelpool_ablation"]
    setting = {"a": {"method": "random"}, "b": {"method": "dc"}}
    cells = with_axes(exhibit, ipc=1, iterations=[1000, 2000, 3000], setting=setting, arch="mlp")
    assert [cell.iterations for cell in cells] == [0, 1000, 0, 2000, 0, 3000]
    assert [cell.labels["iterations"] for cell in cells] == [1000, 1000, 2000, 2000, 3000, 3000]


def test_commands_carry_the_settings(cifar10):
    job = Distillation("cifar10", "dc+pool", 10, 0)
    inputs, planned = job.inputs(cifar10.run), cifar10.planned(job)
    words = command_words(inputs | planned.options(cifar10.run))
    assert words[-4:] == ["--snapshots", "1000", "2000", "3000"]
    words = words[:-4]
    pairs = dict(zip(words[::2], words[1::2], strict=True))
    assert pairs["--pool"] == "workflow/config/pools/pool.yaml"
    assert (pairs["--outer"], pairs["--inner"], pairs["--lr-img"]) == ("10", "50", "0.1")
    assert "--iterations" not in pairs
    evaluation = Evaluation(job, 1000, "kd-released@temperature=0")
    words = command_words(evaluation.options(cifar10.run))
    pairs = dict(zip(words[::2], words[1::2], strict=True))
    assert pairs["--protocol"] == "kd"
    assert (pairs["--variant"], float(pairs["--temperature"])) == ("released", 0)
    assert float(pairs["--temperature-decay"]) == 0.9
    assert (pairs["--epochs"], pairs["--networks"], pairs["--seed"]) == ("300", "10", "0")
    assert "--arch-settings" not in words
    assert command_words({"zca": True, "resize": None, "x": False}) == ["--zca"]
    assert command_words({"few": ["a", 2.0], "none": []}) == ["--few", "a", "2"]


def test_commands_say_what_one_network_is_trained_with(tmp_path):
    """Of the networks of the table, and of a teacher; a run's own settings may be of one too."""
    axes = {"ipc": [1], "iterations": [1], "arch": ["convnet:norm=batch", "mlp", "lenet"]}
    own = {"epochs": 7, "network": {"lenet": {"lr": 0.5}}}
    plan = Plan(load_run(write_run(tmp_path, axes=axes, recipes={"evaluation": own})))
    made = Distillation("digits", "dc", 1, 0)
    hard, kd = Evaluation(made, 1, "hard"), Evaluation(made, 1, "kd")
    batch = "convnet:norm=batch@augment=dc:crop_noise"  # for the 7 epochs that the run asks for
    assert plan.planned(hard).options(plan.run)["arch_settings"] == [batch, "lenet@lr=0.5"]
    words = command_words(plan.planned(kd).options(plan.run))
    at = words.index("--arch-settings")
    assert words[at + 1 : at + 3] == [batch, "lenet@lr=0.5"]
    assert words[words.index("--augment") + 1] == "none"
    document = plan.document()["evaluations"]["digits/dc/ipc1/seed0/it1/hard"]
    assert document["arch_settings"]["convnet:norm=batch"] == {"augment": "dc:crop_noise"}


def test_a_teacher_has_settings_of_its_own(tmp_path):
    axes = {"ipc": [1], "iterations": [1], "arch": ["mlp"]}
    own = {"evaluation": {"network": {"convnet": {"epochs": 9}}}}
    plan = Plan(load_run(write_run(tmp_path, axes=axes, recipes=own)))
    made = Distillation("digits", "dc", 1, 0)
    assert Evaluation(made, 1, "hard", ("mlp",)).arch_settings(plan.run) == {}
    assert Evaluation(made, 1, "kd", ("mlp",)).arch_settings(plan.run) == {"convnet": {"epochs": 9}}


def test_published_only_under_the_papers_settings():
    assert load_run("cifar10").as_published("dc+pool", "cifar10", 10)
    assert not load_run("smoke").as_published("dc", "digits", 1)


def test_published_beside_a_network_under_the_papers_settings():
    run = load_run("cifar10")
    changed = replace(run, recipes={"evaluation": {"network": {"vgg11": {"epochs": 3}}}})
    for networks, published in ((["mlp"], True), (["vgg11"], False), (["mlp", "vgg11"], False)):
        assert run.as_published("dc", "cifar10", 10, networks)
        assert changed.as_published("dc", "cifar10", 10, networks) == published


def test_an_image_folder_is_recognised_and_named(tmp_path):
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
    options_ = load_run("cifar10", {"data_root": str(tmp_path)}).datasets["cifar10"]
    assert options_["source"] == "image-folder"
    assert options_["label"] == "CIFAR-10 (image folder)"
    (tmp_path / "test").rmdir()
    options_ = load_run("cifar10", {"data_root": str(tmp_path)}).datasets["cifar10"]
    assert (options_["source"], options_["root"]) == ("cifar10", str(tmp_path))


def split_folder(path):
    for part in ("train", "test"):
        (path / part).mkdir(parents=True)
    return str(path)


def test_a_folder_keeps_the_normalisation_of_the_source(tmp_path):
    folder = {"data_root": split_folder(tmp_path / "images")}
    for name in ("cifar10", "metadd"):
        run = load_run(name, folder)
        dataset = next(iter(run.datasets))
        expected = {"cifar10": "cifar10", "tiny_imagenet": "tiny-imagenet"}[dataset]
        assert run.normalisation(dataset) == expected
        asked = Preparation(dataset).options(run)
        assert (asked["source"], asked["normalise_as"]) == ("image-folder", expected)
    plain = load_run("smoke")
    assert Preparation("digits").options(plain)["normalise_as"] == "data"
    assert load_run("paper").normalisation("imagenette") == "imagenet"


def test_published_values_beside_a_copy_that_has_a_name(tmp_path):
    folder = split_folder(tmp_path / "images")
    nameless = load_run("cifar10", {"data_root": folder})
    assert not nameless.as_published("dc", "cifar10", 1)
    run = load_run("cifar10", {"data_root": folder, "copy": "JPEG"})
    assert run.datasets["cifar10"]["label"] == "CIFAR-10 (JPEG copy)"
    assert run.datasets["cifar10"]["comparable_to"] == "cifar10"
    assert run.as_published("dc", "cifar10", 1)
    assert not {"copy", "comparable_to"} & Preparation("cifar10").options(run).keys()
    assert Preparation("cifar10").options(run)["label"] == "CIFAR-10 (JPEG copy)"
    tiny = load_run("metadd", {"data_root": folder, "copy": "JPEG"})
    assert tiny.datasets["tiny_imagenet"]["channels"] == 3
    assert tiny.as_published("dm", "tiny_imagenet", 10)
    options_ = run.datasets["cifar10"]
    for changed in ({"normalise_as": "data"}, {"normalise_as": "svhn"}, {"resize": 16},
                    {"channels": 1}, {"zca_eps": 0.2}):  # fmt: skip
        other = replace(run, datasets={"cifar10": options_ | changed})
        assert not other.as_published("dc", "cifar10", 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"copy": "JPEG"}, "copy is for a folder of images; the source cifar10 reads the original"),
        ({"source": "image-folder"}, "comparable_to needs copy"),
        ({"source": "image-folder", "copy": "JPEG", "comparable_to": None}, "copy needs compara"),
        ({"normalise_as": "cifar"}, "unknown normalisation 'cifar': did you mean 'cifar10'"),
        ({"normalise_as": "cifar10", "channels": 1}, "is for 3 channels, channels is 1"),
        ({"source": "image-folder", "copy": "a\nb"}, "copy"),
    ],
)
def test_what_a_dataset_says_must_go_together(tmp_path, changes, message):
    document = yaml.safe_load(Path("workflow/config/runs/cifar10.yaml").read_text())
    options_ = document["datasets"]["cifar10"] | changes
    document["datasets"] = {"cifar10": {k: v for k, v in options_.items() if v is not None}}
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(DDError, match=message):
        load_run(str(path))


def test_a_copy_of_nothing_is_refused(tmp_path):
    (tmp_path / "torchvision").mkdir()
    for more in ({}, {"data_root": str(tmp_path / "torchvision")}):
        with pytest.raises(DDError, match="copy: describes the folder data_root, but this run"):
            load_run("cifar10", {"copy": "JPEG", **more})


def test_a_folder_with_the_data_of_every_dataset(tmp_path):
    for name in ("cifar10", "cifar100", "tiny_imagenet"):
        (tmp_path / name).mkdir()
    for part in ("train", "val", "test"):  # Tiny ImageNet in its original layout
        (tmp_path / "tiny_imagenet" / part).mkdir()
    for part in ("train", "test"):
        (tmp_path / "cifar100" / part).mkdir()
    found = load_run("iadd", {"data_root": str(tmp_path)}).datasets
    assert {name: options_["source"] for name, options_ in found.items()} == {
        "cifar10": "cifar10", "cifar100": "image-folder", "tiny_imagenet": "tiny-imagenet",
    }  # fmt: skip
    assert all(options_["root"] == str(tmp_path / name) for name, options_ in found.items())
    assert "comparable_to" not in found["cifar100"]
    (tmp_path / "tiny_imagenet" / "val").rmdir()
    chosen = {"data_root": str(tmp_path / "tiny_imagenet"), "datasets": ["tiny_imagenet"]}
    options_ = load_run("iadd", chosen).datasets["tiny_imagenet"]
    assert (options_["source"], options_["channels"]) == ("image-folder", 3)


def test_experts_are_trained_once_for_all_that_match_them():
    # CIFAR-10 and CIFAR-100 with ZCA at some IPCs and without at others
    plan = Plan(load_run("iadd"))
    spaces = {(shard.dataset, shard.whitening) for shard in plan.of(Shard)}
    assert spaces == {
        ("cifar10", "zca"), ("cifar10", "none"), ("cifar100", "zca"), ("cifar100", "none"),
        ("tiny_imagenet", "none"),
    }  # fmt: skip
    assert len(plan.of(Shard)) == 5 * 10  # 100 experts in shards of 10
    job = next(
        j for j in plan.of(Distillation) if (j.method, j.dataset, j.ipc) == ("mtt", "cifar10", 1)
    )
    shards = job.reads(plan.run)["buffers"]
    assert [shard.number for shard in shards] == list(range(10))
    pairs = shards[3].options(plan.run)
    assert (pairs["first"], pairs["experts"], pairs["whitening"]) == (30, 10, "zca")
    assert plan.planned(Preparation("cifar10")).zca
    assert not plan.planned(Preparation("tiny_imagenet")).zca
    full = [j for j in plan.of(Distillation) if j.method == "full"]
    assert [(j.dataset, j.ipc) for j in full] == [(name, 0) for name in plan.run.datasets]


def test_a_pool_needs_the_experts_of_all_its_networks():
    job = Distillation("digits", "mtt+pool-various", 1, 0)
    shards = job.reads(load_run("smoke"))["buffers"]
    assert [shard.network for shard in shards] == ["convnet", "lenet", "alexnet", "vgg11"]


def test_what_is_asked_for_one_table_wins_over_what_is_asked_everywhere(tmp_path):
    """By name, then by paper, then everywhere; axis by axis."""
    narrower = {
        "metadd": {"ipc": [10, 50], "arch": ["vit"]},
        "metadd_cost": {"ipc": [1], "method": ["dm", "dc"]},
        "metadd_images": {"method": ["sre2l"]},
    }
    plan = Plan(load_run(str(write_run(tmp_path, axes_for=narrower))))

    def values(kind, name, *axes):
        cells = plan.exhibits[kind, name].cells()
        return [sorted({cell.labels[axis] for cell in cells}) for axis in axes]

    assert values("table", "modelpool_ablation", "ipc") == [[1, 10]]  # of another paper
    assert values("table", "metadd_cross_arch", "ipc", "arch") == [[10, 50], ["vit"]]
    assert len(values("table", "metadd_cross_arch", "method")[0]) == 12
    assert values("table", "metadd_cost", "ipc", "method") == [[1], ["dc", "dm"]]
    assert values("figure", "metadd_images", "ipc", "method") == [[10], ["sre2l"]]  # the first


def test_weights_of_the_user_take_the_place_of_training(tmp_path):
    given = {
        "pretrained": {"digits": {"resnet18_bn": "mine/resnet.safetensors"}},
        "generators": {"digits": {"weights": "mine/gan.safetensors", "adapter": "mine:load"}},
    }
    ours, theirs = Plan(load_run("smoke")), Plan(load_run(str(write_run(tmp_path, **given))))
    generator = GeneratorTraining("digits", "none")
    assert set(ours.of(Pretraining)) == set(theirs.of(Pretraining))
    assert (ours.of(GeneratorTraining), theirs.of(GeneratorTraining)) == ([generator], [])
    latents, pixels = (Distillation("digits", method, 1, 0) for method in ("dm+glad", "dm"))
    trained = "results/smoke/pretrained/digits/none/generator.safetensors"
    for plan, file, adapter in (
        (ours, trained, None),
        (theirs, "mine/gan.safetensors", "mine:load"),
    ):
        assert latents.inputs(plan.run)["generator"] == [file]
        assert pixels.inputs(plan.run)["generator"] == []
        assert latents.options(plan.run)["adapter"] == adapter
        assert "adapter" not in pixels.options(plan.run)
    # the file is read by `dd pretrain`, which checks it and measures it on this dataset
    for job in theirs.of(Pretraining):
        given = ["mine/resnet.safetensors"] if job.network == "resnet18_bn" else []
        assert job.inputs(theirs.run)["weights"] == given
        assert job.inputs(ours.run)["weights"] == []


def test_config_json_gives_the_run_back(tmp_path):
    from dd.__main__ import main

    out = tmp_path / "smoke" / "config.json"
    assert main(["configure", "--run", "smoke", "--set", "seeds=[1, 2]", "--out", str(out)]) == 0
    again, run = read_run(out), load_run("smoke", {"seeds": [1, 2], "results": str(tmp_path)})
    assert again.document() == json.loads(json.dumps(run.document()))
    # JSON turns the keys of a recipe's ipc section to text
    assert again.distillation("dc", "digits", 10) == run.distillation("dc", "digits", 10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"networs": 2}, "unknown key 'networs': did you mean 'networks'?"),
        ({"networks": "two"}, "networks is 'two', it must be a whole number"),
        ({"networks": 0}, "networks is 0, it must be at least 1"),
        ({"seeds": []}, "seeds is empty"),
        ({"seeds": [1, 1]}, "seeds lists a value twice"),
        ({"tables": ["modelpool_ablatio"]}, "unknown table 'modelpool_ablatio': did you mean"),
        ({"figures": ["nope"]}, "unknown figure 'nope'"),
        ({"optional": ["nope"]}, "unknown table or figure 'nope'"),
        ({"recipes": {"dcc": {}}}, "unknown objective 'dcc'"),
        ({"recipes": {"dc": {"inne": 1}}}, "'inne': did you mean 'inner'?"),
        ({"recipes": {"dc": {"inner": "1"}}}, "'inner' of dc is '1', it must be a whole number"),
        ({"recipes": {"dc": {"ipc": {"ten": {}}}}}, "'ten' must be a number of images per class"),
        ({"recipes": {"buffer": {"expert": 1}}}, "'expert': did you mean 'experts'?"),
        ({"recipes": {"evaluation": {"epoch": 1}}}, "'epoch': did you mean 'epochs'?"),
        ({"recipes": {"pretrain": {"epoch": 1}}}, "'epoch': did you mean 'epochs'?"),
        ({"recipes": {"metadd": {"lamda_ai": 1}}}, "'lamda_ai': did you mean 'lambda_ai'?"),
        ({"axes_for": {"metadd": {"ipc": []}}}, "axes_for.metadd.ipc is empty"),
        ({"pretrained": {"digit": {}}}, "unknown dataset of pretrained 'digit': did you mean"),
        ({"generators": {"digits": {"weights": "x"}}}, "'adapter' is missing in generators.digits"),
        ({"axes": {"ipc": [1]}}, "key 'iterations' is missing in axes"),
        ({"axes": {"ipc": [0], "iterations": [1]}}, "axes.ipc.0 is 0, it must be at least 1"),
        ({"datasets": {"a/b": {"source": "digits", "label": "x"}}}, "'a/b'"),
        ({"datasets": {"d": {"source": "digits"}}}, "key 'label' is missing in datasets.d"),
    ],
)
def test_wrong_runs(tmp_path, changes, message):
    path = write_run(tmp_path, **changes)
    with pytest.raises(DDError) as error:
        load_run(str(path))
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("smok", {}, "unknown run 'smok': did you mean 'smoke'?"),
        ("none.yaml", {}, "none.yaml: no such file"),
        ("smoke", {"sedes": 1}, "unknown configuration key 'sedes': did you mean 'seeds'?"),
        ("smoke", {"seeds": 3}, "seeds is 3, it must be a list"),
        ("smoke", {"networks": 1.5}, "networks is 1.5, it must be a whole number"),
        ("smoke", {"data_root": "."}, "'digits' comes with scikit-learn"),
        ("cifar10", {"data_root": "no/where"}, "data_root: no/where is no folder"),
        ("iadd", {"data_root": "tests"}, "tests/cifar10 is no folder; a run of several datasets"),
        ("iadd", {"datasets": "cifar"}, "unknown dataset of the run 'cifar': did you mean"),
    ],
)
def test_wrong_overrides(name, overrides, message):
    with pytest.raises(DDError) as error:
        load_run(name, overrides)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"datasets": {"d": {"source": "digit", "label": "x"}}}, "did you mean 'digits'?"),
        ({"recipes": {"dc": {"lr_img": -1}}}, "lr_img is -1.0, it must be above 0"),
        ({"recipes": {"dc": {"augment": "flop"}}}, "flop"),
        ({"recipes": {"evaluation": {"momentum": 2}}}, "momentum is 2.0, it must be at most 1"),
        (
            {"recipes": {"evaluation": {"network": {"mlp": {"momentum": 2}}}}},
            "evaluation of mlp: momentum is 2.0, it must be at most 1",
        ),
        ({"recipes": {"evaluation": {"network": {"mpl": {"lr": 1}}}}}, "did you mean 'mlp'?"),
        ({"recipes": {"relabel": {"batch": 64}}}, "batch of evaluation is 128, of relabel 64"),
        ({"axes": {"ipc": [1], "iterations": [1], "arch": ["vgg12"]}}, "unknown network 'vgg12'"),
        (
            {"axes": {"ipc": [1], "iterations": [1], "setting": ["x"]}},
            "value of axis 'setting' 'x'",
        ),
        ({"axes": {"ipc": [1], "iterations": [1], "arhc": ["mlp"]}}, "axis 'arhc' is in none of"),
        ({"axes_for": {"metad": {}}}, "paper in axes_for of run mine 'metad': did you mean"),
        ({"axes_for": {"metadd_cost": {"arch": ["mlp"]}}}, "in axes_for of metadd_cost"),
        ({"axes_for": {"metadd_cost": {"method": ["dcc"]}}}, "value of axis 'method' 'dcc'"),
        (
            {"pretrained": {"digits": {"resnet18_bm": "x"}}},
            "pretrained of run mine, digits, 'resnet18_bm': did you mean 'resnet18_bn'?",
        ),
    ],
)
def test_configure_stops_before_any_job(tmp_path, capsys, changes, message):
    from dd.__main__ import main

    run = str(write_run(tmp_path, **changes))
    assert main(["configure", "--run", run, "--out", str(tmp_path / "config.json")]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "config.json").exists()


def test_only_released_protocols_may_be_selected_on_test_data(cifar10):
    exhibit = cifar10.exhibits["table", "modelpool_ablation_released"]
    notes = {cell.selected for cell in exhibit.cells() if "kd" in cell.labels["setting"]}
    assert notes == {"temperature"}
    select = {"axis": "temperature", "values": [1]}
    setting = {"a": {"method": "dc", "protocol": "kd", "select": select}}
    with pytest.raises(DDError, match="only a 'released' protocol"):
        with_axes(exhibit, ipc=1, setting=setting, arch="mlp")
