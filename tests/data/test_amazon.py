"""Amazon's three layouts with their real field names and quirks."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from genrec.data import hub_files, prepare, read_amazon
from genrec.data.amazon import image_of, price_of

URL = "https://m.media-amazon.com/images/I"


def review(user: str, item: str, rating: float, time: int, **more: Any) -> dict[str, Any]:
    """A line of raw/review_categories/<category>.jsonl."""
    return {
        "rating": rating,
        "title": "Nice",
        "text": "Works.<br />Would buy again",
        "images": [],
        "asin": f"{item}-variant",
        "parent_asin": item,
        "user_id": user,
        "timestamp": time,
        "helpful_vote": 0,
        "verified_purchase": True,
    } | more


def product(item: str, title: str | None, **more: Any) -> dict[str, Any]:
    """A line of raw/meta_categories/meta_<category>.jsonl."""
    return {
        "main_category": "All Beauty",
        "title": title,
        "average_rating": 4.5,
        "rating_number": 123,
        "features": [],
        "description": [],
        "price": None,
        "images": [],
        "videos": [],
        "store": None,
        "categories": [],
        "details": '{"Brand": "X"}',
        "parent_asin": item,
        "bought_together": None,
    } | more


IMAGES = [
    {
        "thumb": f"{URL}/t1.jpg",
        "large": f"{URL}/l1.jpg",
        "variant": "PT01",
        "hi_res": f"{URL}/h1.jpg",
    },
    {"thumb": f"{URL}/t0.jpg", "large": f"{URL}/l0.jpg", "variant": "MAIN", "hi_res": None},
]
REVIEWS = [
    review("u1", "B1", 5.0, 1588687728923),
    review("u1", "B2", 4.0, 1588687728100, verified_purchase=False),
    review("u2", "B1", 1.0, 1588687729000),
    review("u2", "B3", 5.0, 1588687730000),
]
META = [
    product(
        "B1",
        "Tom &amp; Jerry&#39;s <b>Soap</b>",
        description=["Line one.<br>", "Line two."],
        features=["Soft &amp; mild", "Vegan"],
        price="from 12.99",
        store="Acme",
        categories=["Beauty", "Soap"],
        images=IMAGES,
    ),
    product("B2", "Brush", price=7.5, images=[]),
    product("B3", "", price="None"),
    product("B1", "Again"),
    product("B9", "Never reviewed"),
]


def write(path: Path, rows: list[dict[str, Any]], *, literal: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join((repr(row) if literal else json.dumps(row)) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def read(folder: Path, reviews: Any = REVIEWS, meta: Any = META, **options: Any):
    return read_amazon(
        write(folder / "All_Beauty.jsonl", reviews),
        write(folder / "meta_All_Beauty.jsonl.gz", meta),
        **options,
    )


def test_the_layout_of_2023(tmp_path: Path) -> None:
    raw = read(tmp_path)
    assert raw.items.to_dicts() == [
        {
            "item_id": "B1",
            "title": "Tom & Jerry's Soap",
            "description": "Line one. Line two. Soft & mild Vegan",
            "image": None,
            "store": "Acme",
            "main_category": "All Beauty",
            "categories": "Beauty, Soap",
            "features": "Soft & mild Vegan",
            "price": 12.99,
            "image_url": f"{URL}/l0.jpg",
        },
        {
            **{"item_id": "B2", "title": "Brush", "description": "", "image": None},
            **{"store": None, "main_category": "All Beauty", "categories": None},
            **{"features": None, "price": 7.5, "image_url": None},
        },
    ]
    # In file order, every millisecond kept; B3 has no title and goes with its review.
    assert raw.interactions.rows() == [
        ("u1", "B1", 1588687728923 * 10**6),
        ("u1", "B2", 1588687728100 * 10**6),
        ("u2", "B1", 1588687729000 * 10**6),
    ]
    assert raw.dropped == {
        "interaction_of_item_without_title": 1,
        "item_without_review": 1,
        "item_without_title": 1,
        "repeated_parent_asin": 1,
    }


def test_thresholds(tmp_path: Path) -> None:
    raw = read(tmp_path, min_rating=4)
    assert raw.interactions["user_id"].to_list() == ["u1", "u1"]
    assert raw.dropped["below_min_rating"] == 1
    raw = read(tmp_path, verified=True)
    assert raw.interactions["item_id"].to_list() == ["B1", "B1"]
    assert raw.dropped["unverified_purchase"] == 1


def test_what_the_description_is_made_of(tmp_path: Path) -> None:
    assert read(tmp_path, describe=["features"]).items["description"][0] == "Soft & mild Vegan"


def test_nothing_that_sums_up_the_future_is_kept(tmp_path: Path) -> None:
    names = set(read(tmp_path).items.columns)
    assert not names & {"average_rating", "rating_number", "bought_together"}


def test_ratings_as_csv(tmp_path: Path) -> None:
    path = tmp_path / "All_Beauty.csv"
    rows = "".join(
        f"{r['user_id']},{r['parent_asin']},{r['rating']},{r['timestamp']}\n" for r in REVIEWS
    )
    path.write_text("user_id,parent_asin,rating,timestamp\n" + rows)
    raw = read_amazon(path, write(tmp_path / "meta.jsonl", META))
    assert raw.interactions.equals(read(tmp_path).interactions)


def old_review(user: str, item: str, rating: float, time: int) -> dict[str, Any]:
    return {
        "overall": rating,
        "verified": True,
        "reviewerID": user,
        "asin": item,
        "reviewText": "ok",
        "unixReviewTime": time,
    }


def test_the_layout_of_2018(tmp_path: Path) -> None:
    meta = {
        "category": ["Arts", "Sewing"],
        "description": ["Good &quot;thread&quot;"],
        "title": "Thread",
        "brand": "Coats",
        "feature": ["Strong"],
        "price": "$12.99 - $15.00",
        "imageURL": [f"{URL}/s.jpg"],
        "imageURLHighRes": [f"{URL}/b.jpg"],
        "main_cat": "Arts",
        "asin": "0001",
    }
    reviews = write(tmp_path / "Arts_5.json.gz", [old_review("A1", "0001", 5, 1400000000)])
    raw = read_amazon(reviews, write(tmp_path / "meta_Arts.json.gz", [meta]))
    assert raw.interactions.rows() == [("A1", "0001", 1400000000 * 10**9)]
    assert raw.items.row(0) == (
        *("0001", "Thread", 'Good "thread" Strong', None, "Coats", "Arts", "Arts, Sewing"),
        *("Strong", 12.99, f"{URL}/b.jpg"),
    )


def test_the_layout_of_2014_in_python_literals(tmp_path: Path) -> None:
    meta = {
        "asin": "0001",
        "title": "It's a lamp",
        "description": "Bright",
        "price": 3.17,
        "imUrl": f"{URL}/x.jpg",
        "categories": [["Home", "Lamps"], ["Gifts"]],
        "brand": "Lux",
    }
    reviews = write(tmp_path / "reviews_Home_5.json.gz", [old_review("A1", "0001", 5, 1400000000)])
    raw = read_amazon(reviews, write(tmp_path / "meta_Home.json.gz", [meta], literal=True))
    assert raw.items.row(0) == (
        *("0001", "It's a lamp", "Bright", None, "Lux", None, "Home, Lamps, Gifts"),
        *(None, 3.17, f"{URL}/x.jpg"),
    )


@pytest.mark.parametrize(
    ("written", "price"),
    [
        (None, None),
        ("None", None),
        ("", None),
        (12.5, 12.5),
        (0, 0.0),
        (float("nan"), None),
        ("from 12.99", 12.99),
        ("$1,299.00", 1299.0),
        ("$12.99 - $15.00", 12.99),
        ("8", 8.0),
        (".a-box-inner{background:#fff 10px}", None),
        ("10px wide", None),
        (True, None),
    ],
)
def test_prices(written: Any, price: float | None) -> None:
    assert price_of(written) == price


def test_images() -> None:
    assert image_of({"images": IMAGES}) == f"{URL}/l0.jpg"  # MAIN before a larger other
    assert image_of({"images": IMAGES[:1]}) == f"{URL}/h1.jpg"
    lists = {name: [image[name] for image in IMAGES] for name in IMAGES[0]}
    assert image_of({"images": lists}) == f"{URL}/l0.jpg"  # as `datasets` lays them out
    assert image_of({"images": [{"variant": "MAIN", "thumb": "t", "large": None}]}) == "t"
    assert image_of({"images": [], "imUrl": "u"}) == "u"
    assert image_of({"images": None, "imageURL": []}) is None


def test_images_from_a_folder_by_id(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "images" / "B1.jpg")
    raw = read(tmp_path, images=str(tmp_path / "images"))
    assert raw.items["image"].to_list() == [str(tmp_path / "images" / "B1.jpg"), None]
    assert raw.items["image_url"][0] == f"{URL}/l0.jpg"


def test_products_that_the_metadata_lack(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"1 of 3 interactions .* such as \['B2'\]"):
        read(tmp_path, meta=[META[0], META[2]])
    raw = read(tmp_path, meta=[META[0], META[2]], max_unknown=0.5)
    assert raw.dropped["unknown_item"] == 1


@pytest.mark.parametrize(
    ("reviews", "meta", "said"),
    [
        (META, META, "All_Beauty.jsonl: not reviews of Amazon 2023, 2018 or 2014; found ['main_"),
        (REVIEWS, [{"title": "x"}], "line 1 has neither parent_asin nor asin"),
        (
            [REVIEWS[0] | {"rating": "good"}],
            META,
            "row 1, user_id 'u1', item_id 'B1', rating 'good'",
        ),
        ([REVIEWS[0] | {"timestamp": "x"}], META, "time in 'timestamp' that cannot be read"),
    ],
)
def test_bad_files(tmp_path: Path, reviews: Any, meta: Any, said: str) -> None:
    with pytest.raises(ValueError, match="jsonl") as error:
        read(tmp_path, reviews, meta)
    assert said in str(error.value)


def test_a_folder_laid_out_like_the_hub(tmp_path: Path) -> None:
    write(tmp_path / "raw/review_categories/All_Beauty.jsonl", REVIEWS)
    write(tmp_path / "raw/meta_categories/meta_All_Beauty.jsonl.gz", META)
    reviews, meta = hub_files("All_Beauty", dataset=str(tmp_path))
    assert len(read_amazon(reviews, meta).items) == 2
    with pytest.raises(FileNotFoundError, match=r"Beauty\.jsonl: no such file.*\['All_Beauty'\]"):
        hub_files("Beauty", dataset=str(tmp_path))


def test_the_hub_is_asked_through_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's own download manager runs; only the hub itself is replaced by a folder."""
    write(tmp_path / "hub/raw/review_categories/All_Beauty.jsonl", REVIEWS)
    write(tmp_path / "hub/raw/meta_categories/meta_All_Beauty.jsonl", META)
    import datasets

    fetched: list[str] = []

    class Local(datasets.DownloadManager):
        def download(self, urls: list[str]) -> Any:
            fetched.extend(urls)
            prefix = "hf://datasets/McAuley-Lab/Amazon-Reviews-2023@main/"
            return super().download([str(tmp_path / "hub" / u.removeprefix(prefix)) for u in urls])

    monkeypatch.setattr(datasets, "DownloadManager", Local)
    raw = read_amazon(*hub_files("All_Beauty"))
    assert fetched[0].endswith("@main/raw/review_categories/All_Beauty.jsonl")
    assert raw.items["item_id"].to_list() == ["B1", "B2"]
    with pytest.raises(
        FileNotFoundError, match=r"cannot be had .* Correct prepare\.source\.category"
    ):
        hub_files("Nothing")


