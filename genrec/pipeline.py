"""Runs a recipe: plans, builds what is missing, checks and opens the rest."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    Sequence,
)
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import yaml

from genrec import recipe as recipes
from genrec.console import Console
from genrec.environment import UNKNOWN, age, carriers, environment, of_rows, packages
from genrec.extras import command, missing
from genrec.graph import STAGES, Graph, Node, ancestors, differences
from genrec.launch import find_config, launch, launched
from genrec.lm.settings import Train
from genrec.lm.sizes import COUNTED, by_data, chosen
from genrec.processes import Processes
from genrec.recipe import Recipe
from genrec.resources import matching
from genrec.stages import Context
from genrec.store import Artifact, DamagedArtifact, Digests, RowCache, Store

if TYPE_CHECKING:
    import polars as pl

    from genrec.bundle import Bundle
    from genrec.dataset import Dataset, Id

__all__ = ["STAGES", "MissingArtifact", "Pipeline", "Plan"]

log = logging.getLogger("genrec.pipeline")
_SHARED = ("train", "recommend")  # the stages whose work is split over processes


@dataclass(frozen=True)
class Plan:
    """What a run would do with one node: `status` is done, run, damaged or blocked.

    `why` of a done one says with which other versions it was made, if it was. `notes` say what the
    recipe leaves to the data.
    """

    key: str
    fingerprint: str
    status: str
    why: tuple[str, ...]
    notes: tuple[str, ...] = ()


def _sized(data: Dataset, store: Path, *, quick: bool) -> dict[str, Any]:
    """Keeps a dataset in a store, by its content, and returns a recipe for it."""
    from genrec import sizes

    partial = store / "datasets" / ".partial"
    data.save(partial)
    content = hashlib.sha256()
    for name in ("items", "interactions", *(["users"] if data.users is not None else [])):
        content.update((partial / f"{name}.parquet").read_bytes())
    folder = partial.with_name(content.hexdigest()[:16])
    if folder.exists():
        shutil.rmtree(partial)
    else:
        partial.rename(folder)
    columns = data.items.columns
    items: dict[str, Any] = {"path": str(folder / "items.parquet")}
    if "title" not in columns:
        items["title"] = None
    log: dict[str, Any] = {"path": str(folder / "interactions.parquet")}
    log |= {"unit": "ns"} if data.times is not None else {"timestamp": None}
    source: dict[str, Any] = {"kind": "files", "items": items, "interactions": log}
    if data.images is not None:
        source["images"] = str(data.images)
    core, _, count, interactions = sizes.core(data.interactions)
    prepare: dict[str, Any] = {"source": source, "core": core}
    sections = sizes.sections(
        items=count,
        interactions=interactions,
        text="title" in columns,
        images=data.images is not None and "image" in columns,
        quick=quick,
    )
    if data.users is not None:
        attributes = [name for name in data.users.columns if name != "user_id"]
        source["users"] = {"path": str(folder / "users.parquet"), "attributes": attributes}
        sections.setdefault("compose", {})["user_attributes"] = attributes
    return {"prepare": prepare} | sections


class MissingArtifact(FileNotFoundError):
    """An artifact that has not been built; the message holds the command that builds it."""


class Artifacts(Mapping[str, Artifact]):
    """The artifacts of a pipeline by node, each checked once, when it is first asked for."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._opened: dict[str, Artifact] = {}

    def __getitem__(self, key: str) -> Artifact:
        if key not in self._opened:
            if key not in self._pipeline.nodes:
                raise KeyError(key)
            self._opened[key] = self._pipeline[key]
        return self._opened[key]

    def __contains__(self, key: object) -> bool:
        return key in self._pipeline.nodes

    def __iter__(self) -> Iterator[str]:
        return iter(self._pipeline.nodes)

    def __len__(self) -> int:
        return len(self._pipeline.nodes)


