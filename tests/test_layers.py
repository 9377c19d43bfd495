"""The layers of the house, held by reading the imports: they point down only."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import genrec

PACKAGE = Path(genrec.__file__).parent
LAYERS = [
    {
        *("settings", "registry", "schema", "resources", "weights", "keys", "progress"),
        *("processes", "console", "extras", "gguf", "lazy"),
    },
    {"ranking"},
    {"recipe", "recipe_text", "environment", "store", "graph", "prompts"},
    {"data"},
    {"sid", "engines", "demo"},
    {"data.formats"},  # writes and reads SIDs (sid) beside tables (data)
    {"enrich", "lm", "decode", "retrieve", "evaluate"},
    {"analysis"},
    {"recommender"},
    {"bundle", "dataset", "recommendations"},
    {"stages"},
    {
        *(
            "ablate",
            "export",
            "init",
            "launch",
            "lists",
            "pipeline",
            "publish",
            "reference",
            "runs",
            "show",
            "sizes",
            "sniff",
            "tune",
        ),
    },
    {"cli", "serve", "__main__", "__init__"},
]
DOMAIN = {
    *("data", "data.formats", "demo", "sid", "engines", "enrich", "lm", "decode", "retrieve"),
    *("evaluate", "analysis"),
}
UNKNOWN_TO_DOMAIN = {"recipe", "store", "graph", "console"}
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def room(module: str) -> str:
    """Returns the room of a module; settings lie below all else, whatever they are settings of."""
    parts = module.split(".")[1:]
    if not parts:
        return "__init__"
    if parts[-1] == "settings" and parts[0] != "serve":
        return "settings"
    return "data.formats" if parts[:2] == ["data", "formats"] else parts[0]


def level(name: str) -> int:
    found = [i for i, layer in enumerate(LAYERS) if name in layer]
    assert found, f"genrec/{name} is in no layer: add it to LAYERS"
    return found[0]


def imports(module: str) -> set[str]:
    """Modules of genrec that one imports, lazily too; imports for type checkers are left out."""
    tree = ast.parse(MODULES[module].read_text("utf-8"))
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            skipped |= set(ast.walk(node))
    names = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            within = {f"{node.module}.{alias.name}" for alias in node.names}
            within -= {"genrec.__version__"}  # a number, no module
            names |= {name if name in MODULES else str(node.module) for name in within}
    return names & MODULES.keys() - {module, "genrec"}  # of which only `__version__` is wanted


IMPORTS = {module: imports(module) for module in MODULES}


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    me = room(module)
    for imported in IMPORTS[module]:
        other = room(imported)
        if other == me:
            continue
        assert level(other) <= level(me), f"{module} imports upward: {imported}"
        if level(other) == level(me):
            assert me not in DOMAIN, f"{module} imports its neighbour {imported}"
        if me in DOMAIN:
            assert other not in UNKNOWN_TO_DOMAIN, f"{module} knows {imported}"


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Lazy imports count. A package's `__init__` gathers names, so it is no station of a cycle."""
    files = {m: {i for i in IMPORTS[m] if MODULES[i].name != "__init__.py"} for m in MODULES}
    list(TopologicalSorter(files).static_order())  # raises CycleError, with the modules


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
        "import genrec.data, genrec.data.formats, genrec.retrieve, genrec.evaluate",
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
