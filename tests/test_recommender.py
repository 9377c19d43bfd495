"""Prompts in, ranked items out: ties by shared SID, the boundary of a list, engines, the table."""

import sys
import threading
import types
from pathlib import Path
from typing import Any

import accelerate.utils
import numpy as np
import pytest
import torch

from genrec import schema
from genrec.decode import BeamEngine
from genrec.lm.batch import code_token_ids
from genrec.lm.model import build_scratch, save_merged
from genrec.processes import Processes
from genrec.recommender import RecommendedLists, Recommender
from genrec.schema import Segment
from genrec.sid import SIDTrie

SIDS = np.array([[0, 0], [0, 1], [0, 1], [1, 0], [1, 1], [1, 1]])


def test_items_that_share_a_sid_share_a_rank_in_the_table() -> None:
    lists = RecommendedLists(
        np.array([[3, 2, 1, 0], [0, -1, -1, -1]]),
        np.array([[-1, -2, -2, -3], [-3, -np.inf, -np.inf, -np.inf]], dtype=np.float32),
        np.array([[False, True, False], [False, False, False]]),
        np.array([True, True]),
        np.array([-2.5, -np.inf]),
    )
    assert [lists.proven(k).tolist() for k in (2, 3, 4)] == [
        [True, True],
        [True, True],
        [False, True],
    ]
    assert lists.ranks.tolist() == [[1, 2, 2, 4], [1, 0, 0, 0]]
    table = lists.to_table([7, 8])
    schema.check(table, schema.RECOMMENDATIONS, "test")
    rows = [(7, 3, -1.0, 1), (7, 1, -2.0, 2), (7, 2, -2.0, 2), (7, 0, -3.0, 4), (8, 0, -3.0, 1)]
    assert table.rows() == rows


@pytest.fixture(scope="module")
def trained() -> tuple[Any, Any]:
    return build_scratch(
        texts=["a b c"], levels=2, codes=2, hidden=32, layers=1, heads=2, vocab=300
    )


@pytest.fixture(scope="module")
def recommender(trained: tuple[Any, Any]) -> Recommender:
    model, tokenizer = trained
    engine = BeamEngine(model.eval(), SIDTrie(SIDS), code_token_ids(tokenizer, [2, 2]))
    return Recommender(engine, tokenizer, SIDS, max_length=32, batch_size=2)


def prompts(*histories: list[int]) -> list[tuple[Segment, ...]]:
    return [tuple(Segment(sid=tuple(map(int, SIDS[i]))) for i in h) for h in histories]


def test_a_list_holds_all_that_tie_with_its_last(recommender: Recommender) -> None:
    whole = recommender.recommend(prompts([0], [3], [1, 4]), k=6, num_beams=6)
    assert sorted(whole.items[0]) == list(range(6))
    assert whole.exact.all()
    for k in range(1, 7):
        lists = recommender.recommend(prompts([0], [3], [1, 4]), k=k, num_beams=6)
        for user in range(3):
            expected = whole.items[user][whole.ranks[user] <= k].tolist()
            found = lists.items[user][lists.items[user] >= 0].tolist()
            assert found == expected, (k, user)


def test_excluded_items_never_come(recommender: Recommender) -> None:
    histories = [[0, 1], [3], []]
    lists = recommender.recommend(prompts([0, 1], [3], [2]), k=6, num_beams=6, exclude=histories)
    for row, history in zip(lists.items, histories, strict=True):
        assert sorted(row[row >= 0]) == sorted(set(range(6)) - set(history))


def test_a_tokenizer_without_the_sid_tokens_is_refused(recommender: Recommender) -> None:
    with pytest.raises(ValueError, match="run train again"):
        Recommender(recommender.engine, recommender.tokenizer, np.array([[0, 9]]), max_length=8)


# --- engines -----------------------------------------------------------------------------------


