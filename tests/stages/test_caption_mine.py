"""caption and mine as stages: recipes without them, what is asked when, counts, and real models."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from genrec import Pipeline
from genrec.cli import cli
from genrec.engines import HFEngine, Reply, Request, protocol as stage_engine
from genrec.engines.settings import HFSettings, NoEngine, OpenAISettings, VLLMSettings
from genrec.enrich.settings import Annotate
from genrec.recipe import RecipeError
from genrec.store import RowCache


class Shop:
    """A little catalogue on disk that can grow, and its recipe."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.recipe = folder, folder / "shop.yaml"
        (folder / "images").mkdir()
        self.recipe.write_text(
            f"prepare:\n  core: 0\n  source:\n    kind: interchange\n"
            f"    interactions: {folder / 'i.json'}\n    items: {folder / 't.json'}\n"
            f"    images: {folder / 'images'}\n"
            "caption:\n  engine: {kind: openai, base_url: 'http://x', model: eye, key: null}\n"
            "mine:\n  engine: {kind: openai, base_url: 'http://x', model: mind, key: null}\n"
            f"runtime: {{store: {folder / 'store'}}}\n"
        )
        self.stock(12)

    def stock(self, count: int) -> None:
        items = {f"i{n}": {"title": f"bag {n}", "description": "red"} for n in range(count)}
        (self.folder / "t.json").write_text(json.dumps(items))
        users = {f"u{n}": [f"i{(n + k) % count}" for k in range(4)] for n in range(count)}
        (self.folder / "i.json").write_text(json.dumps(users))
        for n in range(1, count):  # i0 has no image
            Image.new("RGB", (8, 8), (n, 0, 0)).save(self.folder / "images" / f"i{n}.png")

    def load(self, *overrides: str) -> Pipeline:
        return Pipeline.load(self.recipe, *overrides)


class Fake:
    """Stands in for every engine; remembers what it was asked."""

    identity = "fake"

    def __init__(self) -> None:
        self.asked: list[Request] = []
        self.broken = ""

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply]]:
        self.asked.extend(requests)
        for row, request in enumerate(requests):
            if request.schema is None:
                yield row, Reply(f"A bag like {request.images[0].stem}.", "stop")
            elif self.broken and self.broken in request.messages[1].text:
                yield row, Reply("{", "stop")
            else:
                entries = [
                    {"interest": name, "evidence": "red", "confidence": 0.5}
                    for name in ("Travel", "travel", "picnics")
                ]
                yield row, Reply(json.dumps({"reasoning": "so", "interests": entries}), "stop")

    def close(self) -> None:
        pass


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    found = Fake()
    monkeypatch.setattr(stage_engine, "_build", lambda section, device, store: found)
    return found


def test_a_recipe_without_engines_has_no_such_stages(shop: Shop) -> None:
    nodes = shop.load("caption.engine={kind: none}", "mine.engine={kind: none}").nodes
    assert "caption" not in nodes
    assert "mine" not in nodes
    assert nodes["embed"].reads == ("prepare",)
    assert "caption" not in Pipeline.load("demo", "caption.engine={kind: none}").nodes
    both = shop.load().nodes
    assert both["mine"].reads == ("prepare", "caption")
    only = shop.load("caption.engine={kind: none}").nodes
    assert only["mine"].reads == ("prepare",)


def test_tables_and_counts(shop: Shop, fake: Fake) -> None:
    fake.broken = '"bag 5"'
    pipeline = shop.load()
    pipeline.run(to="mine")
    captions, interests = pipeline["caption"].load(), pipeline["mine"].load()
    assert captions["caption"].to_list() == [None, *(f"A bag like i{n}." for n in range(1, 12))]
    assert pipeline["caption"].load("summary.json") == {
        "items": 12,
        "without_image": 1,
        "asked": 11,
        "answered": 11,
        "failed": 0,
        "asked_again": 0,
        "failures": {},
    }
    assert interests["interests"].to_list()[4:6] == [["Travel", "picnics"], []]
    assert "not JSON" in interests["error"][5]
    assert pipeline["mine"].load("summary.json") == {
        "asked": 12,
        "answered": 11,
        "failed": 1,
        "asked_again": 1,
        "failures": {"not JSON": 1},
        "interests": 22,
        "distinct_interests": 2,
        "dropped_interests": 11,
    }
    mined = [r.messages[1].text for r in fake.asked if r.schema is not None]
    assert len(mined) == 12 + 2
    assert '{"title": "bag 3", "description": "red", "caption": "A bag like i3."}' in mined[3]
    assert '{"title": "bag 0", "description": "red", "caption": null}' in mined[0]


def test_new_items_alone_are_asked_for(shop: Shop, fake: Fake) -> None:
    shop.load().run(to="mine")
    shop.stock(20)
    fake.asked.clear()
    pipeline = shop.load()
    pipeline.run(to="mine")
    assert len([r for r in fake.asked if r.images]) == 8
    assert len([r for r in fake.asked if r.schema is not None]) == 8
    assert pipeline["caption"].load().height == 20


def test_building_anew_asks_for_nothing(shop: Shop, fake: Fake) -> None:
    pipeline = shop.load()
    pipeline.run(to="mine")
    before = (pipeline["mine"] / "interests.parquet").read_bytes()
    fake.asked.clear()
    pipeline.run(to="mine", force="caption")
    assert not fake.asked
    assert (pipeline["mine"] / "interests.parquet").read_bytes() == before


