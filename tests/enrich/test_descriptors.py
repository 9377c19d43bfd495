"""Descriptors see colour and shape, and say which picture cannot be read."""

import numpy as np
import pytest
from PIL import Image

from genrec.data.images import item_image
from genrec.enrich.descriptors import _describe, describe_images


def test_colour_and_shape_are_told_apart(pictures):
    names = ["red disc", "blue disc", "red stripes", "blue stripes"]
    described = {name: _describe(item_image(pictures[name], 0)) for name in names}
    colour = {name: vector[:192] for name, vector in described.items()}
    shape = {name: vector[192:] for name, vector in described.items()}
    for half in (colour, shape):
        assert all(np.linalg.norm(vector) == pytest.approx(1) for vector in half.values())
    assert colour["red disc"] @ colour["red stripes"] > colour["red disc"] @ colour["blue disc"]
    assert shape["red disc"] @ shape["blue disc"] > 0.9
    assert shape["red disc"] @ shape["red stripes"] < 0.6


def test_rows_and_components(pictures):
    paths = list(pictures.values())
    told = []
    out = describe_images([None, *paths, None], progress=lambda *step: told.append(step))
    assert out.dtype == np.float32
    assert out.shape == (9, 7)  # no more components than pictures
    assert not out[[0, 8]].any()
    assert out[1:8].any(axis=1).all()
    assert told[-1] == ("describe images", 7, 7)
    assert describe_images(paths, components=3).shape == (7, 3)
    assert describe_images(paths).tobytes() == describe_images(paths).tobytes()
    # Principal components keep all distances between seven pictures.
    raw = np.stack([_describe(item_image(path, 0)) for path in paths])
    apart = np.linalg.norm(raw[:, None] - raw, axis=2)
    np.testing.assert_allclose(np.linalg.norm(out[1:8, None] - out[1:8], axis=2), apart, atol=1e-5)


def test_an_unreadable_picture_is_named_with_its_item(pictures, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(pictures["red disc"].read_bytes()[:60])
    with pytest.raises(ValueError, match=r"item 2: the image .*broken\.png cannot be read"):
        describe_images([pictures["red disc"], None, broken])
    with pytest.raises(ValueError, match=r"item 0: .*none\.png"):
        describe_images([tmp_path / "none.png"])
    with pytest.raises(ValueError, match=r"none of the 2 items has an image; set embed\.image"):
        describe_images([None, None])


def test_pictures_are_opened_upright_in_rgb_on_white(tmp_path):
    clear = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    clear.putpixel((1, 0), (255, 0, 0, 255))
    clear.save(tmp_path / "clear.png")
    opened = item_image(tmp_path / "clear.png", 0)
    assert opened.mode == "RGB"
    assert [opened.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (255, 0, 0)]
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.new("L", (4, 2)).save(tmp_path / "turned.jpg", exif=exif)
    assert item_image(tmp_path / "turned.jpg", 0).size == (2, 4)
