"""A grid file: variants of a recipe as dotted overrides, and which of them the rest is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from genrec.recipe_text import assignments
from genrec.resources import find
from genrec.settings import explain, read_mapping

# A name is also part of a log file's name.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][\w.+-]*$")]


_NOT_HERE = {
    "seed": "it comes from --seeds",
    "runtime.store": "give it on the command line",
    "runtime": "give runtime.store on the command line",
}


class GridError(ValueError):
    """A grid that cannot be used; the message names the file, the key and the fix."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Variant(_Part):
    """One row of the table: what differs from the recipe.

    Attributes:
        overrides: values or whole sections by dotted key, as on the command line.
        note: what the variant is, for readers of the table.
    """

    overrides: dict[str, Any] = {}
    note: str = ""


class Grid(_Part):
    """Variants of one recipe.

    Attributes:
        description: what the grid is to show.
        reference: the variant that the others are compared with.
        to: the last stage that is run; the whole recipe where None.
        system: whose lists are compared, a retriever's name for a grid of retrievers.
        common: overrides of every variant.
        variants: by name, in the order of the table.
        name: the file's name without suffix.
    """

    name: str = Field(exclude=True)
    description: str = ""
    reference: Name
    to: str | None = None
    system: str = "generative"
    common: dict[str, Any] = {}
    variants: dict[Name, Variant] = Field(min_length=1)

    @model_validator(mode="after")
    def _usable(self) -> Grid:
        if self.reference not in self.variants:
            raise ValueError(
                f"reference '{self.reference}' is no variant; expected one of {list(self.variants)}"
            )
        sections = {"common": self.common} | {
            f"variants.{name}.overrides": v.overrides for name, v in self.variants.items()
        }
        for where, overrides in sections.items():
            for key, fix in _NOT_HERE.items():
                if key in overrides:
                    raise ValueError(f"{where}: {key} is the same for every variant: {fix}")
        return self

    def overrides(self, variant: str) -> tuple[list[str], list[str]]:
        """Returns what every variant sets and what this one sets, as `key=value`.

        Raises:
            KeyError: there is no such variant.
        """
        if variant not in self.variants:
            raise KeyError(
                f"'{variant}': no such variant of {self.name}; expected one of "
                f"{', '.join(self.variants)}"
            )
        return assignments(self.common), assignments(self.variants[variant].overrides)


def load_grid(path: str | Path) -> Grid:
    """Reads and validates a grid file.

    Args:
        path: a YAML file, or the name of one that ships (`recipes/ablations/tasks.yaml`,
            `tasks`).

    Raises:
        FileNotFoundError: there is no such file.
        GridError: it is not YAML, has an unknown key, or a value that cannot be.
    """
    file = find("recipes", path, suffix=".yaml", room="ablations")
    data = read_mapping(file, GridError, expected="with reference and variants")
    if "prepare" in data:
        raise GridError(
            f"{file}: this is a recipe; --grid takes a file with reference and variants"
        )
    try:
        return Grid.model_validate(data | {"name": file.stem})
    except ValidationError as error:
        problems = "\n".join(f"  {_explain(problem)}" for problem in error.errors())
        raise GridError(f"{file}: this grid cannot be used\n{problems}") from error


def _explain(problem: Any) -> str:
    location = [str(part) for part in problem["loc"] if part != "[key]"]
    model: type[BaseModel] = Grid if len(location) == 1 else Variant
    known = [field for field in model.model_fields if field != "name"]
    return explain(problem, ".".join(location) or "grid", known)
