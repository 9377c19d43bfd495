"""Settings in, blocks of users, bad scores, and what is on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genrec.retrieve import Cooccurrence, Popular, open_retriever, sequences
from genrec.retrieve.base import by_scores, in_blocks
from genrec.retrieve.settings import CooccurrenceSettings, PopularSettings


def test_settings_come_whole_or_one_by_one() -> None:
    whole = Cooccurrence(CooccurrenceSettings(window=2), seed=3)
    assert whole.settings == Cooccurrence(window=2).settings
    assert (whole.seed, whole.device, whole.kind) == (3, "auto", "cooccurrence")
    assert Cooccurrence(whole.settings, recent=1).settings == CooccurrenceSettings(
        window=2, recent=1
    )
    assert "window=2" in repr(whole)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"windows": 2}, "there is no 'windows'; did you mean 'window'"),
        ({"zzz": 2}, "there is no 'zzz'; known: .*window, recent, decay"),
        ({"window": 0}, "window is 0: .*greater than or equal to 1"),
        ({"decay": 1.5, "recent": 0}, "recent is 0.*; decay is 1.5"),
    ],
)
def test_bad_options_say_what_is_wrong(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"CooccurrenceSettings: .*{message}"):
        Cooccurrence(**options)


def test_settings_of_another_retriever_are_refused() -> None:
    with pytest.raises(TypeError, match="PopularSettings; expected CooccurrenceSettings"):
        Cooccurrence(PopularSettings())  # type: ignore[arg-type]


def test_blocks_change_nothing_and_tell_of_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    histories = [rng.integers(0, 9, size=rng.integers(0, 7)) for _ in range(40)]
    for kind in (Popular, Cooccurrence):
        monkeypatch.undo()
        retriever: Any = kind().fit(histories, num_items=9)
        whole = retriever.recommend(histories, k=5)
        monkeypatch.setattr(sequences, "_MAX_CELLS", 27)  # 3 users at a time
        told: list[tuple[int, int]] = []
        parts = retriever.recommend(
            histories, k=5, progress=lambda _, done, total, told=told: told.append((done, total))
        )
        np.testing.assert_array_equal(whole.items, parts.items)
        np.testing.assert_array_equal(whole.scores, parts.scores)
        assert len(told) == 14
        assert told[-1] == (40, 40)
        with pytest.raises(ValueError, match="sequence 39: item 9 is unknown"):
            retriever.recommend([*histories[:39], [9]], k=1)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("numpy", [True, False])
def test_lists_are_not_made_of_scores_that_are_none(bad: float, numpy: bool) -> None:
    scores = torch.tensor([[0.0, 1, 2], [0, bad, 1]])

    def ranked(histories: list[list[int]]) -> Any:
        rank = by_scores(lambda p, _: scores[p].numpy().copy() if numpy else scores[p].clone(), k=2)
        return in_blocks(rank, histories, num_items=3, k=2, step="test")

    with pytest.raises(FloatingPointError, match=r"test: a score is NaN or infinite; .*lower lr"):
        ranked([[0], [0]])
    assert ranked([[0], [1]]).items.tolist() == [[2, 1], [2, 0]]  # a seen item's is never looked at


def test_equal_scores_by_popularity_or_item_number() -> None:
    for counts, expected in ((None, [[1, 2, 3]]), (np.array([0, 1, 5, 5]), [[2, 3, 1]])):
        rank = by_scores(lambda p, _: np.zeros((1, 4), np.float32), k=3, popularity=counts)
        assert in_blocks(rank, [[0]], num_items=4, k=3, step="test").items.tolist() == expected


def test_opens_what_was_saved(tmp_path: Path) -> None:
    Cooccurrence(window=2, seed=4).fit([[0, 1]], num_items=2).save(tmp_path)
    loaded = open_retriever(tmp_path)
    assert isinstance(loaded, Cooccurrence)
    assert (loaded.settings.window, loaded.seed) == (2, 4)


def test_opens_what_was_saved_when_the_seed_was_a_setting(tmp_path: Path) -> None:
    Popular().fit([[0, 1]], num_items=2).save(tmp_path)
    (tmp_path / "retriever.json").write_text('{"kind": "popular", "settings": {"seed": 7}}')
    assert open_retriever(tmp_path).seed == 7


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    head, body = tmp_path / "retriever.json", tmp_path / "arrays.safetensors"
    for load in (open_retriever, Popular.load):
        with pytest.raises(FileNotFoundError, match=r"retriever\.json"):
            load(tmp_path)
    Popular().fit([[0]], num_items=1).save(tmp_path)
    with pytest.raises(ValueError, match="'popular' retriever, expected 'cooccurrence'"):
        Cooccurrence.load(tmp_path)
    whole = json.loads(head.read_text())
    head.write_text(json.dumps(whole | {"settings": {"depth": 3}}))
    with pytest.raises(ValueError, match=r"damaged .*there is no 'depth'"):
        Popular.load(tmp_path)
    head.write_text(json.dumps(whole))
    body.write_bytes(body.read_bytes()[:20])
    with pytest.raises(ValueError, match="damaged"):
        Popular.load(tmp_path)
    body.unlink()
    with pytest.raises(FileNotFoundError, match=r"arrays\.safetensors"):
        Popular.load(tmp_path)
    head.write_text('{"kind": "magic"}')
    with pytest.raises(ValueError, match=r"damaged.*'magic' is unknown; expected one of popular"):
        open_retriever(tmp_path)
    for text in ("{", "[]", "{}"):
        head.write_text(text)
        with pytest.raises(ValueError, match="damaged"):
            open_retriever(tmp_path)
