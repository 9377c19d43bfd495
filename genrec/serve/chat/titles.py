"""Items by what an assistant's message says of them; and how an answer names them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import polars as pl

from genrec.serve.chat.lexicon import clean
from genrec.serve.chat.messages import MAX_SHOWN, Message

TITLE = 120  # characters of a title in an answer
SEPARATOR = " · "
_LINE = re.compile(r"^ {0,3}(\d{1,2})\. (.+)$", re.MULTILINE)


class Titles:
    """The items' names in answers, which also read back: two items never have the same.

    Args:
        items: the catalogue.
    """

    def __init__(self, items: pl.DataFrame) -> None:
        shown = [clean(title, TITLE) for title in items["title"]]
        ids = items["item_id"].to_list()
        self._rows = {item_id: row for row, item_id in enumerate(ids)}
        count = Counter(shown)
        self._named: dict[str, int] = {}
        for row, title in enumerate(shown):
            name = title
            if not title or count[title] > 1 or title in self._named:
                name = f"{title} [{clean(ids[row], 60)}]".strip()
            while name in self._named or (name != title and name in count):
                name += "'"
            self._named[name] = row
        self.names = list(self._named)

    def shown_by(self, message: Message) -> tuple[int, ...]:
        """Returns the items that an assistant's message showed, in order, those that exist."""
        found = [self._rows[one] for one in message.listed() if one in self._rows]
        if not found and message.recommendations is None:
            found = list(self._read(message.text))
        return tuple(dict.fromkeys(found))[:MAX_SHOWN]

    def _read(self, text: str) -> Iterator[int]:
        """The items of lines such as "1. Name: ..."."""
        for _, line in _LINE.findall(text)[:MAX_SHOWN]:
            parts = line.strip().split(SEPARATOR)  # a title may hold the separator too
            for end in range(min(len(parts), 5), 0, -1):
                row = self._named.get(SEPARATOR.join(parts[:end]))
                if row is not None:
                    yield row
                    break
