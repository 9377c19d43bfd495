"""In which precision training multiplies: float32, or bfloat16 under autocast.

Weights that are trained stay float32 either way, and so do their updates.
"""

from __future__ import annotations

import logging
import math
import time
from typing import Literal

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from genrec.processes import Processes

logger = logging.getLogger(__name__)

Precision = Literal["auto", "float32", "bfloat16"]
_PAYS = 1.5  # times as fast: what is around the products gains nothing
_ROWS, _TURNS = 512, 8
_DTYPES = torch.float32, torch.bfloat16


def in_bfloat16(model: PreTrainedModel | PeftModel, precision: Precision, *, device: str) -> bool:
    """Says whether products are bfloat16's.

    `auto` takes bfloat16 on a GPU that has it. On a CPU it does so for a model of which a part is
    frozen, where products of its width are seen to be faster (AVX512-BF16 and AMX have instructions for
    it; others emulate it, slowly). A model from scratch is small, and several processes might not agree:
    both stay with float32.

    Args:
        model: the causal LM, made ready to be tuned.
        precision: what is asked for.
        device: cpu, cuda or mps.

    Raises:
        ValueError: the GPU has no bfloat16, and it was asked for.
    """
    if device == "cuda":
        there = torch.cuda.is_bf16_supported()
        if precision == "bfloat16" and not there:
            raise ValueError("runtime.precision=bfloat16: this GPU has none; take auto or float32")
        return there and precision != "float32"
    if precision != "auto":
        return precision == "bfloat16"
    frozen = any(not parameter.requires_grad for parameter in model.parameters())
    four_bits = getattr(model, "is_quantized", False)  # bitsandbytes has a precision of its own
    if device != "cpu" or not frozen or four_bits or Processes.current().count > 1:
        return False
    gain = speed_of_bfloat16(model.config.get_text_config().hidden_size)
    logger.info("train: products in bfloat16 are %.1f times as fast here as in float32", gain)
    return gain >= _PAYS


def speed_of_bfloat16(width: int) -> float:
    """Measures how many times as fast the CPU multiplies in bfloat16 as in float32; takes some 20 ms.

    In processor seconds, the least of several turns: the same beside other work, so that a training that
    was killed goes on as it began.

    Args:
        width: of the square matrix that 512 rows are multiplied with.
    """
    pairs = {
        d: (torch.rand(_ROWS, width, dtype=d), torch.rand(width, width, dtype=d)) for d in _DTYPES
    }
    seconds = dict.fromkeys(_DTYPES, math.inf)
    for turn in range(_TURNS):
        for dtype, (rows, weight) in pairs.items():
            begin = time.process_time()
            rows @ weight
            if turn:  # the first makes things ready
                seconds[dtype] = min(seconds[dtype], time.process_time() - begin)
    return seconds[torch.float32] / seconds[torch.bfloat16]