class Pipeline:
    """A recipe bound to its store.

    Args:
        recipe: the validated recipe.
        words: how the recipe was named on the command line: itself, then overrides.
        console: where progress goes; by default nowhere.
    """

    def __init__(
        self, recipe: Recipe, *, words: Sequence[str], console: Console | None = None
    ) -> None:
        self.recipe = recipe
        self.store = Store(recipe.runtime.store)
        self._words, self._command = tuple(words), " ".join(words)
        self._console = console or Console(quiet=True)
        self._digests = Digests(self.store)
        self.graph = Graph(recipe, self._digests)
        self.nodes = self.graph.nodes
        self._processes = Processes.current()
        self._warned: set[str] = set()
        self._strict = False
        self._opened: Bundle | None = None  # for `recommend`

    @classmethod
    def load(cls, path: str | Path, *overrides: str, console: Console | None = None) -> Pipeline:
        """Reads a recipe with dotted overrides: `Pipeline.load("r.yaml", "quantize.levels=3")`.

        Raises:
            FileNotFoundError: there is no such recipe.
            RecipeError: it cannot be used; the message names each key and the fix.
        """
        loaded = recipes.load(path, overrides)
        return cls(loaded, words=[str(path), *overrides], console=console)

    @classmethod
    def from_settings(
        cls,
        data: Dataset | None = None,
        *,
        store: str | Path = "store",
        quick: bool = False,
        console: Console | None = None,
        **sections: Any,
    ) -> Pipeline:
        """Makes a pipeline of a recipe's sections as keyword arguments, without a recipe file.

        `Pipeline.from_settings(data).fit()` is the whole; `quantize={"levels": 3}` changes a part. The
        recipe is kept in `store/recipes`, so that the command line can go on with it.

        Args:
            data: what to learn from, kept in `store/datasets`; None where `prepare` names a source.
            store: the folder that holds the artifacts.
            quick: sizes that end in minutes.
            console: where progress goes; by default stderr.
            sections: of the recipe. What is not given has a size that suits the data, as `genrec init`
                writes it; without data, the default of the recipe.

        Raises:
            RecipeError: it cannot be used; the message names each key and the fix.
        """
        recipe: dict[str, Any] = {"name": "python"}
        if data is not None:
            recipe |= _sized(data, Path(store), quick=quick)
        for name, section in sections.items():
            both = isinstance(section, dict) and isinstance(recipe.get(name), dict)
            recipe[name] = recipe[name] | section if both else section
        recipe["runtime"] = {**recipe.get("runtime", {}), "store": str(store)}
        text = yaml.safe_dump(recipe, sort_keys=False)
        mark = hashlib.sha256(text.encode()).hexdigest()[:12]
        file = Path(store) / "recipes" / f"{recipe['name']}-{mark}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return cls.load(file, console=console or Console())

    def fit(self, to: str | None = None) -> Self:
        """Builds what is missing of what recommending needs, and shows how far it is.

        As `run`, without what only measures: the stages `probe` and `evaluate`.

        Args:
            to: the last stage to run.
        """
        with self._console:
            for stage in (to,) if to else self._last_stages():
                self.run(stage)
        return self

    def plan(self, *, strict: bool = False) -> list[Plan]:
        """Returns what `run` would do, without reading the artifacts' contents.

        Args:
            strict: as for `run`.
        """
        plans: list[Plan] = []
        anew: set[str] = set()
        for key, node in self.nodes.items():
            problems = self._missing_files(node)
            if absent := self._missing_packages(key):
                fix = command(absent, alone=carriers(node.section))
                problems.append(f"not installed: {', '.join(absent)}; run: {fix}")
            if problems:
                plans.append(Plan(key, self.graph.fingerprint(key), "blocked", tuple(problems)))
                continue
            try:
                artifact = self._find(key)
                if artifact is None:
                    status, why = "run", self._why(key)
                else:
                    outdated = self._age(artifact)
                    again = self._read_anew(key, anew) if strict else ""
                    status = "run" if again or (strict and outdated) else "done"
                    why = tuple(part for part in (outdated, again) if part)
            except DamagedArtifact as error:
                status, why = "damaged", (str(error),)
            if status != "done":
                anew.add(key)
            plans.append(Plan(key, self.graph.fingerprint(key), status, why, self._notes(node)))
        self._digests.save()
        return plans

    def run(
        self,
        to: str | None = None,
        *,
        force: str | None = None,
        only: str | None = None,
        strict: bool = False,
    ) -> None:
        """Builds what is missing, in order; what is there is checked and used.

        An artifact that other versions of its packages made is used, with a warning.

        Args:
            to: the last stage to run; all by default.
            force: a stage to build anew, with everything that reads it.
            only: run this stage alone; its inputs must be there.
            strict: build anew what other versions made, or unknown ones, with everything that
                reads it; rows of the cache that others made are not used either.

        Raises:
            MissingArtifact: `only`, and an input is missing: names the command to run.
            FileNotFoundError, ValueError: a stage met bad input, several processes run what one
                process does, or `runtime.launcher` names none.
            RuntimeError: a stage failed under its launcher.
            DamagedArtifact: `only`, and an input is damaged.
        """
        self._check_processes(only)
        self._opened = None
        if self.recipe.runtime.launcher is not None:
            find_config(self.recipe.runtime.launcher)  # known now, not after hours
        named = only or to
        targets = self.graph.keys(named) if named else list(self.nodes)
        wanted = {
            k
            for key in targets
            for k in ((key, *self.nodes[key].reads) if only else ancestors(self.nodes, key))
        }
        self._check_packages(key for key in self.nodes if key in wanted)
        forced, anew = self._forced(force), set[str]()
        self._strict = strict
        for key in [key for key in self.nodes if key in wanted]:
            mine = only is None or key in targets
            reason = "forced" if key in forced else self._too_old(key, anew) if strict else ""
            if not (reason and mine) and self._sound(key, rebuild=mine):
                self._console.note(key, f"done already, {self.graph.fingerprint(key)}")
            elif mine:
                self._build(key, reason)
                anew.add(key)
            else:
                raise self._absent(key, f"{only} needs {key}, which is not there yet", to=only)
            self._warn_of_age(key)
        self._digests.save()

    def __getitem__(self, key: str) -> Artifact:
        """Opens a finished artifact after checking its files.

        Raises:
            KeyError: no such stage in this recipe.
            MissingArtifact: it has not been built.
            DamagedArtifact: a file is not what was written.
        """
        keys = self.graph.keys(key)
        if len(keys) > 1:
            raise KeyError(f"'{key}' is several: {', '.join(keys)}; name one")
        (key,) = keys
        artifact = self._find(key)
        if artifact is None:
            raise self._absent(key, f"{key} is not there yet")
        artifact.verify()
        self._warn_of_age(key)
        return artifact

    def bundle(
        self, *, engine: str | None = None, options: Mapping[str, Any] | None = None
    ) -> Bundle:
        """Returns what the stages made, opened part by part when it is used; nothing is built.

        Args:
            engine: of the LLM, in place of the recipe's; see `Bundle`.
            options: of the engine.
        """
        from genrec.bundle import Bundle

        return Bundle(self.recipe, Artifacts(self), engine=engine, options=options)

    def finished_bundle(self) -> Bundle:
        """As `bundle`, of a recipe that is finished as far as recommending needs it.

        Raises:
            MissingArtifact: it is not; names what is missing, and one command that builds it.
        """
        needed = {
            k
            for last in self._last_stages()
            for key in self.graph.keys(last)
            for k in ancestors(self.nodes, key)
        }
        if absent := [key for key in self.nodes if key in needed and self._find(key) is None]:
            raise MissingArtifact(
                f"this recipe is not finished: {', '.join(absent)} "
                f"{'is' if len(absent) == 1 else 'are'} not there yet; run: genrec run {self._command}"
            )
        return self.bundle()

    def recommend(
        self,
        users: Iterable[Id] | None = None,
        *,
        histories: Mapping[Id, Sequence[Id]] | None = None,
        events: Mapping[Id, Sequence[Mapping[str, Any]]] | None = None,
        user_attributes: Mapping[Id, Mapping[str, Any]] | None = None,
        k: int = 10,
        filter_seen: bool = True,
        allowed: Collection[Id] | None = None,
        system: str | None = None,
        why: bool = False,
    ) -> pl.DataFrame:
        """Recommends to known users or for any histories, in the owner's ids, by the fused systems.

        The recipe must be finished as far as `fuse`; what it made is opened once and kept.
        Arguments, columns and errors as of `recommendations.recommend_users`.

        Raises:
            MissingArtifact: something was not built; names the command.
        """
        import polars as pl

        from genrec.recommendations import recommend_users

        if self._opened is None:
            self._opened = self.finished_bundle()
        tables = recommend_users(
            self._opened,
            users,
            histories=histories,
            events=events,
            user_attributes=user_attributes,
            k=k,
            filter_seen=filter_seen,
            allowed=allowed,
            system=system,
            why=why,
            progress=self._console.progress("recommend"),
        )
        return pl.concat(tables)

    def finished(self, key: str) -> bool:
        """Says whether a stage is part of the recipe and its artifact is there."""
        return key in self.nodes and self._find(key) is not None

    def _last_stages(self) -> tuple[str, ...]:
        """The stages whose artifacts, with all that they read, are what recommending needs."""
        there = {key.split(".")[0] for key in self.nodes}
        return ("fuse",) if "fuse" in there else tuple(there & {"retrieve", "recommend"})

    # --- within ------------------------------------------------------------------------------

    def _check_processes(self, only: str | None) -> None:
        if self._processes.count > 1 and only not in _SHARED:
            raise ValueError(
                f"genrec {only or 'run'} was started as {self._processes.count} processes, which "
                f"only {' and '.join(_SHARED)} share; start it once: genrec {only or 'run'} "
                f"{self._command}\nand these alone by accelerate launch: genrec train, genrec "
                "recommend"
            )

    def _missing_files(self, node: Node) -> list[str]:
        if node.stage.name != "prepare":  # elsewhere a path may be the name of a model on a hub
            return []
        return [
            f"prepare.{name}: no such file or folder: {value}"
            for name, value in recipes.content_paths(node.section)
            if not matching(value)
        ]

    def _notes(self, node: Node) -> tuple[str, ...]:
        """What the recipe leaves to the data, as far as the data is known."""
        section = node.section
        if not isinstance(section, Train) or not (auto := by_data(section)):
            return ()
        fields = " and ".join(f"{name}=auto" for name in auto)
        prepared = self._find("prepare")
        if prepared is None:
            return (f"{fields}: known when prepare is done",)
        stats = prepared.load("stats.json")
        values = ", ".join(f"{n} {value:g}" for n, value in chosen(section, stats).items())
        counted = ", ".join(f"{stats[name]:,} {name}" for name in COUNTED)
        return (f"{fields}: {values}, for {counted}",)

    def _missing_packages(self, key: str) -> tuple[str, ...]:
        """What a stage that is to be built needs and is not installed."""
        if self._there(key) is not None:
            return ()
        return missing(packages(self.nodes[key].section))

    def _check_packages(self, keys: Iterable[str]) -> None:
        """Raises now, not after the stages before it, if a stage cannot run."""
        users: dict[str, list[str]] = {}
        alone: set[str] = set()
        for key in keys:
            alone |= carriers(self.nodes[key].section)
            for name in self._missing_packages(key):
                users.setdefault(name, []).append(key)
        if users:
            listed = "; ".join(f"{name} (for {', '.join(keys)})" for name, keys in users.items())
            raise ImportError(f"not installed: {listed}\nrun: {command(list(users), alone=alone)}")

    def _find(self, key: str) -> Artifact | None:
        stage = self.nodes[key].stage
        return self.store.find(stage.name, self.graph.fingerprint(key), main=stage.main)

    def _there(self, key: str) -> Artifact | None:
        """Returns what is finished of a node; None too if its manifest cannot be read."""
        try:
            return self._find(key)
        except DamagedArtifact:
            return None

    def _why(self, key: str) -> tuple[str, ...]:
        newest = self.store.latest(self.nodes[key].stage.name)
        if newest is None:
            return ("never built in this store",)
        return tuple(differences(newest["inputs"], self.graph.inputs(key))) or ("removed",)

    def _age(self, artifact: Artifact) -> str:
        """Says with which other versions, or from which other inputs, an artifact was made."""
        parts = [versions] if (versions := age(artifact.manifest)) else []
        for read, digest in artifact.manifest.get("read", {}).items():
            now = self._there(read) if read in self.nodes else None
            if now is not None and now.digest != digest:
                parts.append(f"made from an earlier build of {read}")
        return "; ".join(parts)

    def _too_old(self, key: str, anew: set[str]) -> str:
        """Says why `strict` builds anew what is there; empty if it is as it should be."""
        artifact = self._there(key)
        return "" if artifact is None else self._read_anew(key, anew) or self._age(artifact)

    def _read_anew(self, key: str, anew: set[str]) -> str:
        built = [read for read in self.nodes[key].reads if read in anew]
        return f"reads {', '.join(built)}, built anew" if built else ""

    def _warn_of_age(self, key: str) -> None:
        """Warns once of a node that is used and was made otherwise than it would be made now."""
        artifact = None if key in self._warned else self._there(key)
        if artifact is None or not (outdated := self._age(artifact)):
            return
        self._warned.add(key)
        if outdated == UNKNOWN:  # of a store from before: one line for all of its stages
            artifacts = {k: self._there(k) for k in self.nodes}
            alike = [k for k, a in artifacts.items() if a is not None and self._age(a) == outdated]
            self._warned |= {*alike}
            key = ", ".join(alike)
        if not self._processes.first or launched():
            return
        text = f"{key}: {outdated}; `genrec run --strict` builds it anew"
        if self._console.quiet:  # of a pipeline that is used from Python, or serves
            log.warning(text)
        else:
            self._console.warn(text)

    def _forced(self, force: str | None) -> set[str]:
        if force is None:
            return set()
        keys = set(self.graph.keys(force))
        return keys | {k for k in self.nodes if keys & set(ancestors(self.nodes, k))}

    def _sound(self, key: str, *, rebuild: bool) -> bool:
        try:
            artifact = self._find(key)
            if artifact is None:
                return False
            artifact.verify(self._console.progress(key))
        except DamagedArtifact as error:
            if not rebuild:
                raise DamagedArtifact(
                    f"{error}\nbuild it again with: genrec {key.split('.')[0]} {self._command}"
                ) from error
            self._console.warn(f"{error}; building {key} again")
            return False
        return True

    def _absent(self, key: str, message: str, *, to: str | None = None) -> MissingArtifact:
        stage = key.split(".")[0]
        return MissingArtifact(
            f"{message}; run: genrec {stage} {self._command}\n"
            f"or all that is missing: genrec run {self._command} --to {to or stage}"
        )

    def _build(self, key: str, reason: str = "") -> None:
        node = self.nodes[key]
        for problem in self._missing_files(node):
            raise FileNotFoundError(
                f"{problem}; set it in the recipe or by {problem.partition(':')[0]}=PATH"
            )
        mark = self.graph.fingerprint(key)
        if self._strict:
            self.store.forget_older(node.stage.name, mark)
        anew = bool(reason)
        if config := self._launcher(node):
            self._launch(key, config, force=anew)
            return
        if self._processes.count > 1:
            reason = f"{reason}, {self._processes.count} processes".lstrip(", ")
        if not self._processes.first:  # one process alone keeps the books
            self._call(node, self._partial(key), {})
            return
        stage = node.stage.name
        # Of several processes the others would be on their way already, so theirs do not wait.
        waits = self._says_it_waits(key) if self._processes.count == 1 else None
        with self.store.turn(stage, mark, waits=waits):
            if not anew and self._sound(key, rebuild=True):  # another process came first
                self._console.note(key, f"done already, {mark}")
                return
            self._console.start(key, reason)
            made: dict[str, Any] = {"environment": environment(node.section)}
            with self.store.building(
                stage, mark, self.graph.inputs(key), resumes=node.stage.resumes, made=made
            ) as out:
                self._call(node, out, made)
            self._console.finish(key, str(self.store.folder(stage, mark)))

    def _says_it_waits(self, key: str) -> Callable[[], None]:
        return lambda: self._console.note(key, "waits for another process that is building it")

    def _launcher(self, node: Node) -> Path | None:
        """The accelerate configuration that a stage is to be started with, if this is not yet so."""
        name = self.recipe.runtime.launcher
        if name is None or node.stage.name not in _SHARED or self._processes.count > 1:
            return None
        engine = getattr(node.section, "engine", None)
        return None if engine is not None and engine.kind == "vllm" else find_config(name)

    def _launch(self, key: str, config: Path, *, force: bool) -> None:
        self._digests.save()  # what is known of raw files need not be read again there
        with self._console.aside():
            launch(key, self._words, config=config, force=force)
        if self._find(key) is None:
            raise RuntimeError(f"{key} under {config} ended well and left no artifact")

    def _partial(self, key: str) -> Path:
        final = self.store.folder(self.nodes[key].stage.name, self.graph.fingerprint(key))
        partial = final.with_name(f"{final.name}.partial")
        partial.mkdir(parents=True, exist_ok=True)
        return partial

    def _call(self, node: Node, out: Path, made: MutableMapping[str, Any]) -> None:
        inputs = {read: self[read] for read in node.reads}
        made["read"] = {read: artifact.digest for read, artifact in inputs.items()}
        # Imported when run: what a stage needs (torch) is nothing that `plan` or `--help` wait for.
        stage = import_module(f"genrec.stages.{node.stage.name}")
        cache = RowCache(
            self.store.root / "rows.sqlite",
            environment=of_rows(environment(node.section)),
            strict=self._strict,
        )
        try:
            progress = self._console.progress(node.key)
            context = Context(self.recipe, node.section, inputs, out, cache, progress)
            stage.run(context)
            if older := cache.older():
                made["older"] = [*made.get("older", ()), *older]
        finally:
            cache.close()
