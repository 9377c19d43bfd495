"""The page's proof that its visitor knew the key: an expiry time, signed with the key itself.

Nothing is stored: a new key, or the end of the time, makes every cookie worthless.
"""

from __future__ import annotations

import hmac
import time

NAME = "genrec_key"
LIFETIME = 12 * 3600  # seconds


def issue(key: str, *, now: float | None = None) -> str:
    """Returns the cookie's value for somebody who gave the key.

    Args:
        key: the server's.
        now: seconds since 1970; the clock's by default.
    """
    expires = str(int(time.time() if now is None else now) + LIFETIME)
    return f"{expires}.{_sign(key, expires)}"


def valid(key: str, value: str, *, now: float | None = None) -> bool:
    """Says whether `issue` made this value with this key, less than `LIFETIME` ago.

    Takes the same time wherever a wrong value differs from the right one.
    """
    expires, _, signature = value.partition(".")
    if not hmac.compare_digest(signature.encode(), _sign(key, expires).encode()):
        return False
    return int(expires) > (time.time() if now is None else now)


def _sign(key: str, expires: str) -> str:
    return hmac.new(key.encode(), f"{NAME} until {expires}".encode(), "sha256").hexdigest()
