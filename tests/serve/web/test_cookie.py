"""The cookie is worth something for its key and its time alone."""

import pytest

from genrec.serve.web.cookie import LIFETIME, issue, valid

KEY = "a key of the owner's"


def test_it_is_valid_until_its_time_is_over() -> None:
    value = issue(KEY, now=1000)
    assert valid(KEY, value, now=1000)
    assert valid(KEY, value, now=999 + LIFETIME)
    assert not valid(KEY, value, now=1000 + LIFETIME)
    assert valid(KEY, issue(KEY))
    assert KEY not in value


def test_another_key_makes_it_worthless() -> None:
    assert not valid("another key", issue(KEY))


@pytest.mark.parametrize("forged", ["", ".", "x", "9999999999", "9999999999.", "é.ü", ".." * 50])
def test_what_was_not_issued(forged: str) -> None:
    assert not valid(KEY, forged)


def test_a_longer_time_needs_the_key() -> None:
    expires, _, signature = issue(KEY, now=1000).partition(".")
    assert not valid(KEY, f"{int(expires) + 1}.{signature}", now=1000)
