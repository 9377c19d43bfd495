"""Nearest items by inner product, exact or approximate, with faiss.

Always the inner product, so that magnitudes survive; the metric `cosine` normalises at add and at
search, which makes the inner product the cosine. Approximate indexes say what they miss:
`recall_against_flat`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

import faiss
import numpy as np
import numpy.typing as npt

from genrec.ranking import RankedLists
from genrec.retrieve.index.settings import IndexSettings
from genrec.retrieve.index.vectors import Floats, check_rows

Ids = npt.NDArray[np.int64]
_FAISS: Any = faiss  # its stubs miss some of what it has

_MAX_REMOVED = 0.2  # share of an HNSW index that may be tombstones before it is built anew


class ItemIndex:
    """An index of item vectors with int64 ids.

    `flat` compares with every vector: exact. `hnsw` walks a graph, approximate; vectors are kept whole.
    Its graph is made for distances and grows hubs where norms vary much, so look at its recall.
    `ivfpq` keeps a few bytes per vector and learns how on the first `add`. Lists of an approximate
    index may be shorter than k.

    Removing: flat and ivfpq drop the vectors at once. HNSW cannot; there they become tombstones, which
    searches leave out, and the graph is built anew once they are over a fifth of it, or when a removed
    id is added again. A changed item is removed, then added.

    Args:
        dim: width d of the vectors.
        settings: kind, metric and the sizes; None takes the defaults.
        options: single settings instead, or changes to them: `ItemIndex(64, kind="hnsw", M=16)`.

    Raises:
        ValueError: an unknown option, or a value outside what it may be.
    """

    def __init__(self, dim: int, settings: IndexSettings | None = None, **options: Any) -> None:
        if dim < 1:
            raise ValueError(f"dim is {dim}; expected 1 or more")
        settings = IndexSettings.from_options(settings, **options)
        pieces = settings.subvectors
        pieces = pieces or next(m for m in range(max(1, dim // 4), 0, -1) if dim % m == 0)
        if dim % pieces:
            raise ValueError(f"subvectors is {pieces}; expected a divisor of the width {dim}")
        self.dim = dim
        self.subvectors = pieces
        self.settings = settings.model_copy(update={"subvectors": pieces})
        self._ids: dict[int, None] = {}  # in the order they were added
        self._removed: set[int] = set()  # HNSW's tombstones
        self._index: Any = self._empty() if settings.kind != "ivfpq" else None

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def ids(self) -> Ids:
        """The ids in the index, in the order they were added; int64 [n]."""
        return np.fromiter(self._ids, dtype=np.int64, count=len(self._ids))

    def add(self, vectors: npt.ArrayLike, ids: npt.ArrayLike) -> None:
        """Adds vectors.

        Args:
            vectors: float [n, d].
            ids: int [n], from 0.

        Raises:
            ValueError: another width, NaN or infinity, ids that repeat or are in already, or too few
                vectors for an ivfpq index to learn from.
        """
        rows, keys = self._checked(vectors, "vectors"), _keys(ids)
        if len(keys) != len(rows):
            raise ValueError(f"{len(keys)} ids of {len(rows)} vectors; expected as many each")
        if len(np.unique(keys)) < len(keys) or (keys < 0).any():
            raise ValueError("ids repeat or lie below 0; expected each once, from 0")
        if known := [i for i in keys.tolist() if i in self._ids]:
            raise ValueError(
                f"id {known[0]} is in the index already ({len(known)} in all); remove it first"
            )
        if not len(rows):
            return
        if self._removed.intersection(keys.tolist()):
            self._rebuild()  # one id must not mean a tombstone and a vector
        if self._index is None:
            self._index = self._trained(rows)
        self._index.add_with_ids(rows, keys)
        self._ids.update(dict.fromkeys(keys.tolist()))

    def remove(self, ids: npt.ArrayLike) -> None:
        """Removes vectors; see the class for what that means with HNSW.

        Raises:
            KeyError: an id is not in the index; nothing is removed then.
            ValueError: the ids are no integers.
        """
        keys = np.unique(self._known(ids))
        for i in keys.tolist():
            del self._ids[i]
        if not len(keys):
            return
        if self.settings.kind != "hnsw":
            self._index.remove_ids(keys)
            return
        self._removed.update(keys.tolist())
        if len(self._removed) > _MAX_REMOVED * self._index.ntotal:
            self._rebuild()

    def search(self, queries: npt.ArrayLike, *, k: int) -> RankedLists:
        """Finds the k items with the largest inner products.

        Args:
            queries: float [n, d].
            k: length of each list; places beyond what there is are -1.

        Returns:
            int64 ids and float32 inner products (cosines), [n, k].

        Raises:
            ValueError: k below 1, another width, NaN or infinity.
        """
        rows = self._checked(queries, "queries")
        if k < 1:
            raise ValueError(f"k is {k}; expected 1 or more")
        lists = RankedLists.empty(len(rows), k, ids=np.int64)
        width = min(k, len(self))
        if width and len(rows):
            scores, ids = self._index.search(rows, width, params=self._how(width))
            lists.items[:, :width] = ids
            lists.scores[:, :width] = np.where(ids < 0, -np.inf, scores)
        return lists

    def vectors(self, ids: npt.ArrayLike) -> Floats:
        """Returns vectors as they lie in the index (normalised with cosine); float32 [n, d].

        Raises:
            KeyError: an id is not in the index.
            ValueError: the kind is ivfpq, which keeps codes only, or the ids are no integers.
        """
        if self.settings.kind == "ivfpq":
            raise ValueError(
                "an ivfpq index keeps codes, not vectors; keep the vectors elsewhere too"
            )
        keys = self._known(ids)
        if not len(keys):
            return np.zeros((0, self.dim), dtype=np.float32)
        rows: Floats = self._index.reconstruct_batch(keys)
        return rows

    def recall_against_flat(
        self, queries: npt.ArrayLike, *, k: int, vectors: npt.ArrayLike | None = None
    ) -> float:
        """Returns which share of the exact top k this index finds, mean over queries.

        Args:
            queries: float [n, d].
            k: length of the lists, or the size of the index if that is less.
            vectors: float [len(self), d], in the order of `ids`; ivfpq needs them, the other kinds
                have them.

        Raises:
            ValueError: nothing to search, or ivfpq without vectors.
        """
        if not len(self):
            raise ValueError("the index is empty; add vectors first")
        rows = self.vectors(self.ids) if vectors is None else vectors
        flat = ItemIndex(self.dim, metric=self.settings.metric)
        flat.add(rows, self.ids)
        k = min(k, len(self))
        exact, ours = flat.search(queries, k=k).items, self.search(queries, k=k).items
        if not len(exact):
            raise ValueError("no queries to measure recall with")
        hits = [len(np.intersect1d(a, b)) for a, b in zip(exact, ours, strict=True)]
        return float(np.mean(hits) / k)

    def save(self, folder: str | Path) -> None:
        """Writes index.faiss and index.json (settings, count, ids, removed ids) under `folder`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        head = {**self.settings.model_dump(), "dim": self.dim, "count": len(self)}
        head |= {"ids": list(self._ids), "removed": sorted(self._removed)}
        (folder / "index.json").write_text(json.dumps(head, sort_keys=True) + "\n", "utf-8")
        body = folder / "index.faiss"
        if self._index is None:
            body.unlink(missing_ok=True)  # that of another index
        else:
            faiss.write_index(self._index, str(body))

    @classmethod
    def load(cls, folder: str | Path, *, dim: int | None = None) -> Self:
        """Reads what `save` wrote.

        Args:
            folder: where from.
            dim: the width that the caller's vectors have; None takes what is there.

        Raises:
            FileNotFoundError: there is no saved index.
            ValueError: it is damaged, or of another width.
        """
        head = _file(folder, "index.json")
        try:
            saved: dict[str, Any] = json.loads(head.read_text("utf-8"))
            width, ids, removed = saved.pop("dim"), saved.pop("ids"), saved.pop("removed")
            count = saved.pop("count")
            self = cls(width, **saved)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{head}: damaged ({error!r}); build and save again") from error
        if dim is not None and dim != width:
            raise ValueError(
                f"{head}: holds vectors of width {width}, expected {dim}; it was made by another "
                "model or setting: build it again"
            )
        self._ids, self._removed = dict.fromkeys(ids), set(removed)
        learned = self.settings.kind != "ivfpq" or ids or (head.parent / "index.faiss").is_file()
        if learned:
            self._read_body(_file(folder, "index.faiss"), count)
        return self

    def _read_body(self, body: Path, count: int) -> None:
        try:
            self._index = faiss.read_index(str(body))
        except RuntimeError as error:
            raise ValueError(f"{body}: damaged ({error}); build and save again") from error
        total = len(self._ids) + len(self._removed)
        if (self._index.d, self._index.ntotal, len(self._ids)) != (self.dim, total, count):
            raise ValueError(
                f"{body}: {self._index.ntotal} vectors of width {self._index.d}, while index.json "
                f"says {total} of width {self.dim}; build and save again"
            )

    def _checked(self, vectors: npt.ArrayLike, name: str) -> Floats:
        rows = check_rows(vectors, dim=self.dim, name=name)
        if self.settings.metric == "cosine":
            rows = rows.copy()
            faiss.normalize_L2(rows)
        return rows

    def _known(self, ids: npt.ArrayLike) -> Ids:
        keys = _keys(ids)
        if missing := [i for i in keys.tolist() if i not in self._ids]:
            raise KeyError(f"id {missing[0]} is not in the index ({len(missing)} such)")
        return keys

    def _empty(self) -> Any:
        if self.settings.kind == "flat":
            return faiss.IndexIDMap2(faiss.IndexFlatIP(self.dim))
        graph = faiss.IndexHNSWFlat(self.dim, self.settings.M, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = 5 * self.settings.efSearch
        return faiss.IndexIDMap2(graph)

    def _trained(self, rows: Floats) -> Any:
        settings = self.settings
        cells = settings.nlist or max(1, min(int(4 * len(rows) ** 0.5), len(rows) // 39))
        needed = max(cells, 2**settings.bits)
        if len(rows) < needed:
            raise ValueError(
                f"an ivfpq index learns from its first vectors and needs {needed} "
                f"(bits={settings.bits}, nlist={cells}), got {len(rows)}; take flat for so few"
            )
        shape = (self.dim, cells, self.subvectors, settings.bits)
        cell_index = faiss.IndexFlatIP(self.dim)
        index = faiss.IndexIVFPQ(cell_index, *shape, faiss.METRIC_INNER_PRODUCT)
        for training in (index.cp, index.pq.cp):
            training.min_points_per_centroid = 1  # no warnings on stderr: recall is measured
        index.train(rows)
        index.nprobe = min(cells, settings.nprobe or -(-cells // 8))
        return index

    def _how(self, width: int) -> Any:
        """Search parameters: HNSW leaves tombstones out, and looks further because of them."""
        if self.settings.kind != "hnsw":
            return None
        breadth = max(self.settings.efSearch, width) + min(len(self._removed), 1024)
        if not self._removed:
            return _FAISS.SearchParametersHNSW(efSearch=breadth)
        dead = np.fromiter(self._removed, dtype=np.int64)
        chosen = faiss.IDSelectorNot(faiss.IDSelectorBatch(dead))
        return _FAISS.SearchParametersHNSW(efSearch=breadth, sel=chosen)

    def _rebuild(self) -> None:
        keys = self.ids
        rows = self.vectors(keys)
        self._removed, self._index = set(), self._empty()
        if len(keys):
            self._index.add_with_ids(rows, keys)


def _keys(ids: npt.ArrayLike) -> Ids:
    """Ids as int64 [n]; numpy would cut 5.7 to 5."""
    keys = np.asarray(ids)
    if keys.ndim != 1 or (len(keys) and keys.dtype.kind not in "iu"):
        raise ValueError(f"ids are {keys.dtype} {keys.shape}; expected integers (n,)")
    return keys.astype(np.int64)


def _file(folder: str | Path, name: str) -> Path:
    path = Path(folder) / name
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a folder written by save()")
    return path
