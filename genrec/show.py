"""What `genrec show` and `genrec list` print: a finished stage, or what a recipe can name."""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import rich.console
from rich.table import Table
from rich.text import Text

from genrec import recipe, registry, resources
from genrec.data.card import POPULARITY_FILE
from genrec.data.formats import FORMATS
from genrec.enrich.settings import Caption, Late
from genrec.lm.settings import Tasks, Train
from genrec.pipeline import STAGES, Pipeline
from genrec.settings import Section
from genrec.store import Artifact

_BLOCKS = "▁▂▃▄▅▆▇█"
_WIDTH = 48  # characters of a curve
_SPEED = ("tokens_per_second", "padding", "memory_gb", "gpu_memory_gb")
Line = Mapping[str, Any]  # of a `log.jsonl`


def show(pipeline: Pipeline, stage: str, *, rows: int) -> None:
    """Prints what a finished stage holds.

    Args:
        pipeline: whose store to look into.
        stage: the stage; `retrieve` shows every retriever.
        rows: how many rows, examples or users.

    Raises:
        KeyError: no such stage.
        MissingArtifact: it has not been run; names the command.
    """
    out = rich.console.Console()
    for key in pipeline.graph.keys(stage):
        artifact = pipeline[key]
        if rows:
            out.print(f"{key}  {artifact.path}", style="bold", highlight=False, soft_wrap=True)
        _VIEWS[artifact.stage](out, pipeline, artifact, rows)


def show_next(pipeline: Pipeline, words: Sequence[str]) -> None:
    """Prints what a finished run made, and the commands that use it.

    Args:
        pipeline: finished.
        words: how the recipe was named on the command line: itself, then overrides.
    """
    started = os.path.relpath(sys.argv[0])
    genrec = "genrec" if shutil.which("genrec") else started
    if Path(started).name == "__main__.py":
        genrec = "python -m genrec"
    recipe = shlex.join(words)
    user = pipeline["prepare"].load("users.parquet")["user_id"][0]
    print(f"made:      {len(pipeline.nodes)} artifacts in {pipeline.store.root}")
    print(f"report:    {pipeline['evaluate'] / 'report.html'}")
    print(f"one user:  {genrec} recommend {recipe} --user {shlex.quote(user)} --why")
    print(f"shop page: {genrec} serve {recipe}    (then open http://127.0.0.1:8000)")


def registries() -> dict[str, dict[str, str]]:
    """Returns what can be listed: kind of thing -> name -> one line about it."""

    def union(section: type[Section], field: str) -> dict[str, str]:
        return summaries(recipe.kinds(typing.get_type_hints(section, include_extras=True)[field]))

    def summaries(members: Mapping[str, Any]) -> dict[str, str]:
        return {name: _first_line(member.__doc__) for name, member in sorted(members.items())}

    shipped = resources.folder("recipes")
    return {
        "recipes": {
            str(p.relative_to(shipped)): _first_line(p.read_text("utf-8").lstrip("# "))
            for p in sorted(shipped.rglob("*.yaml"))
            if p.read_text("utf-8").startswith("#")
            and not {"accelerate", "ablations"} & set(p.parts)
        },
        "ablations": {
            p.stem: _first_line(p.read_text("utf-8").lstrip("# "))
            for p in sorted((shipped / "ablations").glob("*.yaml"))
        },
        "launchers": {
            p.stem: _first_line(p.read_text("utf-8").lstrip("# "))
            for p in sorted((shipped / "accelerate").glob("*.yaml"))
        },
        "stages": {s.name: f"reads {', '.join(s.reads) or 'raw files'}" for s in STAGES},
        "sources": summaries(registry.parts("sources")),
        "engines": union(Caption, "engine"),
        "embeddings": union(recipe.Recipe, "embed"),
        "splits": union(recipe.Prepare, "split"),
        "images": union(Late, "image"),
        "quantizers": summaries(registry.parts("quantizers")),
        "tasks": {name: field.description or "" for name, field in Tasks.model_fields.items()},
        "models": union(Train, "model"),
        "retrievers": summaries(registry.parts("retrievers")),
        "decoders": union(recipe.Recommend, "engine"),
        "formats": {name: format_.about for name, format_ in FORMATS.items()},
    }


def _first_line(text: str | None) -> str:
    return (text or "").strip().splitlines()[0] if (text or "").strip() else ""


def _records(out: rich.console.Console, frame: Any, rows: int) -> None:
    for row in frame.head(rows).iter_rows(named=True):
        for number, (name, value) in enumerate(row.items()):
            out.print(Text(f"{'  - ' if number == 0 else '    '}{name}: {_short(value)}"))


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def _tree(out: rich.console.Console, stats: Mapping[str, Any]) -> None:
    for name, value in stats.items():
        out.print(Text(f"  {name}: {', '.join(map(str, _listed(value)))}"), soft_wrap=True)


def _tell(out: rich.console.Console, findings: Sequence[str]) -> None:
    for finding in findings:
        out.print(Text(f"  ! {finding}", style="bold"), soft_wrap=True)


