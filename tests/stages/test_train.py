"""What a recipe says of the model reaches it."""

import importlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from genrec.recipe import load

stage = importlib.import_module("genrec.stages.train")
SIDS = np.array([[0, 1], [3, 2]], dtype=np.int32)


def built(*overrides: str) -> torch.nn.Module:
    recipe = load("demo", overrides)
    context = SimpleNamespace(recipe=recipe, section=recipe.train, inputs={}, device="cpu")
    return stage._model(context, None, SIDS)[0]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_base_has_the_dtype_of_the_recipe(dtype: str) -> None:
    """And what is trained has not: it stays float32."""
    model = built(f"train.model.dtype={dtype}")
    frozen = {p.dtype for p in model.parameters() if not p.requires_grad}
    trained = {p.dtype for p in model.parameters() if p.requires_grad}
    assert (frozen, trained) == ({getattr(torch, dtype)}, {torch.float32})


def test_weights_that_are_all_trained_are_float32() -> None:
    model = built("train.model={kind: pretrained, name: 'asset:tiny-lm', tune: full}")
    assert {p.dtype for p in model.parameters()} == {torch.float32}, "though it ships in bfloat16"
    with pytest.raises(ValueError, match="dtype=bfloat16: weights that are trained themselves"):
        load("demo", ["train.model.tune=full", "train.model.dtype=bfloat16"])


@pytest.mark.parametrize(
    ("lengths", "told"), [([9, 40], False), ([41, 90], False), ([9, 40, 41], True)]
)
def test_examples_on_both_sides_of_a_ropes_switch_are_told(lengths, told, caplog) -> None:
    """In a batch the longest decides the RoPE of all, and no example's loss is its own any more."""
    rope = {"rope_type": "longrope", "original_max_position_embeddings": 40}
    text = SimpleNamespace(rope_parameters=rope, max_position_embeddings=128)
    model = SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: text))
    stage.warn_of_lengths(model, np.array(lengths), split="train")
    assert ("train examples have up to 41 tokens" in caplog.text) == told
    assert ("Set train.max_length=40 to stay below" in caplog.text) == told
