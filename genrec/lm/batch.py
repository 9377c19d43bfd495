"""Examples to token ids and labels.

Texts are encoded with special tokens split, SIDs are inserted by id: a title that contains `<a_12>`
stays a title. A text completion ends with EOS; a SID completion does not, for a
SID has a fixed length, so that decoding never needs EOS and a streamed history may go on.

A model that is spoken to in turns (`lm.turns`) gets the prompt in the user's turn and answers in its
own. SIDs at the end of a prompt, the history that it is to continue, begin its answer: so a streamed
history has its items where they stand at test time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from genrec.lm.turns import turns_of
from genrec.sid.codes import token_name

if TYPE_CHECKING:
    from genrec.schema import Example, Segment

logger = logging.getLogger(__name__)

IGNORED = -100  # the label that cross-entropy skips, in torch and transformers


def add_sid_tokens(tokenizer: PreTrainedTokenizerBase, codes_per_level: Sequence[int]) -> int:
    """Adds `<a_0>`, `<a_1>`, ... to the vocabulary as special tokens, level by level.

    Args:
        tokenizer: changed in place.
        codes_per_level: K of each level.

    Returns:
        How many tokens were new.
    """
    tokens = [
        AddedToken(token_name(level, code), special=True, normalized=False)
        for level, codes in enumerate(codes_per_level)
        for code in range(codes)
    ]
    return tokenizer.add_tokens(tokens, special_tokens=True)


def code_token_ids(
    tokenizer: PreTrainedTokenizerBase, codes_per_level: Sequence[int]
) -> list[np.ndarray]:
    """Returns L int64 arrays, code -> token id.

    Raises:
        ValueError: the tokenizer lacks a SID token.
    """
    vocabulary = tokenizer.get_vocab()
    levels = []
    for level, codes in enumerate(codes_per_level):
        names = [token_name(level, code) for code in range(codes)]
        missing = [name for name in names if name not in vocabulary]
        if missing:
            raise ValueError(
                f"the tokenizer has no token {missing[0]} ({len(missing)} of {codes} are missing "
                f"on level {level}); it was made for other SIDs: run train again"
            )
        levels.append(np.array([vocabulary[name] for name in names], dtype=np.int64))
    return levels


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Encodes untrusted texts: whatever they spell, no special token comes out."""
    if not texts:
        return []
    return tokenizer(
        list(texts),
        add_special_tokens=False,
        split_special_tokens=True,
        return_attention_mask=False,
    )["input_ids"]


