from .beam import BeamEngine as BeamEngine
from .filters import Eligibility as Eligibility
from .generate import SIDBeamOutput as SIDBeamOutput, beam_search as beam_search
from .mixture import (
    MixtureEngine as MixtureEngine,
    MixtureResult as MixtureResult,
    fit_weights as fit_weights,
)
from .processor import SIDLogitsProcessor as SIDLogitsProcessor
from .result import BeamResult as BeamResult
from .vllm import VLLMBeamEngine as VLLMBeamEngine
from .vllm_server import VLLMServerEngine as VLLMServerEngine
