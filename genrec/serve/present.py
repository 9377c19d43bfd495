"""Item numbers to what the API shows: items with their image files, lists, reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from genrec.bundle import Bundle
from genrec.recommendations import Recommended
from genrec.serve.columns import columns_of
from genrec.serve.schemas import Influence, Item, Reasons, Recommendation

# Told by the file's first bytes: a file that is no image is not shown. No SVG, which
# can hold scripts.
_MAGIC = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"RIFF": "image/webp",
}


def item(bundle: Bundle, number: int) -> Item:
    """Returns item `number` with all that the catalogue and the annotations say of it."""
    row = bundle.items.row(number, named=True)
    sids = [sids[number].tolist() for sids in bundle.sids_by_set]
    return Item(
        id=row["item_id"],
        title=row["title"],
        description=row["description"] or "",
        image=f"/v1/items/{quote(row['item_id'], safe='')}/image" if row.get("image") else None,
        caption=row.get("caption"),
        interests=row.get("interests") or [],
        sid=sids[0] if sids else None,
        further_sids=sids[1:],
        attributes={
            name: row[name] for name in columns_of(bundle).attributes if row[name] is not None
        },
    )


class ImageFile(NamedTuple):
    """A file that can be sent."""

    path: Path
    media_type: str
    etag: str


def image_of(bundle: Bundle, number: int) -> ImageFile | None:
    """Returns the image file of item `number`; None where it has none that can be shown."""
    name = bundle.items["image"][number] if "image" in bundle.items.columns else None
    if name is None:
        return None
    path = bundle.images / name
    try:
        with path.open("rb") as stream:
            start = stream.read(16)
        stat = path.stat()
    except OSError:
        return None
    kind = next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), None)
    if kind is None or (kind == "image/webp" and start[8:12] != b"WEBP"):
        return None
    return ImageFile(path, kind, f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"')


def recommendations(
    bundle: Bundle, listed: Sequence[Recommended], reasons: Sequence[Reasons] | None = None
) -> list[Recommendation]:
    """Returns a list as the API shows it, with `reasons` where they are given, one per item."""
    return [
        Recommendation(
            place=rank,
            score=entry.score,
            item=item(bundle, entry.item),
            systems=dict(entry.ranks),
            reasons=reasons[rank - 1] if reasons is not None else None,
        )
        for rank, entry in enumerate(listed, 1)
    ]


def reasons(
    bundle: Bundle, items: Sequence[int], influences: Sequence[Mapping[int, float]] | None
) -> list[Reasons]:
    """Returns why each item came: the history's items, strongest first, and the item's own texts."""
    rows = [bundle.items.row(number, named=True) for number in items]
    return [
        Reasons(
            influence=None if influences is None else _influence(bundle, influences[position]),
            interests=row.get("interests") or [],
            caption=row.get("caption"),
        )
        for position, row in enumerate(rows)
    ]


def _influence(bundle: Bundle, ratios: Mapping[int, float]) -> list[Influence]:
    ids, titles = bundle.items["item_id"], bundle.items["title"]
    ordered = sorted(ratios.items(), key=lambda pair: (-pair[1], pair[0]))
    return [Influence(id=ids[n], title=titles[n], log_ratio=ratio) for n, ratio in ordered]
