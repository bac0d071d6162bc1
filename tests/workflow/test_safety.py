"""What others wrote stays where it belongs: names in the run's folder, values in their words of a
command, text in its place on a page."""

import ast
import json
import re
import shlex
import shutil
import string
from pathlib import Path

import pytest
import yaml

from dd.artifacts.text import file_digest
from dd.command import main
from dd.config.run import load_run
from dd.errors import DDError
from dd.plan.jobs import command_words
from tests.support.runs import ROOT, TINY, copy_workflow, snakemake

JOINED = {"words", "places", "overrides"}  # made by shlex.join


@pytest.fixture
def finished(finished_run, tmp_path, monkeypatch) -> Path:
    """The folder of a copy of a finished run, from beside its workflow."""
    folder = shutil.copytree(finished_run, tmp_path / "finished", symlinks=True)
    monkeypatch.chdir(folder)
    return Path("results/tiny")


def forge(path: Path, change) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def refused(capsys, *words) -> str:
    assert main([*words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def everything(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".snakemake" not in path.parts
    }


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("--remove",)])
@pytest.mark.parametrize(
    "name",
    [
        "../victim",
        "../../victim",
        "tables/../../victim",
        "tables/../tables/../../victim",
        "./../victim",
        "{absolute}",
        "..",
        "linked/victim",
        "link",
        "broken",
        "tables/../run.json",
        "",
        ".",
        "a\0b",
        "loop/x",
    ],
)
def test_verify_does_not_leave_the_run(finished, tmp_path, capsys, name, words):
    """Every way out, with the right checksum or a wrong one, to read or to remove."""
    outside = tmp_path / "outside"
    outside.mkdir()
    for victim in (finished.parent / "victim", Path("victim"), outside / "victim"):
        victim.write_text("precious")
    (finished / "linked").symlink_to(outside)
    (finished / "link").symlink_to(outside / "victim")
    (finished / "broken").symlink_to(outside / "nothing")
    (finished / "loop").symlink_to("loop")
    named = name.format(absolute=outside / "victim")
    sound = next((finished / "evaluations").rglob("*.csv"))
    sound.write_text(sound.read_text() + "\n")  # is to be removed, but not before all is checked
    forge(finished / "run.json", lambda record: record["files"].update({named: "0" * 16}))
    before = everything(tmp_path)
    said = refused(capsys, "verify", str(finished), *words)
    assert "run.json" in said and repr(named)[1:-1] in said and "folder" in said
    assert everything(tmp_path) == before


@pytest.mark.slow
def test_verify_removes_a_link_and_not_its_target(finished, capsys):
    """A link to another place in the run is read through; what goes is the link."""
    there, here = finished / "tables" / "copy.csv", finished / "tables" / "modelpool_ablation.csv"
    there.write_text("precious")
    here.unlink()
    here.symlink_to("copy.csv")
    said = refused(capsys, "verify", str(finished))
    assert "modelpool_ablation.csv is not what was recorded" in said
    refused(capsys, "verify", str(finished), "--remove")
    assert there.read_text() == "precious" and not here.is_symlink()


def record_again(run: Path, name: str) -> None:
    """Make ``run.json`` say that a file is as it should be, though it was changed."""
    digest = file_digest(run / name)
    forge(run / "run.json", lambda record: record["files"].update({name: digest}))