class Recorder:
    """An engine whose lists tell the whole batch that a user was in, and what was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def search(self, input_ids: torch.Tensor, mask: torch.Tensor, **asked: Any) -> Any:
        users, k = len(input_ids), asked["k"]
        self.asked.append(asked)
        traces = -(input_ids * mask).sum() - 0.001 * torch.arange(users * k).view(users, k)
        return types.SimpleNamespace(
            items=torch.arange(k).repeat(users, 1),
            scores=traces.float(),
            exact=torch.arange(users) % 2 == 0,
            bound=torch.zeros(users),
        )


@pytest.fixture
def recorded(recommender: Recommender) -> Recommender:
    return Recommender(Recorder(), recommender.tokenizer, SIDS, max_length=32, batch_size=3)


def test_what_the_engine_is_asked(recorded: Recommender) -> None:
    histories = [[0], [1], [2], [3]]
    own = [[u, 5] for u in range(4)]
    recorded.recommend(prompts(*histories), k=3, num_beams=2, exclude=histories, allowed=own)
    wide = {"num_beams": 4, "k": 4}  # two items share a SID: one more place, and a beam for each
    assert recorded.engine.asked == [
        {**wide, "exclude": histories[:3], "allowed": own[:3]},
        {**wide, "exclude": histories[3:], "allowed": own[3:]},
    ]
    recorded.engine.asked.clear()
    for limit in (None, 3, 20):
        recorded.recommend(prompts([0]), k=3, num_beams=2, certify=True, max_beams=limit)
    assert [asked["max_beams"] for asked in recorded.engine.asked] == [None, 4, 20]
    assert all(asked["certify"] for asked in recorded.engine.asked)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_any_number_of_processes_makes_the_same_lists(
    recorded: Recommender, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = prompts(*[[i % 6] * (1 + i % 4) for i in range(11)])  # 4 batches, the last of 2 users
    alone = recorded.recommend(asked, k=3, num_beams=4)
    assert len(set(alone.scores[:, 0].tolist())) > 4
    pile: list[Any] = []
    everyone = threading.Barrier(count, timeout=30)

    def gather(mine: list[Any]) -> list[Any]:
        pile.extend(mine)
        everyone.wait()
        return list(pile)

    monkeypatch.setattr(accelerate.utils, "gather_object", gather)
    lists: dict[int, RecommendedLists] = {}
    steps: dict[int, list[tuple[int, int]]] = {rank: [] for rank in range(count)}

    def work(rank: int) -> None:
        lists[rank] = recorded.recommend(
            asked,
            k=3,
            num_beams=4,
            processes=Processes(rank, count),
            progress=lambda step, done, total: steps[rank].append((done, total)),
        )

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(count)]
    recorded.engine.asked.clear()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(recorded.engine.asked) == 4  # every batch was decoded once
    for rank in range(count):
        for array in ("items", "scores", "ranks", "exact"):
            np.testing.assert_array_equal(getattr(lists[rank], array), getattr(alone, array))
        assert steps[rank] == sorted(steps[rank])
        assert steps[rank][-1] == (11, 11)


@pytest.fixture(scope="module")
def merged(trained: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("merged")
    save_merged(*trained, folder)
    return folder


def test_a_folder_is_loaded_with_the_options_of_its_engine(
    merged: Path, recommender: Recommender
) -> None:
    asked = prompts([0], [3], [1, 4])
    expected = recommender.recommend(asked, k=6, num_beams=6)
    for options in ({}, {"strategy": "expand"}, {"memory_budget": 1}, {"device": "cpu"}):
        loaded = Recommender.load(merged, SIDS, max_length=32, batch_size=2, **options)
        lists = loaded.recommend(asked, k=6, num_beams=6)
        np.testing.assert_array_equal(lists.items, expected.items)
        np.testing.assert_allclose(lists.scores, expected.scores, atol=1e-5)
    assert (
        Recommender.load(merged, SIDS, max_length=8, strategy="expand").engine.strategy == "expand"
    )
    half = Recommender.load(merged, SIDS, max_length=32, dtype="bfloat16")
    assert half.engine.model.dtype == torch.bfloat16
    lists = half.recommend(asked, k=6, num_beams=6)
    np.testing.assert_allclose(np.sort(lists.scores), np.sort(expected.scores), atol=0.1)


def test_a_missing_vllm_is_named_with_the_command(
    merged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)  # what a machine without it has
    with pytest.raises(ImportError, match="pip install vllm"):
        Recommender.load(merged, SIDS, max_length=32, engine="vllm")


def test_vllm_is_given_the_folder_the_trie_and_the_tokens(
    merged: Path, monkeypatch: pytest.MonkeyPatch, recommender: Recommender
) -> None:
    given: dict[str, Any] = {}

    class VLLMBeamEngine(Recorder):
        @classmethod
        def load_sets(cls, folder: Path, sets: Any, **options: Any) -> Any:
            ((trie, code_tokens),) = sets
            given.update(options, folder=folder, items=trie.num_items, code_tokens=code_tokens)
            return [cls()]

    stand_in: Any = types.ModuleType("genrec.decode.vllm")
    stand_in.VLLMBeamEngine = VLLMBeamEngine
    monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    options: dict[str, Any] = {"dtype": "float32", "max_num_seqs": 3}
    loaded = Recommender.load(merged, SIDS, max_length=32, engine="vllm", **options)
    assert isinstance(loaded.engine, VLLMBeamEngine)
    np.testing.assert_array_equal(given.pop("code_tokens"), recommender.code_tokens)
    assert given == {**options, "folder": merged, "items": 6}
