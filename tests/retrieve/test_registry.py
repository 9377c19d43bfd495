"""Retrievers by kind."""

from pathlib import Path

import pytest

from genrec import registry
from genrec.retrieve import Popular
from genrec.retrieve.files import open_retriever


def test_every_kind_of_a_recipe_has_its_class_with_the_same_settings() -> None:
    kinds = registry.parts("retrievers")
    stages_own = {"kind", "name", "k", "views", "queries", "held_out", "index"}
    for kind, section in kinds.items():
        options = section().model_dump(exclude=stages_own)
        made = registry.implementation(section)(
            **options
        )  # refuses a setting that it does not have
        assert made.kind == kind
        for name, value in options.items():
            assert getattr(made, name) == value
        default = registry.implementation(section)()  # a default is written twice: there and here
        assert all(getattr(default, name) == value for name, value in options.items())


def test_opens_what_was_saved(tmp_path: Path) -> None:
    Popular().fit([[1, 2], [2]], num_items=3).save(tmp_path)
    assert isinstance(open_retriever(tmp_path), Popular)


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"retriever\.json"):
        open_retriever(tmp_path)
    (tmp_path / "retriever.json").write_text('{"kind": "magic"}')
    with pytest.raises(ValueError, match=r"damaged .*'magic'"):
        open_retriever(tmp_path)
    (tmp_path / "retriever.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        open_retriever(tmp_path)
