"""A picture for a model: verified before anything else, upright, RGB on white, no larger than asked.

Pictures come from anyone's catalogue. The file's size is looked at before it is read, its header
before it is decoded, and only decoders without side effects are tried.
"""

from __future__ import annotations

import struct
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from genrec.data.images import FORMATS

MAX_BYTES = 20_000_000
MAX_PIXELS = 50_000_000


class BadPicture(ValueError):
    """A picture that no model may see; the message says why."""


def check_size(path: Path, *, max_bytes: int = MAX_BYTES) -> None:
    """Refuses a file that is missing or too large, without reading it.

    Raises:
        BadPicture: there is no such file, or it has more than `max_bytes`.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise BadPicture(f"bad picture: {path.name}: no such file") from error
    if size > max_bytes:
        raise BadPicture(
            f"bad picture: {path.name}: {size:,} bytes, expected at most {max_bytes:,}"
        )


def open_picture(
    path: Path, *, longest_side: int, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Verifies and decodes a picture, turns it upright and makes it small enough.

    Args:
        path: a file in one of `data.images.FORMATS`; of a moving picture the first frame counts.
        longest_side: in pixels; larger pictures are shrunk to it, smaller ones stay.
        max_bytes: of the file.
        max_pixels: width times height in the header; a small file can claim a huge picture.

    Returns:
        An RGB image.

    Raises:
        BadPicture: it breaks a limit, or cannot be decoded to its end.
    """
    check_size(path, max_bytes=max_bytes)
    try:
        upright = _decode(path, max_pixels)
    except UnidentifiedImageError as error:
        raise BadPicture(
            f"bad picture: {path.name}: not a picture; expected one of {', '.join(FORMATS)}"
        ) from error
    except (
        OSError,
        SyntaxError,  # Pillow's word for a broken PNG
        TypeError,  # TypeError and struct.error: broken EXIF
        ValueError,
        struct.error,
        Image.DecompressionBombError,
    ) as error:
        raise BadPicture(f"bad picture: {path.name}: {error}") from error
    canvas = Image.new("RGBA", upright.size, "white")
    flat = Image.alpha_composite(canvas, upright).convert("RGB")
    flat.thumbnail((longest_side, longest_side), Image.Resampling.LANCZOS)
    return flat


def _decode(path: Path, max_pixels: int) -> Image.Image:
    with Image.open(path, formats=FORMATS) as image:  # reads the header alone
        if (pixels := image.width * image.height) > max_pixels:
            raise ValueError(f"{pixels:,} pixels, expected at most {max_pixels:,}")
        return ImageOps.exif_transpose(image).convert("RGBA")
