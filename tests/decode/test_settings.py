"""What a recipe may say of the engine, and what it hears when that cannot be."""

import pytest

from genrec import recipe
from genrec.decode.settings import HFDecoder, VLLMDecoder
from genrec.recipe import RecipeError


def test_the_default_is_ours() -> None:
    assert recipe.load("demo").recommend.engine == HFDecoder()


def test_an_option_alone_means_the_default_kind() -> None:
    engine = recipe.load("demo", ["recommend.engine.strategy=expand"]).recommend.engine
    assert engine == HFDecoder(strategy="expand")


def test_vllm_takes_any_option_of_its_own() -> None:
    overrides = ["recommend.engine.kind=vllm", "recommend.engine.options.max_num_seqs=8"]
    engine = recipe.load("demo", overrides).recommend.engine
    assert engine == VLLMDecoder(options={"max_num_seqs": 8})


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("{kind: vlm}", r"did you mean 'vllm'\? expected one of hf, vllm"),
        ("{kind: vllm, certify: true}", "recommend.engine.vllm.certify: unknown key"),
        ("{kind: vllm, options: {dtype: float16}}", r"options: \['dtype'\] are fields"),
        ("{max_beams: 99}", "set certify=true"),
        ("{certify: true, max_beams: 3}", "engine.max_beams=3 is below num_beams=50"),
        ("{dtype: float8}", "recommend.engine.hf.dtype"),
        ("{memory_gb: 0}", "memory_gb"),
    ],
)
def test_what_cannot_be_is_said(engine: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe.load("demo", ["recommend.num_beams=50", f"recommend.engine={engine}"])
