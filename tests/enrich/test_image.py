"""Descriptors see color and shape; vision models give their own vectors, however interrupted."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

from genrec.data.images import item_image
from genrec.enrich import image
from genrec.enrich.image import _describe, describe_images, encode_images


def test_colour_and_shape_are_told_apart(images):
    names = ["red disc", "blue disc", "red stripes", "blue stripes"]
    described = {name: _describe(item_image(images[name], 0)) for name in names}
    colour = {name: vector[:192] for name, vector in described.items()}
    shape = {name: vector[192:] for name, vector in described.items()}
    for half in (colour, shape):
        assert all(np.linalg.norm(vector) == pytest.approx(1) for vector in half.values())
    assert colour["red disc"] @ colour["red stripes"] > colour["red disc"] @ colour["blue disc"]
    assert shape["red disc"] @ shape["blue disc"] > 0.9
    assert shape["red disc"] @ shape["red stripes"] < 0.6


def test_rows_and_components(images):
    paths = list(images.values())
    told = []
    out = describe_images([None, *paths, None], progress=lambda *step: told.append(step))
    assert out.dtype == np.float32
    assert out.shape == (9, 7)  # no more components than images
    assert not out[[0, 8]].any()
    assert out[1:8].any(axis=1).all()
    assert told[-1] == ("describe images", 7, 7)
    assert describe_images(paths, components=3).shape == (7, 3)
    assert describe_images(paths).tobytes() == describe_images(paths).tobytes()
    # Principal components keep all distances between seven images.
    raw = np.stack([_describe(item_image(path, 0)) for path in paths])
    apart = np.linalg.norm(raw[:, None] - raw, axis=2)
    np.testing.assert_allclose(np.linalg.norm(out[1:8, None] - out[1:8], axis=2), apart, atol=1e-5)


def test_an_unreadable_image_is_named_with_its_item(images, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(images["red disc"].read_bytes()[:60])
    with pytest.raises(ValueError, match=r"item 2: the image .*broken\.png cannot be read"):
        describe_images([images["red disc"], None, broken])
    with pytest.raises(ValueError, match=r"item 0: .*none\.png"):
        describe_images([tmp_path / "none.png"])
    with pytest.raises(ValueError, match=r"none of the 2 items has an image; set embed\.image"):
        describe_images([None, None])


def test_images_are_opened_upright_in_rgb_on_white(tmp_path):
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


def encode(paths, model, cache=None, **options):
    cache = {} if cache is None else cache
    return encode_images(paths, model=model, batch_size=2, cache=cache, **options)


def by_hand(folder, path):
    processor, model = AutoImageProcessor.from_pretrained(folder), AutoModel.from_pretrained(folder)
    inputs = processor(images=Image.open(path).convert("RGB"), return_tensors="pt")
    with torch.inference_mode():
        if hasattr(model, "visual_projection"):
            return model.visual_projection(model.vision_model(**inputs).pooler_output)[0].numpy()
        return model(**inputs).pooler_output[0].numpy()


@pytest.mark.parametrize("name", ["vit", "clip"])
def test_vectors_are_the_models_own(name, images, request):
    folder = request.getfixturevalue(name)
    paths = [None, *images.values()]
    out = encode(paths, folder)
    assert out.dtype == np.float32
    assert out.shape == (8, {"vit": 16, "clip": 12}[name])
    assert not out[0].any()
    for row in (1, 4, 7):
        np.testing.assert_allclose(out[row], by_hand(folder, paths[row]), atol=1e-5)


def test_models_without_a_pooled_output_are_averaged():
    class Output:
        pooler_output = None
        last_hidden_state = torch.tensor([[[1.0, 2.0], [3.0, 6.0]]])

    assert image._pooled(Output()).tolist() == [[2, 4]]
    Output.last_hidden_state = torch.arange(8.0).reshape(1, 2, 2, 2)  # [B, D, H, W]
    assert image._pooled(Output()).tolist() == [[1.5, 5.5]]
    Output.pooler_output = torch.ones(1, 3, 1, 1)
    assert image._pooled(Output()).tolist() == [[1, 1, 1]]


def test_interrupted_grown_and_shuffled_equal_undisturbed_bitwise(vit, images, monkeypatch):
    paths = list(images.values())
    undisturbed = encode(paths, vit)
    cache = {}
    encode(paths[:3], vit, cache)
    told = []
    order = [6, 2, 0, 5, 1, 4, 3]
    shuffled = encode(
        [paths[i] for i in order], vit, cache, progress=lambda *step: told.append(step)
    )
    assert told[0] == ("encode images", 3, 7)
    assert (shuffled == undisturbed[order]).all()
    monkeypatch.setattr(image, "AutoModel", None)  # all is there: nothing is loaded
    assert (encode(paths, vit, cache) == undisturbed).all()


def test_content_not_place_is_what_is_cached(vit, images, tmp_path):
    copy = tmp_path / "copy.png"
    copy.write_bytes(images["red disc"].read_bytes())
    cache = {}
    out = encode([images["red disc"], copy], vit, cache)
    assert len(cache) == 1
    assert (out[0] == out[1]).all()
    copy.write_bytes(images["blue disc"].read_bytes())
    assert (encode([copy], vit, cache) != out[0]).any()


def test_unreadable_images_and_missing_models_are_named(vit, images, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"item 1: the image .*broken\.jpg cannot be read"):
        encode([images["red disc"], broken], vit)
    with pytest.raises(ValueError, match=r"item 0: the image .*none\.jpg cannot be read"):
        encode([tmp_path / "none.jpg"], vit)
    with pytest.raises(FileNotFoundError, match="no such model folder"):
        encode([images["red disc"]], str(tmp_path / "none"))