def ending(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Returns the token ids that end a text; decoding stops at the last. Empty where there are none."""
    turns = turns_of(tokenizer)
    if turns is not None and turns.end:
        return [*turns.end]
    return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]


def encode_example(
    tokenizer: PreTrainedTokenizerBase,
    code_tokens: Sequence[np.ndarray],
    example: Example,
    *,
    max_length: int,
) -> dict[str, Any]:
    """Encodes one example.

    Args:
        tokenizer: has the SID tokens.
        code_tokens: L int arrays, code -> token id.
        example: what to encode.
        max_length: tokens; a longer example loses the oldest items of its history, each whole (SID
            or title, with the context of its event), then parts of its texts.

    Returns:
        input_ids and labels (lists of int; labels are -100 on the prompt), task, length.

    Raises:
        ValueError: it cannot be trimmed to `max_length`.
    """
    return next(encoded_rows(tokenizer, code_tokens, [example], max_length=max_length))[0]


def encoded_rows(
    tokenizer: PreTrainedTokenizerBase,
    code_tokens: Sequence[np.ndarray],
    examples: Sequence[Example],
    *,
    max_length: int,
) -> Iterator[tuple[dict[str, Any], bool]]:
    """Yields each example encoded, and whether it was trimmed; see `encode_example`."""
    parts = [(*example.prompt, *example.completion) for example in examples]
    encode = _Encoder(tokenizer, code_tokens, parts)
    for example in examples:
        pieces = [*encode.prompt(example.prompt), *encode.completion(example.completion)]
        # An item to go by, and where items are asked for, the last of them.
        aim = any(piece.entry and piece.target for piece in pieces)
        fitted = _fit(pieces, max_length, keep=1 + aim)
        ids = [token for piece in fitted for token in piece.ids]
        labels = [label for piece in fitted for label in piece.labels]
        row = {"input_ids": ids, "labels": labels, "task": example.task, "length": len(ids)}
        yield row, fitted is not pieces


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase,
    code_tokens: Sequence[np.ndarray],
    prompts: Sequence[tuple[Segment, ...]],
    *,
    max_length: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Encodes prompts for decoding, padded on the left.

    Args:
        tokenizer: has the SID tokens and a padding token.
        code_tokens: L int arrays, code -> token id.
        prompts: B prompts.
        max_length: tokens; a longer prompt loses the oldest items of its history, each whole.

    Returns:
        input_ids and attention_mask, int64 [B, T].

    Raises:
        ValueError: a prompt is empty.
    """
    encode = _Encoder(tokenizer, code_tokens, prompts)
    rows, trimmed = [], 0
    for number, prompt in enumerate(prompts):
        pieces = encode.prompt(prompt)
        fitted = _fit(pieces, max_length, keep=1)
        trimmed += fitted is not pieces
        rows.append([token for piece in fitted for token in piece.ids])
        if not rows[-1]:
            raise ValueError(
                f"prompt {number} is empty: the user has no history and the tokenizer no BOS "
                "token; leave such users out or use style 'instruct'"
            )
    if trimmed:
        logger.warning("%d of %d prompts trimmed to %d tokens", trimmed, len(rows), max_length)
    width = max(map(len, rows))
    input_ids = torch.full((len(rows), width), tokenizer.pad_token_id)
    attention_mask = torch.zeros_like(input_ids)
    for row, ids in enumerate(rows):
        input_ids[row, width - len(ids) :] = torch.tensor(ids)
        attention_mask[row, width - len(ids) :] = 1
    return input_ids, attention_mask


@dataclass(frozen=True)
class _Piece:
    ids: list[int]
    sid: bool = False
    target: bool = False
    entry: bool = False  # an item of a history, SID or title: goes whole
    fixed: bool = False  # of a chat template: stays whole
    context: int = 0  # how many of the last ids say what the item's event was like

    @property
    def labels(self) -> list[int]:
        """The ids where they are targets; context never is one."""
        learned = len(self.ids) - self.context if self.target else 0
        return self.ids[:learned] + [IGNORED] * (len(self.ids) - learned)


class _Encoder:
    """Segments to pieces; each distinct text goes through the tokenizer once, in one batch."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        code_tokens: Sequence[np.ndarray],
        parts: Sequence[Sequence[Segment]],
    ) -> None:
        self.tokenizer, self.code_tokens = tokenizer, code_tokens
        self.turns = turns_of(tokenizer)
        texts = list(dict.fromkeys(p.text for part in parts for p in part if p.text))
        ids = encode_texts(tokenizer, texts)
        self.texts = {"": [], **dict(zip(texts, ids, strict=True))}

    def prompt(self, segments: Sequence[Segment]) -> list[_Piece]:
        pieces = [self._piece(segment, False) for segment in segments]
        if self.turns is None:
            bos = self.tokenizer.bos_token_id
            return [_Piece([bos])] * (bos is not None) + pieces
        before, between = (
            _Piece([*t], fixed=True) for t in (self.turns.before, self.turns.between)
        )
        asked = next((n for n in range(len(pieces), 0, -1) if not pieces[n - 1].sid), 0)
        return [before, *pieces[:asked], between, *pieces[asked:]]

    def completion(self, segments: Sequence[Segment]) -> list[_Piece]:
        pieces = [self._piece(segment, True) for segment in segments]
        if not pieces[-1].sid:
            pieces[-1] = replace(pieces[-1], ids=[*pieces[-1].ids, *ending(self.tokenizer)])
        return pieces

    def _piece(self, segment: Segment, target: bool) -> _Piece:
        if segment.sid is None:
            return _Piece(self.texts[segment.text or ""], target=target, entry=segment.entry)
        codes = zip(self.code_tokens[: len(segment.sid)], segment.sid, strict=True)
        ids = [int(ids[code]) for ids, code in codes]
        context = self.texts[segment.text or ""]
        return _Piece([*ids, *context], sid=True, target=target, entry=True, context=len(context))


def _fit(pieces: list[_Piece], max_length: int, *, keep: int) -> list[_Piece]:
    """Returns `pieces` themselves if they fit, else a shorter list: oldest items, then texts, go."""
    excess = sum(len(piece.ids) for piece in pieces) - max_length
    if excess <= 0:
        return pieces
    dropped: set[int] = set()
    for index in [i for i, piece in enumerate(pieces) if piece.entry][:-keep]:
        if excess > 0:
            dropped.add(index)
            excess -= len(pieces[index].ids)
    fitted = [piece for index, piece in enumerate(pieces) if index not in dropped]
    oldest = next((index for index, piece in enumerate(fitted) if piece.entry), 0)
    if dropped and fitted[oldest].target:  # a stream: its first item has nothing before it
        fitted[oldest] = replace(fitted[oldest], target=False)
    while excess > 0:
        texts = [i for i, piece in enumerate(fitted) if not (piece.sid or piece.fixed)]
        longest = max(texts, key=lambda index: len(fitted[index].ids), default=None)
        length = 0 if longest is None else len(fitted[longest].ids)
        if longest is None or length <= 2:
            raise ValueError(
                f"train.max_length={max_length}: too short for one item's SID and its prompt; "
                f"needs at least {max_length + excess}"
            )
        rest = max(2, length - excess)
        fitted[longest] = _cut(fitted[longest], rest)
        excess -= length - rest
    return fitted


def _cut(piece: _Piece, keep: int) -> _Piece:
    # A prompt keeps its two ends, where the instruction and the delimiter stand; a completion its
    # beginning, without the EOS that would say that a cut title is a whole one.
    head = keep if piece.target else keep - keep // 2
    return replace(piece, ids=piece.ids[:head] + piece.ids[len(piece.ids) - (keep - head) :])
