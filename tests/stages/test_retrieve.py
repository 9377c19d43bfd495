"""Retrievers, fusion, candidates and diagnostics as a recipe runs them, on a tiny shop."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from genrec import Pipeline, registry, schema
from genrec.evaluate import per_user
from genrec.recommendations import ListRequest, recommend
from genrec.retrieve import histories_of, open_retriever
from genrec.retrieve.fusion import Fusion, kept, weighted
from genrec.retrieve.sequences import training_popularity

RECIPE = """
prepare: {source: {kind: demo, items: 60, users: 120, image_size: 32}, core: 2}
embed: {image: {kind: descriptors, components: 8}}
retrieve:
- {kind: popular, k: 30}
- {kind: cooccurrence}
- {kind: itemknn}
- {kind: ease}
- {kind: sasrec, epochs: 2, dim: 8}
- {kind: anchorrec, epochs: 2, dim: 8}
- {kind: anchorrec, name: lightgcn, use_features: false, epochs: 2, dim: 8}
- {kind: magnitude, epochs: 8, dim: 32}
- {kind: norm_concat, epochs: 2, dim: 8}
- {kind: graph}
recommend: {enabled: false}
probe: {enabled: false}
evaluate: {alignment: {of: lightgcn, epochs: 3}, samples: 100}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "shop.yaml"
    store = path.parent / "store"
    path.write_text(RECIPE + f"runtime: {{store: {store}, threads: 1}}\n")
    return path


@pytest.fixture(scope="module")
def finished(recipe: Path) -> Pipeline:
    pipeline = Pipeline.load(recipe)
    pipeline.run()
    return pipeline


def test_every_kind_is_there_and_its_lists_are_those_of_the_saved_retriever(
    finished: Pipeline,
) -> None:
    users = finished["prepare"].load("test.parquet")
    histories = histories_of(users)
    assert {
        node.section.kind for node in finished.nodes.values() if hasattr(node.section, "label")
    } == set(registry.parts("retrievers"))
    for key in finished.graph.keys("retrieve"):
        section: Any = finished.nodes[key].section
        again: Any = open_retriever(finished[key] / "retriever")
        items = again.recommend(histories, k=section.k).items
        table = finished[key].load()
        schema.check(table, schema.RECOMMENDATIONS, key)
        assert table["item"].to_list() == items[items >= 0].tolist()
        assert table.group_by("user").len()["len"].max() <= section.k


def test_what_is_told_of_the_learned_ones(finished: Pipeline) -> None:
    log = finished["retrieve.sasrec"].load("stats.json")["epochs"]
    assert [set(epoch) for epoch in log] == [{"loss", "valid"}] * 2
    collapse = finished["retrieve.anchorrec"].load("stats.json")["collapse"]
    assert set(collapse["kept"]) == {"multimodal", "text", "image"}
    assert "collapse" not in finished["retrieve.lightgcn"].load("stats.json")
    stats = finished["retrieve.magnitude"].load("stats.json")
    assert 0 < stats["gammas"]["query"] < 1
    assert stats["index_recall@10"] == 1.0
    assert set(stats["norms"]) == {"cohens_d", "cv", "popularity"}
    vectors = pl.read_parquet(finished["retrieve.magnitude"] / "vectors" / "vectors.parquet")
    assert vectors["item_id"].equals(finished["prepare"].load()["item_id"])


def test_a_title_finds_its_item(finished: Pipeline) -> None:
    from genrec.enrich import encode_texts

    retriever: Any = open_retriever(finished["retrieve.magnitude"] / "retriever")
    titles = finished["prepare"].load()["title"].to_list()
    model = finished.recipe.embed.text.model  # type: ignore[union-attr]
    found = retriever.search(encode_texts(titles, model=model, cache={}), k=10).items
    hits = (found == np.arange(len(titles))[:, None]).any(axis=1).mean()
    assert hits > 2 * 10 / len(titles)


def test_fusion_is_that_of_its_weights(finished: Pipeline) -> None:
    stats = finished["fuse"].load("stats.json")
    labels = {key.split(".")[1] for key in finished.graph.keys("retrieve")}
    assert set(stats["weights"]) == set(stats["sources"]) == labels
    tables = {name: finished[f"retrieve.{name}"].load() for name in labels}
    expected = weighted(tables, stats["weights"], k=20, normalise="zscore")
    assert finished["fuse"].load().equals(expected)
    kept = stats["kept"]["test"]
    assert kept["fused"] == pytest.approx(
        kept["gained"] + kept["shared"]["kept"] + sum(s["kept"] for s in kept["sources"].values())
    )


