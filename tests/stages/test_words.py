"""embed and compose over captions and interests: what enters, what is read, what is refused."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from genrec import Pipeline, enrich, schema
from genrec.engines import Reply, Request, protocol as stage_engine
from genrec.enrich.joint import encode_joint
from genrec.enrich.text import encode_texts
from genrec.recipe import RecipeError

ITEMS = 12
NO_WORDS = ("caption.engine={kind: none}", "mine.engine={kind: none}")


class Fake:
    """Captions every image but that of item 3; finds one interest in all but item 4."""

    identity = "fake"

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply]]:
        for row, request in enumerate(requests):
            if request.schema is None:
                stem = request.images[0].stem
                failed = stem == "i3"
                yield row, Reply("" if failed else f"A red {stem}.", "error" if failed else "stop")
            else:
                one = {"interest": "picnics", "evidence": "red", "confidence": 0.5}
                found = [] if '"bag 4"' in request.messages[1].text else [one]
                yield row, Reply(json.dumps({"reasoning": "so", "interests": found}), "stop")

    def close(self) -> None:
        pass


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A catalogue of twelve bags with images (but the first), captioned and mined by a fake."""
    monkeypatch.setattr(stage_engine, "_build", lambda section, device, store: Fake())
    items = {f"i{n}": {"title": f"bag {n}", "description": "soft"} for n in range(ITEMS)}
    (tmp_path / "t.json").write_text(json.dumps(items))
    users = {f"u{n}": [f"i{(n + k) % ITEMS}" for k in range(6)] for n in range(ITEMS)}
    (tmp_path / "i.json").write_text(json.dumps(users))
    (tmp_path / "images").mkdir()
    for n in range(1, ITEMS):
        Image.new("RGB", (8, 8), (n, 0, 0)).save(tmp_path / "images" / f"i{n}.png")
    path = tmp_path / "shop.yaml"
    path.write_text(
        f"prepare:\n  core: 0\n  source:\n    kind: interchange\n"
        f"    interactions: {tmp_path / 'i.json'}\n    items: {tmp_path / 't.json'}\n"
        f"    images: {tmp_path / 'images'}\n"
        "caption:\n  engine: {kind: openai, base_url: 'http://x', model: eye, key: null}\n"
        "mine:\n  engine: {kind: openai, base_url: 'http://x', model: mind, key: null}\n"
        "quantize: {kind: rkmeans, levels: 2, codes: 4, code_dim: null}\n"
        f"runtime: {{store: {tmp_path / 'store'}, device: cpu}}\n"
    )
    return path


def stub(monkeypatch: pytest.MonkeyPatch, encoder: Any) -> mock.Mock:
    """Replaces an encoder by one of the same signature that returns noise."""
    fake = mock.create_autospec(encoder)
    fake.side_effect = lambda texts, *_, **__: (
        np.random.default_rng(0).standard_normal((len(texts), 8)).astype(np.float32)
    )
    monkeypatch.setattr(enrich, encoder.__name__, fake, raising=False)
    return fake


