"""Files of quantizers, and what the package imports; `test_contract` has what holds for each."""

import json
import subprocess
import sys
from typing import Literal

import numpy as np
import pytest
from safetensors.numpy import save_file

from genrec.sid import RQVAE, RKMeans, load_quantizer
from genrec.sid.settings import RKMeansSettings


def test_damaged_and_foreign_files_are_refused(tmp_path):
    embeddings = np.random.default_rng(0).normal(size=(20, 10)).astype(np.float32)
    path = tmp_path / "quantizer.safetensors"
    with pytest.raises(FileNotFoundError, match="genrec quantize"):
        load_quantizer(path)
    RKMeans(levels=2, codes=8).fit(embeddings).save(path)
    with pytest.raises(ValueError, match="holds a quantizer of kind 'rkmeans', expected 'rqvae'"):
        RQVAE.load(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="damaged"):
        load_quantizer(path)
    save_file({"x": np.zeros(1)}, str(path))
    with pytest.raises(ValueError, match="no quantizer of genrec"):
        load_quantizer(path)
    save_file({"x": np.zeros(1)}, str(path), metadata={"genrec": json.dumps({"kind": "pq"})})
    with pytest.raises(ValueError, match=r"'pq'; expected one of \['rqvae', 'rkmeans'"):
        load_quantizer(path)


def test_trie_and_tokens_import_no_heavy_library():
    code = (
        "import sys; from genrec.sid import SIDTrie, format_sid, resolve_collisions;"
        "print(sorted({'torch', 'faiss', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_unknown_names_of_the_package_are_attribute_errors():
    import genrec.sid

    assert all(getattr(genrec.sid, name) for name in genrec.sid.__all__)
    with pytest.raises(AttributeError, match="SidTrie"):
        genrec.sid.SidTrie  # noqa: B018


def test_a_quantizer_made_of_another_keeps_its_own_settings() -> None:
    class MineSettings(RKMeansSettings):
        """Of a part in another package."""

        kind: Literal["mine"] = "mine"  # type: ignore[assignment]

    class Mine(RKMeans):
        settings_class, kind = MineSettings, "mine"

    assert isinstance(Mine(levels=2, codes=4).settings, MineSettings)
    assert Mine.kind == "mine"
    assert RKMeans.settings_class is RKMeansSettings
