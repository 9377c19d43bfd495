"""A search space: which settings of a recipe are tried, in which bounds, and what is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from genrec.recipe import Recipe, RecipeError, load
from genrec.recipe_text import assignments, inline
from genrec.resources import find
from genrec.settings import explain, read_mapping

OWN = "as in the recipe"  # the choice that every list of choices has


class SpaceError(ValueError):
    """A search space that cannot be used; the message names the file, the key and the fix."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Parameter(_Part):
    """What one setting may be: a number between bounds, or one of some choices.

    Attributes:
        low, high: bounds, both included; whole numbers are tried where both are whole.
        log: equal ratios are equally likely, as for a learning rate.
        choices: values of the setting. Or several settings at once by a name for the choice: then the
            parameter's own name is for readers, and each choice holds values by dotted key.
    """

    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    choices: tuple[Any, ...] | dict[str, dict[str, Any]] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Parameter:
        bounds = self.low is not None and self.high is not None
        if bounds == (self.choices is not None) or (self.low is None) != (self.high is None):
            raise ValueError("give low and high, or choices")
        if self.low is not None and self.high is not None:
            if self.low >= self.high:
                raise ValueError(f"low={self.low} is not below high={self.high}")
            if self.log and self.low <= 0:
                raise ValueError(f"low={self.low}: with log it must be above 0")
        elif self.log or not self.choices:
            raise ValueError("choices: one or more are needed, and log is for low and high")
        return self


class Space(_Part):
    """What is tried, and by whose lists it is judged.

    Attributes:
        name: the file's name without suffix.
        description: what the space is for.
        system: whose NDCG@10 on validation users counts: `generative`, as measured during its
            training, a retriever's name, or `fused`.
        common: overrides of every trial, for shorter ones; not of the recipe that is written.
        parameters: by dotted key, or by a name where a choice sets several settings.
    """

    name: str = Field(exclude=True)
    description: str = ""
    system: str = "generative"
    common: dict[str, Any] = {}
    parameters: dict[str, Parameter] = Field(min_length=1)

    @property
    def stage(self) -> str:
        """The last stage that a trial runs."""
        return {"generative": "train", "fused": "fuse"}.get(self.system, f"retrieve.{self.system}")


class Dimension(_Part):
    """A parameter as it is searched for one recipe, whose own value is always part of it.

    Attributes:
        low, high, log: of a number; the bounds reach to the recipe's own value.
        own: the recipe's own value; of choices its label.
        choices: overrides by label; None for a number.
    """

    low: int | float = 0
    high: int | float = 0
    log: bool = False
    own: Any
    choices: dict[str, dict[str, Any]] | None = None


def load_space(path: str | Path) -> Space:
    """Reads and validates a search space.

    Args:
        path: a YAML file, or the name of one that ships (`recipes/tuning/llm.yaml`, `llm`).

    Raises:
        FileNotFoundError: there is no such file.
        SpaceError: it is not YAML, has an unknown key, or a value that cannot be.
    """
    file = find("recipes", path, suffix=".yaml", room="tuning")
    data = read_mapping(file, SpaceError, expected="with parameters")
    try:
        return Space.model_validate(data | {"name": file.stem})
    except ValidationError as error:
        problems = "\n".join(f"  {_explain(problem)}" for problem in error.errors())
        raise SpaceError(f"{file}: this search space cannot be used\n{problems}") from error


def dimensions(space: Space, recipe: Path, overrides: Sequence[str]) -> dict[str, Dimension]:
    """Returns the space around a recipe, so that its own values are the first trial.

    Args:
        space: what to try.
        recipe: the recipe's file.
        overrides: of the recipe.

    Raises:
        SpaceError: a parameter that the recipe does not have, or a choice that it cannot have.
    """
    base = load(recipe, overrides)
    found: dict[str, Dimension] = {}
    for key, parameter in space.parameters.items():
        if parameter.choices is None:
            found[key] = _number(key, parameter, base)
        else:
            found[key] = _choice(key, parameter, base, recipe, overrides)
    return found


def assigned(found: Mapping[str, Dimension], values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings by dotted key that a trial's values mean; numbers to three digits."""
    settings: dict[str, Any] = {}
    for key, value in values.items():
        choices, own = found[key].choices, found[key].own
        number = float(f"{value:.3g}") if isinstance(value, float) and value != own else value
        settings |= {key: number} if choices is None else choices[value]
    return settings


def _number(key: str, parameter: Parameter, base: Recipe) -> Dimension:
    own = _value(key, base)
    if isinstance(own, bool) or not isinstance(own, int | float):
        raise SpaceError(f"{key}: the recipe has {own!r} there, no number; give choices")
    low, high = parameter.low, parameter.high
    assert low is not None
    assert high is not None
    if isinstance(low, int) and isinstance(high, int) and float(own).is_integer():
        own = int(own)
    low, high = min(low, own), max(high, own)
    if parameter.log and low <= 0:
        raise SpaceError(f"{key}: the recipe has {own} there, and log needs values above 0")
    return Dimension(low=low, high=high, log=parameter.log, own=own)


def _choice(
    key: str, parameter: Parameter, base: Recipe, recipe: Path, overrides: Sequence[str]
) -> Dimension:
    choices = parameter.choices
    assert choices is not None
    if not isinstance(choices, dict):
        choices = {inline(value): {key: value} for value in choices}
    own = OWN
    for label, settings in choices.items():
        try:
            changed = load(recipe, [*overrides, *assignments(settings)])
        except RecipeError as error:
            raise SpaceError(f"{key}: the choice '{label}' does not fit: {error}") from error
        if own == OWN and changed == base:
            own = label
    return Dimension(own=own, choices=choices if own != OWN else {OWN: {}, **choices})


def _value(key: str, base: Recipe) -> Any:
    """The value at a dotted key of a recipe; a part of a list by its label or place."""
    node: Any = base
    for word in key.split("."):
        if isinstance(node, tuple):
            labels = [getattr(part, "label", None) for part in node]
            node = dict(zip(labels, node, strict=True)).get(word)
        else:
            node = getattr(node, word, None)
        if node is None:
            raise SpaceError(
                f"{key}: the recipe has nothing there, at '{word}'; drop it, or set it"
            )
    return node


def _explain(problem: Any) -> str:
    location = [str(part) for part in problem["loc"] if part != "[key]"]
    model: type[BaseModel] = Space if len(location) == 1 else Parameter
    known = [field for field in model.model_fields if field != "name"]
    return explain(problem, ".".join(location) or "space", known)


def shown(found: Mapping[str, Dimension], values: Mapping[str, Any]) -> str:
    """Returns a trial's values for people, the shortest form of each key that tells them apart."""
    return ", ".join(f"{key.rpartition('.')[2]} {text(values[key])}" for key in found)


def text(value: Any) -> str:
    """Returns a value for people; numbers to three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
