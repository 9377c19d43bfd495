"""Free text to vectors in the space of the items' `text` view, by the model that made that view."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrec import enrich
from genrec.enrich.settings import Joint, Late
from genrec.progress import Progress, silent

Floats = NDArray[np.float32]
Encoder = Callable[[Sequence[str]], Floats]


def text_encoder(
    embed: Late | Joint,
    *,
    device: str,
    cache: MutableMapping[str, bytes],
    progress: Progress = silent,
) -> Encoder:
    """Returns what encodes many texts, each the same to the bit in any company, through a cache.

    Args:
        embed: the recipe's section.
        device: where the model runs.
        cache: finished rows, see `cached_rows`.
        progress: told how many texts are done.

    Raises:
        ValueError: the recipe's embedding reads no text.
    """
    if embed.text is None:
        raise ValueError(
            "embed.text is null, so nothing can read a text; give the recipe a text view, or set the "
            "retriever's queries to []"
        )
    run: dict[str, Any] = {"device": device, "cache": cache, "progress": progress}
    if isinstance(embed, Late):
        options = embed.text.model_dump(include={"model", "batch_size", "max_tokens"})
        return partial(enrich.encode_texts, **options, **run)
    return lambda texts: enrich.encode_joint(
        texts, [None] * len(texts), **joint_options(embed), **run
    )


def query_encoder(embed: Late | Joint, *, device: str) -> Encoder | None:
    """Returns what encodes the texts of requests: the model is loaded once, nothing is cached.

    None where the recipe's embedding reads no text.
    """
    if embed.text is None:
        return None
    if isinstance(embed, Late):
        encoder = enrich.load_encoder(embed.text.model, device=device)
        return partial(enrich.encode_queries, encoder, max_tokens=embed.text.max_tokens)
    options = embed.model_dump(include={"model", "mode", "instruction", "trust_remote_code"})
    return enrich.load_joint_encoder(**options, max_tokens=embed.text.max_tokens, device=device)


def joint_options(embed: Joint) -> dict[str, Any]:
    """Returns what `encode_joint` is told of the recipe's section."""
    own = {"kind", "text", "image", "separate", "weight", "behaviour"}
    max_tokens = embed.text.max_tokens if embed.text else None
    return embed.model_dump(exclude=own) | {"max_tokens": max_tokens}
