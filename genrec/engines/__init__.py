"""Language and vision-language models that answer requests, behind one protocol.

`hf` runs in this process, `vllm` offline in its own, `openai` asks any compatible endpoint. Names
load on first use, since each needs libraries of its own.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
