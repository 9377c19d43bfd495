"""Balance: who starves and who crowds, by lines made by hand; what a resumed run still knows."""

import json
import logging

import pytest
from PIL import Image

from genrec.lm.balance import (
    PATIENCE,
    Balance,
    BalanceWatch,
    draw_curves,
    message,
    unbalanced,
)


def lines(tokens, losses, count=PATIENCE, start=1):
    """Log lines of tasks with so many target tokens each and so much loss a token."""
    total = sum(tokens[t] * losses[t] for t in tokens)
    shares = {t: tokens[t] * losses[t] / total for t in tokens}
    return [
        {"step": 20 * n, "loss": 1.0, "tasks": dict(losses), "shares": shares}
        for n in range(start, start + count)
    ]


EVEN = {"a": 3.0, "b": 3.0, "c": 3.0}


@pytest.mark.parametrize(
    ("tokens", "losses", "expected"),
    [
        ({"a": 100, "b": 100, "c": 100}, EVEN, []),
        # b gets 1/20 of what a and c get on average, and is as hard.
        ({"a": 100, "b": 5, "c": 100}, EVEN, [("b", "starved")]),
        # As little, but because it is learnt.
        ({"a": 100, "b": 50, "c": 100}, {"a": 3.0, "b": 0.3, "c": 3.0}, []),
        # a gets 11 times the mean of the others, each of which gets a sixth of the mean of theirs.
        ({"a": 1100, "b": 100, "c": 100}, EVEN, [("a", "crowds")]),
        # As much, but it is the hard one and has no more tokens.
        ({"a": 100, "b": 100, "c": 100}, {"a": 4.4, "b": 0.4, "c": 0.4}, []),
        ({"a": 100, "b": 12, "c": 100}, EVEN, []),
        ({"a": 100}, {"a": 3.0}, []),
    ],
)
def test_who_starves_and_who_crowds(tokens, losses, expected):
    found = unbalanced(lines(tokens, losses))
    assert [(f["task"], f["state"]) for f in found] == expected
    assert not unbalanced(lines(tokens, losses, count=PATIENCE - 1)), "not before its time"


def test_a_finding_says_what_and_how_to_mend():
    (found,) = unbalanced(lines({"a": 100, "b": 5, "c": 100}, EVEN))
    assert found == {
        "task": "b",
        "state": "starved",
        "step": 20 * PATIENCE,
        "share": pytest.approx(5 / 205, abs=1e-4),
        "loss": 3.0,
    }
    assert "Raise compose.tasks.b.rate" in message(found)
    assert "2.4% of the loss" in message(found)


def test_a_streak_that_breaks_begins_anew():
    off = {"a": 100, "b": 5, "c": 100}
    even = {"a": 100, "b": 100, "c": 100}
    half = PATIENCE // 2 + 1
    log = lines(off, EVEN, half) + lines(even, EVEN, 30, start=half + 1)
    assert not unbalanced(log + lines(off, EVEN, half, start=half + 31))


def test_a_task_absent_from_many_lines_is_judged_by_its_mean():
    """One batch in ten holds b; on average it is on a par with the others."""
    balance = Balance()
    for n in range(1, 120):
        tasks = dict(EVEN) if n % 10 == 0 else {"a": 3.0, "c": 3.0}
        shares = {"a": 0.05, "b": 0.9, "c": 0.05} if "b" in tasks else {"a": 0.5, "c": 0.5}
        assert not balance.see({"step": n, "tasks": tasks, "shares": shares})


def test_the_watch_warns_once_and_a_resumed_run_is_silent(tmp_path, caplog):
    state = type("State", (), {"global_step": 0, "is_world_process_zero": True})()
    path = tmp_path / "log.jsonl"

    def run(log, begun):
        watch = BalanceWatch(path)
        state.global_step = begun
        watch.on_train_begin(None, state, None)
        for line in log:
            state.global_step = line["step"]
            watch.on_log(None, state, None, {k: v for k, v in line.items() if k != "step"})

    log = lines({"a": 100, "b": 5, "c": 100}, EVEN, 2 * PATIENCE)
    with caplog.at_level(logging.WARNING, logger="genrec"):
        run(log, 0)
    assert len(caplog.records) == 1
    assert "task b is starved" in caplog.text
    caplog.clear()
    path.write_text("".join(json.dumps(line) + "\n" for line in log))
    with caplog.at_level(logging.WARNING, logger="genrec"):
        run(lines({"a": 100, "b": 5, "c": 100}, EVEN, PATIENCE, 2 * PATIENCE + 1), log[-1]["step"])
        assert not caplog.records
        # Resumed from before it was said, it is said.
        run(log[PATIENCE - 2 :], log[PATIENCE - 3]["step"])
    assert len(caplog.records) == 1


def test_the_curves_are_an_image_the_same_each_time(tmp_path):
    log = lines({"a": 100, "b": 5}, {"a": 3.0, "b": 2.0})
    log.insert(3, {"step": 60, "valid": {"loss": 2.5, "recall@10": 0.1}})
    for name in ("one.png", "two.png"):
        draw_curves(log, tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert Image.open(tmp_path / "one.png").size == (800, 800)
    draw_curves([], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
