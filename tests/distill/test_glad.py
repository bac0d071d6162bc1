"""GLaD: latents against plain autograd, the autoencoder, generators from files and adapters."""

import re
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from dd.artifacts.checkpoint import save_checkpoint
from dd.artifacts.headers import read_header
from dd.artifacts.tensors import load_tensors, save_tensors
from dd.command import main
from dd.config import recipes
from dd.config.settings import build
from dd.data.dataset import load_dataset
from dd.distill.parametrisations import PARAMETRISATIONS
from dd.distill.parametrisations.glad import GladSettings, Latents
from dd.errors import DDError
from dd.pretrain.generator import Settings, Training
from dd.pretrain.generators import Generator, load_generator
from dd.pretrain.generators.autoencoder import AutoencoderGenerator, create
from dd.rng import generator
from tests.support.objectives import make
from tests.support.runs import ROOT

DOC = ROOT / "docs" / "generators.md"
SIZE = (6, 5)  # no multiples of 4: padded inside
SMALL = ["--width", "16", "--epochs", "20", "--lr", "0.005", "--batch", "64"]


def sgd(groups):
    return torch.optim.SGD(groups, momentum=0.5)


def adam(groups):
    return torch.optim.Adam(groups, betas=(0.5, 0.9))


def settings(**changes):
    values = recipes.resolve_part("glad", "dm", "digits", 1, changes)
    return build(GladSettings, values, "glad")


def double(channels=2, code=3):
    """An untrained autoencoder in float64."""
    network = create(channels, code, 8, generator(1, "weights"), "cpu").double()
    return AutoencoderGenerator(network, channels, SIZE, {})


def latents(count=5, optimise=sgd, prior=None, **changes):
    """Latents of random images under :func:`double`."""
    prior = prior or double()
    images = torch.randn(count, prior.channels, *SIZE, generator=generator(0, "images")).double()
    labels = torch.arange(count)
    made = settings(piece=2, **changes)
    return Latents(prior, images, labels, made, optimise, generator(0, "start"))


def noise(like, number=0):
    return torch.randn(like.shape, generator=generator(number, "gradient")).to(like)


def test_images_are_those_of_the_codes():
    canvas = latents()
    images = canvas.images()
    code = canvas.extras()["latent.code"]
    assert code.shape == (5, 3, 2, 2) and images.shape == (5, 2, *SIZE)
    torch.testing.assert_close(images, canvas.generator.decode({"code": code}))
    assert not images.requires_grad and canvas.images() is images  # decoded once
    torch.testing.assert_close(code.mean((1, 2, 3)), torch.zeros(5).double(), atol=1e-6, rtol=0)


def test_a_random_start_does_not_depend_on_pieces():
    def start(piece):
        prior = double()
        images = torch.zeros(5, prior.channels, *SIZE).double()
        made = settings(piece=piece, start="random")
        given = (images, torch.arange(5), made, sgd, generator(0, "start"))
        return Latents(prior, *given).extras()["latent.code"]

    assert torch.equal(start(2), start(5)) and start(2).std() > 0


def test_a_step_is_autograd_through_all_at_once():
    canvas = latents(lr_latent=0.2)
    code = canvas.extras()["latent.code"].clone().requires_grad_(True)
    momentum = torch.zeros_like(code)
    for number, factor in enumerate((1.0, 0.5)):
        gradient = noise(canvas.images(), number)
        scalar = (canvas.generator.decode({"code": code}) * gradient).sum()
        (own,) = torch.autograd.grad(scalar, code)
        momentum = 0.5 * momentum + own
        code = (code.detach() - 0.2 * factor * momentum).requires_grad_(True)
        canvas.update(gradient, factor)
        torch.testing.assert_close(canvas.extras()["latent.code"], code.detach())
    assert not torch.equal(canvas.images(), latents().images())  # not the images from before


def test_the_gradient_of_the_codes_is_that_of_finite_differences():
    canvas = latents(count=3, optimise=lambda groups: torch.optim.SGD(groups), lr_latent=1.0)
    before = canvas.extras()["latent.code"].clone()
    gradient = noise(canvas.images())
    canvas.update(gradient)
    found = before - canvas.extras()["latent.code"]
    for place in ((0, 0, 0, 0), (1, 2, 1, 0), (2, 1, 1, 1)):
        moved = []
        for step in (1e-5, -1e-5):
            code = before.clone()
            code[place] += step
            moved.append((canvas.generator.decode({"code": code}) * gradient).sum())
        assert found[place].item() == pytest.approx(((moved[0] - moved[1]) / 2e-5).item(), rel=1e-5)


def test_pieces_do_not_change_the_step():
    steps = []
    for piece in (1, 2, 64):
        canvas = latents()
        canvas.settings = settings(piece=piece)
        for number in range(2):
            canvas.update(noise(canvas.images(), number))
        steps.append(canvas.images())
    torch.testing.assert_close(steps[0], steps[2])
    torch.testing.assert_close(steps[1], steps[2])


