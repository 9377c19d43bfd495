"""probe as a stage: what is measured by which recipe, what is absent and why, and where it ends up."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image

from genrec import Pipeline, enrich, schema
from genrec.cli import cli
from genrec.engines import Reply, Request, Score, protocol as stage_engine
from genrec.evaluate.probes import METRIC
from genrec.recipe import RecipeError

ITEMS = 12
OFF = ("history_to_title", "titles_to_title", "titles_to_sid", "caption_to_title")
ALIKE = "compose.tasks={" + ", ".join(f"{task}: {{rate: 0}}" for task in OFF) + "}"
NO_WORDS = "caption.engine={kind: none}"


class Fake:
    """Captions every image but that of item 3; says yes where number and image agree."""

    identity = "fake"

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply]]:
        for row, request in enumerate(requests):
            stem = request.images[0].stem
            failed = stem == "i3"
            yield row, Reply("" if failed else f"A red {stem}.", "error" if failed else "stop")

    def log_odds(
        self, requests: Sequence[Request], *, yes: str = "yes", no: str = "no"
    ) -> Iterator[tuple[int, Score]]:
        for row, request in enumerate(requests):
            number = request.images[0].stem[1:]
            said = request.messages[1].text.split('"')[1].rstrip(".")
            yield row, Score(4.0 if said.endswith((f" {number}", f" i{number}")) else -3.0)

    def close(self) -> None:
        pass


def letters(texts: Sequence[str], **_: Any) -> np.ndarray:
    """Stands in for the text encoder: how often each character occurs, equal for equal texts."""
    found = np.zeros((len(texts), 128), dtype=np.float32)
    for row, text in enumerate(texts):
        for character in text:
            found[row, ord(character) % 128] += 1
    return found


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve bags with images (but the first), captioned by a fake, and a model of seconds."""
    monkeypatch.setattr(stage_engine, "_build", lambda section, device, store: Fake())
    monkeypatch.setattr(enrich, "encode_texts", letters, raising=False)
    items = {f"i{n}": {"title": f"bag {n}", "description": "soft"} for n in range(ITEMS)}
    (tmp_path / "t.json").write_text(json.dumps(items))
    users = {f"u{n}": [f"i{(n + k) % ITEMS}" for k in range(6)] for n in range(ITEMS)}
    (tmp_path / "i.json").write_text(json.dumps(users))
    sids = {f"i{n}": [f"<a_{n // 4}>", f"<b_{n % 4}>"] for n in range(ITEMS)}
    (tmp_path / "s.json").write_text(json.dumps(sids))
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for n in range(1, ITEMS):
        pixels = rng.integers(256, size=(32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"i{n}.png")
    path = tmp_path / "shop.yaml"
    path.write_text(
        f"prepare:\n  core: 0\n  source:\n    kind: interchange\n"
        f"    interactions: {tmp_path / 'i.json'}\n    items: {tmp_path / 't.json'}\n"
        f"    index: {tmp_path / 's.json'}\n    images: {tmp_path / 'images'}\n"
        "caption:\n  engine: {kind: openai, base_url: 'http://x', model: eye, key: null}\n"
        "embed: {image: {kind: descriptors, components: 4}}\n"
        "quantize: {kind: rkmeans, levels: 2, codes: 4, code_dim: null}\n"
        "train: {model: {hidden: 32, layers: 1, heads: 2, vocab: 300}, epochs: 2}\n"
        "evaluate: {ks: [1, 5], samples: 100}\nrecommend: {num_beams: 5, k: 5}\n"
        "probe: {num_beams: 3}\n"
        f"runtime: {{store: {tmp_path / 'store'}, device: cpu, threads: 1}}\n"
    )
    return path


def probed(recipe: Path, *overrides: str) -> tuple[Pipeline, dict[str, Any]]:
    pipeline = Pipeline.load(recipe, ALIKE, *overrides)
    pipeline.run()
    return pipeline, pipeline["probe"].load()


def test_all_of_it(recipe: Path) -> None:
    judge = "{engine: {kind: openai, base_url: 'http://x', model: eye, key: null}}"
    tuned = ["train.epochs=80", "train.lr=0.01", "train.model.dropout=0", "train.warmup=0.05"]
    tuned += ["train.tokens_per_batch=128", "train.model.hidden=64", f"probe.judge={judge}"]
    pipeline, found = probed(recipe, "compose.tasks.sid_to_caption.rate=1", *tuned)
    assert list(found["content"]) == ["image", "text", "whole"]  # sorted, as all our JSON
    for view in found["content"].values():
        assert -1 <= view["cosine"] <= 1
        assert (view["k"], view["chance"]) == (10, pytest.approx(10 / (view["items"] - 1)))
    assert found["content"]["image"]["items"] == ITEMS - 1, "the first has no image"

    # Twelve items, so many passes: it knows them by heart, and a SID from noise.
    title, caption = found["sid_to_title"], found["sid_to_caption"]
    assert (title["items"], caption["items"]) == (12, 10)  # no image; a caption that failed
    for task in (title, caption):
        assert task["right"]["exact"] == task["right"]["recall@1"] == task["right"]["mrr"] == 1
        assert task["shuffled"]["exact"] == task["shuffled"]["recall@1"] == 0
        assert task["right"]["cosine"] > task["shuffled"]["cosine"]
    for task in ("title_to_sid", "caption_to_sid"):
        assert found[task]["right"] == {"recall@1": 1, "recall@10": 1}
        assert found[task]["shuffled"] == {"recall@1": 1 / 12, "recall@10": 10 / 12}

    written = schema.read(pipeline["probe"] / "written.parquet", schema.WRITTEN)
    assert written["task"].value_counts(sort=True).rows() == [
        ("sid_to_title", 12),
        ("sid_to_caption", 10),
    ]
    assert (written["truth"] == written["written"]).all()
    assert (written["rank"] == 1).all()

    texts = found["judge"]["texts"]
    assert sorted(texts) == ["true captions", "true titles", "written captions", "written titles"]
    for kind in texts.values():
        assert (kind["right"], kind["shuffled"], kind["auc"]) == (4.0, -3.0, 1.0)
        assert (kind["failed"], kind["bounds"]) == (0, 0)
    assert texts["true titles"]["pairs"] == 11
    assert texts["true captions"]["pairs"] == 10

    metrics = pipeline["evaluate"].load()
    rows = [row for row in metrics["rows"] if row["metric"] == METRIC]
    assert [(row["k"], row["users"], row["split"]) for row in rows] == [
        (1, 12, "test"),
        (3, 12, "test"),
    ]
    assert all(0 <= row["low"] <= row["value"] <= row["high"] <= 1 for row in rows)
    assert metrics["probes"] == found
    report = (pipeline["evaluate"] / "report.html").read_text("utf-8")
    assert "What the SIDs keep" in report
    overrides = [ALIKE, "compose.tasks.sid_to_caption.rate=1", *tuned]
    shown = CliRunner().invoke(cli, ["show", str(recipe), "probe", *overrides, "-n", "1"]).output
    assert "judge: true titles" in shown
    assert "written: bag 0" in shown
    shown = CliRunner().invoke(cli, ["show", str(recipe), "evaluate", *overrides]).output
    assert "SIDs without the trie" in shown


def test_a_text_recipe_says_what_is_absent(recipe: Path) -> None:
    pipeline, found = probed(
        recipe, NO_WORDS, "prepare.source.images=null", "embed.image={kind: none}"
    )
    assert list(found["content"]) == ["whole"]
    assert found["sid_to_caption"] == {"absent": "the recipe makes no captions"}
    assert found["caption_to_sid"] == {"absent": "the recipe makes no captions"}
    assert "probe.judge.engine" in found["judge"]["absent"]
    assert set(found["sid_to_title"]) == {"items", "right", "shuffled"}
    assert "not measured; the recipe makes no captions" in (
        pipeline["evaluate"] / "report.html"
    ).read_text("utf-8")


def test_published_sids_and_a_model_of_histories_alone(recipe: Path) -> None:
    only = [f"compose.tasks.{name}.rate=0" for name in ("sid_to_title", "title_to_sid")]
    only += [f"compose.tasks.{name}.rate=0" for name in ("caption_to_sid",)]
    pipeline, found = probed(recipe, "quantize={kind: published}", *only)
    assert "embed" not in pipeline.nodes
    assert pipeline.nodes["probe"].reads == ("prepare", "caption", "quantize", "compose", "train")
    assert "published" in found["content"]["absent"]
    for task in ("sid_to_title", "title_to_sid", "caption_to_sid", "sid_to_caption"):
        assert f"compose.tasks.{task}.rate" in found[task]["absent"]
    assert len(found["rows"]) == 2
    assert pipeline["probe"].load("written.parquet").height == 0


@pytest.mark.slow
def test_the_sample_and_the_seed(recipe: Path) -> None:
    small = ["probe.items=5", "probe.users=4", NO_WORDS]
    first, found = probed(recipe, *small)
    assert found["sid_to_title"]["items"] == 5
    assert found["rows"][0]["users"] == 4
    again = Pipeline.load(recipe, ALIKE, *small)
    before = (first["probe"] / "probes.json").read_bytes()
    again.run(force="probe")
    assert (again["probe"] / "probes.json").read_bytes() == before
    other, _ = probed(recipe, *small, "probe.items=4")
    assert other["train"].path == first["train"].path


def test_it_can_be_left_out(recipe: Path) -> None:
    pipeline = Pipeline.load(recipe, "probe.enabled=false")
    assert "probe" not in pipeline.nodes
    assert "probe" not in pipeline.nodes["evaluate"].reads
    base = Pipeline.load(recipe)
    assert "probe" in base.nodes["evaluate"].reads
    assert base.graph.fingerprint("recommend") == pipeline.graph.fingerprint("recommend")


def test_what_a_fingerprint_covers(recipe: Path, tmp_path: Path) -> None:
    def mark(*overrides: str) -> str:
        return Pipeline.load(recipe, *overrides).graph.fingerprint("probe")

    engine = "probe.judge.engine={kind: openai, base_url: 'http://x', model: eye, key: null}"
    own = tmp_path / "own.yaml"
    own.write_text("description: d\nsystem: s\nuser: '{text}'\n")
    base, judged = mark(), mark(engine)
    assert base != judged
    assert base == mark(f"probe.judge.prompt={own}"), "nobody is asked"
    mine = mark(engine, f"probe.judge.prompt={own}")
    assert mine != judged
    own.write_text("description: d\nsystem: s\nuser: 'is it {text}'\n")
    assert mark(engine, f"probe.judge.prompt={own}") != mine
    assert judged == mark(engine, "probe.judge.engine.concurrency=99")
    assert judged != mark(engine, "seed=3")


def test_mistakes_in_a_recipe(recipe: Path) -> None:
    endpoint = "{kind: openai, base_url: 'http://x', model: eye, key: null}"
    with pytest.raises(RecipeError, match=r"method=likelihood needs engine\.kind=hf, found openai"):
        Pipeline.load(recipe, f"probe.judge={{method: likelihood, engine: {endpoint}}}")
    with pytest.raises(RecipeError, match="did you mean 'judge'"):
        Pipeline.load(recipe, "probe.juge=1")


@pytest.mark.slow
def test_real_models_judge(recipe: Path, tiny_vlm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    judge = (
        f"probe.judge={{method: likelihood, others: 2, engine: {{kind: hf, model: {tiny_vlm}}}}}"
    )
    store = f"runtime.store={recipe.parent / 'own'}"
    _, found = probed(recipe, judge, NO_WORDS, store)
    texts = found["judge"]["texts"]
    assert texts["true titles"]["pairs"] == 11
    assert texts["true titles"]["failed"] == 0
    assert 0 <= texts["true titles"]["auc"] <= 1
    assert np.isfinite(texts["true titles"]["right"])


def test_what_the_model_could_do_before(recipe: Path, tmp_path: Path) -> None:
    asked = [{"ask": "What is this?", "accepts": "."}, {"ask": "And that?", "accepts": "xyzzy"}]
    texts = {"description": "mine", "texts": ["A lamp of brass."], "instructions": asked}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(texts))
    language = f"probe.language={tmp_path / 'mine.yaml'}"
    pretrained = "train.model={kind: pretrained, name: 'asset:tiny-lm', rank: 4}"
    pipeline, found = probed(recipe, NO_WORDS, pretrained, language, "train.epochs=1")
    language_found = found["language"]
    assert (language_found["texts"], language_found["instructions"]) == (1, 2)
    ppl, said = language_found["perplexity"], language_found["followed"]
    assert ppl["before"] != ppl["after"]
    assert min(ppl.values()) > 1
    assert list(said.values()) == [0.5, 0.5]
    rows = json.loads((pipeline["probe"] / "language.json").read_text())
    assert [row["asked"] for row in rows] == ["What is this?", "And that?"]
    assert all(row[when]["reply"] for row in rows for when in ("before", "after"))
    report = (pipeline["evaluate"] / "report.html").read_text("utf-8")
    assert "share of 2 instructions followed, before training" in report

    key = pipeline.graph.fingerprint("probe")
    texts["texts"] = ["Another text."]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(texts))
    other = Pipeline.load(recipe, ALIKE, NO_WORDS, pretrained, language, "train.epochs=1")
    assert other.graph.fingerprint("probe") != key, "its content is what counts"


def test_a_model_from_scratch_had_no_language(recipe: Path) -> None:
    _, found = probed(recipe, NO_WORDS, "probe.language=language/general")
    assert "from scratch" in found["language"]["absent"]
