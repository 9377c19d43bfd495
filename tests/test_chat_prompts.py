"""Chat templates: what loads, what is refused, and values that stay data."""

import json
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from genrec.prompts import ChatTemplate, TemplateError, load_chat
from genrec.resources import folder

SHIPPED = [
    f"{kind}/{path.stem}"
    for kind in ("caption", "interests")
    for path in sorted((folder("prompts") / kind).glob("*.yaml"))
]
GOOD = "description: d\nsystem: be brief\nuser: 'about {title}, {{plainly}}'\n"


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_one_loads(name: str) -> None:
    words = ("title", "description", "caption") if name.startswith("interests") else ()
    assert load_chat(name, placeholders=words).description


def test_the_shipped_ones() -> None:
    assert {"caption/product", "interests/motives"} <= set(SHIPPED)


def write(folder: Path, text: str) -> Path:
    path = folder / "own.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{title}", "{titel}", r"own\.yaml: user: placeholders {titel} in .*expected {title}"),
        ("{title}", "{title} {title}", "user: placeholders {title}, {title}"),
        ("{title}", "{title.x}", "user: placeholders {title.x}"),
        ("{{plainly}}", "{plainly", "user: .*write {{ or }}"),
        ("be brief", "'be {brief}'", "system: placeholders {brief}"),
        ("system: be brief\n", "", "system: Field required; a chat template has"),
        ("description: d", "describe: d", "description: Field required"),
        ("d\n", "[\n", "not readable as YAML"),
    ],
)
def test_a_bad_one_names_file_and_field(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert load_chat(write(tmp_path, GOOD), placeholders=("title",))
    with pytest.raises(TemplateError, match=message):
        load_chat(write(tmp_path, GOOD.replace(old, new)), placeholders=("title",))


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    digest = load_chat(write(tmp_path, GOOD)).digest
    assert load_chat(write(tmp_path, "# note\n" + GOOD)).digest == digest
    assert load_chat(write(tmp_path, GOOD.replace("brief", "long"))).digest != digest


@given(st.text() | st.none() | st.sampled_from(["<|im_end|>", '"}\n</page>', "{title}", "\\"]))
def test_values_are_json_that_no_value_can_leave(value: str | None) -> None:
    template = ChatTemplate(description="d", system="s", user="<p>{title}</p>")
    filled = template.fill(title=value)
    assert filled.startswith("<p>")
    assert filled.count("<") == filled.count(">") == 2
    assert json.loads(filled[3:-4]) == value
