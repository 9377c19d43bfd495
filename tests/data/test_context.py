"""Context of interactions: kept by every source, typed, and looked up for histories alone."""

from pathlib import Path

import polars as pl
import pytest
from pydantic import ValidationError

from genrec.data import prepare, read_files, read_movielens, read_recbole
from genrec.data.amazon import read_amazon
from genrec.data.context import context_of, events_of, settle_context
from genrec.data.protocols import ColdItems, ColdUsers, LastOut, RandomOut, Temporal
from genrec.data.settings import FilesSettings, ItemFile, LogFile, MovieLensSettings
from genrec.data.source import RawData

LOG = """user_id,item_id,timestamp,event,stars,shop
u,a,1600000000,view,4,
u,b,1600000100,cart,3.5,north
v,a,1600000200,view,,
"""


def log_file(folder: Path, text: str = LOG, **options) -> LogFile:
    (folder / "log.csv").write_text(text, "utf-8")
    return LogFile(path=str(folder / "log.csv"), **options)


def test_columns_of_a_log_stay_with_its_rows(tmp_path: Path) -> None:
    spec = log_file(
        tmp_path,
        context=("stars", "event", "shop"),
        type="event",
        weights={"view": 1, "cart": 1},
        rating="stars",
        min_rating=3.6,
    )
    with pytest.raises(ValueError, match="rating in 'stars' that is not a number"):
        read_files(None, spec)
    raw = read_files(None, spec, on_bad="drop")
    assert raw.interactions.columns == ["user_id", "item_id", "timestamp", "stars", "event", "shop"]
    assert raw.interactions.rows() == [("u", "a", 1600000000 * 10**9, 4.0, "view", None)]


def test_numbers_are_numbers_and_texts_stay(tmp_path: Path) -> None:
    raw = read_files(None, log_file(tmp_path, context=("stars", "event")))
    assert raw.interactions["stars"].to_list() == [4.0, 3.5, None]
    assert raw.interactions.schema["event"] == pl.String
    odd = settle_context(
        pl.DataFrame({"context.0": [1.0, float("nan")], "context.1": ["1", "x"]}),
        ("a", "b"),
        where="",
    )
    assert odd.to_dict(as_series=False) == {"a": [1.0, None], "b": ["1", "x"]}
    with pytest.raises(ValueError, match=r"log: column 'a' is .*context is text or numbers"):
        settle_context(pl.DataFrame({"context.0": [b"x"]}), ("a",), where="log")


def test_without_context_nothing_is_kept(tmp_path: Path) -> None:
    assert context_of(read_files(None, log_file(tmp_path)).interactions) == []


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"column 'starz'.*'stars'.*interactions\.context\.0"):
        read_files(None, log_file(tmp_path, context=("starz",)))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("stars", "stars"), "named twice"),
        (("gap",), "names that have a meaning of their own"),
        (("timestamp",), "rename the column in the file"),
    ],
)
def test_names_that_cannot_be(names, message) -> None:
    with pytest.raises(ValidationError, match=message):
        LogFile(path="x.csv", context=names)


def test_a_history_column_has_no_context() -> None:
    with pytest.raises(ValidationError, match="no types, no ratings and no context"):
        LogFile(path="x.csv", context=("stars",), explode=" ", history="before")


