"""Lists between stages: what cannot be trusted is neither written nor read, and the file is named."""

from pathlib import Path

import polars as pl
import pytest

from genrec import schema
from genrec.stages import lists_of
from genrec.store import Artifact

GOOD = pl.DataFrame(
    [(7, 4, 1.0, 1), (7, 5, 0.5, 2)], schema=dict(schema.RECOMMENDATIONS), orient="row"
)
BAD = GOOD.with_columns(
    score=pl.when(pl.col("rank") == 2).then(float("nan")).otherwise("score")
).cast(
    dict(schema.RECOMMENDATIONS)  # type: ignore[arg-type]
)


@pytest.mark.parametrize("split", ["valid", "test"])
def test_lists_of_another_tool_are_checked(tmp_path: Path, split: str) -> None:
    file = schema.recommendations_file(split)
    artifact = Artifact("retrieve", "0" * 16, tmp_path, file, {"files": {file: {}}})
    GOOD.write_parquet(tmp_path / file)
    assert lists_of(artifact, split).equals(GOOD)
    BAD.write_parquet(tmp_path / file)
    with pytest.raises(ValueError, match=rf"{file}: user 7, item 5 has score nan \(row 2; 1 such"):
        lists_of(artifact, split)


def test_lists_with_nan_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"x\.parquet: user 7, item 5 has score nan"):
        schema.write(tmp_path / "x.parquet", BAD, schema.RECOMMENDATIONS)
    assert not (tmp_path / "x.parquet").exists()
