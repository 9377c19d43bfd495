"""`genrec tune` on the command line."""

from __future__ import annotations

import re
from pathlib import Path

import click

from genrec.extras import require
from genrec.runs import QuietConsole

_UNITS = {"h": 3600, "m": 60, "s": 1}


@click.command()
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--space",
    default="llm",
    show_default=True,
    metavar="FILE",
    help="What is tried, as in recipes/tuning/.",
)
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="In all; the same command later goes on.",
)
@click.option("--time", "limit", metavar="2h", help="After it no trial begins: 90s, 30m, 1h30m.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="How many trials at once.",
)
@click.option(
    "--out", type=Path, metavar="FILE", help="The tuned recipe; RECIPE-tuned.yaml by default."
)
@click.option("--force", is_flag=True, help="Replace a recipe that is there.")
def tune(
    recipe: str,
    overrides: tuple[str, ...],
    space: str,
    trials: int,
    limit: str | None,
    workers: int,
    out: Path | None,
    force: bool,
) -> None:
    """Try settings on validation users, and write the recipe with the best of them.

    The first trial is the recipe as it is. Killed, the same command goes on where it was.
    """
    require("tune", "genrec tune")
    from genrec.tune import Tuning, result

    seconds = None if limit is None else duration(limit)
    out = out or Path(f"{Path(recipe).stem}-tuned.yaml")
    if out.exists() and not force:
        raise FileExistsError(f"{out} is there already; give --out FILE, or --force to replace it")
    with QuietConsole("tune") as console:
        tuning = Tuning(recipe, space, overrides=overrides, console=console)
        tuning.run(trials=trials, seconds=seconds, workers=workers)
    _, table, plot = result.write_report(tuning)
    for line in result.summary(tuning):
        click.echo(line)
    click.echo(f"table: {table}\nplot: {plot}\nrecipe: {result.write_recipe(tuning, out)}")
    click.echo(f"next: genrec run {out}")


def duration(text: str) -> float:
    """Returns the seconds that `2h`, `90m` or `1h30m` means.

    Raises:
        ValueError: it is nothing of the kind, or no time at all.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([hms])", text)
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or not seconds:
        raise ValueError(f"--time {text}: expected a time such as 90s, 30m, 2h or 1h30m")
    return seconds
