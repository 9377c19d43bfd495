"""The whole pipeline, for real, on a tiny demo: run, run again, kill, resume, damage."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from genrec import Pipeline

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[1]


def overrides(tiny: list[str], store: Path) -> list[str]:
    return [*tiny, f"runtime.store={store}", "runtime.threads=1"]


def genrec(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "genrec", *args],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )


@pytest.fixture(scope="module")
def whole(tiny: list[str], lora: str) -> list[str]:
    """As `tiny`, with captions, interests and LoRA."""
    kept = [value for value in tiny if not value.startswith(("caption", "mine", "train.model"))]
    return [*kept, lora]


@pytest.fixture(scope="module")
def finished(whole: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Pipeline, str]:
    """A finished run by the command line, and what it printed."""
    args = overrides(whole, tmp_path_factory.mktemp("finished") / "store")
    done = genrec("run", "recipes/demo.yaml", *args)
    assert done.returncode == 0, done.stderr
    return Pipeline.load("demo", *args), done.stdout + done.stderr


def test_run_prints_the_metrics_and_the_report(finished: tuple[Pipeline, str]) -> None:
    pipeline, output = finished
    report = pipeline["evaluate"] / "report.html"
    assert report.name in output
    assert all(system in output for system in ("generative", "popular", "cooccurrence"))
    assert "data:image/" in report.read_text("utf-8")


def test_metrics_follow_the_contract(finished: tuple[Pipeline, str]) -> None:
    rows = finished[0]["evaluate"].load()["rows"]
    assert {"system", "split", "metric", "k", "value", "low", "high", "users"} == set(rows[0])
    assert {row["system"] for row in rows} == {"generative", "fused", "popular", "cooccurrence"}
    assert {row["split"] for row in rows} == {"valid", "test"}
    assert {row["metric"] for row in rows} >= {"recall", "ndcg", "mrr", "coverage", "invalid_rate"}
    invalid = [r["value"] for r in rows if r["metric"] == "invalid_rate"]
    assert invalid
    assert not any(invalid)
    for row in rows:
        if row["metric"] == "coverage":  # no mean over users, so no interval
            assert row["low"] is None
        else:
            assert row["low"] <= row["value"] <= row["high"]


def test_every_recommendation_is_a_new_item(finished: tuple[Pipeline, str]) -> None:
    pipeline, _ = finished
    table = pipeline["recommend"].load()
    seen = dict(pipeline["prepare"].load("test.parquet").select("user", "history").iter_rows())
    assert table["user"].n_unique() == len(seen)
    for user, item in table.select("user", "item").iter_rows():
        assert item not in seen[user]


def test_merged_model_loads_alone(finished: tuple[Pipeline, str]) -> None:
    folder = finished[0]["train"] / "merged"
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.convert_tokens_to_ids("<a_0>") < model.config.vocab_size
    assert tokenizer.decode([tokenizer.convert_tokens_to_ids("<c_15>")]) == "<c_15>"


def test_a_second_run_builds_nothing(finished: tuple[Pipeline, str]) -> None:
    pipeline, _ = finished
    before = {key: pipeline[key].manifest["created"] for key in pipeline.nodes}
    pipeline.run()
    assert {key: pipeline[key].manifest["created"] for key in pipeline.nodes} == before


@pytest.mark.parametrize(
    "stage",
    [
        "prepare",
        "caption",
        "mine",
        "embed",
        "quantize",
        "compose",
        "train",
        "retrieve",
        "recommend",
        "probe",
    ],
)
def test_show_every_stage(
    finished: tuple[Pipeline, str], stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from genrec.show import show

    show(finished[0], stage, rows=2)
    assert capsys.readouterr().out.strip()


def contents(pipeline: Pipeline, key: str) -> dict[str, str]:
    files = pipeline[key].manifest["files"]
    return {name: entry["sha256"] for name, entry in files.items()}


def kill_when(args: list[str], stage: str, sign: str) -> None:
    """Starts a run and sends SIGKILL once `sign` exists under the store's folder of the stage."""
    store = Path(next(a for a in args if a.startswith("runtime.store=")).partition("=")[2])
    process = subprocess.Popen(
        [sys.executable, "-m", "genrec", "run", "recipes/demo.yaml", *args],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 240
    while not list((store / stage).glob(sign)):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not list((store / stage).glob("*/artifact.json"))


def test_killed_runs_end_as_undisturbed_ones(
    finished: tuple[Pipeline, str], whole: list[str], tmp_path: Path
) -> None:
    args = overrides(whole, tmp_path / "store")
    kill_when(args, "embed", "*.partial")
    kill_when(args, "quantize", "*.partial")
    kill_when(args, "train", "*.partial/**/checkpoint-3/trainer_state.json")
    pipeline = Pipeline.load("demo", *args)
    pipeline.run()
    for key in ("prepare", "caption", "mine", "embed", "quantize", "compose"):
        assert contents(pipeline, key) == contents(finished[0], key), key

    def losses(one: Pipeline) -> dict[int, float]:
        lines = (one["train"] / "log.jsonl").read_text("utf-8").splitlines()
        logs = [json.loads(line) for line in lines]
        return {log["step"]: log["loss"] for log in logs if "loss" in log}

    ours, theirs = losses(pipeline), losses(finished[0])
    assert ours.keys() == theirs.keys()
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), atol=1e-4)


def test_a_flipped_byte_is_named_and_rebuilt(tiny: list[str], tmp_path: Path) -> None:
    args = overrides(tiny, tmp_path / "store")
    assert genrec("run", "recipes/demo.yaml", *args, "--to", "quantize").returncode == 0
    sids = Pipeline.load("demo", *args)["quantize"] / "sids.npy"
    good = sids.read_bytes()
    sids.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    stopped = genrec("compose", "recipes/demo.yaml", *args)
    assert stopped.returncode == 2
    assert "sids.npy: damaged" in stopped.stderr
    again = genrec("run", "recipes/demo.yaml", *args, "--to", "quantize")
    assert again.returncode == 0
    assert "sids.npy: damaged" in again.stderr.replace("\n", "")
    assert sids.read_bytes() == good


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny pretrained model on disk: what a hub would hold, without SID tokens."""
    from genrec.lm.model import build_scratch, save_merged

    words = ["A shopper chose these items one after the other, oldest first: lamp, mug, tent."]
    model, tokenizer = build_scratch(
        texts=words * 3, levels=0, codes=1, hidden=192, layers=1, heads=2, vocab=300
    )
    folder = tmp_path_factory.mktemp("pretrained")
    save_merged(model, tokenizer, folder)
    return folder


@pytest.mark.parametrize("tune", ["lora", "qlora", "full"])
def test_a_pretrained_model_is_tuned(
    finished: tuple[Pipeline, str], tiny: list[str], pretrained: Path, tune: str
) -> None:
    if tune == "qlora":
        pytest.importorskip("bitsandbytes", reason="4-bit weights need the qlora extra")
    store = finished[0].recipe.runtime.store
    pipeline = Pipeline.load(
        "demo",
        *(o for o in overrides(tiny, Path(store)) if not o.startswith("train.model")),
        f"train.model={{kind: pretrained, name: {pretrained}, tune: {tune}, rank: 4}}",
        "train.epochs=0.5",
        "compose.style=instruct",
    )
    pipeline.run(to="recommend")
    assert pipeline["recommend"].load()["user"].n_unique() == 150
    trained = pipeline["train"]
    assert (trained / "adapter").is_dir() == (tune != "full")
    AutoModelForCausalLM.from_pretrained(trained / "merged")
