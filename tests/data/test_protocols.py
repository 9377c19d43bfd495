"""Every way to split, by hand and against plain Python; and what has no time or nothing to learn."""

from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings, strategies as st

from genrec import registry
from genrec.data import (
    ColdItems,
    ColdUsers,
    LastOut,
    RandomOut,
    RawData,
    Temporal,
    prepare,
)
from genrec.data.protocols import Parts, SplitProtocol, order_only
from genrec.data.settings import Split
from genrec.data.source import RAW_INTERACTIONS, RAW_ITEMS
from genrec.recipe import kinds

Rows = list[tuple[int, int, int]]  # user, item, timestamp

# Ten interactions at ten times: 8:1:1 cuts before 80 and before 90.
LOG: Rows = [
    *((0, 0, 0), (0, 1, 10), (0, 2, 80), (0, 3, 90)),  # in all three periods
    *((1, 1, 20), (1, 0, 30)),  # in training only
    *((2, 2, 40), (2, 0, 50)),
    *((3, 1, 60), (3, 4, 70)),
]


def frame(rows: Rows) -> pl.DataFrame:
    schema = {"user": pl.Int32, "item": pl.Int32, "timestamp": pl.Int64}
    return pl.DataFrame(sorted(rows, key=lambda r: r[0]), schema=schema, orient="row")


def rows_of(parts: Parts) -> dict[str, list[tuple[int, list[int], int]]]:
    return {name: getattr(parts, name).rows() for name in ("train", "valid", "test")}


def test_temporal_by_hand() -> None:
    parts = Temporal().split(frame(LOG))
    assert rows_of(parts) == {
        "train": [(0, [0], 1), (1, [1], 0), (2, [2], 0), (3, [1], 4)],
        "valid": [(0, [0, 1], 2)],
        "test": [(0, [0, 1, 2], 3)],
    }
    assert parts.facts == {"valid_from": 80, "test_from": 90}


def test_temporal_asks_for_the_first_or_the_last_of_a_period() -> None:
    rows = [(0, 0, 0), *((0, i, 80 + i) for i in (1, 2)), *((0, i, 90 + i) for i in (3, 4))]
    rows += [(1, 5, t) for t in range(20)]
    first = Temporal(valid=0.08, test=0.08).split(frame(rows))
    assert first.valid.rows() == [(0, [0], 1)]
    assert first.test.rows() == [(0, [0, 1, 2], 3)]
    last = Temporal(valid=0.08, test=0.08, target="last").split(frame(rows))
    assert last.valid.rows() == [(0, [0, 1], 2)]
    assert last.test.rows() == [(0, [0, 1, 2, 3], 4)]


