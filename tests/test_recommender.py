"""Prompts in, ranked items out: ties by shared SID, the boundary of a list, and the table."""

import numpy as np
import pytest
from transformers import Qwen3Config, Qwen3ForCausalLM

from genrec import schema
from genrec.lm.model import build_scratch
from genrec.recommender import Lists, Recommender, tied_ranks, to_table
from genrec.schema import Segment

SIDS = np.array([[0, 0], [0, 1], [0, 1], [1, 0], [1, 1], [1, 1]])


def test_ranks_of_shared_sids_are_shared() -> None:
    items = np.array([[3, 1, 2, 0, -1], [0, 4, 5, 3, 1], [-1, -1, -1, -1, -1]])
    assert tied_ranks(items, SIDS).tolist() == [
        [1, 2, 2, 4, 0],  # items 1 and 2 share (0, 1)
        [1, 2, 2, 4, 5],
        [0, 0, 0, 0, 0],
    ]


def test_table_is_sorted_and_has_only_what_is_there() -> None:
    lists = Lists(
        np.array([[3, 2, 1], [0, -1, -1]]),
        np.array([[-1.0, -2.0, -2.0], [-3.0, -np.inf, -np.inf]], dtype=np.float32),
        np.array([[1, 2, 2], [1, 0, 0]], dtype=np.int32),
        np.array([True, True]),
    )
    table = to_table([7, 8], lists)
    schema.check(table, schema.RECOMMENDATIONS, "test")
    assert table.rows() == [(7, 3, -1.0, 1), (7, 1, -2.0, 2), (7, 2, -2.0, 2), (8, 0, -3.0, 1)]


@pytest.fixture(scope="module")
def recommender() -> Recommender:
    model, tokenizer = build_scratch(
        texts=["a b c"], levels=2, codes=2, hidden=32, layers=1, heads=2, vocab=300
    )
    return Recommender(model.eval(), tokenizer, SIDS, max_length=32, batch_size=2)


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


def test_a_model_without_the_sid_tokens_is_refused(recommender: Recommender) -> None:
    with pytest.raises(ValueError, match="run train again"):
        Recommender(
            Qwen3ForCausalLM(
                Qwen3Config(
                    vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=1
                )
            ),
            recommender.tokenizer,
            np.array([[0, 9]]),
            max_length=8,
        )
