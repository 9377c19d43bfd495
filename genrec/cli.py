"""The command line: verbs to pipeline calls. One verb per stage, and those that look."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

import genrec
from genrec.console import Console
from genrec.launch import follow_launcher
from genrec.pipeline import STAGES, Pipeline
from genrec.processes import Processes
from genrec.runs import end_with_parent
from genrec.serve.command import chat, serve
from genrec.tune.command import tune

_OVERRIDES = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
_RECIPE = click.argument("recipe")


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="KEY=VALUE overrides a field of the recipe, as in quantize.levels=3.",
)
@click.version_option(genrec.__version__, prog_name="genrec")
def cli() -> None:
    """LLM-centric generative recommendation: a catalogue and histories to an LLM that writes SIDs."""


@cli.command()
@_RECIPE
@_OVERRIDES
@click.option("--to", metavar="STAGE", help="The last stage to run.")
@click.option("--force", metavar="STAGE", help="Build this stage anew, and all that reads it.")
@click.option("--strict", is_flag=True, help="Build anew what other versions of packages made.")
def run(
    recipe: str, overrides: tuple[str, ...], to: str | None, force: str | None, strict: bool
) -> None:
    """Run every stage that is not finished, in order."""
    end_with_parent()
    with _console() as console:
        pipeline = Pipeline.load(recipe, *overrides, console=console)
        pipeline.run(to, force=force, strict=strict)
    if to in (None, "evaluate"):
        from genrec.show import show, show_next

        show(pipeline, "evaluate", rows=0)
        show_next(pipeline, (recipe, *overrides))


@cli.command()
@click.argument("log", type=Path)
@click.argument("items", type=Path, required=False)
@click.option("--images", type=Path, metavar="FOLDER", help="Images, by path or item id.")
@click.option("--out", type=Path, metavar="FILE", help="The recipe; named after LOG if not given.")
@click.option("--user", metavar="COLUMN", help="By name or place from 1, as the next ones.")
@click.option("--item", metavar="COLUMN", help="The item, in LOG.")
@click.option("--timestamp", metavar="COLUMN", help="The time, in LOG.")
@click.option("--title", metavar="COLUMN", help="The title, in ITEMS, or in LOG without ITEMS.")
@click.option("--force", is_flag=True, help="Replace recipes that are there.")
def init(
    log: Path,
    items: Path | None,
    images: Path | None,
    out: Path | None,
    force: bool,
    **columns: str | None,
) -> None:
    """Look at your files, say what is in them, and write a recipe.

    LOG holds the interactions and ITEMS the catalogue: CSV and other text in columns, JSON lines,
    parquet or xlsx, compressed or not.
    """
    from genrec.init import init

    known = {role: column for role, column in columns.items() if column is not None}
    with _console() as console:
        options: dict[str, Any] = {"images": images, "out": out, "columns": known, "force": force}
        said, recipe, quick = init(log, items, **options, progress=console.progress("init"))
    click.echo(said)
    click.echo(f"wrote {recipe}, and {quick}, which ends in minutes\nnext: genrec run {quick}")


@cli.command()
@_RECIPE
@_OVERRIDES
@click.option("--grid", required=True, metavar="FILE", help="Variants, as in recipes/ablations/.")
@click.option(
    "--seeds", default=3, show_default=True, help="Seeds 0 to SEEDS - 1 for each variant."
)
@click.option(
    "--only", multiple=True, metavar="VARIANT", help="Run this one; may stand repeatedly."
)
@click.option("--processes", default=1, show_default=True, help="How many runs at once.")
@click.option("--to", metavar="STAGE", help="The last stage to run.")
@click.option("--plan", "look", is_flag=True, help="Say what would be built, and run nothing.")
@click.option("--table", is_flag=True, help="Run nothing: the table of what is finished.")
def ablate(
    recipe: str,
    overrides: tuple[str, ...],
    grid: str,
    seeds: int,
    only: tuple[str, ...],
    processes: int,
    to: str | None,
    look: bool,
    table: bool,
) -> None:
    """Run every variant of a grid with several seeds over one store, and compare them."""
    import rich.console

    from genrec.ablate import Ablation, console_tables
    from genrec.runs import QuietConsole

    with QuietConsole() as console:
        ablation = Ablation(
            recipe, grid, seeds=seeds, overrides=overrides, only=only, to=to, console=console
        )
        if look:
            for key, needed, missing in ablation.plan():
                click.echo(f"{key:<24}{needed:>4} artifacts, {missing} to build")
            return
        if not table:
            ablation.run(processes=processes)
        measured = ablation.tabulate()
    out = rich.console.Console()
    for part in console_tables(measured):
        out.print(part, highlight=False)
    click.echo(f"table: {ablation.folder / 'table.md'}")
    if ablation.failed:
        sys.exit(1)


@cli.command()
@_RECIPE
@_OVERRIDES
@click.option("--why", is_flag=True, help="Say which inputs or versions differ.")
@click.option("--strict", is_flag=True, help="Plan a run with --strict.")
def plan(recipe: str, overrides: tuple[str, ...], why: bool, strict: bool) -> None:
    """Show what a run would do, without running anything."""
    for row in Pipeline.load(recipe, *overrides).plan(strict=strict):
        click.echo(f"{row.key:<24}{row.status:<9}{row.fingerprint}")
        for note in row.notes:
            click.echo(f"    {note}")
        if why or row.status in ("blocked", "damaged"):
            for reason in row.why:
                click.echo(f"    {reason}")


@cli.command()
@_RECIPE
@click.argument("stage")
@_OVERRIDES
@click.option("-n", "rows", default=5, show_default=True, help="How many rows or examples.")
def show(recipe: str, stage: str, overrides: tuple[str, ...], rows: int) -> None:
    """Show what a finished stage holds."""
    from genrec.show import show

    show(Pipeline.load(recipe, *overrides), stage, rows=rows)


@cli.command()
@_RECIPE
@click.argument("stage")
@_OVERRIDES
def path(recipe: str, stage: str, overrides: tuple[str, ...]) -> None:
    """Print the folder of a finished stage."""
    pipeline = Pipeline.load(recipe, *overrides)
    for key in pipeline.graph.keys(stage):
        click.echo(pipeline[key].path)


@cli.command()
@_RECIPE
@_OVERRIDES
@click.option(
    "--format", "format_name", required=True, metavar="FORMAT", help="`genrec list formats`."
)
@click.option("--out", metavar="FOLDER", help="New or empty; exports/RECIPE-FORMAT by default.")
def export(recipe: str, overrides: tuple[str, ...], format_name: str, out: str | None) -> None:
    """Write the dataset and its SIDs as another toolkit reads them."""
    from genrec.export import export

    for file in export(Pipeline.load(recipe, *overrides), format_name, out):
        click.echo(file)


@cli.command()
@_RECIPE
@_OVERRIDES
@click.option("--out", metavar="FOLDER", help="New or empty; published/RECIPE by default.")
@click.option("--adapter", is_flag=True, help="The adapter alone, not the whole model.")
@click.option("--push", metavar="OWNER/NAME", help="To the hub as well; nothing is sent otherwise.")
@click.option("--public", is_flag=True, help="For --push: a repository that all can see.")
def publish(
    recipe: str,
    overrides: tuple[str, ...],
    out: str | None,
    adapter: bool,
    push: str | None,
    public: bool,
) -> None:
    """Write the trained model with its card, as the model hub has it."""
    from genrec.publish import publish

    pipeline = Pipeline.load(recipe, *overrides)
    folder = out or f"published/{pipeline.recipe.name}"
    what: Any = "adapter" if adapter else "model"
    for file in publish(pipeline, folder, what=what, push_to=push, private=not public):
        click.echo(file)


@cli.command(name="list")
@click.argument("kind", required=False)
def list_(kind: str | None) -> None:
    """List what a recipe can name: recipes, stages, sources, retrievers, tasks ..."""
    from genrec.show import registries

    known = registries()
    if kind is None:
        for name in known:
            click.echo(name)
    elif kind not in known:
        raise KeyError(f"'{kind}': nothing of this name to list; expected one of {list(known)}")
    else:
        for name, text in known[kind].items():
            click.echo(f"{name:<32}{text}")


@cli.command()
@click.argument("section", required=False)
@click.option("--write", is_flag=True, help="Into recipes/settings.md instead.")
@click.option("--check", is_flag=True, help="Fail where recipes/settings.md is out of date.")
def docs(section: str | None, write: bool, check: bool) -> None:
    """Print all settings of a recipe, or of one SECTION: types, defaults, meaning."""
    from genrec import reference

    if check:
        if changes := reference.check():
            click.echo(f"{changes}\nrecipes/settings.md is out of date: run genrec docs --write")
            sys.exit(1)
    elif write:
        click.echo(reference.write())
    else:
        click.echo(reference.reference(section))


def _console() -> Console:
    """Returns a console; under `accelerate launch` only the first process speaks."""
    return Console(quiet=not Processes.current().first)


def _stage_command(stage: str) -> Callable[..., Any]:
    def verb(recipe: str, overrides: tuple[str, ...], force: bool) -> None:
        follow_launcher()
        with _console() as console:
            pipeline = Pipeline.load(recipe, *overrides, console=console)
            pipeline.run(only=stage, force=stage if force else None)
        Processes.current().leave()

    verb.__doc__ = f"Run the {stage} stage alone; names the command for an input that is missing."
    return verb


for _stage in STAGES:
    if _stage.name != "recommend":  # which has more options
        _verb: Any = _OVERRIDES(_stage_command(_stage.name))
        _verb = click.option("--force", is_flag=True, help="Build it anew.")(_RECIPE(_verb))
        cli.command(name=_stage.name)(_verb)


@cli.command()
@_RECIPE
@_OVERRIDES
@click.option("--user", "named", multiple=True, metavar="ID", help="Recommend to; repeatable.")
@click.option("--users", metavar="all|FILE", help="To all, or to the ids in a file's lines.")
@click.option("--history", multiple=True, metavar="ITEM", help="To whoever chose this; repeatable.")
@click.option("-k", type=int, help="Items for each; 10 if not given.")
@click.option("--system", metavar="NAME", help="One system's list, such as generative, not fused.")
@click.option("--keep-seen", is_flag=True, help="Items of the history may come again.")
@click.option("--why", is_flag=True, help="Say which systems listed an item, and because of what.")
@click.option("--to", type=Path, metavar="FILE", help="Write a .parquet or .csv file.")
@click.option("--force", is_flag=True, help="Of the stage: build it anew.")
def recommend(
    recipe: str,
    overrides: tuple[str, ...],
    named: tuple[str, ...],
    users: str | None,
    history: tuple[str, ...],
    force: bool,
    **options: Any,
) -> None:
    """Recommend items to users, by their own ids; without users: run the recommend stage.

    The stage ranks for the users of the split, for evaluation. Users get what the fused systems
    recommend after all that they chose; run the recipe first.
    """
    given = {n: value for n, value in options.items() if value is not None and value is not False}
    if not (named or users or history):
        if given:
            raise ValueError("give --user, --users or --history: whom to recommend to")
        _stage_command("recommend")(recipe, overrides, force)
        return
    from genrec import lists

    if force:
        raise ValueError("--force builds the stage anew; leave it out to recommend to users")
    with _console() as console:
        pipeline = Pipeline.load(recipe, *overrides, console=console)
        progress = console.progress("recommend")
        lists.recommend(pipeline, named, users=users, history=history, progress=progress, **given)


for _command in (tune, serve, chat):
    cli.add_command(_command)


def main() -> None:
    """Runs the command line; a mistake of the user's is one message, not a traceback."""
    # Threads that wait for each other by spinning halve the speed of a busy small machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # It warns of a missing optional kernel at import, whether or not anything is 4-bit.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        cli(prog_name="genrec")
    except (
        *(ValueError, KeyError, OSError, RuntimeError, ImportError),
        FloatingPointError,  # a loss or a score that is NaN: says which setting to lower
    ) as error:
        if os.environ.get("GENREC_TRACEBACK"):
            raise
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        click.echo(f"error: {text}", err=True)
        click.echo("(GENREC_TRACEBACK=1 shows where it happened)", err=True)
        sys.exit(2)
