"""Requests through the row cache: what is asked, how often, what is kept, and after a kill."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from genrec.engines import EngineError, Message, Reply, Request
from genrec.enrich.annotate import MAX_ERRORS, BadReply, annotate, summarise
from genrec.store import RowCache


class Counting:
    """An engine that remembers what it was asked, and answers as it is told."""

    identity = "counting"

    def __init__(self, answer: Callable[[Request], Reply | str] = lambda r: r.messages[-1].text):
        self.asked: list[Request] = []
        self.answer = answer

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply]]:
        for row in reversed(range(len(requests))):  # any order
            self.asked.append(requests[row])
            found = self.answer(requests[row])
            yield row, Reply(found, "stop") if isinstance(found, str) else found

    def close(self) -> None:
        pass

    @property
    def texts(self) -> list[str]:
        return sorted(r.messages[-1].text for r in self.asked)


def says(text: str, image: Path | None = None) -> Request:
    return Request((Message("user", text, image),))


def upper(text: str) -> str:
    if "bad" in text:
        raise BadReply("bad word: as it says")
    return text.upper()


def test_rows_come_back_in_order_with_their_values() -> None:
    rows = annotate([says("a"), None, says("b"), says("a")], Counting(), upper, cache={})
    assert [row and row.value for row in rows] == ["A", None, "B", "A"]
    assert rows[1] is None


def test_adding_100_items_makes_100_calls() -> None:
    cache: dict[str, bytes] = {}
    annotate([says(f"t{n}") for n in range(50)], Counting(), upper, cache=cache)
    engine = Counting()
    rows = annotate([says(f"t{n}") for n in range(150)], engine, upper, cache=cache)
    assert engine.texts == sorted(f"t{n}" for n in range(50, 150))
    assert [row and row.value for row in rows] == [f"T{n}" for n in range(150)]


def test_equal_requests_are_asked_once() -> None:
    engine = Counting()
    annotate([says("a")] * 5 + [says("b")], engine, upper, cache={})
    assert engine.texts == ["a", "b"]


@pytest.mark.parametrize(
    "change",
    [
        {"messages": (Message("user", "b"),)},
        {"messages": (Message("system", "a"),)},
        {"messages": (Message("user", "a"), Message("user", "a"))},
        {"schema": {"type": "object"}},
        {"max_tokens": 3},
        {"temperature": 0.5},
        {"seed": 1},
    ],
)
def test_whatever_changes_a_reply_is_asked_anew(change: dict[str, object]) -> None:
    cache: dict[str, bytes] = {}
    annotate([says("a")], Counting(), upper, cache=cache)
    engine = Counting()
    annotate([replace(says("a"), **change)], engine, upper, cache=cache)  # type: ignore[arg-type]
    assert len(engine.asked) == 1
    other = Counting()
    other.identity = "another model"
    annotate([says("a")], other, upper, cache=cache)
    assert len(other.asked) == 1


def test_images_count_by_content_not_by_name(tmp_path: Path) -> None:
    one, two, three = (tmp_path / name for name in ("1", "2", "3"))
    one.write_bytes(b"x")
    two.write_bytes(b"x")
    three.write_bytes(b"y")
    cache: dict[str, bytes] = {}
    engine = Counting()
    annotate([says("a", one)], engine, upper, cache=cache)
    annotate([says("a", two), says("a", three)], engine, upper, cache=cache)
    assert [r.images for r in engine.asked] == [(one,), (three,)]
    annotate([replace(says("a", one), longest_side=9)], engine, upper, cache=cache)
    assert len(engine.asked) == 3


def test_a_missing_image_is_a_failed_row_and_no_call(tmp_path: Path) -> None:
    engine = Counting()
    (row,) = annotate([says("a", tmp_path / "none.png")], engine, upper, cache={})
    assert row is not None
    assert (row.error, row.attempts) == ("bad image: none.png: no such file", 0)
    assert not engine.asked


def test_a_bad_reply_is_asked_again_with_other_seeds_then_fails() -> None:
    cache: dict[str, bytes] = {}
    engine = Counting(lambda r: "bad")
    (row,) = annotate([replace(says("a"), seed=5)], engine, upper, cache=cache, retries=2)
    assert row is not None
    assert (row.value, row.error, row.attempts) == (None, "bad word: as it says", 3)
    assert [(r.seed, r.temperature) for r in engine.asked] == [(5, 0.0), (6, 0.7), (7, 0.7)]
    again = Counting(lambda r: "bad")
    assert annotate([replace(says("a"), seed=5)], again, upper, cache=cache, retries=2) == [row]
    assert not again.asked, "a recorded failure is not asked for again"
    more = Counting(lambda r: "good")
    (row,) = annotate([replace(says("a"), seed=5)], more, upper, cache=cache, retries=3)
    assert row is not None
    assert (row.value, row.attempts) == ("GOOD", 4)
    assert [r.seed for r in more.asked] == [8], "more retries go on where it was left"


def test_a_second_attempt_may_help_and_only_its_row_is_asked() -> None:
    engine = Counting(lambda r: "bad" if r.seed == 0 and r.messages[-1].text == "b" else "ok")
    rows = annotate([says("a"), says("b"), says("c")], engine, upper, cache={})
    assert [row and row.value for row in rows] == ["OK"] * 3
    assert [row and row.attempts for row in rows] == [1, 2, 1]
    assert len(engine.asked) == 4


def test_a_reply_that_was_cut_off_is_a_failure() -> None:
    engine = Counting(lambda r: Reply("once upon a", "length"))
    (row,) = annotate([says("a")], engine, upper, cache={}, retries=0)
    assert row is not None
    assert row.error == "cut off at max_tokens: once upon a"


def test_what_no_attempt_can_help_is_asked_once() -> None:
    cache: dict[str, bytes] = {}
    for calls in (1, 0):
        engine = Counting(lambda r: Reply.failed("bad image: x", permanent=True))
        (row,) = annotate([says("a")], engine, upper, cache=cache)
        assert row is not None
        assert row.error == "bad image: x"
        assert len(engine.asked) == calls


def test_failures_of_the_engine_are_retried_and_never_kept() -> None:
    cache: dict[str, bytes] = {}

    def flaky(request: Request) -> Reply | str:
        return Reply.failed("timeout") if request.messages[-1].text == "b" else "ok"

    rows = annotate([says("a"), says("b")], Counting(flaky), upper, cache=cache, retries=1)
    assert rows[1] is not None
    assert (rows[1].error, rows[1].attempts) == ("engine: timeout", 2)
    engine = Counting()
    rows = annotate([says("a"), says("b")], engine, upper, cache=cache, retries=1)
    assert engine.texts == ["b"]
    assert [row and row.value for row in rows] == ["OK", "B"]


def test_an_engine_that_only_fails_stops_the_run_and_keeps_what_it_had() -> None:
    cache: dict[str, bytes] = {}
    calls = iter(range(1000))
    engine = Counting(lambda r: "ok" if next(calls) < 5 else Reply.failed("HTTP 503"))
    with pytest.raises(EngineError, match=rf"{MAX_ERRORS} requests in a row.*HTTP 503"):
        annotate([says(f"t{n}") for n in range(200)], engine, upper, cache=cache)
    assert len(engine.asked) == 5 + MAX_ERRORS
    assert len(cache) == 5
    with pytest.raises(EngineError, match="HTTP 503"):
        annotate([says("z")], Counting(lambda r: Reply.failed("HTTP 503")), upper, cache={})


def test_a_stricter_reader_does_not_believe_the_cache() -> None:
    cache: dict[str, bytes] = {}
    annotate([says("fine"), says("worse")], Counting(), upper, cache=cache)

    def stricter(text: str) -> str:
        if text == "worse":
            raise BadReply("worse")
        return text

    engine = Counting(lambda r: "better")
    rows = annotate([says("fine"), says("worse")], engine, stricter, cache=cache)
    assert engine.texts == ["worse"]
    assert [row and row.value for row in rows] == ["fine", "better"]


def test_a_damaged_cache_is_named() -> None:
    cache: dict[str, bytes] = {}
    annotate([says("a")], Counting(), upper, cache=cache)
    cache.update(dict.fromkeys(cache, b"{"))
    with pytest.raises(ValueError, match=r"damaged reply.*delete the cache"):
        annotate([says("a")], Counting(), upper, cache=cache)


def test_progress_counts_what_is_finished() -> None:
    seen: list[tuple[str, int, int]] = []
    cache: dict[str, bytes] = {}
    annotate([says("a")], Counting(), upper, cache=cache)
    annotate(
        [says("a"), says("b"), says("bad"), says("a")],
        Counting(),
        upper,
        cache=cache,
        retries=1,
        step="words",
        progress=lambda *now: seen.append(now),
    )
    assert seen[0] == ("words", 1, 3)
    assert seen[-1] == ("words", 3, 3)


def test_the_summary_counts_by_kind_of_reason() -> None:
    errors = [None, "cut off at max_tokens: a", "cut off at max_tokens: b", "bad image: x", None]
    assert summarise(errors, [1, 3, 3, 0, 2]) == {
        "asked": 5,
        "answered": 2,
        "failed": 3,
        "asked_again": 3,
        "failures": {"bad image": 1, "cut off at max_tokens": 2},
    }


KILLED = """
import os, signal, sys
from genrec.engines import Message, Reply, Request
from genrec.enrich.annotate import BadReply, annotate
from genrec.store import RowCache

