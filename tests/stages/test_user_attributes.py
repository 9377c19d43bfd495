"""Attributes of users through a recipe: composed, trained on, decoded, and the same for known users."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import polars as pl
import pytest
import yaml

from genrec import Dataset, Pipeline, schema
from genrec.demo.shop import make_demo
from genrec.graph import Graph
from genrec.publish import open_published, publish
from genrec.recipe import RecipeError, load
from genrec.recommendations import ListRequest, influence, recommend
from genrec.serve.resolve import Unknown, list_request
from genrec.serve.schemas import RecommendationsRequest
from genrec.stages import read_prompts
from tests.stages.test_context import SECTIONS


def made() -> tuple[pl.DataFrame, pl.DataFrame]:
    """A log of 120 users, and a table that knows nothing of some and little of others."""
    log = make_demo(None, items=40, users=120).interactions
    users = log["user_id"].unique(maintain_order=True).to_list()
    rows = [
        {"user_id": u, "age": 20 + n % 30 if n % 4 else None, "land": "DE" if n % 2 else None}
        for n, u in enumerate(users)
        if n % 5
    ]
    return log.select("user_id", "item_id", "timestamp"), pl.DataFrame(rows)


def finished(shared_folder: Callable[[str], AbstractContextManager[Path]]) -> Pipeline:
    """A recipe whose prompts say age and land, run once for all who ask."""
    with shared_folder("user_attributes") as folder:
        log, users = made()
        log.write_csv(folder / "log.csv")
        users.write_csv(folder / "users.csv")
        source = {
            "kind": "files",
            "interactions": {"path": str(folder / "log.csv")},
            "users": {"path": str(folder / "users.csv"), "attributes": ["age", "land"]},
        }
        told = {"user_attributes": ["age", "land"], "without_context": 0.2}
        compose = {"tasks": SECTIONS["compose"]["tasks"]} | told
        recipe = SECTIONS | {"prepare": {"source": source, "core": 2}, "compose": compose}
        recipe["runtime"] = {"store": str(folder / "store"), "device": "cpu"}
        (folder / "users.yaml").write_text(yaml.safe_dump(recipe), "utf-8")
        pipeline = Pipeline.load(folder / "users.yaml")
        pipeline.run()
    return pipeline


@pytest.fixture(scope="session")
def pipeline(shared_folder: Callable[[str], AbstractContextManager[Path]]) -> Pipeline:
    return finished(shared_folder)


def test_every_prompt_begins_with_its_user_and_some_in_training_do_not(pipeline: Pipeline) -> None:
    known = {row["user_id"]: row for row in made()[1].to_dicts()}
    names = pipeline["prepare"].load("users.parquet")["user_id"].to_list()
    bundle = pipeline.bundle()
    for split in ("valid", "test"):
        rows = pipeline["prepare"].load(f"{split}.parquet").select("user", "history").rows()
        for prompt, (user, history) in zip(
            read_prompts(pipeline["compose"].path, split, 1), rows, strict=True
        ):
            row = known.get(names[user], {"age": None, "land": None})
            said = prompt[0].text if prompt[0].sid is None else None
            assert said == bundle.profiles.get(names[user])
            assert ("age" in (said or ""), "landDE" in (said or "")) == (
                row["age"] is not None,
                row["land"] is not None,
            )
            assert prompt == bundle.prompt(history, (), said)
            assert len(prompt) == len(history) + (said is not None)
    train = pipeline["prepare"].load("train.parquet")
    described = sum(names[user] in bundle.profiles for user in train["user"])
    examples = schema.read_examples(pipeline["compose"] / "train.parquet")
    said = [e for e in examples if e.task == "history_to_sid" and e.prompt[0].sid is None]
    assert 0.6 * described < len(said) < 0.95 * described


def test_a_known_user_is_asked_for_as_in_the_stage(pipeline: Pipeline) -> None:
    bundle, lists = pipeline.bundle(), pipeline["recommend"].load()
    names = pipeline["prepare"].load("users.parquet")["user_id"].to_list()
    test = pipeline["prepare"].load("test.parquet")
    differ = 0
    for user, history in test.select("user", "history").head(8).iter_rows():
        plain = ListRequest(tuple(history), 10, system="generative")
        own = plain._replace(profile=bundle.profiles.get(names[user]))
        listed, without = recommend(bundle, [own, plain])
        stored = lists.filter(pl.col("user") == user).head(10)
        assert [entry.item for entry in listed] == stored["item"].to_list()
        assert [entry.score for entry in listed] == pytest.approx(stored["score"], abs=1e-4)
        differ += [entry.score for entry in listed] != [entry.score for entry in without]
    assert differ


def test_users_that_are_described_are_written_as_those_of_the_table(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    bundle = pipeline.bundle()
    row = next(r for r in made()[1].to_dicts() if r["age"] and r["land"])
    name = row.pop("user_id")
    ids = bundle.items["item_id"].gather(bundle.histories[name]).to_list()
    known = list_request(bundle, RecommendationsRequest(user=name))
    asked = list_request(bundle, RecommendationsRequest(history=ids, user_attributes=row))
    assert asked == known
    assert known.profile == bundle.profiles[name]
    assert list_request(bundle, RecommendationsRequest(history=ids)).profile is None
    options = {"k": 3, "system": "generative"}
    both = {"x": ids, "y": ids}
    told = pipeline.recommend(histories=both, user_attributes={"x": row}, **options)
    mine = pipeline.recommend([name], **options)
    assert told.filter(user_id="x")["score"].to_list() == mine["score"].to_list()
    assert told.filter(user_id="y")["score"].to_list() != mine["score"].to_list()
    items = [entry.item for entry in recommend(bundle, [known])[0]]
    said, unsaid = (
        influence(bundle, known.history, items, (), profile) for profile in (known.profile, None)
    )
    assert said != unsaid
    publish(pipeline, tmp_path / "out")
    published = open_published(tmp_path / "out")
    lists = published.recommend([ids, ids], user_attributes=[row, {}], k=5)
    bare = {"histories": {"x": ids}, "k": 5, "system": "generative"}
    expected = [
        pipeline.recommend(**bare, user_attributes=own)["item_id"].to_list()
        for own in ({"x": row}, None)
    ]
    assert lists == expected
    with pytest.raises(ValueError, match="of 1 users, and there are 2 histories"):
        published.recommend([ids, ids], user_attributes=[row])
    with pytest.raises(ValueError, match=r"user_attributes: of \['z'\], of whom"):
        pipeline.recommend(histories=both, user_attributes={"z": row})
    with pytest.raises(Unknown, match="user_attributes: age 'old'; expected a number"):
        list_request(bundle, RecommendationsRequest(history=ids, user_attributes={"age": "old"}))
    with pytest.raises(Unknown, match="user_attributes: the prompts of this recipe say nothing"):
        list_request(
            bundle.replace(user_profile=None),
            RecommendationsRequest(history=ids, user_attributes=row),
        )
    with pytest.raises(ValueError, match="user_attributes are of whoever has the history"):
        RecommendationsRequest(user=name, user_attributes=row)


def test_a_table_of_python_is_said_whole(tmp_path: Path) -> None:
    log, users = made()
    data = Dataset.from_frames(log, users=users.to_pandas(), unit="ns")
    pipeline = Pipeline.from_settings(data, store=tmp_path / "store", quick=True)
    assert pipeline.recipe.compose.user_attributes == ("age", "land")
    pipeline.run("prepare")
    kept = pipeline["prepare"].load("user_attributes.parquet")
    assert 0 < len(kept) <= len(users)
    again = Dataset.from_prepared(pipeline["prepare"].path).users
    assert again.sort("user_id").equals(
        users.filter(pl.col("user_id").is_in(again["user_id"].implode()))
        .cast({"age": pl.Float64})
        .sort("user_id")
    )
    assert len(again) == len(kept)
    for table, message in (
        (pl.concat([users, users.head(1)]), "stands twice; expected each user once"),
        (users.select("user_id"), "only 'user_id'"),
        (users.with_columns(user_id=pl.lit("x")).head(1), "nobody is in the interactions"),
        (users.rename({"user_id": "id"}), "users: no column 'user_id'"),
        (users.with_columns(user_id=pl.int_range(pl.len())), "make them one type"),
    ):
        with pytest.raises(ValueError, match=message):
            Dataset.from_frames(log, users=table, unit="ns")


FILE = "prepare.source.users={path: u.csv, attributes: [%s]}"


@pytest.mark.parametrize(
    ("recipe", "overrides", "message"),
    [
        ("demo", ["compose.user_attributes=[age]"], "kind demo has no table of users"),
        ("own-data", ["compose.user_attributes=[age]"], r"in prepare\.source\.users\.attributes"),
        ("own-data", [FILE % "a", "compose.user_attributes=[b]"], r"\['b'\] not among.*\['a'\]"),
        ("own-data", [FILE % "a", "compose.user_attributes=[a, a]"], "name everything once"),
        (
            "movielens-posters",
            [FILE % "rating", "prepare.source.context=[rating]"],
            r"\['rating'\] are names of prepare\.source\.context too",
        ),
    ],
)
def test_what_the_data_do_not_have_is_refused_at_once(recipe, overrides, message) -> None:
    with pytest.raises(RecipeError, match=message):
        load(recipe, overrides)


def test_without_users_no_fingerprint_knows_of_them() -> None:
    plain, told = (
        Graph(load("movielens-posters", overrides), lambda path: "x").inputs
        for overrides in ([], [FILE % "age", "compose.user_attributes=[age]"])
    )
    for stage in ("prepare", "compose"):
        assert "users" not in plain(stage)["config"].get("source", {})
        assert "user_attributes" not in str(plain(stage))
    assert told("prepare")["config"]["source"]["users"]["attributes"] == ["age"]
    assert set(told("compose")["prompts"]) - set(plain("compose")["prompts"]) == {
        *("context", "profile")
    }
