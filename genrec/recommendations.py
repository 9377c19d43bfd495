"""What a finished recipe recommends: lists for users or histories, and why; neighbours of an item.

Every system is asked once for all lists of a batch; then they are fused user by user.
`recommend_users` speaks the owner's ids, all else item numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec import schema
from genrec.bundle import LLM, Bundle
from genrec.dataset import Id, by_id, check_request
from genrec.progress import Progress, silent
from genrec.ranking import top_k
from genrec.retrieve.fusion import reciprocal_rank

Bools = npt.NDArray[np.bool_]
MAX_INFLUENCES = (
    20  # newest items whose influence is computed: each costs one more prompt in the batch
)
_WHOLE = 20_000  # items that a retriever ranks at most before a filter is applied
# The systems that answer a text: a search, and the LLM's decoding of a text prompt.
SEARCH, WRITTEN = "search", f"{LLM}-search"
# The search counts twice as much as the history's list (our choice), the LLM's decoding little:
# recipes/bench/chat.py measures both on the demo.
_TEXT_WEIGHTS = {SEARCH: 2.0, WRITTEN: 0.25, "fused": 1.0}
_BATCH = 256  # users whose lists are made together
_BECAUSE = 3  # items of the history that are named as reasons
_SEARCHED, _FUSED = 100, 20  # ranks of a search, and of a fusion at least, that are looked at


class ListRequest(NamedTuple):
    """Asks for a list.

    Attributes:
        history: item numbers, oldest first; may be empty.
        k: items wanted.
        allowed: bool [N], the items that may come; None allows all.
        exclude: item numbers that may not, in addition to those of the history.
        keep_seen: items of the history may come again.
        text: a query in words, instead of the history or in addition to it.
        system: one system's list alone; None fuses.
        context: what the LLM's prompt says of the history's events, see `Bundle.contexts`; or nothing.
        profile: what it says of the user, see `Bundle.profiles`; or nothing.
    """

    history: tuple[int, ...]
    k: int
    allowed: Bools | None = None
    exclude: tuple[int, ...] = ()
    keep_seen: bool = False
    text: str | None = None
    system: str | None = None
    context: tuple[str | None, ...] = ()
    profile: str | None = None


class InfluenceRequest(NamedTuple):
    """Asks what each item of the history adds to each of `items`; the rest as of `ListRequest`."""

    history: tuple[int, ...]
    items: tuple[int, ...]
    context: tuple[str | None, ...] = ()
    profile: str | None = None


class SimilarRequest(NamedTuple):
    """Asks for the `k` items most like item `number` in a view."""

    number: int
    view: str
    k: int


class Unanswerable(ValueError):
    """A request that this bundle cannot answer; the message says what it could."""


class Recommended(NamedTuple):
    """One item of an answer.

    Attributes:
        item: its number.
        score: of the fusion, or of the one system.
        ranks: its rank in each system's list that holds it, from 1.
    """

    item: int
    score: float
    ranks: Mapping[str, int]


def recommend(bundle: Bundle, requests: Sequence[ListRequest]) -> list[list[Recommended]]:
    """Answers a batch; each list is the same whatever else is in the batch.

    A history is ranked by every system, and their lists are fused as the recipe's `fuse` stage does
    it: for a test user's history the list is that user's. A query in words is searched for and fused
    with the list of the history, if there is one, by reciprocal rank.

    Raises:
        Unanswerable: a request names an unknown system, or has a text that this bundle cannot read.
    """
    needed = [_needed(bundle, request) for request in requests]
    tables = {}
    for name in known_systems(bundle):
        own = {user: request for user, request in enumerate(requests) if name in needed[user]}
        if own:
            tables[name] = _of_system(bundle, name, own)
    if not tables:
        return [[] for _ in requests]
    chosen = _chosen(bundle, requests, tables)
    ranks = pl.concat([t.with_columns(system=pl.lit(n)) for n, t in tables.items()])
    return _lists(len(requests), chosen, ranks)


def recommend_users(
    bundle: Bundle,
    users: Iterable[Id] | None = None,
    *,
    histories: Mapping[Id, Sequence[Id]] | None = None,
    events: Mapping[Id, Sequence[Mapping[str, Any]]] | None = None,
    user_attributes: Mapping[Id, Mapping[str, Any]] | None = None,
    k: int = 10,
    filter_seen: bool = True,
    allowed: Collection[Id] | None = None,
    system: str | None = None,
    why: bool = False,
    progress: Progress = silent,
) -> Iterator[pl.DataFrame]:
    """Recommends to users of the recipe's data, or for any histories, in the owner's ids.

    Args:
        bundle: the finished recipe.
        users: ids of known users, whose whole history counts; None without histories takes all.
        histories: item ids, oldest first, by whatever the user is to be called.
        events: of such users, what each event of the history was like, where prompts say so
            (`compose.context`), as in `{"rating": 4.5, "timestamp": "2026-01-31T12:00:00Z"}`; of users
            without, nothing is said. Of known users the log says it.
        user_attributes: of such users, who they are, where prompts say so (`compose.user_attributes`),
            as in `{"country": "DE"}`; likewise.
        k: items for each.
        filter_seen: leave out the items of the user's history.
        allowed: ids of the only items to recommend.
        system: one system's lists alone, such as `generative`; None fuses as the recipe does.
        why: also say which systems listed an item, and what it was recommended because of.
        progress: told how many users are done.

    Yields:
        Tables of some users each, in order, best items first: `user_id`, `item_id`, `title`, `score`,
        `rank` (from 1); ids are text, as a finished recipe has them. With `why` also `systems`, a list
        of system and rank, best rank first, and `because`, a list of up to 3 items of the history that
        made the item likelier by the LLM, as item_id and log_ratio (see `influence`); null without an
        LLM.

    Raises:
        KeyError: an unknown user or item.
        ValueError: users and histories both given, k below 1, or an unknown system; events or attributes
            of nobody, that prompts do not say, or events that are not one for each item.
    """
    check_request(users, histories, k)
    for name, given in (("events", events), ("user_attributes", user_attributes)):
        if nobody := [user for user in given or () if user not in (histories or ())]:
            raise ValueError(f"{name}: of {nobody[:3]}, of whom `histories` has no history")
    if histories is not None:
        names: list[Id] = list(histories)
        sequences = [
            [by_id(bundle.rows, item, "item") for item in items] for items in histories.values()
        ]
        described = [(events or {}).get(name) for name in names]
        contexts: list[Sequence[str | None]] = [
            () if own is None else context_of(bundle, items, own)
            for items, own in zip(sequences, described, strict=True)
        ]
        known = user_attributes or {}
        profiles = [profile_of(bundle, known[name]) if name in known else None for name in names]
    else:
        # 12 and "12" are one user, who gets one list.
        names = list(bundle.histories) if users is None else list(dict.fromkeys(map(str, users)))
        sequences = [_history(bundle, user) for user in names]
        contexts = [bundle.contexts.get(str(user), ()) for user in names]
        profiles = [bundle.profiles.get(str(user)) for user in names]
    mask = None
    if allowed is not None:
        mask = np.zeros(len(bundle), dtype=bool)
        mask[[by_id(bundle.rows, item, "item") for item in allowed]] = True
    for start in range(0, max(1, len(names)), _BATCH):  # nobody: one table without rows
        part = slice(start, start + _BATCH)
        requests = [
            ListRequest(
                *(tuple(history), k, mask),
                keep_seen=not filter_seen,
                system=system,
                context=tuple(context),
                profile=profile,
            )
            for history, context, profile in zip(
                sequences[part], contexts[part], profiles[part], strict=True
            )
        ]
        lists = recommend(bundle, requests)
        table = _owned(bundle, names[part], lists)
        if why:
            table = table.with_columns(*_reasons(bundle, requests, lists))
        yield table
        progress("users", min(part.stop, len(names)), len(names))


def context_of(
    bundle: Bundle, history: Sequence[int], events: Sequence[Mapping[str, Any]]
) -> tuple[str | None, ...]:
    """Returns `ListRequest.context` of a history whose events somebody describes.

    Args:
        bundle: whose prompts.
        history: item numbers, oldest first.
        events: what each was like, see `EventContext.said`.

    Raises:
        ValueError: not one for each item, or prompts do not say what is given.
    """
    if bundle.event_context is None:
        raise ValueError(
            "the prompts of this recipe say nothing of events (compose.context); leave them out"
        )
    if len(events) != len(history):
        raise ValueError(f"{len(events)} events, and {len(history)} items; expected one for each")
    return tuple(bundle.event_context.said(events))


def profile_of(bundle: Bundle, attributes: Mapping[str, Any]) -> str | None:
    """Returns `ListRequest.profile` of a user whom somebody describes.

    Args:
        bundle: whose prompts.
        attributes: see `UserProfile.said`.

    Raises:
        ValueError: prompts do not say what is given.
    """
    if bundle.user_profile is None:
        raise ValueError(
            "the prompts of this recipe say nothing of users (compose.user_attributes); leave it out"
        )
    return bundle.user_profile.said(attributes)


def _history(bundle: Bundle, user: Id) -> list[int]:
    try:
        return by_id(bundle.histories, user, "user")
    except KeyError as error:
        raise KeyError(
            f"{error.args[0]}. Users with too few interactions (prepare.core) are not known; recommend "
            "to them by their history"
        ) from None


def _owned(
    bundle: Bundle, names: Sequence[Id], lists: Sequence[Sequence[Recommended]]
) -> pl.DataFrame:
    """Lists to one table under the owner's ids."""
    numbers = pl.Series([entry.item for listed in lists for entry in listed], dtype=pl.UInt32)
    items = bundle.items.select(pl.col("item_id", "title").gather(numbers))
    return pl.DataFrame(
        {
            "user_id": [
                str(name) for name, listed in zip(names, lists, strict=True) for _ in listed
            ],
            "score": [entry.score for listed in lists for entry in listed],
            "rank": [rank for listed in lists for rank in range(1, len(listed) + 1)],
        },
        schema={"user_id": pl.String, "score": pl.Float64, "rank": pl.Int32},
    ).select("user_id", items["item_id"], items["title"], "score", "rank")


