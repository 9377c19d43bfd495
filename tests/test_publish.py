"""Publishing: QLoRA trained on a CPU by the demo recipe, and its folder loaded as its own card says."""

import json
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from genrec import Pipeline, environment, publish
from genrec.lm.batch import code_token_ids
from genrec.lm.card import Facts, model_card
from genrec.lm.model import stack
from genrec.sid import SIDSets
from genrec.sid.quantizer import load_codebooks
from genrec.weights import find_weights

pytestmark = pytest.mark.e2e

SECRETS = (str(Path.home()), "/tmp", "/work")


@pytest.fixture(scope="module")
def trained(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """The demo recipe, tiny, its shipped LLM in 4 bits, with 8-bit AdamW."""
    args = [value for value in tiny if not value.startswith("train.model")]
    args += ["embed={text: null, behaviour: {dim: 8}}", "train.optimizer=adamw_8bit"]
    tuned = "name: 'asset:tiny-lm', tune: qlora, rank: 4, sid_init: codebook"
    args += [f"train.model={{kind: pretrained, {tuned}}}", "train.epochs=1", "train.eval_every=100"]
    args += ["runtime.threads=1"]
    store = tmp_path_factory.mktemp("published") / "store"
    pipeline = Pipeline.load("demo", *args, f"runtime.store={store}")
    pipeline.run(to="train")
    return pipeline


@pytest.fixture(scope="module")
def folder(trained: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("hub") / "model"
    publish.publish(trained, out)
    return out


def codes_of(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)


def run(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(code, names)
    return names


def test_qlora_on_a_cpu_learns(trained: Pipeline) -> None:
    log = [json.loads(line) for line in (trained["train"] / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in log if "loss" in line]
    assert losses[-1] < 0.8 * losses[0]
    size = (trained["train"] / "adapter" / "adapter_model.safetensors").stat().st_size
    whole = (trained["train"] / "merged" / "model.safetensors").stat().st_size
    assert size < 0.2 * whole


def test_the_folder_holds_what_the_hub_expects_and_nothing_of_this_machine(folder: Path) -> None:
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names >= {
        *("README.md", "config.json", "model.safetensors", "tokenizer.json", "sids.json"),
        *("genrec.json", "adapter/adapter_config.json", "adapter/adapter_model.safetensors"),
    }
    for path in folder.rglob("*"):
        if path.suffix in (".json", ".md"):
            text = path.read_text("utf-8").replace(str(folder), "")  # its own examples name it
            assert not [secret for secret in SECRETS if secret in text], path
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "asset:tiny-lm"


def test_the_sids_are_those_of_the_items(trained: Pipeline, folder: Path) -> None:
    sids = json.loads((folder / "sids.json").read_text())
    ids = trained["prepare"].load("items.parquet")["item_id"].to_list()
    assert list(sids) == ids
    codes = trained["quantize"].load()
    a, b, c = codes[7].tolist()
    assert sids[ids[7]] == [f"<a_{a}>", f"<b_{b}>", f"<c_{c}>"]


def test_the_card_says_how_to_load_and_is_right(trained: Pipeline, folder: Path) -> None:
    """Its three examples, run as they stand: genrec, transformers, peft; one set of logits."""
    card = (folder / "README.md").read_text("utf-8")
    front = card.split("---")[1]
    assert "library_name: transformers" in front
    assert "base_model" not in front, "no base that others could load"
    ours, plain, adapted = map(run, codes_of(card))
    lists = ours["model"].recommend([ours["history"], ours["model"].item_ids[20:22]], k=5)
    assert [len(items) for items in lists] == [5, 5]
    assert not set(ours["history"]) & set(lists[0])
    with pytest.raises(KeyError, match=r"nothing.*no items of this model; see sids\.json"):
        ours["model"].recommend([["nothing"]])

    ids = plain["tokenizer"]("<a_1><b_2>a blue lamp", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = plain["model"](ids).logits
        assert torch.isfinite(expected).all()
        found = adapted["model"].eval()(ids).logits
        whole = AutoModelForCausalLM.from_pretrained(find_weights("asset:tiny-lm"), dtype="float32")
        whole.resize_token_embeddings(len(plain["tokenizer"]), mean_resizing=False)
        other = (
            peft.PeftModel.from_pretrained(whole, folder, subfolder="adapter").eval()(ids).logits
        )
    # Trained on the base in 4 bits, so that is what it belongs on; the model is that base written out.
    # Where a CPU has bfloat16, bitsandbytes rounds the scales of the 4 bits to it as it decodes.
    off, off_whole = ((one - expected).abs().max() / expected.abs().max() for one in (found, other))
    assert off < 0.01 < off_whole


def test_the_adapter_alone(trained: Pipeline, tmp_path: Path) -> None:
    publish.publish(trained, tmp_path / "adapter", what="adapter")
    card = (tmp_path / "adapter" / "README.md").read_text("utf-8")
    assert "library_name: peft" in card
    assert not list((tmp_path / "adapter").glob("model*"))
    *_, code = codes_of(card)
    assert "subfolder" not in code
    assert "open_published" not in card  # which is for whole models
    model = run(code)["model"]
    base = AutoModelForCausalLM.from_pretrained(find_weights("asset:tiny-lm"))
    assert model.get_input_embeddings().weight.shape[0] > base.config.vocab_size
    with pytest.raises(ValueError, match="an adapter without its base"):
        publish.open_published(tmp_path / "adapter")


def test_nothing_is_sent_unless_asked(
    trained: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = []

    class Api:
        def create_repo(self, name: str, **options: Any) -> None:
            sent.append(("create", name, options))

        def upload_folder(self, **options: Any) -> None:
            assert (Path(options["folder_path"]) / "README.md").is_file()
            sent.append(("upload", options["repo_id"], {}))

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    publish.publish(trained, tmp_path / "kept")
    assert sent == []
    publish.publish(trained, tmp_path / "sent", push_to="me/shop")
    assert sent == [
        ("create", "me/shop", {"private": True, "exist_ok": True}),
        ("upload", "me/shop", {}),
    ]
    assert 'open_published("me/shop")' in (tmp_path / "sent" / "README.md").read_text()
    with pytest.raises(FileExistsError, match="holds something"):
        publish.publish(trained, tmp_path / "sent")


def test_sid_rows_start_like_the_codebook(trained: Pipeline) -> None:
    """The recipe's setting reaches the rows: items of near codes have near tokens before training."""
    import importlib

    stage = importlib.import_module("genrec.stages.train")
    sids = SIDSets.load(trained["quantize"].path)
    section = trained.recipe.train

    class Context:
        recipe, inputs, device = trained.recipe, {"quantize": trained["quantize"]}, "cpu"
        store = trained.store.root

    Context.section = section.model_copy(  # type: ignore[attr-defined]
        update={"model": section.model.model_copy(update={"tune": "full"})}
    )
    model, tokenizer = stage._model(Context, [], sids)
    books = load_codebooks(trained["quantize"] / "quantizer.safetensors")
    rows = code_token_ids(tokenizer, [len(books[0])] * len(books))
    weight = model.get_input_embeddings().weight.detach().numpy()
    vectors, own = stack(books, rows), weight[np.concatenate(rows)]
    own = own - own.mean(0)
    near, far = np.corrcoef(vectors), np.corrcoef(own)
    off = ~np.eye(len(near), dtype=bool)
    assert np.corrcoef(near[off], far[off])[0, 1] > 0.5


FACTS = Facts(
    name="shop",
    recipe={"seed": 3},
    base="Qwen/Qwen3-1.7B",
    public_base=True,
    base_file=None,
    tune="lora",
    dtype="float32",
    adapter="adapter",
    data={"users": 1200, "items": 345, "interactions": 9000},
    sids={"levels": 4, "codes": 256, "collision_rate": {"before": 0.125}},
    training={
        **{"steps": 500, "epochs": 2.0, "best_step": 400, "metric": "ndcg@10"},
        **{"trainable": 10, "parameters": 1000},
    },
    made_with={"torch": "2.13.0", "transformers": "5.23.0"},
    metrics=[
        {"system": s, "metric": m, "k": 10, "value": v, "low": low, "high": high, "users": 1200}
        for s, m, v, low, high in (
            ("generative", "recall", 0.1234, 0.11, 0.13),
            ("generative", "coverage", 0.5, None, None),
            ("popular", "recall", 0.05, 0.04, 0.06),
        )
    ],
)


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("Qwen/Qwen3-1.7B", True),
        ("asset:tiny-lm", False),
        ("/data/models/mine", False),
        ("m.gguf", False),
        ("package:words", False),
    ],
)
def test_a_folder_is_no_base_that_others_can_load(name: str, public: bool) -> None:
    pipeline = Pipeline.load("demo", f"train.model={{kind: pretrained, name: '{name}'}}")
    assert publish._is_public(pipeline) == public


def test_a_card_by_hand() -> None:
    card = model_card(FACTS, place="me/shop")
    assert "base_model: Qwen/Qwen3-1.7B" in card.split("---")[1]
    assert "| generative | 0.1234 (0.1100 to 0.1300) |  |  | 0.5000 |" in card
    assert "| popular | 0.0500 (0.0400 to 0.0600) |  |  |  |" in card
    assert "1,200 users, 345 items, 9,000 interactions" in card
    assert "4 levels of 256 codes; 12.5% of the items shared one before repair" in card
    assert "seed: 3" in card
    assert 'from_pretrained(base, "me/shop", subfolder="adapter")' in card


def test_a_card_says_how_several_sets_are_used() -> None:
    sets = [{"levels": 4, "codes": 256}, {"levels": 3, "codes": 64}]
    card = model_card(replace(FACTS, sids=sets[0] | {"sets": sets}), place="me/shop")
    assert "345 items of `sids.json` and `sids-1.json` and no other" in card
    assert "Each item has 2 semantic IDs, one in each of 2 sets" in card
    assert "`set_weights` in `genrec.json`" in card
    assert "SIDs of set 1 have 4 levels of 256 codes. SIDs of set 2 have 3 levels of 64" in card
    assert "2 sets" not in model_card(FACTS, place="me/shop")


def test_other_versions_than_it_was_trained_with_are_said(
    trained: Pipeline,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, logger="genrec.publish"):
        publish.open_published(folder)
    assert caplog.text == ""
    made_with = json.loads((folder / "genrec.json").read_text())["made_with"]
    assert made_with == trained["train"].manifest["environment"]
    assert f"transformers {made_with['transformers']}" in (folder / "README.md").read_text()
    real = environment.installed
    monkeypatch.setattr(environment, "installed", lambda p: "9" if p == "transformers" else real(p))
    with caplog.at_level(logging.WARNING, logger="genrec.publish"):
        publish.open_published(folder)
    assert f"trained with transformers {made_with['transformers']}, now 9;" in caplog.text


def test_the_tokenizer_keeps_the_sids_whole(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer("<a_0><b_1>", add_special_tokens=False)["input_ids"]) == 2
