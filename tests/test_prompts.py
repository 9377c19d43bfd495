"""Templates: what loads, what is refused and how the error reads, what the digest covers."""

from pathlib import Path

import pytest

from genrec.prompts import (
    STYLES,
    TemplateError,
    load_context,
    load_language,
    load_template,
    pieces,
)
from genrec.resources import folder

SHIPPED = sorted(path.stem for path in (folder("prompts") / "tasks").glob("*.yaml"))

GOOD = """
description: a task
compact:
  - {prompt: "{history}", completion: "{target}"}
instruct:
  - {prompt: "After {history} comes", completion: "{target}"}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def load(path):
    return load_template(path, prompt=("history",), completion=("target",))


def test_a_users_own_file_loads(tmp_path):
    template = load(written(tmp_path, GOOD))
    assert template.variants("instruct")[0].prompt == "After {history} comes"
    with pytest.raises(ValueError, match="style 'chatty': expected one of compact, instruct"):
        template.variants("chatty")


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_template_loads(name):
    template = load_template(f"tasks/{name}")
    assert template.description
    assert all(template.variants(style) for style in STYLES)
    assert len(template.instruct) > 1, (
        "paraphrases keep a pretrained model from learning one phrase"
    )


def test_shipped_names_are_complete():
    assert {"history_to_sid", "sid_to_title", "title_to_sid"} <= set(SHIPPED)


def test_missing_template_names_what_ships():
    with pytest.raises(FileNotFoundError, match=r"history_to_sd.*tasks/history_to_sid\.yaml"):
        load_template("tasks/history_to_sd")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('{history}"', '{histroy}"', r"mine\.yaml: compact\.0\.prompt: placeholders {histroy}"),
        ("After {history}", "After", r"instruct\.0\.prompt: placeholders none"),
        (
            "{target}",
            "{target} {target}",
            r"compact\.0\.completion: placeholders {target}, {target}",
        ),
        ('{history}"', '{history"', r"compact\.0\.prompt: expected '}'"),
        ("description: a task", "", r"mine\.yaml: description: Field required"),
        ("description:", "descriptions: x\ndescription:", r"descriptions: Extra inputs"),
        ("completion", "complete", r"compact\.0\."),
        ("instruct:", "instruct: []\nrest:", r"instruct: Tuple should have at least 1 item"),
        ("a task", "[a task", "not readable as YAML"),
    ],
)
def test_a_bad_template_names_file_and_field(tmp_path, old, new, message):
    assert old in GOOD
    with pytest.raises(TemplateError, match=message):
        load(written(tmp_path, GOOD.replace(old, new)))


def test_an_empty_file_is_refused(tmp_path):
    with pytest.raises(TemplateError, match="the whole file"):
        load(written(tmp_path, ""))


def test_digest_covers_content_not_layout(tmp_path):
    digest = load(written(tmp_path, GOOD)).digest
    assert (
        load(
            written(tmp_path, "# a comment\n" + GOOD.replace(", completion", ",  completion"))
        ).digest
        == digest
    )
    assert load(written(tmp_path, GOOD.replace("comes", "follows"))).digest != digest
    assert len(digest) == 64


def test_pieces_split_text_and_placeholders():
    assert pieces("a {x}{y} {{b}}") == (("a ", "x"), ("", "y"), (" {", None), ("b}", None))
    assert pieces("plain") == (("plain", None),)


CONTEXT = (folder("prompts") / "context.yaml").read_text("utf-8")


def test_the_shipped_wording_of_context_has_words_for_everything():
    template = load_context()
    assert len({*template.gap, *template.weekday, *template.month, *template.number}) == 36
    assert template.compact.context.startswith(" "), "a word of its own, behind an item"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{name}{value}", "{name}", r"mine\.yaml: compact\.value: placeholders {name} in"),
        ("({values})", "()", r"mine\.yaml: instruct\.context: placeholders none"),
        ("Monday, ", "", r"mine\.yaml: weekday: Tuple should have at least 7 items"),
        ("seconds, ", "now, seconds, ", r"gap: Tuple should have at most 7 items.*lists of words"),
        ("month:", "moon:", r"mine\.yaml: month: Field required"),
    ],
)
def test_a_bad_wording_of_context_names_file_and_field(tmp_path, old, new, message):
    assert old in CONTEXT
    with pytest.raises(TemplateError, match=message):
        load_context(written(tmp_path, CONTEXT.replace(old, new)))


def test_texts_and_instructions_of_ones_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("texts: [A lamp of brass.]\ninstructions: [{ask: Who, accepts: '\\bme\\b'}]\n")
    assert load_language(path).instructions[0].accepts == r"\bme\b"
    for old, new, message in (
        ("texts: [A", "texts: []\nother: [A", "texts"),
        (r"'\bme\b'", "'(oops'", r"instructions.0.accepts.*'\(oops' is no regular expression"),
        ("accepts", "accept", "instructions.0.accepts: Field required"),
    ):
        bad = tmp_path / "bad.yaml"
        bad.write_text(path.read_text().replace(old, new))
        with pytest.raises(TemplateError, match=message):
            load_language(bad)