def test_all_words_enter_the_text_where_no_fields_are_named(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = stub(monkeypatch, encode_texts)
    Pipeline.load(recipe).run(to="embed")
    texts = encoder.call_args.args[0]
    assert texts[5] == "bag 5\nsoft\nA red i5.\npicnics"
    assert texts[0] == "bag 0\nsoft\npicnics", "it has no image"
    assert texts[4] == "bag 4\nsoft\nA red i4."
    Pipeline.load(recipe, "embed.text.fields=[caption,title]").run(to="embed")
    assert encoder.call_args.args[0][5] == "A red i5.\nbag 5"
    Pipeline.load(recipe, *NO_WORDS).run(to="embed")
    assert encoder.call_args.args[0][5] == "bag 5\nsoft"


def test_the_joint_model_gets_words_and_images(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = stub(monkeypatch, encode_joint)
    joint = ["embed={kind: joint, model: some/model, image_size: 64, text: {max_tokens: 40}}"]
    pipeline = Pipeline.load(recipe, *joint)
    pipeline.run(to="embed")
    texts, paths = encoder.call_args_list[0].args
    assert texts[5] == "bag 5\nsoft\nA red i5.\npicnics"
    assert paths[0] is None
    assert all(path.is_file() for path in paths[1:])
    options = encoder.call_args.kwargs
    assert (options["model"], options["image_size"]) == ("some/model", 64)
    assert options["max_tokens"] == 40
    alone = {"text": {"dim": 8, "weight": None}, "image": {"dim": 8, "weight": None}}
    assert pipeline["embed"].load() == {"joint": {"dim": 8, "weight": 1.0}, **alone}
    fused, widths = enrich.load_fused(pipeline["embed"].path)
    assert widths == {"joint": 8}
    np.testing.assert_allclose(np.linalg.norm(fused, axis=1), 1, rtol=1e-5)

    Pipeline.load(recipe, *joint, "embed.image=false").run(to="embed")
    assert encoder.call_args.args[1] == [None] * ITEMS
    Pipeline.load(recipe, *joint, "embed.text=null").run(to="embed")
    assert encoder.call_args.args[0] == [""] * ITEMS
    both = Pipeline.load(recipe, *joint, "embed.behaviour={dim: 2, weight: 2.0}")
    both.run(to="embed")
    assert both["embed"].load() == {
        "joint": {"dim": 8, "weight": 1.0},
        **alone,
        "behaviour": {"dim": 2, "weight": 2.0},
    }


def test_the_eight_tasks_are_composed(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(monkeypatch, encode_texts)
    pipeline = Pipeline.load(recipe, "compose.tasks.interest_to_sid.rate=1")
    pipeline.run(to="compose")
    examples = schema.read_examples(pipeline["compose"] / "train.parquet")
    per_user = ("history_to_sid", "history_to_title", "titles_to_title", "titles_to_sid")
    assert Counter(example.task for example in examples) == {
        **dict.fromkeys((*per_user, "title_to_sid", "sid_to_title"), ITEMS),
        **dict.fromkeys(("caption_to_sid", "caption_to_title"), ITEMS - 2),  # i0, i3
        "interest_to_sid": ITEMS - 1,
    }
    captions = [e.prompt[0].text for e in examples if e.task == "caption_to_title"]
    assert captions[0] == "seen: A red i1.\ntitle\n"
    six = Pipeline.load(recipe, *NO_WORDS)
    six.run(to="compose")
    found = {e.task for e in schema.read_examples(six["compose"] / "train.parquet")}
    assert found == {*per_user, "title_to_sid", "sid_to_title"}


def test_a_stage_is_read_only_by_what_needs_it(recipe: Path) -> None:
    def reads(*overrides: str) -> dict[str, set[str]]:
        nodes = Pipeline.load(recipe, *overrides).nodes
        return {
            key: {read for read in nodes[key].reads if read in ("caption", "mine")}
            for key in ("embed", "compose")
        }

    plain = "embed.text.fields=[title,description]"
    assert reads() == {"embed": {"caption", "mine"}, "compose": {"caption"}}
    assert reads(plain) == {"embed": set(), "compose": {"caption"}}
    assert reads("compose.tasks.query_to_sid.rate=0.5")["compose"] == {"caption", "mine"}
    off = [f"compose.tasks.{name}.rate=0" for name in ("caption_to_sid", "caption_to_title")]
    assert reads(plain, *off) == {"embed": set(), "compose": set()}
    assert reads(*NO_WORDS) == {"embed": set(), "compose": set()}


def test_variants_of_an_ablation_share_what_is_the_same(recipe: Path) -> None:
    """Text SIDs are built once, whether or not the images were captioned beside them."""
    plain = "embed.text.fields=[title,description]"
    with_words, without = Pipeline.load(recipe, plain), Pipeline.load(recipe, plain, *NO_WORDS)
    for key in ("embed", "quantize"):
        assert with_words.graph.fingerprint(key) == without.graph.fingerprint(key)
    assert with_words.graph.fingerprint("compose") != without.graph.fingerprint("compose")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["embed.text.fields=[title,caption]"], r"embed\.text\.fields .*caption\.engine"),
        (["embed.text.fields=[interests]"], r"embed\.text\.fields .*mine\.engine"),
        (
            ["embed={kind: joint, model: m, text: {fields: [caption]}}"],
            r"embed\.text\.fields .*caption\.engine",
        ),
        (["compose.tasks.caption_to_sid.rate=1"], r"caption_to_sid\.rate .*caption\.engine"),
        (["compose.tasks.query_to_sid.rate=0.1"], r"query_to_sid\.rate .*mine\.engine"),
        (["embed={kind: joint, model: m, text: null, image: false}"], "nothing is left to embed"),
        (["compose.tasks.titles_to_sid.expand=stream"], "last"),
    ],
)
def test_what_asks_for_words_that_no_stage_makes(
    recipe: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        Pipeline.load(recipe, *NO_WORDS, *overrides)
