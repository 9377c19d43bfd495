"""Recipes: every shipped one loads; overrides; errors that name the key and the nearest right one."""

import json
from pathlib import Path

import pytest

from genrec import recipe, resources
from genrec.enrich.settings import Late
from genrec.lm.settings import Tasks
from genrec.recipe import Prepare, Recipe, RecipeError, load

SHIPPED = sorted(
    p for p in resources.folder("recipes").glob("*.yaml") if not p.name.startswith("_")
)


def write(folder: Path, text: str) -> Path:
    path = folder / "r.yaml"
    path.write_text(text, encoding="utf-8")
    return path


DEMO = "prepare:\n  source: {kind: demo}\n"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_every_shipped_recipe_loads(path: Path) -> None:
    assert load(path).name == path.stem


@pytest.mark.parametrize("name", ["demo", "demo.yaml", "recipes/demo.yaml"])
def test_shipped_recipe_by_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(name).name == "demo"


def test_unknown_recipe_names_what_ships(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nope\.yaml.*demo\.yaml"):
        load(tmp_path / "nope.yaml")


def test_overrides_are_typed_and_nested(tmp_path: Path) -> None:
    loaded = load(
        write(tmp_path, DEMO),
        ["quantize.levels=3", "quantize.kind=rkmeans", "prepare.source.items=50", "seed=4"],
    )
    assert (loaded.quantize.kind, loaded.quantize.levels) == ("rkmeans", 3)
    assert loaded.prepare.source.items == 50
    assert loaded.seed == 4


def test_override_into_a_list(tmp_path: Path) -> None:
    text = DEMO + "retrieve: [{kind: popular}, {kind: cooccurrence}]\n"
    assert load(write(tmp_path, text), ["retrieve.1.window=3"]).retrieve[1].window == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("quantize.levles=3", r"quantize\.rqvae\.levles: unknown key; did you mean 'levels'"),
        ("embde.text=null", r"embde: unknown key; did you mean 'embed'"),
        ("train.model.hiden=3", r"did you mean 'hidden'"),
        ("compose.tasks.title_to_sdi.rate=1", r"did you mean 'title_to_sid'"),
        ("embed.image.kind=descriptor", r"unknown kind 'descriptor'; did you mean 'descriptors'"),
        ("quantize.levels=0", r"quantize\.rqvae\.levels: .*greater than or equal to 1, found 0"),
        ("quantize.levels=many", r"valid integer.*found 'many'"),
        ("quantize", r"expected key=value"),
        ("seed.x.y=3", r"cannot be set there"),
    ],
)
def test_mistakes_name_the_key_and_the_mend(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load(write(tmp_path, DEMO + "seed: 1\n"), [override])


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("retrieve: [{kind: popular}, {kind: popular}]\n", "give one of them a `name`"),
        ("retrieve: [{kind: popular, name: fused}]\n", "'fused' is taken"),
        ("retrieve: [{kind: popular}, {kind: cooccurrence, k: 9}]\n", r"retrieve\.cooccurrence=9"),
        ("fuse: {k: 5}\n", r"beyond fuse\.k=5"),
        ("fuse: {sources: [sasrec]}\n", r"fuse\.sources: \['sasrec'\] not among .*'generative'"),
        ("fuse: {method: gate, weights: {popular: 1}}\n", "gate learns its own"),
        ("fuse: {sources: [popular], weights: {generative: 1}}\n", "one weight for each"),
        (
            "fuse: {weights: {popular: 1}}\n",
            r"what is fused is .*'generative'.*one weight for each",
        ),
        ("fuse: {sources: [popular], weights: {popular: 0}}\n", "one above 0"),
        ("fuse: {sources: [popular], weights: {popular: -1}}\n", "greater than or equal to 0"),
        ("recommend: {candidates: {mode: restrict}}\n", "needs `from`"),
        (
            "recommend: {candidates: {mode: restrict, from: [popular], size: 101}}\n",
            r"size=101: \['popular'\] list 100 items at most",
        ),
        ("recommend: {enabled: false}\n", r"set probe\.enabled=false"),
        (
            "evaluate: {alignment: {of: sasrec}}\n",
            r"evaluate\.alignment\.of: \['sasrec'\] not among",
        ),
        (
            "retrieve: [{kind: popular}, {kind: cooccurrence}, {kind: magnitude, queries: [caption]}]\n",
            r"retrieve\.magnitude\.queries asks for what the stage caption makes",
        ),
        ("retrieve: [{kind: popular}]\n", r"baselines: \['cooccurrence'\] not among"),
        ("evaluate: {ks: [100]}\n", r"100 is beyond recommend\.k=20"),
        ("quantize: {kind: published}\n", r"needs prepare\.source\.index"),
        ("embed: {text: null}\n", "no view is left"),
        ("[1, 2]", "not readable as YAML"),
    ],
)
def test_contradictions(tmp_path: Path, extra: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load(write(tmp_path, DEMO + extra))


NO_TASK = {name: {"rate": 0} for name in Tasks.model_fields}


def test_a_recipe_without_a_task_is_refused_before_anything_runs(tmp_path: Path) -> None:
    """By name: what is 0, what is null for want of words, and what to set."""
    none = [f"compose.tasks={json.dumps(NO_TASK)}"]
    path = write(tmp_path, DEMO)
    with pytest.raises(RecipeError, match=r"compose\.tasks: no task takes part.*rate is 0; set a"):
        load(path, none)
    wordless = [*none, "compose.tasks.caption_to_sid.rate=null"]
    with pytest.raises(RecipeError, match=r"tasks\.caption_to_sid needs caption\.engine\); set a"):
        load(path, wordless)
    load(path, [*wordless, "caption.engine={kind: hf, model: 'asset:tiny-vlm'}"])
    load(path, [*none, "compose.tasks.title_to_sid.rate=0.1"])
    retrievers = ["recommend.enabled=false", "probe.enabled=false"]
    load(path, [*none, *retrievers])  # trains no LLM


def test_missing_section_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="prepare: missing"):
        load(write(tmp_path, "seed: 1\n"))


