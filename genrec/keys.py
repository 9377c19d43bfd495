"""Keys of other services: a recipe or an option names the environment variable, never the key."""

import os

# What the official client is told where an endpoint needs no key; it takes no empty one.
_NONE = "none"


def api_key(variable: str | None, *, whose: str) -> str:
    """Returns an endpoint's key.

    Args:
        variable: the environment variable that holds it; None where the endpoint needs none.
        whose: names what asks, in the message.

    Raises:
        ValueError: the variable is not set.
    """
    if variable is None:
        return _NONE
    if not (key := os.environ.get(variable)):
        raise ValueError(
            f"{whose}: the environment variable {variable} is not set; export the key in it, or name "
            "no variable (null) for an endpoint that needs no key"
        )
    return key
