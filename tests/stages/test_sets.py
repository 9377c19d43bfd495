"""Several sets of SIDs through a recipe: one model, one score, the same lists as brute force."""

import importlib
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from genrec import Dataset, Pipeline, schema
from genrec.ablate.table import long_table
from genrec.decode import BeamEngine, VLLMBeamEngine
from genrec.enrich import components, load_fused
from genrec.evaluate.probes import invalid_rates
from genrec.lm.batch import code_token_ids, encode_prompts
from genrec.lm.corpus import encode_file, lengths_of, sets_of
from genrec.lm.sampler import TokenBudgetSampler
from genrec.lm.settings import PretrainedSettings
from genrec.publish import open_published, publish
from genrec.recipe import RecipeError
from genrec.recommendations import SEARCH, ListRequest, influence, recommend
from genrec.runs import Run
from genrec.show import show
from genrec.sid import SIDSets, format_sid
from genrec.sid.quantizer import load_codebooks
from genrec.sid.sets import file_of
from genrec.sid.settings import PublishedSettings
from genrec.stages import read_prompts

SECTIONS: dict[str, Any] = {
    "embed": {"behaviour": {"dim": 8}},
    "quantize": {
        "kind": "rkmeans",
        "levels": 2,
        "codes": 8,
        "code_dim": None,
        "sets": [{"views": {"text": 1}}, {"views": {"behaviour": 1}, "levels": 3, "codes": 4}],
    },
    "compose": {"tasks": {"history_to_title": {"rate": 0}, "titles_to_sid": {"rate": 0}}},
    "train": {
        "model": {"kind": "scratch", "hidden": 16, "layers": 1, "heads": 2, "sid_init": "items"},
        "epochs": 2,
        "softmax": "codes",
    },
    "recommend": {"num_beams": 40, "k": 40},
}


@pytest.fixture(scope="session")
def pipeline(shared_folder: Callable[[str], AbstractContextManager[Path]]) -> Pipeline:
    with shared_folder("sets") as folder:
        data = Dataset.demo(items=40, users=150)
        made = Pipeline.from_settings(data, store=folder / "store", quick=True, **SECTIONS)
        made.fit()
    return made


def recipe_of(pipeline: Pipeline) -> str:
    return str(next((pipeline.store.root / "recipes").glob("*.yaml")))


def test_every_task_with_sids_is_composed_in_every_set(pipeline: Pipeline) -> None:
    examples = schema.read_examples(pipeline["compose"] / "train.parquet")
    count = {task: sum(e.task == task for e in examples) for task in {e.task for e in examples}}
    for task in ("history_to_sid", "title_to_sid", "sid_to_title"):
        assert count[f"{task}@2"] == count[task] > 0
    assert "titles_to_title@2" not in count  # has no SID
    sets = SIDSets.load(pipeline["quantize"].path)
    known = [{tuple(sid) for sid in own.tolist()} for own in sets]
    for example in examples:
        number = example.task.endswith("@2")
        for part in (*example.prompt, *example.completion):
            assert part.sid is None or part.sid in known[number]


def test_each_example_may_be_in_one_set_at_random(pipeline: Pipeline) -> None:
    other = Pipeline.load(recipe_of(pipeline), "compose.sets=random")
    other.run("compose")
    every = schema.read_examples(pipeline["compose"] / "train.parquet")
    drawn = schema.read_examples(other["compose"] / "train.parquet")
    once = [e for e in every if not e.task.endswith("@2")]
    assert [e.task.removesuffix("@2") for e in drawn] == [e.task for e in once]
    assert {(e.task, e.prompt, e.completion) for e in drawn} < {
        (e.task, e.prompt, e.completion) for e in every
    }
    share = np.mean([e.task.endswith("@2") for e in drawn if e.task.startswith("history_to_sid")])
    assert 0.3 < share < 0.7


