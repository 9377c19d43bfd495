"""Why this item: how much likelier each item of the history makes it, and who else lists it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from genrec.bundle import LLM, Bundle

MAX_HISTORY = 20  # newest items that are looked at: each costs one more prompt in the batch


def influence(
    shop: Bundle, history: Sequence[int], items: Sequence[int]
) -> list[dict[int, float]] | None:
    """Returns for each item what the history's items add to its log-probability.

    log p(item | history) - log p(item | history without that item), by the LLM, over its newest
    `MAX_HISTORY` items; all prompts in one search that may write only `items`, so that the scores are
    exact. Above 0: the item made the recommendation likelier.

    Args:
        shop: with an LLM, else there is nothing to say.
        history: item numbers, oldest first.
        items: the recommended items' numbers, each once.

    Returns:
        Per item, by item number of the history; None without an LLM.
    """
    if shop.llm is None:
        return None
    newest = list(dict.fromkeys(history[-MAX_HISTORY:]))
    if not items or not newest:
        return [{} for _ in items]
    without = [[other for other in history if other != item] for item in newest]
    histories = [list(history), *without]
    lists = shop.llm.recommend(
        [shop.prompt(one) for one in histories],
        k=len(items),
        num_beams=max(shop.depths[LLM], len(items)),
        allowed=[list(items)] * len(histories),
    )
    column = {item: place for place, item in enumerate(items)}
    scores = np.full((len(histories), len(items)), -np.inf)
    for row, (found, value) in enumerate(zip(lists.items, lists.scores, strict=True)):
        for item, score in zip(found.tolist(), value.tolist(), strict=True):
            if item >= 0:
                scores[row, column[item]] = score
    added = scores[0] - scores[1:]  # [history, items]
    return [dict(zip(newest, added[:, place].tolist(), strict=True)) for place in range(len(items))]
