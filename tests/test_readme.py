"""The guides: what they say to type exists, their links lead somewhere, README's Python runs."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from genrec.cli import cli
from genrec.recipe import Recipe
from genrec.reference import anchor

ROOT = Path(__file__).parents[1]
GUIDES = [
    *ROOT.glob("*.md"),
    *(p for room in ("genrec", "recipes", "prompts", "tests") for p in (ROOT / room).rglob("*.md")),
]
TEXTS = {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in sorted(GUIDES)}
README = TEXTS["README.md"]
_FENCE = re.compile(r"^[ \t]*```(\w*)\n(.*?)^[ \t]*```", re.M | re.S)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def blocks(text: str, language: str) -> list[str]:
    return [body for name, body in _FENCE.findall(text) if name == language]


def commands(text: str) -> Iterator[str]:
    """What is to be typed: lines of shell blocks, and code within a line."""
    for block in blocks(text, "bash"):
        yield from (line.split(" #")[0].strip() for line in block.splitlines())
    yield from re.findall(r"`([^`]+)`", " ".join(_FENCE.sub("", text).split()))


@pytest.mark.parametrize("number", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_python_of_the_readme_runs_word_by_word(number: int, tmp_path: Path) -> None:
    snippets = blocks(README, "python")
    assert len(snippets) == 2
    done = subprocess.run(
        [sys.executable, "-c", snippets[number]],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": "", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    expected = (["bob", "stove", "a guest", "lamp"], ["[[", "True, True"])[number]
    assert all(part in done.stdout for part in expected), done.stdout


def test_the_readme_is_for_ten_minutes() -> None:
    assert len(README.splitlines()) <= 200


@pytest.mark.parametrize("guide", TEXTS)
def test_links_resolve(guide: str) -> None:
    for target in _LINK.findall(_FENCE.sub("", TEXTS[guide])):
        if re.match(r"\w+:", target):
            continue
        path, _, fragment = target.partition("#")
        file = ((ROOT / guide).parent / path).resolve() if path else ROOT / guide
        assert file.exists(), f"{guide}: {target}: there is no {file}"
        assert file.is_relative_to(ROOT), f"{guide}: {target}: not in the repository"
        if fragment:
            assert fragment in anchors(file), f"{guide}: {target}: no such heading"


def anchors(file: Path) -> set[str]:
    text = _FENCE.sub("", file.read_text("utf-8"))
    return {anchor(heading) for heading in re.findall(r"^#+ (.+)$", text, flags=re.M)}


def test_verbs_options_and_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    checked = 0
    for guide, text in TEXTS.items():
        for command in commands(text):
            if typed := re.match(r"(?:.* -m )?(?:\S+=\S+ )*genrec ([a-z]\w*)(.*)", command):
                verb, rest = typed.groups()
                assert verb in cli.commands, f"{guide}: genrec {verb}"
                known = {option for part in cli.commands[verb].params for option in part.opts}
                for option in re.findall(r"(?<=[\s\[])--?[a-z][a-z-]*", rest):
                    assert option in known, f"{guide}: genrec {verb} {option}"
                checked += 1
            elif typed := re.match(r"make ([a-z][\w-]*)", command):
                assert f"\n{typed[1]}:" in makefile, f"{guide}: make {typed[1]}"
    assert checked > 40


def test_files_and_extras_that_are_typed_exist() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    for guide, text in TEXTS.items():
        for path in re.findall(
            r"(?<![\w/.])(?:recipes|prompts|tests(?!/x/))/[\w/-]+\.(?:yaml|py)", text
        ):
            assert (ROOT / path).is_file(), f"{guide}: {path}"
        for module in re.findall(r"python -m (recipes[\w.]+)", text):
            assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), f"{guide}: {module}"
        for names in re.findall(r'pip install (?:-e )?["\']?\S*\[([\w,]+)\]', text):
            assert set(names.split(",")) <= extras.keys(), f"{guide}: the extras {names}"
        assert not re.search(r"pip install ['\"]?genrec\b", text), (
            f"{guide}: no registry has genrec"
        )


def test_settings_that_are_typed_exist() -> None:
    checked = 0
    for guide, text in TEXTS.items():
        for command in commands(text):
            for key in re.findall(r"(?<![\w.-])([a-z]\w*(?:\.[a-z]\w*)+)=", command):
                if key.split(".")[0] in Recipe.model_fields:
                    assert has(Recipe, key.split(".")), f"{guide}: {key}"
                    checked += 1
    assert checked > 10


def has(annotation: Any, names: list[str]) -> bool:
    """Whether a dotted name is a setting of an annotation, or of a section within it."""
    if not names:
        return True
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        kind = annotation.model_fields.get("kind")
        if kind is not None and kind.default == names[0]:  # a part of a list, by its name
            return has(annotation, names[1:])
        field = annotation.model_fields.get(names[0])
        return field is not None and has(field.annotation, names[1:])
    return any(has(part, names) for part in get_args(annotation))


def test_what_does_not_exist_is_found() -> None:
    assert not has(Recipe, ["quantize", "levles"])
    assert has(Recipe, ["train", "model", "tune"])
    assert has(Recipe, ["retrieve", "ease", "l2"])
    assert not has(Recipe, ["retrieve", "ease", "l3"])
    assert list(commands("```bash\ngenrec run x --to y # z\n```\nor `make demo`")) == [
        "genrec run x --to y",
        "make demo",
    ]
    assert anchors(ROOT / "README.md") >= {"two-commands", "in-python"}
