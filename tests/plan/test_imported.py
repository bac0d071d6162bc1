"""Sets of others in the plan of a run; other numbers of networks and seeds, cells left out."""

from collections import Counter
from dataclasses import replace

import pytest

from dd.command import main
from dd.config.run import load_run
from dd.plan.counting import Counted
from dd.plan.estimate import extents
from dd.plan.jobs import (
    Distillation,
    Evaluation,
    Import,
    Preparation,
    Snapshot,
    command_words,
)
from dd.plan.kinds import inputs
from dd.plan.plan import Plan, made_sets
from tests.support.smoke import write_run

ENTRY = {
    "method": "dc", "dataset": "digits", "ipc": 1, "iterations": 20, "seed": 0, "file": "a.pt",
    "by": "them",
}  # fmt: skip


@pytest.fixture(scope="module")
def released():
    return Plan(load_run("modelpool-released"))


def test_the_run_of_the_released_sets_has_these_jobs(released):
    # dc and dc+pool: IPC 1 at three snapshots, IPC 10 at 3000; three protocols each
    assert Counter(type(job) for job in released.jobs) == {
        Preparation: 1, Import: 8, Evaluation: 24,
    }  # fmt: skip
    assert made_sets(released) == "8 imported sets"
    numbers = Counter()
    for job in released.of(Evaluation):
        made = job.distillation
        protocol = job.protocol.partition("@")[0]
        for arch in job.archs:
            place = (made.ipc, job.iterations, arch)
            numbers[place, protocol] += job.count(released.run, arch)
    expected = {(1, n, a): 20 for n in (1000, 2000, 3000) for a in ("mlp", "lenet", "alexnet",
                                                                   "vgg11", "convnet")}  # fmt: skip
    expected |= {(1, 3000, "resnet18"): 10}
    expected |= {(10, 3000, "mlp"): 20, (10, 3000, "lenet"): 20}
    expected |= {(10, 3000, "convnet"): 10, (10, 3000, "alexnet"): 6}
    assert numbers == {
        (place, protocol): number
        for place, number in expected.items()
        for protocol in ("hard", "kd-released", "kd")
        if protocol != "kd" or place[2] != "convnet"
    }


def test_no_teacher_is_trained_for_half_the_cross_entropy(released):
    made = Distillation("cifar10", "dc", 1, 0)
    half = released.planned(Evaluation(made, 3000, "kd-released@temperature=0"))
    words = command_words(half.options(released.run))
    assert words[words.index("--temperature") + 1] == "0"
    assert words[words.index("--networks-of") + 1] == "resnet18=5"
    counted = Counted(released, extents(released))
    hard = released.planned(Evaluation(made, 3000, "hard"))
    assert counted.work(half) == counted.work(hard)
    kd = released.planned(Evaluation(made, 3000, "kd"))
    # the ConvNet that hard labels train to be tested is the teacher here, and labels its images
    data = extents(released)["cifar10"]
    students = 4 * 10 + 5
    labelled = students * 10 * counted._passes("forward", "convnet", data)
    assert counted.work(kd) == pytest.approx(counted.work(hard) + labelled)


def test_what_is_counted_is_each_number_of_networks(released):
    made = Distillation("cifar10", "dc", 10, 0)
    run, job = released.run, released.planned(Evaluation(made, 3000, "hard"))
    counted, data = Counted(released, extents(released)), extents(released)["cifar10"]
    assert counted.work(job) == pytest.approx(
        sum(
            number
            * (
                300 * 100 * counted._passes("train", arch, data)
                + 10_000 * counted._passes("forward", arch, data)
            )
            for arch, number in {"mlp": 10, "lenet": 10, "convnet": 5, "alexnet": 3}.items()
        )
    )
    # float32 images of 10 classes
    (imported,) = [j for j in released.of(Import) if str(j).endswith("dc/ipc10/seed0/it3000")]
    assert counted.bytes(imported) == 4 * 100 * 3 * 32 * 32
    assert imported.measured(run).stage == "import"
    assert counted.objectives["dc"]["jobs"] == 0 and counted.objectives["dc"]["evaluate"] > 0


