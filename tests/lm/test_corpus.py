"""Corpora on disk: what `encode_examples` gives, encoded once, in parallel too, mapped not loaded."""

import copy
import logging

import numpy as np
import pytest
from datasets.exceptions import DatasetGenerationError

from genrec import schema
from genrec.lm import corpus as corpora
from genrec.lm.batch import code_token_ids
from genrec.lm.corpus import encode_examples, encode_file, lengths_of, tasks_of, texts_of
from genrec.schema import Example, Segment


@pytest.fixture
def file(examples, tmp_path, monkeypatch):
    monkeypatch.setattr(schema, "GROUP", 16)  # eight groups
    schema.write_examples(tmp_path / "train.parquet", examples[0])
    return tmp_path / "train.parquet"


@pytest.fixture(scope="module")
def tokens(scratch):
    tokenizer = scratch()[1]
    return tokenizer, code_token_ids(tokenizer, [8, 8])


def test_groups_are_read_as_they_were_written(file, examples):
    assert schema.example_groups(file) == -(-len(examples[0]) // 16) > 4
    assert schema.read_examples(file) == examples[0]
    assert [e for part in schema.iterate_examples(file, size=7) for e in part] == examples[0]
    picked = [e for part in schema.iterate_examples(file, groups=[1, 3]) for e in part]
    assert picked == examples[0][16:32] + examples[0][48:64]
    assert schema.pick_examples(file, [40, 3]) == [examples[0][40], examples[0][3]]
    texts = [p.text for e in examples[0] for p in (*e.prompt, *e.completion) if p.text]
    assert list(texts_of(file)) == texts


@pytest.mark.parametrize("processes", [None, 2])
def test_a_file_is_encoded_like_its_examples(file, examples, tokens, tmp_path, processes):
    encoded = encode_file(
        file, *tokens, max_length=64, folder=tmp_path / "tokens", processes=processes
    )
    plain = encode_examples(*tokens, examples[0], max_length=64)
    assert list(encoded.data) == list(plain.data)
    assert encoded.trimmed == plain.trimmed == 0
    assert lengths_of(encoded.data).tolist() == list(plain.data["length"])
    assert lengths_of(encoded.data).dtype == np.int64
    assert tasks_of(encoded.data) == sorted({e.task for e in examples[0]})
    mapped = encoded.data.cache_files
    assert len(mapped) == (processes or 1)
    assert all(str(tmp_path / "tokens") in file["filename"] for file in mapped)


def test_what_was_encoded_is_only_opened(file, examples, tokens, tmp_path, monkeypatch):
    tokenizer, codes = copy.deepcopy(tokens[0]), tokens[1]

    def encode(**changes):
        given = {"max_length": 64, "folder": tmp_path / "tokens", "code_tokens": codes} | changes
        return encode_file(file, tokenizer, **given)

    first = encode()
    made = []

    def spy(*args, **options):
        made.append(options["max_length"])
        return original(*args, **options)

    original = corpora.encoded_rows
    monkeypatch.setattr(corpora, "encoded_rows", spy)
    assert list(encode().data) == list(first.data)
    assert not made
    tokenizer(["a", "b b"], padding=True, truncation=True, max_length=4)  # which it remembers
    encode()
    assert not made, "how it was last called says nothing of what it writes"
    encode(max_length=63)
    assert set(made) == {63}
    made.clear()
    encode(code_tokens=[ids[::-1] for ids in codes])
    assert made, "other tokens"
    made.clear()
    schema.write_examples(file, examples[0][:-1])
    assert len(encode().data) == len(examples[0]) - 1
    assert made, "other examples"
    made.clear()
    tokenizer.add_tokens(["new"])
    encode()
    assert made, "another tokenizer"
    made.clear()
    monkeypatch.setattr(corpora.tokenizers, "__version__", "9.9")
    encode()
    assert made, "another version of its library"


HISTORY = tuple(Segment(sid=(i % 8, i % 8)) for i in range(20))


def test_trimmed_examples_are_counted_and_said(tokens, tmp_path, caplog):
    lengths = (3, 20, 5, 20)
    examples = [Example("t", HISTORY[:n], (Segment(sid=(0, 0)),)) for n in lengths]
    schema.write_examples(tmp_path / "train.parquet", examples)
    arguments = {"max_length": 23, "folder": tmp_path / "tokens"}
    for _ in range(2):  # what is only opened again is counted again
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="genrec"):
            encoded = encode_file(tmp_path / "train.parquet", *tokens, **arguments)
        assert encoded.trimmed == 2
        assert (
            "2 of 4 examples in train.parquet were longer than train.max_length=23" in caplog.text
        )
    long = encoded.data[1]["input_ids"]
    assert len(long) == 23
    kept = [int(tokens[1][level][i % 8]) for i in range(10, 20) for level in (0, 1)]
    assert long[1:-2] == kept, "whole SIDs, the newest"


def test_what_cannot_be_encoded_says_so(tokens, tmp_path):
    schema.write_examples(
        tmp_path / "train.parquet", [Example("t", HISTORY[:1], (Segment(sid=(0, 0)),))]
    )
    with pytest.raises(ValueError, match="max_length=3: too short for one item's SID") as caught:
        encode_file(tmp_path / "train.parquet", *tokens, max_length=3, folder=tmp_path / "tokens")
    assert not isinstance(caught.value, DatasetGenerationError)
    with pytest.raises(ValueError, match="too short"):  # and nothing half-made is found later
        encode_file(tmp_path / "train.parquet", *tokens, max_length=3, folder=tmp_path / "tokens")


def test_a_corpus_without_examples_is_empty(tokens, tmp_path):
    schema.write_examples(tmp_path / "valid.parquet", [])
    assert schema.read_examples(tmp_path / "valid.parquet") == []
    encoded = encode_file(
        tmp_path / "valid.parquet", *tokens, max_length=9, folder=tmp_path / "tokens"
    )
    assert len(encoded.data) == encoded.trimmed == 0
