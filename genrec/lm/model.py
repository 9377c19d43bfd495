"""The language models: a small Qwen3 made on the spot, or a pretrained one, adapted or tuned whole.

What is handed on is a merged model that transformers loads alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import peft
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from genrec.lm.adapters import adapt, attach, is_tied, merge
from genrec.lm.batch import add_sid_tokens, code_token_ids
from genrec.lm.meaning import Sids, check_meaning, sid_tokens_in
from genrec.progress import quiet
from genrec.weights import find_weights

logger = logging.getLogger(__name__)

Tune = Literal["lora", "qlora", "full"]
PAD, BOS, EOS = "<pad>", "<s>", "</s>"


def build_scratch(
    *,
    texts: Iterable[str],
    levels: int,
    codes: int,
    hidden: int = 128,
    layers: int = 4,
    heads: int = 4,
    vocab: int = 4000,
    max_positions: int = 2048,
    dropout: float = 0.2,
    seed: int = 0,
    sid_init: Sequence[np.ndarray] | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Builds an untrained Qwen3-architecture model and its tokenizer.

    Args:
        texts: what the byte-level BPE tokenizer is trained on: the texts of the composed corpus.
        levels: L of the SIDs.
        codes: K of every level.
        hidden: width, a multiple of 2 x heads.
        layers: decoder layers.
        heads: attention heads, each with its own keys and values.
        vocab: at most this many text tokens; at least the 256 bytes.
        max_positions: longest sequence, tokens.
        dropout: on attention, on the embedding and on what each block adds to the residual.
        seed: of the weights.
        sid_init: L float arrays [K, D] of any D, such as the quantizer's codebooks: like codes then
            start with like embeddings. None starts them at random.

    Returns:
        The model in fp32 on the CPU, input and output embeddings tied, and the tokenizer.

    Raises:
        ValueError: `hidden` does not divide among the heads.
    """
    if hidden % (2 * heads):
        raise ValueError(
            f"train.model.hidden={hidden} must be a multiple of 2 x heads ({heads}), "
            f"such as {2 * heads * max(1, round(hidden / (2 * heads)))}"
        )
    tokenizer = _train_tokenizer(texts, vocab)
    add_sid_tokens(tokenizer, [codes] * levels)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        # SwiGLU has three matrices: 8/3 of the width costs what 4x does with two (Llama).
        intermediate_size=-(-8 * hidden // 24) * 8,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=hidden // heads,
        max_position_embeddings=max_positions,
        attention_dropout=dropout,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config)
    if sid_init is not None:
        rows = code_token_ids(tokenizer, [codes] * levels)
        set_rows(model, np.concatenate(rows), seed=seed, vectors=stack(sid_init, rows))
    _add_dropout(model, dropout)
    return model, tokenizer


def load_pretrained(
    name: str,
    *,
    levels: int,
    codes: int,
    tune: Tune = "lora",
    rank: int = 16,
    alpha: int = 32,
    dropout: float = 0.05,
    target: str | Sequence[str] = "all-linear",
    use_dora: bool = False,
    use_rslora: bool = False,
    dtype: torch.dtype = torch.float32,
    device: str = "auto",
    seed: int = 0,
    sid_init: Sequence[np.ndarray] | None = None,
    sids: Sequence[Sids] | None = None,
    store: str | Path | None = None,
) -> tuple[PreTrainedModel | peft.PeftModel, PreTrainedTokenizerBase]:
    """Loads a causal LM, adds the SID tokens, and makes it ready to be tuned.

    A model that was trained on SIDs goes on as it was where `sids` are the ones that it knows.

    Args:
        name: a model's folder, its name on the hub, a GGUF file, `package:<import name>` or
            `asset:<name>`; see `find_weights`.
        levels: L of the SIDs.
        codes: K of every level.
        tune: `lora` adapts the base and trains the SID rows; `qlora` does so over a base in 4-bit
            NF4; `full` trains every weight.
        rank: as the other settings of the adapter, in `adapt`.
        alpha: as there.
        dropout: as there.
        target: as there.
        use_dora: as there.
        use_rslora: as there.
        dtype: of the base's weights; keep fp32 for `full`.
        device: where a quantized base is made; `auto` is the GPU if there is one.
        seed: of LoRA's matrices and the new rows.
        sid_init: as in `build_scratch`.
        sids: what the tokens mean here, of each set of SIDs item id to codes. The rows of SID tokens
            that the model knows are then kept, and only new ones start as `sid_init` says. None
            starts all of them so, and warns where that overwrites some.
        store: as of `find_weights`.

    Returns:
        The model (a `peft.PeftModel` unless `full`) and its tokenizer.

    Raises:
        ValueError: no such model or tokenizer, or its SID tokens mean other items than `sids` says
            (see `check_meaning`); names `train.model.name`.
    """
    start = _Start(seed, sid_init, sids)
    model, tokenizer = _base(name, levels, codes, tune, dtype, device, start, store)
    if tune == "full":
        return model, tokenizer
    rows = np.concatenate(code_token_ids(tokenizer, [codes] * levels)).tolist()
    adapted = adapt(
        model,
        rows,
        rank=rank,
        alpha=alpha,
        dropout=dropout,
        target=target,
        use_dora=use_dora,
        use_rslora=use_rslora,
        seed=seed,
    )
    return adapted, tokenizer


