"""Artifacts on disk: content-addressed, complete or absent, and checked before they are used.

`store/<stage>/<fingerprint>/` exists only when finished: a stage writes into
`<fingerprint>.partial/`, then `artifact.json` (sizes and hashes of every file) is written last and the
folder moved into place in one rename. A killed run leaves a `.partial` folder and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from genrec.environment import changed
from genrec.progress import Progress, silent

MANIFEST = "artifact.json"


class DamagedArtifact(RuntimeError):
    """A file of a finished artifact is missing or is not what was written."""


def canonical(value: Any) -> str:
    """Returns the one JSON text of `value`: sorted keys, no spaces, no NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def fingerprint(inputs: Mapping[str, Any]) -> str:
    """Returns 16 hex digits that stand for everything a stage's result depends on."""
    return hashlib.sha256(canonical(inputs).encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """Returns the sha256 of one file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True)
class Artifact:
    """A finished artifact: a folder, and what its manifest says of it."""

    stage: str
    fingerprint: str
    path: Path
    main: str
    manifest: Mapping[str, Any]

    def __truediv__(self, name: str) -> Path:
        """Returns the path of one of the artifact's files."""
        return self.path / name

    def load(self, name: str | None = None) -> Any:
        """Loads one file: parquet as polars, npy as numpy, JSON as Python, else its path.

        Args:
            name: a file of this artifact; without it the stage's main one
                (`sids.npy` of quantize, `metrics.json` of evaluate).

        Raises:
            FileNotFoundError: the artifact has no such file; names those it has.
        """
        path = self.path / (name or self.main)
        if not path.exists():
            raise FileNotFoundError(f"{path}: not in this artifact, which has {self.files()}")
        match path.suffix:
            case ".parquet":
                import polars as pl

                return pl.read_parquet(path)
            case ".npy":
                import numpy as np

                return np.load(path, allow_pickle=False)
            case ".json":
                return json.loads(path.read_text(encoding="utf-8"))
            case _:
                return path

    def files(self) -> list[str]:
        """Returns the names of the artifact's files, sorted."""
        return sorted(self.manifest["files"])

    @property
    def digest(self) -> str:
        """What stands for the content of all files: another build may have another."""
        return str(self.manifest.get("digest") or fingerprint(self.manifest["files"]))

    def verify(self, progress: Progress = silent) -> None:
        """Reads every file and compares it with the manifest.

        Raises:
            DamagedArtifact: names the file and what is wrong with it.
        """
        files = self.manifest["files"]
        for done, (name, expected) in enumerate(sorted(files.items()), start=1):
            path = self.path / name
            if not path.is_file():
                raise DamagedArtifact(f"{path}: damaged: the file is missing")
            if (size := path.stat().st_size) != expected["bytes"]:
                raise DamagedArtifact(
                    f"{path}: damaged: {size} bytes, expected {expected['bytes']}"
                )
            if file_digest(path) != expected["sha256"]:
                raise DamagedArtifact(f"{path}: damaged: its content is not what was written")
            progress("verify", done, len(files))


class Store:
    """The folder that holds artifacts and the cache of rows.

    Args:
        root: made when first written to.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._read: dict[Path, tuple[tuple[int, int], dict[str, Any]]] = {}

    def folder(self, stage: str, fingerprint: str) -> Path:
        """Returns where an artifact lies, finished or not."""
        return self.root / stage / fingerprint

    def find(self, stage: str, fingerprint: str, *, main: str) -> Artifact | None:
        """Returns the finished artifact, or None. Does not read its files: see `Artifact.verify`.

        Raises:
            DamagedArtifact: its manifest cannot be read.
        """
        path = self.folder(stage, fingerprint)
        if not (path / MANIFEST).is_file():
            if path.is_dir():
                raise DamagedArtifact(f"{path / MANIFEST}: damaged: the file is missing")
            return None
        return Artifact(stage, fingerprint, path, main, self._manifest(path / MANIFEST))

    def _manifest(self, path: Path) -> dict[str, Any]:
        """Reads a manifest, once while it stays the same file: it may list 100,000 images."""
        status = path.stat()
        stamp = (status.st_mtime_ns, status.st_ino)
        if path not in self._read or self._read[path][0] != stamp:
            try:
                manifest = json.loads(path.read_text(encoding="utf-8"))
                manifest["files"], manifest["inputs"]
            except (ValueError, KeyError, TypeError) as error:
                raise DamagedArtifact(f"{path}: damaged: {error}") from error
            self._read[path] = stamp, manifest
        return self._read[path][1]

    def latest(self, stage: str) -> Mapping[str, Any] | None:
        """Returns the manifest of the newest finished artifact of a stage, for `plan --why`."""
        manifests = (self.root / stage).glob(f"*/{MANIFEST}")
        newest = max(manifests, key=lambda path: path.stat().st_mtime, default=None)
        if newest is None or newest.parent.suffix == ".partial":
            return None
        try:
            return dict(json.loads(newest.read_text(encoding="utf-8")))
        except ValueError:
            return None

    def forget_older(self, stage: str, fingerprint: str) -> None:
        """Removes what a killed run left of an artifact, if other versions made it, or unknown ones."""
        partial = self.folder(stage, f"{fingerprint}.partial")
        if partial.exists() and ((begun := _beginning(partial)) is None or changed(begun)):
            shutil.rmtree(partial)

    def remove(self, stage: str, fingerprint: str) -> None:
        """Removes a finished artifact, in one rename first, so that none is ever half there."""
        path = self.folder(stage, fingerprint)
        if path.exists():
            doomed = path.with_name(f"{path.name}.removed-{os.getpid()}")
            path.rename(doomed)
            shutil.rmtree(doomed)

    @contextmanager
    def turn(
        self, stage: str, fingerprint: str, *, waits: Callable[[], None] | None = None
    ) -> Iterator[None]:
        """Holds the right to build an artifact, which one process has at a time.

        The operating system gives it back when a process ends, however it ends.

        Args:
            stage: the stage's name.
            fingerprint: of its inputs.
            waits: called once if another process builds this artifact; then this one waits for it,
                and the artifact may be there when its turn comes.

        Raises:
            RuntimeError: another process is building this artifact, and `waits` is None.
        """
        final = self.folder(stage, fingerprint)
        final.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(final.with_name(f"{final.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            if waits is None:
                raise RuntimeError(
                    f"{final}: another genrec process is building this artifact; wait for it, "
                    "or stop it and run again"
                ) from error
            waits()
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def building(
        self,
        stage: str,
        fingerprint: str,
        inputs: Mapping[str, Any],
        *,
        resumes: bool,
        made: MutableMapping[str, Any] | None = None,
    ) -> Iterator[Path]:
        """Yields the folder to write into; on leaving without an error the artifact is finished.

        Args:
            stage: the stage's name; `turn` must be held.
            fingerprint: of `inputs`.
            inputs: what the result depends on, kept in the manifest.
            resumes: keep what a killed run left there (the trainer's checkpoints).
            made: how it is made, kept in the manifest as it is at the end: `environment`, package to
                version; `read`, the digests of its inputs; `older`, parts that were made before, by
                other versions, each with `what` and `environment` (None if unknown).
        """
        final = self.folder(stage, fingerprint)
        partial = final.with_name(f"{final.name}.partial")
        made = {} if made is None else made
        if partial.exists() and not resumes:
            shutil.rmtree(partial)
        partial.mkdir(parents=True, exist_ok=True)
        begun = _note_beginning(partial, made)
        started = time.time()
        yield partial
        _open_to_readers(partial)
        recorded = {"inputs": inputs, **made}
        _write_manifest(partial, stage, fingerprint, recorded, time.time() - started)
        self.remove(stage, fingerprint)
        partial.rename(final)
        begun.unlink(missing_ok=True)


class RowCache(MutableMapping[str, bytes]):
    """A sqlite table of finished rows (embeddings, model replies), so that a killed run goes on.

    Args:
        path: the database file; made with its folder.
        environment: what rows are made with from now on, package to version. Empty: no version
            matters to them.
        strict: rows that other versions made, or unknown ones, count as missing.

    Raises:
        ValueError: the file is no sqlite database.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        environment: Mapping[str, str] | None = None,
        strict: bool = False,
    ) -> None:
        self._made_by = dict(environment or {})
        self._strict = strict
        self._differs: dict[str | None, bool] = {}
        self._older: dict[str | None, set[str]] = {}
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, timeout=60)
        try:
            with FileLock(f"{path}.lock"):  # the switch to WAL does not wait for other processes
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute(
                    "CREATE TABLE IF NOT EXISTS rows "
                    "(key TEXT PRIMARY KEY, value BLOB, made_by TEXT)"
                )
                columns = [row[1] for row in self._db.execute("PRAGMA table_info(rows)")]
                if "made_by" not in columns:  # of a cache from before versions were recorded
                    self._db.execute("ALTER TABLE rows ADD COLUMN made_by TEXT")
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{path}: not a usable cache ({error}); delete it") from error

    def older(self) -> list[dict[str, Any]]:
        """Returns which rows that were read had been made by other versions: `what`, `environment`."""
        return [
            {
                "what": f"{len(keys)} rows of the cache made",
                "environment": None if made_by is None else json.loads(made_by),
            }
            for made_by, keys in self._older.items()
        ]

    def __getitem__(self, key: str) -> bytes:
        row = self._db.execute("SELECT value, made_by FROM rows WHERE key = ?", (key,)).fetchone()
        if row is None:
            raise KeyError(key)
        value, made_by = row
        if self._made_by and self._made_otherwise(made_by):
            if self._strict:
                raise KeyError(key)
            self._older.setdefault(made_by, set()).add(key)
        return bytes(value)

    def __setitem__(self, key: str, value: bytes) -> None:
        self.put_many({key: value})

    def put_many(self, rows: Mapping[str, bytes]) -> None:
        """Stores all of `rows` or, when killed, none of them."""
        made_by = canonical(self._made_by)
        filled = [(key, value, made_by) for key, value in rows.items()]
        with self._db:
            self._db.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?, ?)", filled)

    def __delitem__(self, key: str) -> None:
        with self._db:
            if not self._db.execute("DELETE FROM rows WHERE key = ?", (key,)).rowcount:
                raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return (row[0] for row in self._db.execute("SELECT key FROM rows ORDER BY key"))

    def __len__(self) -> int:
        return int(self._db.execute("SELECT COUNT(*) FROM rows").fetchone()[0])

    def _made_otherwise(self, made_by: str | None) -> bool:
        if made_by not in self._differs:
            known = None if made_by is None else json.loads(made_by)
            self._differs[made_by] = known is None or bool(
                changed({name: v for name, v in known.items() if name in self._made_by})
            )
        return self._differs[made_by]

    def close(self) -> None:
        """Closes the database."""
        self._db.close()


