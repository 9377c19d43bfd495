"""Retrievers by kind."""

from pathlib import Path
from typing import get_args

import pytest

from genrec import recipe
from genrec.config import retrieve as sections
from genrec.retrieve import Popular
from genrec.retrieve.registry import KINDS, open_retriever, retriever_class


def test_every_kind_of_a_recipe_has_its_class_with_the_same_settings() -> None:
    kinds = recipe.kinds(get_args(sections.Retriever)[0])
    assert set(kinds) == set(KINDS)
    stages_own = {"kind", "name", "k", "views", "queries", "held_out", "index"}
    for kind, section in kinds.items():
        options = section().model_dump(exclude=stages_own)
        made = retriever_class(kind)(**options)  # refuses a setting that it does not have
        assert made.kind == kind
        for name, value in options.items():
            assert getattr(made, name) == value
        default = retriever_class(kind)()  # a default is written twice: there and here
        assert all(getattr(default, name) == value for name, value in options.items())


def test_opens_what_was_saved(tmp_path: Path) -> None:
    Popular().fit([[1, 2], [2]], num_items=3).save(tmp_path)
    assert isinstance(open_retriever(tmp_path), Popular)


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"retriever\.json"):
        open_retriever(tmp_path)
    (tmp_path / "retriever.json").write_text('{"kind": "magic"}')
    with pytest.raises(ValueError, match=r"damaged .*'magic': no such retriever"):
        open_retriever(tmp_path)
    (tmp_path / "retriever.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        open_retriever(tmp_path)
