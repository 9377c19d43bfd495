"""Vision models give their own vectors, to the bit the same however they were interrupted."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

from genrec.enrich import vision
from genrec.enrich.vision import encode_images


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
def test_vectors_are_the_models_own(name, pictures, request):
    folder = request.getfixturevalue(name)
    paths = [None, *pictures.values()]
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

    assert vision._pooled(Output()).tolist() == [[2, 4]]
    Output.last_hidden_state = torch.arange(8.0).reshape(1, 2, 2, 2)  # [B, D, H, W]
    assert vision._pooled(Output()).tolist() == [[1.5, 5.5]]
    Output.pooler_output = torch.ones(1, 3, 1, 1)
    assert vision._pooled(Output()).tolist() == [[1, 1, 1]]


def test_interrupted_grown_and_shuffled_equal_undisturbed_bitwise(vit, pictures, monkeypatch):
    paths = list(pictures.values())
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
    monkeypatch.setattr(vision, "AutoModel", None)  # all is there: nothing is loaded
    assert (encode(paths, vit, cache) == undisturbed).all()


def test_content_not_place_is_what_is_cached(vit, pictures, tmp_path):
    copy = tmp_path / "copy.png"
    copy.write_bytes(pictures["red disc"].read_bytes())
    cache = {}
    out = encode([pictures["red disc"], copy], vit, cache)
    assert len(cache) == 1
    assert (out[0] == out[1]).all()
    copy.write_bytes(pictures["blue disc"].read_bytes())
    assert (encode([copy], vit, cache) != out[0]).any()


def test_unreadable_pictures_and_missing_models_are_named(vit, pictures, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"item 1: the image .*broken\.jpg cannot be read"):
        encode([pictures["red disc"], broken], vit)
    with pytest.raises(ValueError, match=r"item 0: the image .*none\.jpg cannot be read"):
        encode([tmp_path / "none.jpg"], vit)
    with pytest.raises(FileNotFoundError, match="no such model folder"):
        encode([pictures["red disc"]], str(tmp_path / "none"))
