"""Images are found by id and decoded before anything depends on them."""

from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from genrec.data.images import attach_images, find_images, verify_images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.JPG", "b.png", "c.webp"):
        Image.new("RGB", (8, 8), "teal").save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def table(images: dict[str, str | None]) -> pl.DataFrame:
    columns = {"item_id": list(images), "image": list(images.values())}
    return pl.DataFrame(columns, schema={"item_id": pl.String, "image": pl.String})


def test_found_by_id_the_first_suffix_wins(folder: Path) -> None:
    found = find_images(folder)
    assert {k: Path(v).name for k, v in found.items()} == {
        "a": "a.png",
        "b": "b.JPG",
        "c": "c.webp",
    }
    assert all(Path(v).is_absolute() for v in found.values())


def test_ids_never_reach_outside_the_folder(folder: Path) -> None:
    inner = folder / "inner"
    inner.mkdir()
    Image.new("RGB", (8, 8)).save(inner / "x.png")
    items = pl.DataFrame({"item_id": ["x", "../a", str(folder / "a")]})
    assert attach_images(items, inner)["image"].null_count() == 2


def test_no_folder_no_images(tmp_path: Path) -> None:
    items = pl.DataFrame({"item_id": ["1"]})
    assert attach_images(items, None)["image"].to_list() == [None]
    with pytest.raises(FileNotFoundError, match="no such folder; expected images named"):
        attach_images(items, tmp_path / "absent")
    with pytest.raises(ValueError, match="no images"):
        find_images(tmp_path)


def test_images_named_after_something_else(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"none of the 3 images .* expected names such as"):
        attach_images(pl.DataFrame({"item_id": ["7"]}), folder)


def broken(folder: Path) -> dict[str, str]:
    """One file per way of being unreadable, with what the message must say."""
    (folder / "text.png").write_text("hello")
    Image.effect_noise((60, 60), 90).save(folder / "cut.jpg")
    whole = (folder / "cut.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) * 3 // 4])  # its header is whole
    png = bytearray((folder / "a.png").read_bytes())
    png[45] ^= 0xFF  # within the pixel data
    (folder / "flipped.png").write_bytes(bytes(png))
    Image.new("RGB", (300, 200)).save(folder / "huge.png")
    (folder / "heavy.bmp").write_bytes(bytes(5000))
    return {
        "text.png": "not an image",
        "cut.jpg": "truncated",
        "flipped.png": "",
        "huge.png": "60,000 pixels, expected at most 10,000",
        "heavy.bmp": "5,000 bytes, expected at most 4,000",
        "gone.png": "no such file",
    }


LIMITS = {"max_pixels": 10_000, "max_bytes": 4_000}


def test_every_kind_of_broken_image_is_named(folder: Path) -> None:
    for name, problem in broken(folder).items():
        items = table({"fine": "a.png", "item7": name})
        with pytest.raises(ValueError, match="item 'item7' cannot be used") as error:
            verify_images(items, root=folder, **LIMITS)
        assert str(folder / name) in str(error.value)
        assert problem in str(error.value)
        assert "Replace the file or remove it" in str(error.value)
        assert "prepare.on_bad=drop" in str(error.value)


def test_dropped_images_are_null_and_counted(folder: Path) -> None:
    names = list(broken(folder))
    items = table({"fine": "a.png", "none": None, **{name: name for name in names}})
    seen = []
    checked, count = verify_images(
        items, root=folder, on_bad="drop", progress=lambda *at: seen.append(at), **LIMITS
    )
    assert checked["image"].to_list() == ["a.png", None, *[None] * len(names)]
    assert count == len(names)
    assert seen[-1] == ("check images", len(items), len(items))


def test_absolute_paths_need_no_root(folder: Path) -> None:
    items = table({"a": str(folder / "a.png")})
    assert verify_images(items)[1] == 0
