"""What chat needs to know of a shop, made once for each that is opened."""

from __future__ import annotations

import threading
import weakref
from typing import NamedTuple

from genrec.serve.chat.facets import Facets
from genrec.serve.chat.lexicon import load_lexicon
from genrec.serve.chat.titles import Titles
from genrec.serve.shop import Shop


class Guide(NamedTuple):
    """A catalogue's facets and names."""

    facets: Facets
    titles: Titles


class _Guides:
    """One per shop; gone when the shop is."""

    def __init__(self) -> None:
        self._of: dict[int, Guide] = {}
        self._making = threading.Lock()

    def __call__(self, shop: Shop) -> Guide:
        """Returns the shop's guide; the first call reads the catalogue's words."""
        with self._making:
            found = self._of.get(id(shop))
            if found is None:
                found = Guide(Facets(shop.items, load_lexicon()), Titles(shop.items))
                self._of[id(shop)] = found
                weakref.finalize(shop, self._of.pop, id(shop), None)
            return found


guide_of = _Guides()
