"""Plug-ins: the examples of docs/own.md as packages of their own, and what goes wrong."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml

from dd import plugins
from dd.artifacts import provenance
from dd.artifacts.headers import read_header, read_origin
from dd.artifacts.text import load_json, load_rows, save_json
from dd.command import Parser, add_plugin_option, main
from dd.config import plugin_files, recipes
from dd.config.methods import parse
from dd.config.run import load_run, read_run
from dd.data import synthetic
from dd.distill import distill
from dd.errors import DDError
from dd.evaluate import evaluate
from dd.networks.build import create
from dd.networks.operations import operations
from dd.networks.options import canonical
from dd.plan.counting import Counted
from dd.plan.estimate import Machine, estimate, extents, text
from dd.plan.gpu_memory import GpuMemory
from dd.plan.jobs import Distillation, Evaluation, command_words
from dd.plan.plan import Plan
from dd.plan.validate import check_plan
from dd.training.recipe import Recipe
from tests.project.test_layers import BLOCK
from tests.support.plugins import (
    documented_module,
    documented_package,
    found,
    install,
    python,
    shown,
)
from tests.support.resuming import Killed, stop_at
from tests.support.runs import ROOT

LITTLE = ["--device", "cpu", "--threads", "1"]
CENTROID = ["--objective", "centroid", "--ipc", "1", "--snapshots", "0", "2", *LITTLE]
TABLE = """
paper: mine
title: means
caption: means
kind: results
rows: [dataset, ipc, iterations, setting]
columns: [arch]
axes:
  ipc: [1]
  iterations: [2]
  setting:
    means: {method: centroid, protocol: hard}
    smooth: {method: centroid+smooth@strength=0.5, protocol: "smooth@smoothing=0.3"}
  arch: [mlp, "patches:width=8"]
"""
RUN = """
title: methods of other packages
plugins: [mine]
datasets: {digits: {source: digits, label: digits}}
width_factor: 0.125
seeds: [0]
networks: 1
axes: {ipc: [1], iterations: [2]}
recipes: {evaluation: {epochs: 2}, centroid: {batch_real: 8}}
tables: [mine]
figures: []
resources:
  prepare: {threads: 1, mem_mb: 1000, runtime: 5}
  distill: {threads: 1, mem_mb: 2000, runtime: 10}
  evaluate: {threads: 1, mem_mb: 2000, runtime: 10}
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A folder with the installed package of the page."""
    return documented_package(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    """A folder with the module of the page, which is not installed."""
    return documented_module(tmp_path_factory.mktemp("here"))


@pytest.fixture
def run_file(checkout):
    """The file of a run of one table, in a copy of the workflow."""
    (checkout / "workflow/config/tables/mine.yaml").write_text(TABLE)
    path = checkout / "mine-run.yaml"
    path.write_text(RUN)
    return path


def load(run_file, **overrides):
    return load_run(str(run_file), overrides, run_file.parent / "workflow")


def written(folder: Path, name: str, code: str, described: str | None, **points: str) -> Path:
    """An installed package ``name`` with this code; ``points``: KIND="NAME" of entry points."""
    package = folder / name.replace("-", "_")
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(code)
    if described is not None:
        (package / "dd.yaml").write_text(described)
    groups = {
        f"dd.{kind}s": {one: f"{package.name}:{one.capitalize()}"} for kind, one in points.items()
    }
    install(folder, name, "1.0", groups)
    return folder


def said(capsys):
    """The one line of an error."""
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1, err
    return err


def test_the_example_has_ten_lines():
    (project,) = shown("A plug-in", "toml")
    assert len(project.splitlines()) <= 10


def test_an_installed_package_distils_in_a_process_of_its_own(package, digits_file, tmp_path):
    words = ["distill", "--data", str(digits_file), "--out", str(tmp_path), *CENTROID]
    python(["-m", "dd", *words], package)
    start, end = (synthetic.load(tmp_path / f"it{n}.safetensors") for n in (0, 2))
    assert (start.images != end.images).flatten(1).any(1).all()
    assert end.header["recipe"] == {"centroid": "own"}
    assert end.header["networks"] == {"source": "none"}
    assert read_origin(tmp_path / "it2.safetensors")["plugins"] == ["dd-centroid 1.0"]


def test_help_lists_it_with_its_settings_and_imports_nothing(package, capsys):
    with found(package):
        with pytest.raises(SystemExit) as leaving:
            main(["distill", "--help"])
        assert leaving.value.code == 0 and "dd_centroid" not in sys.modules
        out = " ".join(capsys.readouterr().out.split())
        assert "one of centroid, dc, dd, dm" in out
        assert "a setting of a plug-in [centroid]" in out and "--batch-real" in out


def test_options_reach_the_settings(package, digits_file, tmp_path, capsys):
    data = ["--data", str(digits_file)]
    with found(package):
        words = [*data, "--out", str(tmp_path / "a"), *CENTROID, "--batch-real", "3"]
        assert main(["distill", *words]) == 0
        header = read_header(tmp_path / "a" / "it2.safetensors")
        assert header["settings"]["batch_real"] == 3
        capsys.readouterr()
        assert main(["distill", *data, "--out", str(tmp_path), *CENTROID, "--batch-real", "0"]) == 2
    assert "batch_real is 0, it must be at least 1" in said(capsys)


def test_what_was_made_without_plug_ins_names_none(package, digits_file, tmp_path):
    words = ["--objective", "random", "--ipc", "1", "--snapshots", "0", *LITTLE]
    with found(package):
        words = ["distill", "--data", str(digits_file), "--out", str(tmp_path), *words]
        assert main(words) == 0
    assert "plugins" not in read_origin(tmp_path / "it0.safetensors")


def test_a_module_brings_regulariser_network_and_protocol(module, digits_file, tmp_path, capsys):
    with found(module):
        named = ["--plugin", "mine", "--data", str(digits_file), *LITTLE]
        out, rows = tmp_path / "set", tmp_path / "rows.csv"
        words = ["--objective", "dm", "--ipc", "1", "--network", "patches:width=8"]
        words += ["--regulariser", "smooth@strength=0.5", "--snapshots", "2", "--batch-real", "8"]
        assert main(["distill", *words, "--out", str(out), *named]) == 0
        origin = read_origin(out / "it2.safetensors")
        (name,) = origin["plugins"]
        assert name.startswith("mine sha256:") and len(name) == len("mine sha256:") + 16
        header = read_header(out / "it2.safetensors")
        assert header["regulariser"] == {"name": "smooth", "strength": 0.5}
        assert header["seen"] == ["patches:width=8"]
        assert "smooth" in (out / "metrics.jsonl").read_text()
        words = ["--arch", "patches", "mlp", "--networks", "1", "--epochs", "1"]
        words += ["--protocol", "smooth", "--smoothing", "0.3", "--width-factor", "0.1"]
        words += ["--synthetic", str(out / "it2.safetensors"), "--out", str(rows)]
        assert main(["evaluate", *words, *named]) == 0
        for row in load_rows(rows):
            assert (row["protocol"], row["smoothing"], row["plugins"]) == ("smooth", "0.3", name)
        capsys.readouterr()
        named = named[2:]
        assert main(["distill", "--objective", "dm", "--ipc", "1", "--out", str(out), *named,
                     "--network", "patches"]) == 2  # fmt: skip
        assert "unknown network 'patches'" in said(capsys)


def test_label_smoothing_of_the_page_is_that_of_its_equation(module):
    """-(1 - s) log p_y - s mean_k log p_k."""
    with found(module, modules=("mine",)):
        from dd.evaluate.protocols import PROTOCOLS

        smooth = PROTOCOLS["smooth"]
        protocol = smooth(smooth.Settings(smoothing=0.3), None)
        logits = torch.tensor([[1.0, 2.0, -1.0]], dtype=torch.float64)
        logs = logits - logits.exp().sum().log()
        expected = -(0.7 * logs[0, 1] + 0.3 * logs.mean())
        assert protocol._loss(logits, torch.tensor([1]), None, 0) == pytest.approx(float(expected))


def test_planning_imports_no_plug_in_and_no_torch(package, module, run_file):
    code = f"""{BLOCK}
