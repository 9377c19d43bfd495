"""Statistics by hand; a collapsed codebook is found, with what to change; ordinary SIDs are not."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from genrec import Pipeline
from genrec.sid import RQVAE, RKMeans, resolve_collisions, sid_stats
from genrec.sid.quantizer import Quantizer
from genrec.sid.residual import Floats
from genrec.sid.stats import prefix_recall, published_stats, quantizer_findings


def points(count: int = 400, dim: int = 8, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


def findings(quantizer: Quantizer[Any], embeddings: Floats) -> list[str]:
    before = quantizer.fit(embeddings).encode(embeddings)
    distances = quantizer.last_level_distances(embeddings, before)
    after = resolve_collisions(before, distances, codes=quantizer.codes).sids
    stats = sid_stats(embeddings, before, after, quantizer)
    return quantizer_findings(stats, embeddings, quantizer)


@pytest.mark.parametrize(
    "quantizer",
    [
        RKMeans(levels=3, codes=16),
        RQVAE(levels=3, codes=16, code_dim=4, hidden=(16,), epochs=30, batch_size=64),
    ],
)
def test_ordinary_sids_have_none(quantizer: Quantizer[Any]) -> None:
    assert findings(quantizer, points()) == []


def test_items_of_one_vector() -> None:
    (sentence,) = findings(RKMeans(levels=2, codes=4), np.ones((12, 8), dtype=np.float32))
    assert sentence.startswith("12 of 12 items share their SID with another before resolution")
    assert "up to 12 on one SID" in sentence
    assert "takes 2 further level(s)" in sentence
    assert "level a uses 1 of 4 codes, with a perplexity of 1.0" in sentence
    assert "(1 different among 12)" in sentence
    assert "embed.text.fields" in sentence


def test_too_few_codes_for_the_items() -> None:
    (sentence,) = findings(RKMeans(levels=1, codes=8), points())
    assert sentence.startswith("400 of 400 items share their SID")
    assert "raise quantize.levels or quantize.codes" in sentence
    assert "same vector" not in sentence


@pytest.mark.parametrize(("code_dim", "fix"), [(None, "set quantize.code_dim to 32"), (8, "lower")])
def test_a_level_whose_codes_are_used_unevenly(code_dim: int | None, fix: str) -> None:
    quantizer = RKMeans(levels=2, codes=64, code_dim=code_dim).fit(points())
    sids = quantizer.encode(points())
    sids[:, 0] = np.maximum(np.arange(400) - 360, 0)  # 40 codes in use, 361 items on the first
    stats = sid_stats(points(), sids, sids, quantizer)
    sentences = [f for f in quantizer_findings(stats, points(), quantizer) if "level a" in f]
    assert len(sentences) == 1
    assert "level a uses 40 of 64 codes, with a perplexity of 2.0" in sentences[0]
    assert fix in sentences[0]


def test_levels_with_nothing_left_to_tell() -> None:
    (sentence,) = findings(RKMeans(levels=3, codes=40), points(40))
    assert "level b uses" in sentence
    assert "level c uses" in sentence
    assert "lower quantize.levels to 1" in sentence


def test_a_collapsed_rqvae_is_sent_to_its_learning_rate() -> None:
    tight = RQVAE(levels=2, codes=16, code_dim=4, hidden=(16,), epochs=1, batch_size=400)
    tight.fit(points())
    sids = np.zeros((400, 2), dtype=np.int32)
    stats = sid_stats(points(), sids, sids, tight)
    assert any("try another quantize.lr" in f for f in quantizer_findings(stats, points(), tight))


class TwoLevels:
    """A quantizer by hand: level 1 is the sign of x, level 2 the sign of y."""

    kind, levels, codes = "by hand", 2, 2
    books = np.array([[[-4, 0], [4, 0]], [[0, -3], [0, 3]]], dtype=np.float32)

    def decode(self, sids: Any) -> Any:
        return self.books[0][sids[:, 0]] + self.books[1][sids[:, 1]]

    def residual_norms(self, embeddings: Any, sids: Any) -> Any:
        return np.array([0.6, 0.0])


def test_statistics_by_hand() -> None:
    embeddings = np.array([[4, 3], [4, 3], [-4, 3], [4, -3]], dtype=np.float32)
    before = np.array([[1, 1], [1, 1], [0, 1], [1, 1]], dtype=np.int32)
    after = np.array([[1, 1, 0], [1, 1, 1], [0, 1, 0], [1, 0, 0]], dtype=np.int32)
    stats = sid_stats(embeddings, before, after, cast(Any, TwoLevels()))
    assert stats["items"] == 4
    assert stats["levels"] == 3
    assert stats["collision_rate"] == {"before": 0.75, "after": 0.0}
    assert stats["duplicate_rate"] == {"before": 0.5, "after": 0.0}
    assert stats["moved"] == 1  # item 3; the further level moves nobody
    assert stats["largest_group"] == 3
    assert stats["utilisation"] == [1.0, 0.5]
    # Level 1 is used 3:1, so exp(entropy) = 4 / 3^(3/4); level 2 uses one code only.
    assert stats["perplexity"] == pytest.approx([4 / 3**0.75, 1.0])
    # Before, item 3 decodes to (4, 3): cosine (16 - 9) / 25 = 0.28; the others are exact.
    assert stats["reconstruction_cosine"] == pytest.approx({"before": 3.28 / 4, "after": 1.0})
    assert stats["relative_residual_norm"] == [0.6, 0.0]


def test_published_sids_are_described_without_a_quantizer() -> None:
    stats = published_stats(np.array([[0, 3], [0, 3], [1, 2]], dtype=np.int32))
    assert stats["codes"] == 4
    assert stats["collision_rate"] == pytest.approx(2 / 3)
    assert stats["largest_group"] == 2
    assert stats["utilisation"] == [0.5, 0.5]


@pytest.fixture
def one_title(tmp_path: Path) -> Path:
    """Twelve items of one title. Path of the recipe."""
    items = [f"i{n}" for n in range(12)]
    (tmp_path / "t.json").write_text(json.dumps({i: {"title": "mug"} for i in items}))
    (tmp_path / "i.json").write_text(
        json.dumps({f"u{n}": [items[(n + k) % 12] for k in range(5)] for n in range(12)})
    )
    recipe = tmp_path / "mugs.yaml"
    recipe.write_text(
        f"prepare:\n  core: 0\n  source: {{kind: interchange, interactions: {tmp_path}/i.json, "
        f"items: {tmp_path}/t.json}}\n"
        "quantize: {kind: rkmeans, levels: 4, codes: 8}\n"
        f"runtime: {{store: {tmp_path}/store}}\n"
    )
    return recipe


def test_quantize_warns_and_shows(
    one_title: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    same = np.ones((12, 8), dtype=np.float32)
    monkeypatch.setattr("genrec.enrich.encode_texts", lambda texts, **_: same)
    pipeline = Pipeline.load(one_title)
    with caplog.at_level(logging.WARNING):
        pipeline.run(to="quantize")
    assert "quantize: 12 of 12 items share their SID" in caplog.text
    assert pipeline["quantize"].load().shape == (12, 6)
    (finding,) = pipeline["quantize"].load("stats.json")["findings"]
    assert finding in caplog.text


def test_an_embedding_of_nan_names_the_item(
    one_title: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = np.ones((12, 8), dtype=np.float32)
    bad[3, 2] = np.nan
    monkeypatch.setattr("genrec.enrich.encode_texts", lambda texts, **_: bad)
    pipeline = Pipeline.load(one_title)
    pipeline.run(to="prepare")
    item_id = pipeline["prepare"].load()["item_id"][3]
    with pytest.raises(ValueError, match=rf"view 'text': NaN .* item 3 \(item_id '{item_id}'\)"):
        pipeline.run(to="quantize")


def test_prefix_recall_says_at_which_code_lists_go_wrong() -> None:
    sids = np.array([[0, 0], [0, 1], [1, 0], [2, 0]])
    items = np.array([[1, 3], [0, -1], [3, 2], [-1, -1]])
    targets = np.array([0, 0, 2, 3])  # right first code; right; right on place 2; no list
    assert prefix_recall(sids, items, targets) == [0.75, 0.5]
    assert prefix_recall(sids, items, targets, k=1) == [0.5, 0.25]
