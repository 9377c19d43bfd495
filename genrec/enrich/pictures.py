"""Opens an item's picture for an encoder: upright, RGB, transparency on white."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps

from genrec.data.images import FORMATS


def open_picture(path: Path, *, row: int) -> Image.Image:
    """Reads a picture.

    Args:
        path: the file.
        row: the item it belongs to, named in the error.

    Raises:
        ValueError: it is missing, or cannot be decoded.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            upright = ImageOps.exif_transpose(image).convert("RGBA")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"item {row}: the image {path} cannot be read ({error}). "
            "Replace the file or remove it (items without image are fine)"
        ) from error
    canvas = Image.new("RGBA", upright.size, "white")
    return Image.alpha_composite(canvas, upright).convert("RGB")