from pathlib import Path
from dd.config.run import load_run, read_run
from dd.artifacts.text import save_json
from dd.plan.kinds import inputs
from dd.plan.plan import Plan

plan = Plan(load_run({str(run_file)!r}))
document = plan.document()
save_json("results/mine-run/config.json", document)
assert Plan(read_run("results/mine-run/config.json")).document() == document
for exhibit in plan.exhibits.values():
    assert inputs(exhibit, plan.jobs)
assert not {{"mine", "dd_centroid", "torch"}} & set(sys.modules)
print(*(str(job) for job in plan.jobs), sep="\\n")
"""
    planned = python(["-c", code], package, module, cwd=run_file.parent)
    made = "digits/centroid+smooth@strength=0.5/ipc1/seed0"
    assert f"\n{made}/it2/smooth@smoothing=0.3" in planned


def test_the_plan_has_its_settings_and_records_its_plug_ins(package, module, run_file):
    with found(package, module):
        run = load(run_file)
        plan = Plan(run)
        check_plan(plan)
        assert run.plugins == ["mine"]
        job = next(job for job in plan.of(Distillation) if "+" in job.method)
        words = command_words(job.options(run))
        assert words[words.index("--regulariser") + 1] == "smooth@strength=0.5"
        assert words[words.index("--batch-real") + 1] == "8"
        assert words[words.index("--lr-img") + 1] == "0.1"
        document = plan.document()
        assert document["run"]["plugins"] == ["mine"]
        assert document["protocols"]["smooth"] == {"protocol": "smooth", "smoothing": 0.1}
        conditions = next(job for job in plan.of(Evaluation) if "smooth@" in job.protocol)
        assert conditions.conditions(run)["smoothing"] == 0.3
        # as those of dc, by the line `evaluation: dc`
        assert recipes.resolve_evaluation("centroid", "mnist", 1) == (
            recipes.resolve_evaluation("dc", "mnist", 1)
        )


def test_an_estimate_says_what_it_does_not_count(package, module, run_file):
    machine = Machine("one core", cores=1, rate=1e9, start=1.0)
    with found(package, module):
        plan = Plan(load(run_file))
        counted = Counted(plan, extents(plan))
        stages = estimate(plan, counted, machine)
        page = text(plan, stages, machine)
    assert page.splitlines()[-2] == "not counted, of plug-ins: centroid, smooth"
    by_name = {stage.name: stage for stage in stages}
    assert by_name["distill"].operations == 0 and by_name["evaluate"].operations > 0


@pytest.mark.parametrize("like", ["", "like: kd, "])
def test_an_estimate_counts_the_teacher_of_a_protocol_like_kd(like, run_file, tmp_path):
    """It is trained and tested beside the others, who see its answers."""
    site = tmp_path / "site"
    described = f"protocols: {{taught: {{{like}teacher: lenet}}}}"
    written(site, "dd-taught", "import nothing", described, protocol="taught")
    table = yaml.safe_load(TABLE)
    protocols = {one: {"method": "dc", "protocol": one} for one in ("hard", "taught")}
    table["axes"] |= {"setting": protocols, "arch": ["mlp", "convnet"]}
    (run_file.parent / "workflow/config/tables/mine.yaml").write_text(yaml.safe_dump(table))
    run = yaml.safe_load(RUN) | {"networks_for": [{"arch": ["convnet"], "networks": 4}]}
    own = {"epochs": 2, "augment": "none", "network": {"lenet": {"epochs": 3}}}
    run |= {"plugins": [], "recipes": {"evaluation": own}}
    run_file.write_text(yaml.safe_dump(run))
    with found(site):
        plan = Plan(load(run_file))
        counted = Counted(plan, extents(plan))
        plain, taught = sorted(plan.of(Evaluation), key=lambda job: job.protocol)
        data = counted.extents["digits"]
        train, forward = (operations(way, "lenet", data, 0.125) for way in ("train", "forward"))
        teacher = 4 * (3 * 10 * train + data.test * forward) + 5 * 10 * forward
        more = counted.work(taught) - counted.work(plain)
        assert more == pytest.approx(teacher if like else 0)
        seen = [part.given[0] for part in GpuMemory(counted).of(taught) if part.way == "train"]
        assert seen == ["convnet", "mlp", *(["lenet"] if like else [])]


def test_a_plan_without_plug_ins_says_nothing_of_them(package):
    before = Plan(load_run("smoke")).document()
    with found(package):
        assert Plan(load_run("smoke")).document() == before
    assert "plugins" not in before["run"]


def test_plugin_on_the_command_line_of_configure_is_recorded(package, module, run_file, tmp_path):
    run_file.write_text(RUN.replace("plugins: [mine]\n", ""))
    words = ["--run", str(run_file), "--workflow", str(run_file.parent / "workflow")]
    with found(package, module):
        out = tmp_path / "mine-run" / "config.json"
        assert main(["configure", *words, "--out", str(out), "--plugin", "mine"]) == 0
        assert load_json(out)["run"]["plugins"] == ["mine"]
        plugins.begin()
        assert read_run(out).parse("dm+smooth").regulariser.name == "smooth"


def test_a_module_in_folders_without_init(tmp_path):
    (tmp_path / "some" / "where").mkdir(parents=True)
    (tmp_path / "some" / "where" / "mine.py").write_text("raise SystemExit('imported')")
    with found(tmp_path):
        spec = plugins.locate("some.where.mine")
        assert spec.origin == str(tmp_path / "some" / "where" / "mine.py")
        assert plugins.locate("some.where.other") is None
        assert "some" not in sys.modules


def test_override_of_plugins(package, module, run_file):
    run_file.write_text(RUN.replace("plugins: [mine]\n", ""))
    with found(package, module):
        assert load(run_file, plugins="mine").plugins == ["mine"]
    with found(package, module), pytest.raises(DDError, match=r"plugins.0 is '\./mine', it must"):
        load(run_file, plugins=["./mine"])


def test_a_definition_of_the_workflow_may_use_the_protocol(package, module, run_file):
    path = run_file.parent / "workflow/config/protocols.yaml"
    kept = path.read_text()
    path.write_text(kept + "smooth-most: {protocol: smooth, smoothing: 0.9}\n")
    with found(package, module):
        run = load(run_file)
        assert run.protocols["smooth-most"]["smoothing"] == 0.9
        assert "smooth" in run.protocols and "smoo" not in run.protocols
    path.write_text(kept + "smooth-most: {protocol: smooth, smoothness: 0.9}\n")
    with found(package, module), pytest.raises(DDError, match="smoothness"):
        load(run_file).protocols  # noqa: B018
    path.write_text(kept + "smooth: {protocol: hard}\n")
    with found(package, module), pytest.raises(DDError, match="one name for two things"):
        load(run_file).protocols["smooth"]


@pytest.mark.parametrize(
    ("kind", "name", "described", "use"),
    [
        ("objective", "dc", "recipes: {dc: {distillation: {iterations: 1, whitening: none}}}",
         lambda: parse("dc")),
        ("objective", "buffer", "source: x", lambda: recipes.resolve_training("buffer", "digits")),
        ("regulariser", "metadd", "source: x", lambda: parse("dm+metadd")),
        ("network", "convnet", "networks: {convnet: {}}", lambda: canonical("convnet:depth=1")),
        ("protocol", "kd", "protocols: {kd: {}}", lambda: load_run("smoke").protocols["kd"]),
    ],
)  # fmt: skip
def test_names_of_the_suite(kind, name, described, use, tmp_path):
    with found(written(tmp_path, "dd-other", "import nothing", described, **{kind: name})):
        parse("mtt")  # nothing wrong where the name is not used
        with pytest.raises(DDError) as error:
            use()
    assert "one name for two things: " in str(error.value)
    assert f"'{name}' of this suite and {kind} '{name}' of plug-in dd-other 1.0" in str(error.value)


def test_names_of_two_plug_ins(package, tmp_path, digits_file, capsys):
    described = "recipes: {centroid: {regularisation: {a: 1.0}}}"
    other = written(tmp_path, "dd-other", "", described, regulariser="centroid")
    with found(package, other):
        out = ["--data", str(digits_file), "--out", str(tmp_path / "out")]
        assert main(["distill", *out, *CENTROID]) == 2
        line = said(capsys)
        assert "objective 'centroid' of plug-in dd-centroid 1.0 and " in line
        assert "regulariser 'centroid' of plug-in dd-other 1.0" in line


def test_a_pool_of_the_name(tmp_path):
    described = "recipes: {pool: {regularisation: {a: 1.0}}}"
    with (
        found(written(tmp_path, "dd-other", "", described, regulariser="pool")),
        pytest.raises(DDError, match="'dc\\+pool': pool is a pool and a regulariser; rename one"),
    ):
        parse("dc+pool", ["pool"])


CODE = """
from dd.distill.objectives.base import ImageSettings, Objective