class Digests:
    """Content hashes of raw files, remembered by path, size and time of change.

    Args:
        store: the store that remembers; without its folder nothing is remembered.
    """

    def __init__(self, store: Store) -> None:
        self._file = store.root / "digests.json"
        self._known: dict[str, list[Any]] = {}
        if self._file.is_file():
            try:
                self._known = json.loads(self._file.read_text(encoding="utf-8"))
            except ValueError:
                self._known = {}  # a cache: worth no more than rebuilding
        self._changed = False

    def __call__(self, path: Path) -> str:
        """Returns the digest of a file, or of a folder's file names and contents."""
        if path.is_dir():
            names = sorted(p for p in path.rglob("*") if p.is_file())
            listing = {p.relative_to(path).as_posix(): self(p) for p in names}
            return hashlib.sha256(canonical(listing).encode()).hexdigest()
        status = path.stat()
        stamp = [status.st_size, status.st_mtime_ns]
        key = str(path.resolve())
        if self._known.get(key, [])[:2] != stamp:
            self._known[key] = [*stamp, file_digest(path)]
            self._changed = True
        return str(self._known[key][2])

    def save(self) -> None:
        """Writes what was learned, in one rename."""
        if self._changed:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._file.with_suffix(f".{os.getpid()}")
            temporary.write_text(canonical(self._known), encoding="utf-8")
            temporary.replace(self._file)