def test_a_set_is_imported_to_where_a_distillation_would_put_it(released):
    run, made = released.run, Distillation("cifar10", "dc+pool", 1, 0)
    job = Snapshot(made, 2000).job(run)
    assert isinstance(job, Import)
    assert job.file(run) == Snapshot(made, 2000).file(run)
    assert str(job.path(run)).endswith("result/modelpool_res_DC_CIFAR10_ConvNet_1ipc_2000.pt")
    assert job.inputs(run) == {"data": ["results/modelpool-released/data/cifar10.safetensors"]}
    words = command_words(job.options(run))
    pairs = dict(zip(words[::2], words[1::2], strict=True))
    assert pairs == {
        "--entry": "last", "--dataset": "cifar10", "--objective": "dc", "--iterations": "2000",
        "--by": "the authors of Model Pool",
    }  # fmt: skip
    assert job.places(run) == {"ipc": 1}
    table = inputs(released.exhibits["table", "modelpool_ablation"], released.jobs)
    assert not [name for name in table if "metrics" in name]


def test_a_method_that_sees_whitened_images_imports_such(tmp_path):
    """If an entry says nothing, or that the file shall say it."""
    for more in ({}, {"units": "auto"}):
        changes = {"imported": [ENTRY | more], "recipes": {"dc": {"whitening": "zca"}}}
        plan = Plan(load_run(write_run(tmp_path, sets_root="there", **changes)))
        (job,) = plan.of(Import)
        assert job.options(plan.run)["units"] == "whitened"
        job.check(plan.run, [])


@pytest.mark.parametrize("published", ["imagewoof", "imagenette", "covid_cxr", "cifar100"])
def test_the_published_dataset_is_named_if_something_is_known_of_it(tmp_path, published):
    """Its mean and std, or as of ImageNet's subsets how others number its classes."""
    plan = Plan(load_run(write_run(tmp_path, sets_root="there", imported=[ENTRY])))
    (job,) = plan.of(Import)
    told = plan.run.datasets["digits"] | {"comparable_to": published}
    run = replace(plan.run, datasets={"digits": told})
    expected = None if published == "covid_cxr" else published
    assert job.options(run)["dataset"] == expected


def test_only_listed_methods_are_imported_and_only_listed_sets_exist(tmp_path):
    """dc is: its set at 60 is a hole; dc+pool is distilled."""
    plan = Plan(load_run(write_run(tmp_path, imported=[ENTRY], sets_root="there")))
    assert [str(job) for job in plan.of(Import)] == ["digits/dc/ipc1/seed0/it20"]
    assert not [job for job in plan.of(Distillation) if job.method == "dc"]
    assert [job for job in plan.of(Distillation) if job.method == "dc+pool"]
    tested = {(j.distillation.ipc, j.iterations) for j in plan.of(Evaluation)
              if j.distillation.method == "dc"}  # fmt: skip
    assert tested == {(1, 20)}
    cells = plan.exhibits["table", "modelpool_ablation"].cells()
    assert len([c for c in cells if c.method == "dc"]) == 2 * 2 * (3 * 5 + 2)  # with the holes
    document = plan.document()
    assert document["imported"] == {
        "digits/dc/ipc1/seed0/it20": {k: v for k, v in ENTRY.items() if k != "dataset"},
    }


def test_what_a_run_does_not_use_is_not_in_its_configuration():
    """config.json of older runs stays as it is, and with it their tables and figures."""
    document = Plan(load_run("smoke")).document()
    new = {"imported", "sets_root", "networks_for", "seeds_for", "exclude"}
    assert not new & (document.keys() | document["run"].keys())