class Broken(Objective):
    Settings = ImageSettings
"""
GOOD = "recipes: {broken: {distillation: {iterations: 1, whitening: none}, evaluation: dc}}"


@pytest.mark.parametrize(
    ("code", "described", "message"),
    [
        ("import not_there", GOOD, "cannot be imported (ModuleNotFoundError: No module named 'not"),
        ("1 / 0", GOOD, "dd_broken cannot be imported (ZeroDivisionError: division by zero)"),
        ("raise SystemExit(0)", GOOD, "cannot be imported (SystemExit: 0)"),
        ("def", GOOD, "cannot be imported (SyntaxError: "),
        ("x = 1", GOOD, "cannot be imported (AttributeError: "),
        (CODE.replace("ImageSettings", "int", 2), GOOD, "cannot import name 'int'"),
        (CODE.replace("= Im", "= int # "), GOOD, "its Settings is no dataclass"),
        (CODE.replace("Settings = I", "pass # "), GOOD, "its Settings is no dataclass"),
        ("class Broken: pass", GOOD, "is no class derived from dd.distill.objectives.base.Obj"),
        ("", None, "needs a file "),
        ("", "recipes: {broken: [", "is not YAML"),
        ("", "recipes: {}", "is missing in "),
        ("", "recipes: {broken: {own: {}}}", "its recipe has no 'distillation'"),
        ("", GOOD.replace(", evaluation: dc", ""), "its recipe has no 'evaluation'"),
        ("", GOOD.replace("dc}", "dcc}"), "in evaluation 'dcc': did you mean 'dc'"),
        ("", GOOD.replace("dc}", "{lr: 0.1}}"), "its recipe has no '"),
        ("", GOOD.replace(", whitening: none", ""), "key 'whitening' is missing in recipes.broken"),
        ("", GOOD.replace("none}", "none, seed: 1}"), "setting 'seed' has the name of an option"),
        ("", GOOD.replace("none}", "none, dataset: {digits: {iterations: 2}}}"), "say in 'own'"),
        ("", GOOD.replace("recipes", "recipe"), "unknown key 'recipe': did you mean 'recipes'?"),
    ],
)  # fmt: skip
def test_a_broken_one_is_one_line_where_it_is_used(
    code, described, message, tmp_path, digits_file, capsys
):
    site = written(tmp_path / "site", "dd-broken", code or CODE, described, objective="broken")
    with found(site):
        words = ["distill", "--data", str(digits_file), "--out", str(tmp_path / "out"), *LITTLE]
        assert main([*words, "--objective", "random", "--ipc", "1", "--snapshots", "0"]) == 0
        plan = Plan(load_run("smoke"))
        assert plan.document()
        capsys.readouterr()
        assert main([*words, "--objective", "broken", "--ipc", "1"]) == 2
        line = said(capsys)
        assert "dd-broken 1.0" in line and message in line


def test_a_setting_may_have_any_name_of_the_file(tmp_path, digits_file, capsys):
    """A class cannot have it, which is said where the plug-in is used, and only there."""
    described = GOOD.replace("none}", "none, lambda: 0.5}, own: {any: []}")
    site = written(tmp_path / "site", "dd-broken", CODE, described, objective="broken")
    words = ["distill", "--data", str(digits_file), "--out", str(tmp_path / "out"), *LITTLE]
    with found(site):
        assert main([*words, "--objective", "random", "--ipc", "1", "--snapshots", "0"]) == 0
        capsys.readouterr()
        assert main([*words, "--objective", "broken", "--ipc", "1", "--snapshots", "0"]) == 2
        assert "unknown setting of broken 'lambda'" in said(capsys)


@pytest.mark.parametrize("name", ["_broken", "-broken", "bro ken", "bröken"])
def test_a_name_that_is_no_part_of_a_path(name, tmp_path):
    described = GOOD.replace("broken:", f'"{name}":')
    site = written(tmp_path, "dd-broken", CODE, described, objective=name)
    with found(site), pytest.raises(DDError) as error:
        parse(name)
    message = "a name has letters, digits, '_' and '-', and starts with a letter or digit"
    assert message in str(error.value) and "dd-broken 1.0" in str(error.value)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("nowhere", "plug-in nowhere: no such module; put it into this folder or on PYTHONPATH"),
        ("no/where", "plug-in 'no/where': is no name of a module"),
        ("plain", "plain.yaml that says what it brings"),
    ],
)
def test_modules_that_are_none(module, message, tmp_path, capsys):
    (tmp_path / "plain.py").write_text("")
    with found(tmp_path):
        assert main(["inspect", "x.csv", "--plugin", module]) == 2
        assert message in said(capsys)


def test_a_module_that_is_installed_is_that_plug_in(package, tmp_path, digits_file):
    with found(package):
        words = ["--data", str(digits_file), "--out", str(tmp_path), *CENTROID]
        assert main(["distill", *words, "--plugin", "dd_centroid"]) == 0
        assert plugins.added() == []
    assert read_origin(tmp_path / "it2.safetensors")["plugins"] == ["dd-centroid 1.0"]


def test_the_decorator_may_be_left_out(package, tmp_path, digits_file):
    site = tmp_path / "site"
    shutil.copytree(package, site)
    code = site / "dd_centroid" / "__init__.py"
    text = code.read_text()
    assert '@OBJECTIVES.register("centroid")\n' in text
    code.write_text(text.replace('@OBJECTIVES.register("centroid")\n', ""))
    with found(site):
        words = ["--data", str(digits_file), "--out", str(tmp_path), *CENTROID]
        assert main(["distill", *words]) == 0


def test_an_editable_installation_is_known_by_its_code(package, tmp_path):
    site = tmp_path / "site"
    shutil.copytree(package, site)
    (site / "dd_centroid-1.0.dist-info" / "direct_url.json").write_text(
        json.dumps({"url": "file:///x", "dir_info": {"editable": True}})
    )
    seen = []
    for _ in range(2):
        with found(site):
            recipes.recipe("centroid")
            seen += plugins.used()
        with (site / "dd_centroid" / "__init__.py").open("a") as file:
            file.write("\n# changed\n")
    assert all(text.startswith("dd-centroid 1.0+sha256:") for text in seen)
    assert len(set(seen)) == 2


PARTS = """
from dataclasses import dataclass
from dd.config.settings import setting
from dd.distill.objectives.base import Objective, Settings
from dd.distill.parametrisations.base import Parametrisation
from dd.distill.regularisers.base import Regulariser
from dd.evaluate.protocols import Hard, HardSettings

