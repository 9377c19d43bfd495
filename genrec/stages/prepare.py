"""Raw files to tables and the split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from genrec import data, schema
from genrec.data import formats
from genrec.data.formats.interchange import read_interchange
from genrec.demo import make_demo
from genrec.stages import Context

_TABLES: dict[str, schema.Schema] = {
    "items": schema.ITEMS,
    "users": schema.USERS,
    "interactions": schema.INTERACTIONS,
    "train": schema.SPLIT,
    "valid": schema.SPLIT,
    "test": schema.SPLIT,
}

_LIMITS = {"max_image_mb": "max_bytes", "max_image_megapixels": "max_pixels"}


def _demo(context: Context, options: dict[str, Any]) -> data.RawData:
    return make_demo(context.out, **options, progress=context.progress)


def _files(**options: Any) -> data.RawData:
    items = data.ItemFile(**options.pop("items"))
    return data.read_files(items, data.LogFile(**options.pop("interactions")), **options)


def _amazon(**options: Any) -> data.RawData:
    hub = {name: options.pop(name) for name in ("category", "dataset", "revision")}
    if hub["category"] is not None:
        options["reviews"], options["meta"] = data.hub_files(**hub)
    return data.read_amazon(**options)


_READERS: dict[str, Callable[..., data.RawData]] = {
    "interchange": read_interchange,
    "movielens": data.read_movielens,
    "files": _files,
    "amazon": _amazon,
    "recbole": data.read_recbole,
}


def _read(context: Context) -> data.RawData:
    section = context.section
    options = section.source.model_dump(exclude={"kind", *_LIMITS})
    if section.source.kind == "demo":
        return _demo(context, options)
    options |= _limits(section.source)
    reader = _READERS[section.source.kind]
    return reader(**options, on_bad=section.on_bad, progress=context.progress)


def _limits(source: Any) -> dict[str, Any]:
    """Returns a source's limits on pictures, in bytes and pixels, where it has them."""
    return {
        name: round(getattr(source, field) * 1e6)
        for field, name in _LIMITS.items()
        if hasattr(source, field)
    }


def _fetched(context: Context, done: data.Prepared) -> data.Prepared:
    """Fetches the pictures of the items that are left, if the recipe asks for it."""
    source, runtime = context.section.source, context.recipe.runtime
    if getattr(source, "images", None) != "download":
        return done
    found = data.fetch(
        done.items,
        Path(runtime.store) / "pictures",
        policy=data.Policy(**runtime.downloads.model_dump(), **_limits(source)),
        progress=context.progress,
    )
    found.failures.write_parquet(context.out / "image_failures.parquet")
    stats = done.stats | {
        "items_with_image": found.items["image"].count(),
        "images": found.counts,
    }
    return replace(done, items=found.items, stats=stats)


def run(context: Context) -> None:
    """Raw files to tables and the split."""
    section, source = context.section, context.section.source
    bundle = None
    if source.kind == "exchange":
        bundle = formats.read(source.folder, source.format, source.name)
    raw = _read(context) if bundle is None else formats.as_raw(bundle)
    if section.hash_users is not None:
        raw = data.hash_users(raw, section.hash_users.salt.get_secret_value())
    if bundle is not None and section.split.kind == "given":
        done = formats.as_prepared(bundle, raw)
    else:
        options = section.split.model_dump(exclude={"kind"})
        done = data.prepare(
            raw,
            core=section.core,
            repeats=section.repeats,
            split=data.PROTOCOLS[section.split.kind](**options),
            on_bad=section.on_bad,
            progress=context.progress,
        )
    done = _fetched(context, done)
    for name, columns in _TABLES.items():
        schema.write(context.out / f"{name}.parquet", getattr(done, name), columns)
    if done.sids is not None:
        np.save(context.out / "published_sids.npy", done.sids)
    if done.groups is not None:
        schema.write(context.out / "groups.parquet", done.groups, schema.GROUPS)
    for name, table in raw.truth.items():
        (context.out / "truth").mkdir(exist_ok=True)
        table.write_parquet(context.out / "truth" / f"{name}.parquet")
    data.plot_popularity(done.interactions, len(done.items), context.out / data.POPULARITY_FILE)
    context.write_json("stats.json", done.stats)
