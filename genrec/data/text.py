"""Text: files of it, plain or compressed, lines of JSON, and values of any shape as readable text.

Errors name the line. A JSON string may hold half of a character, a lone surrogate: what truncation
leaves of an emoji. It has no UTF-8. In a text it is read as U+FFFD, counted and warned of, for nothing
else of the item is lost; in an id it makes a bad row, for two ids could become one.
"""

from __future__ import annotations

import ast
import codecs
import csv
import gzip
import html
import io
import json
import logging
import re
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, TextIO

import pyarrow as pa

from genrec.data.source import BadRows

logger = logging.getLogger(__name__)
_HALF = re.compile("[\ud800-\udfff]")


def lines(
    path: Path, *, decimals: Callable[[str], Any] = float, shown: Path | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number, object) of JSON lines; also of Python literals (Amazon 2014, Steam).

    Args:
        path: the file.
        decimals: what becomes of a number with a point or an exponent in JSON.
        shown: the path in messages, where `path` is a copy.

    Raises:
        ValueError: a line is not such an object, or the file is cut off or not UTF-8.
    """
    shown = shown or path
    parse: Callable[[str], Any] = partial(json.loads, parse_float=decimals)
    with open_text(path) as stream:
        for number, line in enumerate(guarded(stream, shown), 1):
            if not (line := line.strip()):
                continue
            if number == 1 and line.startswith(("{'", "{u'", '{u"')):
                parse = ast.literal_eval  # data only: names and calls are refused, not run
            try:
                value = parse(line)
            except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
                raise _bad_line(shown, number, str(error), line) from error
            if not isinstance(value, dict):
                raise _bad_line(shown, number, f"found a {type(value).__name__}", line)
            yield number, value


def whole_lines(
    path: Path,
    bad_rows: BadRows,
    *,
    ids: Collection[str] = (),
    fields: Collection[str] | None = None,
    shown: Path | None = None,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields what `lines` does, without halves of characters.

    Args:
        path: the file.
        bad_rows: what to do with a line whose id holds one; counts those whose texts do.
        ids: the fields that are ids.
        fields: the fields to keep; None keeps all.
        shown: the path in messages, where `path` is a copy.

    Raises:
        ValueError: as `lines`; an id with half of a character, unless such rows are dropped.
    """
    shown = shown or path
    places: list[str] = []
    for number, line in lines(path, shown=shown):
        value = line if fields is None else {k: v for k, v in line.items() if k in fields}
        halves = [name for name, cell in value.items() if has_half(cell) or has_half(name)]
        if broken := next((name for name in halves if name in ids), None):
            broken_id(f"{shown}: line {number}", broken, value[broken], bad_rows)
            continue
        if halves:
            places.append(f"line {number}, field {halves[0]!a}: {_short(value[halves[0]])}")
            value = whole(value)
        yield number, value
    warn_of_halves(shown, places, bad_rows)


def has_half(value: object) -> bool:
    """Says whether a JSON value holds half of a character anywhere."""
    if isinstance(value, str):
        return not value.isascii() and _HALF.search(value) is not None
    if isinstance(value, Mapping):
        return any(has_half(part) for pair in value.items() for part in pair)
    return isinstance(value, list | tuple) and any(map(has_half, value))


def whole(value: Any) -> Any:
    """Returns a JSON value with halves of characters joined where two make one, else as U+FFFD."""
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, Mapping):
        return {whole(key): whole(part) for key, part in value.items()}
    return [whole(part) for part in value] if isinstance(value, list | tuple) else value


def broken_id(where: str, field: str, value: object, bad_rows: BadRows) -> None:
    """Judges an id that holds half of a character.

    Raises:
        ValueError: it does, unless such rows are dropped; then it is counted.
    """
    if bad_rows.on_bad == "error":
        bad_rows.fail(
            where,
            f"the id in {field!r} is {_short(value)}, which holds half of a character (what is left of "
            "a cut emoji, for instance); expected whole characters",
            "Correct the id",
        )
    bad_rows.count("broken_id")


def warn_of_halves(path: Path, places: list[str], bad_rows: BadRows) -> None:
    """Counts and warns of texts in which half of a character was read as U+FFFD.

    Args:
        path: the file.
        places: where, and what stands there.
        bad_rows: counts them as `broken_character`.
    """
    if places:
        bad_rows.count("broken_character", len(places))
        logger.warning(
            "%s: half of a character (what is left of a cut emoji, for instance) was read as U+FFFD, "
            "%d in all; first: %s. Correct it where the text was cut.",
            path,
            len(places),
            places[0],
        )


def _short(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:38]}...{text[-38:]}"