@dataclass(frozen=True)
class Empty: pass

@dataclass(frozen=True)
class Drawing(Settings):
    network: str = setting("a network")

@dataclass(frozen=True)
class Taught:
    teacher: str = setting("a network")

"""
OF_KIND = {
    "objective": "recipes: {broken: {distillation: {iterations: 2, whitening: none}, "
    "evaluation: dc, own: {any: []}}}",
    "parametrisation": "recipes: {broken: {parametrisation: {}}}",
    "regulariser": "recipes: {broken: {regularisation: {}}}",
    "protocol": "protocols: {broken: {}}",
}


def checked(kind, code, change, run_file, folder, protocol="hard"):
    """Check a run with the thing ``broken`` of a kind; its file with a ``change`` (old, new).

    Returns the options of an evaluation."""
    described = OF_KIND[kind].replace(*change)
    site = written(folder / "site", "dd-broken", PARTS + code, described, **{kind: "broken"})
    method = {"objective": "broken", "protocol": "dc"}.get(kind, "dc+broken")
    protocol = "broken" if kind == "protocol" else protocol
    table, run = yaml.safe_load(TABLE), yaml.safe_load(RUN)
    table["axes"] |= {"setting": {"a": {"method": method, "protocol": protocol}}, "arch": ["mlp"]}
    (run_file.parent / "workflow/config/tables/mine.yaml").write_text(yaml.safe_dump(table))
    run |= {"plugins": [], "recipes": {"evaluation": {"epochs": 2}}}
    run_file.write_text(yaml.safe_dump(run))
    with found(site):
        plan = Plan(load(run_file))
        check_plan(plan)
        return plan.of(Evaluation)[0].options(plan.run)


@pytest.mark.parametrize(
    ("kind", "code", "change", "message"),
    [
        ("objective", "class Broken(Objective): Settings = Settings",
         ("own:", "networks: pretrained, own:"),
         "'networks: pretrained' is True in its file, False"),
        ("objective", "class Broken(Objective): Settings = Drawing",
         ("none}", "none, network: mlp}"), "a setting 'network' is True in its file, False"),
        ("objective", "class Broken(Objective): Settings, needs_trajectories = Settings, True",
         ("", ""), "a setting 'experts' is False in its file, True"),
        ("parametrisation",
         "class Broken(Parametrisation): Settings, needs_generator = Empty, True",
         ("", ""), "'generator: trained' is False in its file, True"),
        ("regulariser", "class Broken(Regulariser):\n Settings = Empty\n"
         " @staticmethod\n def needs(settings): return ['mlp']",
         ("", ""), "the list of networks (setting 'auxiliary') is [] in its file, ['mlp']"),
        ("protocol", "class Broken(Hard): needs_labels = True",
         ("", ""), "'like: soft' is False in its file, True"),
        ("protocol", "class Broken(Hard): Settings = Taught",
         ("{}", "{like: kd, teacher: lenet}"),
         "the teacher ('like: kd') is ['lenet'] in its file, []"),
    ],
)  # fmt: skip
def test_what_the_file_and_the_class_say(kind, code, change, message, run_file, tmp_path):
    """The plan follows the file and the stage the class: both must agree before the first job."""
    with pytest.raises(DDError) as error:
        checked(kind, code, change, run_file, tmp_path)
    line = f"{kind} 'broken' of plug-in dd-broken 1.0: {message} in its class"
    assert str(error.value).endswith(line)


@pytest.mark.parametrize(
    ("kind", "code", "change"),
    [
        ("objective", "class Broken(Objective): Settings = Settings", ("", "")),
        ("parametrisation", "class Broken(Parametrisation): Settings = Empty", ("", "")),
        ("regulariser", "class Broken(Regulariser): Settings = Empty", ("", "")),
        ("protocol", "class Broken(Hard): Settings = HardSettings", ("", "")),
        ("protocol", "class Broken(Hard):\n Settings = Taught\n"
         " @classmethod\n def also_trained(cls, settings): return [settings.teacher]",
         ("{}", "{like: kd, teacher: lenet}")),
    ],
)  # fmt: skip
def test_a_file_and_a_class_that_agree(kind, code, change, run_file, tmp_path):
    checked(kind, code, change, run_file, tmp_path)


ROUNDS = """
@dataclass(frozen=True)
class Rounds(Settings):
    student_epochs: int = setting("how many times")
    initialisation: str = setting("of what", default="fixed")

class Broken(Objective): Settings = Rounds
"""


@pytest.mark.parametrize(
    "settings", ["student_epochs: 4", "student_epochs: 4, initialisation: fixed"]
)
def test_an_objective_whose_sets_say_the_steps(settings, run_file, tmp_path):
    """It names the setting that says how long they are; its other settings may have any names."""
    change = ("whitening: none}", f"whitening: none, {settings}}}, steps: student_epochs")
    options = checked("objective", ROUNDS, change, run_file, tmp_path, "steps")
    assert (options["epochs"], options["optimizer"], options["augment"]) == (4, "sgd", "none")
    assert "lr" not in options and "batch" not in options  # the set says them


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ("", "but broken makes sets for no steps"),
        (", steps: epochs", "steps: unknown setting 'epoc"),
    ],
)
def test_an_objective_that_does_not_say_how_long_its_steps_are(steps, message, run_file, tmp_path):
    change = ("whitening: none}", f"whitening: none, student_epochs: 4}}{steps}")
    with pytest.raises(DDError, match=message):
        checked("objective", ROUNDS, change, run_file, tmp_path, "steps")


def test_an_objective_whose_labels_are_targets_of_a_regression(run_file, tmp_path):
    code = "class Broken(Objective): Settings = Settings"
    with pytest.raises(DDError, match="the labels of broken are targets of a regression"):
        checked("objective", code, ("own:", "labels: targets, own:"), run_file, tmp_path)
    change = ("own:", "labels: targets, own:")
    checked("objective", code, change, run_file, tmp_path / "again", "regression")


def test_a_setting_of_the_file_that_the_class_lacks(run_file, tmp_path):
    code, change = "class Broken(Objective): Settings = Settings", ("none}", "none, network: mlp}")
    with pytest.raises(DDError, match="unknown setting of broken 'network'"):
        checked("objective", code, change, run_file, tmp_path)


NETWORK = """
from torch import nn
from dd.networks.base import Network

