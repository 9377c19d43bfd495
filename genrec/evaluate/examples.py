"""Users to look at: their histories and lists as cards with titles and small images."""

from __future__ import annotations

import base64
import functools
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image, ImageOps, UnidentifiedImageError

from genrec import schema
from genrec.data.images import FORMATS

THUMBNAIL = 96  # pixels of the longer side


@dataclass(frozen=True, slots=True)
class Card:
    """One item as the report shows it.

    Attributes:
        title: plain text, from the catalogue.
        image: a `data:` URI; None where the item has no image.
        place: place in the list, or None in a history.
        hit: whether it is the held-out item.
    """

    title: str
    image: str | None
    place: int | None = None
    hit: bool = False


@dataclass(frozen=True, slots=True)
class UserExample:
    """One user as the report shows them.

    Attributes:
        user: the user's number.
        history: newest last, cut to the newest ones.
        older: how many older items are not shown.
        target: the held-out item.
        lists: the recommended cards by system, best first.
    """

    user: int
    history: tuple[Card, ...]
    older: int
    target: Card
    lists: Mapping[str, tuple[Card, ...]]


def pick_users(targets: pl.DataFrame, *, count: int = 10, seed: int = 0) -> list[int]:
    """Draws users at random, whatever their lists look like; ascending.

    Args:
        targets: schema `SPLIT`.
        count: how many; all of them where there are fewer.
        seed: same seed, same users.
    """
    users = np.sort(targets["user"].to_numpy())
    chosen = np.random.default_rng(seed).choice(users, size=min(count, len(users)), replace=False)
    return sorted(int(user) for user in chosen)


def user_examples(
    users: Sequence[int],
    *,
    systems: Mapping[str, pl.DataFrame],
    targets: pl.DataFrame,
    items: pl.DataFrame,
    image_root: str | Path = ".",
    k: int = 10,
    max_history: int = 9,
) -> list[UserExample]:
    """Builds the cards of some users.

    Args:
        users: from `pick_users`.
        systems: recommendations table by system name.
        targets: schema `SPLIT`.
        items: schema `ITEMS`; row i is item i.
        image_root: the folder at which relative paths in `items` start.
        k: how long a list to show.
        max_history: how many of the newest history items to show.

    Raises:
        ValueError: a user has no row in `targets`.
    """
    schema.check(items, schema.ITEMS, "items")
    known = {user: rest for user, *rest in targets.select("user", "history", "target").rows()}
    unknown = [user for user in users if user not in known]
    if unknown:
        raise ValueError(f"users {unknown} have no row in targets")
    card = functools.partial(
        _card, items["title"].to_list(), _Thumbnails(items["image"], image_root)
    )
    best = {
        name: table.filter(pl.col("user").is_in(list(users)), pl.col("rank") <= k)
        .sort("user", "rank", "item")
        .group_by("user", maintain_order=True)
        .agg(pl.struct("item", "rank"))
        for name, table in systems.items()
    }
    lists = {name: dict(table.iter_rows()) for name, table in best.items()}
    examples = []
    for user in users:
        history, target = known[user]
        examples.append(
            UserExample(
                user=user,
                history=tuple(card(item) for item in history[-max_history:]),
                older=max(0, len(history) - max_history),
                target=card(target),
                lists={
                    name: tuple(
                        card(row["item"], place=row["rank"], hit=row["item"] == target)
                        for row in ranked.get(user, [])[:k]
                    )
                    for name, ranked in lists.items()
                },
            )
        )
    return examples


def _card(
    titles: Sequence[str],
    thumbnails: _Thumbnails,
    item: int,
    *,
    place: int | None = None,
    hit: bool = False,
) -> Card:
    if not 0 <= item < len(titles):
        return Card(f"not an item ({item})", None, place, hit)
    return Card(titles[item], thumbnails[item], place, hit)


class _Thumbnails:
    """Thumbnails by item, each made once."""

    def __init__(self, paths: pl.Series, root: str | Path) -> None:
        self._paths, self._root = paths.to_list(), Path(root)
        self._made: dict[int, str | None] = {}

    def __getitem__(self, item: int) -> str | None:
        if item not in self._made:
            path = self._paths[item]
            self._made[item] = None if path is None else thumbnail(self._root / path)
        return self._made[item]


def thumbnail(path: str | Path) -> str | None:
    """Returns an image as a `data:` URI of at most 96 pixels, or None where it cannot be read.

    An image that went missing since `prepare` is no reason to lose a report: it warns instead.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            small = ImageOps.exif_transpose(image).convert("RGBA")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        warnings.warn(f"{path}: no thumbnail, the image cannot be read ({error})", stacklevel=2)
        return None
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    flat = Image.new("RGB", small.size, "white")
    flat.paste(small, mask=small.getchannel("A"))
    buffer = io.BytesIO()
    flat.save(buffer, "JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
