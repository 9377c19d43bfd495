"""What every part of a recipe is: a frozen section, in which an unknown key is an error."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator


class ContentPath:
    """Marks a field that names a file or folder: its fingerprint is the content, not the name."""


Path_ = Annotated[str, ContentPath()]


class Section(BaseModel):
    """Base of every part of a recipe: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def reads(self) -> tuple[str, ...] | None:
        """The stages that this section reads, where it differs from the table in `graph.STAGES`."""
        return None

    @property
    def uses(self) -> tuple[str, ...]:
        """Recipe-wide fields that its result depends on, beside those of `graph.STAGES`."""
        return ()

    def optional_reads(self) -> dict[str, str | None]:
        """Returns the optional stages (caption, mine) that this section reads.

        Each with the dotted field that demands it, or None where the stage is read only if the
        recipe has it.
        """
        return {}

    @model_validator(mode="before")
    @classmethod
    def _default_kind(cls, data: Any) -> Any:
        """Lets `quantize.levels=3` mean the default quantiser, without naming its kind."""
        if not isinstance(data, dict):
            return data
        defaults = {name: getattr(f.default, "kind", None) for name, f in cls.model_fields.items()}
        return {
            name: {"kind": defaults[name]} | part
            if isinstance(part, dict) and defaults.get(name)
            else part
            for name, part in data.items()
        }


class PartSettings(Section):
    """The settings of a part that a recipe names by `kind`; `genrec.registry` knows them all.

    Attributes:
        implementation: `module:name` of the class or function that they configure.
        kind: the part's name in recipes.
    """

    implementation: ClassVar[str]
    kind: str