class Broken(Network):
    def __init__(self, channels, size, classes, width_factor=1.0, OPTIONS):
        super().__init__()
        self.classifier = nn.Linear(channels * size[0] * size[1], classes)

    def embed(self, x):
        return x.flatten(1)
"""


@pytest.mark.parametrize(
    ("parameters", "described", "message"),
    [
        ("*, width=64", "{width: 16}",
         "the default of 'width' is 16 in its file, 64 in its class"),
        ("*, kind='b'", "{kind: [a, b]}",
         "the default of 'kind' is a in its file, b in its class"),
        ("*, depth=3", "{width: 64}",
         "'width' is an option in its file, not in its class; its options are depth"),
        ("**others", "{classes: 64}",
         "'classes' is an option in its file, not in its class; it has no options"),
        ("*, width", "{}", "its class needs 'width', which is no option in its file"),
    ],
)  # fmt: skip
def test_a_network_whose_class_has_other_options(
    parameters, described, message, run_file, digits_file, tmp_path, capsys
):
    """A spec leaves out the file's defaults, so two defaults would be one name for two networks."""
    code = NETWORK.replace("OPTIONS", parameters)
    site = written(tmp_path / "site", "dd-broken", code, f"networks: {{broken: {described}}}",
                   network="broken")  # fmt: skip
    table, run = yaml.safe_load(TABLE), yaml.safe_load(RUN)
    table["axes"] |= {"setting": {"a": {"method": "dc", "protocol": "hard"}}, "arch": ["broken"]}
    (run_file.parent / "workflow/config/tables/mine.yaml").write_text(yaml.safe_dump(table))
    run |= {"plugins": [], "recipes": {"evaluation": {"epochs": 2}}}
    run_file.write_text(yaml.safe_dump(run))
    with found(site):
        with pytest.raises(DDError) as error:
            check_plan(Plan(load(run_file)))
        line = f"network 'broken' of plug-in dd-broken 1.0: {message}"
        assert str(error.value).endswith(line)
        with pytest.raises(DDError) as error:
            create("broken", 1, (8, 8), 10, generator=None)
        assert str(error.value) == line


def test_a_network_that_takes_any_options_has_the_defaults_of_the_file(tmp_path):
    code = """
def Broken(images, size, labels, factor, **options):
    from dd.networks.architectures.mlp import MLP
    return MLP(images, size, labels, factor, **options)
"""
    described = "networks: {broken: {width: 16}}"
    site = written(tmp_path, "dd-broken", code, described, network="broken")
    with found(site):
        for spec, width in (("broken", 16), ("broken:width=16", 16), ("broken:width=32", 32)):
            network = create(spec, 1, (8, 8), 10, generator=None)
            assert network.classifier.in_features == width


MOVING = """
from dataclasses import dataclass
import torch
from dd.distill.objectives.base import ImageSettings, Objective

class Broken(Objective):
    Settings = ImageSettings

    def iteration(self, number, synthetic):
        images = synthetic.images()
        BODY
"""
RECIPE = """
recipes:
  broken:
    own: {any: []}
    distillation:
      {iterations: 2, init: noise, lr_img: 1, momentum_img: 0, whitening: none, augment: none}
    evaluation: dc
"""


@pytest.fixture
def distilled(digits_file, tmp_path, capsys):
    """A function: what `distill` with an objective of this code says, and its status."""

    def run(code, *words):
        site = written(tmp_path / "site", "dd-broken", code, RECIPE, objective="broken")
        out = ["--data", str(digits_file), "--out", str(tmp_path / "out"), *LITTLE]
        with found(site):
            status = main(["distill", "--objective", "broken", "--ipc", "1", *out, *words])
        return status, capsys.readouterr().err

    return run


GRADIENT = "the gradient of the images has shape [1, 1, 8, 8], it must be of shape [10, 1, 8, 8]"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return {'los': 1}", "it gives metrics without 'loss', which must be a number"),
        ("return None", "it gives None, it must give a dict of metrics"),
        ("return {'loss': images.sum()}",
         "it gives a value of type Tensor as 'loss', it must be a number"),
        ("return {'loss': 'low'}", "it gives a value of type str as 'loss', it must be a number"),
        ("return {'loss': 1.0, 'more': [1]}",
         "it gives a value of type list as 'more', it must be a number or text"),
        ("return {'loss': 1.0, 'seconds': 2}",
         "it gives a metric 'seconds', as others do; give it another name"),
        ("synthetic.update(images[:1])", GRADIENT),
        ("synthetic.update(None)",
         "the gradient of the images is None, it must be of shape [10, 1, 8, 8]"),
    ],
)  # fmt: skip
def test_an_objective_that_breaks_its_contract_is_one_line(body, message, distilled):
    status, err = distilled(MOVING.replace("BODY", body))
    line = f"error: objective 'broken' of plug-in dd-broken 1.0: iteration 1: {message}\n"
    assert (status, err.splitlines(keepends=True)[-1]) == (2, line)


def test_an_objective_without_the_method_is_told_of_it(distilled):
    status, err = distilled(MOVING.replace("iteration", "iterate"))
    assert status == 2 and err.count("\n") == 1
    assert "1.0: iteration 1: Broken has no method 'iteration', which moves the images" in err


@pytest.mark.parametrize("raised", ["ValueError('two\\nlines')", "SystemExit(0)"])
def test_an_error_in_the_code_of_a_plug_in_shows_where(raised, distilled):
    """One line, and of the traceback what its author can mend."""
    status, err = distilled(MOVING.replace("BODY", f"raise {raised}"))
    line, title, place, code = err.splitlines()
    said = raised.replace("('", ": ").replace("(", ": ").replace("')", "").replace(")", "")
    assert status == 2 and title == "In the plug-in (the last call last):"
    assert line == (
        "error: objective 'broken' of plug-in dd-broken 1.0: iteration 1: "
        f"{said.replace(chr(92) + 'n', ' ')}"
    )
    assert place.endswith('__init__.py", line 11, in iteration') and code == f"    raise {raised}"


def test_an_error_of_the_suite_itself_is_not_blamed_on_it(distilled, monkeypatch):
    def broken(*given):
        raise KeyError("ours")

    monkeypatch.setattr(synthetic, "save", broken)
    with pytest.raises(KeyError, match="ours"):
        distilled(MOVING.replace("BODY", "return {'loss': 1.0}"))


