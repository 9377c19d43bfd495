"""GGUF, the file of a model that llama.cpp runs: made once into a folder that the other loaders take.

transformers dequantizes it, which takes some seconds for each 100 MB, and vLLM takes only some. So the
model is written out once, in float32: each weight is what the file's bits stand for, 4 bytes each.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

from filelock import FileLock

from genrec.extras import require, version_of
from genrec.progress import quiet

logger = logging.getLogger(__name__)

SUFFIX = ".gguf"
_VERSION = 1  # of what is written
# llama.cpp's names of the pre-tokenizers that cut numbers into digits before anything else, as
# `llama-vocab.cpp` has them; transformers knows none of them, and takes GPT-2's without this step.
_DIGITS = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}


def content_of(file: Path) -> str:
    """Returns the sha256 of a file, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def as_folder(file: Path, store: str | Path | None = None) -> Path:
    """Returns the folder of a GGUF file's model and tokenizer; the first call makes it.

    Args:
        file: a causal LM, all of it, of any quantization.
        store: where `weights/<digits>` is made, named by the file's content; None takes
            huggingface_hub's folder for what libraries derive (`HF_ASSETS_CACHE`).

    Raises:
        ImportError: the package gguf is not installed.
        ValueError: the file is damaged, one part of several, or of a model that transformers cannot
            read whole; says which.
    """
    if store is None:
        from huggingface_hub.constants import HF_ASSETS_CACHE

        store = Path(HF_ASSETS_CACHE, "genrec")
    mark = hashlib.sha256(f"{_VERSION} {content_of(file)}".encode()).hexdigest()[:16]
    folder = Path(store, "weights", mark)
    if folder.is_dir():
        return folder
    require("gguf", f"{file.name}, a GGUF file,")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():  # another process may have come first
            logger.info("%s is made into %s, once", file, folder)
            partial = folder.with_name(f"{mark}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            _convert(file, partial)
            partial.rename(folder)
    return folder


def _convert(file: Path, folder: Path) -> None:
    architecture, split, numbers = _read(file)
    model, tokenizer, missing = _load(file, architecture)
    if missing:
        raise ValueError(
            f"{file}: lacks {len(missing)} tensors of its {architecture} model, such as "
            f"{sorted(missing)[0]}; give the whole model as one file"
        )
    if (unused := numbers - sum(p.numel() for p in model.parameters())) > 0:
        raise ValueError(
            f"{file}: transformers {version_of('transformers')} leaves out {unused:,} of the "
            f"{numbers:,} numbers in it (scaled RoPE or further heads of {architecture}), so it would "
            "be another model; take the folder of the original"
        )
    if split in _DIGITS:
        from tokenizers import pre_tokenizers

        digits = pre_tokenizers.Digits(individual_digits=True)
        rest = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, rest])
    with quiet():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for path in folder.iterdir():  # safetensors writes for the owner alone
        path.chmod(path.stat().st_mode | folder.stat().st_mode & 0o666)


def _read(file: Path) -> tuple[str, str | None, int]:
    """Returns the architecture, the pre-tokenizer's name, and how many numbers the tensors have."""
    from gguf import GGUFReader

    try:
        reader = GGUFReader(file)
        names = ("general.architecture", "tokenizer.ggml.pre", "split.count")
        fields = (reader.get_field(name) for name in names)
        architecture, split, parts = (field and field.contents() for field in fields)
        numbers = sum(int(tensor.n_elements) for tensor in reader.tensors)
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise ValueError(
            f"{file}: not a GGUF file, or not all of one ({error}); expected a whole file, so download "
            "it again"
        ) from error
    if parts and parts > 1:
        raise ValueError(
            f"{file}: one part of {parts}; make them one file first: "
            f"llama-gguf-split --merge {file.name} whole{SUFFIX}"
        )
    return str(architecture), split, numbers


def _load(file: Path, architecture: str) -> tuple[Any, Any, set[str]]:
    """Returns the model in float32, the tokenizer, and the tensors that the file lacks."""
    import torch
    import transformers

    options: dict[str, Any] = {"dtype": torch.float32, "output_loading_info": True}
    if hasattr(
        transformers, "GgufConfig"
    ):  # since 5.19: before, there was nothing but dense weights
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    # Alone in a folder: a tokenizer that lies beside the file may be another model's.
    with tempfile.TemporaryDirectory() as alone, quiet():
        link = Path(alone, f"model{SUFFIX}")
        link.symlink_to(file.resolve())
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(alone, gguf_file=link.name)
            model, found = transformers.AutoModelForCausalLM.from_pretrained(
                alone, gguf_file=link.name, **options
            )
        except (ValueError, KeyError, NotImplementedError, RuntimeError) as error:
            raise ValueError(
                f"{file}: transformers {transformers.__version__} cannot read this GGUF file of a "
                f"{architecture} model ({error}); take another quantization, or the folder of the "
                "original"
            ) from error
    return model, tokenizer, {*found["missing_keys"]}