def _reasons(
    bundle: Bundle, requests: Sequence[ListRequest], lists: Sequence[Sequence[Recommended]]
) -> tuple[pl.Series, pl.Series]:
    """The columns `systems` and `because`, a row per recommended item."""
    ids = bundle.items["item_id"]
    systems, because = list[Any](), list[Any]()
    for request, listed in zip(requests, lists, strict=True):
        influences = influence(
            bundle,
            request.history,
            [entry.item for entry in listed],
            request.context,
            request.profile,
        )
        for place, entry in enumerate(listed):
            ranks = sorted(entry.ranks.items(), key=lambda pair: (pair[1], pair[0]))
            systems.append([{"system": name, "rank": rank} for name, rank in ranks])
            because.append(None if influences is None else _strongest(ids, influences[place]))
    listed_by = pl.List(pl.Struct({"system": pl.String, "rank": pl.Int32}))
    reason = pl.List(pl.Struct({"item_id": pl.String, "log_ratio": pl.Float64}))
    return pl.Series("systems", systems, listed_by), pl.Series("because", because, reason)


def _strongest(ids: pl.Series, ratios: Mapping[int, float]) -> list[dict[str, Any]]:
    best = sorted(ratios.items(), key=lambda pair: (-pair[1], pair[0]))[:_BECAUSE]
    return [{"item_id": ids[item], "log_ratio": ratio} for item, ratio in best if ratio > 0]


