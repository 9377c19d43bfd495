"""Images over HTTP against a real local server: once, in bounds, with patience, never inwards."""

import io
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from genrec.data import Policy, download, fetch

LOCAL = Policy(allow_private=True, timeout=2, attempts=3, concurrency=4)


def image(colour: str = "teal", size: tuple[int, int] = (8, 8), form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, form)
    return stream.getvalue()


class Server(ThreadingHTTPServer):
    """Counts requests and answers by the first part of the path."""

    requests: Counter[str]
    at_once = most_at_once = 0

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is part of these tests."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        self.server.requests[self.path] += 1
        name = self.path.strip("/").split("/")[0].split(".")[0].replace("-", "_")
        getattr(self, name)()

    def send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def ok(self) -> None:
        self.send(200, image())

    def jpeg(self) -> None:
        self.send(200, image("red", form="JPEG"))

    def text(self) -> None:
        self.send(200, b"<html>no image here</html>", Content_Type="image/png")

    def empty(self) -> None:
        self.send(200)

    def large(self) -> None:
        self.send(200, b"\x89PNG" + bytes(60_000))

    def endless(self) -> None:  # no Content-Length: the limit must hold while reading
        self.send_response(200)
        self.end_headers()
        for _ in range(1000):
            self.wfile.write(bytes(10_000))

    def wide(self) -> None:
        self.send(200, image(size=(300, 200)))

    def gone(self) -> None:
        self.send(404)

    def cut(self) -> None:  # says more than it sends, the first time
        body = image()
        first = self.server.requests[self.path] == 1
        self.send(200, body[:20] if first else body, Content_Length=str(len(body)))
        self.close_connection = True

    def busy(self) -> None:  # twice busy, then there
        if self.server.requests[self.path] < 3:
            return self.send(503)
        return self.send(200, image())

    def always_busy(self) -> None:
        self.send(429)

    def wait(self) -> None:
        if self.server.requests[self.path] == 1:
            return self.send(429, Retry_After="7")
        return self.send(200, image())

    def wait_date(self) -> None:
        if self.server.requests[self.path] == 1:
            return self.send(503, Retry_After=formatdate(time.time() + 9, usegmt=True))
        return self.send(200, image())

    def wait_long(self) -> None:
        self.send(503, Retry_After="3600")

    def slow(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        for _ in range(40):
            self.wfile.write(b"\x89")
            self.wfile.flush()
            time.sleep(0.05)

    def crowd(self) -> None:
        with self.server.lock:
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
        time.sleep(0.05)
        with self.server.lock:
            self.server.at_once -= 1
        self.send(200, image())

    def to(self) -> None:
        self.send(302, Location=self.path.removeprefix("/to/"))

    def loop(self) -> None:
        self.send(302, Location="/loop")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as running:
        running.requests, running.lock = Counter(), threading.Lock()
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def base(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"


def test_content_addressed_and_never_fetched_twice(
    server: Server, base: str, tmp_path: Path
) -> None:
    urls = [f"{base}/ok/1.jpg", f"{base}/ok/2", f"{base}/jpeg/3.png", f"{base}/ok/1.jpg"]
    seen: list[tuple[str, int, int]] = []
    done = download(urls, tmp_path, policy=LOCAL, progress=lambda *at: seen.append(at))
    first, second, third = (done.paths[url] for url in urls[:3])
    assert first == second  # the same image is one file
    assert first.suffix == ".png"
    assert third.suffix == ".jpg"  # by content, not by name
    assert first.read_bytes() == image()
    assert (done.fetched, done.failures) == (3, {})
    assert seen[-1] == ("fetch images", 3, 3)
    assert list((tmp_path / "partial").iterdir()) == []
    again = download(urls, tmp_path, policy=LOCAL)
    assert again.paths == done.paths
    assert again.fetched == 0
    assert set(server.requests.values()) == {1}


def test_a_damaged_or_lost_file_is_fetched_again(base: str, tmp_path: Path) -> None:
    url = f"{base}/ok/1"
    path = download([url], tmp_path, policy=LOCAL).paths[url]
    path.write_bytes(path.read_bytes()[:10])
    assert download([url], tmp_path, policy=LOCAL).fetched == 1
    path.unlink()
    assert download([url], tmp_path, policy=LOCAL).fetched == 1
    assert path.read_bytes() == image()


def test_a_killed_run_goes_on(server: Server, base: str, tmp_path: Path) -> None:
    urls = [f"{base}/ok/{k}" for k in range(30)]

    def kill(step: str, done: int, total: int) -> None:
        if done == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(urls, tmp_path, policy=LOCAL, progress=kill)
    with sqlite3.connect(tmp_path / "index.sqlite") as base_:
        known = {row[0] for row in base_.execute("SELECT url FROM images")}
    assert len(known) >= 12
    (tmp_path / "partial" / "left-behind").write_bytes(b"\x89PNG half")
    before = server.requests.copy()
    done = download(urls, tmp_path, policy=LOCAL)
    assert len(done.paths) == 30
    assert done.fetched == 30 - len(known)
    assert not [
        p for p in server.requests if f"{base}{p}" in known and server.requests[p] > before[p]
    ]


SMALL = replace(LOCAL, max_bytes=50_000, max_pixels=10_000)


def test_failures_are_counted_by_reason(server: Server, base: str, tmp_path: Path) -> None:
    expected = {
        "/gone": "http_404",
        "/text.png": "not_an_image",
        "/empty": "not_an_image",
        "/large": "too_large",
        "/endless": "too_large",
        "/wide": "too_many_pixels",
        "/loop": "too_many_redirects",
    }
    urls = [base + path for path in expected]
    urls += ["file:///etc/passwd", "ftp://x.org/a", "no url", "http://", "http://nowhere.invalid/a"]
    done = download(urls, tmp_path, policy=SMALL, sleep=lambda s: None)
    failures = {base + path: reason for path, reason in expected.items()}
    assert done.failures == failures | {
        **dict.fromkeys(urls[7:11], "refused_url"),
        urls[11]: "unreachable",
    }
    assert done.reasons == {
        "http_404": 1,
        "not_an_image": 2,
        "refused_url": 4,
        "too_large": 2,
        "too_many_pixels": 1,
        "too_many_redirects": 1,
        "unreachable": 1,
    }
    assert all(
        server.requests[path] == 1 for path in expected if path != "/loop"
    )  # no use in retries
    assert list(tmp_path.rglob("*.png")) == []
    assert list((tmp_path / "partial").iterdir()) == []


def test_what_may_pass_is_tried_again_with_growing_waits(
    server: Server, base: str, tmp_path: Path
) -> None:
    waits: list[float] = []
    urls = [f"{base}/busy", f"{base}/cut"]
    done = download(urls, tmp_path, policy=replace(LOCAL, concurrency=1), sleep=waits.append)
    assert list(done.paths) == urls
    assert server.requests == {"/busy": 3, "/cut": 2}
    assert len(waits) == 3
    assert 0 <= waits[0] <= 1
    assert 0 <= waits[1] <= 2
    done = download([f"{base}/always-busy"], tmp_path, policy=LOCAL, sleep=waits.append)
    assert done.reasons == {"http_429": 1}
    assert server.requests["/always-busy"] == LOCAL.attempts


def test_retry_after_is_kept_to(server: Server, base: str, tmp_path: Path) -> None:
    waits: list[float] = []
    one_at_once = replace(LOCAL, concurrency=1)
    urls = [f"{base}/wait", f"{base}/wait-date"]
    assert len(download(urls, tmp_path, policy=one_at_once, sleep=waits.append).paths) == 2
    assert waits[0] == 7
    assert 6 < waits[1] <= 9
    done = download([f"{base}/wait-long"], tmp_path, policy=one_at_once, sleep=waits.append)
    assert done.failures == {f"{base}/wait-long": "retry_later"}
    assert server.requests["/wait-long"] == 1
    assert len(waits) == 2


def test_a_server_that_drips(base: str, tmp_path: Path) -> None:
    policy = replace(LOCAL, timeout=0.3, attempts=1)
    started = time.monotonic()
    done = download([f"{base}/slow"], tmp_path, policy=policy)
    assert done.reasons == {"timeout": 1}
    assert time.monotonic() - started < 1.5


def test_several_at_once_and_no_more(server: Server, base: str, tmp_path: Path) -> None:
    download([f"{base}/crowd/{k}" for k in range(16)], tmp_path, policy=LOCAL)
    assert 2 <= server.most_at_once <= LOCAL.concurrency


def test_nothing_private_unless_allowed(server: Server, base: str, tmp_path: Path) -> None:
    port = server.server_address[1]
    hosts = ("127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "10.0.0.1")
    urls = [f"http://{host}:{port}/ok" for host in hosts] + ["http://169.254.169.254/latest/"]
    done = download(urls, tmp_path, policy=replace(LOCAL, allow_private=False))
    assert done.reasons == {"refused_address": len(urls)}
    assert not server.requests


def test_a_redirect_inwards_is_refused(
    server: Server, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first host counts as public here, so that it may redirect; the second is loopback."""
    from genrec.data import addresses

    real = addresses.is_public
    monkeypatch.setattr(addresses, "is_public", lambda a: a == "127.0.0.1" or real(a))
    port = server.server_address[1]
    targets = (f"http://127.0.0.2:{port}/ok", f"http://[::1]:{port}/ok", "http://10.0.0.1/")
    urls = [f"http://shop.example:{port}/to/{target}" for target in targets]
    urls += [f"http://shop.example:{port}/to/file:///etc/passwd"]
    resolve = {"shop.example": ["127.0.0.1"]}
    done = download(
        urls,
        tmp_path,
        policy=replace(LOCAL, allow_private=False),
        resolve=lambda host, port: resolve.get(host) or addresses.resolve(host, port),
    )
    assert list(done.failures.values()) == [*["refused_address"] * 3, "refused_url"]
    assert all(path.startswith("/to/") for path in server.requests)
    fine = f"http://shop.example:{port}/to//ok"
    assert download(
        [fine],
        tmp_path,
        policy=replace(LOCAL, allow_private=False),
        resolve=lambda *_: ["127.0.0.1"],
    ).paths


def test_fetch_fills_in_the_table_and_says_what_failed(base: str, tmp_path: Path) -> None:
    urls = [f"{base}/ok/1", None, f"{base}/gone", f"{base}/ok/2"]
    items = pl.DataFrame(
        {"item_id": list("abcd"), "image": [None] * 4, "image_url": urls},
        schema_overrides={"image": pl.String},
    )
    fetched = fetch(items, tmp_path, policy=LOCAL)
    first = fetched.items["image"][0]
    assert fetched.items["image"].to_list() == [first, None, None, first]
    assert Path(first).is_absolute()
    assert fetched.failures.rows() == [("c", f"{base}/gone", "http_404")]
    assert fetched.counts == {"image_fetched": 2, "image_cached": 0, "image_http_404": 1}
    assert fetch(items, tmp_path, policy=LOCAL).counts["image_cached"] == 2
    with pytest.raises(ValueError, match=r"not one of 1 images could be fetched.*http_404"):
        fetch(items[2:3], tmp_path, policy=LOCAL)
