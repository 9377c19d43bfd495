"""A small finished recipe with images, an LLM, three retrievers and a fusion."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient

from genrec import Pipeline
from genrec.bundle import Bundle
from genrec.serve.app import create_app
from genrec.serve.models import ModelRegistry
from genrec.serve.settings import Settings

RECIPE = """
prepare: {source: {kind: demo, items: 60, users: 120, image_size: 32}, core: 2}
embed: {image: {kind: descriptors, components: 8}, behaviour: {dim: 8}}
quantize: {kind: rkmeans, levels: 2, codes: 8}
compose:
  tasks: {sid_to_title: {rate: 0}, history_to_title: {rate: 0}, titles_to_title: {rate: 0}}
train: {model: {kind: scratch, hidden: 16, layers: 1, heads: 2, vocab: 400}, epochs: 1}
retrieve:
- {kind: popular}
- {kind: cooccurrence}
- {kind: magnitude, epochs: 8, dim: 32}
recommend: {num_beams: 60}
probe: {enabled: false}
evaluate: {samples: 100}
"""


@pytest.fixture(scope="session")
def pipeline(shared_folder: Callable[[str], AbstractContextManager[Path]]) -> Pipeline:
    with shared_folder("shop") as folder:
        path = folder / "shop.yaml"
        if not path.exists():
            path.write_text(RECIPE + f"runtime: {{store: {folder / 'store'}, threads: 1}}\n")
        finished = Pipeline.load(path)
        finished.run("fuse")  # does nothing where another worker has run it
    return finished


@pytest.fixture(scope="session")
def bundle(pipeline: Pipeline) -> Bundle:
    return pipeline.bundle().open()


@pytest.fixture(scope="session")
def client(bundle: Bundle) -> Iterator[TestClient]:
    """A started application without a key."""
    settings = Settings()
    with TestClient(create_app(ModelRegistry(lambda: bundle, settings), settings)) as client:
        yield client


@contextmanager
def _listening(app: FastAPI) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    begun = time.monotonic()
    while not server.started:
        assert thread.is_alive()
        assert time.monotonic() - begun < 60
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(20)


@pytest.fixture(scope="session")
def listening() -> Callable[[FastAPI], AbstractContextManager[str]]:
    """Puts an application behind a port, for real sockets and real disconnects; yields its URL."""
    return _listening
