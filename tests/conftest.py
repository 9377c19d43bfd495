"""A tiny recipe that runs the real stages in seconds, and where the real data lies, if it does."""

import os
from pathlib import Path

import pytest

TINY = [
    "prepare.source.items=60",
    "prepare.source.users=150",
    "prepare.source.image_size=32",
    "prepare.core=0",
    "quantize.kind=rkmeans",
    "quantize.levels=3",
    "quantize.codes=16",
    "caption.engine={kind: none}",
    "mine.engine={kind: none}",
    "retrieve=[{kind: popular}, {kind: cooccurrence}]",
    "train.model={kind: scratch, hidden: 32, layers: 1, heads: 2, vocab: 400}",
    "train.epochs=2",
    "train.eval_every=10",
    "train.eval_users=20",
    "train.tokens_per_batch=1024",
    "recommend.num_beams=10",
    "runtime.save_every=3",
]
SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def tiny() -> list[str]:
    """Overrides that make `recipes/demo.yaml` tiny, without captions, interests and LoRA."""
    return list(TINY)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the real datasets; skips the test where it is absent."""
    folder = Path(os.environ.get("GENREC_DATA", SHARED))
    if not (folder / "scientific").is_dir():
        pytest.skip("real data absent: set GENREC_DATA to the folder that holds scientific/")
    return folder
