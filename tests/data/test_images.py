"""Images: found by id or by path within their folder, checked, and decoded for a model; URLs."""

from __future__ import annotations

import contextlib
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image

from genrec.data.images import (
    BadImage,
    attach_images,
    find_images,
    open_image,
    place_images,
    verify_images,
)
from genrec.data.source import BadRows


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
    paths = find_images(folder)
    assert {k: Path(v).name for k, v in paths.items()} == {
        "a": "a.png",
        "b": "b.JPG",
        "c": "c.webp",
    }
    assert all(Path(v).is_absolute() for v in paths.values())


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


@pytest.fixture
def nested(tmp_path: Path) -> Path:
    """`images/a.png` and `images/sub/b.png`, and an image outside of the folder."""
    inner = tmp_path / "images" / "sub"
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


def test_paths_start_at_the_folder(nested: Path) -> None:
    items, _ = place(["a.png", "sub/b.png", None, "sub/../a.png", "fine.png"], nested)
    names = ["a.png", "sub/b.png", None, "sub/../a.png", "fine.png"]
    assert items["image"].to_list() == [n and str(nested / n) for n in names]
    assert "image_url" not in items.columns


@pytest.mark.parametrize(
    "way", ["../secret.png", "link.png", "way/secret.png", "sub/../../secret.png"]
)
def test_no_path_leaves_the_folder(nested: Path, way: str) -> None:
    assert (nested / way).resolve().is_file()  # it would be found
    with pytest.raises(ValueError, match=r"items\.csv: the image of item 'i1' is .*leads out") as e:
        place(["a.png", way], nested)
    assert repr(way) in str(e.value)
    items, dropped = place(["a.png", way], nested, "drop")
    assert items["image"].to_list() == [str(nested / "a.png"), None]
    assert dropped == {"image_refused": 1}


def test_absolute_paths_are_refused_outside_only(nested: Path) -> None:
    assert place([str(nested / "a.png")], nested)[0]["image"].to_list() == [str(nested / "a.png")]
    for way in (str(nested.parent / "secret.png"), "/etc/passwd"):
        with pytest.raises(ValueError, match="leads out"):
            place([way], nested)


def test_a_broken_or_missing_image(nested: Path) -> None:
    (nested / "text.png").write_text("hello")
    for name, said in (("text.png", "not an image"), ("gone.png", "no such file")):
        with pytest.raises(ValueError, match=said):
            place([name], nested)
        assert place([name, "a.png"], nested, "drop")[1] == {"unreadable_image": 1}


def test_by_item_id_where_nothing_is_written(nested: Path) -> None:
    Image.new("RGB", (8, 8)).save(nested / "i1.jpg")
    assert place([None, None], nested)[0]["image"].to_list() == [None, str(nested / "i1.jpg")]


def test_urls_are_kept_and_nothing_is_fetched_unasked() -> None:
    items, _ = place(["http://127.0.0.1:1/a.png", "b.png", None], None)
    assert items["image"].to_list() == [None, None, None]
    assert items["image_url"].to_list() == ["http://127.0.0.1:1/a.png", None, None]


def test_a_url_is_no_path_and_a_path_no_url(nested: Path) -> None:
    with pytest.raises(ValueError, match=r"prepare\.source\.images=download fetches URLs"):
        place(["https://x.org/a.png"], nested)
    for image in ("a.png", "file:///etc/passwd", "ftp://x.org/a.png"):
        with pytest.raises(ValueError, match="expected a URL that begins with http"):
            place([image], "download")
        items, dropped = place([image, "http://x.org/"], "download", "drop")
        assert items["image_url"].to_list() == [None, "http://x.org/"]
        assert dropped == {"image_not_a_url": 1}


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"Correct prepare\.source\.images"):
        place(["a.png"], tmp_path / "absent")


def refused(path: Path, **limits: int) -> str:
    with pytest.raises(BadImage) as caught:
        open_image(path, longest_side=64, **limits)
    assert str(caught.value).startswith(f"bad image: {path.name}: ")
    return str(caught.value)


def test_a_bomb_is_refused_by_its_header(bomb: Path) -> None:
    assert "60" in refused(bomb)
    assert "pixels" in refused(bomb)


def test_limits_are_named(red: Path) -> None:
    assert "3,200 pixels, expected at most 3,199" in refused(red, max_pixels=3199)
    assert "bytes, expected at most 10" in refused(red, max_bytes=10)
    assert open_image(red, longest_side=64, max_pixels=3200).size == (64, 32)


def test_what_is_no_image(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "nothing.png")
    text = tmp_path / "text.png"
    text.write_text("%!PS-Adobe-3.0 EPSF-3.0\n")
    assert "not an image; expected one of JPEG, PNG" in refused(text)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_truncated_images_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "cut"
    noise = Image.effect_noise((200, 200), 90).convert("RGB")
    noise.save(path, kind)
    path.write_bytes(path.read_bytes()[:-2000])
    refused(path)


def test_large_ones_shrink_and_small_ones_stay(tmp_path: Path) -> None:
    for size, expected in (((300, 100), (64, 21)), ((30, 60), (30, 60))):
        Image.new("RGB", size).save(tmp_path / "x.png")
        assert open_image(tmp_path / "x.png", longest_side=64).size == expected


def test_upright_on_white_in_rgb(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.new("RGB", (20, 10), "red").save(tmp_path / "turned.jpg", exif=exif)
    assert open_image(tmp_path / "turned.jpg", longest_side=64).size == (10, 20)
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    clear = open_image(tmp_path / "clear.png", longest_side=64)
    assert clear.mode == "RGB"
    assert clear.getpixel((0, 0)) == (255, 255, 255)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP"]),
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_damage_never_escapes_as_another_error(
    tmp_path: Path, kind: str, flips: list[tuple[float, int]]
) -> None:
    path = tmp_path / "x"
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a bag"
    options = {} if kind in ("GIF", "BMP") else {"exif": exif}
    Image.linear_gradient("L").resize((40, 30)).convert("RGB").save(path, kind, **options)
    data = bytearray(path.read_bytes())
    for place, value in flips:
        data[int(place * (len(data) - 1))] = value
    path.write_bytes(data)
    with contextlib.suppress(BadImage):
        assert open_image(path, longest_side=32, max_pixels=10_000).mode == "RGB"