def test_a_whole_number_in_the_file_may_be_any_number_of_the_class(distilled, tmp_path):
    code = MOVING.replace("BODY", "return {'loss': 1.0}")
    assert distilled(code, "--lr-img", "0.5")[0] == 0
    assert read_header(tmp_path / "out" / "it2.safetensors")["settings"]["lr_img"] == 0.5
    with found(tmp_path / "site"):
        assert parse("broken@lr_img=0.5").settings == {"lr_img": 0.5}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return images[:1], {}",
         GRADIENT.replace("images", "regulariser")),
        ("return images, {'more': images}",
         "the regulariser gives a value of type Tensor as 'more', it must be a number or text"),
        ("return images, {'loss': 1.0}",
         "the parametrisation or regulariser gives a metric 'loss', as others do; give it another "
         "name"),
        ("return images", "the regulariser gives a value of type Tensor, it must give a gradient "
         "and a dict of metrics"),
    ],
)  # fmt: skip
def test_a_regulariser_that_breaks_its_contract(body, message, tmp_path, digits_file, capsys):
    code = f"""{PARTS}
class Broken(Regulariser):
    Settings = Empty

    def gradient(self, images, labels):
        {body}
"""
    described = OF_KIND["regulariser"]
    site = written(tmp_path / "site", "dd-broken", code, described, regulariser="broken")
    words = ["--data", str(digits_file), "--out", str(tmp_path / "out"), *LITTLE, "--objective"]
    words += ["dm", "--ipc", "1", "--network", "mlp", "--batch-real", "2", "--snapshots", "1"]
    with found(site):
        assert main(["distill", *words, "--regulariser", "broken"]) == 2
    assert capsys.readouterr().err.endswith(f"error: objective 'dm': iteration 1: {message}\n")


@pytest.mark.parametrize(
    ("kind", "code", "message"),
    [
        ("objective", "class Broken(Objective):\n Settings = Settings\n"
         " def iteration(self, synthetic): pass",
         "its method iteration takes (self, synthetic), it must take (self, number, synthetic)"),
        ("objective", "class Broken(Objective):\n Settings = Settings\n outcome = 1",
         "its method outcome is no function"),
        ("regulariser", "class Broken(Regulariser):\n Settings = Empty\n"
         " def needs(self, settings): pass",
         "its method needs takes (self, settings), it must take (settings)"),
        ("protocol", "class Broken(Hard):\n def train(self, arch): pass",
         "its method train takes (self, arch), it must take (self, arch, numbers)"),
        ("protocol", "class Broken(Hard):\n def also_trained(settings): return []", ""),
        ("protocol", "class Broken(Hard):\n @staticmethod\n def train(*given, **more): pass", ""),
    ],
)  # fmt: skip
def test_methods_take_what_the_suite_gives(kind, code, message, run_file, tmp_path):
    if not message:
        checked(kind, code, ("", ""), run_file, tmp_path)
        return
    with pytest.raises(DDError) as error:
        checked(kind, code, ("", ""), run_file, tmp_path)
    assert str(error.value).endswith(f"{kind} 'broken' of plug-in dd-broken 1.0: {message}")


SHARE = """
@dataclass(frozen=True)
class Own:
    share: float = setting("a share", default=0.2)

class Broken(Hard):
    Settings = Own

    def facts(self, number):
        return {"half": self.settings.share / 2}
"""


def test_a_protocol_whose_class_has_another_default(run_file, tmp_path, capsys):
    """As for networks: a run takes the file's default, so the command must not take another."""
    with pytest.raises(DDError) as error:
        checked("protocol", SHARE, ("{}", "{share: 0.1}"), run_file, tmp_path)
    line = (
        "protocol 'broken' of plug-in dd-broken 1.0: the default of 'share' is 0.1 in its file, "
        "0.2 in its class"
    )
    assert str(error.value).endswith(line)
    words = ["--synthetic", "x", "--data", "y", "--arch", "mlp", "--out", str(tmp_path / "x.csv")]
    with found(tmp_path / "site"):
        assert main(["evaluate", "--protocol", "broken", *words]) == 2
    assert said(capsys) == f"error: {line}\n"


@pytest.fixture(scope="module")
def random_set(digits_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("random")
    words = ["--data", str(digits_file), "--out", str(out), *LITTLE, "--snapshots", "0"]
    assert main(["distill", "--objective", "random", "--ipc", "1", *words]) == 0
    return out / "it0.safetensors"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("return self.task.train(arch, numbers, lambda logits, labels: logits.sum())",
         "its loss takes (logits, labels), it must take (logits, labels, guide, epoch)"),
        ("return self.task.train(arch, numbers, lambda logits, *others: logits.sum(1))",
         "the loss has shape [10], it must be one number (shape [])"),
        ("return self.task.train(arch, numbers, lambda *given: None)",
         "the loss is None, it must be one number (shape [])"),
        ("self.task.train(arch, numbers)",
         "its method train gives None, it must give a list of networks, 1 here"),
        ("return self.task.train(arch, numbers) * 2",
         "its method train gives 2 things, it must give a list of networks, 1 here"),
        ("raise RuntimeError('bang')", "RuntimeError: bang"),
    ],
)  # fmt: skip
def test_a_protocol_that_breaks_its_contract(
    code, message, random_set, digits_file, tmp_path, capsys
):
    code = f"{PARTS}\nclass Broken(Hard):\n def train(self, arch, numbers):\n  {code}"
    site = written(tmp_path, "dd-broken", code, OF_KIND["protocol"], protocol="broken")
    words = ["--synthetic", str(random_set), "--data", str(digits_file), "--arch", "mlp"]
    words += ["--networks", "1", "--epochs", "1", "--out", str(tmp_path / "rows.csv"), *LITTLE]
    capsys.readouterr()
    with found(site):
        assert main(["evaluate", "--protocol", "broken", *words]) == 2
    err = capsys.readouterr().err.splitlines()
    line = "error: protocol 'broken' of plug-in dd-broken 1.0: networks of mlp: "
    assert [one for one in err if one.startswith("error")] == [line + message]
    assert len(err) - err.index(line + message) == (4 if "RuntimeError" in message else 1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("classes)", "classes + 1)",
         "its answer to 2 images, their logits, has shape [2, 11], it must be of shape [2, 10]"),
        ("self.classifier", "self.end", "Broken must set self.classifier, a linear layer"),
        ("size[1]", "size[1] + 1",
         "it fails on images [2, 1, 8, 8]: RuntimeError: mat1 and mat2 shapes cannot be multiplied "
         "(2x64 and 65x10)"),
        ("super().__init__()", "super().__init__(); self.own = nn.Parameter(nn.Linear(1, 1).bias)",
         "no initialisation is known for own of Broken; parameters may be those of convolutions, "
         "linear layers, norms and embeddings"),
        ("size, classes, width_factor=1.0", "classes",
         "its class takes (channels, classes), it must take (channels, size, classes, "
         "width_factor)"),
    ],
)  # fmt: skip
def test_a_network_that_breaks_its_contract(old, new, message, tmp_path):
    code = NETWORK.replace(", OPTIONS", "").replace(old, new)
    site = written(tmp_path, "dd-broken", code, "networks: {broken: {}}", network="broken")
    with found(site), pytest.raises(DDError) as error:
        create("broken", 1, (8, 8), 10, generator=torch.Generator())
    assert str(error.value) == f"network 'broken' of plug-in dd-broken 1.0: {message}"