def load_adapter(
    name: str,
    path: str | Path,
    *,
    levels: int,
    codes: int,
    tune: Tune = "lora",
    dtype: torch.dtype = torch.float32,
    device: str = "auto",
    store: str | Path | None = None,
) -> tuple[peft.PeftModel, PreTrainedTokenizerBase]:
    """Loads a base model and an adapter saved by `save_adapter`; arguments as `load_pretrained`."""
    # The adapter holds the SID rows, so those of the base are of no account.
    model, tokenizer = _base(name, levels, codes, tune, dtype, device, None, store)
    return attach(model, path), tokenizer


def load_whole(path: str | Path) -> PreTrainedModel:
    """Loads a model from a folder that has all of it, SID tokens too."""
    with quiet():
        return AutoModelForCausalLM.from_pretrained(str(path), dtype=torch.float32)


def save_merged(
    model: PreTrainedModel | peft.PeftModel, tokenizer: PreTrainedTokenizerBase, path: str | Path
) -> PreTrainedModel:
    """Saves a model that AutoModelForCausalLM and AutoTokenizer load alone.

    Args:
        model: trained; an adapted one is merged in place, so do not use it afterwards.
        tokenizer: saved next to it.
        path: the folder to write.

    Returns:
        The merged model.
    """
    if isinstance(model, peft.PeftModel):
        model = merge(model)
    with quiet():
        model.save_pretrained(str(path))
    tokenizer.save_pretrained(str(path))
    return model


@dataclass(frozen=True)
class _Start:
    """Where the SID rows start; see `load_pretrained`."""

    seed: int
    sid_init: Sequence[np.ndarray] | None
    sids: Sequence[Sids] | None

    def kept(self, name: str, folder: str, had: frozenset[str]) -> frozenset[str]:
        """Returns the tokens whose rows stay, of those that the model had."""
        if had and self.sids is None:
            logger.warning(
                "train.model.name='%s': the rows of its %d SID tokens are drawn anew; what it had "
                "learned of them is lost",
                *(name, len(had)),
            )
        if not had or self.sids is None:
            return frozenset()
        return check_meaning(name, folder, had, self.sids)


def _base(
    name: str,
    levels: int,
    codes: int,
    tune: Tune,
    dtype: torch.dtype,
    device: str,
    start: _Start | None,
    store: str | Path | None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    options: dict[str, Any] = {"dtype": dtype}
    if tune == "qlora":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
        cuda = torch.cuda.is_available() and device != "cpu"
        options["device_map"] = {"": torch.cuda.current_device() if cuda else "cpu"}
    try:
        folder = find_weights(name, store=store)
        _check_whole(name, Path(folder))
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder)
            kept = start.kept(name, folder, sid_tokens_in(tokenizer.get_vocab())) if start else ()
            model = AutoModelForCausalLM.from_pretrained(folder, **options)
    except OSError as error:
        raise ValueError(
            f"train.model.name='{name}': no such folder, and the hub has no such model or cannot "
            f"be reached; give the folder of a causal LM or its name on the hub ({error})"
        ) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    add_sid_tokens(tokenizer, [codes] * levels)
    # Many models keep spare rows beyond their vocabulary; never shrink those.
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    rows = code_token_ids(tokenizer, [codes] * levels)
    if start is not None:
        flat = np.concatenate(rows)
        vectors = None if start.sid_init is None else stack(start.sid_init, rows)
        keep = np.isin(flat, tokenizer.convert_tokens_to_ids(sorted(kept)))
        set_rows(model, flat, seed=start.seed, vectors=vectors, keep=keep)
    if tune == "qlora":
        _check_rows_of_4_bits(model)
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        for module in model.modules():
            # bitsandbytes repacks weights at the first CPU inference, rounds their scales to bf16
            # and then dequantizes them wrongly: training after a validation would go astray.
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
    return model, tokenizer


