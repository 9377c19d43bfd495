"""Numbers to words: items, lists and reasons as the API shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote

from genrec.bundle import Bundle
from genrec.serve.recommend import Recommended
from genrec.serve.schemas import Influence, Item, Reasons, Recommendation

_OWN = ("item", "item_id", "title", "description", "image", "caption", "interests")


def item(shop: Bundle, number: int) -> Item:
    """Returns item `number` with all that the catalogue and the annotations tell of it."""
    row = shop.items.row(number, named=True)
    return Item(
        id=row["item_id"],
        title=row["title"],
        description=row["description"] or "",
        image=f"/v1/items/{quote(row['item_id'], safe='')}/image" if row.get("image") else None,
        caption=row.get("caption"),
        interests=row.get("interests") or [],
        sid=None if shop.sids is None else shop.sids[number].tolist(),
        attributes={k: v for k, v in row.items() if k not in _OWN and v is not None},
    )


def recommendations(
    shop: Bundle, found: Sequence[Recommended], reasons: Sequence[Reasons] | None = None
) -> list[Recommendation]:
    """Returns a list as the API shows it; `reasons` beside it, one per item."""
    return [
        Recommendation(
            place=place,
            score=one.score,
            item=item(shop, one.item),
            systems=dict(one.places),
            reasons=reasons[place - 1] if reasons is not None else None,
        )
        for place, one in enumerate(found, 1)
    ]


def reasons(
    shop: Bundle, items: Sequence[int], influences: Sequence[Mapping[int, float]] | None
) -> list[Reasons]:
    """Returns why each item came: the history's items, strongest first, and the item's own words."""
    found = []
    for place, number in enumerate(items):
        row = shop.items.row(number, named=True)
        found.append(
            Reasons(
                influence=None if influences is None else _influence(shop, influences[place]),
                interests=row.get("interests") or [],
                caption=row.get("caption"),
            )
        )
    return found


def _influence(shop: Bundle, ratios: Mapping[int, float]) -> list[Influence]:
    ids, titles = shop.items["item_id"], shop.items["title"]
    ordered = sorted(ratios.items(), key=lambda pair: (-pair[1], pair[0]))
    return [Influence(id=ids[n], title=titles[n], log_ratio=ratio) for n, ratio in ordered]
