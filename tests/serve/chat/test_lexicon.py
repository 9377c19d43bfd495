"""The words file is whole; text becomes tokens and nothing else."""

from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from genrec.prompts import TemplateError
from genrec.serve.chat.lexicon import clean, load_lexicon, stem, tokens
from genrec.serve.chat.sayings import load_sayings, load_sentences


def test_related_words() -> None:
    words = load_lexicon()
    assert {stem("navy"), stem("teal"), stem("blue")} <= words.meant_by(stem("blue"))
    assert words.meant_by(stem("navy")) == {stem("navy")}  # navy is blue, but blue is not navy
    assert words.meant_by(stem("plaid")) == words.meant_by(stem("checked"))
    assert stem("anorak") in words.meant_by(stem("coats"))
    assert words.meant_by("unheardof") == {"unheardof"}


def test_words_that_yaml_reads_as_truth_values_are_words() -> None:
    words = load_lexicon()
    for name, value in words:
        if isinstance(value, tuple | frozenset):
            assert all(value), name
    assert "no" in words.negations
    assert {"on", "yes"} <= words.filler


@given(st.text(max_size=300))
def test_clean_is_one_line_without_control_characters(text: str) -> None:
    line = clean(text, 50)
    assert len(line) <= 50
    assert line.isprintable()
    assert clean(line, 50) == line


@given(st.text(max_size=300))
def test_tokens_hold_letters_and_digits_only(text: str) -> None:
    for word, _ in tokens(text):
        assert not set(word) & set("<>{}[]_|\\/\x1b\n")


def test_a_sid_token_is_no_token() -> None:
    assert [t.word for t in tokens("<a_12><b_3>")] == ["a", "12", "b", "3"]
    assert [t.word for t in tokens("Don’t: 39.95€, fan-ribbed #2")] == [
        *("don't", "39.95", "€", ",", "fan-ribbed", "#", "2"),
    ]


def test_a_long_text_is_cut() -> None:
    assert len(tokens("word " * 200_000)) <= 400


def test_sentences_are_checked(tmp_path: Path) -> None:
    assert load_sayings()("place", system="{search}", place=1) == "{search} (1)"
    file = tmp_path / "own.yaml"
    for text, message in (
        ("description: d\nwords: {hello: 'hi {name}'}\n", r"words.hello: places \['name'\]"),
        ("description: d\nwords: {bye: x}\n", r"\['bye', 'hello'\] missing or unknown"),
        ("words: 3\n", "Field required"),
        ("[", "own.yaml"),
    ):
        file.write_text(text)
        with pytest.raises(TemplateError, match=message):
            load_sentences(str(file), {"hello": ""})
