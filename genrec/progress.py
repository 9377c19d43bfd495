"""How long-running code says where it is: one callable, `progress(step, done, total)`.

Domain code calls it and knows nothing of terminals; `genrec.console` draws it.
"""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called with the name of a step and how much of it is done."""

    def __call__(self, step: str, done: int, total: int) -> None:
        """Reports that `done` of `total` units of `step` are finished."""


def silent(step: str, done: int, total: int) -> None:
    """The default: says nothing."""
