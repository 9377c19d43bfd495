"""What chat needs to know of a shop, made once for each that is opened."""

from __future__ import annotations

import threading
import weakref
from functools import cached_property

from genrec.bundle import Bundle
from genrec.serve.chat.facets import Facets
from genrec.serve.chat.lexicon import load_lexicon
from genrec.serve.chat.names import Names
from genrec.serve.chat.titles import Titles


class Guide:
    """What a shop's catalogue can be asked for, and how its items are named.

    Args:
        shop: whose catalogue.
    """

    def __init__(self, shop: Bundle) -> None:
        self._items = shop.items
        self.facets = Facets(shop.items, load_lexicon())
        self.titles = Titles(shop.items)

    @cached_property
    def names(self) -> Names:
        """To check a model's words by; made when they are first needed."""
        return Names(self._items, load_lexicon())


class _Guides:
    """One per shop; gone when the shop is."""

    def __init__(self) -> None:
        self._of: dict[int, Guide] = {}
        self._making = threading.Lock()

    def __call__(self, shop: Bundle) -> Guide:
        """Returns the shop's guide; the first call reads the catalogue's words."""
        with self._making:
            found = self._of.get(id(shop))
            if found is None:
                found = Guide(shop)
                self._of[id(shop)] = found
                weakref.finalize(shop, self._of.pop, id(shop), None)
            return found


guide_of = _Guides()
