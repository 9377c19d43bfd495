"""Amazon Reviews 2023, 2018 and 2014, as published: from files, or by category from the hub.

Products without a title and repeated ids are facts of these data, so they are dropped and counted
without being errors. Left out on purpose: average_rating, rating_number and bought_together, which
sum up all of time, held-out interactions among it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import polars as pl

from genrec.data import tables
from genrec.data.context import read_names, settle_context
from genrec.data.delimited import columns_of
from genrec.data.files import at_least
from genrec.data.images import place_images
from genrec.data.settings import AmazonSettings
from genrec.data.source import RAW_INTERACTIONS, RAW_ITEMS, BadRows, OnBad, RawData, clean
from genrec.data.text import as_text, lines, whole_lines, without_markup
from genrec.data.timestamps import Unit, parse, settle
from genrec.progress import Progress, silent

HUB = "McAuley-Lab/Amazon-Reviews-2023"
# The first number, perhaps after a currency or "from"; of "$12.99 - $15.00" the lower. The 2018
# files have whole style sheets in this field.
_PRICE = re.compile(r"\s*(?:from\s*)?[$€£]?\s*(\d[\d,]*(?:\.\d+)?)(?!\w)", re.IGNORECASE)
_SIZES = ("hi_res", "large", "thumb")
_ITEM_SCHEMA = {
    **RAW_ITEMS,
    "store": pl.String,
    "main_category": pl.String,
    "categories": pl.String,
    "features": pl.String,
    "price": pl.Float64,
}
Part = Literal["description", "features"]


def read(
    settings: AmazonSettings, *, folder: Path, on_bad: OnBad = "error", progress: Progress = silent
) -> RawData:
    """Reads what `settings` name, from the hub or from files; see `read_amazon`. A `ReadSource`."""
    options = settings.options()
    hub = {name: options.pop(name) for name in ("category", "dataset", "revision")}
    if hub["category"] is not None:
        options["reviews"], options["meta"] = hub_files(**hub)
    return read_amazon(**options, on_bad=on_bad, progress=progress)


def read_amazon(
    reviews: str | Path,
    meta: str | Path,
    *,
    min_rating: float = 0.0,
    verified: bool = False,
    context: Sequence[str] = (),
    describe: Sequence[Part] = ("description", "features"),
    images: str | None = None,
    max_unknown: float = 0.05,
    max_bytes: int = 20_000_000,
    max_pixels: int = 50_000_000,
    on_bad: OnBad = "error",
    progress: Progress = silent,
) -> RawData:
    """Reads reviews and product metadata; the fields tell the layout.

    Args:
        reviews: JSON lines, plain or gzip, of 2023 (user_id, parent_asin, rating, timestamp in ms)
            or of 2018 and 2014 (reviewerID, asin, overall, unixReviewTime); or a CSV with the
            fields of 2023, as the benchmark splits are. A glob for several.
        meta: JSON lines; those of 2014 may be Python literals.
        min_rating: ratings below are no interactions.
        verified: reviews of verified purchases only.
        context: `rating`, or nothing: what is kept with each interaction.
        describe: what the description is made of, in this order.
        images: a folder with `<id>.jpg`, "download" or None, as of `read_files`.
        max_unknown: see `source.clean`; products without a title do not count as unknown.
        max_bytes: largest image file.
        max_pixels: largest width x height of an image.
        on_bad: raise on bad rows, or drop and count them.
        progress: called with "read reviews", "read products" and "check images".

    Returns:
        Products that somebody reviewed, in file order, by parent_asin (2023) or asin, with the
        attributes store (brand), main_category, categories, features, price (float) and image_url
        (the MAIN image, at its largest). Texts are without markup.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file cannot be read, or is of none of these layouts; a bad row.
    """
    bad_rows = BadRows(on_bad)
    log = _reviews(reviews, min_rating, verified, context, bad_rows, progress)
    items = _products(meta, set(log["item_id"].unique()), describe, bad_rows, progress)
    untitled = items.filter(pl.col("title").is_null())["item_id"]
    items = items.drop_nulls("title")
    kept = log.filter(~pl.col("item_id").is_in(untitled.implode()))
    if len(untitled):
        bad_rows.count("item_without_title", len(untitled))
        bad_rows.count("interaction_of_item_without_title", len(log) - len(kept))
    items, log = clean(
        items,
        kept,
        bad_rows,
        items_from=meta,
        interactions_from=reviews,
        max_unknown=max_unknown,
    )
    urls = items["image"].alias("image_url")
    if images not in (None, "download"):
        items = items.with_columns(image=pl.lit(None, pl.String))  # by id, from the folder
    items = place_images(
        items,
        images,
        bad_rows=bad_rows,
        where=meta,
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        progress=progress,
    )
    if "image_url" not in items.columns:
        items = items.with_columns(urls)
    return RawData(items, log.select(*RAW_INTERACTIONS, *context), dropped=bad_rows.dropped)


def hub_files(category: str, *, dataset: str = HUB, revision: str = "main") -> tuple[Path, Path]:
    """Returns the paths of a category's reviews and metadata, fetched through `datasets`.

    The hub's dataset has a loading script (configurations raw_review_<category> and
    raw_meta_<category>), which datasets since 4.0 no longer runs; so its JSON lines are fetched by
    the library's own download manager, which keeps them in its cache.

    Args:
        category: such as All_Beauty.
        dataset: a hub id, or a folder with the same layout.
        revision: branch, tag or commit on the hub.

    Raises:
        FileNotFoundError: there is no such category.
    """
    names = (
        f"raw/review_categories/{category}.jsonl",
        f"raw/meta_categories/meta_{category}.jsonl",
    )
    if Path(dataset).is_dir():
        return _local(Path(dataset), names[0]), _local(Path(dataset), names[1])
    import datasets

    urls = [f"hf://datasets/{dataset}@{revision}/{name}" for name in names]
    try:
        reviews, meta = datasets.DownloadManager().download(urls)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{urls[0]} or {urls[1]}: cannot be had ({error}). Correct "
            "prepare.source.category, dataset or revision, or name local files by reviews and meta."
        ) from error
    return Path(reviews), Path(meta)


def _local(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    known = sorted(p.name.partition(".")[0] for p in (folder / name).parent.glob("*.jsonl*"))
    raise FileNotFoundError(
        f"{folder / name}: no such file, nor with .gz; expected the layout of {HUB}. "
        f"Found {known[:5]} there. Correct prepare.source.category or dataset."
    )


def _reviews(
    pattern: str | Path,
    least: float,
    verified: bool,
    context: Sequence[str],
    bad_rows: BadRows,
    progress: Progress,
) -> pl.DataFrame:
    parts = []
    paths = tables.files(pattern, what="reviews as JSON lines")
    for done, path in enumerate(paths, 1):
        columns, unit = _layout(path, verified)
        columns |= {ours: columns[theirs] for ours, theirs in read_names(context).items()}
        log = tables.read(
            path, columns, bad_rows=bad_rows, field="the layout", exact=("timestamp",)
        )
        if verified:
            bought = log.filter(pl.col("verified").str.to_lowercase() == "true")
            if other := len(log) - len(bought):
                bad_rows.count("unverified_purchase", other)
            log = bought.drop("verified")
        log = at_least(log, least, bad_rows=bad_rows, where=path, field=columns["rating"])
        field = columns["timestamp"]
        parts.append(parse(log, unit=unit, bad_rows=bad_rows, where=path, field=field))
        progress("read reviews", done, len(paths))
    log = settle(pl.concat(parts, how="diagonal"), where=pattern, times="ns")
    return settle_context(log, context, where=pattern)


def _layout(path: Path, verified: bool) -> tuple[dict[str, str], Unit]:
    """Returns the names of a review file's columns, and the unit of its times."""
    if tables.format_of(path) == "jsonl":
        fields = list(next(lines(path), (0, {}))[1])
    else:
        fields = columns_of(path)
    new = {"user_id": "user_id", "item_id": "parent_asin", "rating": "rating"}
    old = {"user_id": "reviewerID", "item_id": "asin", "rating": "overall"}
    for names, time, bought, unit in (
        (new, "timestamp", "verified_purchase", "ms"),
        (old, "unixReviewTime", "verified", "s"),
    ):
        if names["user_id"] in fields and names["item_id"] in fields:
            columns = {**names, "timestamp": time} | ({"verified": bought} if verified else {})
            return columns, unit  # type: ignore[return-value]
    raise ValueError(
        f"{path}: not reviews of Amazon 2023, 2018 or 2014; found {fields}, expected "
        f"{[*new.values(), 'timestamp']} or {[*old.values(), 'unixReviewTime']}."
    )


