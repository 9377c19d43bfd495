"""Examples to a model, validated by the decoder that will be used."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from genrec.decode.head import set_softmax
from genrec.decode.rope import LengthRope
from genrec.enrich import components, load_fused
from genrec.evaluate import per_user
from genrec.lm import batch
from genrec.lm.adapters import rows_alone, save_adapter
from genrec.lm.checkpoints import room_for
from genrec.lm.corpus import encode_file, lengths_of, texts_of
from genrec.lm.meaning import write_sids
from genrec.lm.model import (
    build_scratch,
    load_adapter,
    load_pretrained,
    load_whole,
    save_merged,
)
from genrec.lm.sampler import masked_attention
from genrec.lm.sizes import chosen, settled
from genrec.lm.train import train
from genrec.lm.turns import use_turns
from genrec.processes import Processes
from genrec.recommender import Recommender
from genrec.sid import SIDSets
from genrec.sid.quantizer import load_codebooks
from genrec.sid.sets import file_of
from genrec.stages import Context, read_prompts

logger = logging.getLogger(__name__)

METRIC = "ndcg@10"  # chooses the checkpoint; recall alone is blind to the order
_COMPONENTS = 128  # of the items' vectors, for sid_init=items
# Of the section; what `train` is not told.
_NOT_TRAINERS = {"model", "max_length", "eval_users", "softmax", "rows_first"}
ROWS_FIRST = "rows-first"  # the folder of the first of two stages: its log and its checkpoints


def run(context: Context) -> None:
    """Examples to a model, validated by the decoder that will be used."""
    stats, composed = context.inputs["prepare"].load("stats.json"), context.inputs["compose"]
    for field, value in chosen(context.section, stats).items():
        logger.info("train.%s=%s, by the data", field, value)
    section = settled(context.section, stats)
    context = replace(context, section=section)
    sids = SIDSets.load(context.inputs["quantize"].path)
    files = {split: composed / f"{split}.parquet" for split in ("train", "valid")}
    model, tokenizer = _model(context, files["train"], sids)
    if context.recipe.runtime.attention:
        model.set_attn_implementation(context.recipe.runtime.attention)
    by_codes = section.softmax == "codes"
    set_softmax(model, section.softmax)
    code_tokens = batch.code_token_ids(tokenizer, sids.codes_per_level)
    encoded = {
        split: encode_file(
            *(path, tokenizer, code_tokens),
            max_length=section.max_length,
            folder=context.store / "tokens",
        )
        for split, path in files.items()
    }
    for split, part in encoded.items():
        warn_of_lengths(model, lengths_of(part.data), split=split)
    options = {
        **section.model_dump(exclude=_NOT_TRAINERS),
        "max_logits": context.recipe.runtime.max_logits,
        "code_groups": [*chain(*sids.tokens(code_tokens))] if by_codes else None,
        "save_every": context.recipe.runtime.save_every,
        "seed": context.recipe.seed,
        "device": context.device,
        "precision": context.recipe.runtime.precision,
        "track": context.recipe.runtime.trackers,
        "track_in": _tracks(context),
        "validate": _validation(context, tokenizer, sids),
        "metric": METRIC,
        "noted": {"runtime.batch_size": context.recipe.runtime.batch_size},
        "progress": context.progress,
    }
    valid = encoded["valid"].data.select(_sample(context, len(encoded["valid"].data)))
    data = (tokenizer, encoded["train"].data, valid)
    before = {}
    if first := section.rows_first:
        before["rows_first"] = _train_rows(
            *(context.out / ROWS_FIRST, model, np.concatenate(code_tokens)),
            *(data, options | first.model_dump() | {"lr_rows": None}),
        )
        options["noted"] |= {"rows_first": first.model_dump()}
    summary = train(model, *data, out=context.out, **options) | before
    processes = Processes.current()
    processes.wait()  # all have read the best checkpoint, so it may go
    if not processes.first:
        return
    if whole := summary.pop("whole", None):
        model = _reopened(context, sids, context.out / whole)
    summary["trimmed"] = {split: part.trimmed for split, part in encoded.items()}
    with room_for("the model", context.out):
        if section.model.tune != "full":
            save_adapter(model, context.out / "adapter")
        save_merged(model, tokenizer, context.out / "merged")
        for number, own in enumerate(sids):
            name = file_of(number, suffix="json")
            write_sids(context.out / "merged" / name, _item_ids(context), own)
    for checkpoint in context.out.rglob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    context.write_json("summary.json", summary)


def _train_rows(
    out: Path, model: Any, rows: np.ndarray, data: Sequence[Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Trains the SID rows alone, in a folder of their own; a finished stage is only opened.

    Raises:
        ValueError: under FSDP or DeepSpeed, where the second stage would begin with a part of the model.
    """
    for kind in ("FSDP", "DEEPSPEED"):
        if os.environ.get(f"ACCELERATE_USE_{kind}", "false").lower() in ("1", "true", "yes"):
            raise ValueError(
                f"train.rows_first: not under {kind}, which leaves each process a part of the model; "
                "take a launcher of plain processes, such as ddp8, or leave it out"
            )
    told = {
        "noted": {**options["noted"], "trained": "rows"},
        "track_in": options["track_in"] / ROWS_FIRST,
        "progress": lambda step, done, total: options["progress"](f"{step} rows", done, total),
    }
    with rows_alone(model, rows.tolist()) as alone:
        return train(alone, *data, out=out, **{**options, **told})


