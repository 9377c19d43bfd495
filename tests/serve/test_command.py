"""`genrec serve` as a process: what it refuses, where it listens, and how it ends."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from genrec import Pipeline
from genrec.cli import cli
from genrec.serve.command import read_key
from genrec.serve.server import allowed_hosts
from genrec.serve.settings import Settings

KEY = "correct-horse-battery"


@pytest.fixture(scope="module")
def recipe(pipeline: Pipeline) -> str:
    return str(pipeline.store.root.parent / "shop.yaml")


class Process:
    """A `genrec serve` that listens."""

    def __init__(self, recipe: str, *options: str) -> None:
        environment = {**os.environ, "GENREC_API_KEY": KEY, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "genrec", "serve", recipe, "--port", "0", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", self.said)
        assert found, self.process.communicate()[1]
        self.client = httpx.Client(
            base_url=found[0], headers={"authorization": f"Bearer {KEY}"}, timeout=60
        )

    def end(self, number: signal.Signals) -> str:
        self.process.send_signal(number)
        return self.process.communicate(timeout=30)[1]


@pytest.fixture
def server(recipe: str, tmp_path: Path) -> Iterator[Process]:
    """Serves a copy of the recipe; a request waits 1.5 s for company."""
    own = tmp_path / "shop.yaml"
    own.write_text(Path(recipe).read_text("utf-8"), "utf-8")
    found = Process(str(own), "--max-wait", "1.5")
    yield found
    found.process.kill()
    found.process.wait()


@pytest.mark.slow
def test_a_server_s_life(server: Process, tmp_path: Path) -> None:
    """One process for all of it: to start one takes seconds."""
    assert re.search(r"ready in \d+\.\d s", server.said)
    reloads_what_the_recipe_says_by_then(server, tmp_path / "shop.yaml")
    finishes_what_it_began(server)


def reloads_what_the_recipe_says_by_then(server: Process, recipe: Path) -> None:
    before = server.client.get("/v1/models").json()["data"][0]
    recipe.write_text(recipe.read_text("utf-8").replace("epochs: 8", "epochs: 4"), "utf-8")
    missing = server.client.post("/admin/reload")
    assert missing.status_code == 409
    assert "is not there yet; run: genrec" in missing.json()["error"]["message"]
    assert server.client.get("/v1/models").json()["data"][0] == before
    Pipeline.load(recipe).run("fuse")
    assert server.client.post("/admin/reload").json()["changed"] is True
    assert server.client.post("/admin/reload").json()["changed"] is False
    after = server.client.get("/v1/models").json()["data"][0]
    assert after["version"] != before["version"]


def finishes_what_it_began(server: Process) -> None:
    statuses: list[int] = []

    def ask() -> None:
        body = {"history": ["p0001"], "k": 3}
        statuses.append(server.client.post("/v1/recommendations", json=body).status_code)

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(0.5)
    log = server.end(signal.SIGTERM)
    asking.join(10)
    assert statuses == [200]
    assert server.process.returncode == 0
    assert '"route": "/v1/recommendations", "status": 200' in log
    assert "Traceback" not in log
    assert all(line.startswith("{") for line in log.splitlines() if "genrec.serve" in line)
    with pytest.raises(httpx.TransportError):
        server.client.get("/healthz")


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.org"])
def test_others_are_let_in_by_a_key_only(host: str) -> None:
    with pytest.raises(ValueError, match=r"lets others in, and there is no API key"):
        allowed_hosts(host, None)
    assert allowed_hosts(host, KEY) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.2"])
def test_names_of_this_machine(host: str) -> None:
    names = allowed_hosts(host, None)
    assert names is not None
    assert {"localhost", "127.0.0.1", "[::1]"} <= names
    assert (f"[{host}]" if ":" in host else host) in names


def test_keys_are_read_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GENREC_API_KEY", raising=False)
    assert read_key(None) is None
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    assert read_key(file) == KEY
    monkeypatch.setenv("GENREC_API_KEY", "of the environment")
    with pytest.raises(ValueError, match=r"\$GENREC_API_KEY: expected a key"):
        read_key(None)
    file.write_text(" \n")
    with pytest.raises(ValueError, match="expected a key"):
        read_key(file)
    with pytest.raises(ValueError, match="shorter than 8"):
        Settings(key="short")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--host", "0.0.0.0"], "there is no API key"),
        (["--max-queue", "0"], "max_queue is 0"),
        (["--engine-option", "dtype"], "expected KEY=VALUE"),
        (["--engine-option", "colour=red"], "--engine-option: colour: Extra inputs"),
        (
            ["--engine", "vllm-serve", "--engine-option", "base_url=http://127.0.0.1:9/v1"],
            "http://127.0.0.1:9/v1: cannot be reached",
        ),
        (["--engine", "vllm-serve", "--engine-option", "dtype=float16"], "dtype: Extra inputs"),
        (["runtime.store=/nonexistent"], "run: genrec prepare"),
    ],
)
def test_a_mistake_is_one_message(recipe: str, options: list[str], words: str) -> None:
    result = CliRunner().invoke(cli, ["serve", recipe, "--port", "0", *options])
    assert words in str(result.exception)
    assert result.output == ""


def test_a_taken_port_is_said_before_anything_is_loaded(recipe: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(cli, ["serve", recipe, "--port", port])
    assert f"cannot listen on 127.0.0.1:{port}" in str(result.exception)


def test_help_needs_no_torch() -> None:
    code = "import sys, genrec.cli; print(*{'torch', 'fastapi'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
    help_text = CliRunner().invoke(cli, ["serve", "--help"]).output
    for option in ("--host", "--engine", "--key-file", "--max-queue", "--rate", "--log-text"):
        assert option in help_text
