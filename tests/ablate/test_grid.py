"""Grid files: errors, values, precedence; and the grids that ship, planned against their recipes."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml

from genrec import resources
from genrec.ablate import Ablation, GridError, load_grid
from genrec.recipe import RecipeError


def write_grid(path: Path, variants: dict[str, Any], **more: Any) -> Path:
    grid = {"reference": next(iter(variants)), "variants": variants} | more
    path.write_text(yaml.safe_dump(grid, sort_keys=False), "utf-8")
    return path


# --- the grid file -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1, 2]", "expected a mapping with reference and variants, found list"),
        ("reference: [", "not readable as YAML"),
        ("prepare: {}", "this is a recipe"),
        ("reference: a", r"variants: missing"),
        ("reference: a\nvariants: {}", "variants: .*at least 1"),
        (
            "reference: b\nvariants: {a: {}}",
            r"reference 'b' is no variant; expected one of \['a'\]",
        ),
        ("reference: a\nvariant: {a: {}}", "variant: unknown key; did you mean 'variants'"),
        ("reference: a\nvariants: {a: {overides: {}}}", "did you mean 'overrides'"),
        ("reference: a\nvariants: {a: {quux: {}}}", "expected one of overrides, note"),
        ("reference: a/b\nvariants: {a/b: {}}", "variants.a/b: .*pattern"),
        ("reference: a\nvariants: {a: {overrides: {seed: 1}}}", r"variants\.a\.overrides: seed is"),
        ("reference: a\nvariants: {a: {}}\ncommon: {runtime.store: x}", "common: runtime.store"),
        ("reference: a\nvariants: {a: 3}", r"variants\.a: .*found 3"),
    ],
)
def test_errors_in_a_grid_say_what_to_mend(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "g.yaml"
    path.write_text(text)
    with pytest.raises(GridError, match=said) as error:
        load_grid(path)
    assert str(path) in str(error.value)


def test_a_grid_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError, match=r"ablations/trialigngr\.yaml"):
        load_grid("trialingr")


def test_an_override_that_the_recipe_refuses_names_the_variant(tmp_path: Path) -> None:
    grid = write_grid(tmp_path / "g.yaml", {"a": {}, "b": {"overrides": {"quantize.levles": 2}}})
    with pytest.raises(RecipeError, match=r"variant 'b' of g: .*\n.*did you mean 'levels'"):
        Ablation("demo", grid, seeds=1)


@pytest.mark.parametrize(
    "value",
    [
        3,
        1e-05,
        True,
        None,
        "title",
        "yes",
        "3",
        "",
        "a: b",
        "x #y",
        [1, "two"],
        {"kind": "none"},
        [],
    ],
)
def test_values_arrive_as_they_are_written(tmp_path: Path, value: Any) -> None:
    grid = load_grid(write_grid(tmp_path / "g.yaml", {"a": {"overrides": {"some.key": value}}}))
    _, (override,) = grid.overrides("a")
    key, _, text = override.partition("=")
    assert key == "some.key"
    assert "\n" not in text
    assert yaml.safe_load(text) == value


def test_a_variant_beats_the_command_line_which_beats_common(tmp_path: Path) -> None:
    common = {"train.epochs": 3, "quantize.codes": 8, "train.lr": 0.5}
    variants = {"a": {}, "b": {"overrides": {"train.epochs": 9}}}
    grid = write_grid(tmp_path / "g.yaml", variants, common=common)
    overrides = ["train.epochs=5", "train.lr=0.25"]
    ablation = Ablation("demo", grid, seeds=2, overrides=overrides)
    found = {(r.variant, r.seed): r.pipeline.recipe for r in ablation.runs}
    assert list(found) == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert [found["a", 0].train.epochs, found["b", 1].train.epochs] == [5, 9]
    assert {(r.train.lr, r.quantize.codes) for r in found.values()} == {(0.25, 8)}
    assert [found["a", 0].seed, found["b", 1].seed] == [0, 1]


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"seeds": 0}, ValueError, "seeds: found 0"),
        ({"overrides": ["seed=4"]}, ValueError, "give --seeds"),
        ({"only": ["c"]}, KeyError, "'c': no such variant of g; expected one of a, b"),
        ({"to": "quantise"}, KeyError, "no such stage"),
    ],
)
def test_bad_requests(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    grid = write_grid(tmp_path / "g.yaml", {"a": {}, "b": {}})
    with pytest.raises(error, match=said):
        Ablation("demo", grid, **({"seeds": 1} | options)).plan()


# --- the grids that ship -----------------------------------------------------------------------

WORDS = ["caption.engine={kind: hf, model: no/vlm}", "mine.engine={kind: hf, model: no/llm}"]
SHIPPED = {
    "trialigngr": "demo",
    "tasks": "demo",
    "views": "demo",
    "anchorrec": "demo",
    "scientific": "scientific",
    "sets": "scientific",
    "movielens": "movielens-posters",
    "llm": "scientific-llm",
}


def shipped(name: str, tmp_path: Path) -> Ablation:
    words = WORDS if SHIPPED[name] == "demo" else []
    overrides = [*words, f"runtime.store={tmp_path}"]
    return Ablation(SHIPPED[name], name, seeds=2, overrides=overrides)


def test_every_grid_that_ships_is_tested() -> None:
    assert {p.stem for p in (resources.folder("recipes") / "ablations").glob("*.yaml")} == set(
        SHIPPED
    )


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_variants_differ_and_share(name: str, tmp_path: Path) -> None:
    ablation = shipped(name, tmp_path)
    last = [next(reversed(run.made.values())) for run in ablation.runs]
    if ablation.to:
        last = [run.made[ablation.to] for run in ablation.runs]
    assert len(set(last)) == len(ablation.runs)
    needed = {key: count for key, count, _ in ablation.plan()}
    for key in needed.keys() & {"prepare", "caption", "mine", "retrieve.popular"}:
        assert needed[key] == 1, key
    assert all(variant.note for variant in ablation.grid.variants.values())
    assert ablation.grid.description


def variants(ablation: Ablation) -> dict[str, Any]:
    return {run.variant: run.pipeline for run in ablation.runs if run.seed == 0}


def test_the_rows_of_trialigngr_are_what_their_notes_say(tmp_path: Path) -> None:
    found = variants(shipped("trialigngr", tmp_path))
    nodes = {name: pipeline.nodes for name, pipeline in found.items()}
    full, text = found["full"].recipe, found["text-6"].recipe
    assert nodes["full"]["embed"].reads == ("prepare", "caption", "mine")
    assert full.embed.image.kind == "descriptors"
    assert nodes["text-6"]["embed"].reads == ("prepare",)
    assert text.embed.image.kind == "none"
    assert nodes["no-caption"]["embed"].reads == ("prepare", "mine")
    assert nodes["no-interests"]["embed"].reads == ("prepare", "caption")
    assert found["no-image"].recipe.embed.image.kind == "none"
    off = {
        name: {
            t for t, task in p.recipe.compose.tasks if t.startswith("caption") and task.rate == 0
        }
        for name, p in found.items()
    }
    both = {"caption_to_sid", "caption_to_title"}
    six = {"text-6", "trialign-6", "no-caption"}
    assert {name for name, tasks in off.items() if tasks == both} == six
    assert off["no-caption_to_sid"] == {"caption_to_sid"}
    assert off["no-caption_to_title"] == {"caption_to_title"}
    prints = {name: p.graph.fingerprint("quantize") for name, p in found.items()}
    assert prints["full"] == prints["trialign-6"] == prints["no-caption_to_sid"]


def test_tasks_come_one_by_one(tmp_path: Path) -> None:
    active = [
        set(p.recipe.compose.active(p.nodes["compose"].reads))
        for p in variants(shipped("tasks", tmp_path)).values()
    ]
    assert [len(tasks) for tasks in active] == list(range(1, 9))
    assert all(before < after for before, after in itertools.pairwise(active))


def test_views_stop_at_quantize(tmp_path: Path) -> None:
    ablation = shipped("views", tmp_path)
    assert {"quantize", "embed"} <= set(ablation.runs[0].made)
    assert not {"train", "compose", "evaluate"} & {key for run in ablation.runs for key in run.made}
    assert "caption" not in ablation.runs[0].made  # text alone asks no model
