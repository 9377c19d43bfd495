"""recipes/bench/chat_gold.py and chat_score.py: the conversations hold, and replies are judged."""

import importlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("recipes.bench.chat_gold", reason="needs the root of a checkout on the path")
gold = importlib.import_module("recipes.bench.chat_gold")
score = importlib.import_module("recipes.bench.chat_score")

NAMES = ("demo", "movielens")


@pytest.fixture(scope="module")
def shop() -> Any:
    return gold.demo()


@pytest.fixture(params=NAMES)
def catalogue(request: pytest.FixtureRequest, shop: Any) -> Any:
    if request.param == "demo":
        return shop
    if not gold.MOVIES.exists():
        pytest.skip("real data absent: set GENREC_DATA to the folder that holds movielens-posters/")
    return gold.movielens()


def everything(name: str) -> list[Any]:
    return [*gold.load(name), *gold.load(name, locked=True)]


def talk(*turns: dict[str, Any]) -> Any:
    """A conversation over the demo."""
    made = [{"say": "words", "gold": {"where": [], **turn}} for turn in turns]
    head = {"id": "t", "catalogue": "demo", "language": "en", "tags": []}
    return gold.Conversation.model_validate(head | {"turns": made})


def holds(column: str, op: str, value: Any) -> dict[str, Any]:
    return {"column": column, "op": op, "value": value}


class Oracle:
    """Answers with the gold, as whoever reads every message rightly would."""

    def __init__(self, conversation: Any, catalogue: Any) -> None:
        self.turns = iter(conversation.turns)
        self.catalogue = catalogue
        self.before: tuple[str, ...] = ()

    def __call__(self, say: str) -> Any:
        turn = next(self.turns)
        assert turn.say == say
        if turn.gold.behaviour == "help":
            return score.Reply("Please call somebody.", help=True)
        if turn.gold.behaviour in gold.ABOUT_SHOWN:
            about = self.catalogue.named(turn.gold.refers_to, self.before)
            return score.Reply("They are like this.", about=tuple(about))
        if turn.gold.behaviour != "show":
            return score.Reply("No items.", doubt=turn.gold.behaviour in gold.NOTHING_FITS)
        items = self.catalogue.right(turn.gold, self.before)
        if not items:
            return score.Reply("Nothing is like that.", doubt=True)
        if sort := turn.gold.sort:
            known = dict(self.catalogue.frame.select("item_id", sort.by).iter_rows())
            items.sort(key=known.__getitem__, reverse=sort.descending)
        self.before = tuple(items[: turn.gold.count or 5])
        return score.Reply("Here.", shown=self.before)


def test_every_gold_is_over_real_columns_values_and_items(catalogue: Any) -> None:
    talks = everything(catalogue.name)
    assert [fault for one in talks for fault in gold.faults(one, catalogue)] == []


def test_the_counts_are_those_asked_for() -> None:
    talks = [one for name in NAMES for one in everything(name)]
    assert len({one.id for one in talks}) == len(talks) >= 300
    assert len({tuple(turn.say for turn in one.turns) for one in talks}) == len(talks)
    per = Counter(one.catalogue for one in talks)
    assert per["demo"] >= 200
    assert per["movielens"] >= 100
    requests = Counter(one.request for one in talks)
    assert requests["nothing fits"] >= len(talks) / 5
    assert requests["no request"] >= len(talks) / 10
    assert sum(one.spelling != "English" for one in talks) >= len(talks) / 3


def test_a_fifth_is_locked_by_the_hash_of_its_ids() -> None:
    locked = {one.id for name in NAMES for one in gold.load(name, locked=True)}
    talks = [one for name in NAMES for one in everything(name)]
    assert locked == gold.locked_ids(talks)
    assert len(locked) == pytest.approx(len(talks) / 5, abs=4)


def test_who_reads_rightly_is_right_everywhere(catalogue: Any) -> None:
    verdicts = [
        verdict
        for one in everything(catalogue.name)
        for verdict in score.converse(one, Oracle(one, catalogue), catalogue)
    ]
    assert [verdict for verdict in verdicts if not verdict.right] == []
    total = score.scores(verdicts).row(0, named=True)
    assert total["kind"] == "all"
    assert total["wrong_confident"] == 0
    shares = ("right", "hit@5", "satisfied", "abstain_precision", "abstain_recall")
    assert [total[name] for name in shares] == [1] * 5


def test_silence_is_never_right_and_never_confident(shop: Any) -> None:
    verdicts = [
        verdict
        for one in everything("demo")
        for verdict in score.converse(one, lambda say: score.Reply(""), shop)
    ]
    total = score.scores(verdicts).row(0, named=True)
    assert (total["right"], total["hit@5"], total["satisfied"]) == (0, 0, None)
    assert (total["wrong_confident"], total["abstain_recall"]) == (0, 1)


