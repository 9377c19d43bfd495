"""The stages as a table, a recipe's nodes, and what each node's fingerprint covers.

A fingerprint covers the stage's version, its section of the recipe, the recipe-wide fields that it
uses (the seed), its prompt templates, its raw files and the fingerprints of what it reads. An
artifact with that fingerprint is never built twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from genrec import prompts, recipe as recipes, registry
from genrec.analysis.settings import Probe
from genrec.recipe import Recipe
from genrec.resources import matching
from genrec.settings import Section
from genrec.store import fingerprint
from genrec.weights import find_asset, gguf_files


@dataclass(frozen=True)
class Stage:
    """One row of the table: what a stage reads and writes, and how it runs.

    Attributes:
        name: verb, recipe section, function in `stages`, folder in the store.
        version: raised when the stage's code changes what it writes.
        reads: the stages whose artifacts it opens, as far as the recipe has them; `retrieve` means
            every retriever, `retrieve.<name>` one.
        main: the file that `Pipeline[name].load()` loads.
        uses: recipe-wide fields that its result depends on.
        resumes: it goes on in what a killed run left, instead of starting again.
        if_needed: of what it reads, the stages that it uses only where another stage needs them too.
    """

    name: str
    version: int
    reads: tuple[str, ...]
    main: str
    uses: tuple[str, ...] = ()
    resumes: bool = False
    if_needed: tuple[str, ...] = ()


STAGES = (
    Stage("prepare", 4, (), "items.parquet"),
    Stage("caption", 1, ("prepare",), "captions.parquet"),
    Stage("mine", 1, ("prepare", "caption"), "interests.parquet"),
    Stage("embed", 2, ("prepare", "caption", "mine"), "views.json", uses=("seed",)),
    Stage("quantize", 1, ("embed",), "sids.npy", uses=("seed",)),
    Stage(
        "compose", 2, ("prepare", "caption", "mine", "quantize"), "train.parquet", uses=("seed",)
    ),
    Stage(
        "train", 2, ("prepare", "quantize", "compose"), "summary.json", uses=("seed",), resumes=True
    ),
    Stage("retrieve", 3, ("prepare",), "recommendations.parquet", uses=("mask_seen",)),
    Stage(
        "recommend",
        1,
        ("prepare", "quantize", "compose", "train"),
        "recommendations.parquet",
        uses=("mask_seen",),
    ),
    Stage(
        "fuse",
        2,
        ("prepare", "retrieve", "recommend"),
        "recommendations.parquet",
        uses=("seed",),
        if_needed=("embed",),
    ),
    Stage(
        "probe",
        1,
        ("prepare", "caption", "embed", "quantize", "compose", "train"),
        "probes.json",
        uses=("seed",),
        if_needed=("embed",),
    ),
    Stage(
        "evaluate",
        3,
        ("prepare", "quantize", "retrieve", "recommend", "fuse", "probe"),
        "metrics.json",
        uses=("seed", "mask_seen"),
        if_needed=("quantize",),
    ),
)
_BY_NAME = {stage.name: stage for stage in STAGES}


@dataclass(frozen=True)
class Node:
    """A stage of one recipe. `key` is the stage's name, or `retrieve.<name>` for a retriever."""

    key: str
    stage: Stage
    section: Section
    reads: tuple[str, ...]


