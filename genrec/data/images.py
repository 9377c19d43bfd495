"""Item pictures on disk: found by item id, and looked at before anything depends on them.

Ids are matched against the folder's listing, never joined into a path, so no id reaches outside it.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import polars as pl
from PIL import Image, UnidentifiedImageError

from genrec.data.source import BadRows, OnBad
from genrec.progress import Progress, silent

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")  # decoders without side effects; no EPS, no PDF


def find_images(folder: str | Path) -> dict[str, str]:
    """Returns the absolute path of every picture `<item_id>.jpg|jpeg|png|webp` in a folder, by id.

    Where one id has several files, the first suffix of that list wins.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it has no picture.
    """
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: no such folder; expected pictures named <item_id>.jpg, .png or .webp. "
            "Correct the images path in the recipe's prepare.source, or set it to null."
        )
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        suffix = path.suffix.lower()
        if suffix not in SUFFIXES or not path.is_file():
            continue
        known = found.get(path.stem)
        if known is None or SUFFIXES.index(suffix) < SUFFIXES.index(known.suffix.lower()):
            found[path.stem] = path
    if not found:
        raise ValueError(f"{folder}: no pictures; expected <item_id>.jpg, .jpeg, .png or .webp.")
    return {item_id: str(path) for item_id, path in found.items()}


def attach_images(items: pl.DataFrame, folder: str | Path | None) -> pl.DataFrame:
    """Returns `items` with the column `image`: the item's picture in `folder`, or null.

    Args:
        items: has item_id.
        folder: see `find_images`; None gives an all-null column.

    Raises:
        FileNotFoundError: as `find_images`.
        ValueError: as `find_images`, or no picture is named after any item.
    """
    if folder is None:
        return items.with_columns(image=pl.lit(None, dtype=pl.String))
    found = find_images(folder)
    images = [found.get(item_id) for item_id in items["item_id"]]
    if not any(images):
        raise ValueError(
            f"{folder}: none of the {len(found)} pictures is named after an item; found "
            f"{sorted(found)[:3]}, expected names such as {items['item_id'].head(3).to_list()}."
        )
    return items.with_columns(image=pl.Series(images, dtype=pl.String))


def verify_images(
    items: pl.DataFrame,
    *,
    root: str | Path | None = None,
    on_bad: OnBad = "error",
    max_bytes: int = 20_000_000,
    max_pixels: int = 50_000_000,
    progress: Progress = silent,
) -> tuple[pl.DataFrame, int]:
    """Decodes every picture once, so that a broken one is found now and not hours later.

    Args:
        items: item_id and image (a path or null).
        root: what relative image paths start at; the current folder where None.
        on_bad: "error" raises on the first unreadable picture; "drop" makes it null and counts it.
        max_bytes: largest file that is opened.
        max_pixels: largest width x height that is decoded (a small file can claim a huge picture).
        progress: told "check images".

    Returns:
        `items`, with null for every picture that was left out, and how many those are.

    Raises:
        ValueError: a picture is missing, broken or too large, and `on_bad` is "error".
    """
    bad_rows, start = BadRows(on_bad), Path(root or ".")
    images: list[str | None] = items["image"].to_list()
    for row, (item_id, image) in enumerate(zip(items["item_id"], images, strict=True)):
        if image is not None:
            problem = picture_problem(start / image, max_bytes=max_bytes, max_pixels=max_pixels)
            if problem and on_bad == "error":
                bad_rows.fail(
                    start / image,
                    f"the image of item {item_id!r} cannot be used: {problem}",
                    "Replace the file or remove it (items without image are fine)",
                )
            if problem:
                images[row] = None
                bad_rows.count("unreadable_image")
        progress("check images", row + 1, len(images))
    checked = items.with_columns(image=pl.Series(images, dtype=pl.String))
    return checked, bad_rows.dropped.get("unreadable_image", 0)


def picture_problem(path: Path, *, max_bytes: int, max_pixels: int) -> str | None:
    """Says what is wrong with a picture; None if it decodes.

    Args:
        path: the file.
        max_bytes: largest file that is opened.
        max_pixels: largest width x height that is decoded.
    """
    if not path.is_file():
        return "no such file"
    if (size := path.stat().st_size) > max_bytes:
        return f"{size:,} bytes, expected at most {max_bytes:,}"
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures while it reads the header; our own limit comes after.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                if (pixels := image.width * image.height) > max_pixels:
                    return f"{pixels:,} pixels, expected at most {max_pixels:,}"
                image.load()  # verify() alone passes truncated JPEGs
    except UnidentifiedImageError:
        return f"not a picture; expected one of {', '.join(FORMATS)}"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return str(error)
    return None


def suffix_of(path: Path) -> str:
    """Returns the suffix that fits a picture's content, whatever its name says."""
    with Image.open(path, formats=FORMATS) as image:
        name = str(image.format).lower()
    return {"jpeg": ".jpg"}.get(name, f".{name}")
