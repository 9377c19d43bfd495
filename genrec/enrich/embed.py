"""Items to vectors: the text view, and the late fusion of all views.

The other views are `behaviour`, `descriptors` and `vision`; they are at hand here too. `joint` has
words and image in one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from genrec.enrich.behaviour import behaviour_view
from genrec.enrich.descriptors import describe_images
from genrec.enrich.rows import cached_rows, fixed_batches, row_key
from genrec.enrich.vision import encode_images
from genrec.progress import Progress, silent
from genrec.weights import find_weights, loading, weights_identity

__all__ = [
    "behaviour_view",
    "describe_images",
    "encode_images",
    "encode_texts",
    "item_text",
    "late_fusion",
]

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
        limits = [limit for limit in (max_tokens, encoder.max_seq_length) if limit]
        if limits:
            encoder.max_seq_length = min(limits)
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
    limits = [limit for limit in (max_tokens, encoder.max_seq_length) if limit]
    if limits:
        encoder.max_seq_length = min(limits)
    vectors = encoder.encode(
        _inputs(encoder, list(texts)), show_progress_bar=False, convert_to_numpy=True
    )
    return np.asarray(vectors, dtype=np.float32)


def late_fusion(
    views: Mapping[str, Floats],
    weights: Mapping[str, float],
    *,
    item_ids: Sequence[str] | None = None,
) -> Floats:
    """Joins views: each L2-normalised per row, weighted, concatenated in the order of their names.

    With a view's rows of unit length, the squared distance of two items is the weighted sum of
    their cosine distances: w is squared in it.

    Args:
        views: name to float [N, D_v]; rows of zeros (nothing known) stay zero.
        weights: name to weight in [1e-6, 1e6], for exactly the same names.
        item_ids: N, for messages; None: rows are named by their number.

    Returns:
        float32 [N, sum of D_v].

    Raises:
        ValueError: no view, names or N that do not agree, another weight, NaN or infinity.
    """
    if not views or set(views) != set(weights):
        raise ValueError(
            f"late fusion: views {sorted(views)}, weights {sorted(weights)}; expected one weight "
            "for each of at least one view"
        )
    counts = {name: len(view) for name, view in sorted(views.items())}
    if len(set(counts.values())) > 1:
        raise ValueError(f"late fusion: the views differ in their number of items: {counts}")
    parts = [_weighted(name, view, weights[name], item_ids) for name, view in sorted(views.items())]
    return np.concatenate(parts, axis=1)


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


def _weighted(name: str, view: Floats, weight: float, item_ids: Sequence[str] | None) -> Floats:
    if not 1e-6 <= weight <= 1e6:
        raise ValueError(
            f"late fusion: weight of '{name}' is {weight}, expected 1e-6 to 1e6; leave a view out "
            "instead of giving it no weight"
        )
    bad = np.flatnonzero(~np.isfinite(view).all(axis=1))
    if len(bad):
        named = "" if item_ids is None else f" (item_id {item_ids[bad[0]]!r})"
        raise ValueError(
            f"late fusion: NaN or infinity in view '{name}', item {bad[0]}{named}, {len(bad)} items in "
            "all; its model gives no numbers for them: look at their words or pictures, or take "
            "another model"
        )
    wide = view.astype(np.float64)  # tiny numbers would vanish in float32 before the division
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    return (wide / np.where(norms > 0, norms, 1) * weight).astype(np.float32)
