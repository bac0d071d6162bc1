"""Runs: folders of images in place of a source, what is published beside them, wrong runs."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from dd.artifacts.text import save_json
from dd.command import main
from dd.config.run import DOWNLOADED, load_run, read_run
from dd.errors import DDError
from dd.plan.jobs import (
    Preparation,
    command_words,
)
from tests.support.smoke import write_run


def test_published_only_under_the_papers_settings():
    assert load_run("cifar10").as_published("dc+pool", "cifar10", 10)
    assert not load_run("smoke").as_published("dc", "digits", 1)


def test_published_beside_a_network_under_the_papers_settings():
    run = load_run("cifar10")
    changed = replace(run, recipes={"evaluation": {"network": {"vgg11": {"epochs": 3}}}})
    for networks, published in ((["mlp"], True), (["vgg11"], False), (["mlp", "vgg11"], False)):
        assert run.as_published("dc", "cifar10", 10, networks)
        assert changed.as_published("dc", "cifar10", 10, networks) == published


FROZEN = {"pretrain": {"network": {"resnet18_bn": {"epochs": 1}}}}


@pytest.mark.parametrize(
    ("method", "protocol", "recipes", "published"),
    [
        ("sre2l", "hard", {}, True),
        ("sre2l", "hard", FROZEN, False),
        ("sre2l", "hard", {"pretrain": {"network": {"vit": {"epochs": 1}}}}, True),
        ("sre2l+pool", "hard", FROZEN, False),
        ("sre2l", "hard", {"relabel": {"views": 1}}, True),
        ("sre2l", "soft", {"relabel": {"views": 1}}, False),
        ("dm", "soft", FROZEN, False),
        ("dm", "hard", FROZEN, True),
        ("dc", "hard", {"buffer": {"epochs": 20}}, True),
        ("mtt", "hard", {"buffer": {"epochs": 20}}, False),
    ],
)
def test_published_values_ask_for_what_was_used_alone(method, protocol, recipes, published):
    """Experts, frozen networks and soft labels count where a method or a protocol uses them."""
    run = load_run("iadd")
    units = "cifar100" if method in ("dc", "dm") else "cifar10"
    options_ = run.datasets["cifar100"] | {"normalise_as": units}
    run = replace(run, recipes=recipes, datasets={"cifar100": options_})
    trained = ["convnet", *(["resnet18_bn.vit"] if protocol == "soft" else [])]
    assert run.as_published(method, "cifar100", 10, trained, [protocol]) == published


def test_two_datasets_of_one_label_are_refused(tmp_path):
    """Tables would put the cells of both together; the label is what is shown, with its copy."""
    names = {"a": "digits", "b": "digits"}
    same = {name: {"source": "digits", "label": label} for name, label in names.items()}
    with pytest.raises(DDError, match=r"mine\.yaml: dataset b: label 'digits' is that of a, too"):
        load_run(str(write_run(tmp_path, datasets=same)))
    copy = {"source": "image-folder", "root": "x", "comparable_to": "mnist"}
    labelled = {
        "a": copy | {"label": "MNIST", "copy": "JPEG"},
        "b": copy | {"label": "MNIST", "copy": "PNG"},
        "c": {"source": "digits", "label": "MNIST (PNG copy)"},
    }
    with pytest.raises(DDError, match=r"dataset c: label 'MNIST \(PNG copy\)' is that of b, too"):
        load_run(str(write_run(tmp_path, datasets=labelled)))
    del labelled["c"]
    assert len(load_run(str(write_run(tmp_path, datasets=labelled))).datasets) == 2


def test_an_image_folder_is_recognised_and_named(tmp_path):
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
    options_ = load_run("cifar10", {"data_root": str(tmp_path)}).datasets["cifar10"]
    assert options_["source"] == "image-folder"
    assert options_["label"] == "CIFAR-10 (image folder)"
    (tmp_path / "test").rmdir()
    options_ = load_run("cifar10", {"data_root": str(tmp_path)}).datasets["cifar10"]
    assert (options_["source"], options_["root"]) == ("cifar10", str(tmp_path))


def test_nothing_is_downloaded_into_a_folder_that_is_given(tmp_path, capsys):
    """What it lacks is said before the first job, and the job downloads nothing, either."""
    images = tmp_path / "images"
    images.mkdir()
    out = tmp_path / "results/cifar10/config.json"
    words = ["configure", "--run", "cifar10", "--out", str(out), "--set"]
    words += [f"results={tmp_path}/results", f"data_root={images}"]
    assert main(words) == 2
    assert capsys.readouterr().err == (
        f"error: run cifar10, cifar10: dataset cifar10: {images} holds neither cifar-10-batches-py "
        "nor cifar-10-python.tar.gz, nor images in train/<class>/ and test/<class>/; give the "
        "folder that does (data_root), or leave data_root out, and torchvision downloads them\n"
    )
    (images / "cifar-10-batches-py").mkdir()
    assert main(words) == 0
    run = read_run(out)
    assert "--no-download" in command_words(Preparation("cifar10").places(run))
    asked = Preparation("cifar10").options(run)
    own = load_run("cifar10")
    assert asked == Preparation("cifar10").options(own)
    assert "--no-download" not in command_words(Preparation("cifar10").places(own))


def test_the_sources_that_download_are_those_of_torchvision():
    import torchvision

    from dd.data.sources import SOURCES

    for source, names in DOWNLOADED.items():
        name = {"fashion_mnist": "FashionMNIST"}.get(source, source.upper())
        made = getattr(torchvision.datasets, name)
        known = {getattr(made, key, None) for key in ("base_folder", "filename")} | {made.__name__}
        if source == "svhn":
            known = {made.split_list["train"][1]}
        assert set(names) <= known
    others = {"digits", "image-folder", "class-folders", "tiny-imagenet"}
    assert {*SOURCES} - others == DOWNLOADED.keys()


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
    assert Preparation("cifar10").places(run)["label"] == "CIFAR-10 (JPEG copy)"
    tiny = load_run("metadd", {"data_root": folder, "copy": "JPEG"})
    assert tiny.datasets["tiny_imagenet"]["channels"] == 3
    assert tiny.as_published("dm", "tiny_imagenet", 10)
    options_ = run.datasets["cifar10"]
    for changed in ({"normalise_as": "data"}, {"normalise_as": "svhn"}, {"resize": 16},
                    {"channels": 1}, {"zca_eps": 0.2}):  # fmt: skip
        other = replace(run, datasets={"cifar10": options_ | changed})
        assert not other.as_published("dc", "cifar10", 1)


def test_published_values_are_of_images_in_the_units_of_their_method():
    """On CIFAR-100 the authors of trajectory matching and of the other methods differ."""
    run = load_run("iadd")
    assert run.normalisation("cifar100") == load_run("paper").normalisation("cifar100") == "cifar10"
    own = {name: v for name, v in run.datasets["cifar100"].items() if name != "normalise_as"}
    plain = replace(run, datasets=run.datasets | {"cifar100": own})
    assert plain.normalisation("cifar100") == "cifar100"
    for method in ("mtt", "iadd", "dc", "dsa", "dm", "random"):
        trajectories = method in ("mtt", "iadd")
        assert run.as_published(method, "cifar100", 10) == trajectories
        assert plain.as_published(method, "cifar100", 10) != trajectories
        assert run.as_published(method, "cifar10", 10)


def test_published_values_of_methods_with_units_of_their_own():
    run = load_run("metadd")
    options_ = run.datasets["tiny_imagenet"]
    assert run.normalisation("tiny_imagenet") == "tiny-imagenet"
    units = {"normalise_as": "tiny-imagenet-sre2l"}
    own = replace(run, datasets=run.datasets | {"tiny_imagenet": options_ | units})
    for method, protocol in (("sre2l", "soft"), ("dm", "hard")):
        published = [
            r.as_published(method, "tiny_imagenet", 50, (), [protocol]) for r in (run, own)
        ]
        assert published == ([False, True] if method == "sre2l" else [True, False])
    families = load_run("families")
    paper = replace(families, recipes={})
    assert paper.as_published("dm", "cifar10", 1)
    assert not paper.as_published(
        "frepo", "cifar10", 1, (), ["regression"]
    )  # whitened in another space


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"copy": "JPEG"}, "copy is for a folder of images; the source cifar10 reads the original"),
        ({"source": "image-folder"}, "comparable_to needs copy"),
        ({"source": "image-folder", "copy": "JPEG", "comparable_to": None}, "copy needs compara"),
        ({"normalise_as": "cifar"}, "unknown normalisation 'cifar': did you mean 'cifar10'"),
        ({"normalise_as": "cifar10", "channels": 1}, "is for 3 channels, channels is 1"),
        ({"source": "image-folder", "copy": "a\nb"}, "copy"),
        ({"source": "image-folder", "copy": "JPEG\n"}, "copy"),
        (
            {"source": "image-folder", "comparable_to": None, "no_download": True},
            "no_download is for cifar10, .*; the source image-folder downloads nothing, leave it",
        ),
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


def test_a_folder_of_images_takes_the_place_of_a_source_that_must_not_download(tmp_path):
    document = yaml.safe_load(Path("workflow/config/runs/cifar10.yaml").read_text())
    document["datasets"]["cifar10"]["no_download"] = True
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(document))
    run = load_run(str(path), {"data_root": split_folder(tmp_path / "images")})
    assert "no_download" not in run.datasets["cifar10"]


def test_a_copy_of_nothing_is_refused(tmp_path):
    (tmp_path / "torchvision").mkdir()
    with pytest.raises(DDError, match="copy: describes the images in data_root, which is not"):
        load_run("cifar10", {"copy": "JPEG"})
    with pytest.raises(
        DDError, match="torchvision is no image folder of this run: it needs train/"
    ):
        load_run("cifar10", {"copy": "JPEG", "data_root": str(tmp_path / "torchvision")})


def test_one_dataset_may_lie_in_the_folder_of_its_name(tmp_path):
    images = split_folder(tmp_path / "cifar10")
    for given in (images, str(tmp_path)):
        options_ = load_run("cifar10", {"data_root": given, "copy": "JPEG"}).datasets["cifar10"]
        assert (options_["source"], options_["root"]) == ("image-folder", images)


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
        ({"recipes": {5: {}}}, "unknown objective '5': known are"),
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
        ({"axes": {"ipc": [0], "iterations": [1]}}, "axes.ipc.0 is 0, it must be at least 1"),
        (
            {"axes": {"ipc": [1], "arch": [["mlp"]]}},
            "axes.arch.0 is ['mlp'], it must be text",
        ),
        ({"axes_for": {"iadd": {"method": [{"a": 1}]}}}, "axes_for.iadd.method.0 is {'a': 1}, it"),
        ({"recipes": {"dc": {"ipc": {10: 3}}}}, "recipes.dc.ipc.10 is 3, it must be a block of k"),
        (
            {"recipes": {"pretrain": {"network": {"vit": 1.5}}}},
            "recipes.pretrain.network.vit is 1.5, it must be a block of keys",
        ),
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
        ("smoke", {"datasets": {"digits": 1}}, "datasets: {'digits': 1} is no name"),
        ("smoke", {"datasets": {}}, "datasets: {} is no name"),
        ("smoke", {"datasets": [["digits"]]}, "datasets: ['digits'] is no name"),
        *(
            ("cifar10", {key: empty}, f"{key}: is empty; give a value, or leave {key} out")
            for key in ("data_root", "results", "copy", "datasets", "sets_root", "seeds")
            for empty in (None, "")
        ),
        ("smoke", {"results": "README.md"}, "results: README.md is a file"),
        ("smoke", {"results": "README.md/x"}, "results: README.md is a file"),
        ("smoke", {"precision": "fp16"}, "unknown value of precision 'fp16': did you mean 'bf16'"),
        ("smoke", {"precision": "tf32", "device": "cpu"}, "precision: tf32 is of NVIDIA GPUs"),
    ],
)
def test_wrong_overrides(name, overrides, message):
    with pytest.raises(DDError) as error:
        load_run(name, overrides)
    assert message in str(error.value)


def test_a_text_that_looks_like_a_number_stays_text(tmp_path):
    path = str(write_run(tmp_path))
    for year in ("2024", 2024):  # as a list of --config gives it, and alone
        run = load_run(path, {"sets_root": year, "results": year, "seeds": ["3", 4]})
        assert (run.sets_root, run.results, run.seeds) == ("2024", "2024", [3, 4])
    folder = split_folder(tmp_path / "images")
    options_ = load_run("cifar10", {"data_root": folder, "copy": 2024}).datasets["cifar10"]
    assert options_["label"] == "CIFAR-10 (2024 copy)"


def test_a_run_may_leave_out_cells_by_true_and_false(tmp_path):
    rule = {"pruned": [True]}
    assert load_run(str(write_run(tmp_path, exclude=[rule]))).exclude == [rule]


@pytest.mark.parametrize(
    ("here", "config", "root"),
    [
        ("results/smoke", "config.json", "../smoke"),
        ("results/smoke/tables", "../config.json", "../../smoke"),
        ("results", "smoke/config.json", "./smoke"),
        (".", "results/smoke/config.json", "results/smoke"),
    ],
)
def test_the_folder_of_a_run_from_anywhere(here, config, root, tmp_path, monkeypatch):
    workflow = str(Path("workflow").resolve())
    save_json(tmp_path / "results/smoke/config.json", {"run": load_run("smoke").document()})
    (tmp_path / "results/smoke/tables").mkdir()
    (tmp_path / "workflow").symlink_to(workflow)
    monkeypatch.chdir(tmp_path / here)
    run = read_run(config)
    assert (run.name, run.root) == ("smoke", root)
    assert Path(run.root, "config.json").samefile(tmp_path / "results/smoke/config.json")


def test_another_folder_has_no_workflow(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DDError, match="workflow: is no folder of a workflow; start in the check"):
        load_run("cifar10")
