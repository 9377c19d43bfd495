"""Views of the items as a retriever gets them: checked, and at unit length."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def check_view(
    name: str, values: npt.ArrayLike, *, num_items: int, width: int | None = None
) -> npt.NDArray[np.float32]:
    """Returns one view of the items as float32 [N, D].

    Args:
        name: of the view, for the message.
        values: float [N, D].
        num_items: N.
        width: the D to expect; None takes any.

    Raises:
        ValueError: another shape, NaN or infinity; names the view and the item.
    """
    array = np.ascontiguousarray(values, dtype=np.float32)  # torch takes no negative strides
    wide = array.ndim == 2 and array.shape[1] > 0 and width in (None, array.shape[1])
    if not wide or len(array) != num_items:
        raise ValueError(
            f"features['{name}'] has the shape {array.shape}; expected ({num_items}, {width or 'D'}), "
            "one row per item"
        )
    wrong = ~np.isfinite(array).all(axis=1)
    if wrong.any():
        raise ValueError(
            f"features['{name}']: item {int(wrong.argmax())} holds NaN or infinity "
            f"({int(wrong.sum())} items do); a row of zeros says that an item lacks the view"
        )
    return array


def unit_rows(features: npt.NDArray[np.floating], *, least: float = 0.0) -> npt.NDArray[np.float32]:
    """Returns rows at unit length, float32 [B, F]; rows no longer than `least` become zeros."""
    norm = np.linalg.norm(features, axis=1, keepdims=True)
    there = norm > least
    return np.where(there, features / np.where(there, norm, 1), 0).astype(np.float32)
