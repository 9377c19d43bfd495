"""Semantic IDs: made by a quantiser, repaired where they collide, looked up in a trie.

Names load on first use, so that `from genrec.sid import SIDTrie` imports neither torch nor faiss.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genrec.sid.codes import (
        collision_rate,
        duplicate_rate,
        format_sid,
        parse_token,
        published_stats,
        resolve_collisions,
        sid_stats,
        token_name,
    )
    from genrec.sid.quantizer import Quantizer, load_quantizer
    from genrec.sid.rkmeans import RKMeans
    from genrec.sid.rqvae import RQVAE
    from genrec.sid.trie import SIDTrie

_HOMES = {
    "Quantizer": "quantizer",
    "RKMeans": "rkmeans",
    "RQVAE": "rqvae",
    "SIDTrie": "trie",
    "collision_rate": "codes",
    "duplicate_rate": "codes",
    "format_sid": "codes",
    "load_quantizer": "quantizer",
    "parse_token": "codes",
    "published_stats": "codes",
    "resolve_collisions": "codes",
    "sid_stats": "codes",
    "token_name": "codes",
}
__all__ = [
    "RQVAE",
    "Quantizer",
    "RKMeans",
    "SIDTrie",
    "collision_rate",
    "duplicate_rate",
    "format_sid",
    "load_quantizer",
    "parse_token",
    "published_stats",
    "resolve_collisions",
    "sid_stats",
    "token_name",
]


def __getattr__(name: str) -> Any:
    """Imports the module that a public name lives in (PEP 562)."""
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
