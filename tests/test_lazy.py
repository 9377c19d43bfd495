"""Names of a package are imported when they are used, as its stub says."""

import sys
from pathlib import Path

import pytest


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path / "shelf_of_names"
    folder.mkdir()
    init = "from genrec.lazy import attach_stub\n"
    init += "__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)\n"
    (folder / "__init__.py").write_text(init)
    stub = "from .heavy import Lamp as Lamp, light as light\nfrom .other import Desk as Desk\n"
    (folder / "__init__.pyi").write_text(stub)
    (folder / "heavy.py").write_text("class Lamp: ...\ndef light(): return 'on'\n")
    (folder / "other.py").write_text("raise AssertionError('nobody asked for a desk')\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield folder.name
    for name in [name for name in sys.modules if name.split(".")[0] == folder.name]:
        del sys.modules[name]


def test_a_name_is_imported_when_it_is_used(package: str) -> None:
    module = __import__(package)
    assert module.__all__ == dir(module) == ["Desk", "Lamp", "light"]
    assert f"{package}.heavy" not in sys.modules
    assert module.light() == "on"
    assert f"{package}.heavy" in sys.modules
    assert f"{package}.other" not in sys.modules


def test_an_unknown_name_is_an_error_that_says_where(package: str) -> None:
    with pytest.raises(AttributeError, match=f"'{package}' has no attribute 'Chair'"):
        _ = __import__(package).Chair
