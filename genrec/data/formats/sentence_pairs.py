"""Pairs of texts to train a sentence-transformers model on, and what its evaluator asks.

sbert.net/docs/sentence_transformer/training_overview.html: `load_dataset("json", ...)` of two columns,
(anchor, positive) in this order, fits MultipleNegativesRankingLoss; InformationRetrievalEvaluator takes
`queries` {id: text}, `corpus` {id: text} and `relevant_docs` {id: [ids]}. One way: texts do not say
which items they were.
"""

from __future__ import annotations

import json
from pathlib import Path

from genrec.data.formats.bundle import Bundle, write_json
from genrec.schema import SPLITS

MAX_HISTORY = 20  # newest titles of a history; a text encoder reads no more than some 256 tokens


def write(bundle: Bundle, folder: Path) -> None:
    """Writes {train,valid,test}.jsonl, corpus.json, queries.*.json and relevant_docs.*.json.

    An anchor is the titles of a history, oldest first, a line each; its positive is the next item's
    title and description. Of training every step is a pair. `relevant_docs` are lists, for JSON has
    no sets: `{user: set(items) for user, items in ...}` makes them what the evaluator takes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    titles = bundle.items["title"].to_list()
    texts = [
        f"{title}\n{description}".strip()
        for title, description in bundle.items.select("title", "description").iter_rows()
    ]
    users, items = bundle.users["user_id"].to_list(), bundle.items["item_id"].to_list()
    for part in SPLITS:
        questions = [
            (user, "\n".join(titles[i] for i in history[-MAX_HISTORY:]), target)
            for user, history, target in bundle.rows(part)
            if history
        ]
        lines = (
            json.dumps({"anchor": anchor, "positive": texts[target]}, ensure_ascii=False) + "\n"
            for _, anchor, target in questions
        )
        (folder / f"{part}.jsonl").write_bytes("".join(lines).encode())
        if part != "train":
            write_json(
                folder / f"queries.{part}.json", {users[u]: text for u, text, _ in questions}
            )
            relevant = {users[u]: [items[target]] for u, _, target in questions}
            write_json(folder / f"relevant_docs.{part}.json", relevant)
    write_json(folder / "corpus.json", dict(zip(items, texts, strict=True)))
