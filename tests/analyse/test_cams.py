"""Class activation maps of sets, and erasing: regions against plain loops, networks by hand."""

import csv
import math

import pytest
import torch

from dd.analyse import cams, erase
from dd.artifacts.tensors import load_tensors, save_tensors
from dd.command import main
from dd.data import synthetic
from dd.data.dataset import load_dataset
from dd.data.synthetic import SyntheticSet
from dd.networks import activation_maps as cam
from dd.networks.base import Network
from dd.networks.build import create
from dd.pretrain.frozen import save
from dd.rng import generator

WIDTH = 0.125


def by_loop(maps: torch.Tensor, threshold: float, chance: torch.Tensor) -> dict[str, list]:
    """What :func:`dd.analyse.erase.masks` says, one image and position after the other."""
    chosen = {kind: [] for kind in erase.ERASED}
    for n in range(maps.shape[1]):
        seen = [one[n].flatten().tolist() for one in maps]
        spots = range(len(seen[0]))
        low, high = ([f(one[s] for one in seen) for s in spots] for f in (min, max))
        meta = [s for s in spots if low[s] >= threshold]
        other = [s for s in spots if high[s] >= threshold and low[s] < threshold]
        count = min(len(meta), len(other))
        draws = chance[n].flatten().tolist()
        ranked = {
            "meta": sorted(meta, key=lambda s: (-low[s], s)),
            "heterogeneous": sorted(other, key=lambda s: (-(high[s] - low[s]), s)),
            "random": sorted(spots, key=lambda s: (-draws[s], s)),
        }
        for kind, order in ranked.items():
            chosen[kind].append(set(order[:count]))
    return chosen


def test_regions_to_erase_are_those_of_a_plain_loop():
    draw = generator(0, "test")
    maps = torch.rand(3, 40, 4, 5, generator=draw)
    maps = (maps * 8).round() / 8  # many ties, some at the threshold
    chance = torch.rand(40, 4, 5, generator=draw)
    masks, expected = erase.masks(maps, 0.5, chance), by_loop(maps, 0.5, chance)
    for kind in erase.ERASED:
        found = [set(mask.flatten().nonzero()[:, 0].tolist()) for mask in masks[kind]]
        assert found == expected[kind]
    areas = torch.stack([mask.sum((1, 2)) for mask in masks.values()])
    assert (areas == areas[0]).all() and len(areas[0].unique()) > 3
    assert not (masks["meta"] & masks["heterogeneous"]).any()


def test_maps_are_made_in_pieces(monkeypatch):
    network = create("mlp", 1, (8, 8), 10, generator=generator(0))
    sizes = []

    def seen(network, images, labels, rectify):
        sizes.append(len(images))
        return torch.zeros(len(images), 10), torch.rand(len(images), 2, 2)

    monkeypatch.setattr(cam, "activation_maps", seen)
    count = 2 * cam.PIECE + 1
    cam.cams([network], torch.zeros(count, 1, 8, 8), torch.zeros(count).long(), (4, 4))
    assert sizes == [cam.PIECE, cam.PIECE, 1]


def test_what_is_erased_by_hand():
    # left column: both look; right column: only one does; bottom right: none
    one = torch.tensor([[[0.9, 0.8], [0.6, 0.1]]])
    two = torch.tensor([[[0.7, 0.2], [1.0, 0.0]]])
    masks = erase.masks(torch.stack([one, two]), 0.5, torch.tensor([[[0.1, 0.2], [0.9, 0.3]]]))
    assert masks["meta"].tolist() == [[[True, False], [False, False]]]  # 0.7 above 0.6
    assert masks["heterogeneous"].tolist() == [[[False, True], [False, False]]]
    assert masks["random"].tolist() == [[[False, False], [True, False]]]
    assert erase.on_pixels(masks["meta"], (4, 6))[0, 0].nonzero().tolist() == [
        [row, column] for row in range(2) for column in range(3)
    ]
    nowhere = erase.masks(torch.stack([one, one]), 0.5, torch.rand(1, 2, 2))  # no difference
    assert not any(mask.any() for mask in nowhere.values())


