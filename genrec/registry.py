"""The parts that a recipe names by `kind`: the built-in ones, and those of other packages.

A part is registered by its settings class (a task by its `Task`); the code that it configures is
imported only when it runs, so that planning needs no torch. Another package adds one by an entry
point of the group `genrec.sources`, `genrec.quantizers`, `genrec.retrievers` or `genrec.tasks`:

    [project.entry-points."genrec.retrievers"]
    nearest = "my_package.settings:NearestSettings"

`genrec/README.md` shows a part of each kind.
"""

from __future__ import annotations

import warnings
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from genrec.settings import PartSettings

BUILT_IN: dict[str, dict[str, str]] = {
    "sources": {
        "interchange": "genrec.data.settings:InterchangeSettings",
        "movielens": "genrec.data.settings:MovieLensSettings",
        "demo": "genrec.data.settings:DemoSettings",
        "files": "genrec.data.settings:FilesSettings",
        "amazon": "genrec.data.settings:AmazonSettings",
        "recbole": "genrec.data.settings:RecBoleSettings",
        "exchange": "genrec.data.settings:ExchangeSettings",
    },
    "quantizers": {
        "rqvae": "genrec.sid.settings:RQVAESettings",
        "rkmeans": "genrec.sid.settings:RKMeansSettings",
        "published": "genrec.sid.settings:PublishedSettings",
    },
    "retrievers": {
        "popular": "genrec.retrieve.settings:PopularSettings",
        "cooccurrence": "genrec.retrieve.settings:CooccurrenceSettings",
        "itemknn": "genrec.retrieve.settings:ItemKNNSettings",
        "ease": "genrec.retrieve.settings:EASESettings",
        "graph": "genrec.retrieve.settings:GraphSettings",
        "sasrec": "genrec.retrieve.settings:SASRecSettings",
        "anchorrec": "genrec.retrieve.anchorrec.settings:AnchorRecSettings",
        "magnitude": "genrec.retrieve.magnitude.settings:MagnitudeSettings",
        "norm_concat": "genrec.retrieve.norm_concat.settings:NormConcatSettings",
    },
    "tasks": {
        "history_to_sid": "genrec.lm.tasks:history_to_sid",
        "title_to_sid": "genrec.lm.tasks:title_to_sid",
        "sid_to_title": "genrec.lm.tasks:sid_to_title",
        "history_to_title": "genrec.lm.tasks:history_to_title",
        "titles_to_title": "genrec.lm.tasks:titles_to_title",
        "titles_to_sid": "genrec.lm.tasks:titles_to_sid",
        "caption_to_sid": "genrec.lm.tasks:caption_to_sid",
        "caption_to_title": "genrec.lm.tasks:caption_to_title",
        "sid_to_caption": "genrec.lm.tasks:sid_to_caption",
        "interest_to_sid": "genrec.lm.tasks:interest_to_sid",
        "query_to_sid": "genrec.lm.tasks:query_to_sid",
    },
}


@cache
def parts(group: str) -> dict[str, Any]:
    """Returns what is registered in a group, by kind; the built-in ones first.

    A part of another package that cannot be imported is left out with a warning that says why, so
    that recipes without it still run.

    Args:
        group: `sources`, `quantizers`, `retrievers` or `tasks`.

    Raises:
        ValueError: a package registers a kind that is taken, or a part that does not name its kind.
    """
    registered = {kind: resolve(path) for kind, path in BUILT_IN[group].items()}
    for point in entry_points(group=f"genrec.{group}"):
        who = f"entry point '{point.name}' of genrec.{group}, in {_package(point)}"
        if point.name in registered:
            raise ValueError(f"{who}: this kind is taken by {registered[point.name]!r}; rename it")
        try:
            part = point.load()
        except Exception as error:
            # Whatever a foreign module raises: it must not keep every recipe from running.
            warnings.warn(f"{who}: left out, it cannot be imported: {error!r}", stacklevel=2)
            continue
        if (kind := _kind(part)) != point.name:
            raise ValueError(
                f"{who}: {point.value} says that its kind is {kind!r}; expected '{point.name}'"
            )
        registered[point.name] = part
    return registered


def resolve(path: str) -> Any:
    """Imports what `module:name` names."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def implementation(settings: PartSettings | type[PartSettings]) -> Any:
    """Imports the class or function that a settings object, or its class, configures.

    Raises:
        ImportError: it is not there; the message names the part.
    """
    owner = settings if isinstance(settings, type) else type(settings)
    try:
        return resolve(owner.implementation)
    except (ImportError, AttributeError) as error:
        raise ImportError(f"{owner.__name__}: {owner.implementation!r} failed: {error}") from error


def _kind(part: Any) -> str | None:
    """What a part calls itself: the default of a settings class's `kind`, or a task's name."""
    if fields := getattr(part, "model_fields", None):
        return fields["kind"].default if "kind" in fields else None
    return getattr(part, "name", None)


def _package(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.module