def _open_to_readers(folder: Path) -> None:
    """Lets whoever may read the folder read its files: safetensors writes for the owner alone."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode | path.stat().st_mode)


def _note_beginning(partial: Path, made: MutableMapping[str, Any]) -> Path:
    """Writes with which versions a build begins, next to its folder; returns the file.

    If it goes on in what was begun by other versions, or unknown ones, `made` says so.
    """
    note = partial.with_suffix(".begun.json")
    now = made.get("environment", {})
    if any(partial.iterdir()):
        begun = _beginning(partial)
        if begun is None or changed(begun):
            made.setdefault("older", []).append({"what": "begun", "environment": begun})
            return note  # the first steps stay what they are, however often this is killed
    note.write_text(canonical(now), encoding="utf-8")
    return note


def _beginning(partial: Path) -> dict[str, str] | None:
    """Returns what a build that was killed had begun with; None if that is unknown."""
    try:
        return dict(json.loads(partial.with_suffix(".begun.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        return None


def _write_manifest(
    folder: Path, stage: str, mark: str, recorded: Mapping[str, Any], seconds: float
) -> None:
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    files = {
        p.relative_to(folder).as_posix(): {"bytes": p.stat().st_size, "sha256": file_digest(p)}
        for p in paths
    }
    manifest = {
        "stage": stage,
        "fingerprint": mark,
        **recorded,
        "seconds": round(seconds, 3),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "digest": fingerprint(files),
        "files": files,
    }
    temporary = folder / f"{MANIFEST}.tmp"
    with temporary.open("w", encoding="utf-8") as stream:
        json.dump(manifest, stream, indent=1, sort_keys=True)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(folder / MANIFEST)