def known_systems(bundle: Bundle) -> tuple[str, ...]:
    """Returns the names that `ListRequest.system` may have."""
    return (*bundle.systems, SEARCH, *(() if bundle.text_prompt is None else (WRITTEN,)))


def _needed(bundle: Bundle, request: ListRequest) -> frozenset[str]:
    """The systems that a request's answer needs."""
    known = known_systems(bundle)
    if request.system is not None and request.system not in known:
        raise Unanswerable(f"system '{request.system}' is unknown; expected one of {list(known)}")
    if request.system in (SEARCH, WRITTEN) and not request.text:
        raise Unanswerable(f"system '{request.system}' needs a text; give a query")
    if request.text and request.system in (None, SEARCH) and bundle.encode is None:
        raise Unanswerable(
            "this bundle cannot read a query: its recipe's embedding has no text view"
        )
    if request.system is not None:
        return frozenset({request.system})
    joined = bundle.fusion.sources if bundle.fusion is not None else bundle.systems[:1]
    by_text = {SEARCH, WRITTEN} & set(known) if request.text else set()
    return frozenset(by_text | (set(joined) if request.history or not request.text else set()))


def _of_system(bundle: Bundle, name: str, requests: Mapping[int, ListRequest]) -> pl.DataFrame:
    """One system's lists, filtered; `user` is the position in the batch."""
    if name in (LLM, WRITTEN):
        return _of_llm(bundle, requests, in_words=name == WRITTEN)
    if name == SEARCH:
        return _search(bundle, requests)
    # One call for those that need no more than the list itself, one for those that filter it.
    parts = []
    for plain in (True, False):
        own = {user: request for user, request in requests.items() if _is_plain(request) == plain}
        if own:
            depth = bundle.depths[name]
            ranked = bundle.retrievers[name].recommend(
                [np.array(request.history, dtype=np.int64) for request in own.values()],
                k=min(len(bundle), depth if plain else _WHOLE),
                exclude_seen=plain,
            )
            if not plain:
                ranked = ranked.filtered(_allowed(bundle, own.values()), depth)
            parts.append(ranked.to_table(list(own)))
    return pl.concat(parts).sort("user", "rank")


