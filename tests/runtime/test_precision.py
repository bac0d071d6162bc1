"""The precision of a process: which switches of torch it sets, and what a stage says of it."""

import pytest
import torch
import yaml

from dd.artifacts.headers import read_header
from dd.artifacts.text import load_rows
from dd.data import zca
from dd.errors import DDError
from dd.networks.build import create
from dd.rng import generator
from dd.runtime import precision
from dd.runtime.memory import peak_bytes
from dd.runtime.precision import BF16, FLOAT32, PRECISIONS, TF32, choose, forward
from tests.support.commands import run
from tests.support.runs import ROOT

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")


def switches():
    """Everything in torch that says whether float32 operations of CUDA compute in TF32."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    by_part = [part.fp32_precision for part in (matmul, cudnn.conv, cudnn.rnn)]
    return cudnn.allow_tf32, matmul.allow_tf32, torch.get_float32_matmul_precision(), *by_part


OFF = (False, False, "highest", "ieee", "ieee", "ieee")
ON = (True, True, "high", "tf32", "tf32", "tf32")


@pytest.fixture
def gpus(monkeypatch):
    """Stands for GPUs of a compute capability."""

    def of(capability):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)

    return of


@pytest.mark.parametrize("name", [FLOAT32, BF16])
def test_tf32_is_off_unless_asked_for(name):
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = True
    choose(name, CPU)
    assert switches() == OFF
    assert not torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    assert precision.chosen() == name


def test_tf32_is_on_if_asked_for_but_not_in_whitening(gpus, monkeypatch):
    gpus((8, 0))
    choose(TF32, GPU)
    assert switches() == ON and precision.chosen() == TF32
    seen = []
    product = torch.Tensor.__matmul__
    monkeypatch.setattr(
        torch.Tensor, "__matmul__", lambda *two: seen.append(switches()) or product(*two)
    )
    zca.whiten(torch.ones(2, 1, 2, 2), torch.zeros(4), torch.eye(4))
    assert seen == [OFF] and switches() == ON
    choose(FLOAT32, CPU)
    assert switches() == OFF


def test_a_device_without_tf32_is_refused(gpus):
    choose(FLOAT32, CPU)
    gpus((7, 5))
    for device in (CPU, GPU):
        with pytest.raises(DDError, match=f"tf32: only NVIDIA GPUs since Ampere .* on {device}"):
            choose(TF32, device)
    with pytest.raises(DDError, match="unknown --precision 'bf61': did you mean 'bf16'"):
        choose("bf61", CPU)
    assert precision.chosen() == FLOAT32 and switches() == OFF


def test_in_float32_a_function_is_called_as_it_is():
    values = torch.randn(3, generator=generator(0))
    assert forward(lambda x: x, values) is values
    assert not forward(lambda x: torch.tensor(torch.is_autocast_enabled("cpu")), values)


def test_in_bf16_products_are_of_bfloat16_values_and_the_result_is_float32():
    a, b = (torch.randn(5, 5, generator=generator(n)) for n in range(2))
    seen = []

    def product(x):
        seen.append(x @ b)
        return seen[-1]

    choose(BF16, CPU)
    result = forward(product, a)
    assert seen[0].dtype == torch.bfloat16 and result.dtype == torch.float32
    # by hand: rounded values, exact products and sums, the result rounded again
    by_hand = (a.bfloat16().double() @ b.bfloat16().double()).bfloat16().float()
    torch.testing.assert_close(result, by_hand, rtol=2**-8, atol=0)
    assert (result - a @ b).abs().max() > 1e-3
    assert not torch.is_autocast_enabled("cpu")


def test_parameters_converted_without_a_graph_are_not_used_with_one():
    """Torch keeps converted parameters while autocast lasts; a teacher may call a student."""
    layer = torch.nn.Linear(4, 4)
    inputs = torch.randn(2, 4, generator=generator(0))

    def twice(x):
        with torch.no_grad():
            layer(x)
        return layer(x)

    choose(BF16, CPU)
    forward(twice, inputs).sum().backward()
    assert layer.weight.grad.dtype == torch.float32 and layer.weight.grad.abs().max() > 0


def test_memory_is_counted_as_of_float32(monkeypatch):
    """And without a question about autocast, which torch 2.11 refuses for the meta device."""
    enabled = torch.is_autocast_enabled

    def asked(kind):
        assert kind != "meta"
        return enabled(kind)

    monkeypatch.setattr(torch, "is_autocast_enabled", asked)
    network = create("convnet", 3, (32, 32), 10, generator=None, device="meta")
    images = torch.zeros(4, 3, 32, 32, device="meta")
    counted = {}
    for name in (FLOAT32, BF16):
        choose(name, CPU)
        counted[name] = peak_bytes(lambda: forward(network, images).sum().backward())
        network.zero_grad()
    assert counted[FLOAT32] == counted[BF16] > 4 * images.numel()


def test_a_run_may_choose_what_a_stage_may():
    schema = yaml.safe_load((ROOT / "workflow/schemas/run.schema.yaml").read_text())
    assert schema["properties"]["precision"]["enum"] == list(PRECISIONS)


SMALL = "--data {data} --device cpu --threads 1"
NETWORK = "convnet:depth=1,norm=batch,width=8"
STAGES = {
    "buffer": f"--network {NETWORK} --experts 1 --epochs 1 --out {{out}}.safetensors",
    "pretrain": f"--network {NETWORK} --epochs 1 --out {{out}}.safetensors",
    "generator": "--epochs 1 --width 8 --out {out}.safetensors",
    "distill": "--objective dm --ipc 1 --network lenet --batch-real 8 --snapshots 1 --out {out}",
    "evaluate": "--synthetic {set} --arch lenet --networks 1 --epochs 1 --out {out}.csv",
    "relabel": "--synthetic {set} --teacher {net} --views 1 --out {out}.safetensors",
    "cams": "--synthetic {set} --pretrained {net} --out {out}.safetensors",
    "erase": f"--pretrained {{net}} {{other}} --regions-from {NETWORK}.lenet --out {{out}}.csv",
}


@pytest.fixture(scope="module")
def files(digits_file, tmp_path_factory):
    """A set and two networks that the stages need."""
    folder = tmp_path_factory.mktemp("precision")
    names = {"data": digits_file, "set": folder / "set" / "it1.safetensors"}
    names |= {"net": folder / "net.safetensors", "other": folder / "other.safetensors"}
    assert run(f"distill {SMALL} {STAGES['distill']}".format(**names, out=folder / "set")) == 0
    assert run(f"pretrain {SMALL} {STAGES['pretrain']}".format(**names, out=folder / "net")) == 0
    lenet = STAGES["pretrain"].replace(NETWORK, "lenet")
    assert run(f"pretrain {SMALL} {lenet}".format(**names, out=folder / "other")) == 0
    return names


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_says_in_which_precision_it_computed(files, tmp_path, stage):
    made = {}
    for name in (FLOAT32, BF16):
        out = tmp_path / name
        words = f"{stage} {SMALL} {STAGES[stage]}".format(**files, out=out)
        assert run(f"{words} --precision {name}") == 0
        (path,) = [p for p in (out / "it1.safetensors", *tmp_path.glob(f"{name}.*")) if p.is_file()]
        if path.suffix == ".csv":
            assert {row["precision"] for row in load_rows(path)} == {name}
        else:
            header = read_header(path)
            assert header["provenance"]["precision"] == name
            # maps are float32 in any case (docs/architecture.md)
            assert stage == "cams" or header["precision"] == name
        made[name] = path
    assert made[FLOAT32].read_bytes() != made[BF16].read_bytes()


@pytest.mark.parametrize("stage", STAGES)
def test_tf32_on_a_cpu_is_refused_in_one_line(files, tmp_path, capsys, stage):
    words = f"{stage} {SMALL} {STAGES[stage]}".format(**files, out=tmp_path / "out")
    assert run(f"{words} --precision tf32") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--precision tf32: only NVIDIA GPUs" in error
    assert not list(tmp_path.glob("out*"))


def test_what_was_computed_in_another_precision_is_not_gone_on_with(files, tmp_path, capsys):
    """A distillation that was left after a checkpoint; an evaluation with a network finished."""
    out = tmp_path / "set"
    words = f"distill {SMALL} {STAGES['distill']}".format(**files, out=out)
    words = words.replace("--snapshots 1", "--snapshots 4") + " --checkpoint-every 0"
    # images that fly away stop the distillation, and its checkpoint stays
    assert run(f"{words} --lr-img 1e30") == 2
    assert list(out.rglob("state.safetensors"))
    capsys.readouterr()
    assert run(f"{words} --lr-img 1e30 --precision bf16") == 2
    assert "starting anew" in capsys.readouterr().out
    assert run(f"{words} --lr-img 1e30 --precision bf16") == 2
    assert "going on from iteration" in capsys.readouterr().out


def test_the_word_of_the_older_buffer_is_refused(files, tmp_path, capsys):
    """Until 0.3 ``--precision bfloat16`` was what is ``--stored bfloat16`` now."""
    words = f"buffer {SMALL} {STAGES['buffer']}".format(**files, out=tmp_path / "out")
    assert run(f"{words} --precision bfloat16") == 2
    assert "invalid choice: 'bfloat16' (choose from" in capsys.readouterr().err