def test_diagnostics(finished: Pipeline) -> None:
    found = finished["evaluate"].load("diagnostics.json")
    systems = list(found["complementarity"]["systems"])
    assert len(systems) == 10
    assert len(found["complementarity"]["pairs"]) == 10 * 9 // 2
    metrics = finished["evaluate"].load()
    value = {
        (r["system"], r["metric"], r["k"]): r["value"]
        for r in metrics["rows"]
        if r["split"] == "test"
    }
    for name in systems:
        recall = found["complementarity"]["systems"][name]["recall"]
        assert recall == pytest.approx(value[name, "recall", 20], abs=1e-6)
    gains = {
        d["baseline"]: d
        for d in found["fusion"]["differences"]
        if (d["metric"], d["k"]) == ("ndcg", 10)
    }
    assert set(gains) == set(systems)
    assert gains["ease"]["value"] == pytest.approx(
        value["fused", "ndcg", 10] - value["ease", "ndcg", 10], abs=2e-6
    )
    assert set(found["alignment"]["probes"]) == {"linear", "mlp-1"}
    assert set(found["retrievers"]) == set(systems)
    folder = finished["evaluate"]
    assert (folder / "overlap.png").stat().st_size > 1000
    assert (folder / "hits.png").stat().st_size > 1000
    report = (folder / "report.html").read_text("utf-8")
    assert "What each system knows" in report
    assert "Fusion: zscore" in report


@pytest.mark.parametrize("method", ["gate", "reciprocal_rank", "minmax"])
def test_other_fusions(finished: Pipeline, recipe: Path, method: str) -> None:
    other = Pipeline.load(
        recipe, f"fuse.method={method}", "fuse.sources=[ease, sasrec]", "fuse.k=30"
    )
    other.run("fuse")
    table, stats = other["fuse"].load(), other["fuse"].load("stats.json")
    assert stats["sources"] == ["ease", "sasrec"]
    assert table.group_by("user").len()["len"].max() == 30
    assert ("weights" in stats) == (method != "gate")
    fusion = Fusion.load(other["fuse"] / "fusion")
    told = {name: stats[name] for name in stats if name not in ("kept", "validation")}
    assert fusion.summary() == told
    users = other["prepare"].load("test.parquet")
    tables = {name: other[f"retrieve.{name}"].load() for name in stats["sources"]}
    assert fusion.fuse(tables, users, k=30).equals(table)
    with pytest.raises(ValueError, match=r"fitted on sources \['ease', 'sasrec'\]"):
        fusion.fuse({"ease": tables["ease"]}, users, k=30)


def test_lambdarank_ranks_a_live_history_as_it_ranked_the_test_users(
    finished: Pipeline, recipe: Path
) -> None:
    pytest.importorskip("lightgbm", reason="in the extra `fuse`")
    other = Pipeline.load(recipe, "fuse.method=lambdarank", "fuse.trees=20")
    other.run("fuse")
    stats, table = other["fuse"].load("stats.json"), other["fuse"].load()
    assert {"first seen", "follows the last item", "text: last item"} < set(stats["importances"])
    assert stats["validation"]["lists"] == "out of fold"
    users = other["prepare"].load("test.parquet").head(40)
    requests = [ListRequest(tuple(history), 20) for history in users["history"]]
    live = recommend(other.bundle(), requests)
    for user, listed in zip(users["user"], live, strict=True):
        expected = table.filter(user=user)
        assert [entry.item for entry in listed] == expected["item"].to_list()
        np.testing.assert_allclose([entry.score for entry in listed], expected["score"], rtol=1e-5)
    assert (
        len(recommend(other.bundle(), [ListRequest((), 5)])[0]) == 5
    )  # nothing is near no history