@pytest.mark.slow
def test_verify_compares_the_configuration(finished, capsys):
    """A number of networks that the run did not train; then another text of the same content."""
    config = finished / "config.json"
    before = config.read_text()
    forge(config, lambda document: document["run"].update(networks=9))
    said = refused(capsys, "verify", str(finished))
    assert "config.json is not what was recorded (run.json has another configuration)" in said
    config.write_text(json.dumps(json.loads(before)))
    said = refused(capsys, "verify", str(finished))
    assert "ro-crate-metadata.json does not belong to run.json and config.json" in said
    config.write_text(before)
    assert main(["verify", str(finished)]) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pattern", "fault"),
    [
        ("evaluations/**/*.csv", "is an evaluation of another synthetic set"),
        ("tables/modelpool_ablation.csv", "is not what the files it is made from give"),
        ("ro-crate-metadata.json", "does not belong to run.json and config.json"),
    ],
)
def test_verify_removes_whatever_it_finds(finished, capsys, pattern, fault):
    """Also what has the checksum of ``run.json``, such as a table of an older version."""
    path = next(finished.glob(pattern))
    name = str(path.relative_to(finished))
    if path.suffix == ".csv":
        text = path.read_text()
        synthetic = re.search(r"[0-9a-f]{16}", text)
        changed = text.replace(synthetic[0], "0" * 16) if synthetic else text.replace("digits", "x")
        path.write_text(changed)
        record_again(finished, name)
        (finished / "ro-crate-metadata.json").unlink()
    else:
        path.write_text("{}")
    said = refused(capsys, "verify", str(finished), "--remove")
    assert f"{name} {fault}" in said and said.endswith("removed: run snakemake again\n")
    assert not path.exists()
    assert snakemake(Path(), "--config", "run=tiny.yaml").returncode == 0
    assert main(["verify", str(finished)]) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "content", ["[]", "1", "{}", '{"files": [["a", "b"]]}', '{"files": [[1, 2]]}']
)
def test_verify_wants_a_record(finished, capsys, content):
    (finished / "run.json").write_text(content)
    assert "run.json: is no record of" in refused(capsys, "verify", str(finished), "--remove")


@pytest.mark.slow
def test_verify_removes_no_folder(finished, capsys):
    forge(finished / "run.json", lambda record: record["files"].update({"tables": "0"}))
    said = refused(capsys, "verify", str(finished), "--remove")
    assert "tables is a folder, not the file that was recorded; tables stays" in said
    assert "removed" not in said and (finished / "tables/modelpool_ablation.csv").is_file()
    sound = next((finished / "evaluations").rglob("*.csv"))
    sound.write_text("x")
    said = refused(capsys, "verify", str(finished), "--remove")
    assert "tables stays" in said and said.endswith("the others are removed\n")
    assert not sound.exists()


@pytest.mark.slow
@pytest.mark.parametrize("lost", [1, 0])
def test_a_record_must_list_all_files(finished, capsys, lost):
    """One that says nothing of a changed file, or of any."""
    (finished / "ro-crate-metadata.json").unlink()
    data = finished / "data/digits.safetensors"
    data.write_bytes(data.read_bytes()[:-1] + b"x")
    kept = {"files": {}}
    if lost:
        kept["files"] = json.loads((finished / "run.json").read_text())["files"]
        del kept["files"]["data/digits.safetensors"]
    forge(finished / "run.json", lambda record: record.update(kept))
    said = refused(capsys, "verify", str(finished), "--remove")
    assert f"run.json does not list data/digits.safetensors ({lost or 8} of 8 files" in said
    assert not (finished / "run.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ended": 1}, "run.json: 'ended' is 1, it must be text, or null"),
        ({"libraries": {}}, "run.json: 'libraries' is {}"),
        ({"plugins": "a"}, "run.json: 'plugins' is 'a'"),
    ],
)
def test_what_a_crate_takes_from_a_record_is_checked(finished, capsys, change, message):
    forge(finished / "run.json", lambda record: record.update(change))
    assert message in refused(capsys, "verify", str(finished))


