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