def test_always_showing_the_same_is_wrong_but_confident(shop: Any) -> None:
    tent = next(iter(shop.satisfying([gold.Condition.model_validate(TENT)], ())))
    ask = talk(
        {"behaviour": "show", "where": [holds("category", "in", ["mug"])]},
        {"behaviour": "abstain", "where": [holds("category", "in", ["fridge"])]},
        {"behaviour": "answer"},
        {"behaviour": "help"},
        {"behaviour": "show", "where": [TENT]},
    )
    reply = score.Reply("These fit best.", shown=(tent,))
    verdicts = score.converse(ask, lambda say: reply, shop)
    assert [v.wrong_confident for v in verdicts] == [True, True, True, True, False]
    assert [v.right for v in verdicts] == [False, False, False, False, True]
    doubting = score.Reply("No, but these are near.", shown=(tent,), doubt=True)
    verdicts = score.converse(ask, lambda say: doubting, shop)
    assert not any(v.wrong_confident for v in verdicts)
    assert [v.right for v in verdicts] == [False, True, False, False, True]
    total = score.scores(verdicts).row(0, named=True)
    assert (total["abstain_precision"], total["abstain_recall"]) == (pytest.approx(1 / 3), 1)


TENT = holds("category", "in", ["tent"])


def test_one_wrong_item_of_five_is_a_hit_but_not_right(shop: Any) -> None:
    ask = talk({"behaviour": "show", "where": [TENT]})
    tents = shop.right(ask.turns[0].gold, ())
    mug = shop.satisfying([gold.Condition.model_validate(holds("category", "in", ["mug"]))], ())[0]
    verdict = score.judge(ask, 0, score.Reply("", shown=(*tents[:4], mug)), shop, ())
    assert (verdict.hit, verdict.satisfied, verdict.right) == (True, 0.8, False)
    assert not verdict.wrong_confident


def test_order_and_number_count(shop: Any) -> None:
    wish = {"behaviour": "show", "where": [TENT], "count": 2}
    ask = talk(wish | {"sort": {"by": "price", "descending": False}})
    price = dict(shop.frame.select("item_id", "price").iter_rows())
    tents = sorted(shop.right(ask.turns[0].gold, ()), key=price.__getitem__)
    cases = {tuple(tents[:2]): True, (tents[0], tents[-1]): False, tuple(tents[:3]): False}
    for shown, right in cases.items():
        assert score.judge(ask, 0, score.Reply("", shown=shown), shop, ()).right == right


def test_references_are_to_the_list_that_was_shown(shop: Any) -> None:
    ask = talk(
        {"behaviour": "show", "where": [TENT]},
        {"behaviour": "show", "where": [TENT, holds("price", "<", {"rank": 2})]},
        {"behaviour": "compare", "where": [TENT], "refers_to": [1, 2]},
    )
    price = dict(shop.frame.select("item_id", "price").iter_rows())
    tents = sorted(shop.right(ask.turns[0].gold, ()), key=price.__getitem__)
    before = (tents[-1], tents[3])
    for item, right in ((tents[0], True), (tents[-2], False)):
        assert score.judge(ask, 1, score.Reply("", shown=(item,)), shop, before).right == right
    cheapest = (tents[-1], tents[0])
    none = score.judge(ask, 1, score.Reply("None is.", doubt=True), shop, cheapest)
    assert (none.right, none.nothing_fits) == (True, True)
    for about, right in ((before, True), (before[:1], False)):
        assert score.judge(ask, 2, score.Reply("So.", about=about), shop, before).right == right
    assert not score.judge(ask, 2, score.Reply("So.", about=before), shop, before[:1]).right


def test_changes_are_seen_in_the_state(shop: Any) -> None:
    green, mug = holds("colour", "in", ["green"]), holds("category", "in", ["mug"])
    ask = talk(
        {"behaviour": "show", "where": [TENT, green]},
        {"behaviour": "show", "where": [TENT]},
        {"behaviour": "show", "where": [mug]},
        {"behaviour": "show", "where": [mug, green]},
    )
    found = [gold.kinds(ask, i, shop) & {"cancelling", "new subject"} for i in range(4)]
    assert found == [set(), {"cancelling"}, {"new subject"}, set()]


@pytest.mark.parametrize(
    ("turn", "said"),
    [
        ({"behaviour": "show", "where": [holds("colour", "in", ["pink"])]}, "does not occur"),
        ({"behaviour": "show", "where": [holds("weight", "<=", 3)]}, "no column"),
        ({"behaviour": "show", "where": [holds("brand", "<=", 3)]}, "not for this column"),
        ({"behaviour": "abstain", "where": [TENT]}, "items are right"),
        ({"behaviour": "details", "refers_to": [2]}, "of at most 0 shown"),
        ({"behaviour": "show", "like": ["No Such Film (1990)"]}, "no title"),
    ],
)
def test_a_wrong_gold_is_named(shop: Any, turn: dict[str, Any], said: str) -> None:
    (fault, *_) = gold.faults(talk(turn), shop)
    assert "t, turn 1" in fault
    assert said in fault


def test_a_wrong_line_is_named(tmp_path: Path) -> None:
    line = {"id": "t", "catalogue": "demo", "language": "en", "tags": [], "turns": []}
    (tmp_path / "demo.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(ValueError, match=r"demo\.jsonl:1: .*\n?turns"):
        gold.load("demo", folder=tmp_path)
