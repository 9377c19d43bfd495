"""The layers of the house, held by reading the imports: they point down only."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import genrec

PACKAGE = Path(genrec.__file__).parent
LAYERS = [
    {"schema", "resources", "weights", "keys"},
    {
        *("config", "recipe", "environment", "store", "graph", "prompts", "progress"),
        *("processes", "console"),
    },
    {"data"},
    {"sid", "engines"},
    # exchange writes SIDs as words (sid) beside tables (data); like retrievers it knows no recipe
    {"enrich", "lm", "decode", "retrieve", "evaluate", "exchange"},
    {"recommender"},
    {"stages"},
    {"pipeline", "launch", "show", "show_train", "export", "publish", "ablate"},
    {"cli", "serve", "__main__", "__init__"},
]
DOMAIN = {
    *("data", "sid", "engines", "enrich", "lm", "decode", "retrieve", "evaluate", "exchange"),
}
UNKNOWN_TO_DOMAIN = {"config", "recipe", "environment", "store", "graph", "console"}
MODULES = sorted(PACKAGE.rglob("*.py"))


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def level(name: str) -> int:
    found = [i for i, layer in enumerate(LAYERS) if name in layer]
    assert found, f"genrec/{name} stands in no layer: add it to LAYERS"
    return found[0]


def imports(path: Path) -> set[str]:
    """Rooms of genrec that a file imports, lazily too, type-checking imports left out."""
    tree = ast.parse(path.read_text("utf-8"))
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            skipped |= set(ast.walk(node))
    found = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {room(a.name) for a in node.names if a.name.split(".")[0] == "genrec"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "genrec":
            if node.module == "genrec":
                found |= {a.name for a in node.names if (PACKAGE / a.name).exists()}
                found |= {a.name for a in node.names if (PACKAGE / f"{a.name}.py").exists()}
            else:
                found.add(room(node.module or ""))
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    me = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for other in imports(path) - {me}:
        assert level(other) <= level(me), f"{path.name} in '{me}' imports upward from '{other}'"
        if level(other) == level(me):
            assert me not in DOMAIN, f"'{me}' imports its neighbour '{other}'"
        if me in DOMAIN:
            assert other not in UNKNOWN_TO_DOMAIN, f"'{me}' knows '{other}'"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_room_grows_too_large(path: Path) -> None:
    assert path.name not in {"utils.py", "common.py"}


HEAVY = {
    "torch",
    "transformers",
    "vllm",
    "openai",
    "xgrammar",
    "faiss",
    "sklearn",
    "skimage",
    "datasets",
    "peft",
}


@pytest.mark.parametrize(
    "statement",
    [
        "import genrec",
        "from genrec import Pipeline; Pipeline.load('demo').plan()",
        "from genrec.cli import cli",
        "from genrec.sid import SIDTrie",
        "import genrec.data, genrec.exchange, genrec.retrieve, genrec.evaluate",
        "import genrec.engines, genrec.engines.openai, genrec.engines.vllm, genrec.weights",
        "import genrec.enrich.annotate, genrec.enrich.caption, genrec.enrich.interests",
    ],
)
def test_light_imports_load_no_torch(statement: str) -> None:
    code = f"import sys; {statement}; print(*sorted(set(sys.modules) & {HEAVY - {'sklearn'}!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    assert done.stdout.split() == []
