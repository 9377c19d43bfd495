"""ItemKNN: the neighbours of a history's items by cosine, kept sparse (Deshpande & Karypis 2004)."""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt
from scipy import sparse

from genrec.progress import Progress, silent
from genrec.ranking import best_of_rows
from genrec.retrieve.linear import ItemToItem, SparseSimilarity, binary
from genrec.retrieve.sequences import Sequences, chunks, flatten, popularity
from genrec.retrieve.settings import ItemKNNSettings


class ItemKNN(SparseSimilarity, ItemToItem[ItemKNNSettings]):
    """Scores item j for a history by the sum of similarity(i, j) over its items i.

    similarity(i, j) = users with both / (sqrt(users of i * users of j) + shrink), kept for the
    `neighbours` most similar items j of each i, equal ones by item number.

    Attributes:
        similarity_: sparse float32 [N, N], zero diagonal; set by `fit`.
    """

    def fit(self, sequences: Sequences, *, num_items: int, progress: Progress = silent) -> Self:
        """Counts shared users, a block of items at a time; see `Retriever.fit`."""
        flat = flatten(sequences, num_items=num_items)
        matrix = binary(flat, num_items=num_items)
        users = matrix.sum(axis=0)
        by_item = sparse.csr_array(matrix.T)
        blocks = [sparse.csr_array((0, num_items), dtype=np.float32)]
        for part in chunks(num_items, num_items):
            block = by_item[part] @ matrix  # [block, N], users with both
            block.sort_indices()  # equal similarities by item number
            shared = block.tocoo()
            item = shared.row + part.start
            other = item != shared.col
            item, neighbour = item[other], shared.col[other]
            norm = np.sqrt(users[item] * users[neighbour]) + self.settings.shrink
            similarity = (shared.data[other] / norm).astype(np.float32)
            best, _ = best_of_rows(item, similarity, self.settings.neighbours)
            entries = (similarity[best], (item[best] - part.start, neighbour[best]))
            blocks.append(sparse.csr_array(entries, shape=shared.shape))
            progress("itemknn: fit", part.stop, num_items)
        self.similarity_ = sparse.csr_array(sparse.vstack(blocks))
        self.popularity_ = popularity(flat, num_items=num_items)
        self.num_items_ = num_items
        return self

    def _scores(self, rows: sparse.csr_array) -> npt.NDArray[np.float32]:
        scores: npt.NDArray[np.float32] = (rows @ self.similarity_).toarray()
        return scores
