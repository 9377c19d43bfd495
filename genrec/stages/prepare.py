"""Raw files to tables and the split."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from genrec import data, registry, schema
from genrec.bundle import USER_ATTRIBUTES
from genrec.sid import SIDSets
from genrec.stages import PUBLISHED_SIDS, Context

_TABLES: dict[str, schema.Schema] = {
    "items": schema.ITEMS,
    "users": schema.USERS,
    "interactions": schema.INTERACTIONS,
    "train": schema.SPLIT,
    "valid": schema.SPLIT,
    "test": schema.SPLIT,
}


def run(context: Context) -> None:
    """Raw files to tables and the split."""
    section = context.section
    raw = data.read_source(
        section.source, folder=context.out, on_bad=section.on_bad, progress=context.progress
    )
    if section.hash_users is not None:
        raw = data.hash_users(raw, section.hash_users.salt.get_secret_value())
    done = data.prepare(
        raw,
        core=section.core,
        repeats=section.repeats,
        split=registry.implementation(section.split)(section.split),
        on_bad=section.on_bad,
        progress=context.progress,
    )
    if section.source.image_limits is not None:
        done = _fetched(context, done)
    for name, columns in _TABLES.items():
        schema.write(context.out / f"{name}.parquet", getattr(done, name), columns)
    if done.sids is not None:
        SIDSets([done.sids, *done.further_sids]).save(context.out, PUBLISHED_SIDS)
    if done.groups is not None:
        schema.write(context.out / "groups.parquet", done.groups, schema.GROUPS)
    if done.user_attributes is not None:
        done.user_attributes.write_parquet(context.out / USER_ATTRIBUTES)
    for name, table in raw.truth.items():
        (context.out / "truth").mkdir(exist_ok=True)
        table.write_parquet(context.out / "truth" / f"{name}.parquet")
    data.plot_popularity(done.interactions, len(done.items), context.out / data.POPULARITY_FILE)
    context.write_json("stats.json", done.stats)


def _fetched(context: Context, done: data.Prepared) -> data.Prepared:
    """Fetches the images of the items that are left."""
    runtime = context.recipe.runtime
    fetched = data.fetch(
        done.items,
        Path(runtime.store) / "pictures",
        policy=data.Policy(**runtime.downloads.model_dump(), **context.section.source.image_limits),
        progress=context.progress,
    )
    fetched.failures.write_parquet(context.out / "image_failures.parquet")
    stats = done.stats | {
        "items_with_image": fetched.items["image"].count(),
        "images": fetched.counts,
    }
    return replace(done, items=fetched.items, stats=stats)
