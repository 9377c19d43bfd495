"""Context of events through a recipe: composed, trained on, decoded, and the same for known users."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from genrec import Pipeline, schema
from genrec.demo.shop import make_demo
from genrec.graph import Graph
from genrec.publish import open_published, publish
from genrec.recipe import RecipeError, load
from genrec.recommendations import ListRequest, influence, recommend
from genrec.serve.resolve import Unknown, list_request
from genrec.serve.schemas import RecommendationsRequest
from genrec.stages import read_prompts

SECTIONS: dict[str, Any] = {
    "embed": {"text": None, "behaviour": {"dim": 8}},
    "quantize": {"kind": "rkmeans", "levels": 2, "codes": 8, "code_dim": None},
    "compose": {
        "context": ["stars", "event", "gap"],
        "without_context": 0.2,
        "tasks": {
            name: {"rate": 0}
            for name in ("title_to_sid", "sid_to_title", "history_to_title", "titles_to_title")
        },
    },
    "train": {"model": {"kind": "scratch", "hidden": 16, "layers": 1, "heads": 2}, "epochs": 1},
    "recommend": {"num_beams": 40, "k": 40},
    "retrieve": [{"kind": "popular"}, {"kind": "cooccurrence"}],
    "fuse": {"enabled": False},
    "probe": {"enabled": False},
    "evaluate": {"ks": [5, 10]},
}


def write_recipe(folder: Path, log: pl.DataFrame, name: str = "told") -> Path:
    """Writes a log of 120 users with stars and events, and a recipe that keeps both."""
    log.write_csv(folder / f"{name}.csv")
    source = {
        "kind": "files",
        "interactions": {"path": str(folder / f"{name}.csv"), "context": ["stars", "event"]},
    }
    sections = {"prepare": {"source": source, "core": 2}, **SECTIONS}
    sections["runtime"] = {"store": str(folder / "store"), "device": "cpu"}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(sections), "utf-8")
    return folder / f"{name}.yaml"


def made_log() -> pl.DataFrame:
    choices = make_demo(None, items=40, users=120).interactions
    rng = np.random.default_rng(0)
    return choices.select("user_id", "item_id", "timestamp").with_columns(
        stars=pl.Series(rng.integers(1, 6, len(choices))),
        event=pl.Series(rng.choice(["view", "buy", ""], len(choices))),
    )


@pytest.fixture(scope="session")
def pipeline(shared_folder: Callable[[str], AbstractContextManager[Path]]) -> Pipeline:
    with shared_folder("context") as folder:
        made = Pipeline.load(write_recipe(folder, made_log()))
        made.run()
    return made


def test_prepare_keeps_the_columns_and_the_split_has_none(pipeline: Pipeline) -> None:
    log = pipeline["prepare"].load("interactions.parquet")
    assert log.columns == [*schema.INTERACTIONS, "stars", "event"]
    assert log.schema["stars"] == pl.Float64
    assert log["event"].null_count() > 0
    assert pipeline["prepare"].load("valid.parquet").columns == list(schema.SPLIT)


@pytest.mark.parametrize("split", ["valid", "test"])
def test_each_event_of_a_history_has_its_own_context(pipeline: Pipeline, split: str) -> None:
    prepared = pipeline["prepare"]
    log = prepared.load("interactions.parquet")
    words = dict(zip(range(1, 6), ("one", "two", "three", "four", "five"), strict=True))
    own = {(u, i): (s, e) for u, i, s, e in log.select("user", "item", "stars", "event").rows()}
    rows = prepared.load(f"{split}.parquet").select("user", "history", "target").rows()
    prompts = read_prompts(pipeline["compose"].path, split, 1)
    for prompt, (user, history, _) in zip(prompts, rows, strict=True):
        assert len(prompt) == len(history)
        for place, (part, item) in enumerate(zip(prompt, history, strict=True)):
            stars, event = own[user, item]
            said = (part.text or "").split()
            expected = [f"stars{words[int(stars)]}", *([f"event{event}"] if event else [])]
            assert said[: len(expected)] == expected
            assert [word[:3] for word in said[len(expected) :]] == ["gap"] * (place > 0)


def test_nothing_of_a_target_reaches_its_prompt(pipeline: Pipeline, tmp_path: Path) -> None:
    """Other stars, event and time of every held-out interaction: the same examples, to the byte."""
    prepared = pipeline["prepare"]
    ids = prepared.load("interactions.parquet").join(prepared.load("users.parquet"), on="user")
    ids = ids.join(prepared.load("items.parquet").select("item", "item_id"), on="item")
    test = ids.filter(pl.col("split") == "test").select("user_id", "item_id", held=True)
    log = made_log().join(test, on=["user_id", "item_id"], how="left", maintain_order="left")
    later = pl.col("timestamp") + 10**15
    changed = log.with_columns(
        stars=pl.when("held").then(6 - pl.col("stars")).otherwise("stars"),
        event=pl.when("held").then(pl.lit("stolen")).otherwise("event"),
        timestamp=pl.when("held").then(later).otherwise("timestamp"),
    ).drop("held")
    assert not changed.equals(made_log())
    other = Pipeline.load(write_recipe(tmp_path, changed, "changed"))
    other.run("compose")
    for name in ("train", "valid", "test"):
        mine, its = (p["compose"].load(f"{name}.parquet") for p in (pipeline, other))
        assert mine.equals(its), name


def test_some_training_histories_go_without(pipeline: Pipeline) -> None:
    examples = schema.read_examples(pipeline["compose"] / "train.parquet")
    streams = [e for e in examples if e.task == "history_to_sid"]
    bare = [e for e in streams if not any(p.text for p in (*e.prompt, *e.completion))]
    assert 0.05 < len(bare) / len(streams) < 0.4
    every = Pipeline.load(recipe_of(pipeline), "compose.without_context=0")
    every.run("compose")
    for example in schema.read_examples(every["compose"] / "train.parquet"):
        if example.task == "history_to_sid":
            assert example.prompt[0].text


def recipe_of(pipeline: Pipeline) -> str:
    return str(pipeline.store.root.parent / "told.yaml")


def test_a_known_user_is_asked_for_as_in_the_stage(pipeline: Pipeline) -> None:
    """The prompt of all but a user's last item is the test user's, and so is the list."""
    bundle = pipeline.bundle()
    prompts = read_prompts(pipeline["compose"].path, "test", 1)
    names = pipeline["prepare"].load("users.parquet")["user_id"].to_list()
    test = pipeline["prepare"].load("test.parquet")
    assert list(bundle.contexts) == list(bundle.histories) == names
    lists = pipeline["recommend"].load()
    for prompt, user, history in zip(prompts, test["user"], test["history"].to_list(), strict=True):
        context = bundle.contexts[names[user]][:-1]
        assert bundle.prompt(history, context) == prompt
        if user < 3:
            request = ListRequest(tuple(history), 10, system="generative", context=tuple(context))
            (listed,) = recommend(bundle, [request])
            own = lists.filter(pl.col("user") == user)["item"].head(10)
            assert [entry.item for entry in listed] == own.to_list()


def test_known_users_carry_it_and_histories_that_are_given_do_not(pipeline: Pipeline) -> None:
    bundle = pipeline.bundle()
    name, history = next(iter(bundle.histories.items()))
    ids = bundle.items["item_id"].gather(history).to_list()
    known = list_request(bundle, RecommendationsRequest(user=name))
    assert known.context == tuple(bundle.contexts[name])
    live = list_request(bundle, RecommendationsRequest(history=ids))
    assert (live.history, live.context) == (known.history, ())
    assert all(part.text is None for part in bundle.prompt(history))
    scores = [recommend(bundle, [r])[0][0].score for r in (known, live)]
    assert scores[0] != scores[1]
    by_name = pipeline.recommend([name], k=3, system="generative")
    by_items = pipeline.recommend(histories={"x": ids}, k=3, system="generative")
    assert by_name["score"].to_list() != by_items["score"].to_list()
    best = [entry.item for entry in recommend(bundle, [known])[0]]
    told, untold = (influence(bundle, history, best, c) for c in (known.context, ()))
    assert told is not None
    assert set(told[0]) == set(history)
    assert told != untold


def test_events_that_are_described_are_written_as_those_of_the_log(pipeline: Pipeline) -> None:
    bundle = pipeline.bundle()
    name, history = next(iter(bundle.histories.items()))
    ids = bundle.items["item_id"].gather(history).to_list()
    log = pipeline["prepare"].load("interactions.parquet").filter(user=0)
    time = pl.from_epoch("timestamp", time_unit="ns").dt.strftime("%Y-%m-%dT%H:%M:%S.%6fZ")
    events = log.select("stars", "event", timestamp=time).to_dicts()
    asked = list_request(bundle, RecommendationsRequest(history=ids, events=events))
    assert asked.context == tuple(bundle.contexts[name])
    options = {"k": 3, "system": "generative"}
    told = pipeline.recommend(histories={"x": ids, "y": ids}, events={"x": events}, **options)
    mine = pipeline.recommend([name], **options)
    for column in ("item_id", "score"):
        assert told.filter(user_id="x")[column].to_list() == mine[column].to_list()
    assert told.filter(user_id="y")["score"].to_list() != mine["score"].to_list()
    with pytest.raises(ValueError, match=r"1 events, and \d+ items; expected one for each"):
        pipeline.recommend(histories={"x": ids}, events={"x": events[:1]})
    with pytest.raises(ValueError, match=r"events: of \['z'\], of whom"):
        pipeline.recommend(histories={"x": ids}, events={"z": events})
    with pytest.raises(Unknown, match="events: event 0: stars 'x'; expected a number"):
        list_request(bundle, RecommendationsRequest(history=ids[:1], events=[{"stars": "x"}]))
    with pytest.raises(Unknown, match="events: the prompts of this recipe say nothing of events"):
        list_request(
            bundle.replace(event_context=None),
            RecommendationsRequest(history=ids, events=events),
        )
    with pytest.raises(ValueError, match="events are those of a history"):
        RecommendationsRequest(user=name, events=events)


def test_a_published_model_takes_histories_without(pipeline: Pipeline, tmp_path: Path) -> None:
    publish(pipeline, tmp_path / "out")
    bundle = pipeline.bundle()
    history = bundle.items["item_id"].head(3).to_list()
    expected = pipeline.recommend(histories={"x": history}, k=5, system="generative")
    (listed,) = open_published(tmp_path / "out").recommend([history], k=5)
    assert listed == expected["item_id"].to_list()


@pytest.mark.parametrize(
    ("recipe", "overrides", "message"),
    [
        (
            "demo",
            ["compose.context=[rating]"],
            r"\['rating'\] not among.*\['gap', 'weekday', 'month'\]",
        ),
        ("demo", ["compose.context=[rating]"], "a source of kind demo keeps no columns"),
        ("demo", ["compose.context=[gap, gap]"], "name everything once"),
        ("demo", ["compose.without_context=0.3"], "there is no context"),
        ("movielens-posters", ["compose.context=[rating]"], r"in prepare\.source\.context"),
        ("own-data", ["compose.context=[x]"], r"in prepare\.source\.interactions\.context"),
        (
            "own-data",
            ["compose.context=[gap]", "prepare.source.interactions.timestamp=null"],
            "it has no times, which gap, weekday and month need",
        ),
    ],
)
def test_what_the_data_do_not_have_is_refused_at_once(recipe, overrides, message) -> None:
    with pytest.raises(RecipeError, match=message):
        load(recipe, overrides)


def test_times_without_a_unit_are_refused_when_they_are_seen(tmp_path: Path) -> None:
    log = made_log().with_columns(timestamp=pl.int_range(pl.len()).over("user_id"))
    counted = "prepare.source.interactions.unit=ns"  # 0, 1, 2, ... of each user: an order
    made = Pipeline.load(write_recipe(tmp_path, log), counted)
    with pytest.raises(ValueError, match=r"compose\.context: \['gap'\] are of times.*'none'"):
        made.run("compose")


def test_without_context_no_fingerprint_knows_of_it() -> None:
    """What a fingerprint covers has no word of context, unless it is asked for."""
    plain, told = (
        Graph(load("movielens-posters", overrides), lambda path: "x").inputs
        for overrides in (
            [],
            ["prepare.source.context=[rating]", "compose.context=[rating, gap]"],
        )
    )
    assert "context" not in str(plain("compose"))
    assert "context" not in str(plain("prepare"))
    assert told("prepare")["config"]["source"]["context"] == ["rating"]
    assert set(told("compose")["prompts"]) - set(plain("compose")["prompts"]) == {"context"}