@pytest.mark.parametrize(("side", "sizes"), [(28, {16}), (30, {16, 20, 25}), (32, {16})])
def test_positions_have_one_size_if_the_grid_divides_the_image(side, sizes):
    rows, columns = cam.common_grid(0, (side, side))
    each = torch.eye(rows * columns, dtype=torch.bool).view(-1, rows, columns)
    assert set(erase.on_pixels(each, (side, side)).sum((1, 2, 3)).tolist()) == sizes


@pytest.mark.parametrize("whitening", ["none", "zca"])
def test_erased_pixels_have_the_mean_colour(tmp_path, whitening):
    path = tmp_path / "digits.safetensors"
    assert main(["prepare", "--source", "digits", "--zca", "--out", str(path)]) == 0
    dataset = load_dataset(path, whitening=whitening)
    mask = torch.zeros(3, 4, 4, dtype=torch.bool)
    mask[0, 1, 2] = mask[2, 3] = True
    where = torch.tensor([5, 0, 7])
    before = dataset.to_pixels(dataset.test.take(where))
    after = dataset.to_pixels(erase.erased(dataset, where, mask))
    gone = erase.on_pixels(mask, (8, 8)).expand_as(after)
    assert gone.sum() == 4 + 4 * 4
    assert torch.allclose(after[gone], dataset.space.mean.expand(gone.sum()), atol=2e-3)
    assert torch.allclose(after[~gone], before[~gone], atol=2e-3)


class Reader(Network):
    """Says class 1 where the pixel at ``spot`` is above the mean, else class 0."""

    def __init__(self, spot: tuple[int, int]) -> None:
        super().__init__()
        self.spot = spot
        self.classifier = torch.nn.Linear(1, 10, bias=False)
        weight = torch.full((10, 1), -10.0)
        weight[0], weight[1] = 0.0, 1.0
        self.classifier.weight.data = weight

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, 0, self.spot[0], self.spot[1], None].clamp(min=0)


def test_accuracies_by_hand(digits, monkeypatch):
    """A network that reads one pixel, and maps that put the meta region there."""
    maps = torch.zeros(2, 4, 4)
    maps[:, 1, 1] = torch.tensor([1.0, 0.9])  # both look at pixels 2..3 of rows 2..3
    maps[0, 3, 3] = 1.0  # one looks at pixels 6..7
    monkeypatch.setattr(
        cam, "cams", lambda networks, images, *_: maps[:, None].expand(-1, len(images), -1, -1)
    )
    networks = {"convnet": Reader((2, 3)), "lenet": Reader((7, 6)), "vit": Reader((0, 0))}
    rows = erase.measure(digits, networks, ["convnet", "lenet"], (4, 4), 0.5, seed=3)
    assert [(row["network"], row["erased"]) for row in rows[:5]] == [
        ("convnet", "nothing"), ("convnet", "meta"), ("convnet", "heterogeneous"),
        ("convnet", "random"), ("lenet", "nothing"),
    ]  # fmt: skip
    at = {(row["network"], row["erased"]): row for row in rows}
    images, labels = digits.test.take(slice(None)), digits.test.labels
    count = len(labels)

    def right(spot, gone=False):
        bright = torch.zeros(count, dtype=torch.bool) if gone else images[:, 0, *spot] > 0
        return bright.long() == labels  # what is erased is not above the mean: class 0

    for name, spot, kind in (("convnet", (2, 3), "meta"), ("lenet", (7, 6), "heterogeneous")):
        plain, less = right(spot), right(spot, gone=True)
        change = [int(b) - int(a) for a, b in zip(plain, less, strict=True)]
        mean = sum(change) / count
        error = math.sqrt(sum((c - mean) ** 2 for c in change) / count / count)
        row = at[name, kind]
        assert row["accuracy"] == pytest.approx(100 * float(less.double().mean()), abs=1e-3)
        assert row["difference"] == pytest.approx(100 * mean, abs=1e-3) and mean != 0
        assert row["standard_error"] == pytest.approx(100 * error, abs=1e-3)
        assert at[name, "nothing"]["difference"] == 0
    assert at["convnet", "heterogeneous"]["difference"] == 0
    assert at["lenet", "meta"]["difference"] == 0
    assert {row["area"] for row in rows} == {0.0, 6.25}  # 1 of 16 positions
    assert {row["images_changed"] for row in rows} == {0, count}
    assert [row["role"] for row in rows[::4]] == ["region network", "region network", "other"]
    again = erase.measure(digits, networks, ["convnet", "lenet"], (4, 4), 0.5, seed=3)
    assert again == rows