def as_written(path: Path, field: str) -> dict[int, Any] | None:
    """Returns a field of JSON lines by line, decimals and exponents as the text that stands there.

    None where there are no such numbers. They are looked up in the bytes, for what float64 cannot hold
    may look like a whole number once it is read.
    """
    name = re.escape(json.dumps(field, ensure_ascii=False).encode())
    wanted = re.compile(name + rb"\s*:\s*-?\d+[.eE]")
    with open_bytes(path) as stream:
        rest = b""
        while block := stream.read(1 << 22):
            if wanted.search(rest + block):
                return {number: value.get(field) for number, value in lines(path, decimals=str)}
            rest = block[-1000:]
    return None


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file, decompressed by its name.

    Raises:
        ValueError: a zip archive is damaged, or has not exactly one file in it.
    """
    if path.suffix.lower() == ".zip":
        member = zip_member(path)
        with zipfile.ZipFile(path) as archive, archive.open(member) as unpacked:
            yield unpacked
        return
    if path.suffix.lower() == ".gz":
        stream: Any = gzip.open(path, "rb")  # noqa: SIM115
    elif path.suffix.lower() == ".zst":
        stream = pa.input_stream(str(path), compression="zstd")
    else:
        stream = path.open("rb")
    with stream:
        yield stream


@contextmanager
def open_text(path: Path, *, encoding: str = "utf-8-sig", newline: str = "") -> Iterator[TextIO]:
    """Opens a text file, decompressed by its name, a byte order mark taken off.

    Args:
        path: the file.
        encoding: Python's name of it.
        newline: what ends a line; "" takes line feeds, carriage returns and both together.
    """
    with open_bytes(path) as stream, io.TextIOWrapper(stream, encoding, newline=newline) as text:
        yield text


def zip_member(path: Path) -> str:
    """Returns the name of the only file in a zip archive.

    Raises:
        ValueError: the archive is damaged, or has none or several.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [i.filename for i in archive.infolist() if not i.is_dir()]
    except zipfile.BadZipFile as error:
        raise _cut_off(path, str(error)) from error
    names = [name for name in names if not name.startswith("__MACOSX/")]  # what macOS adds to each
    if len(names) != 1:
        raise ValueError(
            f"{path}: found {len(names)} files in the archive ({', '.join(names[:5])}), expected one. "
            "Unpack it and name the files."
        )
    return names[0]


def is_utf8_name(encoding: str) -> bool:
    """Says whether an encoding is UTF-8 by any of its names."""
    return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")


@contextmanager
def plain_copy(path: Path, *, encoding: str, escaped: str | None = None) -> Iterator[Path]:
    """Yields a file in UTF-8 without backslash escapes, such as polars reads: the same, or a copy.

    A copy has the same rows; it is gone after the `with` block.

    Args:
        path: the file, perhaps compressed.
        encoding: Python's name of it.
        escaped: the separator of a file whose cells have backslash escapes; None for other files.

    Raises:
        ValueError: the file is cut off, or not in that encoding; says where.
    """
    utf8 = is_utf8_name(encoding)
    if utf8 and escaped is None and path.suffix.lower() != ".zip":
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        if escaped is not None:
            _copy_unescaped(path, copy, encoding, escaped)
        elif utf8:  # perhaps no text at all
            with open_bytes(path) as packed, copy.open("wb") as plain:
                for block in _blocks(packed, path):
                    plain.write(block)
        else:
            with (
                open_text(path, encoding=encoding) as text,
                copy.open("w", encoding="utf-8", newline="") as plain,
            ):
                for line in guarded(text, path, encoding):
                    plain.write(line)
        yield copy


def _blocks(stream: IO[bytes], path: Path) -> Iterator[bytes]:
    try:
        while block := stream.read(1 << 20):
            yield block
    except (EOFError, OSError, zlib.error, zipfile.BadZipFile) as error:
        raise _cut_off(path, str(error)) from error


def _copy_unescaped(path: Path, copy: Path, encoding: str, separator: str) -> None:
    name = "utf-8-sig" if is_utf8_name(encoding) else encoding
    limit = csv.field_size_limit(2**31 - 1)
    with (
        open_text(path, encoding=name) as text,
        copy.open("w", encoding="utf-8", newline="") as plain,
    ):
        lines = guarded(text, path, encoding)
        cells = csv.reader(lines, delimiter=separator, escapechar="\\", doublequote=False)
        try:
            csv.writer(plain, delimiter=separator, lineterminator="\n").writerows(cells)
        except csv.Error as error:
            raise ValueError(f"{path}: line {cells.line_num} cannot be read ({error}).") from error
        finally:
            csv.field_size_limit(limit)


def _bad_line(path: Path, number: int, problem: str, line: str) -> ValueError:
    fix = "Correct the line or write the file again."
    if number == 1 and line.startswith("["):
        fix = f"The file is one JSON array: `jq -c '.[]' {path.name}` makes lines of it."
    elif number == 1 and line == "{":
        fix = f"The objects span several lines: `jq -c . {path.name}` puts each on one."
    return ValueError(
        f"{path}: line {number} is not a JSON object ({problem}); expected one object per line. {fix}"
    )


