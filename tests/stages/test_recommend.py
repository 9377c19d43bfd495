"""The recipe's engine section becomes an engine, and processes that cannot share are refused."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import polars as pl
import pytest

from genrec import Pipeline, recipe, schema
from genrec.bundle import Bundle, served_name
from genrec.progress import silent
from genrec.recommender import Recommender
from genrec.stages import Context, recommend
from genrec.store import Artifact

ROOT = Path(__file__).parents[2]
SIDS = np.array([[0, 0], [0, 1], [0, 1], [0, 1], [1, 0]])


def trained(sha: str = "0") -> Artifact:
    """Returns an artifact of the train stage with one file of such a content."""
    files = {"merged/model.safetensors": {"bytes": 1, "sha256": sha}}
    return Artifact("train", "ab", Path("trained"), "summary.json", {"files": files})


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Returns what `Recommender.load` is given for a recipe's engine."""

    def given(*overrides: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        monkeypatch.setattr(
            Recommender, "load", lambda folder, sids, **options: found.update(options)
        )
        settings = [f"recommend.engine{override}" for override in overrides]
        settings += ["train.max_length=77", "runtime.batch_size=5"]
        np.save(tmp_path / "sids.npy", SIDS)
        artifacts = {"train": trained(), "quantize": mock.Mock(path=tmp_path)}
        Bundle(recipe.load("demo", settings), artifacts).load_llm(device="meta")
        assert (found.pop("max_length"), found.pop("batch_size")) == (77, 5)
        return found

    return given


def test_options_of_hf(loaded: Any) -> None:
    chosen = {"engine": "hf", "device": "meta"}
    chosen |= {"strategy": "auto", "head": "auto", "dtype": "float32"}
    assert loaded() == chosen
    assert loaded("={head: sid, memory_gb: 1.5, certify: true, max_beams: 99}") == {
        **chosen,
        "head": "sid",
        "memory_budget": 1_500_000_000,
    }


def test_options_of_vllm(loaded: Any) -> None:
    chosen = {"engine": "vllm", "gpu_memory_utilization": 0.9, "dtype": "float32"}
    assert loaded(".kind=vllm") == chosen
    assert loaded("={kind: vllm, max_model_len: 99, options: {seed: 3}}") == {
        **chosen,
        "max_model_len": 99,
        "seed": 3,
    }


def test_options_of_a_server(loaded: Any) -> None:
    name = served_name(trained())
    url, here = "http://gpu:8000/v1", "http://127.0.0.1:8000/v1"
    chosen = {"engine": "vllm-serve", "key": None, "timeout": 60, "max_retries": 2}
    assert loaded(".kind=vllm-serve") == {**chosen, "base_url": here, "model": name}
    given = loaded(f"={{kind: vllm-serve, base_url: '{url}', model: mine, key: KEY, timeout: 5}}")
    assert given == {**chosen, "base_url": url, "model": "mine", "key": "KEY", "timeout": 5}
    other = served_name(trained("1"))
    assert other != name, "other weights must not be found under the same name"


def test_where_a_server_is_does_not_name_the_artifact() -> None:
    ways = ("{kind: vllm-serve}", "{kind: vllm-serve, base_url: 'http://gpu:1/v1', timeout: 9}")
    plans = [Pipeline.load("demo", f"recommend.engine={way}").plan() for way in ways]
    assert plans[0] == plans[1]


@pytest.mark.parametrize("kind", ["vllm", "vllm-serve"])
def test_vllm_under_several_processes_is_refused(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    chosen = recipe.load("demo", [f"recommend.engine.kind={kind}"])
    inputs: Any = dict.fromkeys(["prepare", "compose", "train", "quantize"])
    nothing: Any = None
    with pytest.raises(ValueError, match=r"tensor_parallel_size"):
        recommend.run(Context(chosen, chosen.recommend, inputs, Path(), nothing, silent))


@pytest.mark.vllm
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
def test_vllm_writes_the_table_of_hf(tiny: list[str], tmp_path: Path, vllm_server: Any) -> None:
    args = [*tiny, f"runtime.store={tmp_path}", "embed={text: null, behaviour: {dim: 8}}"]
    args += ["train.model.hidden=64"]  # vLLM's attention takes heads of 32 and more
    # Two sets of SIDs, and a code's probability among those of its level and set.
    args += ["quantize.sets=[{}, {levels: 2, codes: 8}]", "train.softmax=codes"]
    Pipeline.load("demo", *args).run(to="recommend")
    other = ["recommend.engine.kind=vllm", "recommend.engine.options.enforce_eager=true"]
    done = subprocess.run(
        [sys.executable, "-m", "genrec", "recommend", "demo", *args, *other],
        env={"VLLM_CPU_KVCACHE_SPACE": "1", **os.environ},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    command = [sys.executable, str(ROOT / "recipes" / "vllm" / "serve.py"), "demo", *args]
    command += ["--constraint", str(tmp_path / "constraint.safetensors"), "--", "--enforce-eager"]
    with vllm_server(command, tmp_path / "log.txt") as address:
        server = [f"recommend.engine={{kind: vllm-serve, base_url: {address}/v1}}"]
        Pipeline.load("demo", *args, *server).run(to="recommend")
    hf = Pipeline.load("demo", *args)["recommend"].load()
    for extra in (other, server):
        vllm = Pipeline.load("demo", *args, *extra)["recommend"].load()
        assert hf.select("user", "rank").equals(vllm.select("user", "rank"))
        np.testing.assert_allclose(hf["score"], vllm["score"], atol=1e-4)
        assert (hf["item"] == vllm["item"]).mean() > 0.99  # all, but for scores that rounding parts


def test_candidates_are_those_of_the_split_and_off_asks_for_none() -> None:
    class Saved:
        def __truediv__(self, name: str) -> Path:
            return Path(name)

        def load(self, file: str) -> pl.DataFrame:
            item = {"recommendations.parquet": 7, "recommendations.valid.parquet": 8}[file]
            return pl.DataFrame([(1, item, 1.0, 1)], dict(schema.RECOMMENDATIONS), orient="row")

    def candidates(split: str, *settings: str) -> list[list[int]] | None:
        chosen = recipe.load("demo", list(settings))
        inputs: Any = {"retrieve.popular": Saved()} if settings else {}
        nothing: Any = None
        context = Context(chosen, chosen.recommend, inputs, Path(), nothing, silent)
        found = recommend._candidates(context, split, [0, 1])
        return None if found is None else [row.tolist() for row in found]

    wanted = "recommend.candidates={mode: restrict, from: [popular], size: 5}"
    assert candidates("test", wanted) == [[], [7]]
    assert candidates("valid", wanted) == [[], [8]]
    assert candidates("test") is None