def _check_rows_of_4_bits(model: PreTrainedModel) -> None:
    """Checks that the 4-bit weights of a model are read back as they were written.

    Where the CPU has AVX-512, bitsandbytes (0.50) gives values of a block that goes on in the next
    row the scale of another block. On every CPU the same models are refused.
    """
    for name, weight in model.named_parameters():
        state = getattr(weight, "quant_state", None)
        if state is None or weight.device.type != "cpu" or state.shape[-1] % state.blocksize == 0:
            continue
        raise ValueError(
            f"train.model.tune=qlora: {name} has rows of {state.shape[-1]} values; on the CPU "
            f"bitsandbytes reads 4-bit weights wrongly unless a row is a multiple of "
            f"{state.blocksize} long. Use tune: lora, or train on a GPU"
        )


def _check_whole(name: str, folder: Path) -> None:
    """Checks that a folder is no adapter: transformers would look for its base by itself."""
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise ValueError(
            f"train.model.name='{name}': is an adapter alone; give the whole model: `merged/` of its "
            "train stage, or what `genrec publish` writes without --adapter"
        )


def _train_tokenizer(texts: Iterable[str], vocab: int) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=EOS
    )


def _add_dropout(model: Qwen3ForCausalLM, p: float) -> None:
    """Adds dropout as hooks: Qwen3 has none but in attention, and hooks leave no trace on disk."""
    blocks = [part for layer in model.model.layers for part in (layer.self_attn, layer.mlp)]
    for module in (model.model.embed_tokens, *blocks):
        module.register_forward_hook(partial(_drop, p=p))


def _drop(module: nn.Module, inputs: Any, output: Any, *, p: float) -> Any:
    if not module.training:
        return output
    if isinstance(output, tuple):  # attention returns its weights too
        return (F.dropout(output[0], p), *output[1:])
    return F.dropout(output, p)


def set_rows(
    model: PreTrainedModel,
    rows: np.ndarray,
    *,
    seed: int,
    vectors: np.ndarray | None,
    keep: np.ndarray | None = None,
) -> None:
    """Starts the SID rows among the old ones: their mean and spread, in random or given directions.

    Args:
        model: changed in place.
        rows: int [R], row numbers of the vocabulary.
        seed: of the random directions, or of the projection of `vectors`.
        vectors: float [R, D], projected at random to the model's width, or None.
        keep: bool [R], the rows that stay as they are, or None.
    """
    drawn = np.ones(len(rows), dtype=bool) if keep is None else ~keep
    rng = np.random.default_rng(seed)
    for matrix in (model.get_input_embeddings(), model.get_output_embeddings()):
        weight = matrix.weight.data
        old = np.setdiff1d(np.arange(len(weight)), rows)
        mean, std = weight[old].float().mean(0), weight[old].float().std(0)
        if vectors is None:
            noise = rng.standard_normal((len(rows), weight.shape[1]))
        else:
            noise = vectors @ rng.standard_normal((vectors.shape[1], weight.shape[1]))
            noise = (noise - noise.mean(0)) / (noise.std() + 1e-12)
        weight[rows[drawn]] = (mean + torch.from_numpy(noise[drawn]).to(std) * std).to(weight.dtype)
        if is_tied(model):
            break


def stack(sid_init: Sequence[np.ndarray], rows: Sequence[np.ndarray]) -> np.ndarray:
    """Stacks each level's vectors, of whatever width, as blocks: levels share no direction.

    Vectors of every level are as long, on average.
    """
    for level, (vectors, ids) in enumerate(zip(sid_init, rows, strict=True)):
        if len(vectors) != len(ids):
            raise ValueError(
                f"sid_init: level {level} has {len(vectors)} vectors, expected {len(ids)}"
            )
    spread = [(v - v.mean(0)) / (v.std() + 1e-12) for v in sid_init]
    widest = max(v.shape[1] for v in spread)
    spread = [v * np.sqrt(widest / v.shape[1]) for v in spread]
    widths = np.cumsum([0, *(v.shape[1] for v in spread)])
    stacked = np.zeros((sum(map(len, spread)), widths[-1]))
    start = 0
    for level, vectors in enumerate(spread):
        stacked[start : start + len(vectors), widths[level] : widths[level + 1]] = vectors
        start += len(vectors)
    return stacked