def test_one_piece_is_decoded_at_a_time():
    class Counted(AutoencoderGenerator):
        most = 0

        def decode(self, latents):
            self.most = max(self.most, len(latents["code"]))
            return super().decode(latents)

    prior = double()
    canvas = latents(count=7, prior=Counted(prior.network, prior.channels, SIZE, {}))
    canvas.update(noise(canvas.images()))
    assert canvas.generator.most == 2


@pytest.mark.parametrize("optimise", [sgd, adam])
def test_a_checkpoint_goes_on_exactly(optimise):
    whole, other = latents(optimise=optimise), latents(optimise=optimise, start="random")
    assert not torch.equal(whole.images(), other.images())
    for number in range(2):
        whole.update(noise(whole.images(), number))
    other.load_state({name: value.clone() for name, value in whole.state().items()})
    assert torch.equal(whole.images(), other.images())
    for canvas in (whole, other):
        canvas.update(noise(canvas.images(), 9), 0.3)
    assert torch.equal(whole.images(), other.images())
    assert whole.state().keys() == other.state().keys()


@pytest.fixture(scope="module")
def trained(digits_file, tmp_path_factory):
    """A small generator of digits."""
    path = tmp_path_factory.mktemp("generator") / "generator.safetensors"
    where = ["--data", str(digits_file), "--out", str(path), "--device", "cpu"]
    assert main(["generator", *where, *SMALL]) == 0
    return path


def test_what_identifies_a_generator_has_its_weights_and_precision(trained, digits, tmp_path):
    """A file of an earlier version names no precision: it was trained in float32."""
    tensors, header = load_tensors(trained, "generator")
    told = load_generator(trained, digits, "cpu").describe()
    other = tmp_path / "g.safetensors"
    first = min(tensors)
    del header["precision"]
    save_tensors(other, "generator", tensors, header)
    assert load_generator(other, digits, "cpu").describe() == told
    assert told["precision"] == "float32"
    save_tensors(other, "generator", tensors | {first: tensors[first] + 1}, header)
    assert load_generator(other, digits, "cpu").describe() != told


@pytest.mark.slow
def test_the_autoencoder_reconstructs_digits(trained, digits):
    prior = load_generator(trained, digits, "cpu")
    images = digits.test.take(slice(None))
    codes = prior.latents(images, digits.test.labels, generator(0))
    assert codes["code"].shape == (len(images), 5, 2, 2)  # 20 values for 64 pixels
    told = read_header(trained)["reconstruction"]
    pixels, shown = digits.to_pixels(images), digits.to_pixels(prior.decode(codes))
    mse, variance = (shown - pixels).square().mean(), pixels.var(0, correction=0).mean()
    assert mse < variance / 5
    assert told["mse"] == pytest.approx(mse.item(), rel=1e-3)
    assert told["variance"] == pytest.approx(variance.item(), rel=1e-3)
    assert told["psnr"] == pytest.approx(-10 * mse.log10().item(), rel=1e-3)
    assert not any(p.requires_grad for p in prior.network.parameters())


def test_a_killed_training_goes_on_to_the_same_bytes(digits, tmp_path, monkeypatch, capsys):
    """Killed after the second of four epochs."""
    values = {"width": 8, "epochs": 4, "batch": 256, "augment": "crop"}
    made = build(Settings, recipes.resolve_training("generator", "digits", values), "generator")

    def training(name):
        return Training(digits, made, 3, tmp_path / f"{name}.safetensors", every=0.0)

    found = training("alone").run()
    with monkeypatch.context() as patched:
        kept = []

        def killed(*arguments):
            save_checkpoint(*arguments)
            kept.append(arguments)
            if len(kept) == 2:
                raise KeyboardInterrupt

        patched.setattr("dd.training.resume.save_checkpoint", killed)
        with pytest.raises(KeyboardInterrupt):
            training("killed").run()
    assert training("killed").run() == found
    assert "going on after 2 epochs" in capsys.readouterr().out
    alone, killed = (load_file(tmp_path / f"{name}.safetensors") for name in ("alone", "killed"))
    assert all(torch.equal(alone[name], killed[name]) for name in alone)
    assert len(list(tmp_path.iterdir())) == 2  # no checkpoint is left


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["dc", "dm"])
def test_objectives_lower_their_loss_through_latents(objective, digits, trained):
    bound = make(objective, digits, 2, batch_real=64)
    prior = load_generator(trained, digits, "cpu")
    values = recipes.resolve_part("glad", objective, "digits", 2)
    canvas = PARAMETRISATIONS["glad"](
        prior, bound.start(), bound.labels(), build(GladSettings, values, "glad"),
        bound.optimizer, bound.streams.start,
    )  # fmt: skip
    losses = [bound.iteration(number, canvas)["loss"] for number in range(1, 31)]
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    assert torch.isfinite(canvas.images()).all()


def example(part=0):
    """A Python block of the documentation."""
    return re.findall(r"```python\n(.*?)```", DOC.read_text(encoding="utf-8"), re.S)[part]


