"""The `compose` section: the tasks that the LLM trains on, and how often each is seen."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from genrec.config.base import Section


class Task(Section):
    """How often a task is composed."""

    needs: ClassVar[str | None] = None  # the optional stage whose words the task is made of
    rate: float | None = Field(1.0, ge=0, description="expected passes over its items or users")


class HistoryTask(Task):
    """SID history -> SID; `stream` makes every next item a target in one example per user.

    It has the newest max_history + 1 items. `window` slides over longer histories: such an example
    every `stride` items. `prefix` is the classic expansion, an example per next item.
    """

    expand: Literal["stream", "window", "prefix", "last"] = "stream"
    stride: int | None = Field(
        None, ge=1, description="of expand=window, items; null: max_history, each target once"
    )

    @model_validator(mode="after")
    def _strides(self) -> HistoryTask:
        if self.stride is not None and self.expand != "window":
            raise ValueError(f"stride={self.stride}: expand={self.expand} has none; leave it out")
        return self


class NextTask(Task):
    """A history with words on either side: the last item as target, or an example per next item.

    `prefix` is how others compose these; with it such tasks make many times the examples of all
    others, which are then starved.
    """

    expand: Literal["last", "prefix"] = "last"


class CaptionTask(Task):
    """A task over captions; it takes part where the recipe has the stage caption."""

    needs: ClassVar[str | None] = "caption"
    rate: float | None = Field(
        None, ge=0, description="null: 1 if the recipe has what it is made of, else 0"
    )


class InterestTask(CaptionTask):
    """A task over mined interests; it takes part where the recipe has the stage mine."""

    needs: ClassVar[str | None] = "mine"


class Tasks(Section):
    """The tasks that the LLM trains on: eight by default, one loss, no weights but these rates.

    A rate of 0 leaves a task out. The caption tasks take part once the recipe has captions.
    """

    history_to_sid: HistoryTask = Field(
        HistoryTask(), description="the SIDs of a user's items -> the next item's SID"
    )
    title_to_sid: Task = Field(Task(), description="an item's title -> its SID")
    sid_to_title: Task = Field(Task(), description="an item's SID -> its title")
    history_to_title: NextTask = Field(
        NextTask(), description="the SIDs of a user's items -> the next item's title"
    )
    titles_to_title: NextTask = Field(
        NextTask(), description="the titles of a user's items -> the next item's title"
    )
    titles_to_sid: NextTask = Field(
        NextTask(), description="the titles of a user's items -> the next item's SID"
    )
    caption_to_sid: CaptionTask = Field(
        CaptionTask(), description="what an item's picture shows -> its SID"
    )
    caption_to_title: CaptionTask = Field(
        CaptionTask(), description="what an item's picture shows -> its title"
    )
    sid_to_caption: CaptionTask = Field(
        CaptionTask(rate=0), description="an item's SID -> what its picture shows (off by default)"
    )
    interest_to_sid: InterestTask = Field(
        InterestTask(rate=0), description="an interest an item serves -> its SID (off by default)"
    )
    query_to_sid: InterestTask = Field(
        InterestTask(rate=0), description="words of a search -> an item's SID (off by default)"
    )


class Compose(Section):
    """Tables to training examples."""

    tasks: Tasks = Tasks()
    style: Literal["compact", "instruct"] = "compact"
    max_history: int = Field(50, ge=1)
    max_text: int = Field(300, ge=1, description="characters of an item's text in a prompt")

    def optional_reads(self) -> dict[str, str | None]:
        """Returns the stages that the tasks are made of, with the rate that insists on each."""
        found: dict[str, str | None] = {}
        for name, task in self.tasks:
            if task.needs and task.rate != 0:
                insists = f"compose.tasks.{name}.rate" if task.rate else None
                found[task.needs] = found.get(task.needs) or insists
        return found

    @property
    def reads(self) -> tuple[str, ...]:
        """What every task reads, and the stages that some tasks are made of."""
        return ("prepare", "quantize", *self.optional_reads())

    def active(self, stages: Collection[str]) -> dict[str, dict[str, Any]]:
        """Returns the options of the tasks that take part.

        Args:
            stages: the stages that compose reads; a rate of null is 1 where the task's is among
                them, else 0.
        """
        found: dict[str, dict[str, Any]] = {}
        for name, task in self.tasks:
            rate = task.rate
            if rate is None:
                rate = float(task.needs is None or task.needs in stages)
            if rate > 0:
                found[name] = task.model_dump() | {"rate": rate}
        return found
