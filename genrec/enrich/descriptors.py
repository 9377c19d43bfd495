"""Pictures described without a network: a colour histogram and HOG, reduced by PCA.

The offline image view: it sees colour, pattern and silhouette, and knows nothing of objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.feature import hog
from sklearn.decomposition import PCA

from genrec.data.images import item_image
from genrec.progress import Progress, silent

Floats = NDArray[np.float32]

_SIDE = 96  # pixels; 6 x 6 HOG cells of 16: coarse enough that a silhouette may shift a little
_BINS = (12, 4, 4)  # hue, saturation, value


def describe_images(
    paths: Sequence[Path | None], *, components: int = 64, progress: Progress = silent
) -> Floats:
    """Describes pictures by colour and shape.

    Each half, the square root of an HSV histogram (distances are then Hellinger's) and the HOG
    (Dalal and Triggs, CVPR 2005), has length 1 before PCA.

    Args:
        paths: one per item; None where it has no picture.
        components: d, at most the number of pictures.
        progress: told "describe images".

    Returns:
        float32 [N, d]; rows without a picture are zero.

    Raises:
        ValueError: a picture cannot be read, or there are none.
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


def _describe(picture: Image.Image) -> NDArray[np.float64]:
    small = picture.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    # Pillow's HSV is in [0, 255]; edges up to 256 keep the bins equally wide.
    pixels = np.asarray(small.convert("HSV")).reshape(-1, 3)
    counts, _ = np.histogramdd(pixels, bins=_BINS, range=[(0, 256)] * 3)
    colour = np.sqrt(counts.ravel() / counts.sum())
    shape = hog(
        np.asarray(small),
        orientations=9,
        pixels_per_cell=(16, 16),
        cells_per_block=(2, 2),
        channel_axis=-1,
    )
    length = np.linalg.norm(shape)
    return np.concatenate([colour, shape / length if length > 0 else shape])