def _of_llm(bundle: Bundle, requests: Mapping[int, ListRequest], *, in_words: bool) -> pl.DataFrame:
    assert bundle.llm is not None, "`systems` names it only where it is"
    allowed = None
    if any(request.allowed is not None for request in requests.values()):
        everything = np.ones(len(bundle), dtype=bool)
        masks = (request.allowed for request in requests.values())
        allowed = np.stack([everything if mask is None else mask for mask in masks])
    if in_words:
        assert bundle.text_prompt is not None, "as above"
        prompts = [bundle.text_prompt(request.text or "") for request in requests.values()]
    else:
        prompts = [bundle.prompt(r.history, r.context, r.profile) for r in requests.values()]
    lists = bundle.llm.recommend(
        prompts,
        k=bundle.depths[LLM],
        num_beams=bundle.num_beams,
        exclude=[_banned(request) for request in requests.values()],
        allowed=allowed,
        # A session's histories begin alike, and chat requests again for the same one.
        keys=[request.history[:2] for request in requests.values()]
        if bundle.keeps_prompts
        else None,
    )
    return lists.to_table(list(requests))


def _search(bundle: Bundle, requests: Mapping[int, ListRequest]) -> pl.DataFrame:
    """Items by a text: the magnitude retriever's query side, or cosine of the text view without one."""
    assert bundle.encode is not None, "checked by `_needed`"
    searcher: Any = next((r for r in bundle.retrievers.values() if hasattr(r, "search")), None)
    queries = bundle.encode([request.text or "" for request in requests.values()])
    if searcher is not None and "text" in searcher.dims_:
        ranked = searcher.search(queries, k=min(len(bundle), _WHOLE))
    else:
        ranked = top_k(queries @ bundle.views["text"].T, min(len(bundle), _WHOLE))
    lists = ranked.filtered(_allowed(bundle, requests.values()), _SEARCHED)
    return lists.to_table(list(requests))


def _allowed(bundle: Bundle, requests: Iterable[ListRequest]) -> Iterator[Bools]:
    """Yields for each request which items its list may hold, bool [N]."""
    for request in requests:
        mask = np.ones(len(bundle), bool) if request.allowed is None else request.allowed.copy()
        mask[_banned(request)] = False
        yield mask


def _is_plain(request: ListRequest) -> bool:
    """Whether nothing but the history is left out."""
    return request.allowed is None and not request.exclude and not request.keep_seen


def _banned(request: ListRequest) -> list[int]:
    return [*(() if request.keep_seen else request.history), *request.exclude]


def _chosen(
    bundle: Bundle, requests: Sequence[ListRequest], tables: Mapping[str, pl.DataFrame]
) -> pl.DataFrame:
    """All answers in one table of user, item, score; each user's best first."""
    whole = {user: request for user, request in enumerate(requests) if request.system is None}
    alone = [user for user in range(len(requests)) if user not in whole]
    parts = [
        _of_users(tables[system], [user for user in alone if requests[user].system == system])
        for system in sorted({str(requests[user].system) for user in alone})
    ]
    fused = _fused(bundle, whole, tables)
    with_text = [user for user, request in whole.items() if request.text]
    if with_text:
        both = {name: tables[name] for name in (SEARCH, WRITTEN) if name in tables}
        both["fused"] = fused
        both = {name: _of_users(table, with_text) for name, table in both.items()}
        weights = {name: _TEXT_WEIGHTS[name] for name in both}
        parts.append(reciprocal_rank(both, weights, k=max(_SEARCHED, *(a.k for a in requests))))
        fused = _of_users(fused, [user for user in whole if user not in with_text])
    parts.append(fused)
    return _cut(pl.concat(parts), {user: request.k for user, request in enumerate(requests)})