def test_numbers_of_networks(tmp_path):
    """The last rule that fits counts, by any property of an evaluation."""
    rules = [
        {"arch": ["mlp", "convnet:depth=2,width=128"], "networks": 7},
        {"arch": ["mlp"], "protocol": ["kd@temperature=3", "hard"], "networks": 4},
        {"method": ["dc"], "ipc": [10], "iterations": [60], "dataset": ["digits"], "networks": 1},
    ]
    run = load_run(write_run(tmp_path, networks_for=rules))

    def of(method, ipc, iterations, protocol, arch):
        return Evaluation(Distillation("digits", method, ipc, 0), iterations, protocol).count(
            run, arch
        )

    assert of("dc", 1, 20, "kd@temperature=10", "mlp") == 7
    assert of("dc", 1, 20, "kd", "mlp") == of("dc", 1, 20, "hard", "mlp") == 4
    assert of("dc", 1, 20, "hard", "convnet:depth=2") == 7
    assert of("dc", 1, 20, "hard", "lenet") == 2
    assert of("dc", 10, 60, "hard", "mlp") == 1 and of("dc+pool", 10, 60, "hard", "mlp") == 4
    # all have the same number if --config says one
    assert load_run(write_run(tmp_path, networks_for=rules), {"networks": 3}).networks_for == []


def test_seeds_of_a_table(tmp_path):
    seeds = {"iadd_sota": [0, 1], "metadd": [5]}
    plan = Plan(load_run(write_run(tmp_path, seeds_for=seeds)))
    assert plan.exhibits["table", "iadd_sota"].seeds == (0, 1)
    assert plan.exhibits["table", "metadd_ablation"].seeds == (5,)
    assert plan.exhibits["table", "modelpool_ablation"].seeds == (0,)
    found = {(job.method, job.seed) for job in plan.of(Distillation)}
    assert {("random", 0), ("random", 1), ("dm+glad", 5), ("dc+pool", 0)} <= found
    assert not {("dm+glad", 0), ("dc+pool", 1)} & found
    assert load_run(write_run(tmp_path, seeds_for=seeds), {"seeds": [2]}).seeds_for == {}


