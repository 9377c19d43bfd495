"""A corpus on disk: tokenised once, in parallel where it is large, then memory-mapped as Arrow files.

`datasets` writes and maps the files. They are named by what they are made of (the examples' bytes, the
tokenizer and the versions of its libraries, the limit), so every training on the same examples finds
them again, a killed one too.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.compute
import tokenizers
import transformers
from transformers import PreTrainedTokenizerBase

from genrec import schema
from genrec.lm.batch import encode_texts, encoded_rows
from genrec.schema import Example
from genrec.sid.sets import set_of

logger = logging.getLogger(__name__)

_VERSION = 1  # raised when encoding changes, so that no old files are found
_SHARD = 8  # groups of examples that are worth a process

FEATURES = datasets.Features(
    {
        "input_ids": datasets.Sequence(datasets.Value("int32")),
        "labels": datasets.Sequence(datasets.Value("int32")),
        "task": datasets.Value("string"),
        "length": datasets.Value("int32"),
    }
)


@dataclass(frozen=True)
class Encoded:
    """A corpus as token ids.

    Attributes:
        data: columns input_ids, labels (both int32 lists), task, length.
        trimmed: how many examples were too long and lost their oldest items or part of a text.
    """

    data: datasets.Dataset
    trimmed: int


def encode_examples(
    tokenizer: PreTrainedTokenizerBase,
    code_tokens: Sequence[np.ndarray],
    examples: Sequence[Example],
    *,
    max_length: int,
) -> Encoded:
    """Encodes a corpus; see `encode_example`."""
    columns: dict[str, list[Any]] = {name: [] for name in FEATURES}
    trimmed = 0
    for row, cut in encoded_rows(tokenizer, code_tokens, examples, max_length=max_length):
        trimmed += cut
        for name, column in columns.items():
            column.append(row[name])
    return Encoded(datasets.Dataset.from_dict(columns, features=FEATURES), trimmed)


def encode_file(
    path: Path,
    tokenizer: PreTrainedTokenizerBase,
    code_tokens: Sequence[np.ndarray],
    *,
    max_length: int,
    folder: Path,
    processes: int | None = None,
) -> Encoded:
    """Encodes a file of examples; see `encode_examples`. What was encoded before is only opened.

    Safe to call from several processes at once: one encodes, the others wait for it.

    Args:
        path: written by `schema.write_examples`.
        tokenizer: has the SID tokens.
        code_tokens: L int arrays, code -> token id.
        max_length: tokens.
        folder: where the Arrow files go; can be removed whenever nothing trains.
        processes: None takes a processor for every 160,000 examples, as far as there are any.

    Returns:
        The corpus, memory-mapped, and how many examples were trimmed, which a warning says too.

    Raises:
        ValueError: an example cannot be trimmed to `max_length`, or the file is not of examples.
    """
    groups = list(range(schema.example_groups(path)))
    if not groups:  # of no file `datasets` makes no corpus
        return encode_examples(tokenizer, code_tokens, [], max_length=max_length)
    processes = processes or min(os.cpu_count() or 1, len(groups) // _SHARD)
    digest = _digest(path, tokenizer, code_tokens, max_length)
    features = datasets.Features({**FEATURES, "trimmed": datasets.Value("bool")})
    given = {
        "path": path,
        "groups": groups,
        "tokenizer": tokenizer,
        "code_tokens": tuple(code_tokens),
    }
    with _quiet():
        try:
            data = datasets.Dataset.from_generator(
                _rows,
                features=features,
                cache_dir=str(folder),
                gen_kwargs={**given, "max_length": max_length},
                num_proc=processes if processes > 1 else None,
                fingerprint=digest,
            )
        except datasets.exceptions.DatasetGenerationError as error:
            if isinstance(error.__cause__, ValueError):
                raise error.__cause__ from None
            raise
    trimmed = pyarrow.compute.sum(data.data.column("trimmed")).as_py() or 0
    if trimmed:
        logger.warning(
            "%d of %d examples in %s were longer than train.max_length=%d tokens and lost their oldest "
            "items, or part of a text",
            *(trimmed, len(data), path.name, max_length),
        )
    return Encoded(data.remove_columns("trimmed"), trimmed)


def texts_of(path: Path) -> Iterator[str]:
    """Yields every text of a file of examples: what a new tokenizer learns from."""
    for examples in schema.iterate_examples(path):
        for example in examples:
            yield from (part.text for part in (*example.prompt, *example.completion) if part.text)


def lengths_of(data: datasets.Dataset) -> np.ndarray:
    """Returns the tokens of each example, int64 [n]."""
    return np.asarray(data.with_format("numpy", columns=["length"])[:]["length"], dtype=np.int64)


def sets_of(data: datasets.Dataset) -> np.ndarray:
    """Returns the set of SIDs of each example, int64 [n], by the name of its task."""
    column = data.with_format("arrow", columns=["task"])[:]["task"]
    tasks = column.combine_chunks().dictionary_encode()
    numbers = np.array([set_of(task) for task in tasks.dictionary.to_pylist()], dtype=np.int64)
    return numbers[tasks.indices.to_numpy(zero_copy_only=False)]


def tasks_of(data: datasets.Dataset) -> list[str]:
    """Returns the names of a corpus's tasks, sorted."""
    return sorted(data.unique("task"))


def _rows(
    path: Path,
    groups: list[int],
    tokenizer: PreTrainedTokenizerBase,
    code_tokens: Sequence[np.ndarray],
    max_length: int,
) -> Iterator[dict[str, Any]]:
    for examples in schema.iterate_examples(path, groups=groups):
        for row, cut in encoded_rows(tokenizer, code_tokens, examples, max_length=max_length):
            yield {**row, "trimmed": cut}


def _digest(
    path: Path,
    tokenizer: PreTrainedTokenizerBase,
    code_tokens: Sequence[np.ndarray],
    max_length: int,
) -> str:
    """Returns 16 hex digits that stand for all that the encoded corpus depends on."""
    made_by = f"transformers {transformers.__version__}, tokenizers {tokenizers.__version__}"
    digest = hashlib.sha256(f"{_VERSION} {max_length} {made_by} ".encode())
    encode_texts(tokenizer, [""])  # or it would save how it was last told to pad and to cut
    with tempfile.TemporaryDirectory() as temporary:
        tokenizer.save_pretrained(temporary)
        for part in (path, *sorted(Path(temporary).rglob("*"))):
            if part.is_file():
                with part.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
    for ids in code_tokens:
        digest.update(np.asarray(ids, dtype=np.int64).tobytes() + b" ")
    return digest.hexdigest()[:16]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the bars of `datasets` in a `with` block."""
    shown = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not shown:
            datasets.enable_progress_bars()