@pytest.mark.slow
def test_verify_takes_a_link_to_the_run(finished, tmp_path, capsys):
    link = tmp_path / "link"
    link.symlink_to(finished.resolve())
    assert main(["verify", str(link)]) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"datasets": {"../../../x": {"source": "digits", "label": "d"}}}, "'../../../x'"),
        ({"datasets": {"..": {"source": "digits", "label": "d"}}}, "a name in datasets is '..'"),
        ({"datasets": ["digits"]}, "datasets is ['digits'], it must be a block of keys"),
        ({"tables": ["../../secret"]}, "tables.0 is '../../secret'"),
        ({"figures": ["/etc/passwd"]}, "figures.0 is '/etc/passwd'"),
        ({"optional": ["a\nb"]}, r"optional.0 is 'a\nb'"),
        ({"axes": {"ipc": ["../1"], "iterations": [1]}}, "axes.ipc.0 is '../1'"),
        ({"seeds": ["0/../../.."]}, "seeds.0 is '0/../../..'"),
        ({"device": "cpu; true"}, "device is 'cpu; true', it must be auto, cpu, cuda or cuda:N"),
        ({"extra": 1}, "is no configuration"),
        ({"workflow": 1}, "is no configuration"),
    ],
)
@pytest.mark.parametrize("stage", ["verify", "record", "index", "table"])
def test_names_of_a_configuration_do_not_leave_the_run(finished, capsys, stage, change, message):
    config = finished / "config.json"
    forge(config, lambda document: document["run"].update(change))
    words = {
        "verify": [str(finished)],
        "record": ["--config", str(config), "--out", "out.json"],
        "index": ["--config", str(config), "--out", str(finished / "README.md")],
        "table": ["--config", str(config), "--out", "out.csv", "--table",
                  "workflow/config/tables/modelpool_ablation.yaml"],
    }  # fmt: skip
    said = refused(capsys, stage, *words[stage])
    assert "config.json" in said and message in said


@pytest.mark.slow
def test_a_configuration_that_leads_out_under_another_workflow(finished, capsys):
    """A workflow that lies in the results and allows everything changes nothing for verify."""
    shutil.copytree("workflow", finished / "workflow")
    schema = finished / "workflow/schemas/run.schema.yaml"
    schema.write_text("{}")
    outside = {"../../../out": {"source": "digits", "label": "d"}}
    change = {"datasets": outside, "workflow": f"{finished}/workflow"}
    forge(finished / "config.json", lambda document: document["run"].update(change))
    said = refused(capsys, "verify", str(finished))
    assert "config.json" in said and "'data/../../../out.safetensors'" in said and "folder" in said


@pytest.mark.slow
def test_a_run_is_verified_from_any_folder(finished, tmp_path, monkeypatch, capsys):
    run = finished.resolve()
    monkeypatch.chdir(tmp_path)
    assert main(["verify", str(run)]) == 0
    assert f"{run}: all is as recorded" in capsys.readouterr().out
    (run / "tables" / "modelpool_ablation.csv").write_text("x")
    assert main(["verify", str(run)]) == 2
    assert "modelpool_ablation.csv" in capsys.readouterr().err


