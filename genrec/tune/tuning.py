"""One study: trials of a recipe's settings, in processes of their own, until there are enough.

Optuna proposes and remembers (a sqlite file, so a killed study goes on); genrec trains and measures. A
trial that was killed is tried again, and its training goes on from its last checkpoint.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from genrec.bundle import LLM
from genrec.evaluate import per_user
from genrec.lm.callbacks import read_log
from genrec.lm.sizes import by_data, chosen
from genrec.pipeline import Pipeline
from genrec.recipe import RecipeError
from genrec.recipe_text import assignments
from genrec.resources import find
from genrec.runs import QuietConsole, Run, end, environment, last_error, stop
from genrec.stages import lists_of
from genrec.store import fingerprint
from genrec.tune.space import Dimension, Space, assigned, dimensions, load_space, shown

METRIC = "ndcg@10"
_PARTS = 10  # of a training; at the end of each a trial may be ended
_WARMUP = 2  # of the parts: none is ended before
_STARTUP = 6  # trials at random, and finished trials before one is ended early
_POLL = 0.5  # seconds


@dataclass
class Running:
    """A trial that is being run."""

    trial: optuna.Trial
    run: Run
    begun: float
    process: subprocess.Popen[bytes]
    log: Path
    reported: set[int] = field(default_factory=set)


class Tuning:
    """A search space bound to a recipe and a store.

    Args:
        recipe: path or name of the recipe.
        space: path or name of the search space.
        overrides: dotted assignments for all trials. What `auto` stands for in `train` is added.
        console: where progress goes; by default nowhere.

    Attributes:
        base: the recipe as it is, with what the space sets for all trials, bound to the store.
        dimensions: what is searched, by parameter.
        folder: of this study, in the store: `study.db`, logs, and what `report` writes.

    Raises:
        FileNotFoundError: no such recipe or space.
        SpaceError, RecipeError: one of them cannot be used, or not with each other.
        KeyError: the recipe has no such system.
    """

    def __init__(
        self,
        recipe: str | Path,
        space: str | Path,
        *,
        overrides: Sequence[str] = (),
        console: QuietConsole | None = None,
    ) -> None:
        self.space: Space = load_space(space)
        self.recipe = find("recipes", recipe, suffix=".yaml")
        self._console = console or QuietConsole("tune", quiet=True)
        self.overrides = (*overrides, *self._chosen(overrides))
        self._all = (*self.overrides, *assignments(self.space.common))
        self.base = Pipeline.load(self.recipe, *self._all, console=self._console)
        self.base.graph.keys(self.space.stage)  # or the recipe has no such system
        self.dimensions: dict[str, Dimension] = dimensions(self.space, self.recipe, self._all)
        digest = fingerprint(
            {
                "recipe": self.base.recipe.model_dump(mode="json", exclude={"runtime"}),
                "space": self.space.model_dump(mode="json"),
            }
        )
        self.folder = self.base.store.root / "tune" / f"{self.space.name}-{digest}"
        self._text = self.recipe.read_bytes()

    def run(self, *, trials: int, seconds: float | None = None, workers: int = 1) -> None:
        """Runs trials until the study has as many as asked for; the first is the recipe as it is.

        To be called in the main thread: it ends its processes when this one is asked to end.

        Args:
            trials: in all, with those of earlier calls; ended early and failed ones count.
            seconds: when they are over, no trial begins any more. None: no limit.
            workers: trials at once, each in a process of its own with its share of the threads.

        Raises:
            ValueError: trials or workers below 1, or seconds that are not above 0.
            RuntimeError: the recipe as it is fails, or another process runs this study.
        """
        if trials < 1 or workers < 1 or (seconds is not None and seconds <= 0):
            raise ValueError(
                f"trials is {trials}, workers {workers}, time {seconds} s; expected 1 or more of each"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.folder / "study.lock", timeout=0):
                self._run(trials, seconds, workers)
        except Timeout as error:
            raise RuntimeError(
                f"{self.folder}: another process runs this study; wait for it, or stop it"
            ) from error

    def finished(self) -> list[FrozenTrial]:
        """Returns the trials that ended: with a value, early, or with an error; in their order."""
        if not (self.folder / "study.db").is_file():
            return []
        return [trial for trial in self._study().get_trials() if _counts(trial)]

    def best(self) -> FrozenTrial:
        """Returns the trial with the best value; the earlier one where two are equal.

        Raises:
            ValueError: none has a value yet.
        """
        complete = [t for t in self.finished() if t.state == TrialState.COMPLETE]
        if not complete:
            raise ValueError(f"{self.folder}: no trial has ended yet; run genrec tune for longer")
        return max(complete, key=lambda trial: (trial.value, -trial.number))

    @property
    def own(self) -> dict[str, Any]:
        """The values of the recipe as it is, by parameter."""
        return {key: one.own for key, one in self.dimensions.items()}

    def settings(self, trial: FrozenTrial) -> dict[str, Any]:
        """Returns what a trial sets, by dotted key."""
        return assigned(self.dimensions, trial.params)

    # --- within ------------------------------------------------------------------------------

    def _chosen(self, overrides: Sequence[str]) -> list[str]:
        """Returns what `auto` stands for with these data, so that a trial can change a part of it."""
        pipeline = Pipeline.load(self.recipe, *overrides, console=self._console)
        section = pipeline.recipe.train
        auto = by_data(section)
        if self.space.system != LLM or not auto:
            return []
        pipeline.run(to="prepare")
        fields = chosen(section, pipeline["prepare"].load("stats.json"))
        if "model.size" in auto:
            fields = {"model.size": None} | fields
        return assignments({f"train.{name}": value for name, value in fields.items()})

    def _study(self) -> optuna.Study:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(
            storage=f"sqlite:///{self.folder / 'study.db'}",
            study_name=self.space.name,
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=_STARTUP, n_warmup_steps=_WARMUP),
            load_if_exists=True,
        )
        # A sampler that begins anew must not propose the same values anew.
        begun = len(study.get_trials(deepcopy=False))
        study.sampler = optuna.samplers.TPESampler(
            seed=self.base.recipe.seed + begun, multivariate=True, n_startup_trials=_STARTUP
        )
        return study

    def _run(self, trials: int, seconds: float | None, workers: int) -> None:
        study = self._study()
        self._prepare(study)
        copy = self.folder / "recipe" / self.recipe.name  # who edits it meanwhile changes no trial
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(self._text)
        (self.folder / "logs").mkdir(exist_ok=True)
        clock = _Clock(trials, seconds, workers, len(self.finished()))
        env, running = environment(workers), list[Running]()
        before = signal.signal(signal.SIGTERM, stop)
        try:
            while True:
                while len(running) < workers and clock.begins():
                    if started := self._begin(study, copy, env, clock):
                        running.append(started)
                if not running:
                    break
                running = [one for one in running if not self._ended(study, one, clock)]
                time.sleep(_POLL)
        except BaseException:
            end([one.process for one in running])
            raise
        finally:
            signal.signal(signal.SIGTERM, before)

    def _prepare(self, study: optuna.Study) -> None:
        """Has the recipe's own values tried first, and what was killed tried again."""
        known, own = study.get_trials(deepcopy=False), self.own
        if not any(t.state == TrialState.COMPLETE and t.params == own for t in known):
            study.enqueue_trial(own)
        for trial in known:
            if trial.state == TrialState.RUNNING:
                study.tell(trial.number, state=TrialState.FAIL)
                if set(trial.params) == set(self.dimensions) and trial.params != own:
                    study.enqueue_trial(trial.params)

    def _begin(
        self, study: optuna.Study, recipe: Path, env: Mapping[str, str], clock: _Clock
    ) -> Running | None:
        """Starts a trial; None where it is known how it ends."""
        trial = study.ask({key: _distribution(one) for key, one in self.dimensions.items()})
        values = shown(self.dimensions, trial.params)
        begun = time.monotonic()
        words = (*self._all, *assignments(assigned(self.dimensions, trial.params)))
        try:
            pipeline = Pipeline.load(self.recipe, *words, console=self._console)
        except RecipeError as error:
            self._failed(study, trial, str(error), 0.0, clock)
            return None
        run = Run(f"trial {trial.number}", pipeline.recipe.seed, words, pipeline, self.space.stage)
        if not run.missing():
            self._complete(study, trial, run, set(), 0.0, clock)
            return None
        self._console.say(f"trial {trial.number} begins: {values}")
        log = self.folder / "logs" / f"trial-{trial.number}.log"
        return Running(trial, run, begun, run.start(recipe, log, env), log)

    def _ended(self, study: optuna.Study, one: Running, clock: _Clock) -> bool:
        """Looks after a trial; says whether it is over."""
        code = one.process.poll()
        seconds = time.monotonic() - one.begun
        if code is None:
            if not self._hopeless(one):
                return False
            end([one.process])
            one.process.wait()
            shutil.rmtree(_unfinished(one.run), ignore_errors=True)  # it will not go on
            one.trial.set_user_attr("seconds", seconds)
            study.tell(one.trial, state=TrialState.PRUNED)
            clock.ended(seconds)
            best = max(study.trials[one.trial.number].intermediate_values.values())
            self._console.say(
                f"trial {one.trial.number} ended early at {METRIC} {best:.4f}, {clock.left()}"
            )
        elif code:
            self._failed(study, one.trial, last_error(one.log, code), seconds, clock)
        else:
            self._complete(study, one.trial, one.run, one.reported, seconds, clock)
        return True

    def _complete(
        self,
        study: optuna.Study,
        trial: optuna.Trial,
        run: Run,
        reported: set[int],
        seconds: float,
        clock: _Clock,
    ) -> None:
        value = measured(run.pipeline, self.space)
        if self.space.stage == "train":
            _report(trial, run, run.pipeline["train"].path, reported)
        trial.set_user_attr("seconds", seconds)
        study.tell(trial, value)
        clock.ended(seconds)
        best = study.best_trial
        self._console.say(
            f"trial {trial.number}: {METRIC} {value:.4f} after {seconds:.0f} s, best {best.value:.4f} "
            f"(trial {best.number}), {clock.left()}"
        )

    def _failed(
        self, study: optuna.Study, trial: optuna.Trial, error: str, seconds: float, clock: _Clock
    ) -> None:
        if trial.params == self.own:
            study.tell(trial, state=TrialState.FAIL)
            raise RuntimeError(f"the recipe as it is fails, so nothing is tuned: {error}")
        trial.set_user_attr("error", error)
        trial.set_user_attr("seconds", seconds)
        study.tell(trial, state=TrialState.FAIL)
        clock.ended(seconds)
        self._console.warn(f"trial {trial.number} failed: {error}")

    def _hopeless(self, one: Running) -> bool:
        """Says whether a training lags behind the median of the others, as far as it is."""
        if self.space.stage != "train":
            return False
        reported = _report(one.trial, one.run, _unfinished(one.run), one.reported)
        return reported and one.trial.should_prune()


