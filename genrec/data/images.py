"""Items' images: from a folder that no path leaves, by item id, or a URL; checked before use.

Ids are matched against the folder's listing, never joined into a path, so no id reaches outside it.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import polars as pl
from PIL import Image, ImageOps, UnidentifiedImageError

from genrec.data.source import BadRows, OnBad
from genrec.progress import Progress, silent

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")  # decoders without side effects; no EPS, no PDF
MAX_BYTES = 20_000_000
MAX_PIXELS = 50_000_000
DOWNLOAD = "download"
_NOTHING = pl.lit(None, dtype=pl.String)
_URL = r"(?i)^[a-z][a-z0-9+.-]*://"


def find_images(folder: str | Path) -> dict[str, str]:
    """Returns the absolute path of every image `<item_id>.jpg|jpeg|png|webp` in a folder, by id.

    Where one id has several files, the first suffix of that list wins.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it has no image.
    """
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: no such folder; expected images named <item_id>.jpg, .png or .webp. "
            "Correct the images path in the recipe's prepare.source, or set it to null."
        )
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        suffix = path.suffix.lower()
        if suffix not in SUFFIXES or not path.is_file():
            continue
        known = files.get(path.stem)
        if known is None or SUFFIXES.index(suffix) < SUFFIXES.index(known.suffix.lower()):
            files[path.stem] = path
    if not files:
        raise ValueError(f"{folder}: no images; expected <item_id>.jpg, .jpeg, .png or .webp.")
    return {item_id: str(path) for item_id, path in files.items()}


def attach_images(items: pl.DataFrame, folder: str | Path | None) -> pl.DataFrame:
    """Returns `items` with the column `image`: the item's image in `folder`, or null.

    Args:
        items: has item_id.
        folder: see `find_images`; None gives an all-null column.

    Raises:
        FileNotFoundError: as `find_images`.
        ValueError: as `find_images`, or no image is named after any item.
    """
    if folder is None:
        return items.with_columns(image=pl.lit(None, dtype=pl.String))
    files = find_images(folder)
    images = [files.get(item_id) for item_id in items["item_id"]]
    if not any(images):
        raise ValueError(
            f"{folder}: none of the {len(files)} images is named after an item; found "
            f"{sorted(files)[:3]}, expected names such as {items['item_id'].head(3).to_list()}."
        )
    return items.with_columns(image=pl.Series(images, dtype=pl.String))


def verify_images(
    items: pl.DataFrame,
    *,
    root: str | Path | None = None,
    on_bad: OnBad = "error",
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
    progress: Progress = silent,
) -> tuple[pl.DataFrame, int]:
    """Decodes every image once, so that a broken one is found now and not hours later.

    Args:
        items: item_id and image (a path or null).
        root: what relative image paths start at; the current folder where None.
        on_bad: "error" raises on the first unreadable image; "drop" makes it null and counts it.
        max_bytes: largest file that is opened.
        max_pixels: largest width x height that is decoded (a small file can claim a huge image).
        progress: called with "check images".

    Returns:
        `items`, with null for every image that was left out, and how many those are.

    Raises:
        ValueError: an image is missing, broken or too large, and `on_bad` is "error".
    """
    bad_rows, start = BadRows(on_bad), Path(root or ".")
    images: list[str | None] = items["image"].to_list()
    for row, (item_id, image) in enumerate(zip(items["item_id"], images, strict=True)):
        if image is not None:
            problem = image_problem(start / image, max_bytes=max_bytes, max_pixels=max_pixels)
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


def place_images(
    items: pl.DataFrame,
    images: str | Path | None,
    *,
    bad_rows: BadRows,
    where: str | Path,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
    progress: Progress = silent,
) -> pl.DataFrame:
    """Returns `items` with `image` as a checked absolute path or null, and URLs in `image_url`.

    Args:
        items: item_id and image: what the owner wrote, a path or a URL, or null.
        images: a folder: paths start there and never leave it, by `..`, from the root or through a
            link; where no item has anything written, images are found by item id. "download":
            URLs stay in `image_url`, to be fetched. None: no images.
        bad_rows: an image that cannot be used is an error, or null and counted.
        where: the catalogue's file, for messages.
        max_bytes: largest image file.
        max_pixels: largest width x height of an image.
        progress: called with "check images".

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: an image that cannot be used, unless they are dropped.
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
                f"{folder}: no such folder; expected the images that {where} names. Correct "
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
    path = (folder / image).resolve()  # links are followed to where they lead
    return None if path.is_relative_to(folder) else f"a path that leads out of {folder}"


