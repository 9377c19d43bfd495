"""What a recipe says of the model reaches it, and one run goes on from another's model."""

import importlib
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from genrec import Pipeline, publish
from genrec.lm.callbacks import Flow, read_log
from genrec.recipe import RecipeError, load
from genrec.sid import SIDSets
from genrec.weights import find_weights

stage = importlib.import_module("genrec.stages.train")
SIDS = np.array([[0, 1], [3, 2]], dtype=np.int32)
ITEMS = SimpleNamespace(load=lambda file: pl.DataFrame({"item_id": ["i0", "i1"]}))


LORA = "train.model={kind: pretrained, name: 'asset:tiny-lm'}"


def built(*overrides: str) -> torch.nn.Module:
    recipe = load("demo", [LORA, *overrides])
    parts = {"section": recipe.train, "inputs": {"prepare": ITEMS}}
    context = SimpleNamespace(recipe=recipe, **parts, device="cpu", store=None)
    return stage._model(context, None, SIDSets([SIDS]))[0]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_base_has_the_dtype_of_the_recipe(dtype: str) -> None:
    """And what is trained has not: it stays float32."""
    model = built(f"train.model.dtype={dtype}")
    frozen = {p.dtype for p in model.parameters() if not p.requires_grad}
    trained = {p.dtype for p in model.parameters() if p.requires_grad}
    assert (frozen, trained) == ({getattr(torch, dtype)}, {torch.float32})


def test_weights_that_are_all_trained_are_float32() -> None:
    model = built("train.model={kind: pretrained, name: 'asset:tiny-lm', tune: full}")
    assert {p.dtype for p in model.parameters()} == {torch.float32}, "though it ships in bfloat16"
    with pytest.raises(ValueError, match="dtype=bfloat16: weights that are trained themselves"):
        load("demo", [LORA, "train.model.tune=full", "train.model.dtype=bfloat16"])


def test_rows_that_start_like_items_read_their_vectors() -> None:
    plain = Pipeline.load("demo", "train.model={kind: scratch}")
    like_items = Pipeline.load("demo", "train.model={kind: scratch, sid_init: items}")
    assert "embed" not in plain.graph.nodes["train"].reads
    assert "embed" in like_items.graph.nodes["train"].reads


