"""A shop that does not exist: drawn products, written descriptions, users with reasons.

Made so that a run needs no download, and so that the truth behind every choice is known. The truth
is kept aside for evaluation; nothing of it is in the items or the interactions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

from genrec.data.settings import DemoSettings
from genrec.data.source import RAW_GROUPS, RAW_INTERACTIONS, OnBad, RawData
from genrec.demo.catalogue import Product, make_products
from genrec.demo.interests import INTERESTS
from genrec.demo.render import Canvas, save_png
from genrec.demo.shapes import HOME, OUTDOOR
from genrec.demo.users import LENGTHS, make_choices
from genrec.progress import Progress, silent


def read(
    settings: DemoSettings, *, folder: Path, on_bad: OnBad = "error", progress: Progress = silent
) -> RawData:
    """Makes what `settings` describe, with no bad row; see `make_demo`. A `ReadSource`."""
    return make_demo(folder, **settings.options(), progress=progress)


def make_demo(
    out: str | Path | None,
    *,
    items: int = 800,
    users: int = 2000,
    seed: int = 7,
    image_size: int = 96,
    progress: Progress = silent,
) -> RawData:
    """Makes the demo catalogue and its histories.

    Args:
        out: the images go to `out/images/<item_id>.png`; None draws none.
        items: number of products N.
        users: number of users U, with 6 to 20 choices each.
        seed: same seed, same bytes, images included.
        image_size: width and height of the images in pixels.
        progress: told "draw products" and "make choices".

    Returns:
        Data whose image paths are relative to `out`, with the attributes brand, category, material
        and price, and with the truth in three tables: items (item_id, category, colour, pattern,
        silhouette, interests, mentions_colour, mentions_pattern, mentions_silhouette, tier),
        choices (user_id, item_id, timestamp, reason) and interests (interest, wording). The groups
        are the reasons, and within "visual" those whose product's text names some of its look,
        "visual, named", or nothing of it, "visual, hidden".

    Raises:
        ValueError: too few items or users, or too small an image.
    """
    for name, value, least in (
        ("items", items, LENGTHS[1]),
        ("users", users, 1),
        ("image_size", image_size, 16),
    ):
        if value < least:
            raise ValueError(f"prepare.source.{name}: found {value}, expected at least {least}")
    products = make_products(items, seed=seed)
    if out is not None:
        folder = Path(out) / "images"
        folder.mkdir(parents=True, exist_ok=True)
        for done, product in enumerate(products, 1):
            image = draw(product, size=image_size, seed=seed)
            save_png(image, folder / f"{product.item_id}.png")
            progress("draw products", done, items)
    choices = pl.DataFrame(
        list(make_choices(products, users=users, seed=seed, progress=progress)),
        schema={**RAW_INTERACTIONS, "reason": pl.String},
        orient="row",
    ).with_columns(pl.col("timestamp") * 10**9)
    truth = {"items": _true_items(products), "choices": choices, "interests": _interests()}
    return RawData(
        _items(products),
        choices.select(list(RAW_INTERACTIONS)),
        truth=truth,
        groups=_groups(choices, truth["items"]),
    )


def draw(product: Product, *, size: int, seed: int) -> Image.Image:
    """Returns the image of one product.

    Args:
        product: its category, colour, pattern and silhouette are drawn; nothing else is.
        size: width and height in pixels.
        seed: with the item_id, decides the small differences between products of one look.
    """
    rng = np.random.default_rng([seed, 2, *product.item_id.encode()])
    canvas = Canvas(product.colour, product.pattern, size=size, rng=rng)
    {**HOME, **OUTDOOR}[product.category](canvas, product.silhouette)
    return canvas.finish()


def _items(products: Sequence[Product]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "item_id": [p.item_id for p in products],
            "title": [p.title for p in products],
            "description": [p.description for p in products],
            "image": [f"images/{p.item_id}.png" for p in products],
            "brand": [p.brand for p in products],
            "category": [p.category for p in products],
            "material": [p.material for p in products],
            "price": [p.price for p in products],
        }
    )


def _true_items(products: Sequence[Product]) -> pl.DataFrame:
    traits = ("item_id", "category", "colour", "pattern", "silhouette")
    columns: dict[str, object] = {name: [getattr(p, name) for p in products] for name in traits}
    columns["interests"] = [list(p.interests) for p in products]
    for trait in ("colour", "pattern", "silhouette"):
        columns[f"mentions_{trait}"] = [trait in p.mentions for p in products]
    columns["tier"] = [p.tier for p in products]
    return pl.DataFrame(columns)


def _groups(choices: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """Groups choices by reason; those by look also by whether words tell of it.

    Hidden: the chosen product's text names neither its colour nor its pattern nor its silhouette,
    so whichever of them decided is in the image only.
    """
    named = pl.any_horizontal("mentions_colour", "mentions_pattern", "mentions_silhouette")
    kind = pl.when(named).then(pl.lit("visual, named")).otherwise(pl.lit("visual, hidden"))
    looks = (
        choices.filter(pl.col("reason") == "visual")
        .join(items.select("item_id", group=kind), on="item_id", how="inner", maintain_order="left")
        .select(list(RAW_GROUPS))
    )
    return pl.concat([choices.select("user_id", "item_id", group="reason"), looks])


def _interests() -> pl.DataFrame:
    wordings = [interest.wording for interest in INTERESTS.values()]
    return pl.DataFrame({"interest": list(INTERESTS), "wording": wordings})
