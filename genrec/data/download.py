"""Fetches images from URLs into a content-addressed folder, each URL once.

`<folder>/<ab>/<sha256>.jpg` holds an image and is there by one rename after it was decoded;
`index.sqlite` knows which URL led to it. A kill loses what is in flight and nothing else.
"""

from __future__ import annotations

import email.utils
import hashlib
import os
import random
import sqlite3
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpcore
import httpx
import polars as pl

from genrec.data.addresses import PublicTransport, RefusedAddress, Resolve, resolve
from genrec.data.images import image_problem, suffix_of
from genrec.progress import Progress, silent

_AGAIN = (408, 425, 429, 500, 502, 503, 504)  # what a later try may find otherwise
_AGENT = "genrec (a recommender toolkit; fetches catalogue images once)"
_DAY = 86_400


class _Failure(Exception):
    """Why an image was not fetched: a short reason to count by, whether a retry may help."""

    def __init__(self, reason: str, *, again: bool = False, wait: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.again, self.wait = reason, again, wait


@dataclass(frozen=True)
class Policy:
    """How images are fetched.

    Attributes:
        concurrency: images at once.
        timeout: seconds for one image, from first to last byte.
        attempts: tries where the server or the network fails.
        max_wait: seconds waited before another try at most. A server that asks for more (by
            Retry-After) is not asked again in this run.
        max_bytes: largest file.
        max_pixels: largest width x height.
        allow_private: also fetch from addresses that are not public.
    """

    concurrency: int = 8
    timeout: float = 20.0
    attempts: int = 4
    max_wait: float = 60.0
    max_bytes: int = 20_000_000
    max_pixels: int = 50_000_000
    allow_private: bool = False


DEFAULT = Policy()


@dataclass(frozen=True)
class Downloaded:
    """What became of the URLs.

    Attributes:
        paths: by URL, absolute; only those that are there.
        failures: by URL, the reason: http_404, timeout, unreachable, refused_address, refused_url,
            too_large, too_many_pixels, not_an_image, too_many_redirects, retry_later.
        fetched: how many were fetched now; the others were there already.
    """

    paths: dict[str, Path] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    fetched: int = 0

    @property
    def reasons(self) -> dict[str, int]:
        """How many failed, by reason."""
        return dict(sorted(Counter(self.failures.values()).items()))


def download(
    urls: Sequence[str],
    folder: str | Path,
    *,
    policy: Policy = DEFAULT,
    resolve: Resolve = resolve,
    sleep: Callable[[float], None] = time.sleep,
    progress: Progress = silent,
) -> Downloaded:
    """Fetches images, each URL once, over http and https; proxies of the environment are not used.

    Args:
        urls: repeats are fetched once.
        folder: the cache, made if it is not there; runs may share it, also at the same time.
        policy: limits and retries.
        resolve: from host to addresses.
        sleep: waits between tries.
        progress: called with "fetch images".

    Returns:
        Paths and failures. A failed URL is tried again by the next call.
    """
    wanted = list(dict.fromkeys(urls))
    fetched = 0
    paths: dict[str, Path] = {}
    failures: dict[str, str] = {}
    with _Index(Path(folder)) as index:
        paths.update(index.known(wanted))
        todo = [url for url in wanted if url not in paths]
        with _client(policy, resolve) as client:
            fetch = _Fetch(client, Path(folder).resolve(), policy, sleep)
            for done, (url, result) in enumerate(_parallel(fetch, todo, policy.concurrency), 1):
                if isinstance(result, str):
                    failures[url] = result
                else:
                    index.add(url, result)
                    paths[url] = result
                    fetched += 1
                progress("fetch images", len(wanted) - len(todo) + done, len(wanted))
    in_order = {url: paths[url] for url in wanted if url in paths}
    failed = {url: failures[url] for url in wanted if url in failures}
    return Downloaded(in_order, failed, fetched)


@dataclass(frozen=True)
class Fetched:
    """What `fetch` did.

    Attributes:
        items: the table with `image` set where the image is there.
        failures: item_id, image_url, reason (String): those that are not.
        counts: image_fetched (now), image_cached (before), image_<reason> of each failure.
    """

    items: pl.DataFrame
    failures: pl.DataFrame
    counts: dict[str, int]


def fetch(
    items: pl.DataFrame,
    folder: str | Path,
    *,
    policy: Policy = DEFAULT,
    resolve: Resolve = resolve,
    progress: Progress = silent,
) -> Fetched:
    """Fetches the images of the items that a dataset has in the end.

    Args:
        items: item_id, image, and image_url (a URL or null).
        folder: the cache of `download`.
        policy: limits and retries.
        resolve: from host to addresses.
        progress: called with "fetch images".

    Raises:
        ValueError: not one image of many could be had, so something else is wrong.
    """
    urls = items["image_url"].drop_nulls().to_list()
    downloaded = download(urls, folder, policy=policy, resolve=resolve, progress=progress)
    if urls and not downloaded.paths:
        raise ValueError(
            f"prepare.source.images=download: not one of {len(urls)} images could be fetched "
            f"({downloaded.reasons}; first: {urls[0]}). Look at the network; for an image server in "
            "your own network set runtime.downloads.allow_private=true; for none, images=null."
        )
    paths = {url: str(path) for url, path in downloaded.paths.items()}
    image = pl.col("image_url").replace_strict(paths, default=None, return_dtype=pl.String)
    reason = pl.col("image_url").replace_strict(
        downloaded.failures, default=None, return_dtype=pl.String
    )
    failures = items.select("item_id", "image_url", reason=reason).drop_nulls("reason")
    counts = {"image_fetched": downloaded.fetched, "image_cached": len(paths) - downloaded.fetched}
    counts |= {f"image_{name}": count for name, count in downloaded.reasons.items()}
    return Fetched(items.with_columns(image=image), failures, counts)


@contextmanager
def _client(policy: Policy, resolve: Resolve) -> Iterator[httpx.Client]:
    transport = PublicTransport(
        allow_private=policy.allow_private, resolve=resolve, connections=policy.concurrency
    )
    # No proxy and no .netrc: a proxy would resolve names itself, behind our check.
    with httpx.Client(
        transport=transport,
        trust_env=False,
        follow_redirects=True,
        max_redirects=5,
        timeout=policy.timeout,
        headers={"User-Agent": _AGENT, "Accept": "image/*", "Accept-Encoding": "identity"},
    ) as client:
        yield client


def _parallel(
    fetch: Callable[[str], Path | str], urls: Sequence[str], concurrency: int
) -> Iterator[tuple[str, Path | str]]:
    """Yields (url, result) as they come; few are queued, so that a kill loses little."""
    running: dict[Future[Path | str], str] = {}
    pool = ThreadPoolExecutor(concurrency, thread_name_prefix="fetch")
    try:
        for url in urls:
            if len(running) >= 2 * concurrency:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
            running[pool.submit(fetch, url)] = url
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    finally:
        pool.shutdown(cancel_futures=True)


class _Fetch:
    """Fetches one URL, with retries; returns the path or why there is none."""

    def __init__(
        self, client: httpx.Client, folder: Path, policy: Policy, sleep: Callable[[float], None]
    ) -> None:
        self._client, self._folder, self._policy, self._sleep = client, folder, policy, sleep
        # One image is decoded at a time: it bounds memory, and the check sets Python's warning
        # filters, which threads share.
        self._decoding = threading.Lock()

    def __call__(self, url: str) -> Path | str:
        for attempt in range(1, self._policy.attempts + 1):
            try:
                return self._once(url)
            except _Failure as failure:
                if not failure.again or attempt == self._policy.attempts:
                    return failure.reason
                # Full jitter, so that what failed together does not come back together.
                backoff = min(2.0 ** (attempt - 1), self._policy.max_wait) * random.random()
                pause = backoff if failure.wait is None else failure.wait
                if pause > self._policy.max_wait:
                    return "retry_later"
                self._sleep(pause)
        raise AssertionError("attempts is at least 1")

    def _once(self, url: str) -> Path:
        partial = self._folder / "partial"
        with tempfile.NamedTemporaryFile(dir=partial, delete=False) as stream:
            temporary = Path(stream.name)
        try:
            digest = self._stream(url, temporary)
            with self._decoding:
                problem = image_problem(
                    temporary, max_bytes=self._policy.max_bytes, max_pixels=self._policy.max_pixels
                )
            if problem:
                raise _Failure("too_many_pixels" if "pixels" in problem else "not_an_image")
            final = self._folder / digest[:2] / f"{digest}{suffix_of(temporary)}"
            final.parent.mkdir(exist_ok=True)
            temporary.replace(final)
            return final
        finally:
            temporary.unlink(missing_ok=True)

    def _stream(self, url: str, into: Path) -> str:
        """Writes a body to a file and returns its sha256."""
        try:
            with self._client.stream("GET", url) as response:
                _check(response, self._policy.max_bytes)
                return self._body(response, into)
        except RefusedAddress as error:
            scheme = "expected http" in str(error)
            raise _Failure("refused_url" if scheme else "refused_address") from error
        except httpx.TooManyRedirects as error:
            raise _Failure("too_many_redirects") from error
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError) as error:
            raise _Failure("refused_url") from error
        except (httpcore.TimeoutException, httpx.TimeoutException) as error:
            raise _Failure("timeout", again=True) from error
        except (
            *(httpcore.NetworkError, httpcore.ProtocolError, httpx.TransportError),
            *(OSError, httpx.StreamError),
        ) as error:
            raise _Failure("unreachable", again=True) from error

    def _body(self, response: httpx.Response, into: Path) -> str:
        digest, size = hashlib.sha256(), 0
        deadline = time.monotonic() + self._policy.timeout
        with into.open("wb") as stream:
            for chunk in response.iter_raw():
                size += len(chunk)
                if size > self._policy.max_bytes:
                    raise _Failure("too_large")
                if (
                    time.monotonic() > deadline
                ):  # a server that sends a byte at a time would never end
                    raise _Failure("timeout", again=True)
                digest.update(chunk)
                stream.write(chunk)
        return digest.hexdigest()