def test_temporal_leaves_out_whom_nothing_is_known_of_and_keeps_one_second_together() -> None:
    learned = [(t % 4, t // 4, t) for t in range(16)]
    later = [(0, 4, 16), (5, 0, 17), (0, 5, 18), (6, 1, 19)]  # 5 and 6 come after the cut
    parts = Temporal().split(frame([*learned, *later]))
    assert parts.train["user"].to_list() == [0, 1, 2, 3]
    assert parts.valid.rows() == [(0, [0, 1, 2, 3], 4)]
    assert parts.test.rows() == [(0, [0, 1, 2, 3, 4], 5)]
    together = [(u, i, 7) for u in range(4) for i in range(4)] + [(u, 4, 8) for u in range(4)]
    with pytest.raises(ValueError, match=r"no user is left to valid|no user is left to test"):
        Temporal().split(frame(together))


def test_cold_items_by_hand() -> None:
    # Item 4 is the newest: it first stands at 70. User 3 has it in the middle, user 4 as target.
    rows = [*LOG, (3, 0, 75), (3, 2, 76), *((4, i, 71 + n) for n, i in enumerate((0, 1, 2, 4)))]
    rows = [r for r in rows if r[1] != 3]
    parts = ColdItems(share=0.25).split(frame(rows))
    assert parts.hidden.to_list() == [4]
    assert parts.dropped == {"interaction_with_held_out_item": 1}
    assert rows_of(parts) == {
        "train": [(0, [], 0), (3, [], 1), (4, [0], 1)],
        "valid": [(0, [0], 1), (3, [1], 0), (4, [0, 1], 2)],
        "test": [
            *((0, [0, 1], 2), (1, [1], 0), (2, [2], 0)),
            *((3, [1, 0], 2), (4, [0, 1, 2], 4)),
        ],
    }


def test_cold_users_learn_from_the_others_whole() -> None:
    rows = [(u, i, i) for u in range(10) for i in range(3)]
    parts = ColdUsers(valid=0.2, test=0.1).split(frame(rows))
    users = {name: set(table["user"]) for name, table in vars(parts).items() if name in SPLITS}
    assert [len(users[name]) for name in SPLITS] == [7, 2, 1]
    assert set.union(*users.values()) == set(range(10))
    assert all(row[1:] == ([0, 1], 2) for name in SPLITS for row in rows_of(parts)[name])
    assert parts.valid.equals(ColdUsers(valid=0.2, test=0.1).split(frame(rows)).valid)
    assert not parts.valid.equals(ColdUsers(valid=0.2, test=0.1, seed=1).split(frame(rows)).valid)


SPLITS = ("train", "valid", "test")


def slow_temporal(log: Rows, p: Any) -> dict[str, dict[int, tuple[list[int], int]]]:
    times = sorted(t for _, _, t in log)
    cuts = [
        times[min(len(log) - 1, int(len(log) * (1 - s)))]
        for s in (p.settings.valid + p.settings.test, p.settings.test)
    ]
    part = {(u, n): (t >= cuts[0]) + (t >= cuts[1]) for u, n, _, t in numbered(log)}
    return slow(log, part, lambda ns: ns[0] if p.settings.target == "first" else ns[-1], set())


def slow_cold_items(log: Rows, p: Any) -> dict[str, dict[int, tuple[list[int], int]]]:
    ages: dict[int, int] = {}
    for _, item, time in log:
        ages[item] = min(time, ages.get(item, time))
    by_age = sorted(ages, key=lambda i: (ages[i], i))
    hidden = set(by_age[-max(1, round(p.settings.share * len(by_age))) :])
    ends = {u: sum(r[0] == u for r in log) for u, _, _ in log}
    part = {(u, n): max(0, n - ends[u] + 3) for u, n, _, _ in numbered(log)}
    return slow(log, part, lambda ns: ns[0], hidden)


def numbered(log: Rows) -> list[tuple[int, int, int, int]]:
    seen: dict[int, int] = {}
    rows = []
    for user, item, time in log:
        rows.append((user, seen.get(user, 0), item, time))
        seen[user] = seen.get(user, 0) + 1
    return rows


def slow(
    log: Rows, part: dict[tuple[int, int], int], pick: Callable[[list[int]], int], hidden: set[int]
) -> dict[str, dict[int, tuple[list[int], int]]]:
    parts: dict[str, dict[int, tuple[list[int], int]]] = {name: {} for name in SPLITS}
    for user in sorted({u for u, _, _ in log}):
        items = [i for u, i, _ in log if u == user]
        learned = [i for n, i in enumerate(items) if part[user, n] == 0 and i not in hidden]
        if learned:
            parts["train"][user] = learned[:-1], learned[-1]
        for number in (1, 2):
            places = [n for n in range(len(items)) if part[user, n] == number]
            if places:
                at = pick(places)
                before = [i for i in items[:at] if i not in hidden]
                if before:
                    parts[SPLITS[number]][user] = before, items[at]
    return parts


logs = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 7), st.integers(0, 12)), min_size=12, max_size=50
)
shares = st.sampled_from([0.1, 0.2, 0.3])


@settings(max_examples=50, deadline=None)
@given(logs, shares, shares, st.sampled_from(["first", "last"]))
def test_temporal_against_plain_python(rows: Rows, valid: float, test: float, which: Any) -> None:
    against(rows, Temporal(valid=valid, test=test, target=which), slow_temporal)


@settings(max_examples=50, deadline=None)
@given(logs, shares)
def test_cold_items_against_plain_python(rows: Rows, share: float) -> None:
    against(rows, ColdItems(share=share), slow_cold_items)