@pytest.fixture(scope="module")
def pretrained(digits, tmp_path_factory) -> dict[str, str]:
    """Files of untrained networks, by spec."""
    folder, files = tmp_path_factory.mktemp("pools"), {}
    for spec in ("convnet", "resnet18_bn", "mlp"):
        network = create(
            spec, 1, (8, 8), 10, generator=generator(0, spec), width_factor=WIDTH
        ).eval()
        facts = {
            "network": spec, "dataset": digits.name, "fingerprint": digits.fingerprint,
            "whitening": "none", "width_factor": WIDTH, "accuracy": 12.5, "least_accuracy": 80.0,
            "origin": "trained", "seed": 0, "settings": {},
        }  # fmt: skip
        files[spec] = str(folder / f"{spec}.safetensors")
        save(files[spec], network, facts)
    return files


@pytest.fixture(scope="module")
def made(digits, tmp_path_factory) -> str:
    """A set of three images of each class, classes in turn."""
    path = str(tmp_path_factory.mktemp("sets") / "it7.safetensors")
    labels = torch.arange(10).repeat(3)
    images = torch.randn(30, 1, 8, 8, generator=generator(0, "images"))
    header = {"objective": "dm", "iteration": 7, "whitening": "none"}
    synthetic.save(
        path, SyntheticSet(images, labels, digits.space.mean, digits.space.std, header=header)
    )
    return path


def test_maps_of_a_set(digits, digits_file, made, pretrained, tmp_path, capsys):
    out = tmp_path / "cams.safetensors"
    files = [pretrained["resnet18_bn"], pretrained["convnet"]]
    command = ["cams", "--synthetic", made, "--data", str(digits_file), "--device", "cpu"]
    command += ["--width-factor", str(WIDTH), "--images-per-class", "2", "--out", str(out)]
    assert main([*command, "--pretrained", *files]) == 0
    tensors, header = load_tensors(out, "cams")
    assert tensors["images"].tolist() == list(range(20))  # two of each class come first
    assert tensors["maps"].dtype == torch.float16 and tensors["maps"].shape == (2, 20, 4, 4)
    assert [entry["network"] for entry in header["networks"]] == ["resnet18_bn", "convnet"]
    assert header["networks"][0]["accuracy"] == 12.5
    assert (header["grid"], header["threshold"], header["iteration"]) == ([4, 4], 0.5, 7)
    assert header["set"]["objective"] == "dm" and header["rectify"] == "relu"
    assert header["images_per_class"] == 2
    network = create(
        "convnet", 1, (8, 8), 10, generator=generator(0, "convnet"), width_factor=WIDTH
    ).eval()
    image = synthetic.load(made).images[13:14]
    _, raw = cam.activation_maps(network, image, torch.tensor([3]))
    expected = cam.normalised(cam.resized(raw, (4, 4)))[0]
    assert torch.allclose(tensors["maps"][1, 13].float(), expected, atol=1e-3)
    assert main([*command, "--rectify", "none", "--pretrained", *files]) == 0
    kept, header = load_tensors(out, "cams")
    assert header["rectify"] == "none"
    assert main([*command, "--images-per-class", "3", "--pretrained", *files]) == 0
    assert load_tensors(out, "cams")[1]["images_per_class"] == 0  # nothing was left out
    raw = cam.activation_maps(network, image, torch.tensor([3]), "none")[1]
    expected = cam.normalised(cam.resized(raw, (4, 4)))[0]
    assert torch.allclose(kept["maps"][1, 13].float(), expected, atol=1e-3)
    assert not torch.allclose(kept["maps"], tensors["maps"], atol=0.1)
    assert main([*command, "--pretrained", pretrained["mlp"]]) == 2
    assert "has no feature map" in capsys.readouterr().err


