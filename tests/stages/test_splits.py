"""Every way to split runs through to the report, also where users are absent from some parts."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from genrec import Pipeline
from genrec.lm.compose import compose
from genrec.lm.tasks import Corpus
from genrec.schema import recommendations_file

# Without an LLM: what an LLM reads of a split is looked at below, in the examples.
RETRIEVERS = [
    "recommend={enabled: false}",
    "probe={enabled: false}",
    "fuse={enabled: true, method: gate}",
]


def load(tiny: list[str], store: Path, *more: str) -> Pipeline:
    return Pipeline.load("demo", *tiny, f"runtime.store={store}", "runtime.threads=1", *more)


@pytest.mark.parametrize("kind", ["random", "temporal", "cold_items", "cold_users"])
def test_through_to_the_report(kind: str, tiny: list[str], tmp_path: Path) -> None:
    learned = "[{kind: popular}, {kind: cooccurrence}, {kind: sasrec, epochs: 1}]"
    more = [f"retrieve={learned}"] if kind == "temporal" else []
    pipeline = load(tiny, tmp_path, *RETRIEVERS, f"prepare.split.kind={kind}", *more)
    pipeline.run()
    prepared, metrics = pipeline["prepare"], pipeline["evaluate"].load()
    users = {name: prepared.load(f"{name}.parquet")["user"] for name in ("train", "valid", "test")}
    assert set(users["test"]) != set(range(150)) or kind in ("cold_items", "random")
    for split in ("valid", "test"):
        assert {r["users"] for r in metrics["rows"] if r["split"] == split} == {len(users[split])}
        for key in ("retrieve.popular", "fuse"):
            lists = pipeline[key].load(recommendations_file(split))
            assert set(lists["user"]) == set(users[split]), key
    groups = {row["group"]: row["users"] for row in metrics["groups"]}
    if kind in ("cold_users", "random"):
        assert kind == "random" or not set(users["train"]) & set(users["test"])
        assert "new item" not in groups
    else:
        assert groups["known item"] + groups.get("new item", 0) == len(users["test"])
    assert (pipeline["evaluate"] / "report.html").is_file()


def test_held_out_items_are_in_no_history_that_the_model_reads(
    tiny: list[str], tmp_path: Path
) -> None:
    pipeline = load(tiny, tmp_path, "prepare.split={kind: cold_items, share: 0.2}")
    pipeline.run(only="prepare")
    prepared = pipeline["prepare"]
    items, train, valid = (prepared.load(f"{n}.parquet") for n in ("items", "train", "valid"))
    sids = np.stack([np.arange(len(items)), np.zeros(len(items), dtype=int)], axis=1)
    learned = prepared.load("interactions.parquet").filter(pl.col("split") == "train")["item"]
    unseen = {(i, 0) for i in range(len(items)) if i not in set(learned)}
    assert len(unseen) >= 0.2 * len(items) - 1
    examples, asked = compose(
        Corpus(items, sids, train, valid),
        {"history_to_sid": {}, "titles_to_sid": {}, "title_to_sid": {}},
        style="compact",
        seed=0,
    )
    sequences = [e for e in (*examples, *asked) if e.task != "title_to_sid"]
    assert len(sequences) > len(valid)
    assert not unseen & {s.sid for e in sequences for s in e.prompt if s.sid is not None}
    assert [e.completion[0].sid for e in asked] == [(t, 0) for t in valid["target"]]
    # Words of the catalogue are known before anybody buys: the model learns those of new items too.
    named = {s.sid for e in examples if e.task == "title_to_sid" for s in e.completion}
    assert unseen <= named
