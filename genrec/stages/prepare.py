"""Raw files to tables and the split."""

from __future__ import annotations

import numpy as np

from genrec import data, exchange, schema
from genrec.stages.context import Context

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
    section, source = context.section, context.section.source
    options = source.model_dump(exclude={"kind"})
    bundle = None
    if source.kind == "exchange":
        bundle = exchange.read(source.folder, source.format, source.name)
        raw = exchange.as_raw(bundle)
    elif source.kind == "demo":
        raw = data.make_demo(context.out, **options, progress=context.progress)
    else:
        options |= {"on_bad": section.on_bad, "progress": context.progress}
        is_movielens = source.kind == "movielens"
        raw = data.read_movielens(**options) if is_movielens else data.read_interchange(**options)
    if section.hash_users is not None:
        raw = data.hash_users(raw, section.hash_users.salt.get_secret_value())
    if bundle is not None and section.split.kind == "given":
        done = exchange.as_prepared(bundle, raw)
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
