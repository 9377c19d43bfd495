"""Texts of shops, as a reader would see them."""

import pytest

from genrec.data.text import as_text, without_markup


@pytest.mark.parametrize(
    ("written", "seen"),
    [
        ("Tom &amp; Jerry&#39;s", "Tom & Jerry's"),
        ("Tom &amp;amp; Jerry", "Tom & Jerry"),
        ("<b>big</b>ger<br/>cup", "bigger cup"),
        ("a&lt;br&gt;b", "a b"),
        ("<p class='x'>one</p><p>two</p>", "one two"),
        ("under <5 kg, I <3 it, a<b", "under <5 kg, I <3 it, a<b"),
        ("<script>steal()</script>safe<!-- no -->", "safe"),
        ("<style>\n.a{}</style>\n x", "x"),
        ("a\u00a0 b\n\tc", "a b c"),
        ("&nbsp;", None),
        ("", None),
        (None, None),
    ],
)
def test_without_markup(written: str | None, seen: str | None) -> None:
    assert without_markup(written) == seen


def test_as_text() -> None:
    assert as_text([["a", "b"], None, ["c"]]) == "a, b, c"
    assert as_text(["one.", "two."], " ") == "one. two."
    assert as_text([]) is None
    assert as_text({"b": 1, "a": "é"}) == '{"a": "é", "b": 1}'
    assert as_text(" =1+1 ") == "=1+1"
    assert as_text(0) == "0"
