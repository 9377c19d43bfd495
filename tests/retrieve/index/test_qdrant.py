"""The Qdrant adapter against Qdrant itself, in its local mode."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genrec.retrieve.index.items import ItemIndex
from genrec.retrieve.index.qdrant import QdrantItems

qdrant_client = pytest.importorskip("qdrant_client")
D = 6


@pytest.fixture
def client() -> Iterator[Any]:
    client = qdrant_client.QdrantClient(":memory:")
    yield client
    client.close()


def some(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.uniform(0.1, 5, size=(n, 1)) * rng.normal(size=(n, D))).astype(np.float32)


def test_finds_what_the_flat_index_finds(client: Any) -> None:
    vectors, queries, ids = some(40), some(7, seed=1), np.arange(40) * 3
    items = QdrantItems(client, "items", dim=D, batch_size=4)  # several requests
    items.upload(vectors, ids)
    flat = ItemIndex(D)
    flat.add(vectors, ids)
    found, exact = items.search(queries, k=10), flat.search(queries, k=10)
    assert len(items) == 40
    assert (found.items == exact.items).all()
    assert found.items.dtype == np.int64
    assert np.allclose(found.scores, exact.scores, rtol=1e-4, atol=1e-4)


def test_upload_replaces_and_remove_removes(client: Any) -> None:
    items = QdrantItems(client, "items", dim=D)
    items.upload(some(5), np.arange(5))
    longest = 100 * np.ones((1, D), dtype=np.float32)
    items.upload(longest, [3])
    assert len(items) == 5
    assert items.search(longest, k=1).items[0, 0] == 3
    items.remove([])
    items.remove([3, 77])
    found = items.search(longest, k=6)
    assert set(found.items[0, :4]) == {0, 1, 2, 4}
    assert (found.items[0, 4:] == -1).all()
    assert (found.scores[0, 4:] == -np.inf).all()


def test_payloads_filter(client: Any) -> None:
    items = QdrantItems(client, "items", dim=D)
    brands = ["a", "b"] * 5
    items.upload(some(10), np.arange(10), payloads=[{"brand": b} for b in brands])
    where = qdrant_client.models.Filter(
        must=[
            qdrant_client.models.FieldCondition(
                key="brand", match=qdrant_client.models.MatchValue(value="b")
            )
        ]
    )
    found = items.search(some(2, seed=1), k=10, where=where)
    assert set(found.items[:, :5].ravel()) == {1, 3, 5, 7, 9}


def test_a_collection_on_disk_is_opened_again(tmp_path: Path) -> None:
    for turn in range(2):
        client = qdrant_client.QdrantClient(path=str(tmp_path))
        items = QdrantItems(client, "items", dim=D)
        if turn == 0:
            items.upload(some(3), np.arange(3))
        assert len(items) == 3
        client.close()


def test_another_width_or_distance_is_refused(client: Any) -> None:
    models = qdrant_client.models
    QdrantItems(client, "items", dim=D)
    with pytest.raises(ValueError, match="width 6 and distance Dot; expected 4"):
        QdrantItems(client, "items", dim=4)
    cosine = models.VectorParams(size=D, distance=models.Distance.COSINE)
    client.create_collection("cosine", vectors_config=cosine)
    with pytest.raises(ValueError, match="distance Cosine"):
        QdrantItems(client, "cosine", dim=D)
    client.create_collection("named", vectors_config={"text": cosine})
    with pytest.raises(ValueError, match="named vectors"):
        QdrantItems(client, "named", dim=D)


def test_bad_input(client: Any) -> None:
    items = QdrantItems(client, "items", dim=D)
    for use, message in (
        (lambda: items.upload(np.ones((2, 3)), [0, 1]), "expected"),
        (lambda: items.upload(np.full((1, D), np.nan), [0]), "row 0: NaN"),
        (lambda: items.upload(np.ones((2, D)), [0]), "as many each"),
        (lambda: items.upload(np.ones((1, D)), [-1]), "from 0"),
        (lambda: items.search(np.ones((1, D)), k=0), "k is 0"),
        (lambda: QdrantItems(client, "items", dim=D, batch_size=-1), "batch_size is -1"),
    ):
        with pytest.raises(ValueError, match=message):
            use()
    assert items.search(np.ones((0, D)), k=2).items.shape == (0, 2)