def _fused(
    bundle: Bundle, requests: Mapping[int, ListRequest], tables: Mapping[str, pl.DataFrame]
) -> pl.DataFrame:
    """The recipe's fusion of the systems' lists, or the one system's where it has no fusion."""
    nothing = pl.DataFrame(schema=dict(schema.RECOMMENDATIONS))
    sources = bundle.fusion.sources if bundle.fusion is not None else bundle.systems[:1]
    given = {name: _of_users(tables.get(name, nothing), list(requests)) for name in sources}
    if not any(len(table) for table in given.values()):
        return nothing
    if bundle.fusion is None:
        return next(iter(given.values()))
    depths = {user: max(request.k, _FUSED) for user, request in requests.items()}
    columns = {
        "user": list(requests),
        "history": [list(request.history) for request in requests.values()],
    }
    users = pl.DataFrame(columns, schema={"user": pl.Int32, "history": pl.List(pl.Int32)})
    return _cut(bundle.fusion.fuse(given, users, k=max(depths.values())), depths)


def _of_users(table: pl.DataFrame, users: Sequence[int]) -> pl.DataFrame:
    return table.filter(pl.col("user").is_in(list(users)))


def _cut(table: pl.DataFrame, most: Mapping[int, int]) -> pl.DataFrame:
    """Keeps each user's first rows, as many as `most` says."""
    limit = pl.col("user").replace_strict(most, return_dtype=pl.Int32)
    return table.filter(pl.int_range(pl.len()).over("user") < limit)


def _lists(count: int, chosen: pl.DataFrame, ranks: pl.DataFrame) -> list[list[Recommended]]:
    """Rows to lists, each item with its rank in every system's list."""
    own = chosen.select("user", "item").join(ranks, on=["user", "item"]).sort("rank", "system")
    by_item: dict[tuple[int, int], dict[str, int]] = {}
    for user, item, system, rank in own.select("user", "item", "system", "rank").iter_rows():
        by_item.setdefault((user, item), {})[system] = rank
    lists: list[list[Recommended]] = [[] for _ in range(count)]
    for user, item, score in chosen.select("user", "item", "score").iter_rows():
        lists[user].append(Recommended(item, score, by_item.get((user, item), {})))
    return lists


def influence(
    bundle: Bundle,
    history: Sequence[int],
    items: Sequence[int],
    context: Sequence[str | None] = (),
    profile: str | None = None,
) -> list[dict[int, float]] | None:
    """Returns for each item what the history's items add to its log-probability.

    log p(item | history) - log p(item | history without that item), by the LLM, over its newest
    `MAX_INFLUENCES` items; all prompts in one search that may write only `items`, so that the scores
    are exact. Above 0: the item made the recommendation likelier.

    Args:
        bundle: with an LLM, else there is nothing to say.
        history: item numbers, oldest first.
        items: the recommended items' numbers, each once.
        context: of the history's events; it goes with its item.
        profile: of the user; it stays.

    Returns:
        Per item, by item number of the history; None without an LLM.
    """
    if bundle.llm is None:
        return None
    newest = list(dict.fromkeys(history[-MAX_INFLUENCES:]))
    if not items or not newest:
        return [{} for _ in items]
    events = [*zip_longest(history, context)]
    histories = [events, *([event for event in events if event[0] != item] for item in newest)]
    lists = bundle.llm.recommend(
        [
            bundle.prompt([i for i, _ in own], [text for _, text in own], profile)
            for own in histories
        ],
        k=len(items),
        num_beams=max(bundle.depths[LLM], len(items)),
        allowed=[list(items)] * len(histories),
    )
    column = np.full(len(bundle), -1)
    column[list(items)] = np.arange(len(items))
    scores = np.full((len(histories), len(items)), -np.inf)
    row, rank = np.nonzero(lists.valid)
    scores[row, column[lists.items[row, rank]]] = lists.scores[row, rank]
    added = scores[0] - scores[1:]  # [history, items]
    return [dict(zip(newest, ratios, strict=True)) for ratios in added.T.tolist()]


def neighbours(bundle: Bundle, requests: Sequence[SimilarRequest]) -> list[list[tuple[int, float]]]:
    """Returns for each request item numbers and cosines, best first; equal ones by number.

    Vectors have unit length, or are zero where the view knows nothing of the item: such an item has
    no neighbours and is no neighbour.
    """
    return [_neighbours(bundle.views[r.view], r.number, r.k) for r in requests]


def _neighbours(vectors: npt.NDArray[np.float32], number: int, k: int) -> list[tuple[int, float]]:
    if not vectors[number].any():
        return []
    cosine = vectors @ vectors[number]
    cosine[number] = -np.inf
    best = top_k(cosine[None], min(k, len(vectors)))
    pairs = zip(best.items[0].tolist(), best.scores[0].tolist(), strict=True)
    return [(item, score) for item, score in pairs if item >= 0 and vectors[item].any()]
