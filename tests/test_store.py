"""Artifacts are complete or absent; damage is found and named; the row cache survives a kill."""

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from genrec.store import Artifact, DamagedArtifact, Digests, RowCache, Store, canonical, fingerprint

INPUTS = {"stage": "quantize", "config": {"levels": 4}}
MARK = fingerprint(INPUTS)


def build(store: Store, rows: int = 3) -> Artifact:
    with store.building("quantize", MARK, INPUTS, resumes=False) as out:
        np.save(out / "sids.npy", np.arange(rows))
        (out / "sub").mkdir()
        (out / "sub" / "stats.json").write_text('{"a": 1}')
    found = store.find("quantize", MARK, main="sids.npy")
    assert found is not None
    return found


def test_fingerprint_ignores_key_order_and_sees_values() -> None:
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 1.5})
    assert canonical({"b": "é", "a": None}) == '{"a":null,"b":"é"}'
    with pytest.raises(ValueError, match="JSON"):
        canonical(float("nan"))


def test_artifact_round_trip(tmp_path: Path) -> None:
    artifact = build(Store(tmp_path))
    artifact.verify()
    assert artifact.load().tolist() == [0, 1, 2]
    assert artifact.load("sub/stats.json") == {"a": 1}
    assert artifact.files() == ["sids.npy", "sub/stats.json"]
    assert artifact.manifest["inputs"] == INPUTS
    with pytest.raises(FileNotFoundError, match=r"nope.*sids\.npy"):
        artifact.load("nope")


def test_an_error_leaves_no_artifact(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with (
        pytest.raises(ZeroDivisionError),
        store.building("quantize", MARK, INPUTS, resumes=False) as out,
    ):
        (out / "sids.npy").write_text("half")
        raise ZeroDivisionError
    assert store.find("quantize", MARK, main="sids.npy") is None
    assert build(store).files() == ["sids.npy", "sub/stats.json"]  # the half file is gone


def test_a_resuming_stage_keeps_what_was_there(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with (
        pytest.raises(ZeroDivisionError),
        store.building("train", MARK, INPUTS, resumes=True) as out,
    ):
        (out / "checkpoint").write_text("step 3")
        raise ZeroDivisionError
    with store.building("train", MARK, INPUTS, resumes=True) as out:
        assert (out / "checkpoint").read_text() == "step 3"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink])
def test_damage_is_found_and_named(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    artifact = build(Store(tmp_path))
    damage(artifact / "sids.npy")
    with pytest.raises(DamagedArtifact, match=r"sids\.npy: damaged"):
        artifact.verify()


@pytest.mark.parametrize("damage", [truncate, Path.unlink])
def test_a_damaged_manifest_is_damage(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    store = Store(tmp_path)
    damage(build(store) / "artifact.json")
    with pytest.raises(DamagedArtifact, match=r"artifact\.json"):
        store.find("quantize", MARK, main="sids.npy")


def test_two_processes_cannot_build_the_same(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with (
        store.turn("quantize", MARK),
        pytest.raises(RuntimeError, match="another genrec process"),
        Store(tmp_path).turn("quantize", MARK),
    ):
        pass


def test_who_waits_is_next(tmp_path: Path) -> None:
    waits, came = threading.Event(), threading.Event()

    def second() -> None:
        with Store(tmp_path).turn("quantize", MARK, waits=waits.set):
            came.set()

    other = threading.Thread(target=second)
    with Store(tmp_path).turn("quantize", MARK):
        other.start()
        assert waits.wait(10)
        assert not came.is_set()
    other.join(10)
    assert came.is_set()


def test_digests_follow_content_and_are_remembered(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "1.png").write_text("a")
    store = Store(tmp_path / "store")
    digests = Digests(store)
    before = digests(folder)
    digests.save()
    assert Digests(store)(folder) == before
    (folder / "1.png").write_text("bb")
    assert Digests(store)(folder) != before
    (folder / "1.png").write_text("a")
    os.utime(folder / "1.png", ns=(1, 1))
    assert Digests(store)(folder) == before
    remembered = json.loads((tmp_path / "store" / "digests.json").read_text())
    assert list(remembered) == [str(folder / "1.png")]


def test_row_cache_is_a_mapping(tmp_path: Path) -> None:
    cache = RowCache(tmp_path / "rows.sqlite")
    cache["b"] = b"2"
    cache.put_many({"a": b"1", "b": b"3"})
    assert dict(cache) == {"a": b"1", "b": b"3"}
    del cache["a"]
    assert (len(cache), "a" in cache, list(cache)) == (1, False, ["b"])
    with pytest.raises(KeyError):
        del cache["a"]
    cache.close()


def _write_then_die(path: Path) -> None:
    cache = RowCache(path)
    cache.put_many({"kept": b"1"})
    os.kill(os.getpid(), signal.SIGKILL)


def test_row_cache_survives_sigkill(tmp_path: Path) -> None:
    path = tmp_path / "rows.sqlite"
    process = multiprocessing.get_context("fork").Process(target=_write_then_die, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert dict(RowCache(path)) == {"kept": b"1"}


def test_row_cache_refuses_another_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.sqlite"
    path.write_text("not a database, and long enough to be looked at as one" * 40)
    with pytest.raises(ValueError, match=r"rows\.sqlite: not a usable cache"):
        RowCache(path)


def test_who_reads_the_folder_reads_its_files(tmp_path: Path) -> None:
    """A server may run as another user than the one who trained."""
    store = Store(tmp_path)
    with store.building("train", "ab", {}, resumes=False) as folder:
        (folder / "deep").mkdir()
        private = folder / "deep" / "model.safetensors"
        private.write_bytes(b"weights")
        private.chmod(0o600)
    made = store.folder("train", "ab")
    readable = made.stat().st_mode & 0o666
    assert (made / "deep" / "model.safetensors").stat().st_mode & 0o777 == readable