@pytest.mark.parametrize("method", ["zscore", "gate"])
def test_validation_users_are_fused_by_a_fit_to_others(
    finished: Pipeline, recipe: Path, method: str
) -> None:
    """Their lists and counts; test users get the fit to all, whatever the number of folds."""
    sources = "fuse.sources=[ease, sasrec]"
    held_out, in_sample = (
        Pipeline.load(recipe, f"fuse.method={method}", sources, f"fuse.folds={n}") for n in (3, 1)
    )
    for pipeline in (held_out, in_sample):
        pipeline.run("fuse")
    assert held_out["fuse"].load().equals(in_sample["fuse"].load())
    file = schema.recommendations_file("valid")
    targets = finished["prepare"].load("valid.parquet")
    tables = {name: finished[f"retrieve.{name}"].load(file) for name in ("ease", "sasrec")}
    fusion = Fusion.load(in_sample["fuse"] / "fusion")
    assert in_sample["fuse"].load(file).equals(fusion.fuse(tables, targets, k=20))
    assert in_sample["fuse"].load("stats.json")["validation"]["lists"] == "in sample"
    counts = training_popularity(
        finished["prepare"].load("train.parquet"), num_items=len(finished["prepare"].load())
    )
    dealt = np.random.default_rng(0).permutation(len(targets)) % 3
    lists = held_out["fuse"].load(file)
    for fold in range(3):
        own = targets["user"].sort().filter(dealt == fold).to_list()
        theirs = pl.col("user").is_in(own)
        fit = Fusion(method=method, seed=held_out.recipe.seed).fit(
            {name: table.filter(~theirs) for name, table in tables.items()},
            targets.filter(~theirs),
            popularity=counts,
        )
        fused = fit.fuse(tables, targets, k=20).filter(theirs)
        assert lists.filter(theirs).equals(fused)
    stats = held_out["fuse"].load("stats.json")
    assert stats["validation"]["lists"] == "out of fold"
    gain = per_user(lists, targets, num_items=len(counts), ks=(10,))["ndcg@10"].mean()
    assert stats["validation"]["ndcg@10"] == pytest.approx(gain, abs=1e-6)
    assert stats["kept"]["valid"] == kept(tables, lists, targets, k=10)


def test_given_weights_are_not_fitted(finished: Pipeline, recipe: Path) -> None:
    weights = "fuse.weights={ease: 1, sasrec: 0}"
    other = Pipeline.load(recipe, "fuse.sources=[ease, sasrec]", weights)
    other.run("fuse")
    ease = finished["retrieve.ease"].load().filter(pl.col("rank") <= 20)
    assert other["fuse"].load().select("user", "item").equals(ease.select("user", "item"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("retrieve.7.views=[smell]", r"retrieve\.magnitude: the views \['smell'\] are not among"),
        ("retrieve.8.view=smell", r"retrieve\.norm_concat: the views \['smell'\] are not among"),
        ("evaluate.alignment.of=ease", "ease has no collaborative space"),
        ("evaluate.alignment.view=smell", r"'smell' not among"),
    ],
)
def test_bad_input(finished: Pipeline, recipe: Path, override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Pipeline.load(recipe, override).run()


def test_a_retriever_that_cannot_learn_is_named_by_its_place_in_the_recipe(
    finished: Pipeline, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from genrec.stages import retrieve

    monkeypatch.setattr(retrieve, "training_sequences", lambda _: [np.arange(3)])  # one user
    with pytest.raises(
        ValueError, match=r"^retrieve\.twin: anchorrec: 1 training sequences .*more"
    ):
        Pipeline.load(recipe, "retrieve.5.name=twin").run("retrieve.twin")


@pytest.mark.slow
def test_the_decoder_keeps_to_the_candidates(finished: Pipeline, recipe: Path) -> None:
    llm = ["recommend.enabled=true", "quantize={kind: rkmeans, levels: 2, codes: 8}"]
    llm += ["train.model={kind: scratch, hidden: 16, layers: 1, heads: 2}", "train.epochs=1"]
    llm += ["recommend.num_beams=60", "recommend.k=20"]
    llm += [
        f"compose.tasks.{t}.rate=0" for t in ("sid_to_title", "history_to_title", "titles_to_title")
    ]
    size = 25
    wanted = f"recommend.candidates={{mode: restrict, from: [ease, cooccurrence], size: {size}}}"
    free, restricted = Pipeline.load(recipe, *llm), Pipeline.load(recipe, *llm, wanted)
    free.run("recommend")
    restricted.run()
    for split in ("valid", "test"):
        file = schema.recommendations_file(split)
        pools = [restricted[f"retrieve.{n}"].load(file) for n in ("ease", "cooccurrence")]
        lists = restricted["recommend"].load(file)
        listed = pl.concat(pools).select("user", "item").unique()
        assert len(lists.join(listed, on=["user", "item"], how="anti")) == 0
        # Exact on the subset: among the candidates, the order is that of the free search.
        both = lists.join(free["recommend"].load(file), on=["user", "item"], suffix="_free")
        ranks = both.sort("user", "rank")["rank_free"].to_numpy()
        users = both.sort("user", "rank")["user"].to_numpy()
        assert len(both) > 100
        assert (np.diff(ranks)[np.diff(users) == 0] >= 0).all()
    assert "generative" in restricted["fuse"].load("stats.json")["sources"]
    plan = json.loads((restricted["recommend"] / "stats.json").read_text())
    assert plan["proven_exact"]["test"] == 1.0