def guarded(stream: TextIO, path: Path, encoding: str = "utf-8") -> Iterator[str]:
    """Yields the lines of an open file.

    Raises:
        ValueError: the file is cut off or not in that encoding; says where.
    """
    try:
        yield from stream
    except UnicodeError as error:
        raise _not_in(encoding, path) from error
    except (EOFError, OSError, zlib.error, zipfile.BadZipFile) as error:
        raise _cut_off(path, str(error)) from error


def _not_in(encoding: str, path: Path) -> ValueError:
    if not is_utf8_name(encoding):
        return ValueError(
            f"{path}: not {encoding}{_undecodable(path, encoding)}. Set another `encoding`, or save the "
            "file as UTF-8."
        )
    if is_utf16(path):
        return utf16(path)
    return ValueError(
        f"{path}: not UTF-8{_undecodable(path, 'utf-8-sig')}. Set `encoding: cp1252` (Windows) or "
        "`latin-1` where the source has this option, or save the file as UTF-8, for instance by "
        "`iconv -f WINDOWS-1252 -t UTF-8`."
    )


def _undecodable(path: Path, encoding: str) -> str:
    """Returns the place of the first byte that is no text; "" where lines do not show it."""
    if codecs.lookup(encoding).name.startswith(("utf-16", "utf-32")):
        return ""
    with open_bytes(path) as stream:
        for number, line in enumerate(stream, 1):
            try:
                line.decode(encoding)
            except UnicodeDecodeError as error:
                return f" at line {number}, byte {error.start + 1} (0x{line[error.start]:02x})"
    return ""


def utf16(path: Path) -> ValueError:
    """Returns the error that a file is UTF-16."""
    return ValueError(
        f"{path}: the file is UTF-16. Set `encoding: utf-16` where the source has this option, or save "
        "it as UTF-8."
    )


def is_utf16(path: Path) -> bool:
    """Says whether a file begins with the byte order mark of UTF-16."""
    return head(path, 2) in (b"\xff\xfe", b"\xfe\xff")


def is_utf8(path: Path) -> bool:
    """Says whether a file can be read as UTF-8."""
    try:
        with open_text(path) as stream:
            for _ in stream:
                pass
    except UnicodeDecodeError:
        return False
    return True


def head(path: Path, size: int) -> bytes:
    """Returns the first bytes of a file, decompressed; b"" where it is damaged, which readers report."""
    try:
        with open_bytes(path) as stream:
            return bytes(stream.read(size))
    except (EOFError, OSError, ValueError, zlib.error, zipfile.BadZipFile):
        return b""


class DamagedFile(ValueError):
    """A compressed file that is cut off or damaged."""


def _cut_off(path: Path, problem: str) -> DamagedFile:
    return DamagedFile(
        f"{path}: the compressed file is cut off or damaged ({problem}). Download or copy it again."
    )


# Only tags that shops write. "<5 kg" and "<3" stay: they are no markup.
_TAG = re.compile(
    r"</?(?:a|abbr|article|b|big|blockquote|br|center|cite|code|dd|del|div|dl|dt|em|figure|font"
    r"|footer|h[1-6]|header|hr|i|iframe|img|ins|li|link|main|mark|meta|nav|ol|p|pre|q|s|section"
    r"|small|span|strike|strong|sub|sup|table|tbody|td|tfoot|th|thead|tr|tt|u|ul|video|wbr)"
    r"(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)
_HIDDEN = re.compile(r"<!--.*?-->|<(script|style)\b.*?</\1\s*>", re.IGNORECASE | re.DOTALL)
_INLINE = re.compile(r"</?(?:b|i|em|strong|span|font|a|u|s|sub|sup|small|big|wbr)\b", re.IGNORECASE)


def as_text(value: object, joiner: str = ", ") -> str | None:
    """Returns a JSON value as readable text; null, "" and empty lists are None.

    Args:
        value: lists are joined, also within lists; an object becomes JSON.
        joiner: stands between the entries of a list.
    """
    if isinstance(value, list | tuple):
        parts = [text for part in value if (text := as_text(part, joiner))]
        return joiner.join(parts) or None
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str) if value else None
    return None if value is None else str(value).strip() or None


def without_markup(text: str | None) -> str | None:
    """Returns text as a browser would show it, on one line: entities decoded, tags taken out.

    Entities are decoded first, and twice, for shops escape what was escaped before; so `&lt;br&gt;`
    is a line break too. Scripts and style sheets go with their content.
    """
    if text is None or not text:
        return None
    if "&" in text:
        text = html.unescape(html.unescape(text))
    if "<" in text:
        text = _HIDDEN.sub(" ", text)
        text = _TAG.sub(lambda tag: "" if _INLINE.match(tag[0]) else " ", text)
    return " ".join(text.split()) or None
