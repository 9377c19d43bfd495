"""Captions: what the model is shown, what counts as a caption, and the table."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from genrec import prompts
from genrec.engines import Reply, Request
from genrec.enrich.annotate import BadReply
from genrec.enrich.caption import caption_items, caption_request, read_caption
from genrec.schema import CAPTIONS, check


class Scripted:
    """Answers by the image's name."""

    identity = "scripted"

    def __init__(self, **answers: str) -> None:
        self.answers = answers
        self.asked: list[Request] = []

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply]]:
        for row, request in enumerate(requests):
            self.asked.append(request)
            yield row, Reply(self.answers[request.images[0].stem], "stop")

    def close(self) -> None:
        pass


def test_the_model_is_shown_the_image_and_no_title() -> None:
    request = caption_request(Path("a.png"), max_tokens=7, seed=3, longest_side=99)
    system, user = request.messages
    words = prompts.load_chat("caption/product", placeholders=())
    assert (system.role, system.text) == ("system", words.system)
    assert (user.role, user.text, user.image) == ("user", words.user, Path("a.png"))
    assert (request.max_tokens, request.seed, request.longest_side) == (7, 3, 99)
    assert request.schema is None


def test_a_caption_is_one_line() -> None:
    assert read_caption("  A red\n\n striped bag. ") == "A red striped bag."


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "no words"),
        (" \n", "no words"),
        ("...", "no words"),
        ("a " * 400, "too long"),
        ("a red \x00 bag", "control characters"),
        ("a \u202e bag", "control characters"),
    ],
)
def test_what_is_no_caption(text: str, kind: str) -> None:
    with pytest.raises(BadReply, match=f"^{kind}: "):
        read_caption(text)


def test_every_item_has_a_row(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(name.encode())
    engine = Scripted(a="A red bag.", b="?!")
    paths = [tmp_path / "a.png", None, tmp_path / "b.png", tmp_path / "gone.png"]
    table = check(caption_items(paths, engine, cache={}, retries=1), CAPTIONS, "test")
    assert table["item"].to_list() == [0, 1, 2, 3]
    assert table["caption"].to_list() == ["A red bag.", None, None, None]
    assert table["error"].to_list() == [
        None,
        None,
        "no words: '?!'",
        "bad image: gone.png: no such file",
    ]
    assert table["attempts"].to_list() == [1, 0, 2, 0]
    assert len(engine.asked) == 3


def test_another_template_asks_anew(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"a")
    cache: dict[str, bytes] = {}
    engine = Scripted(a="A bag.")
    caption_items([tmp_path / "a.png"], engine, cache=cache)
    caption_items([tmp_path / "a.png"], engine, cache=cache)
    assert len(engine.asked) == 1
    own = prompts.ChatTemplate(description="mine", system="s", user="u")
    caption_items([tmp_path / "a.png"], engine, cache=cache, template=own)
    assert engine.asked[1].messages[1].text == "u"
