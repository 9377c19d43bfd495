"""Two sets of SIDs of a model whose codes are normalised among those of their level, in one vLLM."""

import pytest

from genrec.decode.vllm import VLLMBeamEngine

pytestmark = pytest.mark.vllm


def test_lists_are_the_mixture_of_the_other_engine(among_codes, assert_mixture):
    assert_mixture(among_codes.engines, among_codes.model)


def test_another_set_is_refused(among_codes, shop):
    llm = among_codes.engines[0].llm
    with pytest.raises(ValueError, match="sid_set=2; vLLM was started for 2 sets"):
        VLLMBeamEngine(llm, *shop.sets[1], sid_set=2)
    with pytest.raises(ValueError, match="another catalogue"):
        VLLMBeamEngine(llm, *shop.sets[1])
