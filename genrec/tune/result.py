"""What a study ends with: a recipe that is ready to run, a table, and a plot."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import optuna
import polars as pl
from matplotlib.figure import Figure
from optuna.trial import FrozenTrial, TrialState

from genrec.recipe import RecipeError
from genrec.recipe_text import assign, assignments, lines
from genrec.settings import read_mapping
from genrec.tune.space import shown, text
from genrec.tune.tuning import METRIC, Tuning

_STATES = {TrialState.COMPLETE: "", TrialState.PRUNED: "ended early", TrialState.FAIL: "failed"}


def write_recipe(tuning: Tuning, file: Path) -> Path:
    """Writes the recipe with the values of the best trial and the overrides of the study.

    Args:
        tuning: with a finished trial.
        file: replaced if it is there.
    """
    best = tuning.best()
    data = read_mapping(tuning.recipe, RecipeError, expected="of sections")
    data.pop("name", None)
    for override in (*tuning.overrides, *assignments(tuning.settings(best))):
        assign(data, override)
    count = len(tuning.finished())
    head = [
        f"# {tuning.base.recipe.name}, tuned by `genrec tune` in the space {tuning.space.name}: trial "
        f"{best.number}, the best of {count}.",
        f"# {METRIC} of {tuning.space.system} on validation users: {best.value:.4f}, as it was "
        f"{_own(tuning)}.",
    ]
    file.write_text("\n".join([*head, *lines(data)]) + "\n", encoding="utf-8")
    return file


def table(tuning: Tuning) -> pl.DataFrame:
    """Returns the trials, best first: `trial`, `ndcg@10`, `seconds`, `end`, and each parameter.

    Those that ended early have the best value that they had reached.
    """
    rows = [
        {
            "trial": trial.number,
            METRIC: _value(trial),
            "seconds": round(trial.user_attrs.get("seconds", 0.0)),
            "end": _STATES[trial.state],
        }
        | {key: text(trial.params.get(key)) for key in tuning.dimensions}
        for trial in tuning.finished()
    ]
    order = [pl.col("end") != "", pl.col(METRIC).fill_null(-math.inf).neg(), pl.col("trial")]
    return pl.DataFrame(rows, infer_schema_length=None).sort(order)


def write_report(tuning: Tuning) -> list[Path]:
    """Writes trials.csv, table.md and plot.png into the study's folder; returns them."""
    rows = table(tuning)
    files = [tuning.folder / name for name in ("trials.csv", "table.md", "plot.png")]
    rows.write_csv(files[0])
    files[1].write_text(_markdown(tuning, rows), encoding="utf-8")
    _plot(tuning, files[2])
    return files


def summary(tuning: Tuning) -> list[str]:
    """Returns the best trials in a line each, and how the rest ended."""
    trials, best = tuning.finished(), tuning.best()
    complete = sorted(
        (t for t in trials if t.state == TrialState.COMPLETE),
        key=lambda t: (-(_value(t) or 0), t.number),
    )
    said = [
        f"{METRIC} {trial.value:.4f}  trial {trial.number}: {shown(tuning.dimensions, trial.params)}"
        for trial in complete[:5]
    ]
    early = sum(t.state == TrialState.PRUNED for t in trials)
    failed = len(trials) - len(complete) - early
    said.append(
        f"best of {len(trials)} trials ({early} ended early, {failed} failed): {best.value:.4f}; "
        f"the recipe as it was: {_own(tuning)}"
    )
    if common := tuning.space.common:
        said.append(
            f"all trials had the space's own {', '.join(sorted(common))}, the recipe has not: what is "
            "best there may not be best here. Run both to the end before you keep it"
        )
    return said


def importances(tuning: Tuning) -> dict[str, float]:
    """Returns how much of the variance of the values each parameter explains, largest first.

    By fANOVA, as Optuna has it. Empty with fewer than 8 finished trials, or where all are equal.
    """
    complete = [t for t in tuning.finished() if t.state == TrialState.COMPLETE]
    if len(complete) < 8 or len({trial.value for trial in complete}) < 2:
        return {}
    study = optuna.create_study(direction="maximize")
    study.add_trials(complete)
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return optuna.importance.get_param_importances(study, evaluator=evaluator)


def _own(tuning: Tuning) -> str:
    own = tuning.own
    values = [t.value for t in tuning.finished() if t.params == own and t.value is not None]
    return f"{values[0]:.4f}" if values else "not finished"


def _value(trial: FrozenTrial) -> float | None:
    if trial.state == TrialState.PRUNED:
        return max(trial.intermediate_values.values(), default=None)
    return trial.value


def _markdown(tuning: Tuning, rows: pl.DataFrame) -> str:
    parts = [
        f"# {tuning.space.name} on {tuning.base.recipe.name}",
        tuning.space.description.strip(),
        f"{METRIC} of {tuning.space.system} on validation users, best first; the recipe as it was: "
        f"{_own(tuning)}. A trial that ended early has the best value that it had reached.",
        "\n".join(
            [
                _row(rows.columns),
                _row(["---"] * rows.width),
                *(_row(map(_cell, row)) for row in rows.iter_rows()),
            ]
        ),
    ]
    if shares := importances(tuning):
        said = ", ".join(f"`{key}` {share:.0%}" for key, share in shares.items())
        parts.append(f"What the values vary with, by fANOVA over few trials: {said}.")
    return "\n\n".join(part for part in parts if part) + "\n"


def _row(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return "" if value is None else str(value).replace("|", "\\|")


def _plot(tuning: Tuning, file: Path) -> None:
    """Draws the values in their order, and over each parameter."""
    trials = [trial for trial in tuning.finished() if _value(trial) is not None]
    keys = [*tuning.dimensions]
    columns = min(3, len(keys) + 1)
    rows = math.ceil((len(keys) + 1) / columns)
    figure = Figure(figsize=(4 * columns, 3 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    whole = [t for t in trials if t.state == TrialState.COMPLETE]
    early = [t for t in trials if t.state == TrialState.PRUNED]
    best = [max(w.value or 0.0 for w in whole[: n + 1]) for n in range(len(whole))]
    grid[0].step([t.number for t in whole], best, where="post", color="0.6", label="best")
    grid[0].set(xlabel="trial", ylabel=METRIC)
    for panel, key in zip(grid, [None, *keys], strict=False):
        for group, marker, name in ((whole, "o", "finished"), (early, "x", "ended early")):
            places = [t.number if key is None else _place(tuning, key, t) for t in group]
            panel.scatter(places, [_value(t) for t in group], marker=marker, s=18, label=name)
        if key is None:
            continue
        panel.set_xlabel(key)
        dimension = tuning.dimensions[key]
        if dimension.choices is not None:
            labels = [label[:18] for label in dimension.choices]
            panel.set_xticks(range(len(labels)), labels, rotation=20, fontsize="small")
        elif dimension.log:
            panel.set_xscale("log")
    grid[0].legend(fontsize="small")
    for panel in grid[len(keys) + 1 :]:
        panel.set_visible(False)
    # Without the version that matplotlib writes, the same numbers are the same bytes.
    figure.savefig(file, format="png", dpi=100, metadata={"Software": None})


def _place(tuning: Tuning, key: str, trial: FrozenTrial) -> float:
    choices = tuning.dimensions[key].choices
    value = trial.params[key]
    return float(value) if choices is None else float([*choices].index(value))
