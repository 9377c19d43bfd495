"""The settings of an index of item vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from genrec.settings import Section


class IndexSettings(Section):
    """A faiss index of item vectors, by inner product."""

    packages: ClassVar[tuple[str, ...]] = ("faiss-cpu",)
    former: ClassVar[Mapping[str, str]] = {
        "links": "M",
        "effort": "efSearch",
        "lists": "nlist",
        "probes": "nprobe",
    }

    kind: Literal["flat", "hnsw", "ivfpq"] = Field(
        "flat", description="flat: exact; hnsw: a graph, approximate; ivfpq: a few bytes per vector"
    )
    metric: Literal["dot", "cosine"] = Field(
        "dot", description="cosine normalises at add and at search"
    )
    # faiss crashes on a graph of one link.
    M: int = Field(32, ge=2, description="HNSW: neighbours of a vector in the graph")
    efSearch: int = Field(
        64,
        ge=1,
        description="HNSW: candidates that a search looks at; 5 times as many while building",
    )
    nlist: int | None = Field(
        None, ge=1, description="IVF: cells; null: 4 sqrt(n), with 39 vectors each at least"
    )
    nprobe: int | None = Field(
        None, ge=1, description="IVF: cells that a search looks into; null: an eighth of them"
    )
    subvectors: int | None = Field(
        None,
        ge=1,
        description="PQ: pieces of a vector, a divisor of its width; null: about a quarter",
    )
    bits: int = Field(
        8, ge=1, description="PQ: bits of a code; the first add needs 2^bits vectors at least"
    )
