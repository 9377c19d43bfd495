"""The text view: the text fields of an item to a vector, by a sentence-transformers model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from genrec.enrich.rows import cached_rows, fixed_batches, row_key
from genrec.progress import Progress, silent
from genrec.weights import find_weights, loading, weights_identity

Floats = NDArray[np.float32]


def item_text(row: Mapping[str, Any], fields: Sequence[str]) -> str:
    """Returns the text that stands for an item: its fields in the order given, one per line.

    Args:
        row: an item, column to value. A list (interests) is joined by commas.
        fields: the columns that enter; empty and null ones are skipped.

    Raises:
        KeyError: the item has no such column.
    """
    parts = []
    for field in fields:
        if field not in row:
            raise KeyError(
                f"items have no column '{field}'; embed.text.fields may name {sorted(row)}"
            )
        value = row[field]
        joined = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
        parts.append("" if joined is None else str(joined).strip())
    return "\n".join(part for part in parts if part)


def encode_texts(
    texts: Sequence[str],
    *,
    model: str,
    batch_size: int = 64,
    max_tokens: int | None = None,
    device: str = "cpu",
    cache: MutableMapping[str, bytes],
    progress: Progress = silent,
) -> Floats:
    """Encodes texts with a sentence-transformers model; goes on where it was interrupted.

    A text is padded to a length that depends on itself alone and computed in a batch of exactly
    `batch_size`, so its vector is the same to the bit whatever is in the cache already.

    Args:
        texts: one per item. An empty one gets a row of zeros.
        model: hub id, folder, or `package:<import name>`; see `find_weights`.
        batch_size: B. Part of the cache key, since another B changes the last bits.
        max_tokens: a text is cut there; the model's own limit where None or larger.
        device: where the model runs.
        cache: finished rows, see `cached_rows`.
        progress: told "encode texts", in distinct texts.

    Returns:
        float32 [N, D], as the model gives them.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: all texts are empty.
    """
    identity = weights_identity(model)
    shape = f"{batch_size}x{max_tokens}"
    keys = [row_key("text", identity, shape, text) if text else None for text in texts]

    def batches(missing: list[int]) -> Iterator[tuple[list[int], Floats]]:
        encoder = load_encoder(model, device=device)
        _limit(encoder, max_tokens)
        for length, rows in _by_length(encoder, texts, missing):
            for part, filled in fixed_batches(rows, batch_size):
                vectors = _encode(encoder, [texts[row] for row in filled], length)
                yield part, vectors[: len(part)]

    return cached_rows(keys, batches, cache=cache, step="encode texts", progress=progress)


def load_encoder(model: str, *, device: str = "cpu") -> SentenceTransformer:
    """Loads a sentence-transformers model.

    Args:
        model: hub id, folder, or `package:<import name>`; see `find_weights`.
        device: where it runs.

    Raises:
        FileNotFoundError: there is no such model.
    """
    with loading(model):
        return SentenceTransformer(find_weights(model), device=device)


def encode_queries(
    encoder: SentenceTransformer, texts: Sequence[str], *, max_tokens: int | None = None
) -> Floats:
    """Encodes a few texts at once, for requests: `encode_texts` without cache and fixed batches.

    The same vectors but for the last bits, which depend on what else is in a batch.

    Args:
        encoder: from `load_encoder`.
        texts: n, none of them empty.
        max_tokens: a text is cut there; the model's own limit where None or larger.

    Returns:
        float32 [n, D].
    """
    _limit(encoder, max_tokens)
    vectors = encoder.encode(
        _inputs(encoder, list(texts)), show_progress_bar=False, convert_to_numpy=True
    )
    return np.asarray(vectors, dtype=np.float32)


def _limit(encoder: SentenceTransformer, max_tokens: int | None) -> None:
    limits = [limit for limit in (max_tokens, encoder.max_seq_length) if limit]
    if limits:
        encoder.max_seq_length = min(limits)


def _by_length(
    encoder: SentenceTransformer, texts: Sequence[str], rows: Sequence[int]
) -> Iterable[tuple[int, list[int]]]:
    """Divides rows by the padded length of their texts, longest first (memory runs out early)."""
    groups: dict[int, list[int]] = {}
    for start in range(0, len(rows), 256):
        part = list(rows[start : start + 256])
        features = encoder.preprocess(
            _inputs(encoder, [texts[row] for row in part]), prompt=default_prompt(encoder)
        )
        # Bags of words (StaticEmbedding) have no mask; their rows never see each other anyway.
        mask = features.get("attention_mask")
        lengths = [0] * len(part) if mask is None else mask.sum(dim=1).tolist()
        for row, length in zip(part, lengths, strict=True):
            groups.setdefault(_padded(length, encoder.max_seq_length), []).append(row)
    return sorted(groups.items(), reverse=True)


def _padded(length: int, limit: int | None) -> int:
    """Returns the length a text of so many tokens is padded to: 0, 16, or a multiple of 32."""
    padded = length if not length else 16 if length <= 16 else -(-length // 32) * 32
    return padded if limit is None else max(length, min(padded, limit))


def _encode(encoder: SentenceTransformer, texts: list[str], length: int) -> Floats:
    padding = {"padding": "max_length", "max_length": length, "truncation": True}
    options = {"processing_kwargs": {"text": padding}} if length else {}
    vectors = encoder.encode(
        _inputs(encoder, texts),
        batch_size=len(texts),
        show_progress_bar=False,
        convert_to_numpy=True,
        **options,
    )
    return np.asarray(vectors, dtype=np.float32)


def _inputs(encoder: SentenceTransformer, texts: list[str]) -> list[Any]:
    """Returns texts as a multimodal model must get them: a bare string it may take for an address.

    (`photo.jpg` or `http://.../photo.jpg` as a title would be opened, and is only a title.)
    """
    return [{"text": text} for text in texts] if encoder.supports("image") else list(texts)


def default_prompt(encoder: SentenceTransformer) -> str | None:
    """Returns the prompt that `encode` puts before every text, so that lengths count it."""
    name = encoder.default_prompt_name
    return None if name is None else encoder.prompts.get(name)