def test_no_batch_mixes_sets(pipeline: Pipeline, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(pipeline["train"] / "merged")
    sets = SIDSets.load(pipeline["quantize"].path)
    tokens = code_token_ids(tokenizer, sets.codes_per_level)
    file = pipeline["compose"] / "train.parquet"
    data = encode_file(file, tokenizer, tokens, max_length=128, folder=tmp_path).data
    groups = sets_of(data)
    assert set(groups.tolist()) == {0, 1}
    batches = list(TokenBudgetSampler(lengths_of(data), 256, groups=groups))
    assert sorted(row for batch in batches for row in batch) == list(range(len(data)))
    assert all(len(set(groups[batch].tolist())) == 1 for batch in batches)


def test_lists_are_those_of_brute_force(pipeline: Pipeline) -> None:
    """The model's log-probability of every item's SID in each set, and their weighted mean.

    A code's probability is among those of its level and set, as it was trained.
    """
    folder = pipeline["train"] / "merged"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    sets = SIDSets.load(pipeline["quantize"].path)
    tokens = code_token_ids(tokenizer, sets.codes_per_level)
    weights = pipeline["recommend"].load("set_weights.json")
    assert sum(weights) == pytest.approx(1)
    assert pipeline["recommend"].load("stats.json")["sets"]["weights"] == weights
    users = pipeline["prepare"].load("test.parquet").head(3)
    prompts = read_prompts(pipeline["compose"].path, "test", 2, rows=[0, 1, 2])
    lists = pipeline["recommend"].load()
    for prompt, (user, history) in zip(
        prompts, users.select("user", "history").iter_rows(), strict=True
    ):
        mean = np.zeros(sets.num_items)
        for number, (own, part, weight) in enumerate(zip(sets, prompt, weights, strict=True)):
            ids, _ = encode_prompts(tokenizer, tokens, [part], max_length=512)
            codes = sets.tokens(tokens)[number]
            for item, sid in enumerate(own):
                names = [int(tokens[level][code]) for level, code in enumerate(sid)]
                whole = ids.new_tensor([*ids[0].tolist(), *names])[None]
                logits = model(whole).logits[0, ids.shape[1] - 1 : -1]
                logs = sum(
                    (row[name] - row[codes[level]].logsumexp(-1)).item()
                    for level, (row, name) in enumerate(zip(logits, names, strict=True))
                )
                mean[item] += weight * logs
        mean[history] = -np.inf
        own_list = lists.filter(pl.col("user") == user)
        np.testing.assert_allclose(
            own_list["score"][:10], np.sort(mean)[::-1][:10], rtol=1e-4, atol=1e-4
        )
        np.testing.assert_allclose(mean[own_list["item"][:10]], own_list["score"][:10], atol=1e-4)


def test_a_bundle_recommends_explains_and_searches(pipeline: Pipeline) -> None:
    bundle = pipeline.bundle()
    history = (3, 5, 8)
    (listed,) = recommend(bundle, [ListRequest(history, 5, system="generative")])
    assert len(listed) == 5
    assert not {entry.item for entry in listed} & set(history)
    allowed = np.arange(len(bundle)) < 10
    (few,) = recommend(bundle, [ListRequest(history, 20, allowed=allowed)])
    assert {entry.item for entry in few} <= set(range(10))
    ratios = influence(bundle, history, [entry.item for entry in listed])
    assert ratios is not None
    assert all(set(each) == set(history) for each in ratios)
    assert bundle.text_prompt is not None
    (found,) = recommend(
        bundle, [ListRequest((), 5, text="a warm jacket", system="generative-search")]
    )
    assert len(found) == 5
    assert SEARCH


def test_vllm_is_one_engine_for_each_set(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Engines of the other kind stand in for vLLM's, made of what those are given."""

    def load_sets(folder: Path, sets: Any, **options: Any) -> list[BeamEngine]:
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
        return [BeamEngine(model, *own) for own in sets]

    monkeypatch.setattr(VLLMBeamEngine, "load_sets", load_sets)
    llm = pipeline.bundle(engine="vllm").llm
    assert llm is not None
    assert llm.engine.weights.tolist() == pipeline["recommend"].load("set_weights.json")
    prompts = read_prompts(pipeline["compose"].path, "test", 2)
    histories = pipeline["prepare"].load("test.parquet")["history"].to_list()
    found = llm.recommend(prompts, k=40, num_beams=40, exclude=histories)
    expected = pipeline["recommend"].load()
    assert found.items[found.valid].tolist() == expected["item"].to_list()


def test_weights_may_be_given_or_equal(pipeline: Pipeline) -> None:
    words = recipe_of(pipeline)
    for wanted, expected in (("equal", [0.5, 0.5]), ("[3, 1]", [0.75, 0.25])):
        other = Pipeline.load(words, f"recommend.set_weights={wanted}")
        other.run("recommend")
        assert other["recommend"].load("set_weights.json") == expected
        assert other.graph.fingerprint("train") == pipeline.graph.fingerprint("train")


def test_sets_that_are_the_same_are_told(
    pipeline: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    other = Pipeline.load(recipe_of(pipeline), "quantize.sets=[{seed: 3}, {}, {seed: 3}]")
    other.run("quantize")
    assert "sets 1 and 3 are the same" in caplog.text
    assert "sets 1 and 2" not in caplog.text


def test_an_unknown_view_is_named(pipeline: Pipeline) -> None:
    with pytest.raises(RecipeError, match=r"no view \['sound'\]; expected some of"):
        Pipeline.load(recipe_of(pipeline), "quantize.sets=[{views: {sound: 1}}]")
    with pytest.raises(
        ValueError, match=r"no view \['sound'\]; expected some of \['behaviour', 'text'\]"
    ):
        load_fused(pipeline["embed"].path, {"sound": 1})


def test_what_is_shown(pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    show(pipeline, "quantize", rows=1)
    printed = capsys.readouterr().out
    assert "set 1" in printed
    assert "set 2" in printed
    sets = SIDSets.load(pipeline["quantize"].path)
    assert f"{format_sid(sets[0][0])} {format_sid(sets[1][0])}" in printed
    show(pipeline, "recommend", rows=1)
    printed = capsys.readouterr().out
    stats = pipeline["recommend"].load("stats.json")
    assert stats["proven_top_10"]["test"] >= stats["proven_exact"]["test"]
    shares = stats["prefix_recall@10"]
    assert [len(share) for share in shares.values()] == [own.shape[1] for own in sets]
    for own in shares.values():
        assert own == sorted(own, reverse=True)
        assert str([round(share, 4) for share in own]) in printed
    targets = pipeline["prepare"].load("valid.parquet").select("user", "target")
    lists = pipeline["recommend"].load("recommendations.valid.parquet").filter(pl.col("rank") <= 10)
    hits = lists.join(targets, left_on=["user", "item"], right_on=["user", "target"])
    assert shares["set 1"][-1] == pytest.approx(hits["user"].n_unique() / len(targets))


def first_rows(pipeline: Pipeline, sid_init: str) -> tuple[np.ndarray, list[list[np.ndarray]]]:
    """Returns the rows that a model starts with, and the tokens of each set's codes by level."""
    stage = importlib.import_module("genrec.stages.train")
    sets = SIDSets.load(pipeline["quantize"].path)
    settings = pipeline.recipe.train.model.model_copy(update={"sid_init": sid_init, "hidden": 256})
    context: Any = SimpleNamespace(
        recipe=pipeline.recipe,
        section=pipeline.recipe.train.model_copy(update={"model": settings}),
        inputs={name: pipeline[name] for name in ("embed", "quantize")},
        device="cpu",
    )
    model, tokenizer = stage._model(context, pipeline["compose"] / "train.parquet", sets)
    tokens = sets.tokens(code_token_ids(tokenizer, sets.codes_per_level))
    return model.get_input_embeddings().weight.detach().numpy(), tokens


def test_sid_rows_start_like_the_items_that_have_the_code(pipeline: Pipeline) -> None:
    """In every set: the mean of their vectors, on each level in directions of its own."""
    weight, tokens = first_rows(pipeline, "items")
    items = components(load_fused(pipeline["embed"].path)[0], 128)
    for own, by_level in zip(SIDSets.load(pipeline["quantize"].path), tokens, strict=True):
        own = own - own.min(axis=0)
        for level, names in enumerate(by_level):
            has = [items[own[:, level] == code] for code in range(len(names))]
            used = [code for code, rows in enumerate(has) if len(rows)]
            means = np.stack([has[code].mean(axis=0) for code in used])
            rows = weight[np.asarray(names)[used]]
            near, expected = ((v - v.mean(0)) @ (v - v.mean(0)).T for v in (rows, means))
            assert np.corrcoef(near.ravel(), expected.ravel())[0, 1] > 0.9
    first, second = (weight[names] for names in tokens[0][:2])
    across = (first - first.mean(0)) @ (second - second.mean(0)).T
    assert (
        np.abs(across).mean() < np.abs((first - first.mean(0)) @ (first - first.mean(0)).T).mean()
    )


def test_sid_rows_start_like_the_codebooks_of_each_set(pipeline: Pipeline) -> None:
    """Within a set near codes have near rows; the further level of the second set is its own."""
    weight, by_set = first_rows(pipeline, "codebook")
    for number, by_level in enumerate(by_set):
        file = pipeline["quantize"] / file_of(number, "quantizer", "safetensors")
        for tokens, book in zip(by_level, load_codebooks(file), strict=False):
            own, wanted = (v - v.mean(0) for v in (weight[tokens], book[: len(tokens)]))
            near, expected = own @ own.T, wanted @ wanted.T
            assert np.corrcoef(near.ravel(), expected.ravel())[0, 1] > 0.9


def test_a_model_of_two_sets_goes_on_as_it_was(
    pipeline: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    """The train stage's own folder says what the tokens of both sets mean."""
    stage = importlib.import_module("genrec.stages.train")
    folder = pipeline["train"] / "merged"
    settings = PretrainedSettings(name=str(folder), tune="full")
    context: Any = SimpleNamespace(
        recipe=pipeline.recipe,
        section=pipeline.recipe.train.model_copy(update={"model": settings}),
        inputs={key: pipeline[key] for key in ("prepare", "quantize")},
        device="cpu",
        store=pipeline.store.root,
    )
    sets = SIDSets.load(pipeline["quantize"].path)
    model, _ = stage._model(context, pipeline["compose"] / "train.parquet", sets)
    before = AutoModelForCausalLM.from_pretrained(folder)
    for own, expected in zip(model.parameters(), before.parameters(), strict=True):
        assert torch.equal(own, expected)
    assert not caplog.records
    swapped = SIDSets([sets.own(1), sets.own(0)])
    with pytest.raises(ValueError, match=r"mean other items: by .*sids\.json.* in set 1 of SIDs"):
        stage._model(context, pipeline["compose"] / "train.parquet", swapped)


def test_what_is_published_recommends_the_same(pipeline: Pipeline, tmp_path: Path) -> None:
    """Read back from the published files: all sets, with the weights that were fitted."""
    given = Pipeline.load(recipe_of(pipeline), "recommend.set_weights=[3, 1]")
    given.run("recommend")
    publish(given, tmp_path / "hub")
    model = open_published(tmp_path / "hub")
    sets = SIDSets.load(pipeline["quantize"].path)
    for read, own in zip(model.recommender.sets, sets, strict=True):
        np.testing.assert_array_equal(read, own)
    assert model.recommender.engine.weights.tolist() == [0.75, 0.25]
    bundle = given.bundle()
    history = [3, 5, 8]
    assert bundle.llm is not None
    options: dict[str, Any] = {"k": 5, "num_beams": 50, "exclude": [history]}
    expected = bundle.llm.recommend([bundle.prompt(history)], **options).items[0]
    ids = bundle.items["item_id"].to_list()
    (found,) = model.recommend([[ids[item] for item in history]], k=5)
    assert found == [ids[item] for item in expected]

    index = json.loads((tmp_path / "hub" / "sids-1.json").read_text())
    index.pop(ids[4])
    (tmp_path / "hub" / "sids-1.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"sids-1\.json: 1 items of sids\.json have no SID"):
        open_published(tmp_path / "hub")


@pytest.mark.parametrize(
    ("wanted", "expected"), [("[1, 9]", [0.1, 0.9]), ("equal", [0.5, 0.5]), ("fit", [0.5, 0.5])]
)
def test_before_recommend_a_published_model_has_the_weights_of_the_recipe(
    pipeline: Pipeline,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    wanted: str,
    expected: list[float],
) -> None:
    other = Pipeline.load(
        recipe_of(pipeline), f"recommend.set_weights={wanted}", "recommend.num_beams=41"
    )
    publish(other, tmp_path / "hub")
    assert open_published(tmp_path / "hub").recommender.engine.weights.tolist() == expected
    assert ("published with equal weights" in caplog.text) == (wanted == "fit")


def test_probes_are_of_each_set(pipeline: Pipeline) -> None:
    """The lists of `find` are those of a search in the set alone; the first set keeps its names."""
    probed = Pipeline.load(recipe_of(pipeline), "probe={enabled: true, num_beams: 3}")
    probed.run("probe")
    assert probed.graph.fingerprint("train") == pipeline.graph.fingerprint("train")
    found = probed["probe"].load()
    assert {"title_to_sid", "title_to_sid@2", "sid_to_title", "sid_to_title@2"} <= found.keys()
    assert {"content@2", "unconstrained@2"} <= found.keys()
    assert "caption_to_sid" in found
    assert "caption_to_sid@2" not in found  # no captions, whatever the set
    assert found["content@2"]["whole"] != found["content"]["whole"]
    assert [row["metric"] for row in found["rows"]] == [
        *["unconstrained_invalid_rate"] * 2,
        *["unconstrained_invalid_rate@2"] * 2,
    ]
    written = probed["probe"].load("written.parquet")
    assert set(written["task"]) == {"sid_to_title", "sid_to_title@2"}

    sets = SIDSets.load(pipeline["quantize"].path)
    model = pipeline.bundle().load_llm(device="cpu")
    prompts = read_prompts(pipeline["compose"].path, "test", 2, rows=[0, 1, 2])
    for number, own in enumerate(sets):
        one = model.of_set(number)
        lists = one.recommend([prompt[number] for prompt in prompts], k=5, num_beams=40)
        engine = model.engine.all_engines[number]
        ids = encode_prompts(
            model.tokenizer,
            model.code_tokens,
            [prompt[number] for prompt in prompts],
            max_length=model.max_length,
        )
        expected = engine.search(*ids, num_beams=40, k=5)
        np.testing.assert_array_equal(lists.items, expected.items.numpy())
        assert one.sets.own(0).shape == own.shape


def test_a_model_that_writes_the_second_set_is_not_invalid_there(pipeline: Pipeline) -> None:
    """What stands where a SID should is read in the model's codes, as many as the set has levels."""
    stage = importlib.import_module("genrec.stages.probe")
    context: Any = SimpleNamespace(
        recipe=pipeline.recipe,
        section=pipeline.recipe.probe,
        inputs={key: pipeline[key] for key in ("prepare", "quantize", "compose", "train")},
        device="cpu",
    )
    probe = stage._Probe(context)
    writer = probe.writer(1)
    tokens = probe.recommender.code_tokens
    sid = probe.sets[1][7]
    row = np.array([[[tokens[level][code] for level, code in enumerate(sid)]]])
    writer._generate = lambda *args, **options: iter([row])
    codes = writer.sids([()], num_beams=1)
    assert codes.tolist() == [[sid.tolist()]]
    rows, broken = invalid_rates({1: codes}, probe.sets[1], number=1)
    assert (rows[0]["value"], broken) == (0, {"1": 0})


def test_an_ablation_has_the_collisions_of_each_set(pipeline: Pipeline) -> None:
    stats = pipeline["quantize"].load("stats.json")
    table = long_table([Run("all", 0, (), pipeline, "quantize")])
    rates = table.filter(system="sids").select("metric", "value").rows()
    assert rates == [
        ("collision_rate", stats["sets"][0]["collision_rate"]["before"]),
        ("collision_rate@2", stats["sets"][1]["collision_rate"]["before"]),
    ]
    assert rates[0][1] != rates[1][1]


def test_published_sets_have_no_quantizer_whatever_else_reads_the_embeddings(
    pipeline: Pipeline,
) -> None:
    stage = importlib.import_module("genrec.stages.probe")
    published = pipeline.recipe.model_copy(update={"quantize": PublishedSettings()})
    inputs = {key: pipeline[key] for key in ("prepare", "embed", "quantize", "compose", "train")}
    section = pipeline.recipe.probe
    context: Any = SimpleNamespace(recipe=published, section=section, inputs=inputs, device="cpu")
    probe = stage._Probe(context)
    for number in range(2):
        assert "published" in probe.content(number)["absent"]
