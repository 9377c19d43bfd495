"""A batch of requests to lists: every system asked once for all of them, then fused user by user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec import schema
from genrec.bundle import LLM, Bundle
from genrec.ranking import RankedLists, top_k
from genrec.retrieve.fusion import reciprocal_rank

Bools = npt.NDArray[np.bool_]
_WHOLE = 20_000  # up to so many items a filtered retriever ranks, from which the filter then takes
# The systems that answer a wish in words: a search, and the LLM's decoding after the wish.
SEARCH, WRITTEN = "search", f"{LLM}-search"
# A wish counts as much as all that is known of its asker, and as much again; ours. What the LLM makes
# of it counts little: recipes/bench/chat.py has the numbers of the demo's.
_WISH = {SEARCH: 2.0, WRITTEN: 0.25, "fused": 1.0}
_WISHED, _FUSED = 100, 20  # places of a search, and of a fusion at least, that are looked at
_PLACE = ("user", "item", "system", "rank")


class Ask(NamedTuple):
    """One request.

    Attributes:
        history: item numbers, oldest first; may be empty.
        k: items wanted.
        allowed: bool [N], the items that may come; None allows all.
        exclude: item numbers that may not, beside those of the history.
        keep_seen: items of the history may come again.
        text: a wish in words, in place of or beside the history.
        system: one system's list alone; None fuses.
    """

    history: tuple[int, ...]
    k: int
    allowed: Bools | None = None
    exclude: tuple[int, ...] = ()
    keep_seen: bool = False
    text: str | None = None
    system: str | None = None


class Unanswerable(ValueError):
    """A request that this shop cannot answer; the message says what it could."""


class Recommended(NamedTuple):
    """One item of an answer.

    Attributes:
        item: its number.
        score: of the fusion, or of the one system.
        places: its place in each system's list that holds it, from 1.
    """

    item: int
    score: float
    places: Mapping[str, int]


def answer(shop: Bundle, asks: Sequence[Ask]) -> list[list[Recommended]]:
    """Answers a batch; each list is the same whatever else is in the batch.

    A history is ranked by every system, and their lists are fused as the recipe's `fuse` stage does
    it: for a test user's history the list is that user's. A wish in words is searched for and fused
    with the list of the history, if there is one, by reciprocal rank.

    Raises:
        Unanswerable: a request names an unknown system, or words where nothing reads them.
    """
    needed = [_needed(shop, ask) for ask in asks]
    tables = {}
    for name in known_systems(shop):
        askers = {user: ask for user, ask in enumerate(asks) if name in needed[user]}
        if askers:
            tables[name] = _of_system(shop, name, askers)
    if not tables:
        return [[] for _ in asks]
    chosen = _chosen(shop, asks, tables)
    places = pl.concat([t.with_columns(system=pl.lit(n)) for n, t in tables.items()])
    return _lists(len(asks), chosen, places)


def known_systems(shop: Bundle) -> tuple[str, ...]:
    """Returns the names that `Ask.system` may have."""
    return (*shop.systems, SEARCH, *(() if shop.text_prompt is None else (WRITTEN,)))


def _needed(shop: Bundle, ask: Ask) -> frozenset[str]:
    """The systems that a request's answer needs."""
    known = known_systems(shop)
    if ask.system is not None and ask.system not in known:
        raise Unanswerable(f"system '{ask.system}' is unknown; expected one of {list(known)}")
    if ask.system in (SEARCH, WRITTEN) and not ask.text:
        raise Unanswerable(f"system '{ask.system}' searches for words; give a query")
    if ask.text and ask.system in (None, SEARCH) and shop.encode is None:
        raise Unanswerable("this shop cannot read a wish: its recipe's embedding has no text view")
    if ask.system is not None:
        return frozenset({ask.system})
    joined = shop.fusion.sources if shop.fusion is not None else shop.systems[:1]
    words = {SEARCH, WRITTEN} & set(known) if ask.text else set()
    return frozenset(words | (set(joined) if ask.history or not ask.text else set()))


def _of_system(shop: Bundle, name: str, asks: Mapping[int, Ask]) -> pl.DataFrame:
    """One system's lists, filtered; `user` is the place in the batch."""
    if name in (LLM, WRITTEN):
        return _of_llm(shop, asks, in_words=name == WRITTEN)
    if name == SEARCH:
        return _search(shop, asks)
    # One call for those that need no more than the list itself, one for those that filter it.
    parts = []
    for plain in (True, False):
        own = {user: ask for user, ask in asks.items() if _is_plain(ask) == plain}
        if own:
            depth = shop.depths[name]
            ranked = shop.retrievers[name].recommend(
                [np.array(ask.history, dtype=np.int64) for ask in own.values()],
                k=min(len(shop), depth if plain else _WHOLE),
                exclude_seen=plain,
            )
            kept = ranked if plain else _filtered(shop, ranked, list(own.values()), depth)
            parts.append(RankedLists(kept.items, kept.scores).to_table(list(own)))
    return pl.concat(parts).sort("user", "rank")


def _of_llm(shop: Bundle, asks: Mapping[int, Ask], *, in_words: bool) -> pl.DataFrame:
    assert shop.llm is not None, "asked for by `systems`, which names it only where it is"
    allowed = None
    if any(ask.allowed is not None for ask in asks.values()):
        everything = np.ones(len(shop), dtype=bool)
        masks = (ask.allowed for ask in asks.values())
        allowed = np.stack([everything if mask is None else mask for mask in masks])
    if in_words:
        assert shop.text_prompt is not None, "as above"
        prompts = [shop.text_prompt(ask.text or "") for ask in asks.values()]
    else:
        prompts = [shop.prompt(ask.history) for ask in asks.values()]
    lists = shop.llm.recommend(
        prompts,
        k=shop.depths[LLM],
        num_beams=shop.num_beams,
        exclude=[_banned(ask) for ask in asks.values()],
        allowed=allowed,
        # A session's histories begin alike, and chat asks again for the same one.
        keys=[ask.history[:2] for ask in asks.values()] if shop.keeps_prompts else None,
    )
    return lists.to_table(list(asks))


