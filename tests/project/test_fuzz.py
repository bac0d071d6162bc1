"""Changed input of every kind, for every stage: a result, or one line; no traceback, no hang.

``DD_FUZZ=3000 pytest tests/project/test_fuzz.py -s`` tries up to so many inputs of each kind, and
prints how many were refused; by default it tries a share of them, always the same.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import shlex
import shutil
import warnings
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from dd.artifacts.headers import describe_tensors, read_header
from dd.artifacts.text import save_json
from dd.command import STAGES, Parser, main
from dd.config.documents import read_yaml
from dd.config.run import read_run
from dd.errors import DDError
from dd.plan.exhibits import load_exhibit
from dd.plan.jobs import Evaluation
from dd.plan.kinds import kind_of
from dd.report.figures.weights import by_tensor
from dd.report.read import accuracies, maps
from dd.report.read.vectors import vectors
from tests.support.broken import image_folder
from tests.support.fuzz import (
    ACCEPTED,
    COUNTS,
    DEEP,
    FULL,
    GONE,
    JUNK,
    PICKLED,
    REFUSED,
    TENSORS,
    attempt,
    changed,
    changes,
    count,
    kind,
    places,
    share,
    with_header,
    with_tensor,
)
from tests.support.others import a_set, archive_of, dc_form
from tests.support.runs import ROOT, copy_workflow
from tests.support.tables import claimed, fill, record_of_claims

pytestmark = pytest.mark.slow

NETWORK = "convnet:depth=1,width=8"
TRAINED = "convnet:depth=1,norm=batch,width=8"
OTHER = "vit:depth=1,heads=1,width=8"
CPU = "--device cpu --threads 1"
SHORT = f"{CPU} --data DATA --epochs 1"
LITTLE = f"{CPU} --data DATA --snapshots 1 --ipc 1"
SET = f"--synthetic SET --data DATA {CPU}"
COMMANDS = {
    "prepare": "prepare --source image-folder --root SMALL --out OUT/p.safetensors --threads 1",
    "prepare, split": "prepare --source class-folders --root SMALL/train --out OUT/p.safetensors "
    "--threads 1 --zca --test-share 0.5",
    "buffer": f"buffer --experts 1 --network {NETWORK} --out OUT/b.safetensors {SHORT}",
    "pretrain": f"pretrain --network {NETWORK} --out OUT/n.safetensors {SHORT}",
    "weights": f"pretrain --network {TRAINED} --weights ONE --data DATA --out OUT/n.safetensors "
    f"{CPU}",
    "generator": f"generator --width 8 --out OUT/g.safetensors {SHORT}",
    "dm": f"distill --objective dm --batch-real 2 --network {NETWORK} --out OUT/d {LITTLE}",
    "dc": f"distill --objective dc --batch-real 2 --outer 1 --inner 1 --network {NETWORK} "
    f"--out OUT/d {LITTLE}",
    "random": f"distill --objective random --out OUT/d {CPU} --data DATA --ipc 1",
    "whitened": f"distill --objective dm --batch-real 2 --network {NETWORK} --whitening zca "
    f"--out OUT/d {LITTLE}",
    "mtt": f"distill --objective iadd --buffers SHARD --network {NETWORK} --experts 1 "
    "--expert-epochs 1 --max-start-epoch 1 --student-steps 1 --batch-syn 0 --weights raw "
    f"--whitening none --out OUT/d {LITTLE}",
    "dd": f"distill --objective dd --batch-real 8 --steps 1 --student-epochs 1 --network {NETWORK} "
    f"--out OUT/d {LITTLE}",
    "frepo": "distill --objective frepo --whitening none --batch-real 8 --online 1 --network "
    f"{NETWORK} --out OUT/d {LITTLE}",
    "sre2l": f"distill --objective sre2l --network {TRAINED} --pretrained ONE --out OUT/d {LITTLE}",
    "glad": f"distill --objective dm --batch-real 2 --network {NETWORK} --parametrisation glad "
    f"--generator GENERATOR --out OUT/d {LITTLE}",
    "metadd": f"distill --objective dm --batch-real 2 --network {NETWORK} --pretrained ONE TWO "
    f"--regulariser metadd@auxiliary={TRAINED}.{OTHER} --out OUT/d {LITTLE}",
    "relabel": f"relabel --teacher ONE --views 2 --keep 2 --out OUT/l.safetensors {SET}",
    "evaluate": f"evaluate --arch mlp --networks 1 --epochs 1 --width-factor 0.1 --out OUT/e.csv "
    f"{SET}",
    "chosen": "evaluate --arch mlp --networks 1 --epochs 1 --width-factor 0.1 --out OUT/e.csv "
    f"--synthetic CHOSEN --data DATA {CPU}",
    "kd": "evaluate --arch mlp --networks 1 --epochs 1 --width-factor 0.1 --protocol kd --teacher "
    f"mlp --out OUT/e.csv {SET}",
    "soft": "evaluate --arch mlp --networks 1 --epochs 2 --width-factor 0.1 --protocol soft "
    f"--labels LABELS --batch 8 --out OUT/e.csv {SET}",
    "cams": f"cams --pretrained ONE --out OUT/c.safetensors {SET}",
    "erase": f"erase --pretrained ONE CAM --regions-from {TRAINED}.{NETWORK} --data DATA "
    f"--out OUT/x.csv {CPU}",
    "configure": "configure --run smoke --workflow WORKFLOW --out OUT/c.json",
    "estimate": "estimate --run smoke --workflow WORKFLOW",
    "table": "table --config CONFIG --out OUT/t.csv --table "
    "WORKFLOW/config/tables/modelpool_ablation.yaml",
    "figure": "figure --config CONFIG --out OUT/f.png --figure "
    "WORKFLOW/config/figures/modelpool_ablation.yaml",
    "record": "record --config DONE/config.json --out DONE/run.json",
    "index": "index --config DONE/config.json --out DONE/README.md",
    "verify": "verify DONE",
    "export-metrics": "export-metrics METRICS --out OUT/events",
    "evidence": "evidence CLAIMED --out OUT/e.md",
    "inspect": "inspect SET",
    "import": "import THEIRS --data DATA --out OUT/i.safetensors",
    "arrays": "import ARRAYS --data DATA --out OUT/i.safetensors",
    "import, set": "import SET --data DATA --out OUT/i.safetensors",
    "export": "export SET --data DATA --out OUT/o",
    "export, indices": "export CHOSEN --data DATA --out OUT/o.pt",
}  # fmt: skip
READERS = {  # who reads which artifact
    "DATA": ("random", "whitened", "evaluate", "import"),
    "SET": ("evaluate", "relabel", "cams", "export", "import, set"),
    "CHOSEN": ("chosen", "export, indices"),
    "ONE": ("sre2l", "metadd", "cams", "weights", "erase", "relabel"),
    "GENERATOR": ("glad",),
    "SHARD": ("mtt",),
    "LABELS": ("soft",),
}


def test_every_stage_is_here():
    assert {words.split()[0] for words in COMMANDS.values()} == STAGES.keys()


@pytest.fixture(scope="module")
def files(tmp_path_factory, finished_run):
    """What commands read, by the words that stand for it."""
    folder = tmp_path_factory.mktemp("fuzz")
    image_folder(folder / "small", ("cat", "dog", "owl"), 6, (8, 8))
    found = {"SMALL": folder / "small", "WORKFLOW": copy_workflow(folder) / "workflow"}
    for name, words in {
        "DATA": "prepare --source image-folder --root SMALL --zca --threads 1",
        "ONE": f"pretrain --network {TRAINED} {SHORT}",
        "TWO": f"pretrain --network {OTHER} {SHORT}",
        "CAM": f"pretrain --network {NETWORK} {SHORT}",
        "GENERATOR": f"generator --width 8 {SHORT}",
        "SHARD": f"buffer --experts 1 --network {NETWORK} {SHORT}",
    }.items():
        found[name] = folder / f"{name.lower()}.safetensors"
        assert main([*put(words, found), "--out", str(found[name])]) == 0
    for name, made in (("SET", "dm"), ("CHOSEN", "random")):
        out = folder / made
        assert main(put(COMMANDS[made].replace("OUT/d", str(out)), found)) == 0
        (found[name],) = out.glob("it*.safetensors")
    theirs = a_set(shape=(3, 8, 8), classes=3)
    found["THEIRS"] = dc_form(folder / "theirs.pt", theirs)
    arrays = {"x": theirs[0].numpy(), "y": theirs[1].numpy()}
    found["ARRAYS"] = archive_of(folder / "theirs.npz", **arrays)
    found["LABELS"] = folder / "labels.safetensors"
    words = COMMANDS["relabel"].replace("OUT/l.safetensors", str(found["LABELS"]))
    assert main([*put(words, found), "--batch", "8"]) == 0
    found["METRICS"] = found["SET"].with_name("metrics.jsonl")
    plan = fill("smoke", folder / "results", lambda job, arch, n: 50.0 + n)
    found |= {"RUN": Path(plan.run.root), "CONFIG": Path(plan.run.root, "config.json")}
    found["DONE"] = folder / "results" / "tiny"
    shutil.copytree(finished_run / "results" / "tiny", found["DONE"])
    found["CLAIMED"] = claimed(folder)
    return found


@pytest.fixture(scope="module", autouse=True)
def counted():
    yield
    if FULL:
        total = 0
        for family, outcomes in COUNTS.items():
            total += sum(outcomes.values())
            print(f"\n{family}: {dict(outcomes)}", end="")
        print(f"\n{total} inputs")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A folder for what a command writes where a changed option says."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def put(words: str, files: dict[str, Path], out: Path | None = None) -> list[str]:
    """A command line with files in place of the words that stand for them."""
    given = []
    for word in shlex.split(words):
        first, slash, rest = word.partition("/")
        if first == "OUT":
            word = f"{out}{slash}{rest}"
        elif first in files:
            word = f"{files[first]}{slash}{rest}"
        given.append(word)
    return given


def run(family, name, files, tmp_path, more=(), what=""):
    """The outcome of a command; what it has made is gone afterwards."""
    out = tmp_path / "out"
    try:
        return attempt(family, [*put(COMMANDS[name], files, out), *more], what)
    finally:
        shutil.rmtree(out, ignore_errors=True)


@pytest.mark.parametrize("name", COMMANDS)
def test_unchanged_it_is_accepted(name, files, tmp_path):
    assert run("unchanged", name, files, tmp_path) == ACCEPTED


# options

NO_NUMBERS = ("nan", "inf", "-inf", "1e400", "x", "", " ", "1,5", "0x10", "None", "a\nb")
NUMBERS = ("-1", "-0.5", "0", "1.5", "2", "1e30", "9" * 30, "1e-30")
WORDS = (
    "", " ", "x", "-", "a=b", "../x", "x/y", "/dev/null", "/", ".", "\x1b[31m", "a\nb", "ü\u202e",
    "x" * 5000, "convnet:", "convnet:depth=", "mlp@x", "@", "+", "metadd@", "dc:", "[1]", "{}", "~",
)  # fmt: skip
SENSIBLE = {"--seed", "--split-seed"}  # any whole number


def options(name: str) -> list[argparse.Action]:
    stage = COMMANDS[name].split()[0]
    parser = Parser(prog="test")
    importlib.import_module(STAGES[stage][0]).add_arguments(parser)
    return [action for action in parser._actions if action.nargs != 0]


def numeric(action: argparse.Action) -> bool:
    if action.type in (int, float) or isinstance(action.default, int | float):
        return not isinstance(action.default, bool)
    wanted = getattr(action.type, "keywords", {}).get("wanted")
    return wanted in (int, float, int | float)


def whole(action: argparse.Action) -> bool:
    return int in (action.type, getattr(action.type, "keywords", {}).get("wanted"))


OPTIONS = [
    (name, action.option_strings[-1] if action.option_strings else "", word)
    for name in COMMANDS
    for action in options(name)
    for word in ((*NO_NUMBERS, *NUMBERS) if numeric(action) else WORDS)
    if not (action.dest == "out" and word.startswith("/"))  # never outside the folder of the test
]


@pytest.mark.parametrize("name", COMMANDS)
def test_options(name, files, tmp_path):
    cases = [case for case in OPTIONS if case[0] == name]
    by_name = {a.option_strings[-1]: a for a in options(name) if a.option_strings}
    for _, option, word in share(f"options of {name}", cases, 15):
        more = [f"{option}={word}"] if option else [word]
        outcome = run("options", name, files, tmp_path, more)
        if option and numeric(by_name[option]) and outcome == ACCEPTED:
            assert word not in NO_NUMBERS, more
            assert not word.startswith("-") or (option in SENSIBLE and word == "-1"), more
            huge = word in ("1e30", "9" * 30)
            assert not (huge and whole(by_name[option])) or option in SENSIBLE, more


# headers

READ = {  # keys of headers that are read, and what they may hold
    "DATA": {"name": "text", "label": "text", "classes": "list null", "fingerprint": "text null",
             "kind": "text null"},
    "SET": {"objective": "text null", "classes": "list null", "whitening": "text null",
            "fingerprint": "text null", "zca": "block null", "kind": "text null"},
    "ONE": {"network": "text", "dataset": "text", "whitening": "text", "fingerprint": "text",
            "width_factor": "number whole", "accuracy": "number whole", "settings": "block",
            "least_accuracy": "number whole", "origin": "text", "digest": "text"},
    "GENERATOR": {"settings": "block", "code": "whole", "dataset": "text", "whitening": "text",
                  "fingerprint": "text", "seed": "whole"},
    "SHARD": {"experts": "list", "layout": "list", "network": "text", "settings": "block",
              "seed": "whole", "version": "text", "width_factor": "number whole"},
    "LABELS": {"seed": "whole", "views": "whole", "keep": "whole", "settings": "block",
               "teachers": "list", "version": "text", "synthetic": "text"},
}  # fmt: skip


@pytest.mark.parametrize("artifact", READERS)
def test_headers(artifact, files, tmp_path):
    header = read_header(files[artifact])
    other = tmp_path / files[artifact].name  # the stem may be the dataset's name
    cases = [(reader, change) for reader in READERS[artifact] for change in changes(header)]
    for reader, change in share(f"headers of {artifact}", cases, 35):
        with_header(files[artifact], other, change)
        outcome = run("headers", reader, files | {artifact: other}, tmp_path, what=change)
        path, value = change
        wanted = READ.get(artifact, {}).get(path[0])
        if reader == "weights" and path[0] not in ("network", "kind"):
            continue  # a plain state dict needs no header
        if wanted and len(path) == 1 and value is not GONE and kind(value) not in wanted.split():
            assert outcome == REFUSED, (artifact, reader, change)
    run("headers", "inspect", files | {"SET": other}, tmp_path)


# tensors


@pytest.mark.parametrize("artifact", READERS)
def test_tensors(artifact, files, tmp_path):
    names = describe_tensors(files[artifact])
    cases = [
        (reader, name, change)
        for reader in READERS[artifact]
        for name in names
        for change in TENSORS
    ]
    other = tmp_path / files[artifact].name
    for reader, name, change in share(f"tensors of {artifact}", cases, 35):
        with_tensor(files[artifact], other, name, change)
        changed_files = files | {artifact: other}
        outcome = run("tensors", reader, changed_files, tmp_path, what=(name, change))
        floating = names[name][1] in ("F32", "F16", "BF16")
        whitening = name.startswith("zca") and reader != "whitened"
        unread = ("." in name and artifact == "SET") or whitening
        if change in ("NaN", "infinite") and floating and not unread:
            assert outcome == REFUSED, (artifact, reader, name, change)


def test_files_cut_anywhere(files, tmp_path):
    """Artifacts that are shorter, or have a flipped bit, wherever that is."""
    cases = [
        (artifact, readers[0], place, flip)
        for artifact, readers in READERS.items()
        for place in range(0, 100, 4)
        for flip in (True, False)
    ]
    for artifact, reader, place, flip in share("bytes", cases, 40):
        data = bytearray(files[artifact].read_bytes())
        position = len(data) * place // 100
        if flip:
            data[position] ^= 1 << place % 8
        else:
            del data[position:]
        other = tmp_path / files[artifact].name
        other.write_bytes(data)
        what = (place, flip)
        outcome = run("bytes", reader, files | {artifact: other}, tmp_path, what=what)
        assert outcome == REFUSED or flip, (
            artifact,
            place,
        )  # a bit of a tensor that is not read, or of padding


# files of others

MANY = settings(
    max_examples=FULL or 20,
    phases=[Phase.explicit, Phase.generate],  # without shrinking: a command takes seconds
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
ANY = st.sampled_from([GONE, *(value for values in JUNK.values() for value in values)])


@pytest.mark.parametrize("reader", ["import", "arrays"])
def test_files_of_others_cut_anywhere(reader, files, tmp_path):
    name = {"import": "THEIRS", "arrays": "ARRAYS"}[reader]
    whole = files[name].read_bytes()
    cases = [(place, how) for place in range(len(whole)) for how in ("flip", "byte", "cut")]
    other = tmp_path / files[name].name
    for place, how in share(f"files of others, {reader}", cases, 60):
        data = bytearray(whole)
        if how == "cut":
            del data[place:]
        else:
            data[place] = data[place] ^ (1 << place % 8) if how == "flip" else place * 37 % 256
        other.write_bytes(data)
        outcome = run("others", reader, files | {name: other}, tmp_path, what=(place, how))
        assert outcome == REFUSED or how != "cut", place


@MANY
@given(data=st.data())
def test_what_files_of_others_hold(files, tmp_path, data):
    """Other values, and tensors of other types and shapes, anywhere in form DC."""
    images, labels = a_set(shape=(3, 8, 8), classes=3)
    document = {"data": [[images, labels]], "accs_all_exps": {"ConvNet": [0.5]}}
    at = data.draw(st.sampled_from([("data",), ("data", 0), ("data", 0, 0), ("data", 0, 1)]))
    if len(at) == 3 and data.draw(st.booleans()):
        change = PICKLED[data.draw(st.sampled_from(sorted(PICKLED)))]
        document = changed(document, at, change([images, labels][at[2]]))
    else:
        document = changed(document, at, data.draw(ANY.filter(lambda v: v is not DEEP)))
    path = tmp_path / "theirs.pt"
    torch.save(document, path)
    run("others", "import", files | {"THEIRS": path}, tmp_path, what=at)


@pytest.mark.parametrize("name", ["x", "y"])
def test_what_arrays_of_others_are_of(name, files, tmp_path):
    """Every type of NumPy, in both byte orders."""
    images, labels = a_set(shape=(3, 8, 8), classes=3)
    given = {"x": images.numpy(), "y": labels.numpy()}
    path = tmp_path / "theirs.npz"
    for code in "?bBhHiIlLqQefdgFDGSUVOMm":
        for order in "<>":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # numbers that do not fit
                array = given[name].astype("V8" if code == "V" else code)
            turned = array if code == "O" else array.astype(array.dtype.newbyteorder(order))
            archive_of(path, **given | {name: turned})
            run("others", "arrays", files | {"ARRAYS": path}, tmp_path, what=(code, order))


# what tables and figures read of artifacts


@pytest.fixture(scope="module")
def weighted(files, tmp_path_factory):
    """A set of IADD, with its weights, and maps of a set."""
    folder = tmp_path_factory.mktemp("weighted")
    for name in ("mtt", "cams"):
        assert main(put(COMMANDS[name], files, folder)) == 0
    return {"weights": folder / "d/it1.safetensors", "maps": folder / "c.safetensors"}


REPORTS = {
    "weights": lambda path: [
        by_tensor(str(path), *one) for one in vectors(str(path), "importance", "iadd").items()
    ],
    "maps": lambda path: maps.read(str(path), "relu"),
}


@pytest.mark.parametrize("what", REPORTS)
def test_what_tables_read(what, weighted, tmp_path):
    path, other = weighted[what], tmp_path / "x.safetensors"
    REPORTS[what](path)
    cases = [("tensor", (name, change)) for name in describe_tensors(path) for change in TENSORS]
    cases += [("header", change) for change in changes(read_header(path))]
    for part, change in share(f"reports of {what}", cases, 100):
        if part == "tensor":
            with_tensor(path, other, *change)
        else:
            with_header(path, other, change)
        try:
            REPORTS[what](other)
            refused = False
        except DDError as error:
            assert str(error).startswith(str(other)), error
            refused = True
        count("reports", REFUSED if refused else ACCEPTED)


# documents


def drawn(data, document):
    """A document with one to three changes."""
    for _ in range(data.draw(st.integers(1, 3))):
        known = list(places(document))
        if known:
            document = changed(document, data.draw(st.sampled_from(known)), data.draw(ANY))
        if data.draw(st.booleans()) and isinstance(document, dict):
            document = document | {data.draw(st.sampled_from(["x", "", "run", "axes"])): 1}
    return document


def dump(document) -> str:
    return yaml.safe_dump(document, allow_unicode=True)


RUNS = sorted(path.stem for path in (ROOT / "workflow/config/runs").glob("*.yaml"))


@MANY
@given(data=st.data())
def test_runs(files, tmp_path, data):
    name = data.draw(st.sampled_from(RUNS))
    document = drawn(data, read_yaml(files["WORKFLOW"] / "config/runs" / f"{name}.yaml"))
    path = tmp_path / "mine.yaml"
    path.write_text(dump(document), encoding="utf-8", errors="surrogatepass")
    run("runs", "configure", files, tmp_path, ["--run", str(path)], document)


@MANY
@given(data=st.data())
def test_text_of_runs(files, tmp_path, data):
    """Characters changed, lines lost, moved or indented."""
    text = (ROOT / "workflow/config/runs/smoke.yaml").read_text()
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(text)))
        length = data.draw(st.sampled_from([0, 1, 1, 5, 40]))
        word = data.draw(
            st.sampled_from(["", " ", "\n", "\t", ":", "- ", "#", "'", '"', "{", "]", "&a", "*a",
                             "!!x", "1e999", "~", "---\n", "?", "\0", "%", "@", "<<: "])
            | st.text(max_size=3)
        )  # fmt: skip
        text = text[:place] + word + text[place + length :]
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
    run("text of runs", "configure", files, tmp_path, ["--run", str(path)], text)


EXHIBITS = [
    (kind_of, path)
    for kind_of in ("table", "figure")
    for path in sorted((ROOT / f"workflow/config/{kind_of}s").glob("modelpool*.yaml"))
]


@MANY
@given(data=st.data())
def test_tables_and_figures(files, tmp_path, data):
    kind_of, path = data.draw(st.sampled_from(EXHIBITS))
    document = drawn(data, read_yaml(path))
    other = tmp_path / path.name
    other.write_text(dump(document), encoding="utf-8", errors="surrogatepass")
    run("tables and figures", kind_of, files, tmp_path, [f"--{kind_of}", str(other)], document)


@MANY
@given(data=st.data())
def test_workflows(files, tmp_path, data):
    """Tables, figures, protocols and pools as the planning of a run reads them."""
    workflow = tmp_path / "workflow"
    if not workflow.exists():
        shutil.copytree(files["WORKFLOW"], workflow)
    folder = workflow / "config"
    several = [path for path in sorted(folder.rglob("*.yaml")) if path.parent.name != "runs"]
    path = data.draw(st.sampled_from(several))
    before = path.read_bytes()
    document = drawn(data, read_yaml(path))
    path.write_text(dump(document), encoding="utf-8", errors="surrogatepass")
    try:
        name = data.draw(st.sampled_from(RUNS))
        more = ["--workflow", str(workflow), "--run", name]
        run("workflows", "configure", files, tmp_path, more, (path.name, document))
        if path.parent.name == "pools":
            words = COMMANDS["dm"].replace(f"--network {NETWORK}", f"--pool {path}")
            attempt("pools", put(words, files, tmp_path / "out"), document)
            shutil.rmtree(tmp_path / "out", ignore_errors=True)
    finally:
        path.write_bytes(before)


def copied_run(files, name, tmp_path) -> Path:
    """A folder of the run ``name`` that a test may change, of which a table can be made."""
    folder = tmp_path / "results" / files[name].name
    if not folder.exists():
        shutil.copytree(files[name], folder)
        (tmp_path / "workflow").symlink_to(files["WORKFLOW"])
        changed_files = files | {"CONFIG": folder / "config.json"}
        assert run("unchanged", "table", changed_files, tmp_path) == ACCEPTED
    return folder


@MANY
@given(data=st.data())
def test_config_json(files, tmp_path, data):
    """That of a run, as tables, figures, its record, its page and its check read it."""
    folder = copied_run(files, "DONE", tmp_path)
    document = drawn(data, json.loads((files["DONE"] / "config.json").read_text()))
    (folder / "config.json").write_text(json.dumps(document))
    reader = data.draw(st.sampled_from(["table", "record", "index", "verify", "inspect"]))
    changed_files = files | {"CONFIG": folder / "config.json", "DONE": folder}
    if reader == "inspect":
        changed_files |= {"SET": folder / "config.json"}
    run("config.json", reader, changed_files, tmp_path, what=document)


RECORD = {
    "run": "smoke", "code": {"artifacts": ["0.3.0"], "tables and figures": "0.3.0"},
    "python": "3.11", "libraries": {"torch": "2.11.0"},
    "hardware": {"cpu": ["x"], "cores": 2, "gpu": [], "torch": ["2.11.0"]},
    "started": "2026-01-01T00:00:00+00:00", "ended": None, "files": {"config.json": "0" * 16},
}  # fmt: skip


@MANY
@given(data=st.data())
def test_run_json(files, tmp_path, data):
    record = copied_run(files, "DONE", tmp_path) / "run.json"
    whole = json.loads((files["DONE"] / "run.json").read_text())
    record.write_text(json.dumps(drawn(data, data.draw(st.sampled_from([RECORD, whole])))))
    reader = data.draw(st.sampled_from(["index", "verify", "inspect"]))
    changed_files = files | {"DONE": record.parent}
    if reader == "inspect":
        changed_files |= {"SET": record}
    run("run.json", reader, changed_files, tmp_path, what=record.read_text())


CELLS = ("", "x", "nan", "inf", "-1", "101", "1e400", "50", "a\nb", "\x1b[31m", "ü", '"', "1;2")


def change_rows(data, path, rows):
    """Write ``rows`` with one change to ``path``: how, at which row and column, which word."""
    row = data.draw(st.integers(0, len(rows) - 1))
    column = data.draw(st.integers(0, len(rows[row])))
    word = data.draw(st.sampled_from(CELLS))
    how = data.draw(st.sampled_from(["change", "add", "drop", "drop row", "twice", "bytes"]))
    if how == "change":
        rows[row][column : column + 1] = [word]
    elif how == "add":
        rows[row].insert(column, word)
    elif how == "drop":
        del rows[row][column : column + 1]
    elif how == "drop row":
        del rows[row]
    else:
        rows.append(rows[row])
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    if how == "bytes":
        path.write_bytes(data.draw(st.binary(max_size=40)))
    return how, row, column, word


@MANY
@given(data=st.data())
def test_rows_of_claims(files, tmp_path, data):
    """The CSV of verdicts that the page of evidence reads."""
    folder = tmp_path / "claimed"
    if not folder.exists():
        shutil.copytree(files["CLAIMED"], folder)
    path = folder / "claims.csv"
    rows = list(csv.reader((files["CLAIMED"] / "claims.csv").read_text().splitlines()))
    change_rows(data, path, rows)
    save_json(folder / "run.json", record_of_claims(path))  # it is about what is read after this
    run("claims", "evidence", files | {"CLAIMED": folder}, tmp_path, what=rows)


@MANY
@given(data=st.data())
def test_rows_of_evaluations(files, tmp_path, data):
    """The CSV files that a table reads. Of its architectures, it takes no accuracy that is none."""
    folder = copied_run(files, "RUN", tmp_path)
    made = read_run(folder / "config.json")
    definition = made.path("tables", "modelpool_ablation.yaml")
    exhibit = load_exhibit("table", definition, made)
    read = {j.file(made) for j in kind_of(exhibit).jobs(exhibit) if isinstance(j, Evaluation)}
    path = Path(data.draw(st.sampled_from(sorted(read))))
    before = path.read_bytes()
    rows = list(csv.reader(before.decode().splitlines()))
    accuracy = rows[0].index("accuracy")
    how, row, column, word = change_rows(data, path, rows)
    shown = how == "change" and rows[row][0] in {cell.arch for cell in exhibit.cells()}
    accuracies.rows_of_networks.cache_clear()
    try:
        changed_files = files | {"CONFIG": folder / "config.json"}
        outcome = run("rows", "table", changed_files, tmp_path, what=(path, rows))
        if shown and column == accuracy:
            assert outcome == (ACCEPTED if word == "50" else REFUSED), (path, rows)
    finally:
        path.write_bytes(before)
        accuracies.rows_of_networks.cache_clear()