def _unfinished(run: Run) -> Path:
    """The folder of a training that is not finished: its log and checkpoints."""
    stage, mark = run.made["train"]
    return run.pipeline.store.folder(stage, f"{mark}.partial")


def measured(pipeline: Pipeline, space: Space) -> float:
    """Returns a trial's NDCG@10 on validation users."""
    if space.stage == "train":
        return float(pipeline["train"].load("summary.json")["valid"][METRIC])
    prepared = pipeline["prepare"]
    targets, lists = prepared.load("valid.parquet"), lists_of(pipeline[space.stage], "valid")
    num_items = len(prepared.load("items.parquet"))
    users = per_user(lists, targets, ks=(10,), num_items=num_items, where=space.system)
    return float(users[METRIC].to_numpy().mean())


def _report(trial: optuna.Trial, run: Run, folder: Path, known: set[int]) -> bool:
    """Reports what a training has reached at the end of each of its parts; says whether any is new.

    Args:
        trial: told of them.
        run: of this trial.
        folder: with the training's log.
        known: the parts that are reported already; grows.
    """
    epochs = run.pipeline.recipe.train.epochs
    best, new = 0.0, False
    for line in read_log(folder / "log.jsonl"):
        if METRIC not in line.get("valid", {}):
            continue
        best = max(best, line["valid"][METRIC])
        part = min(_PARTS, int(line["epoch"] / epochs * _PARTS))
        if part not in known:
            known.add(part)
            trial.report(best, part)
            new = True
    return new