def _products(
    pattern: str | Path,
    wanted: set[str],
    describe: Sequence[Part],
    bad_rows: BadRows,
    progress: Progress,
) -> pl.DataFrame:
    rows: dict[str, tuple[Any, ...]] = {}
    paths = tables.files(pattern, what="product metadata as JSON lines")
    for done, path in enumerate(paths, 1):
        for number, product in whole_lines(path, bad_rows, ids=("parent_asin", "asin")):
            item_id = as_text(product.get("parent_asin") or product.get("asin"))
            if item_id is None:
                raise ValueError(
                    f"{path}: line {number} has neither parent_asin nor asin; found "
                    f"{list(product)}. Is it the metadata file, not the reviews?"
                )
            if item_id in rows:
                bad_rows.count("repeated_parent_asin")
            elif item_id not in wanted:
                bad_rows.count("item_without_review")
            else:
                rows[item_id] = product_row(item_id, product, describe)
        progress("read products", done, len(paths))
    return pl.DataFrame(list(rows.values()), schema=_ITEM_SCHEMA, orient="row")


def product_row(
    item_id: str, product: Mapping[str, Any], describe: Sequence[Part]
) -> tuple[Any, ...]:
    """Returns one product of any of the three layouts as a row of item_id, title, description, ..."""
    texts = {
        "description": _prose(product.get("description")),
        "features": _prose(product.get("features") or product.get("feature")),
    }
    category = product.get("categories") or product.get("category")
    return (
        item_id,
        _prose(product.get("title")),
        " ".join(text for part in describe if (text := texts[part])),
        image_of(product),
        _prose(product.get("store") or product.get("brand")),
        _prose(product.get("main_category") or product.get("main_cat")),
        without_markup(as_text(category)),
        texts["features"],
        price_of(product.get("price")),
    )


