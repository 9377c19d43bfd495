"""One contract for every quantizer, those of other packages that are installed too."""

import numpy as np
import pytest
import torch

from genrec import registry
from genrec.sid import Quantizer, load_quantizer
from genrec.sid.stats import sid_stats

SMALL = {"levels": 3, "codes": 8, "iterations": 10, "code_dim": 6, "hidden": (16,)}
SMALL |= {"epochs": 20, "batch_size": 40, "lr": 1e-2}
PARTS = registry.parts("quantizers")
KINDS = [kind for kind, settings in PARTS.items() if settings.learns]


@pytest.fixture(params=[*KINDS, "rkmeans, all dimensions"], scope="module")
def make(request):
    """Makes a small one; a function of seed and settings."""
    kind, _, whole = request.param.partition(",")
    small = {name: value for name, value in SMALL.items() if name in PARTS[kind].model_fields}
    small |= {"code_dim": None} if whole else {}
    return lambda **options: registry.implementation(PARTS[kind])(**small | options)


@pytest.fixture(scope="module")
def embeddings():
    """Twelve loose clusters, off centre. float32 [120, 10]."""
    rng = np.random.default_rng(0)
    points = np.repeat(rng.normal(size=(12, 10)), 10, axis=0) + 0.2 * rng.normal(size=(120, 10))
    return (points + 3).astype(np.float32)


@pytest.mark.parametrize("kind", PARTS)
def test_the_class_is_that_of_its_settings(kind):
    settings = PARTS[kind]
    maker = registry.implementation(settings)(seed=3, device="cpu", resolve=True)
    assert maker.kind == kind
    assert maker.settings == settings(resolve=True)
    assert isinstance(maker, Quantizer) == settings.learns
    assert settings.__doc__, "`genrec list` shows its first line"
    assert all(field.description for n, field in settings.model_fields.items() if n == "resolve")
    with pytest.raises(ValueError, match="there is no 'levles'"):
        registry.implementation(settings)(levles=2)


@pytest.mark.parametrize("kind", PARTS)
def test_resolve_gives_every_item_its_own_sid(kind, embeddings):
    learns = PARTS[kind].learns
    given = embeddings if learns else np.zeros((9, 2), dtype=np.int32)
    small = {name: value for name, value in SMALL.items() if name in PARTS[kind].model_fields}
    for resolve in (True, False):
        maker = registry.implementation(PARTS[kind])(**small | {"resolve": resolve})
        sids, stats, quantizer = maker.make_sids(given)
        assert (sids.dtype, len(sids)) == (np.int32, len(given))
        assert quantizer is (maker if learns else None)
        assert stats["levels"] == sids.shape[1]
        if resolve:
            assert len(np.unique(sids, axis=0)) == len(sids)
        else:
            assert (sids == (maker.encode(given) if learns else given)).all()


def test_shapes_and_ranges(make, embeddings):
    steps = []
    fitted = make().fit(embeddings, progress=lambda *step: steps.append(step))
    sids = fitted.encode(embeddings)
    assert sids.dtype == np.int32
    assert sids.shape == (120, 3)
    assert sids.min() >= 0
    assert sids.max() < 8
    assert fitted.decode(sids).dtype == np.float32
    assert fitted.decode(sids).shape == (120, 10)
    assert fitted.encode(embeddings[:0]).shape == (0, 3)
    total = steps[0][2]
    assert [done for _, done, _ in steps] == list(range(1, total + 1))


def test_same_seed_same_sids_and_another_seed_others(make, embeddings):
    torch.manual_seed(123)  # the caller's random state must not matter
    first = make(seed=5).fit(embeddings).encode(embeddings)
    after = torch.rand(1)
    torch.manual_seed(124)
    second = make(seed=5).fit(embeddings).encode(embeddings)
    torch.manual_seed(123)
    assert torch.rand(1) == after  # nor is it disturbed
    assert (first == second).all()
    assert (make(seed=6).fit(embeddings).encode(embeddings) != first).any()


