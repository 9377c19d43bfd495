"""One ablation: every variant of a grid with every seed, run over one store and compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genrec.ablate.grid import Grid, load_grid
from genrec.ablate.schedule import run_apart, run_here
from genrec.ablate.show import markdown
from genrec.ablate.table import collect, compare, long_table
from genrec.pipeline import Pipeline
from genrec.recipe import RecipeError
from genrec.resources import find
from genrec.runs import QuietConsole, Run
from genrec.store import fingerprint


class Ablation:
    """A grid bound to a recipe, seeds and a store.

    The later of these wins: the recipe, the grid's `common`, `overrides`, the variant, the seed. So
    an override changes every variant alike, and a variant keeps what makes it one.

    Args:
        recipe: path or name of the recipe.
        grid: path or name of the grid file.
        seeds: every variant runs with the seeds 0 to `seeds` - 1.
        overrides: dotted assignments for all variants.
        only: the variants to run; all where empty.
        to: the last stage to run, instead of the grid's.
        console: where progress goes; by default nowhere.

    Raises:
        FileNotFoundError: no such recipe or grid.
        GridError, RecipeError: one of them cannot be used, or a variant not with this recipe.
        KeyError: no such variant or stage.
        ValueError: fewer than one seed, or overrides that set the seed.
    """

    def __init__(
        self,
        recipe: str | Path,
        grid: str | Path,
        *,
        seeds: int,
        overrides: Sequence[str] = (),
        only: Sequence[str] = (),
        to: str | None = None,
        console: QuietConsole | None = None,
    ) -> None:
        if seeds < 1:
            raise ValueError(f"seeds: found {seeds}, expected 1 or more")
        if any(override.partition("=")[0] == "seed" for override in overrides):
            raise ValueError("override seed: an ablation runs the seeds 0, 1, ...; give --seeds")
        self.grid: Grid = load_grid(grid)
        self.seeds, self.to = seeds, to or self.grid.to
        self._console = console or QuietConsole(quiet=True)
        self._recipe = find("recipes", recipe, suffix=".yaml")
        self._text = self._recipe.read_bytes()
        chosen = [name for name in only if self.grid.overrides(name)] or list(self.grid.variants)
        # Seed by seed: when half of the time is over, every variant has half of its seeds.
        self.runs = [
            self._run(variant, seed, overrides)
            for seed in range(seeds)
            for variant in self.grid.variants
        ]
        self.chosen = [run for run in self.runs if run.variant in chosen]
        base = Pipeline.load(self._recipe, *self.grid.overrides(self.grid.reference)[0], *overrides)
        self.name = base.recipe.name
        self.store = base.store
        self.samples = base.recipe.evaluate.samples
        digest = fingerprint(
            {
                "recipe": base.recipe.model_dump(mode="json", exclude={"runtime"}),
                "grid": self.grid.model_dump(mode="json"),
                "seeds": seeds,
                "to": self.to,
            }
        )
        self.folder = self.store.root / "ablate" / f"{self.grid.name}-{digest}"

    def plan(self) -> list[tuple[str, int, int]]:
        """Returns for each stage its key, how many artifacts the runs need, and how many to build."""
        needed: dict[str, set[str]] = {}
        missing: dict[str, set[str]] = {}
        for run in self.chosen:
            for key, (_, mark) in run.made.items():
                needed.setdefault(key, set()).add(mark)
            for key, (_, mark) in run.missing().items():
                missing.setdefault(key, set()).add(mark)
        return [(key, len(marks), len(missing.get(key, ()))) for key, marks in needed.items()]

    def run(self, *, processes: int = 1) -> None:
        """Runs what is not finished; a run that fails is marked and the others go on.

        Args:
            processes: how many runs at once, each in a process of its own; 1 runs in this one.

        Raises:
            ValueError: fewer than one process.
        """
        if processes < 1:
            raise ValueError(f"processes: found {processes}, expected 1 or more")
        if processes == 1:
            run_here(self.chosen, self._console.say)
        else:
            # A copy, so that who edits the recipe meanwhile does not change half of the runs.
            copy = self.folder / "recipe" / self._recipe.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(self._text)
            logs = self.folder / "logs"
            run_apart(self.chosen, self._console.say, recipe=copy, processes=processes, logs=logs)

    @property
    def failed(self) -> list[Run]:
        """The runs that failed when they were last tried."""
        return [run for run in self.runs if run.error is not None]

    def tabulate(self) -> dict[str, Any]:
        """Compares what is finished, and writes runs.parquet, table.json and table.md.

        Returns:
            The content of table.json, see `genrec.ablate.table.compare`.
        """
        finished = [run for run in self.runs if run.error is None and not run.missing()]
        table = {
            "grid": self.grid.name,
            "description": self.grid.description,
            "recipe": self.name,
            "to": self.to,
        } | compare(
            collect(finished, system=self.grid.system),
            variants={name: v.note for name, v in self.grid.variants.items()},
            reference=self.grid.reference,
            seeds=self.seeds,
            system=self.grid.system,
            errors=[(run.variant, run.seed, run.error) for run in self.failed if run.error],
            samples=self.samples,
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        long_table(finished).write_parquet(self.folder / "runs.parquet")
        text = json.dumps(table, indent=1, allow_nan=False)
        (self.folder / "table.json").write_text(text + "\n", encoding="utf-8")
        (self.folder / "table.md").write_text(markdown(table), encoding="utf-8")
        return table

    def _run(self, variant: str, seed: int, overrides: Sequence[str]) -> Run:
        common, own = self.grid.overrides(variant)
        all_ = (*common, *overrides, *own, f"seed={seed}")
        try:
            pipeline = Pipeline.load(self._recipe, *all_, console=self._console)
        except RecipeError as error:
            raise RecipeError(f"variant '{variant}' of {self.grid.name}: {error}") from error
        return Run(variant, seed, all_, pipeline, self.to)
