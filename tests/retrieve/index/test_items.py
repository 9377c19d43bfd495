"""Every kind of index against numpy, through adding, removing, the disk, and bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings, strategies as st

from genrec.retrieve.index.items import ItemIndex
from genrec.retrieve.index.vectors import export_vectors

D = 8
Kind = str
KINDS = ("flat", "hnsw", "ivfpq")
SMALL: dict[str, dict[str, Any]] = {
    "flat": {},
    "hnsw": {},
    "ivfpq": {"bits": 4, "subvectors": 8, "nprobe": 4},
}


def some(n: int, seed: int = 0) -> np.ndarray:
    """Vectors whose norms differ by a factor of ten."""
    rng = np.random.default_rng(seed)
    sizes = np.exp(rng.uniform(0, np.log(10), size=(n, 1)))
    return (sizes * rng.normal(size=(n, D))).astype(np.float32)


def make(kind: Kind, n: int = 300, **more: Any) -> tuple[ItemIndex, np.ndarray, np.ndarray]:
    index = ItemIndex(D, kind=kind, **(SMALL[kind] | more))
    vectors, ids = some(n), np.arange(n) * 10 + 5
    index.add(vectors, ids)
    return index, vectors, ids


def brute(vectors: np.ndarray, ids: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    return ids[np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :k]]


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 30), st.integers(1, 35), st.integers(0, 99), st.sampled_from(["dot", "cosine"])
)
def test_flat_is_exact(n: int, k: int, seed: int, metric: Any) -> None:
    vectors, queries, ids = some(n, seed), some(4, seed + 1), np.arange(n) + 2**40
    index = ItemIndex(D, metric=metric)
    index.add(vectors, ids)
    found = index.search(queries, k=k)
    if metric == "cosine":
        vectors, queries = (
            v / np.linalg.norm(v, axis=1, keepdims=True) for v in (vectors, queries)
        )
    assert found.items.dtype == np.int64
    assert (found.items[:, :n] == brute(vectors, ids, queries, k)).all()
    exact = np.sort(queries @ vectors.T, axis=1)[:, ::-1]
    assert np.allclose(found.scores[:, :n], exact[:, :k], rtol=1e-4, atol=1e-4)
    assert (found.items[:, n:] == -1).all()
    assert (found.scores[:, n:] == -np.inf).all()


def test_magnitudes_survive() -> None:
    vectors = np.zeros((2, D), dtype=np.float32)
    vectors[0, 0], vectors[1, :2] = 1.0, 3.0  # the second is longer, the first points nearer
    query = np.eye(1, D, dtype=np.float32)
    best = {}
    for metric in ("dot", "cosine"):
        index = ItemIndex(D, metric=metric)  # type: ignore[arg-type]
        index.add(vectors, [0, 1])
        best[metric] = index.search(query, k=1).items[0, 0]
    assert best == {"dot": 1, "cosine": 0}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", ["dot", "cosine"])
def test_recall_against_flat_is_the_share_found(kind: Kind, metric: Any) -> None:
    index, vectors, ids = make(kind, metric=metric)
    queries = some(20, seed=9)
    recall = index.recall_against_flat(queries, k=10, vectors=vectors)
    scaled = vectors
    if metric == "cosine":
        scaled = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    exact, found = brute(scaled, ids, queries, 10), index.search(queries, k=10).items
    shares = [len(set(a) & set(b)) / 10 for a, b in zip(exact, found, strict=True)]
    assert recall == pytest.approx(np.mean(shares))
    assert recall > {"flat": 0.999, "hnsw": 0.9, "ivfpq": 0.5}[kind]
    if kind != "ivfpq":
        assert index.recall_against_flat(queries, k=10) == pytest.approx(recall)
    else:
        with pytest.raises(ValueError, match="keeps codes"):
            index.recall_against_flat(queries, k=10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [20, 200])  # below and above the share that builds HNSW anew
def test_removed_items_are_gone_and_can_come_back(kind: Kind, count: int) -> None:
    index, vectors, ids = make(kind)
    queries = some(30, seed=3)
    gone = brute(vectors, ids, queries, 10).ravel()
    gone = np.unique(gone)[:count] if count == 20 else ids[:count]
    index.remove(gone)
    assert len(index) == 300 - len(gone)
    assert set(index.ids) == set(ids) - set(gone)
    found = index.search(queries, k=10)
    assert not np.isin(found.items, gone).any()
    left = ~np.isin(ids, gone)
    exact = brute(vectors[left], ids[left], queries, 10)
    overlap = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, found.items, strict=True)])
    assert overlap > {"flat": 0.999, "hnsw": 0.9, "ivfpq": 0.5}[kind]
    # The same id with another vector: the longest there is (codes know no such length).
    query = np.eye(1, D, dtype=np.float32)
    index.add(1000 * query, gone[:1])
    again = index.search(query, k=40).items[0]
    assert again[0] == gone[0] or (kind == "ivfpq" and gone[0] in again)
    assert len(np.unique(again)) == (
        40 if kind != "ivfpq" else (again >= 0).sum() + (again < 0).any()
    )


@pytest.mark.parametrize("metric", ["dot", "cosine"])
@pytest.mark.parametrize("kind", ["flat", "hnsw"])
@pytest.mark.parametrize("seed", range(5))
def test_adding_removing_and_the_disk_in_any_order(
    kind: Kind, metric: Any, seed: int, tmp_path: Path
) -> None:
    """Against a dictionary: what is held, and the scores and order of what is found."""
    rng, held = np.random.default_rng(seed), dict[int, np.ndarray]()
    index = ItemIndex(D, kind=kind, metric=metric)
    for _ in range(25):
        what = rng.integers(3)
        if what == 0:
            ids = rng.permutation([i for i in range(60) if i not in held])[: rng.integers(12)]
            vectors = some(len(ids), seed=int(rng.integers(99)))
            index.add(vectors, ids.astype(int))
            held |= dict(zip(ids.tolist(), vectors, strict=True))
        elif what == 1:
            gone = rng.permutation(list(held))[: rng.integers(len(held) + 1)].astype(int)
            index.remove(gone)
            held = {i: v for i, v in held.items() if i not in gone}
        else:
            index.save(tmp_path)
            index = ItemIndex.load(tmp_path)
        assert set(index.ids.tolist()) == set(held)
        query, k = some(1, seed=int(rng.integers(99))), int(rng.integers(1, 70))
        found = index.search(query, k=k)
        ids = found.items[0][found.items[0] >= 0].tolist()
        if metric == "cosine":
            query = query / np.linalg.norm(query)
        lengths = {i: np.linalg.norm(v) if metric == "cosine" else 1 for i, v in held.items()}
        score = {i: float(query[0] @ v) / lengths[i] for i, v in held.items()}
        best = sorted(held, key=lambda i: -score[i])[:k]
        np.testing.assert_allclose(
            found.scores[0][: len(ids)], [score[i] for i in ids], rtol=1e-4, atol=1e-4
        )
        assert ids == best if kind == "flat" else len({*ids} & {*best}) >= 0.8 * len(best)


@pytest.mark.parametrize("kind", KINDS)
def test_adding_in_steps(kind: Kind) -> None:
    whole, vectors, ids = make(kind)
    steps = ItemIndex(D, kind=kind, **SMALL[kind])
    steps.add(vectors[:200], ids[:200])
    steps.add(vectors[200:], ids[200:])
    steps.add(vectors[:0], ids[:0])
    assert (steps.ids == ids).all()
    queries = some(10, seed=4)
    if kind == "flat":
        assert (steps.search(queries, k=5).items == whole.search(queries, k=5).items).all()
    else:
        assert steps.recall_against_flat(queries, k=5, vectors=vectors) > 0.3
    assert (steps.search(queries, k=20).items >= ids[200]).any()


@pytest.mark.parametrize("kind", KINDS)
def test_save_and_load(kind: Kind, tmp_path: Path) -> None:
    index, _, ids = make(kind, metric="cosine")
    index.remove(ids[:7])
    index.save(tmp_path)
    again = ItemIndex.load(tmp_path, dim=D)
    queries = some(10, seed=5)
    for k in (5, 400):
        before, after = index.search(queries, k=k), again.search(queries, k=k)
        assert (before.items == after.items).all()
        assert (before.scores == after.scores).all()
    assert (again.ids == ids[7:]).all()
    assert again.settings.metric == "cosine"
    again.add(some(1), [ids[0]])  # once a tombstone
    assert ids[0] in again.search(some(1), k=5).items
    head = json.loads((tmp_path / "index.json").read_text())
    assert (head["dim"], head["kind"], head["count"]) == (D, kind, 293)
    with pytest.raises(ValueError, match="holds vectors of width 8, expected 16"):
        ItemIndex.load(tmp_path, dim=16)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_index_works(kind: Kind, tmp_path: Path) -> None:
    index = ItemIndex(D, kind=kind)
    assert (index.search(some(2), k=3).items == -1).all()
    index.save(tmp_path)
    again = ItemIndex.load(tmp_path)
    assert len(again) == 0
    again.add(some(300), np.arange(300))
    assert len(again) == 300
    with pytest.raises(ValueError, match="empty"):
        index.recall_against_flat(some(1), k=1)


def test_what_was_saved_before_does_not_stay(tmp_path: Path) -> None:
    """An ivfpq index that has not learned has no body; that of another index must not stand in."""
    make("flat", n=10)[0].save(tmp_path)
    ItemIndex(D, kind="ivfpq").save(tmp_path)
    assert len(ItemIndex.load(tmp_path)) == 0


def test_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="written by save"):
        ItemIndex.load(tmp_path)
    index, _, _ = make("flat", n=10)
    index.save(tmp_path)
    head = json.loads((tmp_path / "index.json").read_text())
    for change in ({"dim": 4}, {"count": 3}, {"ids": [1, 2]}):
        (tmp_path / "index.json").write_text(json.dumps(head | change))
        with pytest.raises(ValueError, match="build and save again"):
            ItemIndex.load(tmp_path)
    (tmp_path / "index.json").write_text("{}")
    with pytest.raises(ValueError, match="damaged"):
        ItemIndex.load(tmp_path)
    (tmp_path / "index.json").write_text(json.dumps(head))
    (tmp_path / "index.faiss").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="damaged"):
        ItemIndex.load(tmp_path)
    (tmp_path / "index.faiss").unlink()
    with pytest.raises(FileNotFoundError, match=r"index\.faiss"):
        ItemIndex.load(tmp_path)


def test_bad_input() -> None:
    index, vectors, ids = make("flat", n=10)
    bad = vectors.copy()
    bad[3, 1] = np.nan
    for use, message in (
        (lambda: index.add(vectors[:, :4], ids), r"\(10, 4\); expected \(n, 8\)"),
        (lambda: index.add(bad, ids + 1), "row 3: NaN"),
        (lambda: index.add(vectors, ids), "in the index already"),
        (lambda: index.add(vectors[:2], [1, 1]), "repeat"),
        (lambda: index.add(vectors[:1], [-1]), "below 0"),
        (lambda: index.add(vectors[:1], [0.5]), "integers"),
        (lambda: index.add(vectors[:2], [1]), "1 ids of 2 vectors"),
        (lambda: index.search(vectors[:, :3], k=1), "expected"),
        (lambda: index.search(bad, k=1), "NaN"),
        (lambda: index.search(vectors, k=0), "k is 0"),
        (lambda: ItemIndex(D, kind="tree"), "kind is 'tree'"),
        (lambda: ItemIndex(0), "dim is 0"),
        (lambda: ItemIndex(D, subvectors=3), "divisor"),
        (lambda: ItemIndex(D, subvectors=-2), "subvectors is -2"),
        (lambda: ItemIndex(D, nlist=0), "nlist is 0"),
        (lambda: ItemIndex(D, nprobe=-1), "nprobe is -1"),
        (lambda: ItemIndex(D, kind="hnsw", M=1), "M is 1.*equal to 2"),  # faiss crashes
        (lambda: index.remove([5.7]), "integers"),  # not id 5
        (lambda: index.vectors([5.7]), "integers"),
        (lambda: index.remove(5), "integers"),
        (lambda: ItemIndex(D, kind="ivfpq").add(vectors, ids), "needs 256"),
    ):
        with pytest.raises(ValueError, match=message):
            use()
    with pytest.raises(KeyError, match="id 4 is not"):
        index.remove([5, 4])
    assert len(index) == 10  # nothing removed
    with pytest.raises(KeyError, match="id 4 is not"):
        index.vectors([4])


def test_the_callers_vectors_stay_as_they_are() -> None:
    vectors, queries = some(5), some(2, seed=1)
    kept = vectors.copy(), queries.copy()
    index = ItemIndex(D, metric="cosine")
    index.add(vectors, np.arange(5))
    index.search(queries, k=2)
    assert (vectors == kept[0]).all()
    assert (queries == kept[1]).all()
    assert np.allclose(np.linalg.norm(index.vectors([0, 4]), axis=1), 1)


def test_export_reads_back(tmp_path: Path) -> None:
    vectors, names = some(4), ["B01", "å/b", 'q"', "line\nbreak"]
    export_vectors(tmp_path, vectors, names)
    table = pl.read_parquet(tmp_path / "vectors.parquet")
    assert table.schema == {
        "item": pl.Int64(),
        "item_id": pl.String(),
        "vector": pl.Array(pl.Float32, D),
    }
    assert (table["vector"].to_numpy() == vectors).all()
    assert table["item_id"].to_list() == names
    assert (np.load(tmp_path / "vectors.npy", allow_pickle=False) == vectors).all()
    assert json.loads((tmp_path / "item_ids.json").read_text("utf-8")) == names
    with pytest.raises(ValueError, match="one id of its own"):
        export_vectors(tmp_path, vectors, ["a", "a", "b", "c"])
    vectors[2, 1] = np.nan
    with pytest.raises(ValueError, match="row 2: NaN"):
        export_vectors(tmp_path, vectors, names)


def test_former_names_of_settings_warn() -> None:
    with pytest.warns(DeprecationWarning, match="'effort' is now called 'efSearch'"):
        assert ItemIndex(D, kind="hnsw", effort=9).settings.efSearch == 9