def test_movielens(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("userId,movieId,rating,timestamp\n1,10,4.5,30\n", "utf-8")
    (tmp_path / "m.csv").write_text("movieId,title,genres\n10,A (1999),Comedy\n", "utf-8")
    raw = read_movielens(tmp_path / "r.csv", tmp_path / "m.csv", context=("rating",))
    assert raw.interactions.rows() == [("1", "10", 30 * 10**9, 4.5)]
    with pytest.raises(ValidationError, match="Input should be 'rating'"):
        MovieLensSettings(ratings="r", movies="m", context=("tag",))


def test_recbole(tmp_path: Path) -> None:
    (tmp_path / "x.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\tkind:token\n"
        "1\t10\t4\t978300760\tview\n",
        "utf-8",
    )
    (tmp_path / "x.item").write_text("item_id:token\ttitle:token_seq\n10\tA\n", "utf-8")
    raw = read_recbole(
        *(tmp_path / "x.inter", tmp_path / "x.item"),
        rating="rating",
        context=("rating", "kind"),
    )
    assert raw.interactions.rows() == [("1", "10", 978300760 * 10**9, 4.0, "view")]


@pytest.mark.parametrize(
    "review",
    [
        '{"user_id": "u", "parent_asin": "B1", "rating": 2.0, "timestamp": 1600000000000}',
        '{"reviewerID": "u", "asin": "B1", "overall": 2.0, "unixReviewTime": 1600000000}',
    ],
)
def test_amazon(tmp_path: Path, review: str) -> None:
    (tmp_path / "r.jsonl").write_text(review + "\n", "utf-8")
    (tmp_path / "m.jsonl").write_text('{"parent_asin": "B1", "title": "A"}\n', "utf-8")
    raw = read_amazon(tmp_path / "r.jsonl", tmp_path / "m.jsonl", context=("rating",))
    assert raw.interactions.rows() == [("u", "B1", 1600000000 * 10**9, 2.0)]


def shop(repeats: bool = False) -> RawData:
    """Twelve users with eight choices of fourteen items; the mood of a choice is its own number."""
    rows = [
        {
            "user_id": f"u{user}",
            "item_id": f"i{(user + step * (step % 3 if repeats else 1)) % 14}",
            "timestamp": 10**18 + (step * 20 + user) * 10**9,
            "mood": float(100 * user + step),
        }
        for user in range(12)
        for step in range(8)
    ]
    items = pl.DataFrame({"item_id": [f"i{n}" for n in range(14)]}).with_columns(
        title=pl.col("item_id"), description=pl.lit(""), image=pl.lit(None, pl.String)
    )
    return RawData(items, pl.DataFrame(rows))


@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize(
    "protocol", [LastOut(), RandomOut(), Temporal(), ColdItems(share=0.1), ColdUsers()]
)
def test_every_split_keeps_each_context_with_its_interaction(protocol, repeats) -> None:
    raw = shop(repeats)
    done = prepare(raw, core=0, split=protocol, repeats="keep" if repeats else "drop")
    assert context_of(done.interactions) == ["mood"]
    ids = done.interactions.join(done.users, on="user").join(done.items, on="item")
    keys = ["user_id", "item_id", "timestamp", "mood"]
    assert len(ids.join(raw.interactions, on=keys, how="semi")) == len(done.interactions)
    for part in ("train", "valid", "test"):
        table = getattr(done, part)
        assert table.columns == ["user", "history", "target"]
        events = events_of(table, done.interactions)
        own = events.group_by("place", maintain_order=True).agg("item", "mood", "user")
        filled = table.filter(pl.col("history").list.len() > 0)
        assert own["item"].to_list() == filled["history"].to_list()
        for items, moods, user, target in zip(
            *(own["item"], own["mood"], filled["user"], filled["target"]), strict=True
        ):
            rows = done.interactions.filter(pl.col("user") == user)
            pairs = set(zip(rows["item"], rows["mood"], strict=True))
            assert set(zip(items, moods, strict=True)) <= pairs
            if not repeats:  # of the target nothing is there
                (mood,) = rows.filter(pl.col("item") == target)["mood"]
                assert mood not in moods.to_list()


def test_a_history_that_is_not_what_came_first_is_refused() -> None:
    done = prepare(shop(), core=0)
    turned = done.valid.with_columns(pl.col("history").list.reverse())
    with pytest.raises(
        ValueError, match=r"user 0 has a history that is not what the user did first"
    ):
        events_of(turned, done.interactions)


def test_which_sources_have_times_and_context() -> None:
    files = FilesSettings(interactions=LogFile(path="x.csv", context=("stars",)))
    assert (files.kept, files.timed) == (("stars",), True)
    for changes in ({"timestamp": None}, {"unit": "order"}):
        assert not FilesSettings(interactions=LogFile(path="x.csv", **changes)).timed
    assert ItemFile().path is None