def against(rows: Rows, protocol: SplitProtocol, oracle: Callable[..., Any]) -> None:
    log = sorted(rows, key=lambda r: (r[0], r[2]))
    least = {u for u, _, _ in log if sum(r[0] == u for r in log) >= protocol.min_length}
    log = [r for r in log if r[0] in least]
    expected = oracle(log, protocol) if log else {}
    if not all(expected.get(name) for name in SPLITS):
        if log:
            with pytest.raises(ValueError, match="no user is left to"):
                protocol.split(frame(log))
        return
    parts = protocol.split(frame(log))
    assert rows_of(parts) == {n: [(u, *row) for u, row in expected[n].items()] for n in SPLITS}


@settings(max_examples=40, deadline=None)
@given(
    logs,
    st.sampled_from(
        [
            LastOut(),
            RandomOut(),
            Temporal(valid=0.2, test=0.2),
            ColdItems(share=0.2),
            ColdUsers(valid=0.3, test=0.3),
        ]
    ),
)
def test_no_split_leaks(rows: Rows, protocol: SplitProtocol) -> None:
    """`prepare` runs `check_no_leakage`, which is written apart from the code that splits."""
    try:
        prepare(as_raw(rows), core=0, repeats="keep", split=protocol)
    except ValueError as error:
        assert "leak" not in str(error)  # noqa: PT017 - too little data is no leak


def as_raw(rows: Rows) -> RawData:
    named = [(f"u{u}", f"i{i}", t + 1000) for u, i, t in rows]
    items = [(f"i{i}", f"title {i}", "", None) for i in range(8)]
    return RawData(
        pl.DataFrame(items, schema=RAW_ITEMS, orient="row"),
        pl.DataFrame(named, schema=RAW_INTERACTIONS, orient="row"),
    )


def test_new_items_are_a_group_of_their_own() -> None:
    rows = [(u, i, n) for u in range(4) for n, i in enumerate((0, 1, 2, 0, 1))]
    rows += [(4, i, 71 + n) for n, i in enumerate((0, 1, 2, 4))]
    done = prepare(as_raw(rows), core=0, repeats="keep", split=ColdItems(share=0.25))
    assert done.groups is not None
    new = done.groups.filter(pl.col("group") == "new item").join(done.users, on="user")
    assert new.select("user_id", "item").rows() == [("u4", 4)]
    assert done.stats["split"] == {"kind": "cold_items", "held_out_items": 1}
    assert prepare(as_raw(LOG * 2), core=0, repeats="keep").groups is None


def test_positions_are_no_time() -> None:
    rows = [(u, i, i) for u in range(5) for i in range(4)]
    raw = as_raw(rows)
    raw = RawData(raw.items, raw.interactions.with_columns(pl.col("timestamp") - 1000))
    assert order_only(raw.interactions)
    for protocol in (Temporal(), ColdItems()):
        with pytest.raises(
            ValueError, match=r"prepare.split.kind=\w+ .*no times.*last_out.*random"
        ):
            prepare(raw, core=0, split=protocol)
    assert prepare(raw, core=0, split=ColdUsers(valid=0.2, test=0.2)).stats["time"] == "no times"


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("temporal", {"valid": 0.5, "test": 0.5}),
        ("temporal", {"test": 0.0}),
        ("cold_items", {"share": 1.0}),
        ("cold_users", {"valid": 0.9, "test": 0.2}),
    ],
)
def test_shares_that_leave_nothing(kind: str, options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"leave nothing to learn from|greater than 0|less than 1"):
        registry.implementation(kinds(Split)[kind])(**options)


@pytest.mark.parametrize(
    ("repeats", "kept"),
    [
        ("drop", "abc"),
        ("last", "bac"),
        ("exact", "aabac"),
        ("consecutive", "abac"),
        ("keep", "aaabac"),
    ],
)
def test_duplicates_policies(repeats: Any, kept: str) -> None:
    log = [("u", "a", 1), ("u", "a", 1), *(("u", i, t) for t, i in enumerate("abac", start=2))]
    items = [(i, f"title {i}", "", None) for i in "abc"]
    raw = RawData(
        pl.DataFrame(items, schema=RAW_ITEMS, orient="row"),
        pl.DataFrame(log, schema=RAW_INTERACTIONS, orient="row"),
    )
    done = prepare(raw, core=0, repeats=repeats)
    assert "".join("abc"[i] for i in done.interactions["item"]) == kept
    assert done.stats["dropped"] == (
        {"repeated_interaction": 6 - len(kept)} if len(kept) < 6 else {}
    )