def warn_of_lengths(model: Any, lengths: np.ndarray, *, split: str) -> None:
    """Warns where the longest example of a batch decides the RoPE of the others.

    Args:
        model: the causal LM.
        lengths: tokens of each example. int64 [n].
        split: how the examples are called.
    """
    rope = LengthRope(model.config.get_text_config())
    different = np.unique(lengths).tolist()
    if len({rope.regime(length) for length in different}) > 1:
        switch = min(switch.length for switch in rope.switches)
        logger.warning(
            "%s examples have up to %d tokens, and the RoPE of %s has other frequencies beyond %d: an "
            "example's loss depends on the longest in its batch, while decoding goes by each user's own "
            "length. Set train.max_length=%d to stay below",
            *(split, different[-1], type(model).__name__, switch, switch),
        )


def _reopened(context: Context, sids: SIDSets, folder: Path) -> Any:
    """Loads the weights of a checkpoint into a whole model, where training left each process a part."""
    unset_hf_deepspeed_config()  # or ZeRO-3 would share out this one too, with processes that left
    model = context.section.model
    if model.tune == "full":
        return load_whole(folder)
    shape = {"levels": sids.levels, "codes": max(sids.codes_per_level)}
    dtype = getattr(torch, model.dtype)
    base = {"tune": model.tune, "dtype": dtype, "device": "cpu", "store": context.store}
    return load_adapter(model.name, folder, **base, **shape)[0]


def _tracks(context: Context) -> Path:
    """Where tensorboard writes: next to the artifacts, since its files are not one of them."""
    name = f"{context.recipe.name}-{context.out.stem}"
    return context.store / "trackers" / name


def _model(context: Context, examples: Path, sids: SIDSets) -> Any:
    options = context.section.model.model_dump(
        exclude={"kind", "sid_init", "size", "chat_template"}
    )
    shape = {"levels": sids.levels, "codes": max(sids.codes_per_level)}
    shape["seed"] = context.recipe.seed
    if context.section.model.sid_init == "codebook":
        files = [file_of(number, "quantizer", "safetensors") for number in range(len(sids))]
        books = [[*load_codebooks(context.inputs["quantize"] / file)] for file in files]
        options["sid_init"] = sids.code_vectors(books, shape["codes"])
    if context.section.model.sid_init == "items":
        vectors = components(load_fused(context.inputs["embed"].path)[0], _COMPONENTS)
        options["sid_init"] = sids.mean_vectors(vectors, shape["codes"])
    if context.section.model.kind == "scratch":
        return build_scratch(texts=texts_of(examples), **options, **shape)
    if context.section.model.sid_init == "keep":
        item_ids = _item_ids(context)
        options["sids"] = [dict(zip(item_ids, own, strict=True)) for own in sids]
    options["dtype"] = getattr(torch, options["dtype"])
    model, tokenizer = load_pretrained(
        **options, **shape, device=context.device, store=context.store
    )
    instruct = context.recipe.compose.style == "instruct"
    if use_turns(tokenizer, instruct and context.section.model.chat_template):
        logger.info("train: prompts and answers are turns of the model's chat template")
    return model, tokenizer


def _item_ids(context: Context) -> list[str]:
    return context.inputs["prepare"].load("items.parquet")["item_id"].to_list()


def _sample(context: Context, users: int) -> list[int]:
    """Returns the rows of the validation users by whom training is judged: all would take long."""
    chosen = np.random.default_rng(context.recipe.seed).permutation(users)
    return sorted(int(row) for row in chosen[: context.section.eval_users])


def _validation(
    context: Context, tokenizer: Any, sids: SIDSets
) -> Callable[[Any], dict[str, float]]:
    """Returns the function that decodes a sample of validation users and measures the lists."""
    targets = context.inputs["prepare"].load("valid.parquet")
    rows = _sample(context, len(targets))
    sample = targets[rows]
    prompts = read_prompts(context.inputs["compose"].path, "valid", len(sids), rows=rows)

    def validate(model: Any) -> dict[str, float]:
        # Each process decodes all: parts of a sharded model must take every step together.
        recommender = Recommender.of_model(
            model,
            tokenizer,
            sids,
            max_length=context.section.max_length,
            batch_size=context.recipe.runtime.batch_size,
        )
        with masked_attention(model):
            lists = recommender.recommend(
                prompts,
                k=10,
                num_beams=20,
                exclude=sample["history"].to_list(),  # one way to select, whatever `mask_seen` says
            )
        table = lists.to_table(sample["user"])
        measured = per_user(table, sample, ks=(10,), num_items=sids.num_items, where="valid")
        return {name: float(measured[name].to_numpy().mean()) for name in ("recall@10", METRIC)}

    return validate