def test_saved_and_loaded_it_gives_the_same(make, embeddings, tmp_path):
    fitted = make(seed=1).fit(embeddings)
    fitted.save(tmp_path / "one.safetensors")
    loaded = load_quantizer(tmp_path / "one.safetensors")
    assert type(loaded) is type(fitted)
    sids = fitted.encode(embeddings)
    assert (loaded.encode(embeddings) == sids).all()
    assert (loaded.decode(sids) == fitted.decode(sids)).all()
    loaded.save(tmp_path / "two.safetensors")
    first, second = ((tmp_path / f"{name}.safetensors").read_bytes() for name in ("one", "two"))
    assert first == second


def test_the_last_code_is_the_nearest_by_the_distances_it_reports(make, embeddings):
    fitted = make().fit(embeddings)
    sids = fitted.encode(embeddings)
    distances = fitted.last_level_distances(embeddings, sids)
    assert distances.shape == (120, 8)
    assert (distances.argmin(axis=1) == sids[:, -1]).all()
    # The last code of `sids` plays no part in them.
    changed = sids.copy()
    changed[:, -1] = (changed[:, -1] + 1) % 8
    assert (fitted.last_level_distances(embeddings, changed) == distances).all()


def test_every_level_leaves_less_over_and_the_decoding_is_near(make, embeddings):
    fitted = make().fit(embeddings)
    sids = fitted.encode(embeddings)
    norms = fitted.residual_norms(embeddings, sids)
    assert norms.shape == (3,)
    assert (np.diff([1.0, *norms]) < 0).all()
    spread = embeddings - embeddings.mean(axis=0)
    error = np.linalg.norm(fitted.decode(sids) - embeddings) / np.linalg.norm(spread)
    assert error < 0.6
    worse = np.roll(sids, 60, axis=0)  # other items' SIDs
    assert np.linalg.norm(fitted.decode(worse) - embeddings) > np.linalg.norm(spread)


def test_no_level_collapses(make, embeddings):
    sids = make().fit(embeddings).encode(embeddings)
    assert all(len(np.unique(column)) >= 6 for column in sids.T)


def test_bad_embeddings_are_refused_with_what_is_wrong(make, embeddings):
    with pytest.raises(ValueError, match=r"7 items cannot fill .* 8 codes; set quantize.codes"):
        make().fit(embeddings[:7])
    bad = embeddings.copy()
    bad[17, 2] = np.nan
    with pytest.raises(ValueError, match="row 17"):
        make().fit(bad)
    with pytest.raises(ValueError, match="not fitted"):
        make().encode(embeddings)
    with pytest.raises(ValueError, match=r"expected \[N, 10\], found shape \[120, 5\]"):
        make().fit(embeddings).encode(embeddings[:, :5])


@pytest.mark.parametrize("exponent", [-90, -66, 60, 90])
def test_extreme_scales_give_the_same_sids(make, embeddings, exponent, tmp_path):
    plain, scale = make().fit(embeddings), np.float32(2.0**exponent)
    scaled = make().fit(embeddings * scale)
    sids = scaled.encode(embeddings * scale)
    assert (sids == plain.encode(embeddings)).all()
    np.testing.assert_array_equal(scaled.decode(sids), plain.decode(sids) * scale)
    scaled.save(tmp_path / "q")
    assert (load_quantizer(tmp_path / "q").encode(embeddings * scale) == sids).all()
    stats, expected = (
        sid_stats(x, sids, sids, q) for x, q in ((embeddings * scale, scaled), (embeddings, plain))
    )
    assert stats == expected


def test_values_that_spoil_all_sids_are_refused_by_row(make, embeddings):
    bad = embeddings.copy()
    bad[17, 2] = 1e19  # of RKMeans it aborted the process, RQ-VAE gave all items one SID
    with pytest.raises(ValueError, match=r"row 17 holds 1e\+19, over 1e\+06 times what is usual"):
        make().fit(bad)
    fitted = make().fit(embeddings)
    with pytest.raises(ValueError, match=r"row 17 .*lies so far from those .*fitted to"):
        fitted.encode(bad * 1e5)
    with pytest.raises(ValueError, match=r"row 17 holds 1e\+33; expected at most 1e\+30"):
        fitted.encode(bad * 1e14)
    with pytest.raises(ValueError, match=r"largest value is .*e-35; expected at least 1e-30"):
        make().fit(embeddings * 1e-35)
    assert fitted.encode(embeddings * np.float32(1e-35)).shape == (120, 3)  # near zero is a place
