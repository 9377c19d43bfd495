"""Asks a vision-language model how well texts go with images, through the row cache.

Two ways: the odds that it answers yes to "does this text describe this image", or how much likelier
it finds the text as the caption of this image than of others. Both measures are our choice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from genrec.data.images import BadImage, check_size
from genrec.engines import Engine, Judge, Message, Reader, Request, Score
from genrec.enrich.rows import row_key
from genrec.progress import Progress, silent
from genrec.prompts import ChatTemplate

Cache = MutableMapping[str, bytes]
Pair = tuple[str, Path]

PLACEHOLDERS = {"question": ("text",), "likelihood": ()}
MAX_TOKENS = 256  # of a text whose likelihood is asked for


@dataclass(frozen=True)
class Asker:
    """A judge with its prompt.

    Attributes:
        engine: what is asked.
        method: `question` or `likelihood`.
        template: with the placeholders of the method, see `PLACEHOLDERS`.
        longest_side: images are made no larger, in pixels.
        cache: finished scores; failures are not kept.
    """

    engine: Engine
    method: str
    template: ChatTemplate
    longest_side: int
    cache: Cache

    def scores(
        self, pairs: Sequence[Pair], *, step: str = "judge", progress: Progress = silent
    ) -> list[Score]:
        """Returns log p(yes) / p(no), or log p(text | image), of each text and image.

        Raises:
            EngineError: the engine cannot go on.
            ValueError: it does not tell such probabilities.
        """
        keys = [self._key(pair) for pair in pairs]
        known = {key: _unpacked(blob) for key in keys if (blob := self.cache.get(key))}
        first = {key: row for row, key in reversed(list(enumerate(keys))) if key not in known}
        rows = sorted(first.values())
        total = len(known) + len(rows)
        progress(step, len(known), total)
        for index, score in self._ask([pairs[row] for row in rows]):
            key = keys[rows[index]]
            known[key] = score
            if score.value is not None:
                self.cache[key] = json.dumps([score.value, score.bound]).encode()
            progress(step, len(known), total)
        return [known[key] for key in keys]

    def _ask(self, pairs: Sequence[Pair]) -> Iterator[tuple[int, Score]]:
        requests = [self._request(pair) for pair in pairs]
        if self.method == "question" and isinstance(self.engine, Judge):
            return self.engine.log_odds(requests)
        if self.method == "likelihood" and isinstance(self.engine, Reader):
            return self.engine.log_likelihoods(requests, [text for text, _ in pairs])
        raise ValueError(
            f"judge: method {self.method} needs probabilities that "
            f"{type(self.engine).__name__} does not tell; use engine hf"
        )

    def _request(self, pair: Pair) -> Request:
        text, image = pair
        asks = self.method == "question"
        user = self.template.fill(**({"text": text} if asks else {}))
        messages = (Message("system", self.template.system), Message("user", user, image))
        return Request(
            messages, max_tokens=1 if asks else MAX_TOKENS, longest_side=self.longest_side
        )

    def _key(self, pair: Pair) -> str:
        text, image = pair
        try:
            check_size(image)
            content = hashlib.sha256(image.read_bytes()).digest()
        except BadImage:  # the engine says so; nothing is kept
            content = b""
        parts = (self.engine.identity, self.method, self.template.digest, str(self.longest_side))
        return row_key("judge", *parts, text, content)


def judge(
    texts: Sequence[str],
    images: Sequence[Path],
    asker: Asker,
    *,
    others: int = 4,
    seed: int = 0,
    step: str = "judge",
    progress: Progress = silent,
) -> tuple[list[Score], list[Score]]:
    """Scores each text with its own image, and with that of another item.

    For a likelihood, the mean over yet other images is taken off both, the same one: how likely a
    text is anyway says nothing about an image.

    Args:
        texts: n texts, one per item, at least two.
        images: the items' own images.
        asker: the judge.
        others: the images that make up the mean, fewer where there are fewer items.
        seed: of the shuffling.
        step: the name that `progress` is told.
        progress: counts distinct pairs.

    Returns:
        Scores of the right pairs, and of the shuffled ones.
    """
    order = np.random.default_rng([seed, len(texts)]).permutation(len(texts))
    place = np.argsort(order)
    turns = 1 + (min(others, len(texts) - 2) if asker.method == "likelihood" else 0)
    pairs = [
        (text, images[order[(place[row] + turn) % len(texts)]])
        for turn in range(turns + 1)
        for row, text in enumerate(texts)
    ]
    scores = asker.scores(pairs, step=step, progress=progress)
    right, shuffled, *rest = (scores[i : i + len(texts)] for i in range(0, len(scores), len(texts)))
    if asker.method == "question":
        return right, shuffled
    if not rest:
        raise ValueError(f"judge: {len(texts)} items; a likelihood needs three images or more")
    return (
        [_above(own, row) for own, row in zip(right, zip(*rest, strict=True), strict=True)],
        [_above(own, row) for own, row in zip(shuffled, zip(*rest, strict=True), strict=True)],
    )


def _above(score: Score, rest: Sequence[Score]) -> Score:
    """Returns a score less the mean of others, as far as these have a value."""
    usual = [other.value for other in rest if other.value is not None]
    if score.value is None:
        return score
    if not usual:
        return Score(None, f"no other image could be read: {rest[0].error}")
    return Score(score.value - float(np.mean(usual)))


def _unpacked(blob: bytes) -> Score:
    value, bound = json.loads(blob)
    return Score(value, bound=bound)
