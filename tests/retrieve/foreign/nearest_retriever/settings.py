"""The settings of Nearest: what a recipe may say of it, and what it needs."""

from collections.abc import Collection
from typing import ClassVar, Literal

from genrec.retrieve.settings import RetrieverSettings


class NearestSettings(RetrieverSettings):
    """Items whose view is nearest to that of the newest item."""

    kind: Literal["nearest"] = "nearest"
    implementation: ClassVar[str] = "nearest_retriever.retriever:Nearest"
    view: str = "text"

    def wanted_views(self, available: Collection[str]) -> tuple[str, ...]:
        return (self.view,)
