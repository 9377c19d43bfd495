"""The API's schemas: what a request may say, and what an answer holds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

MAX_K, MAX_HISTORY, MAX_QUERY, MAX_ID = 100, 500, 1000, 200


def _text(value: Any) -> Any:
    """A whole number as its text: a bundle's ids are text, and their owner may count."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Id = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_ID),
    BeforeValidator(_text, json_schema_input_type=str | int),
]
Scalar = str | float | bool
UserAttributes = Annotated[dict[str, Scalar | None], Field(max_length=100)]


class Filter(BaseModel):
    """Conditions on one column, all of which must hold; an item without a value meets none of them."""

    model_config = ConfigDict(extra="forbid")

    any: list[Scalar] | None = Field(None, max_length=200, description="one of these, case ignored")
    none: list[Scalar] | None = Field(
        None, max_length=200, description="none of these, case ignored"
    )
    contains: str | None = Field(None, max_length=200, description="these letters, case ignored")
    min: float | None = Field(None, description="a number of at least this")
    max: float | None = Field(None, description="a number of at most this")


class Request(BaseModel):
    """Base of every request: an unknown field is an error, so that a typo is no silent default."""

    model_config = ConfigDict(extra="forbid")


class RecommendationsRequest(Request):
    """Whom to recommend to, and what."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"history": ["p0001", "p0017"], "k": 5},
                {"query": "a light jacket for rainy rides", "filters": {"price": {"max": 80}}},
                {"user": "u0001", "k": 3, "explain": True},
            ]
        },
    )

    user: Id | None = Field(None, description="a known user's id; their history is looked up")
    history: list[Id] | None = Field(
        None, max_length=MAX_HISTORY, description="item ids, oldest first; instead of a user"
    )
    events: list[dict[str, str | float | None]] | None = Field(
        None,
        max_length=MAX_HISTORY,
        description="what each event of the history was like, where the recipe's prompts say so",
    )
    user_attributes: UserAttributes | None = Field(
        None,
        description="who has the history, where the recipe's prompts say so: by column of its users",
    )
    query: str | None = Field(
        None, min_length=1, max_length=MAX_QUERY, description="a query in words"
    )
    k: int = Field(10, ge=1, le=MAX_K)
    filters: dict[str, Filter] = Field({}, max_length=20, description="by attribute of the items")
    exclude: list[Id] = Field([], max_length=MAX_HISTORY, description="item ids that may not come")
    keep_seen: bool = Field(False, description="items of the history may come again")
    system: str | None = Field(None, max_length=100, description="one system alone; null: fused")
    explain: bool = Field(False, description="also say why each item came")

    @model_validator(mode="after")
    def _somebody(self) -> RecommendationsRequest:
        if self.user is not None and self.history is not None:
            raise ValueError("give either user or history, not both")
        if self.user is None and self.history is None and self.query is None:
            raise ValueError("give a user, a history (may be empty) or a query")
        if self.events is not None and self.history is None:
            raise ValueError("events are those of a history; give the history, or leave them out")
        if self.user_attributes is not None and self.history is None:
            raise ValueError(
                "user_attributes are of whoever has the history; give the history, or leave them out"
            )
        return self


class Item(BaseModel):
    """One item of the catalogue."""

    id: str
    title: str
    description: str = ""
    image: str | None = Field(None, description="path of the image on this server")
    caption: str | None = None
    interests: list[str] = []
    sid: list[int] | None = Field(None, description="semantic ID, one code per level")
    further_sids: list[list[int]] = Field(
        [], description="semantic IDs in further sets, where there are several"
    )
    attributes: dict[str, Any] = {}


class Influence(BaseModel):
    """What one item of the history adds to the log-probability of a recommended one."""

    id: str
    title: str
    log_ratio: float


class Reasons(BaseModel):
    """Why an item came."""

    influence: list[Influence] | None = Field(
        None, description="of the history's items, strongest first; null without an LLM"
    )
    interests: list[str] = []
    caption: str | None = None


class Recommendation(BaseModel):
    """One item of a list."""

    place: int
    score: float
    item: Item
    systems: dict[str, int] = Field(description="its rank in each system's list that holds it")
    reasons: Reasons | None = None


class Recommendations(BaseModel):
    """An answer."""

    recommendations: list[Recommendation]
    model: str
    version: str


class Similar(BaseModel):
    """Neighbours of an item in one view."""

    id: str
    view: str
    items: list[Recommendation]


class Model(BaseModel):
    """What is served; the first four fields are OpenAI's."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="when it was opened, seconds since 1970")
    owned_by: str = "genrec"
    version: str = Field(description="changes with the artifacts")
    systems: list[str] = Field(description="what recommends; each can be asked for alone")
    views: list[str] = Field(description="in which items can be alike")
    items: int


class Models(BaseModel):
    """All models; there is one."""

    object: Literal["list"] = "list"
    data: list[Model]


class Health(BaseModel):
    """The server can answer."""

    status: Literal["ok"]
    model: str
    version: str
    waiting: int = Field(description="requests in the queue")


class Reloaded(BaseModel):
    """What is served from now on."""

    changed: bool
    model: str
    version: str


class Problem(BaseModel):
    """An error: what is wrong, and how to fix it."""

    message: str
    type: str


class ErrorBody(BaseModel):
    """The body of every error."""

    error: Problem
