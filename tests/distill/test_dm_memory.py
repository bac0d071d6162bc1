"""DM in pieces: the same distance and gradient, in memory that does not grow with the images."""

from __future__ import annotations

import pytest
import torch

from dd.distill.objectives import dm
from dd.distill.objectives.dm import match, mean_distance
from dd.networks.build import create
from dd.networks.memory import embedding_bytes
from dd.rng import generator
from dd.runtime.memory import peak_bytes
from tests.support.networks import small
from tests.support.objectives import NORMED, canvas, make

CLASSES, IPC, REAL = 3, 4, 5


def embeddings_of(network, size):
    """Real embeddings and synthetic images in float64."""
    stream = generator(0, "dm")
    images = [
        torch.randn(CLASSES * count, 3, size, size, generator=stream, dtype=torch.float64)
        for count in (REAL, IPC)
    ]
    with torch.no_grad():
        return network.embed(images[0]).unflatten(0, (CLASSES, REAL)), images[1]


@pytest.mark.parametrize("piece", [1, 5, 7, 11])
@pytest.mark.parametrize("spec", ["convnet", "mlp", "vit", "lenet"])
def test_pieces_are_exact(spec, piece):
    """Against one graph of everything, with pieces that do not end where classes do."""
    network = small(spec).double().train()
    real, images = embeddings_of(network, 32)
    leaf = images.clone().requires_grad_(True)
    expected = mean_distance(real, network.embed(leaf).unflatten(0, (CLASSES, IPC)))
    (slopes,) = torch.autograd.grad(expected, leaf)
    loss, gradient = match(network, real, images, piece)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, slopes, rtol=1e-10, atol=1e-14)
    assert slopes.abs().max() > 1e-6
    assert not images.requires_grad and all(p.grad is None for p in network.parameters())


def test_memory_does_not_grow_with_the_images():
    network = create("convnet:width=64", 3, (32, 32), 10, generator=None, device="meta").train()
    each = embedding_bytes(network, (3, 32, 32))

    def taken(count, piece):
        images = torch.zeros(count, 3, 32, 32, device="meta")
        real = torch.zeros(2, 5, network.classifier.in_features, device="meta")
        return peak_bytes(lambda: match(network, real, images, piece))

    whole = [taken(count, count) for count in (64, 512)]
    pieces = [taken(count, 32) for count in (64, 512)]
    assert whole[1] - whole[0] > 0.8 * 448 * each
    # what is left: images and their gradients, some embeddings
    few = 448 * 4 * (2 * 3 * 32 * 32 + 4 * network.classifier.in_features)
    assert pieces[1] - pieces[0] < few < 0.1 * (whole[1] - whole[0])


def moved(digits, spec="convnet:depth=1,width=8", ipc=3, **changes):
    objective = make("dm", digits, ipc, spec, batch_real=7, **changes)
    synthetic = canvas(objective, lr=1.0)
    losses = [objective.iteration(n, synthetic)["loss"] for n in (1, 2)]
    return synthetic.images(), losses


def test_an_iteration_in_pieces(digits, monkeypatch):
    whole, losses = moved(digits)
    monkeypatch.setattr(dm, "piece_of", lambda each, device: 4)
    monkeypatch.setattr(dm, "CHUNK", 5)
    passed = []
    monkeypatch.setattr(dm, "match", lambda *given: passed.append(given[-1]) or match(*given))
    pieces, again = moved(digits)
    torch.testing.assert_close(pieces, whole, rtol=1e-4, atol=1e-5)
    assert again == pytest.approx(losses, rel=1e-5)
    assert passed == [4, 4]


def test_a_gpu_that_is_too_small_gets_smaller_pieces(digits, monkeypatch, capsys):
    whole, _ = moved(digits)
    passed = []

    def limited(network, real, images, piece):
        passed.append(piece)
        if piece > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return match(network, real, images, piece)

    monkeypatch.setattr(dm, "match", limited)
    pieces, _ = moved(digits)
    torch.testing.assert_close(pieces, whole, rtol=1e-4, atol=1e-5)
    assert passed == [30, 15, 8, 8]  # the second iteration remembers
    assert "30 synthetic images at a time" in capsys.readouterr().out


def test_a_batch_norm_sees_all_images(digits, monkeypatch):
    monkeypatch.setattr(dm, "piece_of", lambda each, device: 4)
    monkeypatch.setattr(dm, "CHUNK", 5)
    seen = []
    monkeypatch.setattr(dm, "match", lambda *given: seen.append(given[-1]) or match(*given))
    moved(digits, NORMED)
    assert seen == [30, 30]


@pytest.mark.parametrize("sizes", [[3, 3, 3], [8], [1, 7, 2], [4, 4], []])
def test_pieces_of_batches(sizes):
    batches = [part.clone() for part in torch.arange(sum(sizes)).split(sizes)] if sizes else []
    pieces = list(dm._pieces(batches, 4))
    assert [len(piece) for piece in pieces[:-1]] == [4] * max(0, len(pieces) - 1)
    assert torch.cat([torch.zeros(0), *pieces]).tolist() == list(range(sum(sizes)))


def test_real_images_are_made_piece_by_piece():
    """Not more batches are alive than a piece needs."""
    made = []
    batches = (made.append(n) or torch.full((2,), n) for n in range(9))
    first = next(dm._pieces(batches, 4))
    assert first.tolist() == [0, 0, 1, 1] and made == [0, 1]
