"""The image view: by descriptors of color and shape, or by a vision model of transformers.

The descriptors need no network: they see color, pattern and silhouette, and know nothing of objects.
Vision models are those of fixed resolution (ViT, DINOv2, CLIP, SigLIP), batched, cached and resumable
as the texts are.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage.feature import hog
from sklearn.decomposition import PCA
from transformers import AutoImageProcessor, AutoModel

from genrec.data.images import item_image
from genrec.enrich.rows import cached_rows, fixed_batches, row_key
from genrec.progress import Progress, silent
from genrec.weights import find_weights, loading, weights_identity

Floats = NDArray[np.float32]

_SIDE = 96  # pixels; 6 x 6 HOG cells of 16: coarse enough that a silhouette may shift a little
_BINS = (12, 4, 4)  # hue, saturation, value


def describe_images(
    paths: Sequence[Path | None], *, components: int = 64, progress: Progress = silent
) -> Floats:
    """Describes images by color and shape.

    Each half, the square root of an HSV histogram (distances are then Hellinger's) and the HOG
    (Dalal and Triggs, CVPR 2005), has length 1 before PCA.

    Args:
        paths: one per item; None where it has no image.
        components: d, at most the number of images.
        progress: told "describe images".

    Returns:
        float32 [N, d]; rows without an image are zero.

    Raises:
        ValueError: an image cannot be read, or there are none.
    """
    rows = [row for row, path in enumerate(paths) if path is not None]
    if not rows:
        raise ValueError(
            f"none of the {len(paths)} items has an image; set embed.image.kind to none"
        )
    described = []
    for done, row in enumerate(rows, start=1):
        described.append(_describe(item_image(Path(str(paths[row])), row)))
        progress("describe images", done, len(rows))
    table = np.stack(described)
    pca = PCA(min(components, *table.shape), svd_solver="full")  # exact, so deterministic
    reduced = pca.fit_transform(table)
    out = np.zeros((len(paths), reduced.shape[1]), dtype=np.float32)
    out[rows] = reduced
    return out


def _describe(image: Image.Image) -> NDArray[np.float64]:
    small = image.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    # Pillow's HSV is in [0, 255]; edges up to 256 keep the bins equally wide.
    pixels = np.asarray(small.convert("HSV")).reshape(-1, 3)
    counts, _ = np.histogramdd(pixels, bins=_BINS, range=[(0, 256)] * 3)
    color = np.sqrt(counts.ravel() / counts.sum())
    shape = hog(
        np.asarray(small),
        orientations=9,
        pixels_per_cell=(16, 16),
        cells_per_block=(2, 2),
        channel_axis=-1,
    )
    length = np.linalg.norm(shape)
    return np.concatenate([color, shape / length if length > 0 else shape])


def encode_images(
    paths: Sequence[Path | None],
    *,
    model: str,
    batch_size: int = 32,
    device: str = "cpu",
    cache: MutableMapping[str, bytes],
    progress: Progress = silent,
) -> Floats:
    """Encodes images with a vision model; goes on where it was interrupted.

    The vector is `get_image_features` where the model has that (CLIP-like), else its pooled output,
    else the mean of its last hidden states.

    Args:
        paths: one per item; None where it has no image.
        model: hub id, folder, or `package:<import name>`; see `find_weights`.
        batch_size: B. Part of the cache key, since another B changes the last bits.
        device: where the model runs.
        cache: finished rows, see `cached_rows`; the key holds the image's content, not its path.
        progress: told "encode images", in distinct images.

    Returns:
        float32 [N, D]; rows without an image are zero.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: an image cannot be read, or there are none.
    """
    identity = weights_identity(model)
    keys = [
        None
        if path is None
        else row_key("image", identity, str(batch_size), image_bytes(path, row))
        for row, path in enumerate(paths)
    ]

    def batches(missing: list[int]) -> Iterator[tuple[list[int], Floats]]:
        encoder = _Encoder(model, device)
        for part, filled in fixed_batches(missing, batch_size):
            opened = {row: item_image(Path(str(paths[row])), row) for row in part}
            yield part, encoder([opened[row] for row in filled])[: len(part)]

    return cached_rows(keys, batches, cache=cache, step="encode images", progress=progress)


class _Encoder:
    """A loaded vision model with its processor."""

    def __init__(self, model: str, device: str) -> None:
        folder = find_weights(model)
        with loading(model):
            self._processor = AutoImageProcessor.from_pretrained(folder)
            self._model = AutoModel.from_pretrained(folder).to(device).eval()
        self._device = device

    @torch.inference_mode()
    def __call__(self, images: list[Image.Image]) -> Floats:
        """Returns float32 [B, D]."""
        inputs = self._processor(images=images, return_tensors="pt").to(self._device)
        if hasattr(self._model, "get_image_features"):
            return _pooled(self._model.get_image_features(**inputs))
        return _pooled(self._model(**inputs))


def _pooled(output: object) -> Floats:
    """Takes the one vector per image out of what a model returned."""
    if not isinstance(output, torch.Tensor):
        pooled = getattr(output, "pooler_output", None)
        # Convolutional models pool to [B, D, 1, 1] and have hidden states [B, D, H, W].
        hidden = getattr(output, "last_hidden_state", None) if pooled is None else None
        if hidden is not None:
            pooled = hidden.mean(dim=1) if hidden.ndim == 3 else hidden.flatten(2).mean(dim=2)
        assert isinstance(pooled, torch.Tensor), "a vision model without states"
        output = pooled
    return output.flatten(1).float().cpu().numpy()


def image_bytes(path: Path, row: int) -> bytes:
    """Returns an image's file, what cache keys know it by; names the item where it cannot."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"item {row}: the image {path} cannot be read ({error})") from error
