"""Runs, specs and protocols; the cells and jobs of the tables against counts made by hand."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from dd.errors import DDError
from dd.grid import Cell, Grid
from dd.jobs import Distillation, Evaluation, Pretraining
from dd.plan import Plan, load_run, options, read_run
from dd.recipes import objectives, resolve, resolve_evaluation
from dd.spec import Spec, parse, parse_protocol

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


def with_axes(grid: Grid, **axes) -> list[Cell]:
    """The cells of ``grid`` with other axes."""
    return replace(grid, definition=grid.definition | {"axes": axes, "exclude": []}).cells()


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("dc", Spec("dc")),
        ("dm+pool", Spec("dm", pool="pool")),
        ("dc+pool-x", Spec("dc", pool="pool-x")),
    ],
)
def test_specs(text, spec):
    assert parse(text, ["pool", "pool-x"]) == spec
    assert str(spec) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dcc", "unknown objective 'dcc': did you mean 'dc'?"),
        ("dc+poool", "unknown modifier of spec 'dc+poool' 'poool': did you mean 'pool'?"),
        ("dc+pool+pool-x", "names more than one network source"),
    ],
)
def test_wrong_specs(text, message):
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
def test_settings_in_a_spec(text, canonical, settings):
    spec = parse(text, ["pool"])
    assert (str(spec), dict(spec.settings)) == (canonical, settings)
    assert all(type(spec.settings[name]) is type(value) for name, value in settings.items())
    assert parse(canonical, ["pool"]) == spec


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("iadd@weight=raw", "unknown setting of iadd 'weight': did you mean 'weights'?"),
        ("iadd@weights", "'weights' must be NAME=VALUE"),
        ("mtt@student_steps=many", "student_steps is 'many', it must be a number"),
    ],
)
def test_wrong_settings_in_a_spec(text, message):
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
    assert resolve_evaluation("dc", "mnist", 1)["augment"] == "crop_scale_rotate"
    with pytest.raises(DDError, match="unknown distillation setting of dc 'lr'"):
        resolve("dc", "cifar10", 1, {"lr": 1})
    with pytest.raises(DDError, match=r"'outer' of dc is 1\.5, it must be a whole number"):
        resolve("dc", "cifar10", 1, {"outer": 1.5})


def test_recipes_fit_the_objectives_that_are_registered():
    from dd.checks import build
    from dd.objectives import OBJECTIVES

    assert sorted(OBJECTIVES) == objectives()
    for name in OBJECTIVES:
        build(OBJECTIVES[name].Settings, resolve(name, "cifar10", 10), name)


def test_ablation_has_204_cells(cifar10):
    # 2 ipc x 3 iterations x (6 settings x 5 networks + 4 settings on the ConvNet)
    cells = cifar10.grids["table", "modelpool_ablation"].cells()
    assert len(cells) == 2 * 3 * (6 * 5 + 4) == 204
    by_setting = Counter(cell.labels["setting"] for cell in cells if cell.arch == "convnet")
    assert by_setting == {
        "baseline": 6, "pool": 6, "baseline (0.5 CE)": 6, "pool (0.5 CE)": 6,
    }  # fmt: skip
    halved = {c.protocols for c in cells if "0.5 CE" in c.labels["setting"]}
    assert halved == {("kd-released@temperature=0",)}


def test_pool_settings_has_90_cells(cifar10):
    cells = cifar10.grids["table", "modelpool_pool_settings"].cells()
    assert len(cells) == 2 * 3 * 3 * 5 == 90
    assert {cell.protocols for cell in cells} == {("hard",)}


def test_distillations_are_shared(cifar10):
    # T4: dc and dc+pool; T5 adds two pools and shares dc+pool; the released table adds one
    expected = {
        Distillation("cifar10", spec, ipc, 0): (1000, 2000, 3000)
        for spec in ("dc", "dc+pool", "dc+pool-random", "dc+pool-various", "dc+pool-released")
        for ipc in (1, 10)
    }
    assert cifar10.distillations == expected


def test_evaluations_are_shared_and_have_the_union_of_networks(cifar10):
    job = Evaluation(Distillation("cifar10", "dc+pool", 1, 0), 1000, "hard")
    everyone = ("alexnet", "convnet", "lenet", "mlp", "resnet18", "vgg11")
    assert cifar10.evaluations[job] == everyone
    at_default = Evaluation(Distillation("cifar10", "dc", 1, 0), 3000, "kd")
    assert cifar10.evaluations[at_default] == tuple(a for a in everyone if a != "convnet")
    ablation = cifar10.inputs("table", "modelpool_ablation")
    curve = cifar10.inputs("figure", "modelpool_temperature")
    shared = set(ablation) & set(curve)
    root = "results/cifar10/evaluations/cifar10"
    assert shared == {
        f"{root}/{spec}/ipc{ipc}/seed0/it1000/{protocol}.csv"
        for spec in ("dc", "dc+pool")
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
    assert len(plan.distillations) == 2 * len(once.distillations)
    assert len(plan.evaluations) == 2 * len(once.evaluations)


def test_a_selection_is_evaluated_where_it_is_done(cifar10):
    """random has no iterations: whatever a table asks for, its set is that of iteration 0."""
    grid = cifar10.grids["table", "modelpool_ablation"]
    setting = {"a": {"spec": "random"}, "b": {"spec": "dc"}}
    cells = with_axes(grid, ipc=1, iterations=[1000, 2000, 3000], setting=setting, arch="mlp")
    assert [cell.iterations for cell in cells] == [0, 1000, 0, 2000, 0, 3000]
    assert [cell.labels["iterations"] for cell in cells] == [1000, 1000, 2000, 2000, 3000, 3000]


def test_commands_carry_the_settings(cifar10):
    job = Distillation("cifar10", "dc+pool", 10, 0)
    words = options(cifar10.distill_options(job))
    pairs = dict(zip(words[::2], words[1::2], strict=True))
    assert pairs["--pool"] == "workflow/config/pools/pool.yaml"
    assert (pairs["--outer"], pairs["--inner"], pairs["--lr-img"]) == ("10", "50", "0.1")
    assert "--iterations" not in pairs
    words = options(cifar10.evaluate_options(Evaluation(job, 1000, "kd-released@temperature=0")))
    pairs = dict(zip(words[::2], words[1::2], strict=True))
    assert pairs["--protocol"] == "kd"
    assert (pairs["--variant"], float(pairs["--temperature"])) == ("released", 0)
    assert float(pairs["--temperature-decay"]) == 0.9
    assert (pairs["--epochs"], pairs["--networks"], pairs["--seed"]) == ("300", "10", "0")
    assert options({"zca": True, "resize": None, "x": False}) == ["--zca"]


def test_published_only_under_the_papers_settings():
    assert load_run("cifar10").as_published("dc+pool", "cifar10", 10)
    assert not load_run("smoke").as_published("dc", "digits", 1)


def test_an_image_folder_is_recognised_and_named(tmp_path):
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
    options_ = load_run("cifar10", {"data_root": str(tmp_path)}).datasets["cifar10"]
    assert options_["source"] == "image-folder"
    assert options_["label"] == "CIFAR-10 (image folder)"
    (tmp_path / "test").rmdir()
    options_ = load_run("cifar10", {"data_root": str(tmp_path)}).datasets["cifar10"]
    assert (options_["source"], options_["root"]) == ("cifar10", str(tmp_path))


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
    spaces = {(shard.dataset, shard.whitening) for shard in plan.shards}
    assert spaces == {
        ("cifar10", "zca"), ("cifar10", "none"), ("cifar100", "zca"), ("cifar100", "none"),
        ("tiny_imagenet", "none"),
    }  # fmt: skip
    assert len(plan.shards) == 5 * 10  # 100 experts in shards of 10
    job = next(j for j in plan.distillations if (j.spec, j.dataset, j.ipc) == ("mtt", "cifar10", 1))
    assert [shard.number for shard in plan.shards_of(job)] == list(range(10))
    pairs = plan.buffer_options(plan.shards_of(job)[3])
    assert (pairs["first"], pairs["experts"], pairs["whitening"]) == (30, 10, "zca")
    assert plan.preparation("cifar10")["zca"] and not plan.preparation("tiny_imagenet")["zca"]
    full = [j for j in plan.distillations if j.spec == "full"]
    assert [(j.dataset, j.ipc) for j in full] == [(name, 0) for name in plan.run.datasets]


def test_a_pool_needs_the_experts_of_all_its_networks():
    shards = Plan(load_run("smoke")).shards_of(Distillation("digits", "mtt+pool-various", 1, 0))
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
        cells = plan.grids[kind, name].cells()
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
    generator = Pretraining("digits", "none", "generator")
    assert set(ours.pretrainings) - set(theirs.pretrainings) == {generator}
    latents, pixels = (Distillation("digits", spec, 1, 0) for spec in ("dm+glad", "dm"))
    trained = "results/smoke/pools/digits/none/generator.safetensors"
    for plan, jobs, file, adapter in (
        (ours, [generator], trained, None),
        (theirs, [], "mine/gan.safetensors", "mine:load"),
    ):
        assert plan.generator_of(latents) == jobs
        assert plan.generator_files(latents) == [file]
        assert plan.generator_files(pixels) == []
        assert plan.distill_options(latents)["adapter"] == adapter
        assert "adapter" not in plan.distill_options(pixels)
    # the file is read by `dd pretrain`, which checks it and measures it on this dataset
    for job in theirs.pretrainings:
        given = "mine/resnet.safetensors" if job.network == "resnet18_bn" else None
        assert theirs.pretrain_options(job)["weights"] == given
        assert ours.pretrain_options(job)["weights"] is None


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
    grid = cifar10.grids["table", "modelpool_ablation_released"]
    notes = {cell.selected for cell in grid.cells() if "kd" in cell.labels["setting"]}
    assert notes == {"temperature"}
    select = {"axis": "temperature", "values": [1]}
    setting = {"a": {"spec": "dc", "protocol": "kd", "select": select}}
    with pytest.raises(DDError, match="only a 'released' protocol"):
        with_axes(grid, ipc=1, setting=setting, arch="mlp")