@pytest.fixture
def adapter(tmp_path, monkeypatch):
    """The documented adapter as a module, and weights for it."""
    (tmp_path / "documented_stylegan.py").write_text(example())
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "documented_stylegan", raising=False)
    import documented_stylegan as module

    torch.manual_seed(0)
    state = module.Network(10, 6, 8, 3, 1).state_dict()
    state["constant"].normal_()
    path = tmp_path / "weights.safetensors"
    save_file(state, path)
    return module, path


def test_the_documented_adapter_distils(adapter, digits):
    module, path = adapter
    prior = load_generator(path, digits, "cpu", "documented_stylegan:load", layer=1)
    bound = make("dm", digits, 2, batch_real=64)
    canvas = Latents(
        prior, bound.start(), bound.labels(), settings(lr_latent=0.5, lr_style=0.05, piece=8),
        bound.optimizer, bound.streams.start,
    )  # fmt: skip
    shapes = {name: tuple(value.shape) for name, value in canvas.extras().items()}
    assert shapes == {"latent.maps": (20, 8, 8, 8), "latent.styles": (20, 2, 6)}
    rates = [group["lr"] for group in canvas._optimizer.param_groups]
    assert rates == [0.5, 0.05]  # maps, styles
    losses = [bound.iteration(number, canvas)["loss"] for number in range(1, 31)]
    assert sum(losses[-5:]) < sum(losses[:5])
    # its pixels, in the units of the dataset
    parts = {name.removeprefix("latent."): value for name, value in canvas.extras().items()}
    pixels = module.load(load_file(path), 1, (8, 8), 1).decode(parts)
    expected = (pixels - digits.space.mean.item()) / digits.space.std.item()
    torch.testing.assert_close(canvas.images(), expected, rtol=1e-4, atol=1e-4)
    assert prior.describe()["layer"] == 1 and len(prior.describe()["sha256"]) == 16


def test_an_adapters_pixels_are_whitened(adapter, tmp_path):
    _, path = adapter
    data = tmp_path / "zca.safetensors"
    assert main(["prepare", "--source", "digits", "--out", str(data), "--zca"]) == 0
    plain, white = load_dataset(data), load_dataset(data, whitening="zca")
    one, other = (
        load_generator(path, d, "cpu", "documented_stylegan:load") for d in (plain, white)
    )
    codes = one.latents(None, torch.arange(4), generator(0))
    pixels = plain.space.to_pixels(one.decode(codes)).flatten(1)
    expected = (pixels - white.space.zca_mean) @ white.space.zca_matrix
    torch.testing.assert_close(other.decode(codes).flatten(1), expected, rtol=1e-4, atol=1e-4)


class Wrong(Generator):
    """Decodes to another size."""

    rates = {"code": "lr_latent"}  # noqa: RUF012

    def latents(self, images, labels, stream):
        return {"code": torch.zeros(len(labels), 3)}

    def decode(self, latents):
        return torch.zeros(len(latents["code"]), 3, 4, 4)


def wrong(state, channels, size, layer):
    return Wrong()


def nothing(state, channels, size, layer):
    return None


def unrated(state, channels, size, layer):
    made = Wrong()
    made.rates = {"code": "fast"}
    return made


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("no_such_module:load", "no module 'no_such_module'"),
        ("documented_stylegan:lood", "has no function lood"),
        ("documented_stylegan", "must read MODULE:FUNCTION"),
        ("documented_stylegan:load", "layers 0 to 2"),
        (f"{__name__}:wrong", r"decodes one image to \[1, 3, 4, 4\], .*\[1, 1, 8, 8\]"),
        (f"{__name__}:nothing", "it returned NoneType"),
        (f"{__name__}:unrated", "must be lr_latent or lr_style"),
    ],
)
def test_a_bad_adapter_is_named(named, message, adapter, digits):
    with pytest.raises(DDError, match=message) as caught:
        load_generator(adapter[1], digits, "cpu", named, layer=7)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_generator_that_does_not_fit_is_refused(trained, adapter, digits, tmp_path):
    with pytest.raises(DDError, match="layer is 3"):
        load_generator(trained, digits, "cpu", layer=3)
    with pytest.raises(DDError, match="--adapter MODULE:FUNCTION"):
        load_generator(adapter[1], digits, "cpu")
    data = tmp_path / "zca.safetensors"
    assert main(["prepare", "--source", "digits", "--out", str(data), "--zca"]) == 0
    with pytest.raises(DDError, match="whitening of the generator is none, here it is zca"):
        load_generator(trained, load_dataset(data, whitening="zca"), "cpu")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--code", "16"], "code is 16, it must be below 16"),
        (["--width", "18"], "width is 18, it must be a multiple of 4"),
        (["--out", "generator.pt"], "must end in .safetensors"),
        (["--epochs", "2", "--lr", "1e30"], "training diverged"),
    ],
)
def test_bad_options_of_the_stage_are_one_line(words, message, digits_file, tmp_path, capsys):
    where = ["--data", str(digits_file), "--out", str(tmp_path / "g.safetensors")]
    assert main(["generator", *where, "--device", "cpu", "--width", "8", *words]) == 2
    told = capsys.readouterr().err
    assert message in told and told.splitlines()[-1].startswith("error: ")