def test_a_class_may_leave_a_default_to_the_file(random_set, digits_file, tmp_path):
    code = PARTS + SHARE.replace(", default=0.2", "")
    described = "protocols: {broken: {share: 0.5}}"
    site = written(tmp_path, "dd-broken", code, described, protocol="broken")
    words = ["--synthetic", str(random_set), "--data", str(digits_file), "--arch", "mlp"]
    words += ["--networks", "1", "--epochs", "1", "--out", str(tmp_path / "rows.csv"), *LITTLE]
    with found(site):
        assert main(["evaluate", "--protocol", "broken", *words]) == 0
    (row,) = load_rows(tmp_path / "rows.csv")
    assert (row["share"], row["half"]) == ("0.5", "0.25")


def test_a_network_is_tried_once_and_draws_nothing(tmp_path, monkeypatch):
    code = (
        NETWORK.replace(", OPTIONS", "")
        + "\nBroken.seen = []\nembed = Broken.embed\n"
        + ("Broken.embed = lambda self, x: (self.seen.append(x.shape), embed(self, x))[1]\n")
    )
    site = written(tmp_path, "dd-broken", code, "networks: {broken: {}}", network="broken")
    with found(site):
        state, stream = torch.get_rng_state(), torch.Generator().manual_seed(0)
        networks = [create("broken", 1, (8, 8), 10, generator=stream) for _ in range(3)]
        assert len(type(networks[0]).seen) == 1 and networks[0].training
        assert torch.equal(torch.get_rng_state(), state)
        again = create("broken", 1, (8, 8), 10, generator=torch.Generator().manual_seed(0))
        assert torch.equal(again.classifier.weight, networks[0].classifier.weight)


def test_reserved_names_are_the_options_of_the_commands():
    for kind, stage, fields in (
        ("objective", distill, distill._declared_settings()),
        ("protocol", evaluate, {**evaluate._protocol_settings(), **recipes_of_evaluation()}),
    ):
        parser = Parser(prog="x")
        stage.add_arguments(parser)
        add_plugin_option(parser)
        options = {action.dest for action in parser._actions} - {"help", *fields}
        assert options == set(plugin_files.RESERVED[kind])


def recipes_of_evaluation():
    return {field.name: field for field in dataclasses.fields(Recipe)}


def test_another_version_goes_on_and_says_so(package, digits_file, tmp_path, monkeypatch, capsys):
    """As other code of this suite would: the job goes on, and the set says who began it."""
    site, out = tmp_path / "site", tmp_path / "out"
    shutil.copytree(package, site)
    words = ["distill", "--data", str(digits_file), "--out", str(out), *CENTROID]
    words[words.index("2")] = "6"
    words += ["--checkpoint-every", "0"]
    with found(site), monkeypatch.context() as patch:
        stop_at(patch, 5)
        with pytest.raises(Killed):
            main(words)
    old = site / "dd_centroid-1.0.dist-info"
    (old / "METADATA").write_text("Metadata-Version: 2.1\nName: dd-centroid\nVersion: 1.1\n")
    old.rename(site / "dd_centroid-1.1.dist-info")
    capsys.readouterr()
    with found(site):
        assert main(words) == 0
    assert "goes on from a checkpoint that other code made" in (text := capsys.readouterr().out)
    assert "dd-centroid 1.0" in text
    origin = read_origin(out / "it6.safetensors")
    assert origin["plugins"] == ["dd-centroid 1.1"]
    assert [one["plugins"] for one in origin["continued_from"]] == ["dd-centroid 1.0"]


def test_makers_as_text_and_back():
    makers = [
        {"code": "0.3.0+gaaaa", "torch": "2.11.0"},
        {"code": "0.3.0", "torch": "2.12.0", "plugins": "dd-centroid 1.0, mine sha256:0123"},
    ]
    text = provenance.makers_as_text(makers)
    assert text == (
        "0.3.0+gaaaa, torch 2.11.0; 0.3.0, torch 2.12.0, plug-ins dd-centroid 1.0, mine sha256:0123"
    )
    assert provenance.makers_from_text(text) == makers
    assert all(provenance.MAKER.fits(maker) for maker in makers)
    assert not provenance.MAKER.fits(makers[0] | {"plugins": ["a"]})


@pytest.mark.parametrize("place", ["objective", "network", "protocol"])
def test_published_values_only_beside_what_names_its_source(package, module, place, tmp_path):
    for folder in (package, module):
        shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    dataset = {"source": "cifar10", "label": "CIFAR-10", "comparable_to": "cifar10"}
    cell = {
        "objective": ("centroid", "cifar10", 1),
        "network": ("dc", "cifar10", 1, ["patches"]),
        "protocol": ("dc", "cifar10", 1, ["convnet"], ["smooth"]),
    }[place]
    for stated in (False, True):
        with found(tmp_path, modules=("mine",)):
            run = dataclasses.replace(load_run("cifar10"), datasets={"cifar10": dataset})
            assert run.as_published("dc", "cifar10", 1, ["convnet"], ["hard"])
            assert run.as_published(*cell) == stated
        for path in (tmp_path / "dd_centroid" / "dd.yaml", tmp_path / "mine.yaml"):
            described = {"source": "arXiv:0000.00000"} | yaml.safe_load(path.read_text())
            path.write_text(yaml.safe_dump(described))


FOURIER = '''
from dataclasses import dataclass

import torch

from dd.config.settings import setting
from dd.distill.parametrisations import PARAMETRISATIONS, Parametrisation
from dd.training.state import load_optimizer_state, optimizer_state, step


@dataclass(frozen=True)
class Settings:
    lr: float = setting("learning rate", above=0)


class Scaled(Parametrisation):
    """Twice what is stored."""

    Settings = Settings

    def __init__(self, generator, images, labels, settings, optimise, stream):
        assert generator is None
        self.labels, self.half = labels, (images / 2).requires_grad_(True)
        self.optimizer = optimise([{"params": [self.half], "lr": settings.lr}])

    def images(self):
        return 2 * self.half.detach()

    def update(self, gradient, factor=1.0):
        self.half.grad = 2 * gradient
        step(self.optimizer, factor)

    def state(self):
        return {"half": self.half.detach(), **optimizer_state(self.optimizer)}

    def load_state(self, state):
        self.half.data.copy_(state["half"])
        load_optimizer_state(self.optimizer, state)
'''