def test_through_to_a_split(tmp_path: Path) -> None:
    reviews = [review(f"u{u}", f"B{i}", 5, 1588687728923 + i) for u in range(3) for i in range(4)]
    meta = [product(f"B{i}", f"Thing {i}") for i in range(4)]
    done = prepare(read(tmp_path, reviews, meta), core=3)
    assert done.stats["users"] == 3
    assert done.test["target"].to_list() == [3, 3, 3]


def test_half_an_emoji_in_a_title(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [review("u1", "B1", 5.0, 1588687728923, text="cut \ud83d")]
    (tmp_path / "reviews.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "meta.jsonl").write_text(json.dumps(product("B1", "Soap \ud83d")))
    raw = read_amazon(tmp_path / "reviews.jsonl", tmp_path / "meta.jsonl")
    assert raw.items["title"].to_list() == ["Soap \ufffd"]
    assert raw.dropped == {"broken_character": 1}  # what a review says is not read
    assert r"meta.jsonl: half of a character" in caplog.text
    rows.append(review("u\ud83d", "B1", 5.0, 1588687728923))
    (tmp_path / "reviews.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match=r"reviews\.jsonl: line 2: the id in 'user_id' is"):
        read_amazon(tmp_path / "reviews.jsonl", tmp_path / "meta.jsonl")
