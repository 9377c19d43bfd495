"""The small shop behind the application, asked in-process or over a port; and a real browser."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from genrec.bundle import Bundle
from genrec.serve.app import create_app
from genrec.serve.models import ModelRegistry
from genrec.serve.settings import Settings

Listening = Callable[[FastAPI], AbstractContextManager[str]]


@pytest.fixture(scope="session")
def opened() -> Callable[..., TestClient]:
    """Makes a client of a shop with settings."""

    def client(bundle: Bundle, **settings: Any) -> TestClient:
        limits = Settings(**settings)
        return TestClient(
            create_app(ModelRegistry(lambda: bundle, limits), limits), follow_redirects=False
        )

    return client


@pytest.fixture(scope="session")
def asked(bundle: Bundle, opened: Callable[..., TestClient]) -> Iterator[TestClient]:
    with opened(bundle) as found:
        yield found


@pytest.fixture(scope="session")
def address(bundle: Bundle, listening: Listening) -> Iterator[str]:
    limits = Settings()
    with listening(create_app(ModelRegistry(lambda: bundle, limits), limits)) as found:
        yield found


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
    """Where images are left: $GENREC_TEST_ARTIFACTS, else pytest's folder of this run."""
    kept = os.environ.get("GENREC_TEST_ARTIFACTS")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("artifacts")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
