"""Search spaces: what a file may say, and how it is laid around a recipe."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from genrec.resources import folder
from genrec.tune import SpaceError, load_space
from genrec.tune.space import OWN, assigned, dimensions

LR = {"low": 1e-3, "high": 1e-2, "log": True}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(
        "prepare:\n  source: {kind: demo}\n"
        "retrieve: [{kind: popular}, {kind: cooccurrence}, {kind: ease, name: mine, l2: 50.0}]\n"
        "train: {lr: 2.0e-2, epochs: 6}\n"
    )
    return path


def write(tmp_path: Path, parameters: dict[str, Any], **more: Any) -> Path:
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump({"parameters": parameters} | more))
    return path


def test_a_file_is_read(tmp_path: Path) -> None:
    space = load_space(write(tmp_path, {"train.lr": LR}, system="mine"))
    assert (space.name, space.stage) == ("space", "retrieve.mine")
    assert load_space(write(tmp_path, {"train.lr": LR})).stage == "train"
    assert load_space(write(tmp_path, {"train.lr": LR}, system="fused")).stage == "fuse"


@pytest.mark.parametrize(
    "name", sorted(p.stem for p in (folder("recipes") / "tuning").glob("*.yaml"))
)
def test_what_ships_fits_a_recipe_with_all_systems(name: str) -> None:
    space = load_space(name)
    found = dimensions(space, folder("recipes") / "scientific.yaml", [])
    assert found.keys() == space.parameters.keys()


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        ({"low": 1}, "give low and high, or choices"),
        ({"low": 1, "high": 2, "choices": [1]}, "give low and high, or choices"),
        ({"low": 2, "high": 2}, "low=2 is not below high=2"),
        ({"low": 0, "high": 2, "log": True}, "low=0: with log it must be above 0"),
        ({"choices": []}, "choices: one or more"),
        ({"choices": [1], "log": True}, "log is for low and high"),
        ({"hihg": 3, "low": 1}, "did you mean 'high'?"),
    ],
)
def test_what_cannot_be_is_named(tmp_path: Path, parameter: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=r"space\.yaml: this search space cannot be used") as error:
        load_space(write(tmp_path, {"train.lr": parameter}))
    assert message in str(error.value)
    assert "parameters.train.lr" in str(error.value)


def test_no_parameters_are_no_space(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="parameters"):
        load_space(write(tmp_path, {}))
    with pytest.raises(FileNotFoundError, match=r"tuning/llm\.yaml"):
        load_space("llms")


def test_the_recipes_own_values_are_part_of_it(tmp_path: Path, recipe: Path) -> None:
    parameters = {
        "train.lr": LR,
        "train.epochs": {"low": 8, "high": 20},
        "retrieve.mine.l2": {"low": 10.0, "high": 100.0},
        "train.model.layers": {"choices": [1, 2]},
        "size": {
            "choices": {"own": {"train.model.layers": 4}, "small": {"train.model.hidden": 64}}
        },
    }
    found = dimensions(load_space(write(tmp_path, parameters)), recipe, [])
    assert (found["train.lr"].low, found["train.lr"].high, found["train.lr"].own) == (
        1e-3,
        2e-2,
        2e-2,
    )
    assert (found["train.epochs"].low, found["train.epochs"].high) == (6, 20)
    assert isinstance(found["train.epochs"].own, int)  # the field is a float
    assert found["retrieve.mine.l2"].own == 50.0
    layers, size = found["train.model.layers"], found["size"]
    assert layers.own == OWN  # 4 layers by default
    assert layers.choices == {
        OWN: {},
        "1": {"train.model.layers": 1},
        "2": {"train.model.layers": 2},
    }
    assert size.own == "own"
    values = {"train.lr": 0.005, "size": "small", "train.model.layers": OWN}
    assert assigned(found, values) == {"train.lr": 0.005, "train.model.hidden": 64}
    assert assigned(found, {"train.lr": 0.00123456}) == {"train.lr": 0.00123}
    exact = dimensions(
        load_space(write(tmp_path, {"train.lr": LR})), recipe, ["train.lr=0.0012345"]
    )
    assert assigned(exact, {"train.lr": 0.0012345}) == {"train.lr": 0.0012345}


def test_overrides_are_the_recipes_own_values(tmp_path: Path, recipe: Path) -> None:
    space = load_space(write(tmp_path, {"train.lr": LR}))
    assert dimensions(space, recipe, ["train.lr=0.5"])["train.lr"].high == 0.5


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"train.rate": LR}, r"train\.rate: the recipe has nothing there, at 'rate'"),
        ({"retrieve.ease.l2": LR}, r"retrieve\.ease\.l2: the recipe has nothing there, at 'ease'"),
        ({"train.softmax": LR}, "has 'vocabulary' there, no number; give choices"),
        ({"train.ema": LR}, "has 0.0 there, and log needs values above 0"),
        ({"train.lr": {"choices": [-1]}}, "the choice '-1' does not fit"),
        ({"x": {"choices": {"a": {"train.rate": 1}}}}, "the choice 'a' does not fit"),
    ],
)
def test_what_the_recipe_does_not_have_is_named(
    tmp_path: Path, recipe: Path, parameters: Any, message: str
) -> None:
    with pytest.raises(SpaceError, match=message):
        dimensions(load_space(write(tmp_path, parameters)), recipe, [])
