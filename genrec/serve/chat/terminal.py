"""`genrec chat`: the shop in a terminal, with the same answers as the server's.

Readable without colour and from a pipe: colour is rich's, which NO_COLOR and a pipe turn off.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import rich.box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from genrec.bundle import Bundle
from genrec.pipeline import Pipeline
from genrec.recommendations import Unanswerable
from genrec.serve.batching import Overloaded
from genrec.serve.chat.guide import guide_of
from genrec.serve.chat.lexicon import clean
from genrec.serve.chat.listing import Asker
from genrec.serve.chat.messages import MAX_CHARS, MAX_MESSAGES, Listed, Message
from genrec.serve.chat.reply import Reply, respond
from genrec.serve.chat.sayings import load_sentences
from genrec.serve.chat.wording import Wording
from genrec.serve.models import ModelRegistry, ModelVersion
from genrec.serve.resolve import history_of, profile_for
from genrec.serve.settings import Settings

_PROMPT = "> "
_PAUSE = 0.015  # seconds between two words on a terminal
_TITLES = 6  # newest items of the history that are shown
_PLACES = {
    "welcome": "count shop",
    "history": "titles",
    "liked": "title",
    "no_item": "command count",
    "unknown": "command",
    "trouble": "message",
    **dict.fromkeys(("no_history", "reset", "no_list", "help", "dropped"), ""),
    **dict.fromkeys(("place", "title", "price", "seen", "interest"), ""),
}


def run(
    pipeline: Pipeline,
    *,
    user: str | None = None,
    history: Sequence[str] | None = None,
    k: int = 5,
    wording: Wording | None = None,
    lines: Iterable[str] | None = None,
    console: Console | None = None,
) -> None:
    """Talks until the lines end or one says /quit.

    Args:
        pipeline: of a finished recipe.
        user: whose history to begin with; or
        history: item ids, oldest first.
        k: items in a list.
        wording: a model that introduces the items.
        lines: what is said; by default typed, or read from a pipe.
        console: where to write; by default stdout.

    Raises:
        MissingArtifact: the recipe is not finished; names the command that builds what is missing.
        Unknown: no such user or item.
    """
    shown = console or Console()
    registry = ModelRegistry(lambda: pipeline.bundle().open(), Settings())
    # The loop runs while something is answered. Between, input() has the main thread, which alone
    # gets Ctrl-C.
    with asyncio.Runner() as runner:
        try:
            with shown.status(pipeline.recipe.name):
                served = runner.run(_opened(registry))
            begun = history_of(served.bundle, user=user, history=history)
            known = user if history is None else None
            profile = profile_for(served.bundle, user=known, attributes=None)
            session = Session(served, shown, begun, k=k, wording=wording, profile=profile)
            session.welcome()
            for line in lines if lines is not None else _typed(shown):
                if not _heard(runner, session, line):
                    break
        finally:
            runner.run(_closed(registry, wording))


def _heard(runner: asyncio.Runner, session: Session, line: str) -> bool:
    """Answers one line; Ctrl-C drops the answer, and the talk goes on."""
    try:
        return runner.run(session.hear(line))
    except KeyboardInterrupt:
        session.drop()
        return True


async def _opened(registry: ModelRegistry) -> ModelVersion:
    await registry.start()
    async with registry.current() as served:  # nothing reloads here, so it stays open
        return served


async def _closed(registry: ModelRegistry, wording: Wording | None) -> None:
    await registry.close()
    if wording is not None:
        await wording.close()


def _typed(console: Console) -> Iterator[str]:
    """Lines as they are typed, with editing; or those of a pipe, shown as if they were typed."""
    if sys.stdin.isatty():
        import readline  # noqa: F401, input() edits lines once it is there

        while True:
            try:
                yield input(_PROMPT)
            except (EOFError, KeyboardInterrupt):
                console.print()
                return
    for line in sys.stdin:
        console.print(Text(_PROMPT + clean(line)))
        yield line


class Session:
    """One conversation in a terminal.

    Args:
        served: the opened model version.
        console: where to write.
        history: item numbers, oldest first.
        k: items in a list.
        wording: a model that introduces the items.
        profile: as of `Asker`.
    """

    def __init__(
        self,
        served: ModelVersion,
        console: Console,
        history: Sequence[int],
        *,
        k: int,
        wording: Wording | None,
        profile: str | None = None,
    ) -> None:
        self._edition, self._console, self._k, self._wording = served, console, k, wording
        self._history, self._titles = list(history), guide_of(served.bundle).titles
        self._profile = profile
        self._messages: list[Message] = []
        self._shown: tuple[int, ...] = ()
        self._say = load_sentences("chat/terminal", _PLACES)
        self._commands: dict[str, Callable[[str], Any]] = {
            "/why": self._why,
            "/like": self._like,
            "/history": lambda _: self._show_history(),
            "/forget": lambda _: self._forget(),
            "/reset": lambda _: self._reset(),
            "/help": lambda _: self._tell("help"),
        }

    def welcome(self) -> None:
        """Says what this is and what the history holds."""
        bundle = self._edition.bundle
        self._tell("welcome", shop=bundle.name, count=len(bundle))
        self._show_history()

    def drop(self) -> None:
        """Says that an answer was dropped."""
        self._console.print()
        self._tell("dropped")

    async def hear(self, line: str) -> bool:
        """Answers one line; returns whether the conversation goes on."""
        line = line.strip()[:MAX_CHARS]
        if not line:
            return True
        command, _, rest = line.partition(" ")
        if command in ("/quit", "/exit"):
            return False
        if command.startswith("/"):
            done = self._commands.get(
                command, lambda _: self._tell("unknown", command=clean(command, 40))
            )
            answer = done(rest.strip())
            if asyncio.iscoroutine(answer):
                await answer
            return True
        await self._ask(line)
        return True

    async def _ask(self, line: str) -> None:
        """Asks the shop, and shows words first, then items."""
        asked = [*self._messages, Message(role="user", content=line)][-MAX_MESSAGES:]
        asker = Asker(tuple(self._history), self._k, profile=self._profile)
        try:
            with self._console.status("…"):
                reply = await respond(self._edition, asked, asker, wording=self._wording)
        except (Overloaded, TimeoutError, Unanswerable, ConnectionError) as error:
            self._tell("trouble", message=str(error) or type(error).__name__)
            return
        self._stream(reply.intro)
        if reply.found:
            self._console.print(self._table(self._edition.bundle, reply))
            self._shown = tuple(one.item for one in reply.found)
        ids = self._edition.bundle.items["item_id"]
        shown = [Listed(id=ids[one.item]) for one in reply.found]
        listed = [one.model_dump() for one in shown] or None
        said = Message(role="assistant", content=reply.text, recommendations=listed)
        self._messages = [*asked, said]

    def _stream(self, text: str) -> None:
        """Word by word on a terminal, at once into a pipe."""
        if not self._console.is_terminal:
            self._console.print(Text(text))
            return
        for number, word in enumerate(text.split(" ")):
            self._console.print(Text(f" {word}" if number else word), end="", soft_wrap=True)
            time.sleep(_PAUSE)
        self._console.print()

    def _table(self, bundle: Bundle, reply: Reply) -> Table:
        """The list; a column only where some item has something in it."""
        rows = [(str(n), *cells) for n, cells in enumerate(reply.cells, 1)]
        table = Table(box=rich.box.SIMPLE_HEAD, pad_edge=False, expand=False)
        names = ("place", "title", "price", "seen", "interest")
        used = [at for at in range(len(names)) if any(row[at] for row in rows)]
        for at in used:
            justify = "right" if names[at] in ("place", "price") else "left"
            table.add_column(Text(self._say(names[at])), justify=justify, overflow="fold")  # type: ignore[arg-type]
        for row in rows:
            table.add_row(*(Text(row[at]) for at in used))
        return table

    def _item(self, command: str, rest: str) -> int | None:
        """The item of the last list that a command names; says so if there is none."""
        if not self._shown:
            self._tell("no_list")
        elif not (rest.isdecimal() and 1 <= int(rest) <= len(self._shown)):
            self._tell("no_item", command=command, count=len(self._shown))
        else:
            return self._shown[int(rest) - 1]
        return None

    async def _why(self, rest: str) -> None:
        if self._item("/why", rest) is not None:
            await self._ask(f"why #{rest}")

    def _like(self, rest: str) -> None:
        item = self._item("/like", rest)
        if item is not None:
            self._history = [*(other for other in self._history if other != item), item]
            self._tell("liked", title=self._titles.names[item])
            self._show_history()

    def _show_history(self) -> None:
        if not self._history:
            self._tell("no_history")
            return
        names = [self._titles.names[item] for item in self._history[-_TITLES:]]
        more = ["…"] if len(self._history) > _TITLES else []
        self._tell("history", titles="; ".join([*more, *names]))

    def _forget(self) -> None:
        self._history, self._profile = [], None
        self._show_history()

    def _reset(self) -> None:
        self._messages, self._shown = [], ()
        self._tell("reset")

    def _tell(self, sentence: str, **values: Any) -> None:
        self._console.print(Text(self._say(sentence, **values)), style="dim")
