"""MovieLens CSV: columns, thresholds, posters, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from genrec.data import prepare, read_movielens

RATINGS = """userId,movieId,rating,timestamp
1,10,4.0,300
1,20,3.0,100
2,10,5.0,50
"""
MOVIES = """movieId,title,genres
10,"Matrix, The (1999)",Action|Sci-Fi|IMAX
20,Unknown Year,(no genres listed)
30,Long Run (1988-1991),Comedy
"""


def read(folder: Path, ratings: str = RATINGS, movies: str = MOVIES, **options: Any):
    (folder / "ratings.csv").write_text(ratings, encoding="utf-8")
    (folder / "movies.csv").write_text(movies, encoding="utf-8")
    return read_movielens(folder / "ratings.csv", folder / "movies.csv", **options)


def test_titles_genres_years(tmp_path: Path) -> None:
    raw = read(tmp_path)
    assert raw.items.rows() == [
        (
            *("10", "Matrix, The (1999)", "Film from 1999: action, sci-fi, IMAX.", None),
            *("Action, Sci-Fi, IMAX", "1999"),
        ),
        ("20", "Unknown Year", "Film.", None, None, None),
        ("30", "Long Run (1988-1991)", "Film from 1988: comedy.", None, "Comedy", "1988"),
    ]
    assert raw.items.columns[4:] == ["genres", "year"]
    assert raw.interactions.rows() == [
        *(("1", "10", 300 * 10**9), ("1", "20", 100 * 10**9), ("2", "10", 50 * 10**9)),
    ]


def test_header_in_any_case_order_and_with_bom(tmp_path: Path) -> None:
    ratings = "\ufeffTIMESTAMP,UserID,tag,MOVIEID,Rating\n5,u,x,10,1\n"
    assert read(tmp_path, ratings).interactions.rows() == [("u", "10", 5 * 10**9)]


def test_rating_threshold_is_counted(tmp_path: Path) -> None:
    raw = read(tmp_path, min_rating=4.0)
    assert raw.interactions["item_id"].to_list() == ["10", "10"]
    assert raw.dropped == {"below_min_rating": 1}
    with pytest.raises(ValueError, match=r"min_rating=6; the highest found is 5"):
        read(tmp_path, min_rating=6)


@pytest.mark.parametrize(
    ("row", "said", "reason"),
    [
        ("3,99,4.0,7", "row 5, user_id '3', item_id '99'", "unknown_item"),
        ("3,10,good,7", "row 5, user_id '3', item_id '10', rating 'good'", "bad_rating"),
        ("3,10,nan,7", "rating 'nan'", "bad_rating"),
        ("3,10,4.0,2020-01-01", "timestamp '2020-01-01'", "bad_timestamp"),
        (",10,4.0,7", "row 5, user_id None", "interaction_without_user_id"),
    ],
)
def test_bad_rating(tmp_path: Path, row: str, said: str, reason: str) -> None:
    with pytest.raises(ValueError, match=r"ratings\.csv") as error:
        read(tmp_path, RATINGS + row + "\n")
    assert said in str(error.value)
    assert "prepare.on_bad=drop" in str(error.value)
    raw = read(tmp_path, RATINGS + row + "\n", on_bad="drop")
    assert len(raw.interactions) == 3
    assert raw.dropped == {reason: 1}


@pytest.mark.parametrize(
    ("row", "said"),
    [("10,Again,Drama", "row 5, item_id '10'"), ("40,,Drama", "row 5, item_id '40'")],
)
def test_bad_movie(tmp_path: Path, row: str, said: str) -> None:
    with pytest.raises(ValueError, match=r"movies\.csv") as error:
        read(tmp_path, movies=MOVIES + row + "\n")
    assert said in str(error.value)
    assert len(read(tmp_path, movies=MOVIES + row + "\n", on_bad="drop").items) == 3


@pytest.mark.parametrize(
    ("ratings", "said"),
    [
        ("", "the file is empty; expected CSV with the columns userId"),
        ("userId,movieId,rating,timestamp\n", "no rows; expected at least one"),
        ("userId,movieId,rating\n1,10,4\n", "column 'timestamp' is missing; found ['userId'"),
        (
            "userId,movieId,rating,timestamp\n1,10,4,5,6,7\n",
            "row with more or fewer cells than the 4 of the header",
        ),
    ],
)
def test_misshapen_file(tmp_path: Path, ratings: str, said: str) -> None:
    with pytest.raises(ValueError, match=r"ratings\.csv") as error:
        read(tmp_path, ratings)
    assert said in str(error.value)


DAT = "1::10::4::300\n1::20::3::100\n2::10::5::50\n"
MOVIES_DAT = "10::Misérables, Les (1995)::Drama|Musical\n20::Big: Two (1988)::Comedy\n"


@pytest.mark.parametrize("encoding", ["utf-8", "iso-8859-1"])  # as 10M and 1M are published
def test_dat_files_of_1m_and_10m(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "ratings.dat").write_text(DAT, encoding)
    (tmp_path / "movies.dat").write_text(MOVIES_DAT, encoding)
    raw = read_movielens(tmp_path / "ratings.dat", tmp_path / "movies.dat")
    assert raw.interactions.rows() == [
        ("1", "10", 300 * 10**9),
        ("1", "20", 100 * 10**9),
        ("2", "10", 50 * 10**9),
    ]
    assert raw.items["title"].to_list() == ["Misérables, Les (1995)", "Big: Two (1988)"]
    assert raw.items["genres"].to_list() == ["Drama, Musical", "Comedy"]


def test_bad_dat_row_is_named(tmp_path: Path) -> None:
    (tmp_path / "ratings.dat").write_text(DAT + "3::10::4\n", "utf-8")
    (tmp_path / "movies.dat").write_text(MOVIES_DAT, "utf-8")
    with pytest.raises(
        ValueError, match=r"ratings\.dat: row with more or fewer cells than the 4"
    ) as e:
        read_movielens(tmp_path / "ratings.dat", tmp_path / "movies.dat")
    assert "row 4, cells 3" in str(e.value)
    with pytest.raises(
        ValueError, match=r"ratings\.csv: column 'userId' .*keep their ending \.dat"
    ):
        read(tmp_path, DAT)


def test_csv_whose_lines_end_in_a_carriage_return(tmp_path: Path) -> None:
    for name, text in (("ratings", RATINGS), ("movies", MOVIES)):
        (tmp_path / f"{name}.csv").write_bytes(text.replace("\n", "\r").encode())
    raw = read_movielens(tmp_path / "ratings.csv", tmp_path / "movies.csv")
    assert raw.interactions.rows() == [
        ("1", "10", 300 * 10**9),
        ("1", "20", 100 * 10**9),
        ("2", "10", 50 * 10**9),
    ]


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"movies\.csv: no such file; expected CSV"):
        read_movielens(tmp_path / "ratings.csv", tmp_path / "movies.csv")


def test_posters(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (4, 4)).save(folder / "10.jpg")
    (folder / "30.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="the image of item '30'"):
        read(tmp_path, images=folder)
    raw = read(tmp_path, images=folder, on_bad="drop")
    assert raw.items["image"].to_list() == [str(folder / "10.jpg"), None, None]
    assert raw.dropped == {"unreadable_image": 1}


@pytest.mark.e2e
def test_real_movielens(real_data: Path) -> None:
    folder = real_data / "movielens-posters"
    raw = read_movielens(
        folder / "ratings.csv",
        folder / "movies.csv",
        images=folder / "images",
        check_images=False,
    )
    assert raw.items["image"].null_count() == 0
    done = prepare(raw, core=5)
    assert (len(done.users), len(done.items), len(done.interactions)) == (597, 1846, 56145)
