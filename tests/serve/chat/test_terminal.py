"""`genrec chat` fed with lines, without colour and with it."""

import asyncio
import io
import signal
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from genrec import Pipeline
from genrec.serve.chat import terminal
from genrec.serve.resolve import Unknown


def said(pipeline: Pipeline, *lines: str, color: bool = False, **options: object) -> str:
    out = io.StringIO()
    console = Console(
        file=out, width=100, force_terminal=color, color_system="standard" if color else None
    )
    terminal.run(pipeline, lines=lines, console=console, **options)  # type: ignore[arg-type]
    return out.getvalue()


def test_a_session(pipeline: Pipeline) -> None:
    text = said(
        pipeline,
        *("/why 1", "a lamp", "/why 2", "/like 2", "cheaper", "/why 99", "/like x", "/nonsense"),
        *("/history", "/forget", "/reset", "/like 1", "", "/help", "/quit", "never heard"),
    )
    shown = text.splitlines()
    assert "There is no list yet" in text
    assert any(line.split()[:2] == ["#", "item"] for line in shown)
    assert "it matches lamp" in text
    assert "added to the history: " in text
    assert "from 1 to" in text
    assert "/nonsense: no such command" in text
    assert text.count("history: nothing yet") == 2  # at first, and after /forget
    assert text.count("There is no list yet") == 2  # at first, and after /reset
    assert "/like N" in text
    assert "never heard" not in text
    assert "\x1b" not in text


def test_with_colour_the_words_are_the_same(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "_PAUSE", 0)
    plain, colour = said(pipeline, "hello"), said(pipeline, "hello", color=True)
    assert "\x1b[" in colour
    assert plain.split()[-5:] == Console(file=io.StringIO()).render_str(plain).plain.split()[-5:]
    assert "Tell me what you are looking for" in " ".join(colour.split())


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C as a terminal has it; a shell's background jobs, such as a CI's, ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_who_interrupts_an_answer_goes_on(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = terminal.respond

    async def slow(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(terminal, "respond", answer)
        signal.raise_signal(signal.SIGINT)
        await asyncio.sleep(30)

    monkeypatch.setattr(terminal, "respond", slow)
    text = said(pipeline, "a mug", "a lamp", "why the first?")
    assert "No answer then" in text
    assert "it matches lamp" in text


def test_who_interrupts_the_prompt_leaves(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The main thread waits at the prompt: no other would hear Ctrl-C before the next line."""
    waiting: list[threading.Thread] = []

    def typed(_: str) -> str:
        waiting.append(threading.current_thread())
        if len(waiting) > 1:
            raise KeyboardInterrupt
        return "hello"

    monkeypatch.setattr("builtins.input", typed)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    out = io.StringIO()
    terminal.run(pipeline, console=Console(file=out))
    assert "Tell me what you are looking for" in out.getvalue()
    assert set(waiting) == {threading.main_thread()}


def test_control_characters_stay_out(pipeline: Pipeline) -> None:
    text = said(pipeline, "a lamp \x1b[31m [bold]red[/bold] \x07", "/\x1b[2Jx")
    assert "\x1b" not in text
    assert "\x07" not in text


def test_a_history_to_begin_with(pipeline: Pipeline) -> None:
    items = pipeline["prepare"].load("items.parquet")
    title = items["title"][3]
    assert title in " ".join(said(pipeline, history=[items["item_id"][3]]).split())
    user = pipeline["prepare"].load("users.parquet")["user_id"][0]
    assert "history: …" in said(pipeline, user=user)
    with pytest.raises(Unknown, match="no user has the id"):
        said(pipeline, user="nobody at all")
