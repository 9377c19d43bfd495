from .hf import HFEngine as HFEngine
from .openai import OpenAIEngine as OpenAIEngine
from .protocol import (
    Engine as Engine,
    EngineError as EngineError,
    Judge as Judge,
    Message as Message,
    Reader as Reader,
    Reply as Reply,
    Request as Request,
    Score as Score,
    opened as opened,
)
from .vllm import VLLMEngine as VLLMEngine
