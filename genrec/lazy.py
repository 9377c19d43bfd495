"""Names of a package that are imported when they are first used.

What `lazy-loader` (SPEC 1) makes of a stub file, without a package more: decoding and training run where
torch, transformers, peft and accelerate are, and nothing else.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def attach_stub(
    package: str, file: str
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Returns `__getattr__`, `__dir__` and `__all__` of a package, of the names in its stub.

    Args:
        package: its `__name__`.
        file: its `__file__`; next to it lies `__init__.pyi`, of `from .module import Name as Name`.
    """
    stub = ast.parse(Path(file).with_suffix(".pyi").read_text("utf-8"))
    homes = {
        alias.name: f"{package}.{node.module}"
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    def __getattr__(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(homes[name]), name)

    return __getattr__, lambda: sorted(homes), sorted(homes)