def _search(shop: Bundle, asks: Mapping[int, Ask]) -> pl.DataFrame:
    """Items by words: the magnitude retriever's query side, or cosine of the text view without one."""
    assert shop.encode is not None, "checked by `_needed`"
    searcher: Any = next((r for r in shop.retrievers.values() if hasattr(r, "search")), None)
    queries = shop.encode([ask.text or "" for ask in asks.values()])
    if searcher is not None and "text" in searcher.dims_:
        ranked = searcher.search(queries, k=min(len(shop), _WHOLE))
    else:
        ranked = top_k(queries @ shop.views["text"].T, min(len(shop), _WHOLE))
    return _filtered(shop, ranked, list(asks.values()), _WISHED).to_table(list(asks))


def _filtered(
    shop: Bundle, ranked: RankedLists, asks: Sequence[Ask], depth: int
) -> RankedLists:
    """Takes each list's first `depth` items that its request allows, [B, k] to [B, depth]."""
    kept = RankedLists.empty(len(asks), depth)
    for row, (ask, items, scores) in enumerate(zip(asks, ranked.items, ranked.scores, strict=True)):
        may = np.ones(len(shop), dtype=bool) if ask.allowed is None else ask.allowed.copy()
        may[_banned(ask)] = False
        allowed = np.flatnonzero((items >= 0) & may[items])[:depth]
        kept.items[row, : len(allowed)] = items[allowed]
        kept.scores[row, : len(allowed)] = scores[allowed]
    return kept


def _is_plain(ask: Ask) -> bool:
    """Whether nothing but the history is left out."""
    return ask.allowed is None and not ask.exclude and not ask.keep_seen


def _banned(ask: Ask) -> list[int]:
    return [*(() if ask.keep_seen else ask.history), *ask.exclude]


def _chosen(shop: Bundle, asks: Sequence[Ask], tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """All answers in one table of user, item, score; each user's best first."""
    whole = {user: ask for user, ask in enumerate(asks) if ask.system is None}
    alone = [user for user in range(len(asks)) if user not in whole]
    parts = [
        _of_users(tables[system], [user for user in alone if asks[user].system == system])
        for system in sorted({str(asks[user].system) for user in alone})
    ]
    fused = _fused(shop, whole, tables)
    wishes = [user for user, ask in whole.items() if ask.text]
    if wishes:
        both = {name: tables[name] for name in (SEARCH, WRITTEN) if name in tables}
        both["fused"] = fused
        both = {name: _of_users(table, wishes) for name, table in both.items()}
        weights = {name: _WISH[name] for name in both}
        parts.append(reciprocal_rank(both, weights, k=max(_WISHED, *(a.k for a in asks))))
        fused = _of_users(fused, [user for user in whole if user not in wishes])
    parts.append(fused)
    return _cut(pl.concat(parts), {user: ask.k for user, ask in enumerate(asks)})


def _fused(
    shop: Bundle, asks: Mapping[int, Ask], tables: Mapping[str, pl.DataFrame]
) -> pl.DataFrame:
    """The recipe's fusion of the systems' lists, or the one system's where it has no fusion."""
    nothing = pl.DataFrame(schema=dict(schema.RECOMMENDATIONS))
    sources = shop.fusion.sources if shop.fusion is not None else shop.systems[:1]
    given = {name: _of_users(tables.get(name, nothing), list(asks)) for name in sources}
    if not any(len(table) for table in given.values()):
        return nothing
    if shop.fusion is None:
        return next(iter(given.values()))
    depths = {user: max(ask.k, _FUSED) for user, ask in asks.items()}
    columns = {"user": list(asks), "history": [list(ask.history) for ask in asks.values()]}
    users = pl.DataFrame(columns, schema={"user": pl.Int32, "history": pl.List(pl.Int32)})
    return _cut(shop.fusion.fuse(given, users, k=max(depths.values())), depths)


def _of_users(table: pl.DataFrame, users: Sequence[int]) -> pl.DataFrame:
    return table.filter(pl.col("user").is_in(list(users)))


def _cut(table: pl.DataFrame, most: Mapping[int, int]) -> pl.DataFrame:
    """Keeps each user's first rows, as many as `most` says."""
    limit = pl.col("user").replace_strict(most, return_dtype=pl.Int32)
    return table.filter(pl.int_range(pl.len()).over("user") < limit)


def _lists(count: int, chosen: pl.DataFrame, places: pl.DataFrame) -> list[list[Recommended]]:
    """Rows to lists, each item with its place in every system's list."""
    own = chosen.select("user", "item").join(places, on=["user", "item"])
    ranks: dict[tuple[int, int], dict[str, int]] = {}
    for user, item, system, rank in own.sort("rank", "system").select(_PLACE).iter_rows():
        ranks.setdefault((user, item), {})[system] = rank
    lists: list[list[Recommended]] = [[] for _ in range(count)]
    for user, item, score in chosen.select("user", "item", "score").iter_rows():
        lists[user].append(Recommended(item, score, ranks.get((user, item), {})))
    return lists