def _check(response: httpx.Response, max_bytes: int) -> None:
    status = response.status_code
    if status in _AGAIN:
        seconds = _retry_after(response.headers.get("Retry-After"))
        raise _Failure(f"http_{status}", again=True, wait=seconds)
    if status != 200:
        raise _Failure(f"http_{status}")
    length = response.headers.get("Content-Length", "")
    if length.isdigit() and int(length) > max_bytes:
        raise _Failure("too_large")


def _retry_after(value: str | None) -> float | None:
    """Returns the seconds of a Retry-After header: a number, or a date."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


class _Index:
    """Which URL led to which file of the folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        partial = self._folder / "partial"
        partial.mkdir(parents=True, exist_ok=True)
        for old in partial.iterdir():  # what a kill left; younger ones may be another run's
            if time.time() - old.stat().st_mtime > _DAY:
                old.unlink(missing_ok=True)
        self._base = sqlite3.connect(self._folder / "index.sqlite", timeout=60)
        self._base.execute("PRAGMA journal_mode=WAL")
        self._base.execute(
            "CREATE TABLE IF NOT EXISTS images (url TEXT PRIMARY KEY, file TEXT, bytes INTEGER)"
        )

    def __enter__(self) -> _Index:
        return self

    def __exit__(self, *_: object) -> None:
        self._base.close()

    def known(self, urls: Sequence[str]) -> dict[str, Path]:
        """Returns the files of those URLs whose file is there, whole."""
        files: dict[str, Path] = {}
        for url in urls:
            row = self._base.execute(
                "SELECT file, bytes FROM images WHERE url = ?", (url,)
            ).fetchone()
            if row is not None:
                path = self._folder / row[0]
                if path.is_file() and path.stat().st_size == row[1]:
                    files[url] = path
        return files

    def add(self, url: str, path: Path) -> None:
        """Remembers a file, at once: what is fetched is never fetched again."""
        name = os.fspath(path.relative_to(self._folder))
        with self._base:
            self._base.execute(
                "INSERT OR REPLACE INTO images VALUES (?, ?, ?)", (url, name, path.stat().st_size)
            )