@pytest.fixture(scope="module")
def shop(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A recipe's overrides, all but the model; one store for all its runs."""
    store = tmp_path_factory.mktemp("going-on") / "store"
    return [
        *(value for value in tiny if not value.startswith("train.model")),
        *("embed={text: null, behaviour: {dim: 8}}", "probe.enabled=false", "runtime.threads=1"),
        *("train.eval_every=1000", "train.scheduler=cosine"),
        *("recommend.num_beams=20", f"runtime.store={store}"),
    ]


@pytest.fixture(scope="module")
def first(shop: list[str]) -> Pipeline:
    model = "{kind: scratch, hidden: 192, layers: 1, heads: 2, vocab: 400}"
    pipeline = Pipeline.load("demo", *shop, f"train.model={model}", "train.epochs=6")
    pipeline.run(to="recommend")
    return pipeline


@pytest.fixture(scope="module")
def tuned(shop: list[str], first: Pipeline) -> Pipeline:
    """A second run, by QLoRA, that learns: its model is the base written out, and what was added."""
    return goes_on(shop, first["train"] / "merged", "tune: qlora", "train.lr=1e-2")


def goes_on(shop: list[str], folder: Path, model: str, *overrides: str) -> Pipeline:
    found = f"train.model={{kind: pretrained, name: {folder}, {model}}}"
    pipeline = Pipeline.load("demo", *shop, "train.epochs=0.5", found, *overrides)
    pipeline.run(to="recommend")
    return pipeline


def lists(pipeline: Pipeline) -> dict[int, list[int]]:
    table = pipeline["recommend"].load()
    return dict(table.group_by("user", maintain_order=True).agg("item").iter_rows())


STILL = "train.lr=1e-30"  # no weight in float32 moves


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_a_second_run_that_learns_nothing_gives_the_lists_of_the_first(
    shop: list[str], first: Pipeline, tune: str
) -> None:
    second = goes_on(shop, first["train"] / "merged", f"tune: {tune}", STILL)
    assert second["train"].fingerprint != first["train"].fingerprint
    assert lists(second) == lists(first)


def test_a_published_folder_goes_on_too(shop: list[str], tuned: Pipeline, tmp_path: Path) -> None:
    """Here what QLoRA had learned, down to the last list."""
    publish.publish(tuned, tmp_path / "model")
    second = goes_on(shop, tmp_path / "model", "tune: lora", STILL)
    assert lists(second) == lists(tuned)


def test_qlora_goes_on_from_the_same_rows(shop: list[str], first: Pipeline) -> None:
    """Its base is rounded to 4 bits, which moves scores a little; the vocabulary is not."""
    second = goes_on(shop, first["train"] / "merged", "tune: qlora", STILL)
    before, after = (
        load_file(p["train"] / "merged" / "model.safetensors")["model.embed_tokens.weight"]
        for p in (first, second)
    )
    assert torch.equal(before, after)
    one, other = lists(first), lists(second)
    shared = [len(set(one[user][:10]) & set(other[user][:10])) / 10 for user in one]
    assert np.mean(shared) > 0.9
    # Rounded once, it is nearly its own 4 bits: a third run moves next to nothing.
    third = lists(goes_on(shop, second["train"] / "merged", "tune: qlora", STILL))
    assert np.mean([third[user][:10] == other[user][:10] for user in other]) > 0.95


def test_qlora_refuses_rows_that_its_blocks_do_not_fill(tmp_path: Path) -> None:
    """The 4-bit weights of such a model would be read back wrongly on some CPUs."""
    config = Qwen3Config(
        hidden_size=64, intermediate_size=176, num_hidden_layers=1, vocab_size=2600
    )
    Qwen3ForCausalLM(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(find_weights("asset:tiny-lm")).save_pretrained(tmp_path)
    wanted = r"down_proj\.weight has rows of 176 values.* multiple of 64 long\. Use tune: lora"
    with pytest.raises(ValueError, match=wanted):
        built(f"train.model={{kind: pretrained, name: {tmp_path}, tune: qlora}}")


def test_other_sids_stop_the_run_until_the_recipe_says_so(
    shop: list[str], first: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    folder = first["train"] / "merged"
    with pytest.raises(ValueError, match=r"SID tokens mean other items: by .*merged/sids\.json"):
        goes_on(shop, folder, "tune: lora", "quantize.codes=8")
    second = goes_on(shop, folder, "tune: lora, sid_init: random", STILL, "quantize.codes=8")
    assert second.finished("recommend")
    assert "SID tokens are drawn anew" in caplog.text


@pytest.mark.parametrize(
    ("lengths", "told"), [([9, 40], False), ([41, 90], False), ([9, 40, 41], True)]
)
def test_examples_on_both_sides_of_a_ropes_switch_are_told(lengths, told, caplog) -> None:
    """In a batch the longest decides the RoPE of all, and no example's loss is its own any more."""
    rope = {"rope_type": "longrope", "original_max_position_embeddings": 40}
    text = SimpleNamespace(rope_parameters=rope, max_position_embeddings=128)
    model = SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: text))
    stage.warn_of_lengths(model, np.array(lengths), split="train")
    assert ("train examples have up to 41 tokens" in caplog.text) == told
    assert ("Set train.max_length=40 to stay below" in caplog.text) == told


class Killed(Exception):
    """Stands in for a kill, which tests/lm and tests/test_end_to_end.py do in earnest."""


def kill_at(monkeypatch: pytest.MonkeyPatch, pipeline: Pipeline, stage: str, step: int) -> int:
    """Runs train until a step of one of its two stages; returns the first step that it took there."""
    seen: list[int] = []
    on_step_end = Flow.on_step_end

    def stop(self: Flow, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if (Path(args.output_dir).name == "rows-first") == (stage == "rows"):
            seen.append(state.global_step)
            if state.global_step == step:
                raise Killed
        else:
            assert stage == "all", "the first stage goes on"
        on_step_end(self, args, state, control, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Flow, "on_step_end", stop)
        with pytest.raises(Killed):
            pipeline.run(only="train")
    return seen[0]


def test_two_stages_killed_in_both_give_the_model_of_an_undisturbed_run(
    shop: list[str],
    first: Pipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shutil.copytree(first.store.root, tmp_path / "store", ignore=shutil.ignore_patterns("train"))
    own = f"runtime.store={tmp_path / 'store'}"
    options = [LORA, "train.rows_first={epochs: 0.5, lr: 1e-2}"]  # six steps, and six
    options += ["train.epochs=0.5", "train.lr=1e-3", "train.lr_rows=3e-3"]
    whole = Pipeline.load("demo", *shop, *options)
    whole.run(to="train")
    summary = whole["train"].load("summary.json")
    assert summary["rows_first"]["trainable"] < 0.1 * summary["trainable"]
    text = (whole["train"] / "rows-first" / "losses.png").read_bytes()
    assert text[:4] == b"\x89PNG"
    assert not [*whole["train"].path.rglob("checkpoint-*")]

    broken = Pipeline.load("demo", *shop, *options, own)
    assert kill_at(monkeypatch, broken, "rows", 4) == 1
    assert kill_at(monkeypatch, broken, "rows", 5) == 4, "from the checkpoint of step 3"
    assert kill_at(monkeypatch, broken, "all", 4) == 1
    assert kill_at(monkeypatch, broken, "all", 5) == 4
    broken.run(only="train")
    assert "under other conditions" not in caplog.text
    assert broken["train"].load("summary.json") == summary
    for part in (".", "rows-first"):
        logs = [read_log(p["train"] / part / "log.jsonl") for p in (whole, broken)]
        losses = [[(line["step"], line.get("loss")) for line in log] for log in logs]
        assert losses[0] == losses[1]
    made = [load_file(p["train"] / "merged" / "model.safetensors") for p in (whole, broken)]
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])


def test_two_stages_need_something_to_freeze(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match="rows_first: a model from scratch knows nothing"):
        load("demo", ["train.model={kind: scratch}", "train.rows_first={}"])
    with pytest.raises(
        RecipeError, match="lr_rows: with all weights trained the SID rows are part"
    ):
        load("demo", [LORA, "train.model.tune=full", "train.lr_rows=1e-2"])
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="rows_first: not under FSDP"):
        stage._train_rows(Path(), None, np.array([1]), (), {})


def test_one_stage_has_the_fingerprint_that_it_had() -> None:
    """The settings that came later stand in it only where they are set."""
    section = load("demo", [LORA]).train
    assert not {"rows_first", "lr_rows"} & section.model_dump().keys()
    one, two = (Pipeline.load("demo", LORA, *more) for more in ([], ["train.rows_first={}"]))
    assert one.graph.fingerprint("train") != two.graph.fingerprint("train")
    assert one.graph.fingerprint("compose") == two.graph.fingerprint("compose")


def test_a_validation_reads_its_users_alone(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loss over all users would take longer than the lists of the chosen ones."""
    given, real = [], stage.train

    def spy(model: Any, tokenizer: Any, train: Any, valid: Any, **options: Any) -> dict[str, Any]:
        given.append((len(train), len(valid)))
        return real(model, tokenizer, train, valid, **options)

    monkeypatch.setattr(stage, "train", spy)
    pipeline = Pipeline.load("demo", *tiny, "train.epochs=1", f"runtime.store={tmp_path}")
    pipeline.run(to="train")
    assert len(pipeline["prepare"].load("valid.parquet")) > 20
    assert [valid for _, valid in given] == [20]
    assert given[0][0] > 20
