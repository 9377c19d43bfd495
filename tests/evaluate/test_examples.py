from __future__ import annotations

import base64
import io
import warnings
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from genrec import schema
from genrec.evaluate import Card, pick_users, user_examples
from genrec.evaluate.examples import thumbnail


def split_table(rows: list[tuple[int, list[int], int]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=dict(schema.SPLIT), orient="row")


def decoded(uri: str) -> Image.Image:
    head, data = uri.split(",", 1)
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_users_are_drawn_by_seed() -> None:
    targets = split_table([(3 * u, [], 0) for u in range(50)])
    first = pick_users(targets, seed=1)
    assert first == pick_users(targets.reverse(), seed=1) == sorted(set(first))
    assert len(first) == 10
    assert set(first) <= set(targets["user"])
    assert first != pick_users(targets, seed=2)
    assert pick_users(targets.head(3)) == [0, 3, 6]


def test_cards_show_history_target_and_hits(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "2.png")
    items = pl.DataFrame(
        {
            "item": range(5),
            "item_id": list("abcde"),
            "title": [f"title {i}" for i in range(5)],
            "description": [""] * 5,
            "image": [None, None, "2.png", None, None],
        },
        schema=dict(schema.ITEMS),
    )
    table = pl.DataFrame(
        [(7, 2, 1.0, 1), (7, 4, 0.5, 2), (7, 1, 0.5, 2), (8, 0, 1.0, 1)],
        schema=dict(schema.RECOMMENDATIONS),
        orient="row",
    )
    targets = split_table([(7, [0, 1, 3], 4), (9, [], 0)])
    seven, nine = user_examples(
        [7, 9],
        systems={"generative": table},
        targets=targets,
        items=items,
        image_root=tmp_path,
        k=3,
        max_history=2,
    )
    assert (seven.user, seven.older) == (7, 1)
    assert [card.title for card in seven.history] == ["title 1", "title 3"]
    assert seven.target == Card("title 4", None)
    shown = seven.lists["generative"]
    assert [(c.title, c.place, c.hit) for c in shown] == [
        ("title 2", 1, False),
        ("title 1", 2, False),
        ("title 4", 2, True),
    ]
    assert decoded(shown[0].image).size == (8, 8)
    assert nine.lists == {"generative": ()}
    assert nine.history == ()
    with pytest.raises(ValueError, match=r"users \[8\] have no row"):
        user_examples([8], systems={}, targets=targets, items=items)


def test_thumbnails_are_small_and_keep_their_shape(tmp_path: Path) -> None:
    Image.new("RGB", (400, 200), "blue").save(tmp_path / "wide.jpg")
    assert decoded(thumbnail(tmp_path / "wide.jpg")).size == (96, 48)


def test_what_is_transparent_becomes_white(tmp_path: Path) -> None:
    Image.new("RGBA", (20, 20), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert decoded(thumbnail(tmp_path / "clear.png")).getpixel((5, 5)) == (255, 255, 255)


@pytest.mark.parametrize("content", [None, b"", b"not an image", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_an_unreadable_image_warns_by_name(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "broken.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.warns(UserWarning, match=r"broken\.png"):
        assert thumbnail(path) is None


def test_only_the_formats_of_prepare_are_decoded(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "really.png", format="TIFF")
    with pytest.warns(UserWarning, match=r"really\.png"):
        assert thumbnail(tmp_path / "really.png") is None


def test_an_image_is_read_once(tmp_path: Path) -> None:
    """A broken image on two cards is one warning."""
    items = pl.DataFrame([(0, "a", "t", "", "gone.png")], schema=dict(schema.ITEMS), orient="row")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        user_examples(
            [0],
            systems={},
            targets=split_table([(0, [0, 0], 0)]),
            items=items,
            image_root=tmp_path,
        )
    assert len(caught) == 1
