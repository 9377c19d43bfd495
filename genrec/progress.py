"""How long-running code says where it is: one callable, `progress(step, done, total)`.

Domain code calls it and knows nothing of terminals; `genrec.console` draws it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """Called with the name of a step and how much of it is done."""

    def __call__(self, step: str, done: int, total: int) -> None:
        """Reports that `done` of `total` units of `step` are finished."""


def silent(step: str, done: int, total: int) -> None:
    """The default: says nothing."""


@contextmanager
def quiet() -> Iterator[None]:
    """Silences transformers' bars and warnings in a `with` block: `progress` says where we are."""
    from transformers.utils import logging

    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
