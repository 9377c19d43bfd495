"""Seconds and peak memory of `prepare` on a user's own files, beside the same in plain pandas.

    python -m recipes.bench.prepare [--interactions 10000000] [--items 200000] [--users 500000]
    python -m recipes.bench.prepare --interactions 1000000 --users 50000 --format parquet --repeats 3

Makes a catalogue and a log (popular items, heavy users, one percent of repeats) and prepares them:
read, unknown items out, first of repeats, users of three and more, 5-core to a fixed point, dense ids,
leave-last-out, parquet. Each side runs in a process of its own, in turn, on the same files; memory is
that process's ru_maxrss, `cpu` its processor seconds with libraries loaded (a busy machine distorts the
others). Both must come to the same tables. pandas is no dependency of this package:
pip install "pandas>=2.2,<4".
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

CORE = 5
CHUNK = 1_000_000


def make(folder: Path, *, interactions: int, items: int, users: int, form: str, seed: int) -> None:
    """Writes items.<form> and log.<form>; the log is in order of time."""
    rng = np.random.default_rng(seed)
    names = pl.DataFrame({"item_id": np.arange(items)}).select(
        pl.format("B{}", pl.col("item_id").cast(pl.String).str.zfill(9)).alias("item_id"),
        pl.format("Thing number {}", "item_id").alias("title"),
        pl.format("A thing of kind {}, made to be counted.", pl.col("item_id") % 97).alias(
            "description"
        ),
        (pl.col("item_id") % 1000 / 10).alias("price"),
    )
    _write(names, folder / f"items.{form}")
    item_ids, parts = names["item_id"], []
    for first in range(0, interactions, CHUNK):
        count = min(CHUNK, interactions - first)
        item = (items * rng.random(count) ** 2).astype(np.int64)  # the first are the popular ones
        user = (users * rng.random(count) ** 1.5).astype(np.int64)
        again = rng.random(count) < 0.01
        item[again], user[again] = np.roll(item, 1)[again], np.roll(user, 1)[again]
        parts.append(
            pl.DataFrame(
                {
                    "user_id": pl.Series(user),
                    "item_id": item_ids.gather(item),
                    "timestamp": 1_600_000_000 + np.arange(first, first + count) // 10,
                }
            ).with_columns(
                pl.format("U{}", pl.col("user_id").cast(pl.String).str.zfill(8)).alias("user_id")
            )
        )
    _write(pl.concat(parts), folder / f"log.{form}")


def _write(table: pl.DataFrame, path: Path) -> None:
    table.write_csv(path) if path.suffix == ".csv" else table.write_parquet(path)


def ours(folder: Path, form: str, out: Path) -> None:
    """What the stage does, without the store."""
    from genrec import data

    items = data.ItemFile(path=str(folder / f"items.{form}"))
    raw = data.read_files(items, data.LogFile(path=str(folder / f"log.{form}")))
    done = data.prepare(raw, core=CORE)
    for name in ("items", "users", "interactions", "train", "valid", "test"):
        getattr(done, name).write_parquet(out / f"{name}.parquet")


def pandas(folder: Path, form: str, out: Path) -> None:
    """The same, as one would write it in a notebook."""
    import pandas as pd

    read = pd.read_csv if form == "csv" else pd.read_parquet
    items, log = read(folder / f"items.{form}"), read(folder / f"log.{form}")
    items["item_id"] = items["item_id"].astype(str)
    log["user_id"], log["item_id"] = log["user_id"].astype(str), log["item_id"].astype(str)
    log = log[log["item_id"].isin(items["item_id"])]
    first_seen = log["user_id"].drop_duplicates()
    log = log.sort_values("timestamp", kind="stable").drop_duplicates(["user_id", "item_id"])
    log = log[log.groupby("user_id")["item_id"].transform("size") >= 3]
    while True:
        kept = log[log.groupby("item_id")["user_id"].transform("size") >= CORE]
        kept = kept[kept.groupby("user_id")["item_id"].transform("size") >= CORE]
        if len(kept) == len(log):
            break
        log = kept
    items = items[items["item_id"].isin(log["item_id"])].reset_index(drop=True)
    users = first_seen[first_seen.isin(log["user_id"])].reset_index(drop=True)
    log["user"] = log["user_id"].map(pd.Series(users.index, index=users)).astype("int32")
    log["item"] = log["item_id"].map(pd.Series(items.index, index=items["item_id"])).astype("int32")
    log = log.sort_values("user", kind="stable")[["user", "item", "timestamp"]]
    log["timestamp"] *= 10**9  # nanoseconds, as ours
    from_end = log.groupby("user").cumcount(ascending=False)
    log["split"] = from_end.map({0: "test", 1: "valid"}).fillna("train")
    sequences = log.groupby("user")["item"].agg(list)
    for back, name in ((3, "train"), (2, "valid"), (1, "test")):
        table = pd.DataFrame(
            {
                "user": sequences.index,
                "history": [s[:-back] for s in sequences],
                "target": [s[-back] for s in sequences],
            }
        )
        table.to_parquet(out / f"{name}.parquet")
    items.to_parquet(out / "items.parquet")
    users.to_frame().to_parquet(out / "users.parquet")
    log.to_parquet(out / "interactions.parquet")


SIDES = {"genrec": ours, "pandas": pandas}


def _summary(out: Path) -> dict[str, Any]:
    """What both sides must agree on."""
    test = pl.read_parquet(out / "test.parquet").select(
        pl.col("user", "target").cast(pl.Int64), pl.col("history").cast(pl.List(pl.Int64))
    )
    digest = hashlib.sha256(test.sort("user").hash_rows(seed=0).to_numpy().tobytes()).hexdigest()
    count = pl.scan_parquet(out / "interactions.parquet").select(pl.len()).collect().item()
    return {"users": len(test), "interactions": count, "test": digest[:12]}


def _child(side: str, folder: Path, form: str) -> None:
    with tempfile.TemporaryDirectory() as out:
        started = time.perf_counter()
        SIDES[side](folder, form, Path(out))
        seconds = time.perf_counter() - started
        used = resource.getrusage(resource.RUSAGE_SELF)
        peak = used.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
        took = {"seconds": seconds, "cpu": used.ru_utime + used.ru_stime, "mb": peak}
        print(json.dumps({**took, **_summary(Path(out))}))


def _measure(side: str, folder: Path, form: str) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "recipes.bench.prepare",
        "--child",
        side,
        "--folder",
        str(folder),
    ]
    done = subprocess.run([*command, "--format", form], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def main() -> None:
    """Makes the data, measures each side in turn, prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--interactions", type=int, default=10_000_000)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--users", type=int, default=500_000)
    parser.add_argument("--format", choices=("csv", "parquet"), default="csv")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(SIDES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--child", choices=list(SIDES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _child(options.child, options.folder, options.format)
        return
    with tempfile.TemporaryDirectory() as folder:
        make(
            Path(folder),
            interactions=options.interactions,
            items=options.items,
            users=options.users,
            form=options.format,
            seed=options.seed,
        )
        size = (Path(folder) / f"log.{options.format}").stat().st_size / 1e6
        print(
            f"{options.interactions:,} interactions, {options.items:,} items, {options.users:,} users; "
            f"{options.format}, {size:,.0f} MB; polars with {pl.thread_pool_size()} threads"
        )
        runs: dict[str, list[dict[str, Any]]] = {side: [] for side in options.sides}
        for _ in range(options.repeats):
            for side in options.sides:
                runs[side].append(_measure(side, Path(folder), options.format))
        print(
            f"{'':8}{'seconds':>10}{'cpu':>8}{'peak MB':>10}{'users':>11}{'interactions':>14}  tests"
        )
        for side, found in runs.items():
            seconds, cpu = (
                statistics.median(r[what] for r in found) for what in ("seconds", "cpu")
            )
            peak = max(run["mb"] for run in found)
            last = found[-1]
            print(
                f"{side:8}{seconds:10.1f}{cpu:8.1f}{peak:10,.0f}{last['users']:11,}{last['interactions']:14,}"
                f"  {last['test']}"
            )
    tables = {
        json.dumps([r["users"], r["interactions"], r["test"]]) for f in runs.values() for r in f
    }
    if len(tables) > 1:
        raise SystemExit("the sides came to different tables")


if __name__ == "__main__":
    main()
