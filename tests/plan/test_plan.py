"""The cells and jobs of the tables against counts made by hand; what stops before any job."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from dd.artifacts.text import save_json
from dd.config.run import Run, load_run, read_run
from dd.errors import DDError
from dd.plan import jobs
from dd.plan.exhibits import Cell, Exhibit, load_exhibit
from dd.plan.jobs import (
    STAGES,
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
from dd.plan.validate import check_plan
from tests.support.smoke import write_run


@pytest.fixture(scope="module")
def cifar10():
    return Plan(load_run("cifar10"))


def with_axes(exhibit: Exhibit, **axes) -> list[Cell]:
    """The cells of ``exhibit`` with other axes."""
    return replace(exhibit, definition=exhibit.definition | {"axes": axes, "exclude": []}).cells()


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
    # without a weight it is not trained, and the stage refuses settings of what it does not train
    untaught = Evaluation(made, 1, "kd@temperature=0", ("mlp",))
    assert untaught.arch_settings(plan.run) == {}


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
    assert set(plan.of(Preparation)) == {Preparation(*space) for space in spaces}
    assert str(Preparation("cifar10", "zca")) == "cifar10+zca"
    assert Preparation("cifar10", "zca").options(plan.run)["zca"] is True
    assert Preparation("cifar10").options(plan.run)["zca"] is False
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
        assert "epochs" in job.options(ours.run)  # and given weights are not trained
        assert ("epochs" in job.options(theirs.run)) == (not given)
        assert "least_accuracy" in job.options(theirs.run)


def test_config_json_gives_the_run_back(tmp_path):
    from dd.command import main

    out = tmp_path / "smoke" / "config.json"
    assert main(["configure", "--run", "smoke", "--set", "seeds=[1, 2]", "--out", str(out)]) == 0
    again, run = read_run(out), load_run("smoke", {"seeds": [1, 2], "results": str(tmp_path)})
    assert again.document() == json.loads(json.dumps(run.document()))
    # JSON turns the keys of a recipe's ipc section to text
    assert again.distillation("dc", "digits", 10) == run.distillation("dc", "digits", 10)


POOLS_ALONE = {  # nothing that needs a generator or class activation maps
    "axes": {"ipc": [1], "iterations": [20], "setting": ["baseline"], "arch": ["mlp"]},
    "axes_for": {}, "tables": ["modelpool_ablation"], "figures": [], "optional": [],
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"datasets": {"d": {"source": "digit", "label": "x"}}}, "did you mean 'digits'?"),
        (
            {"datasets": {"digits": {"source": "digits", "label": "x", "split_seed": 1}}},
            "--split-seed: only for --source class-folders",
        ),
        ({"datasets": {"c": {"source": "cifar10", "label": "x"}}}, "dataset c: needs a root"),
        (
            {"datasets": {"c": {"source": "image-folder", "label": "x", "root": "no/where"}}},
            "dataset c: root no/where is no folder; give the folder that holds its images",
        ),
        (
            {
                "datasets": {
                    "c": {"source": "class-folders", "label": "x", "root": "tests", "groups": "no"}
                }
            },
            "dataset c: groups no is no file",
        ),
        (
            {"pretrained": {"digits": {"resnet18_bn": "no.safetensors"}}},
            "no.safetensors: no such file",
        ),
        ({"recipes": {"dc": {"lr_img": -1}}}, "lr_img is -1.0, it must be above 0"),
        ({"recipes": {"dc": {"augment": "flop"}}}, "flop"),
        ({"recipes": {"evaluation": {"momentum": 2}}}, "momentum is 2.0, it must be at most 1"),
        (
            {"recipes": {"evaluation": {"network": {"mlp": {"momentum": 2}}}}},
            "evaluation of mlp: momentum is 2.0, it must be at most 1",
        ),
        ({"recipes": {"evaluation": {"network": {"mpl": {"lr": 1}}}}}, "did you mean 'mlp'?"),
        (
            {"recipes": {"evaluation": {"objective": {"dcc": {"epochs": 7}}}}},
            "recipes of evaluation: unknown objective 'dcc': did you mean 'dc'?",
        ),
        (
            {"recipes": {"dc": {"dataset": {"digit": {"lr_img": 5.0}}}}},
            "recipes of dc: unknown dataset 'digit': did you mean 'digits'?",
        ),
        (
            {"recipes": {"dc": {"ipc": {1: {"dataset": {"cifar": {"lr_img": 5.0}}}}}}},
            "recipes of dc: unknown dataset 'cifar': did you mean 'cifar",
        ),
        (
            {"cam_networks": ["mlp", "lenet", "mlp:width=128"]},
            "cam_networks: networks 'mlp.lenet.mlp:width=128': mlp is named twice",
        ),
        *(
            ({"axes_for": {"modelpool_ablation": {axis: values}}}, message)
            for axis, values, message in (
                ("ipc", [0], "ipc is 0, it must be at least 1"),
                ("ipc", [-3], "'ipc', which an axis binds, is -3, not 0 to 100000"),
                ("ipc", [10**6], "'ipc', which an axis binds, is 1000000, not 0 to 100000"),
                ("iterations", [-1, 20], "'iterations', which an axis binds, is -1, not 0 to 1"),
            )
        ),
        (
            {"axes_for": {"metadd_images": {"ipc": ["1", 10]}}},
            "axes_for.metadd_images.ipc has numbers and text, of which none is the first",
        ),
        ({"cam_networks": ["foo"], **POOLS_ALONE}, "cam_networks: unknown network 'foo'"),
        (
            {"generators": {"digits": {"weights": "no", "adapter": "no:no"}}, **POOLS_ALONE},
            "generators: no method of the run decodes latents of the generator of digits; leave",
        ),
        ({"recipes": {"relabel": {"batch": 64}}}, "batch of evaluation is 128, of relabel 64"),
        ({"axes": {"ipc": [1], "iterations": [1], "arch": ["vgg12"]}}, "unknown network 'vgg12'"),
        (
            {"axes": {"ipc": [1], "iterations": [1], "setting": ["x"]}},
            "run mine, axes.setting: unknown value of axis 'setting' of modelpool_ablation 'x'",
        ),
        ({"axes": {"ipc": [1], "iterations": [1], "arhc": ["mlp"]}}, "axis 'arhc' is in none of"),
        ({"axes_for": {"metad": {}}}, "paper in axes_for of run mine 'metad': did you mean"),
        ({"axes_for": {"metadd_cost": {"arch": ["mlp"]}}}, "in axes_for of metadd_cost"),
        (
            {"axes_for": {"metadd_cost": {"method": ["dcc"]}}},
            "axes_for.metadd_cost.method: unknown value of axis 'method' of metadd_cost 'dcc'",
        ),
        (
            {"pretrained": {"digits": {"resnet18_bm": "x"}}},
            "pretrained of run mine, digits, 'resnet18_bm': did you mean 'resnet18_bn'?",
        ),
    ],
)
def test_configure_stops_before_any_job(tmp_path, capsys, changes, message):
    from dd.command import main

    run = str(write_run(tmp_path, **changes))
    assert main(["configure", "--run", run, "--out", str(tmp_path / "config.json")]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "config.json").exists()


def test_sections_of_recipes_for_what_a_run_has_not(tmp_path):
    """Other networks, objectives and datasets that are known, and datasets that were left out."""
    from dd.command import main

    datasets = {name: {"source": "digits", "label": name} for name in ("digits", "mine")}
    recipes = {
        "evaluation": {"objective": {"full": {"epochs": 2}, "dm": {"epochs": 3}}},
        "dc": {"dataset": {"cifar10": {"lr_img": 5.0}, "mine": {"lr_img": 5.0}}},
    }
    run = str(write_run(tmp_path, datasets=datasets, recipes=recipes))
    out = str(tmp_path / "config.json")
    for words in ([], ["datasets=[digits]"]):
        assert main(["configure", "--run", run, "--out", out, "--set", "seeds=[0]", *words]) == 0


def test_all_images_are_taken_at_ipc_0_alone(tmp_path):
    axes = {"ipc": [1], "iterations": [1], "method": ["full"], "setting": ["baseline"]}
    tables = ["iadd_sota", "modelpool_ablation"]
    path = write_run(tmp_path, axes=axes, axes_for={}, tables=tables, figures=[], optional=[])
    run = load_run(str(path))
    check_plan(Plan(run))
    plan = Plan(run)
    table = plan.exhibits["table", "iadd_sota"]
    own = {"ipc": [1], "method": {"full": {"method": "full"}}, "arch": ["convnet"]}
    changed = replace(table, definition=table.definition | {"axes": own})
    plan.exhibits["table", "iadd_sota"] = changed
    with pytest.raises(DDError, match="ipc is 1, it must be 0, because full takes all images"):
        check_plan(plan)


def test_datasets_that_the_user_leaves_out_have_no_effect(tmp_path):
    """Whatever the run says of them; what shows nothing else is left out, too."""
    run = load_run("paper", {"datasets": "cifar10"})
    plan = Plan(run)
    check_plan(plan, ["datasets"])
    shown = {name for _, name in plan.exhibits}
    assert {"modelpool_ablation", "iadd_sota", "modelpool_taxonomy", "claims", "cost"} <= shown
    assert not any(name.startswith("metadd") for name in shown)
    assert {job.dataset for job in plan.of(Preparation)} == {"cifar10"}
    assert "metadd" not in plan.targets() and "iadd" in plan.targets()
    path = tmp_path / "paper" / "config.json"
    save_json(path, plan.document())
    again = Plan(read_run(path))
    assert list(again.exhibits) == list(plan.exhibits)
    assert not any("tiny" in file for file in again.files())


def test_every_key_may_name_a_dataset_that_the_user_leaves_out(tmp_path):
    own, other = ({"source": "digits", "label": name} for name in ("one", "two"))
    theirs = {"method": "dsa", "ipc": 1, "iterations": 1, "seed": 0, "file": "x", "by": "them"}
    changes = {
        "datasets": {"one": own, "two": other},
        "axes_for": {"metadd": {"dataset": ["two"]}, "modelpool": {"dataset": ["one", "two"]}},
        "imported": [theirs | {"dataset": "two"}],
        "pretrained": {"two": {"resnet18_bn": "x"}},
        "generators": {"two": {"weights": "x", "adapter": "x:y"}},
        "networks_for": [{"networks": 3, "dataset": ["two"], "ipc": [7]}],
        "exclude": [{"dataset": ["two"], "ipc": [1]}],
    }  # fmt: skip
    path = str(write_run(tmp_path, **changes))
    plan = Plan(load_run(path, {"datasets": ["one"]}))
    check_plan(plan, ["datasets"])
    assert ("table", "modelpool_ablation") in plan.exhibits
    assert ("table", "metadd_cross_arch") not in plan.exhibits
    for key in ("imported", "pretrained", "generators", "networks_for", "exclude"):
        wrong = changes | {
            key: yaml.safe_load(re.sub(r"\btwo\b", "tw", yaml.safe_dump(changes[key])))
        }
        with pytest.raises(DDError, match="'tw'"):
            check_plan(Plan(load_run(str(write_run(tmp_path, **wrong)), {"datasets": ["one"]})))


@pytest.mark.parametrize(
    ("kind", "name", "jobs"),
    [("table", "modelpool_taxonomy", set()), ("figure", "metadd_erasing", {"erase", "pretrain"})],
)
def test_a_run_without_images_per_class(kind, name, jobs, tmp_path):
    own = {"tables": [], "figures": [], "optional": [], "axes_for": {}, "axes": {}}
    plan = Plan(load_run(str(write_run(tmp_path, **own | {f"{kind}s": [name]}))))
    check_plan(plan)
    assert {job.stage for job in plan.jobs} - {"prepare"} == jobs


def test_two_spellings_of_a_network_are_one(tmp_path):
    axes = POOLS_ALONE["axes"] | {"arch": ["convnet", "convnet:width=128"]}
    more = [{"networks": 3, "arch": ["convnet"]}]
    path = write_run(tmp_path, **POOLS_ALONE | {"axes": axes, "networks_for": more})
    plan = Plan(load_run(str(path)))
    (job,) = plan.of(Evaluation)[:1]
    assert job.archs == ("convnet",)
    assert job.options(plan.run)["networks_of"] == []


def test_an_optional_figure_leaves_the_table_of_its_name_to_the_paper(tmp_path):
    own = {"tables": ["modelpool_ablation"], "optional": ["modelpool_ablation"]}
    plan = Plan(load_run(str(write_run(tmp_path, **POOLS_ALONE | own))))
    both = ["modelpool_ablation"]
    assert plan.targets() == {"modelpool": (both, []), "modelpool_ablation": (both, both)}


def test_a_job_lists_the_folder_of_its_own_dataset(tmp_path, monkeypatch):
    """On a cluster each job plans the run again; a folder may hold millions of files."""
    listed = []
    monkeypatch.setattr(jobs, "listing_digest", lambda folder: listed.append(folder.name) or "x")
    datasets = {}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        datasets[name] = {"source": "image-folder", "label": name, "root": str(tmp_path / name)}
    plan = Plan(load_run(str(write_run(tmp_path, datasets=datasets))))
    job = next(job for job in plan.of(Distillation) if job.dataset == "two")
    for _ in range(2):
        (said,) = job.images(plan.run, plan.listing)
    assert (said["listing"], listed) == ("x", ["two"])
    assert not plan.is_current(job.inputs(plan.run)["data"][0])
    assert listed == ["two"]


def test_a_folder_that_cannot_be_read_stops_before_any_job(tmp_path):
    (tmp_path / "self").symlink_to(tmp_path / "self")
    images = {"source": "image-folder", "label": "x", "root": str(tmp_path)}
    plan = Plan(load_run(str(write_run(tmp_path, datasets={"mine": images}, **POOLS_ALONE))))
    with pytest.raises(DDError, match=r"run mine, mine: .*/self: cannot be read"):
        check_plan(plan)


def test_ipc_above_the_size_of_a_class_once_the_data_is_known(tmp_path, capsys):
    from dd.command import main

    axes = {"ipc": [140], "iterations": [1], "method": ["random"], "setting": ["baseline"]}
    tables = ["iadd_sota", "modelpool_ablation"]
    run = write_run(tmp_path, axes=axes, axes_for={}, tables=tables, figures=[])
    argv = ["configure", "--run", str(run), "--out", str(tmp_path / "results/mine/config.json")]
    argv += ["--set", f"results={tmp_path / 'results'}"]
    assert main(argv) == 0  # nothing is known yet
    data = ["--source", "digits", "--out", str(tmp_path / "results/mine/data/digits.safetensors")]
    assert main(["prepare", *data]) == 0
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert "--ipc is 140, but class '8' of digits has 139 training images" in said
    assert said.count("\n") == 1


def test_only_released_protocols_may_be_selected_on_test_data(cifar10):
    exhibit = cifar10.exhibits["table", "modelpool_ablation_released"]
    notes = {cell.selected for cell in exhibit.cells() if "kd" in cell.labels["setting"]}
    assert notes == {"temperature"}
    select = {"axis": "temperature", "values": [1]}
    setting = {"a": {"method": "dc", "protocol": "kd", "select": select}}
    with pytest.raises(DDError, match="only a 'released' protocol"):
        with_axes(exhibit, ipc=1, setting=setting, arch="mlp")


def words(run: Run) -> dict[str, list[str]]:
    """The command line of each job."""
    plan = Plan(run)
    jobs = (job for stage in STAGES for job in plan.of(stage))
    return {f"{job.stage} {job}": command_words(job.options(run)) for job in jobs}


@pytest.mark.parametrize("name", ["smoke", "iadd", "metadd"])
def test_a_lower_precision_is_a_word_of_every_command_that_computes(name):
    plain, lower = load_run(name), load_run(name, {"precision": "bf16"})
    after = words(lower)
    for job, before in words(plain).items():
        stage = job.partition(" ")[0]
        given = after[job]
        if stage == "prepare":
            assert given == before
            continue
        where = given.index("--precision")
        assert given[where + 1] == "bf16"
        assert before == given[:where] + given[where + 2 :]


def test_parameters_are_stored_in_bfloat16_if_a_run_says_so(tmp_path):
    """Under a word of its own: the precision of buffers is another thing."""
    (shard, *_) = Plan(load_run("iadd")).of(Shard)
    run = replace(load_run("iadd"), recipes={"buffer": {"stored": "bfloat16"}})
    for of, stored in ((run, "bfloat16"), (load_run("iadd"), "float32")):
        given = command_words(shard.options(of))
        assert given[given.index("--stored") + 1] == stored and "--precision" not in given


def test_the_configuration_of_a_run_in_float32_is_as_before(tmp_path):
    """A new key in config.json would draw all tables and figures again."""
    plain, lower = load_run("smoke"), load_run("smoke", {"precision": "bf16"})
    assert "precision" not in Plan(plain).document()["run"]
    path = tmp_path / "smoke" / "config.json"
    for run in (plain, lower):
        save_json(path, Plan(run).document())
        assert read_run(path).precision == run.precision
    assert Plan(lower).document()["run"]["precision"] == "bf16"


@pytest.mark.parametrize("kind", ["table", "figure"])
@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"ipc": [["x"], 10]}, "axes.ipc.0 is ['x'], it must be text or a number or true or false"),
        ({"ipc": [[[]]]}, "axes.ipc.0 is [[]], it must be"),
        ({"ipc": [{"a": 1}]}, "axes.ipc.0 is {'a': 1}, it must be"),
        ({"ipc": None}, "axes.ipc is None, it must be"),
    ],
)
def test_values_of_axes_are_no_lists(kind, axes, message, tmp_path):
    path = Path(f"workflow/config/{kind}s/modelpool_ablation.yaml")
    document = yaml.safe_load(path.read_text())
    document["axes"] |= axes
    (tmp_path / path.name).write_text(yaml.safe_dump(document))
    with pytest.raises(DDError) as error:
        load_exhibit(kind, tmp_path / path.name, load_run("smoke"))
    assert message in str(error.value)
