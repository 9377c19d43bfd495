"""What an item is turned into before it is quantised: its views, each one vector per item.

Names load on first use, since each view needs heavy libraries of its own.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genrec.enrich.behaviour import behaviour_view
    from genrec.enrich.descriptors import describe_images
    from genrec.enrich.embed import (
        encode_queries,
        encode_texts,
        item_text,
        late_fusion,
        load_encoder,
    )
    from genrec.enrich.joint import encode_joint, load_joint_encoder
    from genrec.enrich.vision import encode_images

_HOMES = {
    "behaviour_view": "behaviour",
    "describe_images": "descriptors",
    "encode_images": "vision",
    "encode_joint": "joint",
    "encode_queries": "embed",
    "encode_texts": "embed",
    "item_text": "embed",
    "late_fusion": "embed",
    "load_encoder": "embed",
    "load_joint_encoder": "joint",
}
__all__ = [
    "behaviour_view",
    "describe_images",
    "encode_images",
    "encode_joint",
    "encode_queries",
    "encode_texts",
    "item_text",
    "late_fusion",
    "load_encoder",
    "load_joint_encoder",
]


def __getattr__(name: str) -> Any:
    """Imports the module that a public name lives in (PEP 562)."""
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
