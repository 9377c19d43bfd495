"""What bounds a server: limits on each request and on all of them together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The limits of `genrec serve`, its key, and what it logs.

    Attributes:
        key: callers must send it as `Authorization: Bearer KEY`; None lets everyone in.
        max_batch: requests computed together, at most.
        max_wait: seconds without another request after which a batch begins; 6 times that at most.
        max_queue: requests that may wait; the next one is answered 429.
        timeout: seconds until a request is answered 504.
        max_body: bytes of a request.
        rate: requests per second and caller, smoothed over `burst`; 0 for no limit.
        burst: requests that a caller may send at once.
        hosts: names by which the server may be called (the Host header); None for any. Without a key
            only names of this machine: else a web page could have its own name point here, and read.
        log_text: logs may hold chat text and user ids.
    """

    key: str | None = None
    max_batch: int = 32
    max_wait: float = 0.01
    max_queue: int = 64
    timeout: float = 30.0
    max_body: int = 256 * 1024
    rate: float = 0.0
    burst: int = 50
    hosts: frozenset[str] | None = None
    log_text: bool = False

    def __post_init__(self) -> None:
        for name in ("max_batch", "max_queue", "timeout", "max_body", "burst"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected more than 0")
        if self.max_wait < 0 or self.rate < 0:
            raise ValueError(
                f"max_wait={self.max_wait}, rate={self.rate}: expected 0 or more of both"
            )
        if self.key is not None and len(self.key) < 8:
            raise ValueError("the API key is shorter than 8 characters; take a longer one")
