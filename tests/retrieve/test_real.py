"""The measured floor on real data, Amazon Scientific: full ranking, leave-last-out.

The published floor keeps seen items in the lists. Its co-occurrence numbers (0.0926, 0.0624) lie between
the best and the worst order of equal scores, 0.0923..0.0927 and 0.0622..0.0628; ours breaks ties by
popularity.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from genrec.retrieve import Cooccurrence, Popular, Retriever

pytestmark = pytest.mark.e2e

DATA = Path(os.environ.get("GENREC_DATA", Path(__file__).parents[3] / "shared" / "data"))
SCIENTIFIC = DATA / "scientific" / "Scientific.inter.json"


@pytest.fixture(scope="module")
def sequences() -> list[np.ndarray]:
    if not SCIENTIFIC.is_file():
        pytest.skip(f"no real data at {SCIENTIFIC}; set GENREC_DATA to its folder")
    return [np.array(s) for s in json.loads(SCIENTIFIC.read_text()).values()]


@pytest.mark.parametrize(
    ("retriever", "exclude_seen", "recall", "ndcg"),
    [
        (Popular(), False, 0.0231, 0.0162),
        (Popular(), True, 0.0245, 0.0167),
        (Cooccurrence(), False, 0.0925, 0.0627),
        (Cooccurrence(), True, 0.1033, 0.0757),
    ],
)
def test_reproduces_the_published_floor(
    sequences: list[np.ndarray],
    retriever: Retriever,
    exclude_seen: bool,
    recall: float,
    ndcg: float,
) -> None:
    num_items = 1 + max(int(s.max()) for s in sequences)
    assert (len(sequences), num_items) == (8317, 4344)
    retriever.fit([s[:-2] for s in sequences], num_items=num_items)
    histories = [s[:-1] for s in sequences]
    items = retriever.recommend(histories, k=10, exclude_seen=exclude_seen).items
    row, place = np.nonzero(items == np.array([s[-1] for s in sequences])[:, None])
    assert len(row) / len(sequences) == pytest.approx(recall, abs=5e-5)
    assert (1 / np.log2(place + 2)).sum() / len(sequences) == pytest.approx(ndcg, abs=5e-5)
