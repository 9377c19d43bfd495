"""recipes/bench/gpu.py in its toy size, where there are four packages and what they need, no more."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
FOUR = ("torch", "transformers", "peft", "accelerate")
RUN = """
import runpy, sys
_, *sys.path[:0], module = sys.argv[:4]
del sys.argv[1:4]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def needed(names: Sequence[str]) -> list[Distribution]:
    """Some installed packages and all that they need, as their metadata says."""
    found: dict[tuple[str, str], Distribution] = {}
    waiting = [(canonicalize_name(name), "") for name in names]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in found:
            continue
        found[name, extra] = distribution(name)
        for text in found[name, extra].requires or ():
            wanted = Requirement(text)
            if wanted.marker is None or wanted.marker.evaluate({"extra": extra}):
                waiting += [(canonicalize_name(wanted.name), own) for own in ("", *wanted.extras)]
    return [own for (_, extra), own in found.items() if not extra]


def site_of(names: Sequence[str], folder: Path) -> Path:
    """A folder for `sys.path` with links to the files of some packages and of what they need."""
    folder.mkdir()
    for own in needed(names):
        for top in {file.parts[0] for file in own.files or ()} - {"..", "__pycache__"}:
            if not (folder / top).is_symlink():
                (folder / top).symlink_to(own.locate_file(top))
    return folder


def run(site: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a module in a Python that sees `site`, the repository and the standard library alone."""
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", RUN, str(site), str(ROOT), module, *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def test_it_runs_where_there_is_nothing_else(tmp_path: Path) -> None:
    site, out = site_of(FOUR, tmp_path / "site"), tmp_path / "gpu.json"
    for absent in ("polars", "datasets", "scipy", "pydantic"):
        assert f"No module named {absent}" in run(site, absent).stderr
    done = run(site, "recipes.bench.gpu", "--toy", "--minutes", "5", "--out", str(out))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    sections = json.loads(out.read_text())["sections"]
    rows = {name: section["rows"] for name, section in sections.items()}
    assert {*rows} == {"decode", "train", "tests"}
    assert sum("users_per_s" in row for row in rows["decode"]) == 6
    assert sum("tokens_per_s" in row for row in rows["train"]) >= 10
    skipped = [row["skipped"] for section in rows.values() for row in section if "skipped" in row]
    assert "no time left" not in skipped


def test_the_tests_of_a_gpu_are_collected_there_by_pytest_alone(tmp_path: Path) -> None:
    site = site_of([*FOUR, "pytest"], tmp_path / "site")
    arguments = ["--noconftest", "-m", "gpu", "--collect-only", "tests/test_gpu.py"]
    done = run(site, "pytest", *arguments)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count("tests/test_gpu.py::") >= 10
