"""Sizes that suit the data: every recipe that they make is valid, and grows with the data."""

import polars as pl
import pytest

from genrec import sizes
from genrec.recipe import Recipe


@pytest.mark.parametrize("items", [3, 20, 800, 4344, 20_000, 100_000, 3_000_000])
@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize(("text", "images"), [(True, True), (True, False), (False, False)])
def test_every_size_is_a_recipe(items: int, quick: bool, text: bool, images: bool) -> None:
    made = sizes.sections(
        items=items, interactions=20 * items, text=text, images=images, quick=quick
    )
    recipe = Recipe(name="x", prepare={"source": {"kind": "demo"}}, **made)
    quantize = recipe.quantize
    assert quantize.codes**quantize.levels >= items  # type: ignore[attr-defined]
    kinds = {r.kind for r in recipe.retrieve}
    assert ("ease" in kinds) == (items <= 20_000)
    assert ("graph" in kinds) == (items <= 200_000)
    assert (recipe.embed.text is not None) == text  # type: ignore[union-attr]


def test_the_core_keeps_much_of_the_log() -> None:
    def log(pairs: list[tuple[int, int]]) -> pl.DataFrame:
        return pl.DataFrame(pairs, ["user", "item"], orient="row")

    assert sizes.core(log([(u, i) for u in range(10) for i in range(10)])) == (5, 10, 10, 100)
    single = log([(u, 7 * u + k) for u in range(10) for k in range(4)])
    assert sizes.core(single) == (0, 10, single["item"].n_unique(), 40)
