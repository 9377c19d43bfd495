"""A table of users: read for every source, typed, joined by id, and judged row by row."""

from pathlib import Path

import polars as pl
import pytest
from pydantic import ValidationError

from genrec.data import hash_users, prepare, read_source
from genrec.data.files import read_users
from genrec.data.settings import (
    FilesSettings,
    InterchangeSettings,
    LogFile,
    MovieLensSettings,
    RecBoleSettings,
    UserFile,
)
from genrec.data.source import BadRows

LOG = "user_id,item_id,timestamp\n" + "".join(
    f"{user},{item},{1600000000 + 100 * user + item}\n" for user in (1, 2, 3) for item in range(4)
)
USERS = "uid,age,country,name\n1,25,DE,Ann\n3,,FR,Bo\n2,60.5,,Cy\n9,1,IT,Di\n"
ATTRIBUTES = ("age", "country")


def user_file(folder: Path, text: str = USERS, name: str = "users.csv", **options) -> UserFile:
    (folder / name).write_text(text, "utf-8")
    own = {"user": "uid", "attributes": ATTRIBUTES} | options
    return UserFile(path=str(folder / name), **own)


def source(folder: Path, users: UserFile) -> FilesSettings:
    (folder / "log.csv").write_text(LOG, "utf-8")
    return FilesSettings(interactions=LogFile(path=str(folder / "log.csv")), users=users)


def read(folder: Path, users: UserFile, **options):
    return read_source(source(folder, users), folder=folder, **options)


def test_only_the_columns_that_are_named_are_kept_and_typed(tmp_path: Path) -> None:
    users = read_users(user_file(tmp_path), BadRows())
    assert users.schema == {"user_id": pl.String, "age": pl.Float64, "country": pl.String}
    assert users.rows() == [
        *(("1", 25.0, "DE"), ("3", None, "FR")),
        *(("2", 60.5, None), ("9", 1.0, "IT")),
    ]


def test_parquet_and_json_lines_say_the_same(tmp_path: Path) -> None:
    expected = read_users(user_file(tmp_path), BadRows())
    table = pl.read_csv(tmp_path / "users.csv")
    table.write_parquet(tmp_path / "users.parquet")
    table.write_ndjson(tmp_path / "users.jsonl")
    for name in ("users.parquet", "users.jsonl"):
        spec = UserFile(path=str(tmp_path / name), user="uid", attributes=ATTRIBUTES)
        assert read_users(spec, BadRows()).equals(expected), name


def test_rows_may_be_left_out_and_ids_made_whole(tmp_path: Path) -> None:
    spec = user_file(
        tmp_path,
        "uid,age,country\n1.0,25,DE\n2.0,30,FR\n",
        where=[("country", "!=", "FR")],
        whole_ids=True,
    )
    assert read_users(spec, BadRows()).rows() == [("1", 25.0, "DE")]


def test_it_is_prepared_by_number_for_the_users_that_are_left(tmp_path: Path) -> None:
    done = prepare(read(tmp_path, user_file(tmp_path)), core=0)
    attributes = done.user_attributes
    assert attributes is not None
    assert attributes.columns == ["user", "age", "country"]
    ids = attributes.join(done.users, on="user").select("user_id", "age", "country")
    assert ids.rows() == [("1", 25.0, "DE"), ("2", 60.5, None), ("3", None, "FR")]
    assert done.users.columns == ["user", "user_id"]
    assert done.stats["users_with_attributes"] == 3
    plain = read_source(
        source(tmp_path, user_file(tmp_path)).model_copy(update={"users": None}), folder=tmp_path
    )
    bare = prepare(plain, core=0)
    assert bare.user_attributes is None
    assert "users_with_attributes" not in bare.stats


