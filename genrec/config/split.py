"""`prepare.split`: how interactions are divided; `hash_users`."""

from __future__ import annotations

import hashlib
import hmac
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, SecretStr, model_validator

from genrec.config.base import Section


class LastOut(Section):
    """Leave-last-out: each user's last item is the test target, the last but one validates."""

    kind: Literal["last_out"] = "last_out"


class RandomOut(Section):
    """Random leave-one-out: of each user one item tests and one validates; for logs without times."""

    kind: Literal["random"] = "random"
    seed: int = 0


class Temporal(Section):
    """One cut in time for everybody; a user's next item after it is the target."""

    kind: Literal["temporal"] = "temporal"
    valid: float = Field(0.1, gt=0, lt=1, description="share of the interactions")
    test: float = Field(0.1, gt=0, lt=1, description="share of the interactions, the newest")
    target: Literal["first", "last"] = "first"

    @model_validator(mode="after")
    def _something_to_learn(self) -> Temporal:
        _leaves_some(self.valid, self.test)
        return self


class ColdItems(Section):
    """Leave-last-out, the newest items held out of training; their metrics stand apart."""

    kind: Literal["cold_items"] = "cold_items"
    share: float = Field(0.05, gt=0, lt=1, description="share of the items")


class ColdUsers(Section):
    """Users drawn at random of whom nothing is learned; their last item is the target."""

    kind: Literal["cold_users"] = "cold_users"
    valid: float = Field(0.1, gt=0, lt=1, description="share of the users")
    test: float = Field(0.1, gt=0, lt=1, description="share of the users")
    seed: int = 0

    @model_validator(mode="after")
    def _something_to_learn(self) -> ColdUsers:
        _leaves_some(self.valid, self.test)
        return self


class Given(Section):
    """The split that an `exchange` source brings; nothing is filtered, nothing taken out."""

    kind: Literal["given"] = "given"


def _leaves_some(valid: float, test: float) -> None:
    if valid + test >= 1:
        raise ValueError(
            f"valid={valid} and test={test} leave nothing to learn from; expected less than 1 together"
        )


Split = Annotated[
    LastOut | RandomOut | Temporal | ColdItems | ColdUsers | Given, Field(discriminator="kind")
]


def _masked(salt: SecretStr) -> str:
    """Returns what stands for a salt in fingerprints and manifests.

    Another salt must be another artifact, and nobody may read it there. What can be said of a salt
    that is guessed by trying can also be said from one hashed user id, so this tells no more.
    """
    key = salt.get_secret_value().encode()
    return "hmac-sha256:" + hmac.new(key, b"genrec: which salt", hashlib.sha256).hexdigest()[:16]


def _text(value: object) -> object:
    return value if isinstance(value, SecretStr) else str(value)


class HashUsers(Section):
    """Every user id becomes its HMAC-SHA256 under a salt, which appears nowhere."""

    # Text first: the message for another type would show what was found.
    salt: Annotated[SecretStr, BeforeValidator(_text), PlainSerializer(_masked)]

    @model_validator(mode="after")
    def _long_enough(self) -> HashUsers:
        # Here, not by a bound of the field: its message would show what was found.
        if len(self.salt.get_secret_value()) < 16:
            raise ValueError(
                "salt: fewer than 16 characters, which can be guessed; make one with "
                '`python -c "import secrets; print(secrets.token_hex(16))"` and give it as ${SALT}'
            )
        return self