def _prose(value: object) -> str | None:
    text = without_markup(as_text(value, " "))
    return None if text is None or text.lower() in ("none", "nan", "null") else text


def price_of(value: object) -> float | None:
    """Returns a price: a number, or the first one of "$12.99", "from 12.99", "$1,299.00 - $1,500"."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        return float(value) if value == value and value >= 0 else None
    match = _PRICE.match(str(value))
    return float(match[1].replace(",", "")) if match else None


def image_of(product: Mapping[str, Any]) -> str | None:
    """Returns the URL of a product's MAIN image, else of its first, at its largest size.

    `images` is a list of {variant, hi_res, large, thumb} (the files of 2023) or an object of lists
    (what `datasets` makes of it); 2018 has imageURLHighRes and imageURL, 2014 imUrl.
    """
    images = product.get("images")
    if isinstance(images, Mapping):
        names = [name for name in ("variant", *_SIZES) if isinstance(images.get(name), list)]
        longest = max((len(images[name]) for name in names), default=0)
        images = [{n: images[n][i] for n in names if i < len(images[n])} for i in range(longest)]
    if isinstance(images, list):
        shown = [image for image in images if isinstance(image, Mapping)]
        for image in sorted(shown, key=lambda i: i.get("variant") != "MAIN"):
            for size in _SIZES:
                if url := as_text(image.get(size)):
                    return url
    for name in ("imageURLHighRes", "imageURL", "imUrl"):
        value = product.get(name)
        if url := as_text(value[0] if isinstance(value, list) and value else value):
            return url
    return None
