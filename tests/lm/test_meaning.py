"""Going on from a model that has SID tokens: the same SIDs keep it as it was, others are refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from genrec.lm.batch import code_token_ids, encode_texts
from genrec.lm.meaning import check_meaning, write_sids
from genrec.lm.model import build_scratch, is_tied, load_pretrained, save_merged

IDS = [f"i{n}" for n in range(12)]
SIDS = np.array([[n % 4, n // 4] for n in range(12)], dtype=np.int32)
HERE = dict(zip(IDS, SIDS, strict=True))
SHAPE = {"levels": 2, "codes": 4}
TEXTS = ["a red lamp for the desk", "blue chair <a_1>", "green tea"] * 20


def row_of(model, tokenizer, token):
    matrices = (model.get_input_embeddings(), model.get_output_embeddings())
    return torch.cat([m.weight[tokenizer.convert_tokens_to_ids(token)].detach() for m in matrices])


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def trained(request, tmp_path_factory):
    """A model folder as the train stage leaves it, input and output in one matrix or in two."""
    model, tokenizer = build_scratch(
        texts=TEXTS, hidden=192, layers=1, heads=2, vocab=300, dropout=0.0, **SHAPE
    )
    if not request.param:
        model.config.tie_word_embeddings = False
        head = torch.nn.Linear(*model.lm_head.weight.shape[::-1], bias=False)
        model.lm_head = head
    folder = tmp_path_factory.mktemp("merged")
    save_merged(model, tokenizer, folder)
    write_sids(folder / "sids.json", IDS, SIDS)
    assert is_tied(AutoModelForCausalLM.from_pretrained(folder)) == request.param
    return folder


def copied(folder, to):
    return Path(shutil.copytree(folder, to / "model"))


def logits(model, ids):
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


@pytest.mark.parametrize("tune", ["full", "lora", "qlora"])
def test_the_same_sids_keep_every_row(trained, tune, caplog):
    """The base of QLoRA is rounded to 4 bits, the vocabulary is not."""
    if tune == "qlora":
        pytest.importorskip("bitsandbytes", reason="4-bit weights need the qlora extra")
    before = AutoModelForCausalLM.from_pretrained(trained)
    model, tokenizer = load_pretrained(str(trained), tune=tune, device="cpu", sids=[HERE], **SHAPE)
    for token in [f"<{level}_{code}>" for level in "ab" for code in range(4)]:
        assert torch.equal(row_of(model, tokenizer, token), row_of(before, tokenizer, token))
    if tune != "qlora":
        ids = torch.arange(before.config.vocab_size)[None]
        assert torch.equal(logits(model, ids), logits(before, ids))
    assert not caplog.records


def test_without_a_word_of_them_rows_are_drawn_anew_and_that_is_said(trained, caplog):
    before = AutoModelForCausalLM.from_pretrained(trained)
    model, tokenizer = load_pretrained(str(trained), tune="full", **SHAPE)
    assert not torch.equal(row_of(model, tokenizer, "<a_1>"), row_of(before, tokenizer, "<a_1>"))
    assert f"train.model.name='{trained}': the rows of its 8 SID tokens are drawn" in caplog.text


def test_a_grown_catalogue_keeps_what_is_known_and_draws_what_is_new(trained, caplog):
    """New codes get the rows that a new model would give them; new items are counted in a warning."""
    more = HERE | {"new1": [4, 0], "new2": [1, 4]}
    shape = {"levels": 2, "codes": 5}
    before = AutoModelForCausalLM.from_pretrained(trained)
    model, tokenizer = load_pretrained(str(trained), tune="full", sids=[more], **shape)
    anew, _ = load_pretrained(str(trained), tune="full", **shape)
    for token in [f"<{level}_{code}>" for level in "ab" for code in range(4)]:
        assert torch.equal(row_of(model, tokenizer, token), row_of(before, tokenizer, token))
    for token in ("<a_4>", "<b_4>"):
        assert torch.equal(row_of(model, tokenizer, token), row_of(anew, tokenizer, token))
    assert "2 of 14 items are not in" in caplog.text
    fewer = {item: HERE[item] for item in IDS[:5]}
    load_pretrained(str(trained), tune="full", sids=[fewer], **SHAPE)


def test_other_sids_are_refused(trained):
    """The error names the folder, its file, an item with both SIDs, and what to set."""
    other = HERE | {"i3": [1, 1], "i5": [3, 3]}
    with pytest.raises(
        ValueError,
        match=rf"(?s)train\.model\.name='{trained}': its SID tokens mean other items: by "
        rf"{trained / 'sids.json'}, 2 of the 12 items.*'i3': <a_3><b_0> there, <a_1><b_1> here"
        r".*prepare\.source\.index with quantize\.kind=published.*sid_init=random",
    ):
        load_pretrained(str(trained), sids=[other], **SHAPE)
    longer = {item: [*sid, 0] for item, sid in HERE.items()}
    with pytest.raises(ValueError, match=r"12 of the 12 items"):
        load_pretrained(str(trained), sids=[longer], levels=3, codes=4)
    strangers = {f"x{item}": sid for item, sid in HERE.items()}
    with pytest.raises(
        ValueError, match=r"names none of the 12 items.*'i0'.*'xi0'.*sid_init=random"
    ):
        load_pretrained(str(trained), sids=[strangers], **SHAPE)


def test_tokens_that_nothing_explains_are_refused(trained, tmp_path):
    folder = copied(trained, tmp_path)
    (folder / "sids.json").rename(folder / "a.index.json")
    load_pretrained(str(folder), tune="full", sids=[HERE], **SHAPE)
    shutil.copy(folder / "a.index.json", folder / "b.index.json")
    with pytest.raises(ValueError, match=r"2 index files.*a\.index\.json.*b\.index\.json.*copy"):
        load_pretrained(str(folder), sids=[HERE], **SHAPE)
    for file in folder.glob("*.index.json"):
        file.unlink()
    with pytest.raises(
        ValueError,
        match=rf"8 SID tokens, such as <a_0>, but nothing in {folder} says.*sids\.json.*=random",
    ):
        load_pretrained(str(folder), sids=[HERE], **SHAPE)
    (folder / "sids.json").write_text('{"i0": ["<a_0>"')
    with pytest.raises(ValueError, match=r"sids\.json: invalid JSON"):
        load_pretrained(str(folder), sids=[HERE], **SHAPE)


def test_an_adapter_alone_is_no_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"train\.model\.name=.*is an adapter alone.*`merged/`"):
        load_pretrained(str(tmp_path), sids=[HERE], **SHAPE)


@pytest.mark.parametrize("file", ["Games.index.json", "index/Games.index.json", "id2sid.json"])
def test_a_model_of_minionerec_goes_on_as_it_was(tmp_path, file):
    """Its tokens are plain ones, of the codes in use alone, in the order of their names."""
    model, tokenizer = build_scratch(
        texts=TEXTS, levels=0, codes=1, hidden=32, layers=1, heads=2, vocab=300, dropout=0.0
    )
    used = {item: sid for item, sid in HERE.items() if sid[1] < 2}
    tokenizer.add_tokens(sorted({f"<a_{a}>" for a, _ in used.values()} | {"<b_0>", "<b_1>"}))
    model.resize_token_embeddings(len(tokenizer))
    save_merged(model, tokenizer, tmp_path)
    (tmp_path / file).parent.mkdir(exist_ok=True)
    index = {item: [f"<a_{a}>", f"<b_{b}>"] for item, (a, b) in used.items()}
    (tmp_path / file).write_text(json.dumps(index))

    on, its = load_pretrained(str(tmp_path), tune="full", sids=[used], **SHAPE)
    assert len(its) == len(tokenizer) + 2, "<b_2> and <b_3> are new"
    old = torch.arange(len(tokenizer))[None]
    assert torch.equal(logits(on, old)[..., : len(tokenizer)], logits(model, old))
    assert code_token_ids(its, [4, 4])[0].tolist() == tokenizer.convert_tokens_to_ids(
        [f"<a_{code}>" for code in range(4)]
    )
    spelt = its.convert_ids_to_tokens(encode_texts(its, ["<a_1>"])[0])
    assert "<a_1>" not in spelt, "a title stays a title"
    assert not torch.equal(row_of(on, its, "<b_3>"), row_of(on, its, "<b_2>"))


def test_a_model_without_sid_tokens_starts_as_ever(tmp_path):
    model, tokenizer = build_scratch(
        texts=TEXTS, levels=0, codes=1, hidden=32, layers=1, heads=2, vocab=300
    )
    save_merged(model, tokenizer, tmp_path)
    one, other = (
        load_pretrained(str(tmp_path), tune="full", sids=sids, **SHAPE)[0]
        for sids in ([HERE], None)
    )
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_hub_is_asked_for_the_same_file(trained, tmp_path, monkeypatch):
    """A name on the hub is no folder: what the hub holds beside the weights counts."""
    asked = []

    def cached(name, file, **options):
        asked.append((name, file))
        return str(trained / file) if file == "sids.json" else None

    monkeypatch.setattr("genrec.lm.meaning.cached_file", cached)
    check_meaning("me/shop", "me/shop", frozenset({"<a_0>"}), [HERE])
    assert asked == [("me/shop", "sids.json"), ("me/shop", "sids-1.json")]
    with pytest.raises(ValueError, match="12 of the 12 items"):
        check_meaning("me/shop", "me/shop", frozenset({"<a_0>"}), [{i: [9, 9] for i in IDS}])


SECOND = np.array([[n // 4 + 4, n % 4 + 3] for n in range(12)], dtype=np.int32)
TWO = [HERE, dict(zip(IDS, SECOND, strict=True))]
WIDE = {"levels": 2, "codes": 7}


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """A model of two sets of SIDs."""
    model, tokenizer = build_scratch(
        texts=TEXTS, hidden=32, layers=1, heads=2, vocab=300, dropout=0.0, **WIDE
    )
    folder = tmp_path_factory.mktemp("two")
    save_merged(model, tokenizer, folder)
    write_sids(folder / "sids.json", IDS, SIDS)
    write_sids(folder / "sids-1.json", IDS, SECOND)
    return folder


def kept(model, tokenizer, before):
    names = [f"<{level}_{code}>" for level in "ab" for code in range(7)]
    before_rows, rows = (
        [row_of(one, tokenizer, name) for name in names] for one in (before, model)
    )
    same = [torch.equal(a, b) for a, b in zip(before_rows, rows, strict=True)]
    return {name for name, still in zip(names, same, strict=True) if still}


def test_a_model_of_two_sets_goes_on_as_it_was(of_two, caplog):
    before = AutoModelForCausalLM.from_pretrained(of_two)
    model, tokenizer = load_pretrained(str(of_two), tune="full", sids=TWO, **WIDE)
    assert len(kept(model, tokenizer, before)) == 14
    assert not caplog.records


def test_every_set_must_mean_the_same(of_two):
    other = [HERE, TWO[1] | {"i3": [6, 4]}]
    with pytest.raises(
        ValueError,
        match=rf"by {of_two / 'sids-1.json'}, 1 of the 12 items.*in set 2 of SIDs \(item 'i3': "
        r"<a_4><b_6> there, <a_6><b_4> here\).*index=\[sids\.json, sids-1\.json\] with quantize",
    ):
        load_pretrained(str(of_two), tune="full", sids=other, **WIDE)


def test_a_further_set_is_new_to_a_model_of_one(of_two, tmp_path, caplog):
    """Its tokens start anew, also those that are in the vocabulary and mean no item yet."""
    folder = copied(of_two, tmp_path)
    (folder / "sids-1.json").unlink()
    before = AutoModelForCausalLM.from_pretrained(folder)
    model, tokenizer = load_pretrained(str(folder), tune="full", sids=TWO, **WIDE)
    assert kept(model, tokenizer, before) == {f"<a_{code}>" for code in range(4)} | {
        f"<b_{code}>" for code in range(3)
    }
    assert "knows 1 of the 2 sets of SIDs; the 7 tokens of the others are drawn anew" in caplog.text
    with pytest.raises(ValueError, match=r"<a_4><b_3> here\).*sid_init=random"):
        load_pretrained(str(folder), tune="full", sids=TWO[::-1], **WIDE)


def test_a_set_that_is_not_here_is_told(of_two, caplog):
    before = AutoModelForCausalLM.from_pretrained(of_two)
    model, tokenizer = load_pretrained(str(of_two), tune="full", sids=[HERE], **SHAPE)
    assert len(kept(model, tokenizer, before)) == 14
    assert "knows 2 sets of SIDs and quantize.sets has 1 here" in caplog.text
    grown = HERE | {"new": [4, 0]}
    with pytest.raises(
        ValueError, match=r"<a_4> is a code of set 2 of SIDs by .*, and of set 1 here"
    ):
        load_pretrained(str(of_two), tune="full", sids=[grown], levels=2, codes=5)
