"""Requests through the row cache: only what is missing is asked, and failures are recorded.

A reply that cannot be used is asked for again with another seed, a stated number of times; then its
row is recorded as failed, with the reason. Nothing is made up in its place. Every reply is written to
the cache when it arrives, so that a killed run goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from genrec.data.images import BadImage, check_size
from genrec.engines import Engine, EngineError, Reply, Request
from genrec.engines.protocol import one_line
from genrec.enrich.rows import row_key
from genrec.progress import Progress, silent

T = TypeVar("T")
Cache = MutableMapping[str, bytes]

# Greedy decoding would say the same again, whatever the seed.
RETRY_TEMPERATURE = 0.7
# So many errors of the engine in a row are no fault of the rows.
MAX_ERRORS = 20
_ENGINE = "engine:"


class BadReply(ValueError):
    """A reply that cannot be used; the message is the reason, its kind before the first colon."""


@dataclass(frozen=True)
class Row(Generic[T]):
    """What became of one request: exactly one of `value` and `error` is set.

    Attributes:
        value: what the reply says.
        error: why there is none.
        attempts: how often the engine was asked, in this run or before.
    """

    value: T | None
    error: str | None
    attempts: int


@dataclass(frozen=True)
class _Record(Generic[T]):
    """A row on its way. `text` and `error` are what the cache holds of it."""

    attempts: int = 0
    text: str | None = None
    error: str | None = None
    final: bool = False  # no further attempt can help
    value: T | None = None

    def open(self, retries: int) -> bool:
        return self.text is None and not self.final and self.attempts <= retries

    @property
    def failed_engine(self) -> bool:
        return self.error is not None and self.error.startswith(_ENGINE)

    def packed(self) -> bytes:
        kept = {k: v for k, v in asdict(replace(self, value=None)).items() if k != "value"}
        return json.dumps(kept, ensure_ascii=False, sort_keys=True).encode()


def annotate(
    requests: Sequence[Request | None],
    engine: Engine,
    read: Callable[[str], T],
    *,
    cache: Cache,
    retries: int = 2,
    step: str = "annotate",
    progress: Progress = silent,
) -> list[Row[T] | None]:
    """Has an engine answer what the cache does not know yet.

    A row's key is the engine's identity, the whole request and the content of its images. Equal
    requests are asked once. Failures of a reply are kept too, so that a later run does not ask in
    vain; with more `retries` it goes on from there. Failures of the engine (a timeout) are not kept.

    Args:
        requests: one per row; None where there is nothing to ask.
        engine: see `engines.protocol`; loads nothing if nothing is missing.
        read: turns a reply's text into a value, or raises `BadReply`.
        cache: key to a JSON record.
        retries: further attempts with seed + 1, seed + 2, ... at temperature 0.7 or the request's.
        step: the name that `progress` is told.
        progress: counts distinct requests.

    Returns:
        One row per request; None where there was none.

    Raises:
        EngineError: the engine cannot go on, or did nothing but fail. What was answered is kept.
    """
    keys, rows = _keys(requests, engine.identity)
    first: dict[str, int] = {}
    for row, key in enumerate(keys):
        if key is not None:
            first.setdefault(key, row)
    records = {key: _load(cache, key, read) for key in first}
    run = _Run(engine, read, cache, retries, records, lambda n: progress(step, n, len(first)))
    while missing := run.missing():
        run.ask(missing, [_attempt(requests[first[k]], records[k].attempts) for k in missing])
    run.check()
    for row, key in enumerate(keys):
        if key is not None:
            record = records[key]
            rows[row] = Row(record.value, record.error, record.attempts)
    return rows


def summarise(errors: Sequence[str | None], attempts: Sequence[int]) -> dict[str, Any]:
    """Returns the counts of annotated rows, for people.

    Args:
        errors: one per row that had something to ask.
        attempts: how often the engine was asked for each.

    Returns:
        asked, answered, failed, asked_again (rows that needed a second attempt), and failures:
        how many by kind of reason.
    """
    kinds = Counter(error.partition(":")[0] for error in errors if error is not None)
    return {
        "asked": len(errors),
        "answered": len(errors) - kinds.total(),
        "failed": kinds.total(),
        "asked_again": sum(count > 1 for count in attempts),
        "failures": dict(sorted(kinds.items())),
    }


class _Run(Generic[T]):
    """The records of a run, and what is done with a reply."""

    def __init__(
        self,
        engine: Engine,
        read: Callable[[str], T],
        cache: Cache,
        retries: int,
        records: dict[str, _Record[T]],
        report: Callable[[int], None],
    ) -> None:
        self._engine, self._read, self._cache, self._retries = engine, read, cache, retries
        self._records, self._report = records, report
        self._errors = 0  # of the engine, since it last answered
        self._finished = len(records) - len(self.missing())
        self._report(self._finished)

    def missing(self) -> list[str]:
        """Returns the keys that the engine is to be asked for."""
        return [key for key, record in self._records.items() if record.open(self._retries)]

    def ask(self, keys: Sequence[str], requests: Sequence[Request]) -> None:
        """Asks once for each key."""
        left = set(keys)
        for index, reply in self._engine.generate(requests):
            left.remove(keys[index])
            self._take(keys[index], reply)
        assert not left, f"the engine left {len(left)} of {len(keys)} requests without a reply"

    def check(self) -> None:
        """Refuses a run in which the engine did nothing but fail."""
        if self._records and all(record.failed_engine for record in self._records.values()):
            self._give_up(next(reversed(self._records.values())))

    def _take(self, key: str, reply: Reply) -> None:
        attempts = self._records[key].attempts + 1
        if reply.finish == "error" and not reply.permanent:
            record: _Record[T] = _Record(attempts, error=f"{_ENGINE} {reply.error}")
            self._errors += 1
            if self._errors >= MAX_ERRORS:
                self._give_up(record)
        else:
            self._errors, record = 0, _judge(reply, attempts, self._read)
            self._cache[key] = record.packed()
        self._records[key] = record
        self._finished += not record.open(self._retries)
        self._report(self._finished)

    def _give_up(self, last: _Record[T]) -> None:
        raise EngineError(
            f"{self._errors} requests in a row failed, the last of them: {last.error}\n"
            "What was answered is kept: fix the engine and run again to go on"
        )


def _judge(reply: Reply, attempts: int, read: Callable[[str], T]) -> _Record[T]:
    if reply.finish == "error":
        return _Record(attempts, error=reply.error, final=True)
    if reply.finish == "length":
        return _Record(attempts, error=f"cut off at max_tokens: {one_line(reply.text, most=80)}")
    try:
        return _Record(attempts, text=reply.text, value=read(reply.text))
    except BadReply as error:
        return _Record(attempts, error=str(error))


def _keys(
    requests: Sequence[Request | None], identity: str
) -> tuple[list[str | None], list[Row[Any] | None]]:
    """Returns each request's key, and the rows whose image cannot even be hashed."""
    keys: list[str | None] = []
    rows: list[Row[Any] | None] = []
    for request in requests:
        key: str | None = None
        row: Row[Any] | None = None
        if request is not None:
            try:
                key = row_key("annotate", identity, *_parts(request))
            except BadImage as error:
                row = Row(None, str(error), 0)
        keys.append(key)
        rows.append(row)
    return keys, rows


def _parts(request: Request) -> Iterable[str | bytes]:
    yield json.dumps(
        {
            "messages": [[m.role, m.text, m.image is not None] for m in request.messages],
            "schema": request.schema,
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "seed": request.seed,
            "longest_side": request.longest_side if request.images else None,
        },
        sort_keys=True,
    )
    for path in request.images:
        yield _content(path)


def _content(path: Path) -> bytes:
    check_size(path)
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def _load(cache: Cache, key: str, read: Callable[[str], T]) -> _Record[T]:
    """Returns what the cache knows of a row; what the reader no longer takes is asked for anew."""
    blob = cache.get(key)
    if blob is None:
        return _Record()
    try:
        record: _Record[T] = _Record(**json.loads(blob))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"the row cache holds a damaged reply ({error}): delete the cache file and run again"
        ) from error
    if record.text is None:
        return record
    try:
        return replace(record, value=read(record.text))
    except BadReply:
        return _Record()


def _attempt(request: Request | None, attempts: int) -> Request:
    assert request is not None, "only requests have records"
    if attempts == 0:
        return request
    warm = max(request.temperature, RETRY_TEMPERATURE)
    return replace(request, seed=request.seed + attempts, temperature=warm)
