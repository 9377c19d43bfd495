"""An HTTP transport for public addresses only: no URL of a table reaches an internal server.

A host is resolved once, every address of it is checked, and the connection goes to the very address
that was checked. So a name that resolves differently a moment later (DNS rebinding), a number
written oddly (0x7f.1) and each hop of a redirect meet the same check.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import httpcore
import httpx

Resolve = Callable[[str, int], list[str]]
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class RefusedAddress(ValueError):
    """A URL leads to an address, or by a scheme, that we do not fetch from."""


def is_public(address: str) -> bool:
    """Says whether an address is on the public internet.

    Args:
        address: IPv4 or IPv6, perhaps with a scope (`fe80::1%eth0`). An IPv4 address wrapped in an
            IPv6 one (mapped, 6to4, NAT64, Teredo) counts as what it wraps.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        wrapped = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
        if ip in _NAT64:
            wrapped.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
        if inner := [w for w in wrapped if w is not None]:
            return all(is_public(str(w)) for w in inner)
    if ip.is_multicast or ip.is_reserved or ip.is_unspecified:
        return False
    return ip.is_global


def resolve(host: str, port: int) -> list[str]:
    """Returns the addresses of a host, in the system's order.

    Raises:
        httpcore.ConnectError: there are none.
    """
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpcore.ConnectError(f"{host}: {error}") from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in addresses))


class _Checked(httpcore.NetworkBackend):
    """Opens connections to checked addresses."""

    def __init__(self, *, allow_private: bool, resolve: Resolve) -> None:
        self._plain, self._resolve = httpcore.SyncBackend(), resolve
        self._allow_private = allow_private

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        addresses = self._resolve(host, port)
        refused = [a for a in addresses if not (self._allow_private or is_public(a))]
        if refused:
            raise RefusedAddress(f"{host} is {refused[0]}, which is no public address")
        problem: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in addresses:
            try:
                return self._plain.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                problem = error
        raise problem


class _Stream(httpx.SyncByteStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        yield from self._stream

    def close(self) -> None:
        self._stream.close()


class PublicTransport(httpx.BaseTransport):
    """Sends requests of an `httpx.Client` to checked addresses; errors are httpcore's.

    Args:
        allow_private: check nothing, for an image server within one's own network.
        resolve: from host and port to addresses; another one for tests.
        connections: how many at once.
        tls: certificates to trust; httpx's own where None.
    """

    def __init__(
        self,
        *,
        allow_private: bool = False,
        resolve: Resolve = resolve,
        connections: int = 8,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._pool = httpcore.ConnectionPool(
            ssl_context=tls or httpx.create_ssl_context(),
            max_connections=connections,
            network_backend=_Checked(allow_private=allow_private, resolve=resolve),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Sends one request; each hop of a redirect comes here again.

        Raises:
            RefusedAddress: no http or https, or not a public address.
        """
        if request.url.scheme not in ("http", "https"):
            raise RefusedAddress(f"{request.url.scheme}: expected http or https")
        assert isinstance(request.stream, httpx.SyncByteStream), "the client is synchronous"
        url = httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        )
        response = self._pool.handle_request(
            httpcore.Request(
                request.method,
                url,
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        return httpx.Response(
            response.status,
            headers=response.headers,
            stream=_Stream(response.stream),
            extensions=response.extensions,
        )

    def close(self) -> None:
        """Closes the connections."""
        self._pool.close()
