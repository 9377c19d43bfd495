"""The model card of a published model: what it is, how to load it, what it was measured to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from huggingface_hub import ModelCardData

from genrec.sid.sets import file_of

_NF4 = """nf4 = BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
)
"""
_TAGS = ["recommendation", "generative-recommendation", "semantic-ids", "genrec"]


@dataclass(frozen=True)
class Facts:
    """What a card is written from.

    Attributes:
        name: of the recipe.
        recipe: its sections, as far as they differ from the defaults.
        base: the pretrained model that was tuned; None if the model was made from scratch.
        public_base: whether `base` is a name that others can load by.
        base_file: the GGUF file that `base` means, or None.
        tune: `full`, `lora` or `qlora`.
        dtype: that the base's weights had in training.
        adapter: where the adapter lies: `.`, `adapter`, or None if there is none.
        data: the prepare stage's statistics.
        sids: the quantize stage's; with several sets of SIDs those of each are its `sets`.
        training: the train stage's summary.
        made_with: the packages that it was trained with, to version; None if unknown.
        metrics: rows of the test split as evaluate writes them, none if it has not run.
    """

    name: str
    recipe: Mapping[str, Any]
    base: str | None
    public_base: bool
    base_file: str | None
    tune: str
    dtype: str
    adapter: str | None
    data: Mapping[str, Any]
    sids: Mapping[str, Any]
    training: Mapping[str, Any]
    made_with: Mapping[str, str] | None
    metrics: Sequence[Mapping[str, Any]]


def model_card(facts: Facts, *, place: str) -> str:
    """Returns a README.md in the hub's form, with front matter.

    Args:
        facts: what there is to say.
        place: the folder or hub name that the examples load from.
    """
    data = ModelCardData(
        library_name="peft" if facts.adapter == "." else "transformers",
        pipeline_tag="text-generation",
        tags=[*_TAGS, *(["peft", "lora"] if facts.adapter else [])],
        base_model=facts.base if facts.public_base else None,
    )
    parts = [f"---\n{data.to_yaml()}\n---", f"# {facts.name}", _about(facts)]
    parts += filter(None, [_sets(facts)])
    parts += [_loading(facts, place), _measured(facts), _data(facts), _training(facts)]
    recipe = yaml.safe_dump(dict(facts.recipe), sort_keys=False, allow_unicode=True)
    parts.append(f"## Recipe\n\nWhat differs from genrec's defaults:\n\n```yaml\n{recipe}```")
    return "\n\n".join(parts) + "\n"


def _about(facts: Facts) -> str:
    start = "a model made from scratch"
    if facts.base:
        file = (
            f" (its file `{facts.base_file}`)" if facts.base_file not in (None, facts.base) else ""
        )
        start = f"`{facts.base}`{file}, tuned by {facts.tune}"
    return (
        "A language model that recommends: given the items of a user's history as *semantic IDs* it "
        f"writes that of the next one. It is {start}, trained by genrec.\n\n"
        f"It knows the {facts.data['items']:,} items of {_files(facts)} and no other, and what it "
        "says of them comes from the interactions below, with all their habits. Histories are not "
        "published."
    )


def _files(facts: Facts) -> str:
    """Returns the files that hold the SIDs, as a sentence has them."""
    more = len(facts.sids.get("sets", ())) - 1
    names = [f"`{file_of(number, suffix='json')}`" for number in range(1 + max(more, 0))]
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _sets(facts: Facts) -> str:
    """Says how several sets of SIDs are used; nothing where there is one."""
    count = len(facts.sids.get("sets", ()))
    if count < 2:
        return ""
    return (
        f"Each item has {count} semantic IDs, one in each of {count} sets: {_files(facts)}. No code is "
        "in two sets, so a token says of which set it is. A prompt and the answer to it are of one set. "
        "An item's score is the weighted mean of the log-probabilities of its semantic IDs, each after "
        "the history in the same set; the weights are `set_weights` in `genrec.json`, in the order of "
        "the files. genrec's search does all this."
    )


def _loading(facts: Facts, place: str) -> str:
    parts = ["## How to load"]
    if facts.adapter != ".":
        parts += [
            "Recommendations, by exact search over the items:",
            _python(
                "from genrec.publish import open_published\n\n"
                f'model = open_published("{place}")\n'
                "history = model.item_ids[:3]  # oldest first\n"
                "print(model.recommend([history], k=10))"
            ),
            "The model alone, its SID tokens in the vocabulary:",
            _python(
                "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
                f'tokenizer = AutoTokenizer.from_pretrained("{place}")\n'
                f'model = AutoModelForCausalLM.from_pretrained("{place}")'
            ),
        ]
    if facts.adapter:
        parts += [
            "The adapter on its base, which first gets rows for the SID tokens:",
            _python(_on_its_base(facts, place)),
        ]
    return "\n\n".join(parts)


def _on_its_base(facts: Facts, place: str) -> str:
    """Returns code that makes the base what it was in training: its dtype, its bits, its weights."""
    name, options = f'"{facts.base}"', f'dtype="{facts.dtype}"'
    more = asks = lines = ""
    if facts.base_file or (facts.base or "").startswith(("asset:", "package:")):
        name, more = f"find_weights({name})", "from genrec.weights import find_weights\n"
    if facts.tune == "qlora":
        asks, lines, options = ", BitsAndBytesConfig", _NF4, f"{options}, quantization_config=nf4"
    folder = "" if facts.adapter == "." else f', subfolder="{facts.adapter}"'
    return (
        "import peft\n"
        f"from transformers import AutoModelForCausalLM, AutoTokenizer{asks}\n{more}\n"
        f'tokenizer = AutoTokenizer.from_pretrained("{place}")\n{lines}'
        f"base = AutoModelForCausalLM.from_pretrained({name}, {options})\n"
        "rows = max(len(tokenizer), base.get_input_embeddings().num_embeddings)\n"
        "base.resize_token_embeddings(rows, mean_resizing=False)\n"
        f'model = peft.PeftModel.from_pretrained(base, "{place}"{folder})'
    )


def _python(code: str) -> str:
    return f"```python\n{code}\n```"


def _measured(facts: Facts) -> str:
    if not facts.metrics:
        return "## Metrics\n\nNot evaluated."
    wanted = [("recall", 10), ("ndcg", 10), ("mrr", 10), ("coverage", 10)]
    rows = {(r["system"], r["metric"], r["k"]): r for r in facts.metrics}
    names = [f"{metric}@{k}" for metric, k in wanted]
    lines = ["| system | " + " | ".join(names) + " |", "|---" * (len(wanted) + 1) + "|"]
    for system in dict.fromkeys(row["system"] for row in facts.metrics):
        cells = [_cell(rows.get((system, *key))) for key in wanted]
        lines.append(f"| {system} | " + " | ".join(cells) + " |")
    users = facts.metrics[0]["users"]
    return (
        f"## Metrics\n\nTest split, {users:,} users, in brackets the 95 % bootstrap interval; "
        "`generative` is this model; the others are for comparison.\n\n" + "\n".join(lines)
    )


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    bounds = "" if row["low"] is None else f" ({row['low']:.4f} to {row['high']:.4f})"
    return f"{row['value']:.4f}{bounds}"


def _data(facts: Facts) -> str:
    data, sids = facts.data, facts.sids
    lines = [f"{data[n]:,} {n}" for n in ("users", "items", "interactions") if n in data]
    time = data.get("time") or {}
    span = f", from {time['first']} to {time['last']}" if {"first", "last"} <= set(time) else ""
    text = f"## Data\n\n{', '.join(lines)}{span}."
    several = sids.get("sets", ())
    for number, own in enumerate(several or (sids,), start=1):
        if "levels" in own:
            before = own.get("collision_rate", {}).get("before")
            shared = (
                "" if before is None else f"; {before:.1%} of the items shared one before repair"
            )
            what = f"SIDs of set {number}" if several else "SIDs"
            text += f" {what} have {own['levels']} levels of {own.get('codes')} codes{shared}."
    return text


def _training(facts: Facts) -> str:
    done = facts.training
    made_with = ", ".join(f"{name} {number}" for name, number in (facts.made_with or {}).items())
    rows = done.get("rows_first")
    first = f"First {rows['steps']:,} steps of the SID rows alone. Then " if rows else ""
    return (
        f"## Training\n\n{first}{done['steps']:,} steps, {done['epochs']:g} epochs; the best by "
        f"{done['metric']} on validation is step {done['best_step']:,}. {done['trainable']:,} of "
        f"{done['parameters']:,} parameters were trained."
        + (f" Made with {made_with}." if made_with else "")
    )
