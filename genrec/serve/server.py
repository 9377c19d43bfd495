"""One server process: checks before it starts, uvicorn, and an orderly end."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import uvicorn

from genrec.bundle import Bundle
from genrec.serve.app import create_app
from genrec.serve.chat.wording import Wording
from genrec.serve.models import ModelRegistry
from genrec.serve.operate import JsonLines, log
from genrec.serve.settings import Settings

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
_CONNECTIONS = 2048  # open at once; more are answered 503 by uvicorn


def allowed_hosts(host: str, key: str | None) -> frozenset[str] | None:
    """Returns the names by which a server may be called; None for any.

    Raises:
        ValueError: others than this machine could reach a server that has no key.
    """
    if key is not None:
        return None
    if not _is_loopback(host):
        raise ValueError(
            f"--host {host} lets others in, and there is no API key; set GENREC_API_KEY or "
            "--key-file, or listen on 127.0.0.1"
        )
    return _LOOPBACK | {f"[{host}]" if ":" in host else host.lower()}


def run(
    open_bundle: Callable[[], Bundle],
    settings: Settings,
    *,
    host: str,
    port: int,
    trust_proxy: str | None = None,
    wording: Wording | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT, then finishes what it has begun.

    Args:
        open_bundle: opens the artifacts, at the start and on every reload.
        settings: limits.
        host: to listen on.
        port: to listen on; 0 takes a free one.
        trust_proxy: addresses whose X-Forwarded-For is believed; None believes nobody.
        wording: a model that introduces the chat's items; None leaves that to a template.

    Raises:
        OSError: the address cannot be had.
        MissingArtifact: something was not built; names the command.
    """
    _log_json(settings)
    begun = time.monotonic()
    with _bound(host, port) as listener:
        registry = ModelRegistry(open_bundle, settings)
        config = uvicorn.Config(
            create_app(registry, settings, wording=wording),
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=trust_proxy is not None,
            forwarded_allow_ips=trust_proxy,
            limit_concurrency=_CONNECTIONS,
            timeout_graceful_shutdown=round(settings.timeout) + 5,
        )
        asyncio.run(_serve(_Server(config, begun), registry, listener))


class _Server(uvicorn.Server):
    """Says where it listens, once it does."""

    def __init__(self, config: uvicorn.Config, begun: float) -> None:
        super().__init__(config)
        self._begun = begun

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        (listener,) = sockets or []
        name, port = listener.getsockname()[:2]
        name = f"[{name}]" if ":" in name else name
        seconds = time.monotonic() - self._begun
        print(f"genrec listens on http://{name}:{port} (ready in {seconds:.1f} s)", flush=True)


async def _serve(server: uvicorn.Server, registry: ModelRegistry, listener: socket.socket) -> None:
    await (
        registry.start()
    )  # before the server: what is missing is then one message, not a traceback
    # uvicorn ends in order and then raises its signal once more, which must not kill this process.
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, lambda *_: None)
    await server.serve(sockets=[listener])


def _bound(host: str, port: int) -> socket.socket:
    """A socket that does not listen yet: until the artifacts are loaded, clients are refused."""
    kind, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0:5]
    listener = socket.socket(kind, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return listener


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _log_json(settings: Settings) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(text=settings.log_text))
    for name in (log.name, "genrec.pipeline", "uvicorn.error"):
        logger: Any = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