class Engine:
    identity = "killed"
    def generate(self, requests):
        for start in range(0, len(requests), 4):
            for row in range(start, min(start + 4, len(requests))):
                with open(sys.argv[2], "a") as log:
                    log.write(f"{requests[row].messages[0].text} {requests[row].seed}\\n")
            for row in range(start, min(start + 4, len(requests))):
                yield row, Reply(requests[row].messages[0].text, "stop")
            if len(sys.argv) > 3 and start == 8:
                os.kill(os.getpid(), signal.SIGKILL)
    def close(self): pass

def read(text):
    if text in ("t2", "t13"): raise BadReply("bad: " + text)
    return text

requests = [Request((Message("user", f"t{n}"),)) for n in range(30)]
rows = annotate(requests, Engine(), read, cache=RowCache(sys.argv[1]), retries=1)
print([(r.value, r.error, r.attempts) for r in rows])
"""


def test_after_a_kill_no_finished_row_is_asked_again(tmp_path: Path) -> None:
    def run(name: str, *more: str) -> subprocess.CompletedProcess[str]:
        args = [sys.executable, "-c", KILLED, str(tmp_path / f"{name}.sqlite")]
        return subprocess.run(
            [*args, str(tmp_path / name), *more],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[2],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    assert run("killed", "kill").returncode == -signal.SIGKILL
    assert len(RowCache(tmp_path / "killed.sqlite")) == 12
    resumed, whole = run("killed"), run("whole")
    assert resumed.stdout == whole.stdout != ""
    asked = (tmp_path / "killed").read_text().splitlines()
    assert sorted(asked) == sorted((tmp_path / "whole").read_text().splitlines())
    assert len(asked) == 32
    assert json.loads(json.dumps(asked)).count("t2 0") == 1
