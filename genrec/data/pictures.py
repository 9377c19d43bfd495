"""Where an item's picture comes from: a folder that no path leaves, or a URL that is fetched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from genrec.data.addresses import Resolve, resolve
from genrec.data.download import DEFAULT, Policy, download
from genrec.data.images import attach_images, verify_images
from genrec.data.source import BadRows
from genrec.progress import Progress, silent

DOWNLOAD = "download"
_NOTHING = pl.lit(None, dtype=pl.String)
_URL = r"(?i)^[a-z][a-z0-9+.-]*://"


def place_images(
    items: pl.DataFrame,
    images: str | Path | None,
    *,
    bad_rows: BadRows,
    where: str | Path,
    max_bytes: int = 20_000_000,
    max_pixels: int = 50_000_000,
    progress: Progress = silent,
) -> pl.DataFrame:
    """Returns `items` with `image` as a checked absolute path or null, and URLs in `image_url`.

    Args:
        items: item_id and image: what the owner wrote, a path or a URL, or null.
        images: a folder: paths start there and never leave it, by `..`, from the root or through a
            link; where no item has anything written, pictures are found by item id. "download":
            URLs stay in `image_url`, to be fetched. None: no pictures.
        bad_rows: a picture that cannot be used is an error, or null and counted.
        where: the catalogue's file, for messages.
        max_bytes: largest picture file.
        max_pixels: largest width x height of a picture.
        progress: told "check images".

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: a picture that cannot be used, unless they are dropped.
    """
    if images == DOWNLOAD:
        urls = _without(items, _not_fetched, bad_rows, where, "image_not_a_url")
        return items.with_columns(image_url=pl.Series(urls, dtype=pl.String), image=_NOTHING)
    is_url = pl.col("image").str.contains(_URL)
    if items.select(is_url.any()).item():
        items = items.with_columns(image_url=pl.when(is_url).then("image"))
    if images is None:
        return items.with_columns(image=_NOTHING)
    if not items["image"].count():
        items = attach_images(items, images)
    else:
        folder = Path(images).resolve()
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{folder}: no such folder; expected the pictures that {where} names. Correct "
                "prepare.source.images, or set it to null."
            )
        kept = _without(items, lambda i: _outside(folder, i), bad_rows, where, "image_refused")
        paths = [None if image is None else str(folder / image) for image in kept]
        items = items.with_columns(image=pl.Series(paths, dtype=pl.String))
    items, lost = verify_images(
        items,
        on_bad=bad_rows.on_bad,
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        progress=progress,
    )
    if lost:
        bad_rows.count("unreadable_image", lost)
    return items


@dataclass(frozen=True)
class Fetched:
    """What `fetch` did.

    Attributes:
        items: the table with `image` set where the picture is there.
        failures: item_id, image_url, reason (String): those that are not.
        counts: image_fetched (now), image_cached (before), image_<reason> of each failure.
    """

    items: pl.DataFrame
    failures: pl.DataFrame
    counts: dict[str, int]


def fetch(
    items: pl.DataFrame,
    folder: str | Path,
    *,
    policy: Policy = DEFAULT,
    resolve: Resolve = resolve,
    progress: Progress = silent,
) -> Fetched:
    """Fetches the pictures of the items that a dataset has in the end.

    Args:
        items: item_id, image, and image_url (a URL or null).
        folder: the cache of `download.download`.
        policy: limits and retries.
        resolve: from host to addresses.
        progress: told "fetch images".

    Raises:
        ValueError: not one picture of many could be had, so something else is wrong.
    """
    urls = items["image_url"].drop_nulls().to_list()
    found = download(urls, folder, policy=policy, resolve=resolve, progress=progress)
    if urls and not found.paths:
        raise ValueError(
            f"prepare.source.images=download: not one of {len(urls)} pictures could be fetched "
            f"({found.reasons}; first: {urls[0]}). Look at the network; for a picture server in "
            "your own network set runtime.downloads.allow_private=true; for none, images=null."
        )
    paths = {url: str(path) for url, path in found.paths.items()}
    image = pl.col("image_url").replace_strict(paths, default=None, return_dtype=pl.String)
    reason = pl.col("image_url").replace_strict(
        found.failures, default=None, return_dtype=pl.String
    )
    failures = items.select("item_id", "image_url", reason=reason).drop_nulls("reason")
    counts = {"image_fetched": found.fetched, "image_cached": len(paths) - found.fetched}
    counts |= {f"image_{name}": count for name, count in found.reasons.items()}
    return Fetched(items.with_columns(image=image), failures, counts)


def _without(
    items: pl.DataFrame,
    problem_of: Callable[[str], str | None],
    bad_rows: BadRows,
    where: str | Path,
    reason: str,
) -> list[str | None]:
    """Returns the images as written, null where there is a problem and bad rows are dropped."""
    images: list[str | None] = []
    for item_id, image in zip(items["item_id"], items["image"], strict=True):
        problem = None if image is None else problem_of(image)
        if problem and bad_rows.on_bad == "error":
            bad_rows.fail(
                where,
                f"the image of item {item_id!r} is {image!r}: {problem}",
                "Correct it or leave it empty (items without image are fine)",
            )
        if problem:
            bad_rows.count(reason)
        images.append(None if problem else image)
    return images


def _not_fetched(image: str) -> str | None:
    fits = image.lower().startswith(("http://", "https://"))
    return None if fits else "expected a URL that begins with http:// or https://"


def _outside(folder: Path, image: str) -> str | None:
    if "://" in image:
        return "a URL, expected a path; prepare.source.images=download fetches URLs"
    if "\0" in image:
        return "expected a path"
    found = (folder / image).resolve()  # links are followed to where they lead
    return None if found.is_relative_to(folder) else f"a path that leads out of {folder}"
