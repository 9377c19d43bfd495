"""What holds for every quantiser, and the residual arithmetic by brute force."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from genrec.sid import RQVAE, RKMeans, load_quantizer, quantizer as residual
from genrec.sid.codes import sid_stats

MAKE = {
    "rkmeans": lambda **kw: RKMeans(levels=3, codes=8, iterations=10, **kw),
    "rkmeans in few dimensions": lambda **kw: RKMeans(levels=3, codes=8, code_dim=4, **kw),
    "rqvae": lambda **kw: RQVAE(
        levels=3, codes=8, code_dim=6, hidden=(16,), epochs=20, batch_size=40, lr=1e-2, **kw
    ),
}
every_quantizer = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE.keys())


@pytest.fixture(scope="module")
def embeddings():
    """Twelve loose clusters, off centre. float32 [120, 10]."""
    rng = np.random.default_rng(0)
    points = np.repeat(rng.normal(size=(12, 10)), 10, axis=0) + 0.2 * rng.normal(size=(120, 10))
    return (points + 3).astype(np.float32)


@every_quantizer
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


@every_quantizer
def test_same_seed_same_sids_and_another_seed_others(make, embeddings):
    torch.manual_seed(123)  # the caller's random state must not matter
    one = make(seed=5).fit(embeddings).encode(embeddings)
    after = torch.rand(1)
    torch.manual_seed(124)
    two = make(seed=5).fit(embeddings).encode(embeddings)
    torch.manual_seed(123)
    assert torch.rand(1) == after  # nor is it disturbed
    assert (one == two).all()
    assert (make(seed=6).fit(embeddings).encode(embeddings) != one).any()


@every_quantizer
def test_saved_and_loaded_it_gives_the_same(make, embeddings, tmp_path):
    fitted = make(seed=1).fit(embeddings)
    fitted.save(tmp_path / "one.safetensors")
    loaded = load_quantizer(tmp_path / "one.safetensors")
    assert type(loaded) is type(fitted)
    sids = fitted.encode(embeddings)
    assert (loaded.encode(embeddings) == sids).all()
    assert (loaded.decode(sids) == fitted.decode(sids)).all()
    loaded.save(tmp_path / "two.safetensors")
    one, two = ((tmp_path / f"{name}.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two


@every_quantizer
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


@every_quantizer
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


@every_quantizer
def test_no_level_collapses(make, embeddings):
    sids = make().fit(embeddings).encode(embeddings)
    assert all(len(np.unique(column)) >= 6 for column in sids.T)


@every_quantizer
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


@every_quantizer
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


@pytest.mark.parametrize(
    ("size", "unit"), [(1e-4, 1), (1, 1), (1e4, 1), (0, 1), (2.0**-60, 2.0**-57)]
)
def test_only_extreme_scales_are_touched(embeddings, size, unit):
    assert residual.power_of_two(embeddings * np.float32(size)) == unit


@every_quantizer
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


def test_nearest_codes_are_those_of_a_loop():
    rng = np.random.default_rng(1)
    z = rng.normal(size=(40, 5)).astype(np.float32)
    books = rng.normal(size=(3, 7, 5)).astype(np.float32)
    sids = residual.nearest_codes(z, books)
    for row, sid in zip(z, sids, strict=True):
        left = row.copy()
        for level, code in enumerate(sid):
            assert code == min(range(7), key=lambda k: ((left - books[level, k]) ** 2).sum())
            left = left - books[level, code]
    by_hand = books[0][sids[:, 0]] + books[1][sids[:, 1]] + books[2][sids[:, 2]]
    np.testing.assert_allclose(residual.sum_of_codes(sids, books), by_hand, rtol=1e-5)
    left = np.linalg.norm(z - by_hand) / np.linalg.norm(z)
    assert residual.relative_norms(z, sids, books)[-1] == pytest.approx(left, rel=1e-5)


def test_chunks_do_not_change_codes(monkeypatch):
    rng = np.random.default_rng(2)
    z, books = (rng.normal(size=s).astype(np.float32) for s in ((50, 4), (2, 6, 4)))
    whole = residual.nearest_codes(z, books)
    monkeypatch.setattr(residual, "_CHUNK", 7)
    assert (residual.nearest_codes(z, books) == whole).all()


def test_damaged_and_foreign_files_are_refused(embeddings, tmp_path):
    path = tmp_path / "quantizer.safetensors"
    with pytest.raises(FileNotFoundError, match="genrec quantize"):
        load_quantizer(path)
    MAKE["rkmeans"]().fit(embeddings).save(path)
    with pytest.raises(ValueError, match="holds a quantiser of kind 'rkmeans', expected 'rqvae'"):
        RQVAE.load(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="damaged"):
        load_quantizer(path)
    save_file({"x": np.zeros(1)}, str(path))
    with pytest.raises(ValueError, match="no quantiser of genrec"):
        load_quantizer(path)
    save_file({"x": np.zeros(1)}, str(path), metadata={"genrec": json.dumps({"kind": "pq"})})
    with pytest.raises(ValueError, match=r"'pq'; expected one of \['rqvae', 'rkmeans'"):
        load_quantizer(path)


def test_trie_and_tokens_import_no_heavy_library():
    code = (
        "import sys; from genrec.sid import SIDTrie, format_sid, resolve_collisions;"
        "print(sorted({'torch', 'faiss', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_unknown_names_of_the_package_are_attribute_errors():
    import genrec.sid

    assert all(getattr(genrec.sid, name) for name in genrec.sid.__all__)
    with pytest.raises(AttributeError, match="SidTrie"):
        genrec.sid.SidTrie  # noqa: B018
