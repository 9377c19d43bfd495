"""`genrec serve` and `genrec chat`. Options are read here; what they need is imported when they run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genrec.extras import require
from genrec.serve.settings import Settings

if TYPE_CHECKING:
    from genrec.bundle import Bundle
    from genrec.serve.chat.wording import Wording

KEY = "GENREC_API_KEY"
_RECIPE = click.argument("recipe")
_OVERRIDES = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
_ENGINE = click.option(
    "--engine",
    type=click.Choice(["hf", "vllm", "vllm-serve"]),
    help="What runs the LLM; the recipe's if not given.",
)
_OPTION = click.option(
    "--engine-option", "options", multiple=True, metavar="KEY=VALUE", help="Of the engine; YAML."
)


def _worded(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options that name a model which words the answers of the chat."""
    for option in (
        click.option("--words-key", metavar="VARIABLE", help="Holds that endpoint's key."),
        click.option("--words-model", metavar="NAME", help="The model behind it."),
        click.option(
            "--words-url",
            metavar="URL",
            help="An OpenAI-compatible endpoint that words the chat; a template does without.",
        ),
    ):
        command = option(command)
    return command


def _limit(name: str, text: str) -> Callable[[Any], Any]:
    """An option of `Settings`, with its default."""
    flag = f"--{name.replace('_', '-')}"
    return click.option(flag, default=getattr(Settings(), name), show_default=True, help=text)


@click.command()
@_RECIPE
@_OVERRIDES
@click.option("--host", default="127.0.0.1", show_default=True, help="Others than this need a key.")
@click.option("--port", default=8000, show_default=True, help="0 takes a free one.")
@_ENGINE
@_OPTION
@click.option("--key-file", type=Path, help=f"Holds the API key; else ${KEY}, if it is set.")
@_limit("max_batch", "Requests computed together.")
@_limit("max_wait", "Seconds without another request after which a batch begins.")
@_limit("max_queue", "Requests that may wait; the next is answered 429.")
@_limit("timeout", "Seconds until a request is answered 504.")
@_limit("max_body", "Bytes of a request.")
@_limit("rate", "Requests per second and client address; 0 for no limit.")
@_limit("burst", "Requests that one address may send at once.")
@click.option("--trust-proxy", metavar="ADDRESS", help="Whose X-Forwarded-For names the client.")
@click.option("--log-text", is_flag=True, help="Logs may hold chat text and user ids.")
@_worded
def serve(
    recipe: str,
    overrides: tuple[str, ...],
    host: str,
    port: int,
    engine: str | None,
    options: tuple[str, ...],
    key_file: Path | None,
    trust_proxy: str | None,
    words_url: str | None,
    words_model: str | None,
    words_key: str | None,
    **limits: Any,
) -> None:
    """Serve a finished recipe: REST, chat in OpenAI's protocol, and a page for people."""
    require("serve", "genrec serve")
    from genrec.serve import server

    key = read_key(key_file)
    settings = Settings(key=key, hosts=server.allowed_hosts(host, key), **limits)
    server.run(
        opener(recipe, overrides, engine, options),
        settings,
        host=host,
        port=port,
        trust_proxy=trust_proxy,
        wording=wording(words_url, words_model, words_key),
    )


@click.command()
@_RECIPE
@_OVERRIDES
@click.option("--user", metavar="ID", help="Whose history to begin with.")
@click.option("--history", multiple=True, metavar="ID", help="An item to begin with; repeatable.")
@click.option("-k", default=5, show_default=True, help="Items in a list.")
@_worded
def chat(
    recipe: str,
    overrides: tuple[str, ...],
    user: str | None,
    history: tuple[str, ...],
    k: int,
    words_url: str | None,
    words_model: str | None,
    words_key: str | None,
) -> None:
    """Talk with a finished recipe in the terminal."""
    require("serve", "genrec chat")
    from genrec.pipeline import Pipeline
    from genrec.serve.chat import terminal

    if user is not None and history:
        raise ValueError("give either --user or --history, not both")
    terminal.run(
        Pipeline.load(recipe, *overrides),
        user=user,
        history=history or None,
        k=k,
        wording=wording(words_url, words_model, words_key),
    )


def wording(url: str | None, model: str | None, key: str | None) -> Wording | None:
    """Returns what words the chat's answers; None where no endpoint is named.

    Raises:
        ValueError: half of the two that are needed, or the key's variable is not set.
    """
    if url is None and model is None and key is None:
        return None
    if url is None or model is None:
        raise ValueError("--words-url and --words-model belong together; give both, or neither")
    from genrec.serve.chat.wording import by_endpoint

    return by_endpoint(url, model, key=key)


def opener(
    recipe: str, overrides: tuple[str, ...], engine: str | None, options: tuple[str, ...]
) -> Callable[[], Bundle]:
    """Returns what reads the recipe, each time anew, and opens its artifacts."""
    import yaml

    from genrec.pipeline import Pipeline

    engine_options = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals:
            raise ValueError(f"--engine-option {option}: expected KEY=VALUE")
        engine_options[name] = yaml.safe_load(value)

    def opened() -> Bundle:
        return (
            Pipeline.load(recipe, *overrides).bundle(engine=engine, options=engine_options).open()
        )

    return opened


def read_key(file: Path | None) -> str | None:
    """Returns the API key of a file, or else of the environment; None if neither has one.

    Raises:
        ValueError: it is empty or has spaces.
        FileNotFoundError: there is no such file.
    """
    key = file.read_text("utf-8").strip() if file is not None else os.environ.get(KEY)
    if key is not None and (not key or key.split() != [key] or not key.isascii()):
        where = file or f"${KEY}"
        raise ValueError(f"{where}: expected a key of ASCII letters without spaces, 8 or more")
    return key
