"""Lines of text files, plain, gzip or zstd; what is wrong with one is said with its place."""

from __future__ import annotations

import ast
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, TextIO

import pyarrow as pa


def lines(
    path: Path, *, decimals: Callable[[str], Any] = float
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number, object) of JSON lines; also of Python literals, as Amazon 2014 has them.

    Args:
        path: the file.
        decimals: what becomes of a number with a point or an exponent in JSON.

    Raises:
        ValueError: a line is not such an object, or the file is cut off or not UTF-8.
    """
    parse: Callable[[str], Any] = partial(json.loads, parse_float=decimals)
    with open_text(path) as stream:
        for number, line in enumerate(guarded(stream, path), 1):
            if not (line := line.strip()):
                continue
            if number == 1 and line.startswith("{'"):
                parse = ast.literal_eval  # data only: names and calls are refused, not run
            try:
                value = parse(line)
            except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
                raise _bad_line(path, number, str(error)) from error
            if not isinstance(value, dict):
                raise _bad_line(path, number, f"found a {type(value).__name__}")
            yield number, value


def as_written(path: Path, field: str) -> list[Any] | None:
    """Returns a field of JSON lines, numbers with a point or an exponent as the text that stands there.

    None where there are no such numbers. They are looked up in the bytes, for what float64 cannot hold
    may look like a whole number once it is read.
    """
    name = re.escape(json.dumps(field, ensure_ascii=False).encode())
    wanted = re.compile(name + rb"\s*:\s*-?\d+[.eE]")
    with open_bytes(path) as stream:
        rest = b""
        while block := stream.read(1 << 22):
            if wanted.search(rest + block):
                return [value.get(field) for _, value in lines(path, decimals=str)]
            rest = block[-1000:]
    return None


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file, decompressed by its name."""
    if path.suffix.lower() == ".gz":
        stream: Any = gzip.open(path, "rb")  # noqa: SIM115
    elif path.suffix.lower() == ".zst":
        stream = pa.input_stream(str(path), compression="zstd")
    else:
        stream = path.open("rb")
    with stream:
        yield stream


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """Opens a text file, decompressed by its name, a byte order mark taken off."""
    with open_bytes(path) as stream, io.TextIOWrapper(stream, "utf-8-sig", newline="") as text:
        yield text


def _bad_line(path: Path, number: int, problem: str) -> ValueError:
    return ValueError(
        f"{path}: line {number} is not a JSON object ({problem}); expected one object per line. "
        "Mend the line or write the file again."
    )


def guarded(stream: TextIO, path: Path) -> Iterator[str]:
    """Yields the lines of an open file.

    Raises:
        ValueError: the file is cut off or not UTF-8; says where.
    """
    try:
        yield from stream
    except UnicodeDecodeError as error:
        raise _not_utf8(path) from error
    except (EOFError, OSError, zlib.error) as error:
        raise _cut_off(path, str(error)) from error


def _not_utf8(path: Path) -> ValueError:
    place = ""
    with open_bytes(path) as stream:
        for number, line in enumerate(stream, 1):
            try:
                line.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                place = f" at line {number}, byte {error.start + 1} (0x{line[error.start]:02x})"
                break
    return ValueError(
        f"{path}: not UTF-8{place}. Save the file as UTF-8, for instance by "
        "`iconv -f WINDOWS-1252 -t UTF-8` if that is what it is."
    )


def _cut_off(path: Path, problem: str) -> ValueError:
    return ValueError(
        f"{path}: the compressed file is cut off or damaged ({problem}). Download or copy it again."
    )
