"""Sizes by the data: what they depend on, and that they can be built."""

from typing import Any

import pytest
from pydantic import ValidationError

from genrec.lm.settings import SIZE, ScratchSettings, Train
from genrec.lm.sizes import Size, auto_lr, auto_size, by_data, chosen, settled

COUNTS = {"users": 8317, "items": 4344, "interactions": 240_000}
STATS = COUNTS | {"density": 0.1}


def test_more_data_is_never_a_smaller_model() -> None:
    counts = [10**power for power in range(1, 10)]
    sizes = [auto_size(users=9, items=9, interactions=count) for count in counts]
    assert sizes[0] == Size(hidden=256, layers=2, heads=8, dropout=0.2)
    assert [s.hidden for s in sizes] == sorted(s.hidden for s in sizes)
    assert [s.dropout for s in sizes] == sorted((s.dropout for s in sizes), reverse=True)
    for size in sizes:
        assert size.hidden % (2 * size.heads) == 0
        assert 256 <= size.hidden <= 512
        assert ScratchSettings(**size._asdict())
    assert Size._fields == SIZE


def test_a_rate_goes_with_the_width() -> None:
    assert [auto_lr(width) for width in (128, 256, 512)] == pytest.approx([2e-3, 1e-3, 5e-4])


@pytest.mark.parametrize(
    ("section", "fields"),
    [
        ({}, {}),
        ({"lr": "auto"}, {"lr": 2e-3}),
        ({"model": {"kind": "scratch", "hidden": 64}, "lr": "auto"}, {"lr": 4e-3}),
        ({"model": {"kind": "scratch", "size": "auto"}, "lr": 0.1}, {"model.hidden": 512}),
        (
            {"model": {"kind": "scratch", "size": "auto"}, "lr": "auto"},
            {"model.hidden": 512, "lr": 5e-4},
        ),
        ({"model": {"kind": "pretrained", "name": "some/model"}}, {}),
    ],
)
def test_what_auto_stands_for(section: dict[str, Any], fields: dict[str, Any]) -> None:
    train = Train(**section)
    values = chosen(train, STATS)
    assert {name: values[name] for name in fields} == pytest.approx(fields)
    assert bool(values) == bool(fields) == bool(by_data(train))
    found = settled(train, STATS)
    assert by_data(found) == ()
    assert chosen(found, STATS) == {}
    assert Train(**found.model_dump()) == found, "it is a section like any other"
    if "model.hidden" in fields:
        assert found.model.model_dump(include={*SIZE}) == auto_size(**COUNTS)._asdict()
    if "lr" not in fields:
        assert found.lr == train.lr
    assert (found.epochs, found.model.kind) == (train.epochs, train.model.kind)


def test_a_pretrained_model_has_no_rate_by_its_width() -> None:
    with pytest.raises(ValidationError, match="lr=auto: is known for models from scratch alone"):
        Train(model={"kind": "pretrained", "name": "some/model"}, lr="auto")


def test_no_data_has_no_size() -> None:
    with pytest.raises(ValueError, match="0 interactions; expected 1 or more"):
        auto_size(users=1, items=1, interactions=0)


def test_auto_and_numbers_contradict_each_other() -> None:
    with pytest.raises(
        ValidationError,
        match="size=auto chooses hidden, dropout itself: leave it to auto, or set size=null",
    ):
        ScratchSettings(size="auto", hidden=64, dropout=0.1)


@pytest.mark.parametrize("lr", [0, -1, float("inf"), float("nan"), "automatic"])
def test_a_rate_is_a_finite_number_above_zero_or_auto(lr: Any) -> None:
    with pytest.raises(ValidationError, match="lr"):
        Train(lr=lr)
