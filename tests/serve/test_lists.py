"""`genrec recommend RECIPE --user ID`: printed, and in files."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner, Result

from genrec import Pipeline
from genrec.cli import cli

pytest.importorskip("fastapi", reason="the fixtures here serve")


def genrec(pipeline: Pipeline, *words: str) -> Result:
    recipe = pipeline.store.root.parent / "shop.yaml"
    return CliRunner().invoke(cli, ["recommend", str(recipe), *words])


def test_one_user_is_printed_with_reasons(pipeline: Pipeline) -> None:
    user = pipeline["prepare"].load("users.parquet")["user_id"][0]
    done = genrec(pipeline, "--user", user, "-k", "3", "--why")
    assert done.exit_code == 0, done.exception
    expected = pipeline.recommend([user], k=3)
    for item_id, title in expected.select("item_id", "title").iter_rows():
        assert item_id in done.output
        assert title[:30] in done.output
    assert f"user {user}: " in done.output
    assert "generative" in done.output


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_all_users_in_a_file(pipeline: Pipeline, tmp_path: Path, suffix: str) -> None:
    to = tmp_path / f"lists.{suffix}"
    done = genrec(pipeline, "--users", "all", "-k", "2", "--to", str(to), "--why")
    assert done.exit_code == 0, done.exception
    expected = pipeline.recommend(k=2, why=True)
    assert f"{len(expected)} recommendations" in done.output
    if suffix == "parquet":
        read = pl.read_parquet(to)
        assert read.schema == expected.schema
        assert read.drop("score", "because").equals(expected.drop("score", "because"))
        np.testing.assert_allclose(read["score"], expected["score"], rtol=1e-5)
        return
    read = pl.read_csv(to)
    assert read["item_id"].to_list() == expected["item_id"].to_list()
    assert json.loads(read["systems"][0]) == expected["systems"][0].to_list()
    assert list(tmp_path.iterdir()) == [to]


def test_users_of_a_file_and_a_history(pipeline: Pipeline, tmp_path: Path) -> None:
    users = pipeline["prepare"].load("users.parquet")["user_id"][:2].to_list()
    (tmp_path / "ids.txt").write_text("\n".join(users) + "\n\n")
    done = genrec(pipeline, "--users", str(tmp_path / "ids.txt"), "-k", "1")
    assert [line for line in done.output.splitlines() if line.startswith("user ")] != []
    assert all(f"user {user}: " in done.output for user in users)
    done = genrec(pipeline, "--history", "p0001", "--history", "p0002", "-k", "1")
    assert done.exit_code == 0, done.exception
    assert "2 chosen" in done.output


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["-k", "3"], "whom to recommend to"),
        (["--user", "u1", "--users", "all"], "one of --user, --users and --history"),
        (["--user", "nobody"], "no user has the id 'nobody'"),
        (["--user", "u1", "-k", "0"], "k is 0; expected 1 or more"),
        (["--users", "all", "--to", "lists.json"], r"\.parquet or \.csv"),
        (["--users", "all", "--to", "no/such/lists.csv"], "there is no folder"),
        (["--users", "none.txt"], "expected `all`, or a file with an id per line"),
        (["--user", "u1", "--force"], "leave it out"),
    ],
)
def test_misuse(pipeline: Pipeline, words: list[str], problem: str) -> None:
    done = genrec(pipeline, *words)
    assert done.exit_code
    assert done.exception is not None
    assert any(part in str(done.exception) for part in [problem.replace("\\", "")])


def test_files_of_users_of_other_programs(pipeline: Pipeline, tmp_path: Path) -> None:
    users = pipeline["prepare"].load("users.parquet")["user_id"][:2].to_list()
    file = tmp_path / "ids.txt"
    file.write_bytes("\r\n".join([users[0], users[1], users[0]]).encode("utf-8-sig"))
    to = tmp_path / "lists.csv"
    assert genrec(pipeline, "--users", str(file), "-k", "2", "--to", str(to)).exit_code == 0
    assert pl.read_csv(to)["user_id"].to_list() == [users[0]] * 2 + [users[1]] * 2
    file.write_bytes("u1".encode("utf-16"))
    assert "not UTF-8" in str(genrec(pipeline, "--users", str(file)).exception)
    error = str(genrec(pipeline, "--user", "nobody").exception)
    assert "too few interactions (prepare.core) are not known" in error


def test_a_recipe_that_is_not_finished(pipeline: Pipeline, tmp_path: Path) -> None:
    done = genrec(pipeline, f"runtime.store={tmp_path}", "--user", "u1")
    assert "not finished: prepare, embed" in str(done.exception)
    assert "run: genrec run " in str(done.exception)


def test_a_file_that_was_there_stays_when_it_fails(pipeline: Pipeline, tmp_path: Path) -> None:
    to = tmp_path / "lists.csv"
    to.write_text("precious")
    assert genrec(pipeline, "--user", "nobody", "--to", str(to)).exit_code
    assert to.read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["lists.csv"]