def test_hashed_users_keep_their_attributes(tmp_path: Path) -> None:
    raw = read(tmp_path, user_file(tmp_path))
    hashed = hash_users(raw, "0123456789abcdef")
    assert hashed.user_attributes is not None
    assert set(hashed.user_attributes["user_id"]).isdisjoint(raw.user_attributes["user_id"])
    mine, its = (prepare(part, core=0).user_attributes for part in (raw, hashed))
    assert mine.equals(its)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("uid,age,country\n1,2,DE\n1,3,FR\n", {}, r"user in two rows.*row 3, user_id '1'"),
        ("uid,age,country\n,2,DE\n", {}, "user without an id in 'uid'"),
        ("uid,age\n1,2\n", {}, r"country.*prepare\.source\.users\.attributes\.1"),
        ("id,age,country\n1,2,DE\n", {}, r"uid.*prepare\.source\.users\.user\b"),
        ("", {}, "the file is empty"),
        ("uid,age,country\n", {}, "row"),
        (USERS, {"where": [("country", "=", "XX")]}, "no usable rows"),
        ("uid,age,country\nu1,2,DE\n", {}, r"nobody in 'uid' is in.*\['u1'\].*\['1'"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path, user_file(tmp_path, text, **options))


def test_bad_rows_are_dropped_and_counted_if_asked(tmp_path: Path) -> None:
    text = "uid,age,country\n1,2,DE\n1,3,FR\n,4,IT\n"
    raw = read(tmp_path, user_file(tmp_path, text), on_bad="drop")
    assert raw.user_attributes.rows() == [("1", 2.0, "DE")]
    assert raw.dropped == {"repeated_user_id": 1, "user_without_id": 1}


@pytest.mark.parametrize("names", [(), ("age", "age"), ("user_id",), ("gap",)])
def test_names_that_cannot_be_kept(names) -> None:
    with pytest.raises(ValidationError, match="attributes"):
        UserFile(path="x.csv", attributes=names)


def test_the_ids_of_users_are_no_attribute() -> None:
    """Else the ids that hash_users takes away would stand beside the hashes, and in prompts."""
    with pytest.raises(ValidationError, match="attributes: 'uid' holds the ids of users"):
        UserFile(path="x.csv", user="uid", attributes=("age", "uid"))


def test_movielens_and_interchange(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("userId,movieId,rating,timestamp\n1,10,4.5,30\n", "utf-8")
    (tmp_path / "m.csv").write_text("movieId,title,genres\n10,A (1999),Comedy\n", "utf-8")
    dat = {"format": "csv", "separator": "::", "columns": ("uid", "gender", "age")}
    users = user_file(tmp_path, "1::F::1\n", "users.dat", attributes=("gender", "age"), **dat)
    films = MovieLensSettings(
        ratings=str(tmp_path / "r.csv"), movies=str(tmp_path / "m.csv"), users=users
    )
    assert read_source(films, folder=tmp_path).user_attributes.rows() == [("1", "F", 1.0)]
    (tmp_path / "x.inter.json").write_text('{"1": [10]}', "utf-8")
    (tmp_path / "x.item.json").write_text('{"10": {"title": "A", "description": ""}}', "utf-8")
    lists = InterchangeSettings(
        interactions=str(tmp_path / "x.inter.json"),
        items=str(tmp_path / "x.item.json"),
        users=users,
    )
    assert read_source(lists, folder=tmp_path).user_attributes.rows() == [("1", "F", 1.0)]


def test_recbole_names_fields_without_their_types(tmp_path: Path) -> None:
    (tmp_path / "x.inter").write_text(
        "user_id:token\titem_id:token\ttimestamp:float\n1\t10\t978300760\n", "utf-8"
    )
    (tmp_path / "x.item").write_text("item_id:token\ttitle:token_seq\n10\tA\n", "utf-8")
    (tmp_path / "x.user").write_text("uid:token\tage:float\tcountry:token\n1\t25\tDE\n", "utf-8")
    settings = RecBoleSettings(
        interactions=str(tmp_path / "x.inter"),
        items=str(tmp_path / "x.item"),
        users=UserFile(path=str(tmp_path / "x.user"), user="uid", attributes=ATTRIBUTES),
    )
    assert read_source(settings, folder=tmp_path).user_attributes.rows() == [("1", 25.0, "DE")]
