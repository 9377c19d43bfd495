"""A full disk, for real: the kernel's own ENOSPC from /dev/full where a checkpoint is written."""

import errno
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from genrec.lm.adapters import adapt
from genrec.lm.checkpoints import check_kind, last_complete_checkpoint, room_for
from genrec.lm.train import check_sharding, train

SETTINGS = {
    "max_steps": 24,
    "tokens_per_batch": 200,
    "lr": 1e-2,
    "eval_every": 12,
    "save_every": 8,
    "metric": "loss",
    "device": "cpu",
}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
@pytest.mark.parametrize("file", ["optimizer.pt", "scheduler.pt"])  # /dev/full reads without end
def test_the_last_checkpoint_outlives_a_full_disk(scratch, tmp_path, file):
    def fill(name, done, total):
        if done == 15:
            (tmp_path / "checkpoint-16").mkdir()
            (tmp_path / "checkpoint-16" / file).symlink_to("/dev/full")

    with pytest.raises(OSError, match=r"disk is full.*a checkpoint.*goes on from checkpoint-12"):
        train(*scratch(), out=tmp_path, progress=fill, **SETTINGS)
    kept = sorted(path.name for path in tmp_path.glob("checkpoint-*"))
    assert kept == ["checkpoint-12", "checkpoint-8"], "the half-written one gives its room back"

    steps = []
    note = lambda name, done, total: steps.append(done)  # noqa: E731
    summary = train(*scratch(), out=tmp_path, progress=note, **SETTINGS)
    assert steps[0] == 13
    assert summary["steps"] == 24


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
        SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        ),
    ],
)
def test_every_writer_says_full_in_its_own_way(tmp_path, error):
    full = pytest.raises(OSError, match=r"disk is full, so the model could not.*begins anew")
    with full, room_for("the model", tmp_path):
        raise error


def test_other_errors_stay_what_they_are(tmp_path):
    for error in (OSError(errno.EACCES, "denied"), RuntimeError("shapes differ"), ValueError("x")):
        with pytest.raises(type(error)) as raised, room_for("a checkpoint", tmp_path):
            raise error
        assert raised.value is error


@pytest.mark.parametrize("file", ["optimizer.pt", "rng_state_1.pth", "scheduler.pt"])
def test_a_file_cut_off_makes_a_checkpoint_incomplete(scratch, tmp_path, file):
    train(*scratch(), out=tmp_path, **SETTINGS)
    newest = last_complete_checkpoint(tmp_path)
    assert newest.name == "checkpoint-24"
    rng = newest / "rng_state_1.pth"  # as two processes leave them
    rng.write_bytes((newest / "rng_state.pth").read_bytes())
    assert last_complete_checkpoint(tmp_path) == newest
    damaged = newest / file
    damaged.write_bytes(damaged.read_bytes()[:-40])
    assert last_complete_checkpoint(tmp_path).name != "checkpoint-24"
    assert not newest.exists()


@pytest.mark.parametrize(
    "optimizer", ["optimizer.bin", "optimizer_0/.metadata", "latest"], ids=["whole", "fsdp", "zero"]
)
def test_sharded_checkpoints_count(tmp_path, optimizer):
    """FSDP and DeepSpeed leave no optimizer.pt."""
    folder = tmp_path / "checkpoint-5"
    (folder / optimizer).parent.mkdir(parents=True)
    (folder / optimizer).touch()
    (folder / "trainer_state.json").write_text("{}")
    assert last_complete_checkpoint(tmp_path) is None, "no scheduler"
    (folder / optimizer).parent.mkdir(parents=True)
    (folder / optimizer).touch()
    (folder / "trainer_state.json").write_text("{}")
    torch.save({}, folder / "scheduler.pt")
    assert last_complete_checkpoint(tmp_path) == folder
    kind = "deepspeed" if optimizer == "latest" else "fsdp"
    check_kind(folder, kind)
    with pytest.raises(ValueError, match=rf"another kind \({kind}, this one is plain\)"):
        check_kind(folder, "plain")


def test_what_cannot_be_shared_out_is_refused(scratch):
    model = scratch()[0]
    adapted = adapt(model, [1, 2])
    check_sharding(adapted, fsdp=False, deepspeed=False, ema=0.9)
    check_sharding(adapted, fsdp=False, deepspeed=True, ema=0)
    with pytest.raises(ValueError, match=r"train\.ema=0\.9: averages whole weights"):
        check_sharding(model, fsdp=True, deepspeed=False, ema=0.9)
    with pytest.raises(ValueError, match=r"tune under FSDP.*ddp8; or zero3, or train\.model\.tune"):
        check_sharding(adapted, fsdp=True, deepspeed=False, ema=0)
