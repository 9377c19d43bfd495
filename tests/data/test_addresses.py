"""What counts as public, and that each connection goes to the address that was checked."""

import httpcore
import httpx
import pytest

from genrec.data.addresses import PublicTransport, RefusedAddress, is_public

PUBLIC = ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
PRIVATE = [
    *("127.0.0.1", "127.255.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
    *("100.64.0.1", "0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255", "192.0.2.1", "240.0.0.1"),
    *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1"),
    *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "2002:7f00:1::"),
    *("64:ff9b::7f00:1", "64:ff9b:1::7f00:1"),
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", PRIVATE)
def test_not_public(address: str) -> None:
    assert not is_public(address)


HOSTS = [
    *("127.0.0.1", "10.0.0.1", "169.254.169.254", "[::1]", "[::ffff:127.0.0.1]", "localhost"),
    *("2130706433", "0x7f000001", "0x7f.1", "127.1", "0", "[::]", "[::ffff:a00:1]"),
]


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_urls_to_private_addresses_never_connect(
    host: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(httpcore.SyncBackend, "connect_tcp", never)
    with (
        httpx.Client(transport=PublicTransport(), trust_env=False) as client,
        pytest.raises(RefusedAddress, match="is no public address"),
    ):
        client.get(f"{scheme}://{host}/a.png")


def test_octal_hosts_are_refused_one_way_or_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httpcore.SyncBackend, "connect_tcp", never)
    with httpx.Client(transport=PublicTransport(), trust_env=False) as client:
        for host in ("0177.0.0.1", "017700000001"):
            with pytest.raises((RefusedAddress, httpx.InvalidURL)):
                client.get(f"http://{host}/")


def never(*_: object, **__: object) -> None:
    raise AssertionError("a connection was opened")


def test_one_private_address_among_public_ones_is_enough() -> None:
    transport = PublicTransport(resolve=lambda host, port: ["8.8.8.8", "10.0.0.1"])
    with (
        httpx.Client(transport=transport, trust_env=False) as client,
        pytest.raises(RefusedAddress, match=r"shop\.example is 10\.0\.0\.1"),
    ):
        client.get("http://shop.example/")


def test_the_checked_address_is_connected_to_not_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: a second resolution would give a private address; there is none."""
    answers = iter([["93.184.216.34"], ["127.0.0.1"], ["127.0.0.1"]])
    connected: list[str] = []

    def connect(self: object, host: str, *_: object, **__: object) -> None:
        connected.append(host)
        raise httpcore.ConnectError("no network in tests")

    monkeypatch.setattr(httpcore.SyncBackend, "connect_tcp", connect)
    transport = PublicTransport(resolve=lambda host, port: next(answers))
    with httpx.Client(transport=transport, trust_env=False) as client:
        with pytest.raises(httpcore.ConnectError):
            client.get("http://rebind.example/")
        with pytest.raises(RefusedAddress):
            client.get("http://rebind.example/")
    assert connected == ["93.184.216.34"]


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.org/a", "gopher://x/"])
def test_other_schemes(url: str) -> None:
    with (
        httpx.Client(transport=PublicTransport(), trust_env=False) as client,
        pytest.raises(RefusedAddress, match="expected http or https"),
    ):
        client.get(url)