def test_results_of_an_older_layout_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    older = tmp_path / "smoke" / "pools"
    older.mkdir(parents=True)
    words = ["--run", "smoke", "--set", f"results={tmp_path}", "--out", str(tmp_path / "c.json")]
    assert main(["configure", *words]) == 2
    said = capsys.readouterr().err
    assert f"{older}: is of a version before 0.3" in said and f"mv {older} " in said
    older.rename(tmp_path / "smoke" / "pretrained")
    assert main(["configure", *words]) == 0
    older.mkdir()  # beside a config.json, whose results are read
    config = tmp_path / "smoke" / "config.json"
    (tmp_path / "c.json").rename(config)
    for stage, ending in (("record", "json"), ("index", "md")):
        out = config.with_name(f"page.{ending}")
        assert main([stage, "--config", str(config), "--out", str(out)]) == 2
        assert "is of a version before 0.3" in capsys.readouterr().err
    assert main(["verify", str(config.parent)]) == 2
    assert "is of a version before 0.3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("..yaml", (), "must not start with '.'"),
        ("...yaml", (), "must not start with '.'"),
        ("-x.yaml", (), "must not start with '-'"),
        ("{x}.yaml", (), "has '{'"),
        ("<b>.yaml", (), "has '<'"),
        ("tiny.yaml", ("results=",), "results: is empty; give a value"),
        ("tiny.yaml", ("results=-x",), "results: the path '-x' starts with '-'"),
        ("tiny.yaml", ("results=a{b}",), "results: the path 'a{b}' has '{'"),
        ("tiny.yaml", ("results=</script>",), "results: the path '</script>' has '<'"),
        ("tiny.yaml", ('results="a\\nb"',), "results: the path 'a\\nb' has '\\n'"),
        (
            "tiny.yaml",
            ("device=cpu; touch pwned",),
            "device is 'cpu; touch pwned', it must be auto",
        ),
        ("tiny.yaml", ("device=$(touch pwned)",), "it must be auto, cpu, cuda or cuda:N"),
        ("tiny.yaml", ('device="cpu\\n"',), "it must be auto, cpu, cuda or cuda:N"),
        ("tiny.yaml", ("device=cuda:x",), "it must be auto, cpu, cuda or cuda:N"),
        ("tiny.yaml", ("device=cuda:1.5",), "it must be auto, cpu, cuda or cuda:N"),
    ],
)
def test_a_run_stays_in_its_place(tmp_path, monkeypatch, capsys, name, words, message):
    monkeypatch.chdir(ROOT)
    path, out = tmp_path / name, tmp_path / "config.json"
    path.write_text(TINY)
    said = refused(capsys, "configure", "--run", str(path), "--out", str(out), "--set", *words)
    assert message in said and not out.exists()


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:11"])
def test_devices(device):
    assert load_run("smoke", {"device": device}).device == device


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("title", "a\nb"),
        ("title", "a\n"),
        ("title", "a\u2028b"),
        ("title", "\x1b[31m"),
        ("stands_in_for", "a\n\n.. raw:: html"),
        ("label", "a\n"),
        ("label", "a\x00b"),
    ],
)
def test_lines_of_a_run_are_lines(tmp_path, monkeypatch, capsys, key, value):
    monkeypatch.chdir(ROOT)
    document = yaml.safe_load(TINY)
    (document["datasets"]["digits"] if key == "label" else document)[key] = value
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(document))
    said = refused(capsys, "configure", "--run", str(path), "--out", str(tmp_path / "x.json"))
    assert f"{key} is " in said and "it must be text on one line" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("table", {"title": "a\nb"}, "title is 'a\\nb', it must be text on one line"),
        ("table", {"paper": "a/b"}, "paper is 'a/b', it must be letters"),
        ("table", {"paper": "x</script>"}, "paper is 'x</script>'"),
        ("table", {"published": {"file": "../../secret.csv"}}, "published.file is '../../sec"),
        ("figure", {"title": "a\n\n.. include:: /etc/hostname"}, "title is 'a"),
        ("figure", {"paper": ".."}, "paper is '..'"),
        ("figure", {"published": {"file": "/etc/passwd"}}, "published.file is '/etc/passwd'"),
    ],
)
def test_lines_and_names_of_tables_and_figures(finished, capsys, kind, change, message):
    path = Path(f"workflow/config/{kind}s/modelpool_ablation.yaml")
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | change))
    ending = {"table": "csv", "figure": "png"}[kind]
    words = ["--config", str(finished / "config.json"), "--out", f"out.{ending}"]
    said = refused(capsys, kind, *words, f"--{kind}", str(path))
    assert str(path) in said and message in said


@pytest.mark.parametrize("value", ["../../x", "a b", "x;y", "$(x)", "x\ny"])
def test_settings_in_methods_are_plain(value):
    run = load_run("smoke")
    for method in (f"dc@init={value}", f"dm+metadd@auxiliary={value}"):
        with pytest.raises(DDError, match="it becomes part of a path"):
            run.parse(method)


def test_a_value_is_no_option():
    assert command_words({"label": "--zca", "lr_img": -0.5, "root": "x y"}) == [
        "--label=--zca", "--lr-img", "-0.5", "--root", "x y",
    ]  # fmt: skip