class BadImage(ValueError):
    """An image that cannot or must not be decoded; the message says which and why.

    Attributes:
        reason: why.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"bad image: {path.name}: {reason}")
        self.reason = reason


def check_size(path: Path, *, max_bytes: int | None = MAX_BYTES) -> None:
    """Refuses a file that is missing or too large, without reading it.

    Raises:
        BadImage: there is no such file, or it has more than `max_bytes`.
    """
    if not path.is_file():
        raise BadImage(path, "no such file")
    if max_bytes is not None and (size := path.stat().st_size) > max_bytes:
        raise BadImage(path, f"{size:,} bytes, expected at most {max_bytes:,}")


def open_image(
    path: Path,
    *,
    longest_side: int | None = None,
    max_bytes: int | None = MAX_BYTES,
    max_pixels: int | None = MAX_PIXELS,
) -> Image.Image:
    """Decodes an image for a model: upright, RGB, transparency on white, no larger than asked.

    The file's size is looked at before it is read, its header before it is decoded, and only decoders
    without side effects are tried: images come from anyone's catalogue.

    Args:
        path: a file in one of `FORMATS`; of a moving image the first frame counts.
        longest_side: in pixels; larger images are shrunk to it, smaller ones stay. None: as it is.
        max_bytes: of the file; None: any.
        max_pixels: width times height in the header; a small file can claim a huge image. None: any.

    Raises:
        BadImage: it breaks a limit, or cannot be decoded to its end.
    """
    check_size(path, max_bytes=max_bytes)
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images while it reads the header; our own limit comes after.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            upright = _decode(path, max_pixels)
    except BadImage:
        raise
    except UnidentifiedImageError as error:
        raise BadImage(path, f"not an image; expected one of {', '.join(FORMATS)}") from error
    except (
        OSError,
        SyntaxError,  # Pillow's word for a broken PNG
        TypeError,  # TypeError and struct.error: broken EXIF
        ValueError,
        struct.error,
        Image.DecompressionBombError,
    ) as error:
        raise BadImage(path, str(error)) from error
    canvas = Image.new("RGBA", upright.size, "white")
    image = Image.alpha_composite(canvas, upright).convert("RGB")
    if longest_side is not None:
        image.thumbnail((longest_side, longest_side), Image.Resampling.LANCZOS)
    return image


def _decode(path: Path, max_pixels: int | None) -> Image.Image:
    with Image.open(path, formats=FORMATS) as image:  # reads the header alone
        if max_pixels is not None and (pixels := image.width * image.height) > max_pixels:
            raise BadImage(path, f"{pixels:,} pixels, expected at most {max_pixels:,}")
        return ImageOps.exif_transpose(image).convert("RGBA")


def item_image(path: Path, row: int) -> Image.Image:
    """Returns an item's image, upright, RGB on white; names the item where it cannot."""
    try:
        return open_image(path, max_bytes=None, max_pixels=None)  # `prepare` has its own limits
    except BadImage as error:
        raise ValueError(
            f"item {row}: the image {path} cannot be read ({error.reason}). "
            "Replace the file or remove it (items without image are fine)"
        ) from error


def image_problem(path: Path, *, max_bytes: int, max_pixels: int) -> str | None:
    """Says what is wrong with an image; None if it decodes.

    Args:
        path: the file.
        max_bytes: largest file that is opened.
        max_pixels: largest width x height that is decoded.
    """
    try:
        open_image(path, longest_side=1, max_bytes=max_bytes, max_pixels=max_pixels)
    except BadImage as error:
        return error.reason
    return None


def suffix_of(path: Path) -> str:
    """Returns the suffix that fits an image's content, whatever its name says."""
    with Image.open(path, formats=FORMATS) as image:
        name = str(image.format).lower()
    return {"jpeg": ".jpg"}.get(name, f".{name}")
