"""The base of every part of a recipe, and the mark of fields that name files."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator


class ContentPath:
    """Marks a field that names a file or folder: its fingerprint is the content, not the name."""


Path_ = Annotated[str, ContentPath()]


class Section(BaseModel):
    """Base of every part of a recipe: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # The stages that a component reads, where it differs from the table in `pipeline.STAGES`.
    reads: ClassVar[tuple[str, ...] | None] = None

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
