"""What `genrec export` does: finished artifacts to the files of another toolkit."""

from __future__ import annotations

import re
from pathlib import Path

from genrec.data import formats, times_in
from genrec.pipeline import Pipeline
from genrec.sid import SIDSets


def export(pipeline: Pipeline, format_name: str, out: str | Path | None = None) -> list[Path]:
    """Writes a prepared dataset, and its SIDs as far as the format has a place for them.

    Args:
        pipeline: whose store to read.
        format_name: see `genrec.data.formats.FORMATS`.
        out: a new or empty folder; by default `exports/<recipe>-<format>`.

    Returns:
        The files.

    Raises:
        KeyError: no such format.
        MissingArtifact: prepare or quantize has not been run; names the command.
        FileExistsError: the folder holds something.
        ValueError: the dataset does not fit the format, such as several sets of SIDs; it is made of
            SIDs, and the recipe makes none.
    """
    if format_name not in formats.FORMATS:
        known = ", ".join(formats.FORMATS)
        raise KeyError(f"--format {format_name}: no such format; expected one of {known}")
    needs = formats.FORMATS[format_name].needs_sids
    if needs and "quantize" not in pipeline.nodes:
        free = ", ".join(n for n, form in formats.FORMATS.items() if not form.needs_sids)
        raise ValueError(
            f"--format {format_name}: is made of SIDs, and '{pipeline.recipe.name}' makes none, as "
            "its recommend.enabled is false. Run `genrec quantize` and this command with "
            f"recommend.enabled=true, or take one of {free}"
        )
    name = re.sub(r"[^\w.-]+", "-", pipeline.recipe.name)
    bundle = _bundle(pipeline, name, sids=needs)
    folder = Path("exports") / f"{name}-{format_name}" if out is None else Path(out)
    return formats.write(bundle, format_name, folder)


def _bundle(pipeline: Pipeline, name: str, *, sids: bool) -> formats.Bundle:
    prepared = pipeline["prepare"]
    names = ("items", "users", "train", "valid", "test", "interactions")
    has_sids = sids or ("quantize" in pipeline.nodes and pipeline.finished("quantize"))
    made = SIDSets.load(pipeline["quantize"].path) if has_sids else None
    sets = [] if made is None else [made.own(number) for number in range(len(made))]
    return formats.Bundle(
        name,
        **{table: prepared.load(f"{table}.parquet") for table in names},
        sids=sets[0] if sets else None,
        further_sids=tuple(sets[1:]),
        times=times_in(prepared.load("stats.json")),
    )
