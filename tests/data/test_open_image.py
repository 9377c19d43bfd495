"""Images before a model: what is refused, with which words, and what is done to the rest."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image

from genrec.data.images import BadImage, open_image


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
