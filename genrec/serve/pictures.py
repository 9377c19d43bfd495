"""The picture of an item, as its catalogue row names it: an image file, or nothing."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from genrec.bundle import Bundle

# By the file's first bytes: a row that names anything else than a picture shows nothing. No SVG, which
# can hold scripts.
_KINDS = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"RIFF": "image/webp",
}


class Picture(NamedTuple):
    """A file that can be sent."""

    path: Path
    media_type: str
    etag: str


def picture_of(shop: Bundle, number: int) -> Picture | None:
    """Returns the picture of item `number`; None where it has none that can be shown."""
    name = shop.items["image"][number] if "image" in shop.items.columns else None
    if name is None:
        return None
    path = shop.images / name
    try:
        with path.open("rb") as stream:
            start = stream.read(16)
        stat = path.stat()
    except OSError:
        return None
    kind = next((kind for magic, kind in _KINDS.items() if start.startswith(magic)), None)
    if kind is None or (kind == "image/webp" and start[8:12] != b"WEBP"):
        return None
    return Picture(path, kind, f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"')