@dataclass
class _Clock:
    """How many trials there are to be, and how long they take.

    Attributes:
        trials: in all.
        seconds: after which none begins.
        workers: at once.
        begun: trials, with those of earlier calls.
        durations: seconds of each that ended in this call.
    """

    trials: int
    seconds: float | None
    workers: int
    begun: int
    durations: list[float] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)

    def begins(self) -> bool:
        """Says whether a further trial begins, and counts it."""
        if self.begun >= self.trials or self._over():
            return False
        self.begun += 1
        return True

    def ended(self, seconds: float) -> None:
        """Takes in how long a trial took."""
        self.durations.append(seconds)

    def left(self) -> str:
        """Says how many trials are left and how long they may take."""
        count = 0 if self._over() else self.trials - self.begun
        real = [seconds for seconds in self.durations if seconds > 0]
        if not count or not real:
            return f"{count} trials left to begin"
        seconds = sum(real) / len(real) * count / self.workers
        if self.seconds is not None:
            seconds = min(seconds, self.seconds - (time.monotonic() - self.since))
        return f"{count} trials left to begin, some {max(1, round(seconds / 60))} min"

    def _over(self) -> bool:
        return self.seconds is not None and time.monotonic() - self.since >= self.seconds


def _distribution(one: Dimension) -> BaseDistribution:
    if one.choices is not None:
        return optuna.distributions.CategoricalDistribution([*one.choices])
    if isinstance(one.low, int) and isinstance(one.high, int):
        return optuna.distributions.IntDistribution(one.low, one.high, log=one.log)
    return optuna.distributions.FloatDistribution(one.low, one.high, log=one.log)


def _counts(trial: FrozenTrial) -> bool:
    """Whether a trial ended by itself, and was not killed."""
    ended = trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
    return ended or (trial.state == TrialState.FAIL and "error" in trial.user_attrs)