def test_a_parametrisation_without_a_generator(tmp_path, digits_file, capsys):
    """Half the images at a quarter of the rate move as the images do."""
    described = "recipes: {scaled: {parametrisation: {lr: 0.025}}}"
    out = ["--data", str(digits_file), "--snapshots", "0", "2", "--out"]
    words = ["--objective", "dm", "--ipc", "1", "--network", "mlp", "--batch-real", "4", *LITTLE]
    words += ["--lr-img", "0.1"]
    site = written(tmp_path / "site", "dd-scaled", FOURIER, described, parametrisation="scaled")
    with found(site):
        scaled = ["--parametrisation", "scaled", *out, str(tmp_path / "scaled")]
        assert main(["distill", *words, *scaled]) == 0
        assert main(["distill", *words, *out, str(tmp_path / "plain")]) == 0
        job = Distillation("digits", "dm+scaled", 1, 0, (2,))
        run = load_run("smoke")
        assert job.reads(run)["generator"] == [] and "adapter" not in job.options(run)
        header = read_header(tmp_path / "scaled" / "it2.safetensors")
        assert header["parametrisation"] == {"name": "scaled", "lr": 0.025}
        wrong = [*scaled, "--generator", str(tmp_path / "x.safetensors")]
        capsys.readouterr()
        assert main(["distill", *words, *wrong]) == 2
        assert "scaled decodes no latents; leave them out" in said(capsys)
    one, other = (
        synthetic.load(tmp_path / name / "it2.safetensors").images for name in ("scaled", "plain")
    )
    torch.testing.assert_close(one, other)
    assert not torch.equal(one, synthetic.load(tmp_path / "plain" / "it0.safetensors").images)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("return 2 * self.half.detach()", "return 2 * self.half[:1].detach()",
         "what images() gives has shape [1, 1, 8, 8], it must be of shape [10, 1, 8, 8]"),
        ("return 2 * self.half.detach()", "return 2 * self.half",
         "what images() gives has a gradient function, it must be detached"),
        ("self.labels, self.half = labels,", "self.half =",
         "the attribute labels is None, it must be of shape [10]"),
        ('return {"half": self.half.detach(), **', "return [self.half]\n        return {**",
         "state() gives a value of type list, it must give a dict of tensors"),
        ('return {"half": self.half.detach(), **', 'return {"steps": 3, **',
         "state() gives a value of type int as 'steps', it must be a tensor"),
        ("    def state(self)",
         "    def extras(self):\n        return {'half': self.half}\n\n    def state(self)",
         "extras() gives 'half', whose name must have a dot, as in 'latent.code'"),
    ],
)  # fmt: skip
def test_a_parametrisation_that_breaks_its_contract(
    old, new, message, tmp_path, digits_file, capsys
):
    described = "recipes: {scaled: {parametrisation: {lr: 0.025}}}"
    assert FOURIER.count(old) == 1
    code = FOURIER.replace(old, new)
    site = written(tmp_path / "site", "dd-scaled", code, described, parametrisation="scaled")
    words = ["--data", str(digits_file), "--out", str(tmp_path / "out"), *LITTLE, "--objective"]
    words += ["dm", "--ipc", "1", "--network", "mlp", "--batch-real", "2", "--snapshots", "1"]
    with found(site):
        assert main(["distill", *words, "--parametrisation", "scaled"]) == 2
    whose = "objective 'dm': parametrisation 'scaled' of plug-in dd-scaled 1.0"
    assert capsys.readouterr().err.endswith(f"error: {whose}: {message}\n")


LABELS = """
from dd.evaluate.protocols import Soft


class Softer(Soft):
    pass
"""


def test_a_protocol_like_soft_gets_its_labels(tmp_path):
    described = "protocols: {softer: {like: soft, teacher: vit, temperature: 2.0}}"
    with found(written(tmp_path, "dd-soft", LABELS, described, protocol="softer")):
        run = load_run("smoke")
        job = Evaluation(Distillation("digits", "dc", 1, 0, (1,)), 1, "softer", ("mlp",))
        (labels,) = job.labels(run)
        assert labels.teacher == "vit" and "like" not in job.conditions(run)
        assert job.conditions(run)["protocol"] == "softer"


@pytest.mark.slow
def test_the_workflow_runs_them_and_records_them(package, module, run_file, tmp_path):
    """One table from both: rules pass --plugin on; run.json names them."""
    folder = run_file.parent
    for name in ("mine.py", "mine.yaml"):  # not on PYTHONPATH, but where Snakemake is started
        shutil.copy(module / name, folder)
    command = ["-m", "snakemake", "--cores", "2", "--config", "run=mine-run.yaml"]
    stages = python([*command, "-p"], package, cwd=folder)
    for stage in ("distill", "evaluate", "prepare"):
        lines = [line for line in stages.splitlines() if f"python -m dd {stage} " in line]
        assert lines and all("--plugin mine " in line for line in lines)
    rows = load_rows(folder / "results/mine-run/tables/mine.csv")
    assert {row["setting"] for row in rows} == {"means", "smooth"}
    record = load_json(folder / "results/mine-run/run.json")
    first, second = record["plugins"]
    assert first == "dd-centroid 1.0" and second.startswith("mine sha256:")
    assert record["configuration"]["run"]["plugins"] == ["mine"]
    page = (folder / "results/mine-run/README.md").read_text()
    assert f"| Plug-ins | {first}, {second} |" in page
    python(["-m", "dd", "verify", "results/mine-run"], package, cwd=folder)
    # another version of a plug-in repeats no finished job
    with (folder / "mine.py").open("a") as file:
        file.write("\n# another version\n")
    assert "Nothing to be done" in python([*command, "-n"], package, cwd=folder)


@pytest.mark.slow
def test_the_suites_own_tests_take_plug_ins_in(package):
    names = ("assemble", "combinations", "objectives")
    tests = [f"tests/distill/test_{name}.py" for name in names]
    command = ["-m", "pytest", *tests, "-p", "no:cacheprovider", "-rA", "-k", "centroid"]
    said = python(command, package)
    parts = ("centroid", "centroid+glad", "centroid+metadd", "centroid+glad+metadd")
    combined = [f"test_every_combination_distils[{one}]" for one in parts]
    moved = [f"test_every_objective_starts_and_moves[{ipc}-centroid]" for ipc in (1, 3)]
    types = "test_the_types_of_its_settings_say_what_an_objective_uses[centroid]"
    passed = [line for line in said.splitlines() if line.startswith("PASSED ")]
    names = {line.partition("::")[2] for line in passed}
    assert names == {*combined, *moved, types}


def test_a_file_of_rows_from_a_json_config_of_others_imports_nothing(module, tmp_path):
    """A run from elsewhere may name any module: to read it imports none."""
    with found(module):
        config = tmp_path / "theirs" / "config.json"
        document = Plan(load_run("smoke")).document()
        document["run"] = document["run"] | {"plugins": ["mine"]}
        config.parent.mkdir()
        save_json(config, document)
        assert read_run(config).plugins == ["mine"] and "mine" not in sys.modules


def test_the_protocol_of_the_page_at_the_end_of_the_file(tmp_path, digits_file):
    """As the page says, without its imports: the file has what the class needs."""
    (code,) = shown("A protocol", "python")
    body = code[code.index("@dataclasses") :]
    shutil.copytree(ROOT / "dd", tmp_path / "dd", ignore=shutil.ignore_patterns("__pycache__"))
    with open(tmp_path / "dd/evaluate/protocols.py", "a") as file:
        file.write(f"\n\n{body}")
    data = ["--data", str(digits_file)]
    random = ["--objective", "random", "--ipc", "1", "--out", "made"]
    python(["-m", "dd", "distill", *data, *random], tmp_path, cwd=tmp_path)
    how = ["--arch", "mlp", "--networks", "1", "--epochs", "1", "--out", "e.csv"]
    words = ["--synthetic", "made/it0.safetensors", "--protocol", "smooth", "--smoothing", "0.2"]
    python(["-m", "dd", "evaluate", *data, *words, *how], tmp_path, cwd=tmp_path)
    assert "0.2" in (tmp_path / "e.csv").read_text()
