"""Images to captions (CMSA, first pathway): a VLM says what is to be seen, and only that.

The paper names the pathway, not the model or the prompt; ours is `prompts/caption/product.yaml`. The
title is not given, so that a caption tells what the image shows and the text may not.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from genrec import prompts
from genrec.engines import Engine, Message, Request
from genrec.enrich.annotate import BadReply, Cache, annotate
from genrec.progress import Progress, silent
from genrec.schema import CAPTIONS

TEMPLATE = "caption/product"
MAX_CHARS = 600  # two sentences; a model that runs on has lost the thread


def caption_request(
    image: Path,
    *,
    template: prompts.ChatTemplate | None = None,
    max_tokens: int = 96,
    temperature: float = 0.0,
    seed: int = 0,
    longest_side: int = 768,
) -> Request:
    """Returns the request for one image's caption.

    Args:
        image: the item's main image.
        template: the prompt; the shipped one by default.
        max_tokens: the longest reply.
        temperature: 0 is greedy.
        seed: of the sampling.
        longest_side: the image is made no larger, in pixels.
    """
    chat = template or prompts.load_chat(TEMPLATE, placeholders=())
    messages = (Message("system", chat.system), Message("user", chat.user, image))
    return Request(
        messages,
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
        longest_side=longest_side,
    )


def read_caption(text: str) -> str:
    """Returns a reply as a caption: one line, white space made single.

    Raises:
        BadReply: it holds no letter, is longer than 600 characters, or has control characters.
    """
    line = " ".join(text.split())
    if not any(character.isalpha() for character in line):
        raise BadReply(f"no words: '{line[:80]}'")
    if len(line) > MAX_CHARS:
        raise BadReply(f"too long: {len(line)} characters, expected at most {MAX_CHARS}")
    if not line.isprintable():
        raise BadReply(f"control characters: {line[:80]!r}")
    return line


def caption_items(
    images: Sequence[Path | None],
    engine: Engine,
    *,
    cache: Cache,
    template: prompts.ChatTemplate | None = None,
    max_tokens: int = 96,
    temperature: float = 0.0,
    seed: int = 0,
    longest_side: int = 768,
    retries: int = 2,
    progress: Progress = silent,
) -> pl.DataFrame:
    """Captions the image of every item that has one; goes on where it was interrupted.

    Args:
        images: one per item; None where it has no image.
        engine: of a vision-language model.
        cache: finished rows, see `annotate`.
        template: the prompt; the shipped one by default.
        max_tokens: the longest reply.
        temperature: 0 is greedy.
        seed: of the sampling.
        longest_side: images are made no larger, in pixels.
        retries: further attempts where a reply cannot be used.
        progress: told "captions", in distinct images.

    Returns:
        A table of schema `CAPTIONS`. An item without an image has neither caption nor error.

    Raises:
        EngineError: see `annotate`.
    """
    chat = template or prompts.load_chat(TEMPLATE, placeholders=())
    requests = [
        None
        if image is None
        else caption_request(
            image,
            template=chat,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
            longest_side=longest_side,
        )
        for image in images
    ]
    rows = annotate(
        requests,
        engine,
        read_caption,
        cache=cache,
        retries=retries,
        step="captions",
        progress=progress,
    )
    return pl.DataFrame(
        {
            "item": range(len(rows)),
            "caption": [row.value if row else None for row in rows],
            "error": [row.error if row else None for row in rows],
            "attempts": [row.attempts if row else 0 for row in rows],
        },
        schema=dict(CAPTIONS),
    )