def test_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "prepare:\n  source: {kind: interchange, interactions: '${HERE}/a', items: '${T:-x}/b'}\n"
    )
    monkeypatch.delenv("T", raising=False)
    monkeypatch.setenv("HERE", "data")
    source = load(write(tmp_path, text)).prepare.source
    assert (source.interactions, source.items) == ("data/a", "x/b")
    monkeypatch.delenv("HERE")
    with pytest.raises(RecipeError, match="environment variable HERE"):
        load(tmp_path / "r.yaml")


def test_sections_are_frozen(tmp_path: Path) -> None:
    loaded = load(write(tmp_path, DEMO))
    with pytest.raises(ValueError, match="frozen"):
        loaded.seed = 3  # type: ignore[misc]


def test_content_paths_finds_optional_and_plain_ones(tmp_path: Path) -> None:
    text = "prepare:\n  source: {kind: interchange, interactions: a, items: b, index: c}\n"
    loaded = load(write(tmp_path, text))
    assert dict(recipe.content_paths(loaded.prepare)) == {
        "source.interactions": "a",
        "source.items": "b",
        "source.index": "c",
    }
    assert dict(recipe.content_paths(Late())) == {"text.model": Late().text.model}  # type: ignore[union-attr]


def test_an_optional_task_is_left_out_where_its_stage_is(tmp_path: Path) -> None:
    """A rate insists on captions, unless it says that it does not."""
    path, rare = write(tmp_path, DEMO), "compose.tasks.caption_to_sid={rate: 0.3, optional: %s}"
    with pytest.raises(RecipeError, match=r"caption_to_sid\.rate asks for what the stage caption"):
        load(path, [rare % "false"])
    assert "caption_to_sid" not in load(path, [rare % "true"]).compose.active(["prepare"])
    captions = "caption.engine={kind: hf, model: 'asset:tiny-vlm'}"
    there = load(path, [rare % "true", captions]).compose.active(["caption"])
    assert there["caption_to_sid"] == {"rate": 0.3}


def test_kinds_is_the_registry() -> None:
    assert set(recipe.kinds(Recipe.model_fields["quantize"].annotation)) == {
        "rqvae",
        "rkmeans",
        "published",
    }
    assert "movielens" in recipe.kinds(Prepare.model_fields["source"].annotation)


def test_texts_are_those_that_the_recipe_has(tmp_path: Path) -> None:
    null = "retrieve: [{kind: popular}, {kind: cooccurrence}, {kind: magnitude, queries: null}]\n"
    found = load(write(tmp_path, DEMO + null)).retrieve[2]
    assert found.texts(["prepare", "embed"]) == ("title",)
    assert found.texts(["prepare", "caption", "embed"]) == ("title", "caption")
    assert set(found.optional_reads().values()) == {None}


def test_what_counts_is_compared_with_by_default(tmp_path: Path) -> None:
    kinds = ["popular", "cooccurrence", "sasrec", "ease", "graph"]
    text = f"retrieve: [{', '.join(f'{{kind: {kind}}}' for kind in kinds)}]\n"
    file = write(tmp_path, DEMO + text)
    assert load(file).baselines == ("popular", "cooccurrence", "ease", "graph")
    assert load(file, ["evaluate.baselines=[ease]"]).baselines == ("ease",)
    with pytest.raises(RecipeError, match=r"baselines: \['popular'\] not among"):
        load(file, ["retrieve=[{kind: cooccurrence}]"])


SETS = "quantize.sets=[{views: {text: 1}}, {}]"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            [SETS, "recommend.set_weights=[1, 2, 3]"],
            r"set_weights: \[1.0, 2.0, 3.0\]; expected 2 number",
        ),
        ([SETS, "recommend.set_weights=[0, 0]"], "expected 2 number.*one of them above 0"),
        ([SETS, "recommend.set_weights=[-1, 2]"], "of 0 or more"),
        (["quantize.sets=1", "recommend.set_weights=[1, 2]"], "expected 1 number"),
        (["quantize.sets=1", "compose.sets=random"], "there is one set of SIDs"),
        (["train.softmax=codes", "recommend.engine.head=full"], "leave head=auto"),
        (["quantize.sets=[]"], "quantize.rkmeans.sets: .*at least 1"),
        (["quantize.sets=99"], "quantize.rkmeans.sets: .*less than or equal to 8"),
        (
            ["quantize.sets=[{}, {view: {text: 1}}]"],
            r"sets.1.view: unknown key; did you mean 'views'\?",
        ),
        (["quantize.sets=[{}, {x: 3}]"], "expected one of views, levels, codes, seed"),
        (
            ["quantize.sets=[{}, {views: {txt: 1}}]"],
            r"quantize\.sets\.1\.views: the recipe embeds no view \['txt'\]; .*'text', 'image'",
        ),
        ([SETS, "embed.text=null"], r"sets\.0\.views: .*no view \['text'\].*set embed\.text"),
        (
            ["quantize={kind: published, sets: 2}"],
            "a set for each file of prepare.source.index",
        ),
        (["recommend.set_weights=best"], "set_weights: Input should be 'fit' or 'equal'"),
    ],
)
def test_sets_that_cannot_be_decoded_are_refused_at_once(overrides: list[str], said: str) -> None:
    with pytest.raises(RecipeError, match=said) as caught:
        load("demo", overrides)
    assert "constrained" not in str(caught.value)
    assert "tuple[SetSettings" not in str(caught.value)