def test_first_images_of_each_class():
    labels = torch.tensor([2, 0, 2, 2, 1, 0, 1])
    assert cams.chosen(labels, 1).tolist() == [0, 1, 4]
    assert cams.chosen(labels, 2).tolist() == [0, 1, 2, 4, 5, 6]
    assert cams.chosen(labels, 0).tolist() == list(range(7))


def test_erasing_from_the_command_line(digits_file, pretrained, tmp_path, capsys):
    out = tmp_path / "erasing.csv"
    command = ["erase", "--data", str(digits_file), "--out", str(out), "--device", "cpu"]
    command += ["--width-factor", str(WIDTH), "--pretrained", *pretrained.values()]
    command.append("--regions-from")
    assert main([*command, "resnet18_bn.convnet"]) == 0
    with open(out, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 4
    columns = "dataset network role erased accuracy difference standard_error"
    columns += " beyond_nothing beyond_meta beyond_heterogeneous beyond_random area images"
    columns += " images_changed regions_from rectify threshold grid whitening seed device precision"
    columns += " created code"
    assert list(rows[0]) == columns.split()
    by_kind = {(row["network"], row["erased"]): row for row in rows}
    for (network, kind), row in by_kind.items():
        assert row[f"beyond_{kind}"] == "0"
        for other in ("nothing", "meta", "heterogeneous", "random"):
            gain = int(row[f"beyond_{other}"]) - int(by_kind[network, other][f"beyond_{kind}"])
            expected = float(row["accuracy"]) - float(by_kind[network, other]["accuracy"])
            assert 100 * gain / int(row["images"]) == pytest.approx(expected, abs=2e-4)
    assert any(int(row["beyond_meta"]) for row in rows)
    assert {row["regions_from"] for row in rows} == {"resnet18_bn.convnet"}
    assert {row["rectify"] for row in rows} == {"relu"}
    areas = {row["area"] for row in rows}
    assert main([*command, "resnet18_bn.convnet", "--rectify", "none"]) == 0
    with open(out, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["rectify"] for row in rows} == {"none"}
    assert {row["area"] for row in rows} != areas
    roles = {row["network"]: row["role"] for row in rows}
    assert roles == {"convnet": "region network", "resnet18_bn": "region network", "mlp": "other"}
    capsys.readouterr()
    for words, message in (
        (["convnet"], "at least 2 networks"),
        (["convnet.vit"], "unknown network of --pretrained 'vit'"),
        (["convnet.convnt"], "--regions-from: unknown network 'convnt'"),
        (["convnet.resnet18_bn", "--threshold", "0"], "--threshold is 0.0, it must be above 0"),
        (["convnet.resnet18_bn", "--grid", "-1"], "--grid is -1, it must be at least 1"),
        (["convnet.mlp"], "has no feature map"),
    ):
        assert main([*command, *words]) == 2
        said = capsys.readouterr().err
        assert message in said and said.strip().count("\n") == 0


def test_a_file_of_another_kind_is_named(tmp_path, digits_file, made, pretrained, capsys):
    other = tmp_path / "other.safetensors"
    save_tensors(other, "network", {"x": torch.zeros(1)}, {})
    words = ["--data", str(digits_file), "--out", str(tmp_path / "out.safetensors")]
    words += ["--pretrained", pretrained["convnet"]]
    assert main(["cams", "--synthetic", str(other), *words]) == 2
    assert "is a network file, a synthetic file is needed" in capsys.readouterr().err