def test_cells_that_a_run_leaves_out(tmp_path):
    rules = [{"arch": ["vgg11"], "ipc": [10]}, {"setting": ["kd"], "iterations": [20]}]
    plan = Plan(load_run(write_run(tmp_path, exclude=rules)))
    whole = Plan(load_run("smoke")).exhibits["table", "modelpool_ablation"].cells()
    cells = plan.exhibits["table", "modelpool_ablation"].cells()
    gone = [
        cell for cell in whole
        if (cell.arch, cell.ipc) == ("vgg11", 10)
        or (cell.labels["setting"], cell.iterations) == ("kd", 20)
    ]  # fmt: skip
    assert len(cells) == len(whole) - len(gone) and len(gone) == 2 * 6 + 2 * 5 - 1
    assert plan.exhibits["table", "modelpool_ablation"].left_out() == rules
    # the pool settings have IPC 1 alone, and the images no network
    assert plan.exhibits["table", "modelpool_pool_settings"].left_out() == []
    assert plan.exhibits["figure", "modelpool_images"].left_out() == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"imported": [ENTRY]}, "imported: needs sets_root, the folder in which its files lie"),
        ({"imported": [ENTRY | {"method": "dcc"}]}, "unknown objective 'dcc': did you mean 'dc'?"),
        ({"imported": [ENTRY | {"dataset": "x"}]}, "unknown dataset of imported.0 'x'"),
        ({"imported": [ENTRY, ENTRY | {"file": "b"}]}, "imported: two sets for dc, digits, IPC 1"),
        ({"imported": [ENTRY | {"entry": "a b"}]}, "imported.0.entry is 'a b'"),
        ({"imported": [ENTRY | {"ipc": 0}]}, "imported.0.ipc is 0, it must be at least 1"),
        (
            {"imported": [{k: v for k, v in ENTRY.items() if k != "by"}]},
            "key 'by' is missing in imported.0",
        ),
        ({"imported": [ENTRY | {"unit": "x"}]}, "did you mean 'units'?"),
        (
            {"imported": [ENTRY | {"method": "mtt", "iterations": 60}], "sets_root": "x"},
            "shows what a distillation leaves, but the sets of mtt are imported; leave it out",
        ),
        (
            {"imported": [ENTRY | {"units": "pixels"}], "recipes": {"dc": {"whitening": "zca"}}},
            "digits/dc/ipc1/seed0/it20: units is pixels, but dc sees whitened images in this run; "
            "leave units out",
        ),
        (
            {"imported": [ENTRY, ENTRY | {"iterations": 21}]},
            "unknown set of imported.1 of run mine 'IPC 1, 21 iterations, seed 0': did you mean "
            "'IPC 1, 20 iterations, seed 0'? known are IPC 1, 20 iterations, seed 0, IPC 1, 60 "
            "iterations, seed 0, IPC 10, ",
        ),
        (
            {"imported": [ENTRY | {"seed": 1}]},
            "unknown set of imported.0 of run mine 'IPC 1, 20 iterations, seed 1': did you mean",
        ),
        (
            {"imported": [ENTRY | {"method": "dsa+pool"}]},
            "imported.0: no table or figure shows sets of dsa+pool on digits",
        ),
        (
            {"imported": [ENTRY], "exclude": [{"iterations": [20]}]},
            "unknown set of imported.0 of run mine 'IPC 1, 20 iterations, seed 0': did you mean",
        ),
        ({"exclude": [{"ipc": [[1]]}]}, "exclude.0.ipc.0"),
        (
            {"exclude": [{"ipc": [1]}, {"arch": ["vgg11", "vgg1"], "ipc": [10]}]},
            "unknown value of axis 'arch' in exclude.1 of run mine 'vgg1': did you mean 'vgg11'?",
        ),
        (
            {"exclude": [{"ipc": ["10"]}]},
            "axis 'ipc' in exclude.0 of run mine has no text '10', but the number 10",
        ),
        ({"exclude": [{"ipc": [50]}]}, "'ipc' in exclude.0 of run mine '50': known are 1, 10"),
        ({"exclude": [{"dataset": ["digit"]}]}, "of run mine 'digit': did you mean 'digits'?"),
        (
            {
                "exclude": [{"temperature": [3]}],
                "tables": ["modelpool_ablation_released"],
                "figures": [],
                "axes_for": {},
            },
            "axis in exclude.0 of run mine 'temperature'",
        ),
        (
            {"networks_for": [{"arch": ["mlp"], "ipc": [1, 100], "networks": 1}]},
            "ipc of networks_for.0 of run mine '100'",
        ),
        (
            {"networks_for": [{"arch": ["mlp"], "iterations": [61], "networks": 1}]},
            "iterations of networks_for.0 of run mine '61': known are 0, 20, 300, 60",
        ),
        ({"networks_for": [{"networks": 1}]}, "networks_for.0"),
        ({"networks_for": [{"arch": ["mpl"], "networks": 1}]}, "networks_for.0: unknown network"),
        ({"networks_for": [{"method": ["dcc"], "networks": 1}]}, "networks_for.0: unknown obj"),
        ({"networks_for": [{"protocol": ["x"], "networks": 1}]}, "networks_for.0: unknown proto"),
        ({"networks_for": [{"dataset": ["x"], "networks": 1}]}, "networks_for.0: unknown datase"),
        ({"networks_for": [{"arch": ["mlp"], "networks": 0}]}, "networks_for.0.networks is 0"),
        ({"seeds_for": {"iad": [0]}}, "paper in seeds_for of run mine 'iad': did you mean 'iadd'"),
        ({"seeds_for": {"iadd": [-1]}}, "seeds_for.iadd.0 is -1, it must be at least 0"),
        ({"exclude": [{"arhc": ["mlp"]}]}, "axis in exclude.0 of run mine 'arhc': did you mean"),
        ({"exclude": [{}]}, "exclude.0"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, capsys, changes, message):
    if "imported" in changes and "sets_root" not in message:
        changes = {"sets_root": "there"} | changes
    run = str(write_run(tmp_path, **changes))
    assert main(["configure", "--run", run, "--out", str(tmp_path / "config.json")]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_what_a_run_says_of_an_optional_table_alone(tmp_path):
    """The plan without it, from which the record is made, has no use for that."""
    changes = {
        "tables": ["modelpool_ablation"], "figures": [], "optional": ["modelpool_temperature"],
        "axes_for": {"modelpool_temperature": {"ipc": [1]}},
        "seeds_for": {"modelpool_temperature": [3]}, "exclude": [{"temperature": [10]}],
    }  # fmt: skip
    plan = Plan(load_run(write_run(tmp_path, **changes)))
    assert ("figure", "modelpool_temperature") in plan.exhibits
    assert list(plan.main.exhibits) == [("table", "modelpool_ablation")]
    assert {job.seed for job in plan.main.of(Distillation)} == {0}


def test_fewer_seeds_or_datasets_of_a_run_leave_entries_unused(tmp_path):
    """What ``--config`` narrows is no mistake of the run."""
    axes = {"ipc": [1], "iterations": [20], "setting": ["baseline"], "arch": ["mlp"]}
    digits = {"source": "digits", "label": "digits"}
    changes = {
        "axes": axes, "axes_for": {}, "tables": ["modelpool_ablation"], "figures": [],
        "datasets": {"digits": digits, "more": digits | {"label": "more"}}, "seeds": [0, 1],
        "imported": [ENTRY, ENTRY | {"seed": 1}], "exclude": [{"dataset": ["more"]}],
    }  # fmt: skip
    run = str(write_run(tmp_path, sets_root=str(tmp_path), **changes))
    (tmp_path / "a.pt").touch()
    words = ["configure", "--run", run, "--out", str(tmp_path / "config.json"), "--set"]
    assert main([*words, "device=cpu"]) == 0
    assert main([*words, "seeds=[1]"]) == 0
    assert main([*words, "datasets=[digits]", "seeds=[0]"]) == 0


def test_a_file_that_is_missing_is_named_before_the_first_job(tmp_path, capsys):
    entry = ENTRY | {"from": "public repository of theirs"}
    axes = {"ipc": [1], "iterations": [20], "setting": ["baseline"], "arch": ["mlp"]}
    changes = {"axes": axes, "axes_for": {}, "tables": ["modelpool_ablation"], "figures": []}
    run = str(write_run(tmp_path, imported=[entry], sets_root="no/where", **changes))
    out = tmp_path / "results/mine/config.json"
    words = ["configure", "--run", run, "--out", str(out), "--set", f"results={tmp_path}/results"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said == (
        "error: run mine, digits/dc/ipc1/seed0/it20: no/where/a.pt: no such file; it is in the "
        "public repository of theirs; give the folder that holds it (sets_root)\n"
    )
    (tmp_path / "a.pt").touch()
    assert main([*words, f"sets_root={tmp_path}/x/.."]) == 0
    assert Plan(load_run(run)).of(Import)  # a plan alone needs no file


def test_as_published_asks_for_images_and_evaluation_alone(released, tmp_path):
    """The settings of a distillation were not ours to choose."""
    run = released.run
    assert run.as_published("dc", "cifar10", 1, ["mlp"])
    other = load_run("modelpool-released", {"data_root": str(tmp_path)})
    assert other.as_published("dc", "cifar10", 1)  # torchvision's files, there

    def changed(**recipes):
        return replace(run, recipes=recipes)

    assert changed(dc={"lr_img": 9.0}).as_published("dc", "cifar10", 1)
    assert not changed(evaluation={"epochs": 299}).as_published("dc", "cifar10", 1)
    distilled = replace(run, imported=[], recipes={"dc": {"lr_img": 9.0}})
    assert not distilled.as_published("dc", "cifar10", 1)
