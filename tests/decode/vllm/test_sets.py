"""Two sets of SIDs of a model whose codes are normalised among those of their level, in one vLLM."""

import copy

import pytest

from genrec.decode.head import set_softmax
from genrec.decode.vllm import VLLMBeamEngine

from .conftest import START, write_checkpoint

pytestmark = pytest.mark.vllm


def test_lists_are_the_mixture_of_the_other_engine(shop, assert_mixture, tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "WARNING")
    model = copy.deepcopy(shop.model)
    set_softmax(model, "codes")
    write_checkpoint(model, shop.tokens, tmp_path)
    engines = VLLMBeamEngine.load_sets(
        tmp_path, shop.sets, constraint=tmp_path / "constraint.safetensors", **START
    )
    assert_mixture(engines, model)
    with pytest.raises(ValueError, match="sid_set=2; vLLM was started for 2 sets"):
        VLLMBeamEngine(engines[0].llm, *shop.sets[1], sid_set=2)
    with pytest.raises(ValueError, match="another catalogue"):
        VLLMBeamEngine(engines[0].llm, *shop.sets[1])