def test_what_a_fingerprint_covers(shop: Shop, tmp_path: Path) -> None:
    def marks(*overrides: str) -> tuple[str, str]:
        graph = shop.load(*overrides).graph
        return graph.fingerprint("caption"), graph.fingerprint("mine")

    base = marks()
    for same in (
        "seed=5",
        "mine.engine.concurrency=99",
        "caption.engine.base_url=http://elsewhere",
        "caption.engine.timeout=1",
        "caption.engine.per_minute=5",
        "mine.engine.key=OTHER",
    ):
        assert marks(same) == base, same
    for changed in (
        "mine.engine.model=other",
        "mine.engine.revision=v2",
        "mine.retries=5",
        "mine.seed=1",
        "mine.max_interests=3",
        "mine.engine={kind: hf, model: a/b}",
    ):
        assert marks(changed)[0] == base[0], changed
        assert marks(changed)[1] != base[1], changed
    assert marks("caption.longest_side=99")[1] != base[1], "mine reads caption"
    own = tmp_path / "own.yaml"
    own.write_text("description: d\nsystem: s\nuser: u\n")
    first = marks(f"caption.prompt={own}")
    assert first[0] != base[0]
    own.write_text("description: d\nsystem: s\nuser: other\n")
    assert marks(f"caption.prompt={own}")[0] != first[0]


def test_a_template_with_wrong_placeholders_is_refused(
    shop: Shop, fake: Fake, tmp_path: Path
) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("description: d\nsystem: s\nuser: 'look at {title}'\n")
    pipeline = shop.load(f"caption.prompt={own}")
    pipeline.run(to="prepare")
    with pytest.raises(ValueError, match=r"own\.yaml: user: placeholders {title}.*expected none"):
        pipeline.run(only="caption")


def test_show_tells_counts_rows_and_reasons(shop: Shop, fake: Fake) -> None:
    fake.broken = '"bag 5"'
    shop.load().run(to="mine")
    shown = CliRunner().invoke(cli, ["show", str(shop.recipe), "mine", "-n", "2"]).output
    assert "failed: 1" in shown
    assert "5  bag 5" in shown
    assert "not JSON" in shown
    assert "0.50  Travel  (red)" in shown
    shown = CliRunner().invoke(cli, ["show", str(shop.recipe), "caption"]).output
    assert "without_image: 1" in shown
    assert "(no image)" in shown
    assert "A bag like i1." in shown


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("caption.engine={kind: hff}", "unknown kind 'hff'; did you mean 'hf'"),
        ("caption.engine={kind: hf}", r"caption\.engine\.hf\.model: missing"),
        ("mine.engine={kind: openai, model: m}", r"base_url: missing"),
        ("mine.engine.key=sk-abc123", r"key: .*pattern"),
        ("mine.engine.concurency=3", "did you mean 'concurrency'"),
    ],
)
def test_mistakes_in_a_recipe(shop: Shop, override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        shop.load(override)


def test_both_stages_have_the_common_fields() -> None:
    assert set(Annotate.model_fields) == {"engine", "seed", "temperature", "retries"}


def test_every_section_builds_its_engine(tiny_lm: Path) -> None:
    sections = [
        HFSettings(model=str(tiny_lm), chat_options={"a": 1}),
        VLLMSettings(model="x/y", placement={"tensor_parallel_size": 2}),
        OpenAISettings(base_url="http://x", model="m", key=None, per_minute=3),
    ]
    for section in sections:
        with stage_engine.opened(section, lambda: "cpu") as engine:
            assert engine.identity.startswith(f"{section.kind}\n")
    with (
        pytest.raises(ValueError, match="expected hf, vllm or openai"),
        stage_engine.opened(NoEngine(), lambda: "cpu"),
    ):
        pass


def test_with_real_models(shop: Shop, tiny_vlm: Path, tiny_lm: Path) -> None:
    pipeline = shop.load(
        f"caption.engine={{kind: hf, model: {tiny_vlm}, batch_size: 4}}",
        f"mine.engine={{kind: hf, model: {tiny_lm}, batch_size: 4}}",
        "caption.max_tokens=8",
        "mine.max_tokens=150",
        "mine.max_interests=1",
        "caption.retries=0",
        "mine.retries=0",
        "runtime.device=cpu",
    )
    pipeline.run(to="mine")
    counts = pipeline["caption"].load("summary.json")
    assert counts["answered"] + counts["failed"] == 11
    mined = pipeline["mine"].load()
    assert len(mined) == 12
    assert all(mined["error"].is_null() == (mined["interests"].list.len() > 0))


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["caption", "mine"])
def test_a_killed_process_loses_what_was_in_flight_alone(
    shop: Shop, stage: str, tiny_vlm: Path, tiny_lm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_vlm if stage == "caption" else tiny_lm
    overrides = [
        "caption.engine={kind: none}",
        f"{stage}.engine={{kind: hf, model: {model}, batch_size: 1}}",
        f"{stage}.max_tokens=30",
        f"{stage}.retries=0",
        "runtime.device=cpu",
    ]
    overrides = overrides[stage == "caption" :]
    pipeline = shop.load(*overrides)
    pipeline.run(to="prepare")
    cache = RowCache(shop.folder / "store" / "rows.sqlite")
    command = [sys.executable, "-m", "genrec", stage, str(shop.recipe), *overrides]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while len(cache) < 3:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    process.kill()
    process.communicate()
    left, asked = len(cache), []
    assert left < 11

    def counted(engine: HFEngine, requests: Sequence[Request]) -> Iterator[tuple[int, Reply]]:
        asked.extend(requests)
        return generate(engine, requests)

    generate = HFEngine.generate
    monkeypatch.setattr(HFEngine, "generate", counted)
    pipeline.run(to=stage)
    assert len(asked) == (11 if stage == "caption" else 12) - left
    whole = shop.load(*overrides, f"runtime.store={shop.folder / 'whole'}")
    whole.run(to=stage)
    assert whole[stage].load().equals(pipeline[stage].load())
    cache.close()
