"""Sizes by the data: what they depend on, and that they can be built."""

import pytest
from pydantic import ValidationError

from genrec.lm.settings import SIZE, ScratchSettings
from genrec.lm.sizes import Size, auto_size, size_for


def test_more_data_is_never_a_smaller_model() -> None:
    counts = [10**power for power in range(1, 10)]
    sizes = [auto_size(users=9, items=9, interactions=count) for count in counts]
    assert [s.hidden for s in sizes] == sorted(s.hidden for s in sizes)
    assert [s.dropout for s in sizes] == sorted((s.dropout for s in sizes), reverse=True)
    for size in sizes:
        assert size.hidden % (2 * size.heads) == 0
        assert 64 <= size.hidden <= 512
        assert ScratchSettings(**size._asdict())
    assert Size._fields == SIZE


def test_what_prepare_counted_is_enough() -> None:
    stats = {"users": 8317, "items": 4344, "interactions": 58492, "density": 0.1}
    assert size_for(stats) == Size(hidden=256, layers=2, heads=8, dropout=0.25)


def test_no_data_has_no_size() -> None:
    with pytest.raises(ValueError, match="0 interactions; expected 1 or more"):
        auto_size(users=1, items=1, interactions=0)


def test_auto_and_numbers_contradict_each_other() -> None:
    with pytest.raises(ValidationError, match="size=auto chooses hidden, dropout itself"):
        ScratchSettings(size="auto", hidden=64, dropout=0.1)
