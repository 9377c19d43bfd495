"""Text and image of an item as one vector, by a multimodal embedding model (TriAlignGR's CMSA b).

A model that reads both at once (GME-Qwen2-VL, Qwen3-VL-Embedding) gets both at once; one with two
towers (CLIP, SigLIP) gives the mean of its normalised text and image vectors, which is our choice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from sentence_transformers import SentenceTransformer

from genrec.data.images import item_image
from genrec.enrich.image import image_bytes
from genrec.enrich.rows import cached_rows, fixed_batches, row_key
from genrec.enrich.text import default_prompt
from genrec.progress import Progress, silent
from genrec.weights import find_weights, loading, weights_identity

Floats = NDArray[np.float32]
Mode = Literal["auto", "fused", "mean"]


def encode_joint(
    texts: Sequence[str],
    paths: Sequence[Path | None],
    *,
    model: str,
    mode: Mode = "auto",
    instruction: str | None = None,
    image_size: int = 448,
    max_tokens: int | None = None,
    batch_size: int = 8,
    trust_remote_code: bool = False,
    device: str = "cpu",
    cache: MutableMapping[str, bytes],
    progress: Progress = silent,
) -> Floats:
    """Encodes items by text and image; goes on where it was interrupted.

    Items are computed in batches of exactly `batch_size` whose texts have equally many tokens and
    whose images have one size, so nothing is padded and a row does not depend on its neighbours.

    Args:
        texts: one per item; empty where it has none.
        paths: one per item; None where it has no image. An item with neither gets zeros.
        model: what sentence-transformers loads: hub id, folder; see `find_weights`.
        mode: `fused` gives text and image to the model as one input, `mean` averages the normalised
            vectors of each; `auto` fuses where the model says that it can.
        instruction: the model's prompt; None is its own default.
        image_size: images are fitted into a white square of so many pixels a side.
        max_tokens: a text is cut there; None leaves that to the model.
        batch_size: B. Part of the cache key, since another B changes the last bits.
        trust_remote_code: lets the model run Python code that it brings.
        device: where the model runs.
        cache: finished rows, see `cached_rows`; the key holds the image's content, not its path.
        progress: told "encode items", in distinct items.

    Returns:
        float32 [N, D], rows of length 1, or zeros.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: texts and paths differ in number, an image cannot be read, there is nothing to
            encode, or the model does not read what there is.
    """
    if len(texts) != len(paths):
        raise ValueError(f"{len(texts)} texts and {len(paths)} images; expected one each per item")
    identity = weights_identity(model)
    settings = json.dumps([mode, instruction, image_size, max_tokens, batch_size])

    def key(row: int, text: str, path: Path | None) -> str | None:
        if not text and path is None:
            return None
        image = b"" if path is None else image_bytes(path, row)
        return row_key("joint", identity, settings, text, image)

    def batches(missing: list[int]) -> Iterator[tuple[list[int], Floats]]:
        encoder = _Encoder(model, mode, instruction, max_tokens, trust_remote_code, device)
        read = {row: encoder.cut(texts[row]) for row in missing}
        for rows in encoder.alike(read, {row for row in missing if paths[row] is not None}):
            for part, filled in fixed_batches(rows, batch_size):
                seen = {row: _square(paths[row], row, image_size) for row in part}
                vectors = encoder([read[row] for row in filled], [seen[row] for row in filled])
                yield part, vectors[: len(part)]

    keys = [key(row, *item) for row, item in enumerate(zip(texts, paths, strict=True))]
    return cached_rows(keys, batches, cache=cache, step="encode items", progress=progress)


def load_joint_encoder(
    *,
    model: str,
    mode: Mode = "auto",
    instruction: str | None = None,
    max_tokens: int | None = None,
    trust_remote_code: bool = False,
    device: str = "cpu",
) -> Callable[[Sequence[str]], Floats]:
    """Loads a model once, to encode queries as `encode_joint` encodes items without an image.

    Args:
        model: and the others: as in `encode_joint`.
        mode: as above.
        instruction: as above.
        max_tokens: as above.
        trust_remote_code: as above.
        device: as above.

    Returns:
        Texts, none of them empty, to float32 [n, D].

    Raises:
        FileNotFoundError: there is no such model.
    """
    encoder = _Encoder(model, mode, instruction, max_tokens, trust_remote_code, device)
    return lambda texts: encoder([encoder.cut(text) for text in texts], [None] * len(texts))


class _Encoder:
    """A loaded model: texts and images, all of one kind in a batch, to vectors of length 1."""

    def __init__(
        self,
        model: str,
        mode: Mode,
        instruction: str | None,
        max_tokens: int | None,
        trust_remote_code: bool,
        device: str,
    ) -> None:
        with loading(model):
            self._model = SentenceTransformer(
                find_weights(model), device=device, trust_remote_code=trust_remote_code
            )
        self._name, self._mode, self._max_tokens = model, mode, max_tokens
        self._prompt = default_prompt(self._model) if instruction is None else instruction

    def cut(self, text: str) -> str:
        """Returns the text up to its last token that counts."""
        if self._max_tokens is None or not text:
            return text
        encoded = self._model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ends = [end for _, end in encoded["offset_mapping"]]
        return text if len(ends) <= self._max_tokens else text[: ends[self._max_tokens - 1]]

    def alike(self, texts: dict[int, str], with_image: set[int]) -> Iterator[list[int]]:
        """Yields rows whose inputs have one shape, the longest first (memory runs out early)."""
        groups: dict[tuple[int, bool], list[int]] = {}
        rows = list(texts)
        for start in range(0, len(rows), 256):
            part = rows[start : start + 256]
            for row, length in zip(part, self._lengths([texts[r] for r in part]), strict=True):
                groups.setdefault((length, row in with_image), []).append(row)
        for shape in sorted(groups, reverse=True):
            yield groups[shape]

    def __call__(self, texts: Sequence[str], images: Sequence[Image.Image | None]) -> Floats:
        """Returns float32 [B, D]."""
        # As dicts, never as bare strings: those the library would open if they look like an image's
        # address, and a title is only a title.
        text_inputs = [{"text": text} for text in texts if text]
        views = [{"image": image} for image in images if image is not None]
        if not (text_inputs and views):
            return self._encode(text_inputs or views)
        if self._is_fused():
            return self._encode(
                [view | text for view, text in zip(views, text_inputs, strict=True)]
            )
        return _unit(self._encode(text_inputs) + self._encode(views))

    def _is_fused(self) -> bool:
        if self._mode != "auto":
            return self._mode == "fused"
        if self._model.supports(("image", "text")):
            return True
        if self._model.supports("image") and self._model.supports("text"):
            return False
        raise ValueError(
            f"embed.model={self._name} reads {', '.join(map(str, self._model.modalities))}, not "
            "text and image; name a multimodal model, or set embed.mode=fused if it reads both "
            "by code of its own"
        )

    def _lengths(self, texts: Sequence[str]) -> list[int]:
        """Returns the tokens of each text; 0 where there is none."""
        text_inputs = [{"text": text} for text in texts if text]
        if not text_inputs:
            return [0] * len(texts)
        mask = self._model.preprocess(text_inputs, prompt=self._prompt).get("attention_mask")
        lengths = iter([1] * len(text_inputs) if mask is None else mask.sum(dim=1).tolist())
        return [next(lengths) if text else 0 for text in texts]

    def _encode(self, inputs: Sequence[dict[str, Any]]) -> Floats:
        vectors = self._model.encode(
            list(inputs),
            prompt=self._prompt,
            batch_size=len(inputs),
            show_progress_bar=False,
            convert_to_numpy=True,
        )
        return _unit(np.asarray(vectors, dtype=np.float32))


def _square(path: Path | None, row: int, side: int) -> Image.Image | None:
    if path is None:
        return None
    image = item_image(path, row)
    return ImageOps.pad(image, (side, side), Image.Resampling.BICUBIC, color="white")


def _unit(vectors: Floats) -> Floats:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)
