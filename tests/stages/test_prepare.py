"""The prepare stage with a source that fetches: only the items that are left, each once."""

import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from PIL import Image

from genrec import Pipeline
from genrec.recipe import content_paths, load


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Counter[str]]]:
    """A server of one image, and what was asked of it."""
    Image.new("RGB", (8, 8), "navy").save(tmp_path / "one.png")
    body, asked = (tmp_path / "one.png").read_bytes(), Counter[str]()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked[self.path] += 1
            self.send_response(404 if "gone" in self.path else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()


@pytest.fixture
def path(tmp_path: Path, served: tuple[str, Counter[str]]) -> Path:
    """Three users of items 0 to 3; item 4 has no interactions and item 3's image is gone."""
    base, _ = served
    names = ["0.png", "1.png", "2.png", "gone.png", "4.png"]
    rows = [f"{n},Thing {n},{base}/{name}" for n, name in enumerate(names)]
    (tmp_path / "items.csv").write_text("\n".join(["item_id,title,image", *rows]))
    clicks = [f"{u},{i},{10**9 + i}" for u in range(3) for i in range(4)]
    (tmp_path / "log.csv").write_text("\n".join(["user_id,item_id,timestamp", *clicks]))
    source = {
        "kind": "files",
        "items": {"path": str(tmp_path / "items.csv")},
        "interactions": {"path": str(tmp_path / "log.csv")},
        "images": "download",
    }
    recipe = tmp_path / "shop.yaml"
    runtime = {"store": str(tmp_path / "store"), "downloads": {"allow_private": True}}
    prepare = {"source": source, "core": 2}
    recipe.write_text(yaml.safe_dump({"prepare": prepare, "runtime": runtime}))
    return recipe


def test_images_of_the_items_that_are_left_are_fetched_once(
    path: Path, served: tuple[str, Counter[str]]
) -> None:
    base, asked = served
    pipeline = Pipeline.load(path)
    pipeline.run(to="prepare")
    assert asked == {f"/{name}": 1 for name in ("0.png", "1.png", "2.png", "gone.png")}
    artifact = pipeline["prepare"]
    images = artifact.load()["image"].to_list()
    assert images[3] is None
    assert all(Path(image).is_file() for image in images[:3])
    stats = artifact.load("stats.json")
    assert stats["items_with_image"] == 3
    assert stats["images"] == {"image_cached": 0, "image_fetched": 3, "image_http_404": 1}
    failures = pl.read_parquet(artifact.path / "image_failures.parquet")
    assert failures.rows() == [("3", f"{base}/gone.png", "http_404")]

    Pipeline.load(path).run(to="prepare", force="prepare")
    assert asked["/0.png"] == 1
    assert asked["/gone.png"] == 2  # it may be back


def test_private_addresses_are_refused_by_default(
    path: Path, served: tuple[str, Counter[str]]
) -> None:
    pipeline = Pipeline.load(path, "runtime.downloads.allow_private=false")
    with pytest.raises(ValueError, match=r"not one of 4 images .*refused_address.*allow_private"):
        pipeline.run(to="prepare")
    assert not served[1]


def test_nothing_is_fetched_unasked(path: Path, served: tuple[str, Counter[str]]) -> None:
    pipeline = Pipeline.load(path, "prepare.source.images=null")
    pipeline.run(to="prepare")
    assert not served[1]
    items = pipeline["prepare"].load()
    assert items["image"].null_count() == 4
    assert items["image_url"].null_count() == 0


def test_download_is_a_word_and_no_path(path: Path) -> None:
    names = dict(content_paths(load(path).prepare.source))
    assert set(names) == {"items.path", "interactions.path"}
    loaded = load(path, ["prepare.source.images=./download"])
    assert dict(content_paths(loaded.prepare.source))["images"] == "./download"
