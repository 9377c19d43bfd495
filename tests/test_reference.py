"""The reference of all settings: complete, up to date, and made without torch."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from pydantic import Field

from genrec import reference, registry
from genrec.cli import cli
from genrec.recipe import Recipe
from genrec.settings import Section


def test_the_written_reference_is_up_to_date() -> None:
    assert reference.check() == ""


def test_it_has_every_kind_and_every_field_of_each() -> None:
    text = reference.reference()
    for name in Recipe.model_fields:
        assert f"`{name}`" in text
    for group, path in {"sources": "prepare.source", "retrievers": "retrieve"}.items():
        for kind, home in registry.BUILT_IN[group].items():
            part = text.split(f"`{path}`: {kind}\n")[1].split("\n#")[0]
            for field in registry.resolve(home).model_fields.keys() - {"kind"}:
                assert f"| `{field}` |" in part, f"{kind}.{field}"
    for task in registry.BUILT_IN["tasks"]:
        assert f"| `{task}` |" in text


def test_what_is_said_of_one_field() -> None:
    lines = reference.reference("embed").splitlines()
    assert lines[0] == "# `embed`"
    assert (
        "| `image_size` | integer, ≥ 16 | `448` | pixels; images are fitted into a white square of "
        "this side |"
    ) in lines
    text = reference.reference("caption")
    assert "| `prompt`° | text | `caption/product` |" in text  # enters no fingerprint
    assert "| `engine` | [by `kind`](#captionengine) | `{kind: none}` | |" in text
    assert "| `model` | path or name | required |" in text


def test_a_field_without_words_of_its_own_has_those_that_it_inherits() -> None:
    text = reference.reference("retrieve").split("`retrieve`: sasrec\n")[1]
    assert "| `patience` | integer, ≥ 1 | `8` | epochs without a gain before stopping |" in text


def test_settings_of_other_packages_are_left_out() -> None:
    foreign = type("Foreign", (Section,), {"__module__": "elsewhere"})
    assert reference._sections(foreign | Recipe) == [Recipe]


def test_a_bar_in_a_description_does_not_end_its_cell() -> None:
    class Barred(Section):
        """Something."""

        field: int = Field(1, description="a|b")

    assert r"| a\|b |" in reference._row("field", Barred.model_fields["field"], "", "a|b")


def test_a_stale_reference_is_named_and_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "settings.md"
    monkeypatch.setattr(reference, "_file", lambda: file)
    assert CliRunner().invoke(cli, ["docs", "--check"]).exit_code == 1
    assert CliRunner().invoke(cli, ["docs", "--write"]).exit_code == 0
    assert CliRunner().invoke(cli, ["docs", "--check"]).exit_code == 0
    file.write_text(file.read_text("utf-8").replace("| `5` | k-core", "| `6` | k-core"), "utf-8")
    done = CliRunner().invoke(cli, ["docs", "--check"])
    assert done.exit_code == 1
    assert "-| `core` | integer, ≥ 0 | `6` |" in done.output
    assert "+| `core` | integer, ≥ 0 | `5` |" in done.output
    assert done.output.endswith("genrec docs --write\n")


def test_one_section_is_printed_and_an_unknown_one_named() -> None:
    printed = CliRunner().invoke(cli, ["docs", "fuse"]).output
    assert printed.startswith("# `fuse`")
    assert "`rrf_k`" in printed
    assert "trian" in str(CliRunner().invoke(cli, ["docs", "trian"]).exception)


def test_docs_loads_nothing_heavy() -> None:
    code = (
        "import sys; from genrec import reference; reference.reference(); "
        "print(sorted({'torch', 'transformers', 'faiss', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
