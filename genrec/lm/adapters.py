"""Adapters: LoRA, DoRA or rsLoRA on the linear layers, and the rows of the SID tokens with them.

SID tokens are new vocabulary, which plain LoRA never trains; PEFT's trainable token rows train those
rows and no other. So an adapter is small, and merging it gives a whole model.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import peft
import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.trainable_tokens import TrainableTokensLayer
from torch import nn
from transformers import PreTrainedModel


def adapt(
    model: PreTrainedModel,
    rows: Sequence[int],
    *,
    rank: int = 16,
    alpha: int = 32,
    dropout: float = 0.05,
    target: str | Sequence[str] = "all-linear",
    use_dora: bool = False,
    use_rslora: bool = False,
    seed: int = 0,
) -> peft.PeftModel:
    """Puts a fresh adapter on a model; nothing else of it will be trained.

    Args:
        model: its vocabulary holds the SID tokens already; changed in place.
        rows: their token ids.
        rank: of the matrices A and B.
        alpha: their product's scale, times 1 / rank.
        dropout: on their input.
        target: the linear layers to adapt; `all-linear` is all but the output head.
        use_dora: a trained magnitude per output, LoRA for the direction (arXiv 2402.09353).
        use_rslora: scale by alpha / sqrt(rank), so that a high rank still learns (arXiv 2312.03732).
        seed: of A.

    Returns:
        The model with its adapter, which `save_adapter` saves alone.
    """
    tied = is_tied(model)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=target if isinstance(target, str) else list(target),
        use_dora=use_dora,
        use_rslora=use_rslora,
        # An untied head would never learn to write the new tokens if only the input rows trained.
        trainable_token_indices=list(rows) if tied else dict.fromkeys(row_modules(model), rows),
        ensure_weight_tying=tied,
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # PEFT ties the token rows but warns that no whole module is tied.
        warnings.filterwarnings("ignore", message="You have requested `ensure_weight_tying`")
        torch.manual_seed(seed)
        adapted = peft.get_peft_model(model, config)
    return _without_vocabulary(adapted)


@contextmanager
def rows_alone(
    model: PreTrainedModel | peft.PeftModel, rows: Sequence[int]
) -> Iterator[peft.PeftModel]:
    """Yields a model of which only the rows of the SID tokens train, for a `with` block.

    The base is frozen and a fresh adapter is left out of the computation, so no gradient of a weight is
    made, and the optimizer holds the rows only. Input rows are at the bottom: the backward pass still
    goes through all layers.

    Args:
        model: from `load_pretrained`. After the block it has the trained rows, and is ready to be
            trained as before it.
        rows: the SID tokens' ids.
    """
    if isinstance(model, peft.PeftModel):
        layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
        for layer in layers:
            layer.enable_adapters(False)
        try:
            yield model
        finally:
            for layer in layers:
                layer.enable_adapters(True)
        return
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    modules = None if is_tied(model) else row_modules(model)
    config = peft.TrainableTokensConfig(token_indices=list(rows), target_modules=modules)
    alone = _without_vocabulary(peft.get_peft_model(model, config))
    try:
        yield alone
    finally:
        alone.merge_and_unload()
        for parameter in trained:
            parameter.requires_grad_(True)


def row_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Returns the SID rows of an adapted model, as far as they are trained."""
    layers = [module for module in model.modules() if isinstance(module, TrainableTokensLayer)]
    return [
        parameter
        for layer in layers
        if layer.tied_adapter is None
        for parameter in layer.trainable_tokens_delta.values()
        if parameter.requires_grad
    ]


def attach(model: PreTrainedModel, path: str | Path) -> peft.PeftModel:
    """Puts a saved adapter on the base that it was made for, SID tokens added."""
    return _without_vocabulary(peft.PeftModel.from_pretrained(model, str(path)))


def save_adapter(model: peft.PeftModel, path: str | Path) -> None:
    """Saves the matrices and the SID rows, nothing of the base."""
    model.save_pretrained(str(path), save_embedding_layers=False)


def merge(model: peft.PeftModel) -> PreTrainedModel:
    """Returns the base with the adapter worked into its weights; `model` is used up.

    A 4-bit base is written out in full first, that the sum is not rounded to 4 bits again.
    """
    if getattr(model.base_model.model, "is_quantized", False):
        model = _dequantized(model)
    return model.merge_and_unload()


def _without_vocabulary(model: peft.PeftModel) -> peft.PeftModel:
    # PEFT sees that the vocabulary grew and would put the whole embedding into every checkpoint,
    # though the new rows are in the adapter already.
    model.save_pretrained = partial(model.save_pretrained, save_embedding_layers=False)
    return model


def _dequantized(model: peft.PeftModel) -> peft.PeftModel:
    """Puts the adapter of a 4-bit model on the same base with its 4-bit weights written out."""
    with tempfile.TemporaryDirectory() as folder:
        save_adapter(model, folder)
        base = model.unload()
        return peft.PeftModel.from_pretrained(base.dequantize(base.dtype), folder)


def is_tied(model: PreTrainedModel) -> bool:
    """Says whether one matrix is both the input embedding and the output head."""
    return model.get_input_embeddings().weight is model.get_output_embeddings().weight


def row_modules(model: PreTrainedModel) -> list[str]:
    """Returns the names of the modules that hold one row per token: embedding and output head."""
    wanted = (model.get_input_embeddings(), model.get_output_embeddings())
    return [name for name, module in model.named_modules() if any(module is w for w in wanted)]
