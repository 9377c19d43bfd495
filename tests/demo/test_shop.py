"""The demo shop: same seed, same bytes; the truth kept apart; something to learn."""

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from genrec.data import RawData, prepare, verify_images
from genrec.demo import make_demo
from genrec.demo.catalogue import make_products
from genrec.demo.interests import INTERESTS
from genrec.demo.shop import draw
from genrec.demo.vocabulary import CATEGORIES, COLOURS, PATTERNS, SILHOUETTES

SMALL = {"items": 60, "users": 40, "image_size": 32}


def digest(folder: Path) -> str:
    found = hashlib.sha256()
    for path in sorted((folder / "images").iterdir()):
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()


def same(one: RawData, two: RawData) -> bool:
    return (
        one.items.equals(two.items)
        and one.interactions.equals(two.interactions)
        and all(one.truth[name].equals(two.truth[name]) for name in one.truth)
    )


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    a, b, other = (tmp_path / name for name in "abc")
    first, second = make_demo(a, seed=3, **SMALL), make_demo(b, seed=3, **SMALL)
    assert same(first, second)
    assert digest(a) == digest(b)
    assert not same(first, make_demo(other, seed=4, **SMALL))
    assert digest(a) != digest(other)


def test_tables_and_images_fit_together(tmp_path: Path) -> None:
    seen: dict[str, tuple[int, int]] = {}
    raw = make_demo(
        tmp_path, progress=lambda step, done, total: seen.update({step: (done, total)}), **SMALL
    )
    assert seen == {"draw products": (60, 60), "make choices": (40, 40)}
    assert raw.items["image"][0] == "images/p0001.png"
    assert verify_images(raw.items, root=tmp_path)[1] == 0
    with Image.open(tmp_path / "images" / "p0060.png") as image:
        assert image.size == (32, 32)
    lengths = raw.interactions.group_by("user_id").len()["len"]
    assert lengths.is_between(6, 20).all()
    assert not raw.interactions.select("user_id", "item_id").is_duplicated().any()
    times = raw.interactions.group_by("user_id").agg(pl.col("timestamp").diff().drop_nulls())
    assert times.explode("timestamp")["timestamp"].to_numpy().min() >= 3600
    assert prepare(raw, core=0).stats["dropped"] == {}


def test_the_truth_stays_out_of_the_data(tmp_path: Path) -> None:
    raw = make_demo(tmp_path, **SMALL)
    assert raw.items.columns == [
        *("item_id", "title", "description", "image", "brand", "category", "material", "price")
    ]
    assert raw.truth["items"].columns == [
        *("item_id", "category", "colour", "pattern", "silhouette", "interests"),
        *("mentions_colour", "mentions_pattern", "mentions_silhouette", "tier"),
    ]
    choices = raw.truth["choices"]
    assert choices.drop("reason").equals(raw.interactions)
    assert set(choices["reason"]) == {"category", "visual", "interest", "popular"}
    assert set(raw.truth["items"]["interests"].explode()) <= set(raw.truth["interests"]["interest"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"items": 19}, "prepare.source.items: found 19, expected at least 20"),
        ({"users": 0}, "prepare.source.users: found 0"),
        ({"image_size": 4}, "prepare.source.image_size: found 4"),
    ],
)
def test_bad_settings(tmp_path: Path, options: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_demo(tmp_path, **options)


def pixels(category: str, colour: str, pattern: str, silhouette: str) -> np.ndarray:
    """One product's image, alike in everything that is not asked for."""
    product = make_products(20, seed=1)[0]
    traits = {"colour": colour, "pattern": pattern, "silhouette": silhouette}
    changed = replace(product, category=category, title="", description="", **traits)
    return np.asarray(draw(changed, size=48, seed=0), dtype=float)


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_trait_is_drawn(category: str) -> None:
    base = ("red", "solid", "tall")
    for place, values in enumerate((COLOURS, PATTERNS, SILHOUETTES)):
        looks = [pixels(category, *base[:place], v, *base[place + 1 :]) for v in values]
        for i, one in enumerate(looks):
            for other in looks[i + 1 :]:
                assert np.abs(one - other).max(axis=2).mean() > 1.0


def test_text_and_price_are_not_drawn() -> None:
    one, other = (make_products(40, seed=s)[0] for s in (1, 2))
    assert one.title != other.title
    traits = {t: getattr(one, t) for t in ("category", "colour", "pattern", "silhouette")}
    alike = replace(other, **traits)
    assert draw(one, size=32, seed=0).tobytes() == draw(alike, size=32, seed=0).tobytes()


def recall(scores: np.ndarray, test: pl.DataFrame, k: int = 10) -> float:
    for user, history in enumerate(test["history"].to_list()):
        scores[user, history] = -np.inf
    top = np.argsort(-scores, axis=1)[:, :k]
    return float((top == test["target"].to_numpy()[:, None]).any(axis=1).mean())


def test_there_is_something_to_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Co-occurrence beats popularity clearly on the demo of the default recipe."""
    monkeypatch.setattr("genrec.demo.shop.draw", lambda *a, **k: Image.new("L", (1, 1)))
    done = prepare(make_demo(tmp_path), core=5)
    n, histories = len(done.items), done.test["history"].to_list()
    assert n > 700
    chosen = np.zeros((len(done.users), n))
    for user, history in enumerate(histories):
        chosen[user, history] = 1
    popular = np.tile(chosen.sum(axis=0), (len(chosen), 1))
    together = chosen.T @ chosen
    np.fill_diagonal(together, 0)
    by_popularity = recall(popular, done.test)
    by_cooccurrence = recall(chosen @ together, done.test)
    assert 0.03 < by_popularity < 0.08
    assert by_cooccurrence > 2 * by_popularity


def test_interests_are_well_formed() -> None:
    assert len(INTERESTS) == 24
    for interest in INTERESTS.values():
        assert set(interest.categories) <= set(CATEGORIES)
        made = {m for c in interest.categories for m in CATEGORIES[c].materials}
        assert set(interest.materials) <= made
    for category in CATEGORIES.values():
        assert set(category.leads_to) <= set(CATEGORIES)


def test_hidden_means_that_no_word_tells_the_look(tmp_path: Path) -> None:
    raw = make_demo(tmp_path, items=120, users=150, image_size=32)
    assert raw.groups is not None
    choices, items = raw.truth["choices"], raw.truth["items"]
    by_group = {name: table for (name,), table in raw.groups.group_by("group")}
    for reason in ("category", "visual", "interest", "popular"):
        expected = choices.filter(reason=reason).select("user_id", "item_id")
        assert by_group[reason].select("user_id", "item_id").equals(expected)
    hidden, named = by_group["visual, hidden"], by_group["visual, named"]
    assert len(hidden) + len(named) == len(by_group["visual"])
    assert 0.15 < len(hidden) / len(by_group["visual"]) < 0.4  # 0.65 ** 3 of the products
    words = pl.concat_str("title", "description", separator=" ").str.to_lowercase()
    texts = dict(raw.items.select("item_id", words).iter_rows())
    truth = {row["item_id"]: row for row in items.iter_rows(named=True)}

    def words_told(item_id: str) -> int:
        row = truth[item_id]
        shapes = CATEGORIES[row["category"]].shapes
        words = (*COLOURS, *PATTERNS.values(), *shapes)
        return sum(bool(re.search(rf"\b{word}\b", texts[item_id])) for word in words)

    assert all(words_told(item_id) == 0 for item_id in hidden["item_id"])
    assert all(words_told(item_id) > 0 for item_id in named["item_id"])