def _listed(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return [f"{k} {_rounded(v)}" for k, v in value.items()]
    return [_rounded(v) for v in (value if isinstance(value, list) else [value])]


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return round(value, 4) if isinstance(value, float) else value


_CARD = ("users", "items", "interactions", "density", "users_in", "split", "time", "dropped")


def _prepare(out: rich.console.Console, _: Pipeline, artifact: Artifact, rows: int) -> None:
    stats = artifact.load("stats.json")
    findings = stats.pop("findings", [])
    _tree(out, {name: stats[name] for name in _CARD if name in stats} | stats)
    _tell(out, findings)
    out.print(Text(f"  popularity curve: {artifact / POPULARITY_FILE}"), soft_wrap=True)
    for name in ("items", "test"):
        out.print(f"{name}.parquet", style="bold", highlight=False)
        _records(out, artifact.load(f"{name}.parquet"), rows)


def _annotated(out: rich.console.Console, pipeline: Pipeline, artifact: Artifact, n: int) -> None:
    """Shows the counts, the first rows, and the first of those that failed, with the reason."""
    _tree(out, artifact.load("summary.json"))
    titles = pipeline["prepare"].load()["title"].to_list()
    table = artifact.load()
    for row in table.filter(table["error"].is_null()).head(n).iter_rows(named=True):
        out.print(Text(f"  - {row['item']}  {_short(titles[row['item']])}", style="bold"))
        if "caption" in row:
            out.print(Text(f"    {_short(row['caption'] or '(no image)')}"))
            continue
        out.print(Text(f"    {_short(row['reasoning'])}", style="dim"))
        for parts in zip(row["confidence"], row["interests"], row["evidence"], strict=True):
            out.print(Text("    {:.2f}  {}  ({})".format(*parts)))
    failed = table.filter(table["error"].is_not_null())
    if len(failed):
        out.print(f"failed: {len(failed)}", style="bold", highlight=False)
    for row in failed.head(n).iter_rows(named=True):
        out.print(Text(f"  - {row['item']}  {_short(titles[row['item']])}\n    {row['error']}"))


def _embed(out: rich.console.Console, pipeline: Pipeline, artifact: Artifact, rows: int) -> None:
    from genrec.enrich import load_fused

    embeddings, _ = load_fused(artifact.path)
    out.print(f"  {embeddings.shape[0]} items x {embeddings.shape[1]} dimensions are quantized")
    _tree(out, artifact.load())


def _quantize(out: rich.console.Console, pipeline: Pipeline, artifact: Artifact, rows: int) -> None:
    from genrec.sid import SIDSets, format_sid

    whole = artifact.load("stats.json")
    sets = SIDSets.load(artifact.path)
    for number, stats in enumerate(whole.get("sets", [whole])):
        if len(sets) > 1:
            out.print(f"set {number + 1}", style="bold", highlight=False)
        findings = stats.pop("findings", [])
        _tree(out, stats)
        _tell(out, findings)
    titles = pipeline["prepare"].load()["title"]
    for item, title in enumerate(titles[:rows]):
        sids = " ".join(format_sid(own[item]) for own in sets)
        out.print(Text.assemble("  ", (sids, "cyan"), "  ", _short(title)))


def _compose(out: rich.console.Console, _: Pipeline, artifact: Artifact, rows: int) -> None:
    from genrec.lm.compose import render
    from genrec.schema import read_examples

    examples = read_examples(artifact / "train.parquet")
    out.print("  [dim]prompt, no loss[/] | [bold green]completion, loss[/]")
    for task in sorted({example.task for example in examples}):
        chosen = [example for example in examples if example.task == task]
        out.print(f"\n[bold]{task}[/]: {len(chosen)} examples", highlight=False)
        for example in chosen[:rows]:
            parts = [(t, "bold green" if target else "dim") for t, target in render(example)]
            out.print(Text.assemble("  ", *parts))


def _train(out: rich.console.Console, _: Pipeline, artifact: Artifact, rows: int) -> None:
    _tree(out, artifact.load("summary.json"))
    if artifact.load("summary.json").get("rows_first"):
        out.print("[bold]the first stage: SID rows alone[/]")
        show_curves(out, artifact.path / "rows-first")
        out.print("[bold]the second stage[/]")
    show_curves(out, artifact.path)


def show_curves(out: rich.console.Console, folder: Path) -> None:
    """Prints each curve of a `log.jsonl` with its first, lowest, highest and last value.

    Args:
        out: where to.
        folder: of the train stage's artifact.
    """
    text = (folder / "log.jsonl").read_text("utf-8")
    lines: list[Line] = [json.loads(line) for line in text.splitlines()]
    steps = [line for line in lines if "loss" in line]
    if not steps:
        return
    last = max(line["step"] for line in lines)
    table = Table(box=None, pad_edge=False, title=f"steps {steps[0]['step']} to {last}")
    for name in ("", "curve", "first", "lowest", "highest", "last"):
        table.add_column(name, justify="left" if name in ("", "curve") else "right", no_wrap=True)
    for name, points in curves(lines).items():
        values = [value for _, value in points]
        row = [values[0], min(values), max(values), values[-1]]
        table.add_row(name, sparkline(points, end=last), *(f"{value:.4g}" for value in row))
    out.print(table)
    out.print(Text(f"  image: {folder / 'losses.png'}"), soft_wrap=True)


def curves(lines: Sequence[Line]) -> dict[str, list[tuple[int, float]]]:
    """Returns (step, value) of everything that was measured, by name: losses first.

    Args:
        lines: of a `log.jsonl`.
    """
    steps = [line for line in lines if "loss" in line]
    valid = [{"step": line["step"], **line["valid"]} for line in lines if "valid" in line]
    tasks = sorted({task for line in steps for task in line.get("tasks", {})})
    points = {"loss": _points(steps, "loss")}
    for task in tasks:
        parts = [{"step": line["step"], **line.get("tasks", {})} for line in steps]
        points[f"  {task}"] = _points(parts, task)
    for name in sorted({name for line in valid for name in line} - {"step"}):
        points[f"validation {name}"] = _points(valid, name)
    for name in ("lr", "grad_norm", *_SPEED):
        points[name] = _points(steps, name)
    return {name: measured for name, measured in points.items() if measured}


def sparkline(points: Sequence[tuple[int, float]], *, end: int, width: int = _WIDTH) -> str:
    """Draws a curve in one line, blank before its first point, level where it has none.

    Args:
        points: (step, value), steps from 1 and ascending; where several share a column, their mean.
        end: the step of the right edge.
        width: columns.
    """
    columns: list[list[float]] = [[] for _ in range(width)]
    for step, value in points:
        if math.isfinite(value):
            columns[min(width - 1, (step - 1) * width // max(end, 1))].append(value)
    heights: list[float | None] = []
    for column in columns:
        before = heights[-1] if heights else None
        heights.append(sum(column) / len(column) if column else before)
    known = [height for height in heights if height is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(" " if h is None else _BLOCKS[round((h - low) * scale)] for h in heights)


def _points(lines: Sequence[Line], name: str) -> list[tuple[int, float]]:
    return [(line["step"], line[name]) for line in lines if name in line]


def _lists(out: rich.console.Console, pipeline: Pipeline, artifact: Artifact, rows: int) -> None:
    items = pipeline["prepare"].load().select("item_id", "title").rows()
    users = pipeline["prepare"].load("users.parquet")
    user_ids = dict(users.select("user", "user_id").iter_rows())
    for (user,), group in artifact.load().group_by(["user"], maintain_order=True):
        if rows <= 0:
            break
        rows -= 1
        out.print(Text(f"user {user_ids[user]}", style="bold"))
        for item, score, rank in group.select("item", "score", "rank").head(10).iter_rows():
            item_id, title = items[item]
            out.print(
                Text(f"  {rank:>3} {score:>9.3f}  {item_id}  {_short(title)}"), soft_wrap=True
            )


def _stats_and_lists(
    out: rich.console.Console, pipeline: Pipeline, artifact: Artifact, rows: int
) -> None:
    _tree(out, artifact.load("stats.json"))
    _lists(out, pipeline, artifact, rows)


def _probe(out: rich.console.Console, _: Pipeline, artifact: Artifact, rows: int) -> None:
    _measures(out, artifact.load())
    written = artifact.load("written.parquet")
    for (task,), texts in written.group_by(["task"], maintain_order=True):
        out.print(f"{task}", style="bold", highlight=False)
        _records(out, texts.drop("task"), rows)


def _measures(out: rich.console.Console, probes: Mapping[str, Any]) -> None:
    """Shows every measure with its chance level, then what is absent, and why."""
    from genrec.evaluate.probes import absences, measures

    for m in measures(probes):
        chance = "" if m.chance is None else f"   by chance {m.chance:.4f}"
        line = f"  {m.part:<22} {m.name:<30} {m.value:>8.4f}{chance}"
        out.print(Text(line), soft_wrap=True)
    for part, reason in absences(probes).items():
        out.print(Text(f"  {part:<22} not measured: {reason}", style="dim"), soft_wrap=True)


def _evaluate(out: rich.console.Console, _: Pipeline, artifact: Artifact, rows: int) -> None:
    from genrec.evaluate import groups_table, metrics_table

    metrics = artifact.load()
    out.print(metrics_table(metrics))
    if groups := groups_table(metrics):
        out.print(groups)
    if rows and "probes" in metrics:  # a run ends with the tables alone
        _measures(out, metrics["probes"])


_VIEWS: dict[str, Callable[[rich.console.Console, Pipeline, Artifact, int], None]] = {
    "prepare": _prepare,
    "caption": _annotated,
    "mine": _annotated,
    "embed": _embed,
    "quantize": _quantize,
    "compose": _compose,
    "train": _train,
    "retrieve": _lists,
    "recommend": _stats_and_lists,
    "fuse": _stats_and_lists,
    "probe": _probe,
    "evaluate": _evaluate,
}
