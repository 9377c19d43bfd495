"""Language and vision-language models that answer requests, behind one protocol.

`hf` runs in this process, `vllm` offline in its own, `openai` asks any compatible endpoint. Names
load on first use, since each needs libraries of its own.
"""

from genrec.lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
