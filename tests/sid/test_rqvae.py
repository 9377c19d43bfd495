"""The RQ-VAE around its library: what it keeps, and that training is what makes it good."""

import numpy as np
import pytest
import torch
from vector_quantize_pytorch import ResidualVQ

from genrec.sid import RQVAE
from genrec.sid.stats import sid_stats

SMALL = {"levels": 3, "codes": 8, "code_dim": 4, "hidden": (16,), "batch_size": 64}


@pytest.fixture(scope="module")
def curved():
    """A bent two-dimensional sheet in eight dimensions. float32 [256, 8]."""
    rng = np.random.default_rng(0)
    u, v = rng.uniform(-1, 1, (2, 256))
    waves = [np.sin(3 * u), np.cos(3 * u), np.sin(3 * v), np.cos(3 * v), u * v, u, v, u**2]
    return np.stack(waves, axis=1).astype(np.float32) * 0.05 + 1


@pytest.fixture(scope="module")
def trained(curved):
    return RQVAE(epochs=60, **SMALL).fit(curved)


def test_codes_are_those_of_the_library(curved, trained):
    fitted = trained
    library = ResidualVQ(dim=4, num_quantizers=3, codebook_size=8).eval()
    for layer, book in zip(library.layers, fitted._codebooks(), strict=True):
        layer.codebook = torch.from_numpy(book)
    quantized, indices, _ = library(torch.from_numpy(fitted._latents(curved)))
    sids = fitted.encode(curved)
    assert (indices.numpy() == sids).all()
    decoded = fitted._net.decode(quantized).detach().numpy()
    np.testing.assert_allclose(fitted.decode(sids), decoded, atol=1e-5)


def test_training_brings_the_reconstruction(curved, trained):
    def error(fitted):
        return np.square(fitted.decode(fitted.encode(curved)) - curved).mean()

    assert error(trained) < 0.4 * error(RQVAE(epochs=1, **SMALL).fit(curved))
    assert error(trained) < 0.4 * curved.var(axis=0).mean()


def test_codes_stay_in_use(curved, trained):
    sids = trained.encode(curved)
    stats = sid_stats(curved, sids, sids, trained)
    assert min(stats["utilisation"]) >= 0.9
    assert min(stats["perplexity"]) >= 4.5


def test_scale_and_offset_of_the_embeddings_do_not_matter(curved):
    near = RQVAE(epochs=5, **SMALL).fit(curved)
    far = RQVAE(epochs=5, **SMALL).fit(curved * 64 - 128)  # powers of two: exact in floats
    assert (far.encode(curved * 64 - 128) == near.encode(curved)).mean() > 0.95


def test_identical_embeddings_are_quantized_without_nan():
    flat = np.ones((16, 8), dtype=np.float32)
    fitted = RQVAE(epochs=2, **SMALL).fit(flat)
    sids = fitted.encode(flat)
    assert len(np.unique(sids, axis=0)) == 1
    assert np.isfinite(fitted.decode(sids)).all()


def test_a_loss_that_is_no_number_stops_the_training(curved):
    with pytest.raises(FloatingPointError, match=r"loss is (nan|inf) in epoch .*lower quantize.lr"):
        RQVAE(epochs=20, **SMALL, lr=1e12).fit(curved)
