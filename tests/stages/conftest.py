"""The tiny models of tests/engines, here too."""

import importlib.util
from pathlib import Path

_file = Path(__file__).parents[1] / "engines" / "conftest.py"
_spec = importlib.util.spec_from_file_location("tiny_engines", _file)
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
tiny_lm, tiny_vlm = _module.tiny_lm, _module.tiny_vlm
