"""Datasets of tables of any kind, and every retriever on the owner's ids."""

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pytest

from genrec import registry
from genrec.dataset import Dataset, DatasetRetriever

T0 = 1_700_000_000
ROWS = [("u2", "b", 2), ("u1", "a", 1), ("u1", "c", 9), ("u1", "b", 5), ("u2", "a", 1)]
LOG = pl.DataFrame(
    [(u, i, T0 + t) for u, i, t in ROWS], schema=["user_id", "item_id", "timestamp"], orient="row"
)
ITEMS = pl.DataFrame({"item_id": ["c", "a", "b", "d"], "title": ["C", "A", "B", "D"]})


@pytest.mark.parametrize("kind", ["polars", "lazy", "pandas", "arrow", "datasets"])
def test_tables_of_every_kind(kind: str) -> None:
    def make(frame: pl.DataFrame) -> Any:
        return {
            "polars": lambda: frame,
            "lazy": frame.lazy,
            "pandas": lambda: pd.DataFrame(frame.to_dict(as_series=False)),
            "arrow": frame.to_arrow,
            "datasets": lambda: datasets.Dataset.from_polars(frame),
        }[kind]()

    data = Dataset.from_frames(make(LOG), make(ITEMS))
    assert data.num_items == 4
    by_user = {
        user: data.items["item_id"][list(h)].to_list()
        for user, h in zip(data.user_ids, data.sequences, strict=True)
    }
    assert by_user == {"u1": ["a", "b", "c"], "u2": ["a", "b"]}


def test_ids_keep_their_type_and_columns_their_names() -> None:
    log = LOG.select(
        customer=pl.col("user_id").str.slice(1).cast(pl.Int64),
        product=pl.col("item_id").replace_strict({"a": 10, "b": 20, "c": 30}),
    )
    data = Dataset.from_frames(log, user="customer", item="product", timestamp=None)
    assert data.items["item_id"].to_list() == [20, 10, 30]
    lists = DatasetRetriever("popular").fit(data).recommend([2], k=5)
    assert lists.rows() == [(2, 30, 1.0, 1)]
    assert DatasetRetriever("popular").fit(data).recommend(["2"], k=5).equals(lists)
    with pytest.raises(KeyError, match="no user has the id 'x'; ids look like 2"):
        DatasetRetriever("popular").fit(data).recommend(["x"])


def test_what_prepare_wrote_is_a_dataset(tmp_path: Path) -> None:
    """Users without an interaction are left out, and each history is in the order of its rows."""
    ITEMS.with_row_index("item").write_parquet(tmp_path / "items.parquet")
    users = pl.DataFrame({"user": [0, 1, 2], "user_id": ["u1", "u2", "u3"]})
    users.write_parquet(tmp_path / "users.parquet")
    log = pl.DataFrame({"user": [2, 0, 0], "item": [3, 2, 0]})
    log.write_parquet(tmp_path / "interactions.parquet")
    data = Dataset.from_prepared(tmp_path)
    assert data.items["item_id"].to_list() == ["c", "a", "b", "d"]
    assert data.user_ids.to_list() == ["u1", "u3"]
    assert [list(history) for history in data.sequences] == [[2, 0], [3]]


@pytest.mark.parametrize("kind", registry.parts("retrievers"))
def test_every_retriever(kind: str) -> None:
    rng = np.random.default_rng(0)
    log = pl.DataFrame(
        {
            "user_id": [f"u{u}" for u in range(12) for _ in range(6)],
            "item_id": [f"i{i}" for _ in range(12) for i in rng.permutation(15)[:6]],
        }
    )
    data = Dataset.from_frames(log, timestamp=None)
    views = {name: rng.normal(size=(data.num_items, 8)) for name in ("text", "image")}
    small = {"epochs": 2, "dim": 8} if registry.parts("retrievers")[kind].learns else {}
    fitted = DatasetRetriever(kind, **small).fit(data, views=views)
    lists = fitted.recommend(["u3", "u0"], k=4)
    assert lists["user_id"].to_list() == ["u3"] * 4 + ["u0"] * 4
    seen = set(log.filter(pl.col("user_id") == "u3")["item_id"])
    assert not seen & set(lists.filter(pl.col("user_id") == "u3")["item_id"])
    history = log.filter(pl.col("user_id") == "u3")["item_id"].to_list()
    same = fitted.recommend(histories={"me": history}, k=4)
    assert same["item_id"].to_list() == lists["item_id"].to_list()[:4]
    few = ["i1", "i2", history[0]]
    kept = fitted.recommend(["u3"], k=9, allowed=few, filter_seen=False)
    assert sorted(kept["item_id"]) == sorted(set(few))
    assert len(fitted.recommend(k=2)) == 24


@pytest.mark.parametrize(
    ("log", "items", "options", "message"),
    [
        (LOG.drop("timestamp"), None, {}, r"interactions: no column 'timestamp'; found"),
        (LOG.with_columns(user_id=pl.lit(None, pl.String)), None, {}, "5 rows without 'user_id'"),
        (LOG, ITEMS.head(2), {}, "item_id 'b' is not among the items"),
        (LOG, pl.concat([ITEMS, ITEMS]), {}, "'item_id' 'c' stands twice"),
        (LOG.head(0), None, {}, "interactions: no rows"),
        (LOG, ITEMS.with_columns(item_id=pl.Series([1, 2, 3, 4])), {}, "make them one type"),
        (LOG.with_columns(timestamp=pl.lit(5)), None, {}, "do not tell their unit"),
    ],
)
def test_what_is_refused(log: Any, items: Any, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Dataset.from_frames(log, items, **options)


def test_misuse_of_a_retriever_is_refused() -> None:
    with pytest.raises(TypeError, match=r"interactions: builtins.list; expected a table"):
        Dataset.from_frames([1])
    with pytest.raises(KeyError, match="no retriever 'magic'; expected one of popular"):
        DatasetRetriever("magic")
    with pytest.raises(ValueError, match="call fit"):
        DatasetRetriever("popular").recommend(["u1"])
    data = Dataset.from_frames(LOG)
    with pytest.raises(ValueError, match="two ways to ask"):
        DatasetRetriever("popular").fit(data).recommend(["u1"], histories={"x": ["a"]})
    with pytest.raises(KeyError, match="no item has the id 'z'"):
        DatasetRetriever("popular").fit(data).recommend(histories={"x": ["z"]})


def test_a_dataset_is_one_line() -> None:
    assert repr(Dataset.from_frames(LOG, ITEMS)) == "Dataset(2 users, 4 items, 5 interactions)"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"histories": {"g": "12"}}, r"histories\['g'\] is the text '12'; expected a list"),
        ({"histories": [[1, 2]]}, "histories is a list; expected a mapping"),
        ({"users": "u1"}, r"users is the text 'u1'; expected a list of ids, such as \['u1'\]"),
        ({"users": ["u1"], "k": 2.5}, "k is 2.5; expected a whole number"),
    ],
)
def test_requests_of_another_type(options: dict[str, Any], problem: str) -> None:
    model = DatasetRetriever("popular").fit(Dataset.from_frames(LOG, ITEMS))
    with pytest.raises(TypeError, match=problem):
        model.recommend(**options)


def test_a_missing_column_says_how_to_name_another() -> None:
    with pytest.raises(ValueError, match="timestamp=None where rows stand in the order of time"):
        Dataset.from_frames(LOG.drop("timestamp"), ITEMS)