class Graph:
    """A recipe's nodes and their fingerprints.

    Args:
        recipe: the validated recipe.
        digest: content hash of a file or folder.
    """

    def __init__(self, recipe: Recipe, digest: Callable[[Path], str]) -> None:
        self._recipe, self._digest_of = recipe, digest
        self._inputs: dict[str, dict[str, Any]] = {}

    @cached_property
    def nodes(self) -> dict[str, Node]:
        """The nodes that lead to `evaluate`, and caption and mine where they have an engine.

        By key, in the order in which they run.
        """
        nodes: dict[str, Node] = {}
        optional: dict[str, tuple[str, ...]] = {}
        for stage in STAGES:
            section = getattr(self._recipe, stage.name)
            parts = section if isinstance(section, tuple) else (section,)
            for part in parts:
                if _left_out(part):
                    continue
                key = f"{stage.name}.{part.label}" if isinstance(section, tuple) else stage.name
                names = part.reads if part.reads is not None else stage.reads
                optional[key] = tuple(n for n in names if n in stage.if_needed)
                names = tuple(n for n in names if n not in stage.if_needed)
                reads = tuple(k for n in names for k in nodes if n in (k, k.split(".")[0]))
                nodes[key] = Node(key, stage, part, reads)
        # Captions and interests are made wherever an engine is named, even if no stage reads them.
        ends = [key for key in ("evaluate", "caption", "mine") if key in nodes]
        needed = {key for end in ends for key in ancestors(nodes, end)}
        return {
            key: replace(node, reads=(*node.reads, *(n for n in optional[key] if n in needed)))
            for key, node in nodes.items()
            if key in needed
        }

    def keys(self, stage: str) -> list[str]:
        """Returns the nodes that `stage` stands for: itself, or one per retriever.

        Raises:
            KeyError: no such stage, or this recipe does not use it.
        """
        keys = [key for key in self.nodes if stage in (key, key.split(".")[0])]
        if not keys:
            known = "unused by this recipe" if stage in _BY_NAME else "no such stage"
            raise KeyError(f"'{stage}': {known}; the recipe runs {', '.join(self.nodes)}")
        return keys

    def inputs(self, key: str) -> dict[str, Any]:
        """Returns everything that a node's result depends on: the fingerprint's content."""
        if key not in self._inputs:
            node = self.nodes[key]
            paths = dict(recipes.content_paths(node.section))
            config = node.section.model_dump(mode="json")
            files = {name: self._digest(value) for name, value in sorted(paths.items())}
            for name, digest in files.items():
                if digest is not None:  # what is in a file matters, not where it lies
                    _blank(config, name)
            self._inputs[key] = {
                "stage": node.stage.name,
                "version": node.stage.version,
                "config": config,
                "files": {name: digest for name, digest in files.items() if digest},
                "prompts": self._prompts(node),
                "inputs": {read: self.fingerprint(read) for read in node.reads},
            } | {
                name: getattr(self._recipe, name) for name in (*node.stage.uses, *node.section.uses)
            }
        return self._inputs[key]

    def fingerprint(self, key: str) -> str:
        """Returns the fingerprint of a node."""
        return fingerprint(self.inputs(key))

    def _digest(self, value: str) -> str | None:
        if value.startswith("asset:"):
            path = find_asset(value)
            return self._digest_of(path) if path.exists() else None
        digests = [self._digest_of(path) for path in gguf_files(value) or matching(value)]
        if len(digests) > 1:  # a glob; the order of the files is that of their names
            return fingerprint({"files": digests})
        return digests[0] if digests else None

    def _prompts(self, node: Node) -> dict[str, str]:
        if node.stage.name == "compose":
            tasks = registry.parts("tasks")
            digests = {name: tasks[name].template.digest for name in _tasks(node)}
            if node.section.context:  # type: ignore[attr-defined]
                digests["context"] = prompts.load_context().digest
            if node.section.user_attributes:  # type: ignore[attr-defined]
                digests["context"] = prompts.load_context().digest  # has the words of numbers
                digests["profile"] = prompts.load_profile().digest
            return digests
        if node.stage.name in ("caption", "mine"):
            return {"prompt": prompts.load_chat(node.section.prompt).digest}  # type: ignore[attr-defined]
        digests = {}
        if isinstance(node.section, Probe):
            if node.section.judge.engine.kind != "none":
                digests["judge"] = prompts.load_chat(node.section.judge.template).digest
            if node.section.language is not None:
                digests["language"] = prompts.load_language(node.section.language).digest
        return digests


def ancestors(nodes: Mapping[str, Node], key: str) -> list[str]:
    """Returns a node and all that it reads, directly or not."""
    keys = [key]
    for read in nodes[key].reads:
        keys += [k for k in ancestors(nodes, read) if k not in keys]
    return keys


def _left_out(section: Section) -> bool:
    """Says whether a recipe does without a stage: no engine to caption or mine, or not enabled."""
    engine = getattr(section, "engine", None)
    return not getattr(section, "enabled", True) or (engine is not None and engine.kind == "none")


def _tasks(node: Node) -> list[str]:
    return list(node.section.active(node.reads))  # type: ignore[attr-defined]


def _blank(config: dict[str, Any], dotted: str) -> None:
    *parents, last = dotted.split(".")
    within: Any = config
    for part in parents:
        within = within[part]
    within[int(last) if isinstance(within, list) else last] = "(content)"


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Sequence[str]:
    """Says, a line each, which inputs differ: `config.levels: 4 -> 3`."""
    before, after = _flat(old), _flat(new)
    return [
        f"{name.lstrip('.')}: {before.get(name, 'absent')} -> {after.get(name, 'absent')}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: value}
    return {
        k: v for name, part in value.items() for k, v in _flat(part, f"{prefix}.{name}").items()
    }
