"""Images by path stay within their folder; URLs are told apart, and fetched only when asked."""

from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from genrec.data.images import place_images
from genrec.data.source import BadRows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`images/a.png` and `images/sub/b.png`, beside an image that is nobody's business."""
    inner = tmp_path / "pictures" / "sub"
    inner.mkdir(parents=True)
    for path in (inner.parent / "a.png", inner / "b.png", tmp_path / "secret.png"):
        Image.new("RGB", (8, 8)).save(path)
    (inner.parent / "link.png").symlink_to(tmp_path / "secret.png")
    (inner.parent / "way").symlink_to(tmp_path)
    (inner.parent / "fine.png").symlink_to(inner / "b.png")
    return inner.parent


def place(images: list[str | None], where: Path | str | None, on_bad: str = "error"):
    bad_rows = BadRows(on_bad)  # type: ignore[arg-type]
    ids = [f"i{k}" for k in range(len(images))]
    table = pl.DataFrame({"item_id": ids, "image": pl.Series(images, dtype=pl.String)})
    return place_images(table, where, bad_rows=bad_rows, where="items.csv"), bad_rows.dropped


def test_paths_start_at_the_folder(folder: Path) -> None:
    items, _ = place(["a.png", "sub/b.png", None, "sub/../a.png", "fine.png"], folder)
    names = ["a.png", "sub/b.png", None, "sub/../a.png", "fine.png"]
    assert items["image"].to_list() == [n and str(folder / n) for n in names]
    assert "image_url" not in items.columns


@pytest.mark.parametrize(
    "way", ["../secret.png", "link.png", "way/secret.png", "sub/../../secret.png"]
)
def test_no_path_leaves_the_folder(folder: Path, way: str) -> None:
    assert (folder / way).resolve().is_file()  # it would be found
    with pytest.raises(ValueError, match=r"items\.csv: the image of item 'i1' is .*leads out") as e:
        place(["a.png", way], folder)
    assert repr(way) in str(e.value)
    items, dropped = place(["a.png", way], folder, "drop")
    assert items["image"].to_list() == [str(folder / "a.png"), None]
    assert dropped == {"image_refused": 1}


def test_absolute_paths_are_refused_outside_only(folder: Path) -> None:
    assert place([str(folder / "a.png")], folder)[0]["image"].to_list() == [str(folder / "a.png")]
    for way in (str(folder.parent / "secret.png"), "/etc/passwd"):
        with pytest.raises(ValueError, match="leads out"):
            place([way], folder)


def test_a_broken_or_missing_image(folder: Path) -> None:
    (folder / "text.png").write_text("hello")
    for name, said in (("text.png", "not an image"), ("gone.png", "no such file")):
        with pytest.raises(ValueError, match=said):
            place([name], folder)
        assert place([name, "a.png"], folder, "drop")[1] == {"unreadable_image": 1}


def test_by_item_id_where_nothing_is_written(folder: Path) -> None:
    Image.new("RGB", (8, 8)).save(folder / "i1.jpg")
    assert place([None, None], folder)[0]["image"].to_list() == [None, str(folder / "i1.jpg")]


def test_urls_are_kept_and_nothing_is_fetched_unasked() -> None:
    items, _ = place(["http://127.0.0.1:1/a.png", "b.png", None], None)
    assert items["image"].to_list() == [None, None, None]
    assert items["image_url"].to_list() == ["http://127.0.0.1:1/a.png", None, None]


def test_a_url_is_no_path_and_a_path_no_url(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"prepare\.source\.images=download fetches URLs"):
        place(["https://x.org/a.png"], folder)
    for image in ("a.png", "file:///etc/passwd", "ftp://x.org/a.png"):
        with pytest.raises(ValueError, match="expected a URL that begins with http"):
            place([image], "download")
        items, dropped = place([image, "http://x.org/"], "download", "drop")
        assert items["image_url"].to_list() == [None, "http://x.org/"]
        assert dropped == {"image_not_a_url": 1}


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"Correct prepare\.source\.images"):
        place(["a.png"], tmp_path / "absent")
