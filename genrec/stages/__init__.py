"""One file per stage, each with one `run(context)`: open what it reads, call the domain, write.

A stage imports only what it needs: `prepare` loads no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from genrec import schema
from genrec.progress import Progress
from genrec.recipe import Recipe
from genrec.sid.sets import file_of
from genrec.store import Artifact, RowCache

PUBLISHED_SIDS = "published_sids"  # of the stage prepare, where the SIDs came with the data
EVALUATED = ("valid", "test")  # the splits that get recommendations and metrics


@dataclass(frozen=True)
class Context:
    """What a stage function gets.

    Attributes:
        recipe: the whole recipe; what a stage reads of it in addition to its section must be in its
            fingerprint (`Stage.uses`) or in that of an artifact that it reads.
        section: the stage's own section.
        inputs: the artifacts that it reads, by node, checked.
        out: the folder to write into; a stage that resumes finds there what a killed run left.
        cache: finished rows of slow encoders, shared by all runs of the store.
        progress: to be told of every step.
    """

    recipe: Recipe
    section: Any
    inputs: Mapping[str, Artifact]
    out: Path
    cache: RowCache
    progress: Progress

    @property
    def device(self) -> str:
        """The device that `runtime` asks for; also sets the number of threads."""
        return self.recipe.runtime.torch_device()

    @property
    def store(self) -> Path:
        """The store's folder, for what several runs and stages share beside artifacts."""
        return Path(self.recipe.runtime.store)

    def progress_of(self, part: str) -> Progress:
        """Returns a progress whose steps are named after one part, such as a split."""
        return lambda step, done, total: self.progress(f"{step} ({part})", done, total)

    def write_json(self, name: str, value: Any) -> None:
        """Writes one JSON file, the same bytes for the same value."""
        text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False)
        (self.out / name).write_text(text + "\n", encoding="utf-8")


def read_prompts(
    composed: Path, split: str, sets: int, *, rows: Sequence[int] | None = None
) -> list[Any]:
    """Returns the users' prompts; with several sets of SIDs a tuple of one in each.

    Args:
        composed: the folder of the stage compose.
        split: `valid` or `test`.
        sets: M.
        rows: of which users; None takes all.
    """
    files = [composed / file_of(number, split, "parquet") for number in range(sets)]
    examples = [
        schema.read_examples(file) if rows is None else schema.pick_examples(file, rows)
        for file in files
    ]
    prompts = [[example.prompt for example in part] for part in examples]
    return prompts[0] if sets == 1 else list(zip(*prompts, strict=True))


def lists_of(artifact: Artifact, split: str) -> pl.DataFrame:
    """Returns a system's lists for the users of one split, schema `RECOMMENDATIONS`.

    Raises:
        FileNotFoundError: the artifact has none.
        ValueError: they are malformed; names the file and the row.
    """
    file = schema.recommendations_file(split)
    return schema.check_lists(artifact.load(file), artifact / file)


def system_of(key: str) -> str:
    """Returns the name under which a node's lists are measured; empty if it makes none."""
    stage, _, name = key.partition(".")
    return {"recommend": "generative", "fuse": "fused"}.get(stage, name)
