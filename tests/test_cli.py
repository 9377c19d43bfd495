"""The command line: light, complete, and kind to mistakes."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from genrec.cli import cli, main
from genrec.pipeline import STAGES
from genrec.show import registries

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "faiss", "skimage", "datasets")


def run(*args: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "genrec", *args], capture_output=True, text=True, cwd=cwd
    )


@pytest.mark.parametrize(
    "args", [["--help"], ["plan", "recipes/demo.yaml"], ["list", "retrievers"], ["run", "--help"]]
)
def test_looking_imports_nothing_heavy(args: list[str]) -> None:
    code = (
        "import sys, genrec.cli\n"
        f"try: genrec.cli.cli({args!r})\n"
        "except SystemExit: pass\n"
        f"print('HEAVY', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "HEAVY []", done.stdout + done.stderr


def test_every_stage_is_a_verb() -> None:
    assert {stage.name for stage in STAGES} <= set(cli.commands)


def test_mistakes_are_one_message_without_a_traceback(tmp_path: Path) -> None:
    done = run("plan", str(ROOT / "recipes/demo.yaml"), "quantize.levles=2", cwd=tmp_path)
    assert done.returncode == 2
    assert "did you mean 'levels'" in done.stderr
    assert "Traceback" not in done.stderr
    done = run("train", "demo", f"runtime.store={tmp_path}", cwd=tmp_path)
    assert done.returncode == 2
    assert "train needs prepare, which is not there yet; run: genrec prepare demo" in done.stderr
    assert f"genrec run demo runtime.store={tmp_path} --to train" in done.stderr


def test_a_loss_of_nan_is_one_message_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def diverged(**_: object) -> None:
        raise FloatingPointError("the loss is nan in epoch 3; lower lr")

    monkeypatch.setattr("genrec.cli.cli", diverged)
    monkeypatch.delenv("GENREC_TRACEBACK", raising=False)
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith("error: the loss is nan in epoch 3; lower lr\n")


def test_options_and_overrides_mix(tmp_path: Path) -> None:
    args = ["run", "demo", f"runtime.store={tmp_path}", "--to", "nowhere", "seed=2"]
    result = CliRunner().invoke(cli, args)
    assert isinstance(result.exception, KeyError)
    assert "no such stage" in str(result.exception)


@pytest.mark.parametrize("kind", list(registries()))
def test_list_says_something_of_each(kind: str) -> None:
    result = CliRunner().invoke(cli, ["list", kind])
    lines = result.output.splitlines()
    assert lines
    assert all(len(line.split(maxsplit=1)) == 2 for line in lines), lines


def test_list_of_nothing_known() -> None:
    done = run("list", "retreivers")
    assert done.returncode == 2
    assert "retrievers" in done.stderr