def commands() -> list[tuple[str, str]]:
    """Rule file and shell string of every rule."""
    found = []
    for path in sorted((ROOT / "workflow" / "rules").glob("*.smk")):
        text = path.read_text()
        blocks = re.findall(r"^ *shell:\n((?: +\".*\"\n)+)", text, flags=re.MULTILINE)
        assert len(blocks) == len(re.findall(r"\bshell\b *[:(]", text)), path
        found += [(path.name, "".join(re.findall(r'"(.*)"\n', block))) for block in blocks]
    return found


def test_every_value_of_every_command_is_quoted():
    """But for lists of options, each of which was quoted when they were joined."""
    found = commands()
    assert len(found) == 15  # all but the rule of targets, which runs nothing
    values = set()
    for name, command in found:
        for _, field, form, conversion in string.Formatter().parse(command):
            if field is None:
                continue
            assert conversion is None
            joined = field.partition("params.")[2] in JOINED and not form
            assert joined or form == "q", f"{name}: {{{field}}} is not quoted"
            values.add(field)
    assert values >= {f"params.{name}" for name in JOINED} | {"params.out", "threads", "log"}


def test_joined_options_are_quoted_when_they_are_joined():
    """By shlex.join, or by the function of common.smk that calls it."""
    seen = set()
    for path in sorted((ROOT / "workflow" / "rules").glob("*.smk")):
        for block in re.findall(r"^( +)params:\n((?:\1 +.*\n)+)", path.read_text(), re.MULTILINE):
            (call,) = ast.parse(f"params({block[1]})").body
            for parameter in call.value.keywords:
                made = getattr(parameter.value, "body", parameter.value)  # of a lambda
                if parameter.arg not in JOINED:
                    continue
                assert ast.unparse(made.func) in ("shlex.join", "words", "places"), path.name
                seen.add(parameter.arg)
    assert seen == JOINED


@pytest.mark.slow
def test_hostile_values_are_words_of_their_command(tmp_path):
    """Paths, labels and settings with signs of the shell: each stays one word, nothing runs."""
    folder = copy_workflow(tmp_path)
    evil = "a b'\"$(touch pwned);`touch pwned`&|#%~!*"
    document = yaml.safe_load(TINY)
    document["datasets"]["digits"]["label"] = evil
    document["datasets"]["digits"]["root"] = evil
    (folder / "tiny.yaml").write_text(yaml.safe_dump(document))
    done = snakemake(folder, "-n", "-p", "--config", "run=tiny.yaml", f"results={evil}")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (done.stdout + done.stderr).splitlines()
    printed = [line.partition(": ")[2] for line in lines if ": python -m dd " in line]
    stages = "configure prepare distill evaluate table record index"
    assert {line.split()[3] for line in printed} == set(stages.split())
    for line in printed:
        words = shlex.split(line.replace("2>&1 | tee -i ", ""))
        free = [word for word in words if set(word) & set("$`;&|")]
        as_json = json.dumps(evil)  # what `configure` gets
        assert free and all(evil in word or as_json in word for word in free), line
        assert words[-1].startswith(f"{evil}/tiny/logs/") and words[-1].endswith(".log")
    (prepare,) = [line for line in printed if line.startswith("python -m dd prepare")]
    words = shlex.split(prepare)
    assert words[words.index("--label") + 1] == words[words.index("--root") + 1] == evil
    assert not list(folder.rglob("pwned"))


@pytest.mark.slow
def test_a_hostile_device_is_refused_by_the_workflow(checkout):
    done = snakemake(checkout, "-n", "--config", "device=cpu; touch pwned")
    said = [line for line in (done.stdout + done.stderr).splitlines() if "profile" not in line]
    assert done.returncode != 0 and not (checkout / "pwned").exists()
    assert said == [
        "error: --config: device is 'cpu; touch pwned', it must be auto, cpu, cuda or cuda:N"
    ]
