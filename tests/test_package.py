"""What a user gets: the wheel carries prompts, recipes and the licence, and works on its own."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    pytest.importorskip("hatchling", reason="hatchling builds the wheel; it is in the dev extra")
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        check=True,
        cwd=ROOT,
        capture_output=True,
    )
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_wheel_carries_prompts_recipes_and_templates(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    for kind in ("prompts", "recipes"):
        for path in (ROOT / kind).rglob("*.yaml"):
            assert f"genrec/_data/{kind}/{path.relative_to(ROOT / kind).as_posix()}" in names
    assert "genrec/evaluate/report.html.j2" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    for path in (ROOT / "genrec/serve/web").rglob("*.*"):
        assert path.suffix == ".pyc" or path.relative_to(ROOT).as_posix() in names


def test_wheel_works_outside_the_checkout(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path / "site")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        "import genrec; assert '/site/' in genrec.__file__, genrec.__file__\n"
        "p = genrec.Pipeline.load('demo'); print(p.plan()[0].status, len(p.nodes))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.stdout == "run 16\n", done.stderr
