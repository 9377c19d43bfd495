"""`prepare.split` and `prepare.hash_users` in recipes: defaults, refusals, and the salt's secrecy."""

import json
from pathlib import Path

import polars as pl
import pytest

from genrec import Pipeline, registry
from genrec.data.protocols import SplitProtocol
from genrec.data.settings import Split
from genrec.recipe import RecipeError, kinds, load

SALT = "correct horse battery"


def recipe(*overrides: str) -> Pipeline:
    return Pipeline.load("demo", *overrides)


def test_every_kind_is_a_protocol() -> None:
    for kind, settings in kinds(Split).items():
        protocol = registry.implementation(settings)()
        assert isinstance(protocol, SplitProtocol)
        assert (protocol.kind, protocol.settings_class) == (kind, settings)


def test_a_split_is_named_and_part_of_the_fingerprint() -> None:
    plain, timed = recipe(), recipe("prepare.split.kind=temporal", "prepare.split.test=0.2")
    assert plain.recipe.prepare.split.kind == "last_out"
    assert timed.recipe.prepare.split.test == 0.2  # type: ignore[union-attr]
    assert plain.graph.fingerprint("prepare") != timed.graph.fingerprint("prepare")
    with pytest.raises(RecipeError, match=r"prepare.split.*leave nothing to learn from"):
        recipe("prepare.split={kind: cold_users, valid: 0.5, test: 0.5}")
    with pytest.raises(RecipeError, match="did you mean 'temporal'"):
        recipe("prepare.split.kind=temporl")


def test_the_salt_stays_out_of_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALT", SALT)
    overrides = [
        *("prepare.hash_users={salt: '${SALT}'}", f"runtime.store={tmp_path}", "prepare.core=0"),
        *("prepare.source.items=20", "prepare.source.users=20", "prepare.source.image_size=32"),
    ]
    pipeline = recipe(*overrides)
    pipeline.run(only="prepare")
    assert SALT not in repr(pipeline.recipe)
    assert SALT not in json.dumps(pipeline.recipe.model_dump(mode="json"))
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or SALT.encode() not in path.read_bytes(), path
    users = pipeline["prepare"].load("users.parquet")["user_id"]
    assert users.str.contains("^[0-9a-f]{64}$").all()
    choices = pl.read_parquet(pipeline["prepare"] / "truth" / "choices.parquet")
    assert set(choices["user_id"]) >= set(users)
    monkeypatch.setenv("SALT", SALT + "!")
    assert recipe(*overrides).graph.fingerprint("prepare") != pipeline.graph.fingerprint("prepare")


@pytest.mark.parametrize("salt", ["short", "123456789", "[a, b]"])
def test_a_bad_salt_is_refused_and_not_shown(salt: str) -> None:
    with pytest.raises(RecipeError, match="fewer than 16 characters") as error:
        load("demo", [f"prepare.hash_users.salt={salt}"])
    assert salt not in str(error.value)
