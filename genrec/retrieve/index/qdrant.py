"""Item vectors in Qdrant, searched by inner product so that magnitudes survive (`Distance.DOT`).

Needs the extra `retrieve`. Works with a server as with the client's own local mode.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from genrec.extras import install
from genrec.ranking import RankedLists
from genrec.retrieve.index.vectors import check_rows

if TYPE_CHECKING:
    from qdrant_client import QdrantClient


class QdrantItems:
    """One collection of item vectors.

    Args:
        client: `QdrantClient("http://localhost:6333")`, `QdrantClient(path=...)` or
            `QdrantClient(":memory:")`.
        collection: its name; made by `upload` if it is not there.
        dim: width d of the vectors.
        batch_size: points or queries per request.

    Raises:
        ImportError: qdrant-client is not installed.
        ValueError: the collection is there with another width or another distance, or batch_size is
            below 1.
    """

    def __init__(
        self, client: QdrantClient, collection: str, *, dim: int, batch_size: int = 256
    ) -> None:
        try:
            from qdrant_client import models
        except ImportError as error:
            raise ImportError(f"qdrant-client is missing: {install('retrieve')}") from error
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected 1 or more")
        self._models = models
        self.client, self.collection = client, collection
        self.dim, self.batch_size = dim, batch_size
        if client.collection_exists(collection):
            self._check_collection()
        else:
            client.create_collection(
                collection,
                vectors_config=models.VectorParams(size=dim, distance=models.Distance.DOT),
            )

    def __len__(self) -> int:
        return int(self.client.count(self.collection, exact=True).count)

    def upload(
        self,
        vectors: npt.ArrayLike,
        ids: npt.ArrayLike,
        *,
        payloads: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """Adds vectors, or puts them in place of those with the same ids.

        Args:
            vectors: float [n, d], as scored (`item_vectors()`).
            ids: int [n], from 0.
            payloads: what else to keep of each, JSON values, such as {"item_id": ...}.

        Raises:
            ValueError: the shapes do not fit, NaN or infinity, or an id below 0.
        """
        rows, keys = check_rows(vectors, dim=self.dim, name="vectors"), np.asarray(ids)
        kept = [{}] * len(rows) if payloads is None else payloads
        if keys.shape != (len(rows),) or len(kept) != len(rows):
            raise ValueError(
                f"vectors {rows.shape}, ids {keys.shape}, {len(kept)} payloads: expected as many each"
            )
        if len(keys) and (keys.dtype.kind not in "iu" or keys.min() < 0):
            raise ValueError(
                f"ids are {keys.dtype}; expected integers from 0, as Qdrant takes them"
            )
        for part in self._parts(len(rows)):
            points = self._models.Batch(
                ids=keys[part].tolist(),
                vectors=rows[part].tolist(),
                payloads=[dict(payload) for payload in kept[part]],
            )
            self.client.upsert(self.collection, points, wait=True)

    def remove(self, ids: npt.ArrayLike) -> None:
        """Removes vectors; ids that are not there are passed over, as Qdrant does."""
        if gone := np.asarray(ids).tolist():  # Qdrant refuses to remove nothing
            self.client.delete(self.collection, gone, wait=True)

    def search(
        self, queries: npt.ArrayLike, *, k: int, where: Any = None, exact: bool = False
    ) -> RankedLists:
        """Finds the k items with the largest inner products.

        Args:
            queries: float [n, d].
            k: length of each list.
            where: a `qdrant_client.models.Filter` on payloads.
            exact: compare with every vector instead of walking the server's graph (local mode is
                always exact).

        Returns:
            int64 ids and float32 inner products, [n, k]; -1 and -inf where fewer were found.

        Raises:
            ValueError: k below 1, another width, NaN or infinity.
        """
        rows = check_rows(queries, dim=self.dim, name="queries")
        if k < 1:
            raise ValueError(f"k is {k}; expected 1 or more")
        lists = RankedLists.empty(len(rows), k, ids=np.int64)
        # Only where wanted: local mode warns of parameters that it has no use for.
        how = self._models.SearchParams(exact=True) if exact else None
        for part in self._parts(len(rows)):
            requests = [
                self._models.QueryRequest(query=row, limit=k, filter=where, params=how)
                for row in rows[part].tolist()
            ]
            answers = self.client.query_batch_points(self.collection, requests)
            for row, answer in enumerate(answers, start=part.start):
                points = answer.points
                lists.items[row, : len(points)] = [point.id for point in points]
                lists.scores[row, : len(points)] = [point.score for point in points]
        return lists

    def _parts(self, count: int) -> Iterable[slice]:
        for start in range(0, count, self.batch_size):
            yield slice(start, min(start + self.batch_size, count))

    def _check_collection(self) -> None:
        there = self.client.get_collection(self.collection).config.params.vectors
        dot = self._models.Distance.DOT
        if not isinstance(there, self._models.VectorParams):
            raise ValueError(
                f"collection '{self.collection}' has named vectors; expected one, unnamed"
            )
        if (there.size, there.distance) != (self.dim, dot):
            raise ValueError(
                f"collection '{self.collection}' has width {there.size} and distance "
                f"{there.distance}; expected {self.dim} and {dot}: take another name, or delete it"
            )
