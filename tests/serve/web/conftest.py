"""The small shop behind the application, asked in-process or over a port; and a real browser."""

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi.testclient import TestClient

from genrec.serve.app import create_app
from genrec.serve.live import Live
from genrec.serve.settings import Settings
from genrec.serve.shop import Shop


@pytest.fixture(scope="session")
def opened() -> Callable[..., TestClient]:
    """Makes a client of a shop with settings."""

    def client(shop: Shop, **settings: Any) -> TestClient:
        limits = Settings(**settings)
        return TestClient(create_app(Live(lambda: shop, limits), limits), follow_redirects=False)

    return client


@pytest.fixture(scope="session")
def asked(shop: Shop, opened: Callable[..., TestClient]) -> Iterator[TestClient]:
    with opened(shop) as found:
        yield found


@pytest.fixture(scope="session")
def address(shop: Shop) -> Iterator[str]:
    limits = Settings()
    config = uvicorn.Config(create_app(Live(lambda: shop, limits), limits), port=0, log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    begun = time.monotonic()
    while not server.started:
        assert thread.is_alive()
        assert time.monotonic() - begun < 60
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")  # while Playwright runs, no other test could run an event loop
def chromium() -> Iterator[Any]:
    """Debian's chromium (or another that is installed), driven by Playwright."""
    library = pytest.importorskip("playwright.sync_api", reason="playwright is in the test extra")
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"no browser: none of {names}; apt-get install chromium")
    with library.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pictures are left: $GENREC_TEST_ARTIFACTS, else pytest's folder of this run."""
    kept = os.environ.get("GENREC_TEST_ARTIFACTS")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("artifacts")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
