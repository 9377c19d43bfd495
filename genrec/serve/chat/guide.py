"""What chat needs to know of a bundle, made once for each that is opened."""

from __future__ import annotations

import threading
import weakref
from functools import cached_property

from genrec.bundle import Bundle
from genrec.serve.chat.facets import Facets
from genrec.serve.chat.lexicon import load_lexicon
from genrec.serve.chat.names import Names
from genrec.serve.chat.titles import Titles
from genrec.serve.columns import columns_of


class Guide:
    """What a catalogue can be asked for, and how its items are named.

    Args:
        bundle: whose catalogue.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._items = bundle.items
        self.facets = Facets(columns_of(bundle), load_lexicon())
        self.titles = Titles(bundle.items)

    @cached_property
    def names(self) -> Names:
        """To check a model's words by; made when they are first needed."""
        return Names(self._items, load_lexicon())


class _Guides:
    """One per bundle; gone when the bundle is."""

    def __init__(self) -> None:
        self._of: dict[int, Guide] = {}
        self._making = threading.Lock()

    def __call__(self, bundle: Bundle) -> Guide:
        """Returns the bundle's guide; the first call reads the catalogue's words."""
        with self._making:
            found = self._of.get(id(bundle))
            if found is None:
                found = Guide(bundle)
                self._of[id(bundle)] = found
                weakref.finalize(bundle, self._of.pop, id(bundle), None)
            return found


guide_of = _Guides()
