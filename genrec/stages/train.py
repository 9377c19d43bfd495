"""Examples to a model, validated by the decoder that will be used."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from genrec import schema
from genrec.decode import BeamEngine
from genrec.evaluate import per_user
from genrec.lm import batch
from genrec.lm.model import build_scratch, load_pretrained, save_adapter, save_merged
from genrec.lm.train import train
from genrec.processes import Processes
from genrec.recommender import Recommender, to_table
from genrec.sid import SIDTrie
from genrec.stages.context import Context

METRIC = "ndcg@10"  # chooses the checkpoint; recall alone is blind to the order
_TRAINER_FIELDS = {
    "epochs",
    "tokens_per_batch",
    "lr",
    "weight_decay",
    "warmup",
    "scheduler",
    "label_smoothing",
    "ema",
    "eval_every",
    "patience",
}


def run(context: Context) -> None:
    """Examples to a model, validated by the decoder that will be used."""
    section, composed = context.section, context.inputs["compose"]
    sids = context.inputs["quantize"].load()
    examples = {
        split: schema.read_examples(composed / f"{split}.parquet") for split in ("train", "valid")
    }
    model, tokenizer = _model(context, examples["train"], sids)
    code_tokens = batch.code_token_ids(tokenizer, _codes_per_level(sids))
    encoded = {
        split: batch.encode_examples(tokenizer, code_tokens, part, max_length=section.max_length)
        for split, part in examples.items()
    }
    summary = train(
        model,
        tokenizer,
        encoded["train"].data,
        encoded["valid"].data,
        out=context.out,
        **section.model_dump(include=_TRAINER_FIELDS),
        save_every=context.recipe.runtime.save_every,
        seed=context.recipe.seed,
        device=context.device,
        validate=_validation(context, tokenizer, examples["valid"], sids),
        metric=METRIC,
        progress=context.progress,
    )
    processes = Processes.current()
    processes.wait()  # all have read the best checkpoint, so it may go
    if not processes.first:
        return
    summary["trimmed"] = {split: part.trimmed for split, part in encoded.items()}
    if getattr(section.model, "tune", "full") != "full":
        save_adapter(model, context.out / "adapter")
    save_merged(model, tokenizer, context.out / "merged")
    for checkpoint in context.out.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    context.write_json("summary.json", summary)


def _model(context: Context, examples: Sequence[schema.Example], sids: np.ndarray) -> Any:
    options = context.section.model.model_dump(exclude={"kind"})
    shape = {"levels": sids.shape[1], "codes": int(sids.max()) + 1, "seed": context.recipe.seed}
    if context.section.model.kind == "scratch":
        parts = (part for example in examples for part in (*example.prompt, *example.completion))
        texts = [part.text for part in parts if part.text]
        return build_scratch(texts=texts, **options, **shape)
    return load_pretrained(**options, **shape, device=context.device)


def _validation(
    context: Context, tokenizer: Any, examples: Sequence[schema.Example], sids: np.ndarray
) -> Callable[[Any], dict[str, float]]:
    """Returns the function that decodes a sample of validation users and measures the lists."""
    targets = context.inputs["prepare"].load("valid.parquet")
    chosen = np.random.default_rng(context.recipe.seed).permutation(len(targets))
    rows = sorted(int(row) for row in chosen[: context.section.eval_users])
    sample = targets[rows]
    trie = SIDTrie(sids)
    code_tokens = batch.code_token_ids(tokenizer, trie.num_codes)

    def validate(model: Any) -> dict[str, float]:
        # Each process decodes all: parts of a sharded model must take every step together.
        lists = Recommender(
            BeamEngine(model, trie, code_tokens),
            tokenizer,
            sids,
            max_length=context.section.max_length,
            batch_size=context.recipe.runtime.batch_size,
        ).recommend(
            [examples[row].prompt for row in rows],
            k=10,
            num_beams=20,
            exclude=sample["history"].to_list(),  # one way to select, whatever `mask_seen` says
        )
        table = to_table(sample["user"].to_list(), lists)
        found = per_user(table, sample, ks=(10,), num_items=len(sids), where="valid")
        return {name: float(found[name].to_numpy().mean()) for name in ("recall@10", METRIC)}

    return validate


def _codes_per_level(sids: np.ndarray) -> list[int]:
    return (sids.max(axis=0) + 1).tolist()
