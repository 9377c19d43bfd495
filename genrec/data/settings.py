"""Where the data comes from (`prepare.source`), how it is split, and how images are fetched."""

from __future__ import annotations

import hashlib
import hmac
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, SecretStr, model_validator

from genrec.settings import PartSettings, Path_, Section


class SourceSettings(PartSettings):
    """What every source has. `implementation` is a function: see `genrec.data.source.ReadSource`."""

    @property
    def brings_sids(self) -> bool:
        """Whether published SIDs come with the data."""
        return False

    @property
    def brings_split(self) -> bool:
        """Whether a split comes with the data, which `prepare.split.kind=given` takes."""
        return False

    @property
    def image_limits(self) -> dict[str, int] | None:
        """The limits on images, `max_bytes` and `max_pixels`, if images are to be fetched by URL."""
        return None

    def options(self) -> dict[str, Any]:
        """Returns all but `kind`, by name, as the source's function takes it."""
        return {name: value for name, value in self if name != "kind"}


class InterchangeSettings(SourceSettings):
    """The field's JSON files: `{user: [items]}`, `{item: {title, ...}}`, `{item: ["<a_1>", ...]}`."""

    kind: Literal["interchange"] = "interchange"
    implementation: ClassVar[str] = "genrec.data.formats.interchange:read"
    interactions: Path_
    items: Path_
    index: Path_ | None = None
    images: Path_ | None = None

    @property
    def brings_sids(self) -> bool:
        """Whether `index` is given."""
        return self.index is not None


class MovieLensSettings(SourceSettings):
    """MovieLens files (CSV, or the `.dat` of 1M and 10M) and a folder of posters named by movie id."""

    kind: Literal["movielens"] = "movielens"
    implementation: ClassVar[str] = "genrec.data.movielens:read"
    ratings: Path_
    movies: Path_
    images: Path_ | None = None
    min_rating: float = 0.0


class DemoSettings(SourceSettings):
    """A seeded made-up shop with rendered images and known ground truth."""

    kind: Literal["demo"] = "demo"
    implementation: ClassVar[str] = "genrec.demo.shop:read"
    items: int = Field(800, ge=20)
    users: int = Field(2000, ge=10)
    seed: int = 7
    image_size: int = Field(96, ge=32)


Unit = Literal["auto", "s", "ms", "us", "ns", "iso", "order"]
_UNIT = (
    "of the times; auto: dates, or epochs from 100,000,000 on, by their size; order: numbers without a "
    "unit, larger the later"
)
_SEPARATOR = 'of CSV and TSV, where it is neither a comma nor a tab; such as ";" or "::"'
_IMAGES = (
    "null: none; a folder; or `download`: fetch the URLs, once, into runtime.store, from public "
    "addresses only"
)


class ItemFile(Section):
    """The catalogue's file, and the owner's names for what we need; a path may be a glob."""

    path: Path_
    item: str = Field(
        "item_id",
        description='the column of ids; 12 and "12" are one id, all else is letter by letter',
    )
    title: str = Field("title", description="the column of titles")
    description: tuple[str, ...] | None = Field(
        None, description="columns joined to the description; null: `description`, if there is one"
    )
    image: str | None = Field(
        None, description="paths within `images`, or URLs; null: `image`, if there is one"
    )
    attributes: tuple[str, ...] | None = Field(
        None, description="further columns to keep; null: all"
    )
    numbers: tuple[str, ...] = Field(
        (), description="of those, numbers that a text file has as text: price, stock"
    )
    separator: str | None = Field(None, min_length=1, description=_SEPARATOR)


class LogFile(Section):
    """The interactions' file, and which of them count; a path may be a glob."""

    path: Path_
    user: str = Field("user_id", description="the column of user ids")
    item: str = Field("item_id", description="the column of item ids")
    timestamp: str | None = Field(
        "timestamp", description="the column of times; null: there are none"
    )
    unit: Unit = Field("auto", description=_UNIT)
    type: str | None = Field(None, description="the column that says view, cart, purchase, ...")
    weights: dict[str, float] = Field(
        {},
        description="by type: an interaction counts once those of its user and item so far, its own "
        "among them, reach the threshold. {view: 1, cart: 3} and 3: three views, or one cart",
    )
    threshold: float = Field(1.0, gt=0, description="what the weights have to add up to")
    rating: str | None = Field(None, description="the column of ratings")
    min_rating: float = Field(0.0, description="lower ratings are no interactions")
    separator: str | None = Field(None, min_length=1, description=_SEPARATOR)

    @model_validator(mode="after")
    def _together(self) -> LogFile:
        if bool(self.type) != bool(self.weights):
            raise ValueError(
                "type and weights go together: `type` names the column, `weights` what each kind in "
                "it is worth, such as {view: 1, purchase: 5}"
            )
        if self.min_rating and not self.rating:
            raise ValueError("min_rating needs `rating`, the column of ratings")
        return self


class _WithImages(SourceSettings):
    """What sources that can name images have in common."""

    images: Literal["download"] | Path_ | None = Field(None, description=_IMAGES)
    max_image_mb: float = Field(20.0, gt=0, description="largest image file, in 1e6 bytes")
    max_image_megapixels: float = Field(50.0, gt=0, description="largest image once decoded")
    max_unknown: float = Field(
        0.05,
        ge=0,
        le=1,
        description="share of interactions with items that the catalogue lacks: up to it they are "
        "dropped and counted, over it an error",
    )

    @property
    def image_limits(self) -> dict[str, int] | None:
        """The limits on images, if they are to be fetched by URL."""
        return self._limits() if self.images == "download" else None

    def options(self) -> dict[str, Any]:
        """Returns all but `kind`, with the limits in bytes and pixels."""
        own = super().options()
        own = {n: v for n, v in own.items() if n not in ("max_image_mb", "max_image_megapixels")}
        return own | self._limits()

    def _limits(self) -> dict[str, int]:
        megas = {"max_bytes": self.max_image_mb, "max_pixels": self.max_image_megapixels}
        return {name: round(mega * 1e6) for name, mega in megas.items()}


class FilesSettings(_WithImages):
    """Your own tables: parquet, CSV, TSV or JSON lines, plain, gzip or zstd; any column names."""

    kind: Literal["files"] = "files"
    implementation: ClassVar[str] = "genrec.data.files:read"
    items: ItemFile
    interactions: LogFile


class AmazonSettings(_WithImages):
    """Amazon Reviews 2023, 2018 or 2014: two files, or a category of the hub's 2023 dataset."""

    kind: Literal["amazon"] = "amazon"
    implementation: ClassVar[str] = "genrec.data.amazon:read"
    reviews: Path_ | None = Field(None, description="JSON lines of reviews, or CSV of ratings")
    meta: Path_ | None = Field(None, description="JSON lines of products")
    category: str | None = Field(None, description="such as All_Beauty, instead of two files")
    dataset: str = Field(
        "McAuley-Lab/Amazon-Reviews-2023",
        description="hub id, or a folder laid out like it",
    )
    revision: str = Field("main", description="of the hub dataset; a commit can be repeated")
    min_rating: float = Field(0.0, ge=0, le=5, description="lower ratings are no interactions")
    verified: bool = Field(False, description="verified purchases only")
    describe: tuple[Literal["description", "features"], ...] = Field(
        ("description", "features"), description="what the description is made of"
    )

    @model_validator(mode="after")
    def _one_way(self) -> AmazonSettings:
        pair = (self.reviews is not None, self.meta is not None)
        if (self.category is None) != all(pair) or (self.category is not None and any(pair)):
            raise ValueError(
                "name either `category` (of the hub's dataset), or the two files `reviews` and `meta`"
            )
        return self


class RecBoleSettings(_WithImages):
    """RecBole's atomic files: `.inter` and `.item`, tab-separated, with typed headers."""

    kind: Literal["recbole"] = "recbole"
    implementation: ClassVar[str] = "genrec.data.recbole:read"
    interactions: Path_
    items: Path_
    user: str = Field("user_id", description="the field of user ids")
    item: str = Field("item_id", description="the field of item ids, in both files")
    timestamp: str | None = Field(
        "timestamp", description="the field of times; null: there are none"
    )
    unit: Unit = Field("auto", description=_UNIT)
    title: str | None = Field(
        None, description="the field of titles; null: `title`, or the one that ends in it"
    )
    description: tuple[str, ...] | None = Field(
        None, description="fields joined to the description; null: `description`, if there is one"
    )
    rating: str | None = Field(None, description="the field of ratings")
    min_rating: float = Field(0.0, description="lower ratings are no interactions")

    @model_validator(mode="after")
    def _together(self) -> RecBoleSettings:
        if self.min_rating and not self.rating:
            raise ValueError("min_rating needs `rating`, the field of ratings")
        return self


class ExchangeSettings(SourceSettings):
    """A dataset in another toolkit's files, as `genrec export` writes them; SIDs come along."""

    kind: Literal["exchange"] = "exchange"
    implementation: ClassVar[str] = "genrec.data.formats.source:read"
    format: Literal["index-json", "minionerec", "id2sid", "recbole", "rectools"]
    folder: Path_
    name: str = Field(description="the files' name, such as Industrial_and_Scientific")

    @property
    def brings_sids(self) -> bool:
        """Always: a format without SIDs is refused when it is read."""
        return True

    @property
    def brings_split(self) -> bool:
        """Always."""
        return True


class Downloads(Section):
    """How images are fetched; what is fetched once is never asked for again."""

    concurrency: int = Field(8, ge=1, le=64, description="images fetched at once")
    timeout: float = Field(20.0, gt=0, description="seconds for one image, from first to last byte")
    attempts: int = Field(4, ge=1, description="tries where the server or the network fails")
    max_wait: float = Field(60.0, ge=0, description="seconds waited at most, Retry-After included")
    allow_private: bool = Field(
        False, description="also fetch from private, loopback and link-local addresses"
    )


class SplitSettings(PartSettings):
    """What every split has. `implementation` is a `genrec.data.protocols.SplitProtocol`."""


class LastOutSettings(SplitSettings):
    """Leave-last-out: each user's last item is the test target, the last but one validates."""

    kind: Literal["last_out"] = "last_out"
    implementation: ClassVar[str] = "genrec.data.protocols:LastOut"


class RandomOutSettings(SplitSettings):
    """Random leave-one-out: of each user one item tests and one validates; for logs without times."""

    kind: Literal["random"] = "random"
    implementation: ClassVar[str] = "genrec.data.protocols:RandomOut"
    seed: int = 0


class TemporalSettings(SplitSettings):
    """One cut in time for everybody; a user's next item after it is the target."""

    kind: Literal["temporal"] = "temporal"
    implementation: ClassVar[str] = "genrec.data.protocols:Temporal"
    valid: float = Field(0.1, gt=0, lt=1, description="share of the interactions")
    test: float = Field(0.1, gt=0, lt=1, description="share of the interactions, the newest")
    target: Literal["first", "last"] = "first"

    @model_validator(mode="after")
    def _something_to_learn(self) -> TemporalSettings:
        _leaves_some(self.valid, self.test)
        return self


class ColdItemsSettings(SplitSettings):
    """Leave-last-out, the newest items held out of training; their metrics are reported apart."""

    kind: Literal["cold_items"] = "cold_items"
    implementation: ClassVar[str] = "genrec.data.protocols:ColdItems"
    share: float = Field(0.05, gt=0, lt=1, description="share of the items")


class ColdUsersSettings(SplitSettings):
    """Users drawn at random of whom nothing is learned; their last item is the target."""

    kind: Literal["cold_users"] = "cold_users"
    implementation: ClassVar[str] = "genrec.data.protocols:ColdUsers"
    valid: float = Field(0.1, gt=0, lt=1, description="share of the users")
    test: float = Field(0.1, gt=0, lt=1, description="share of the users")
    seed: int = 0

    @model_validator(mode="after")
    def _something_to_learn(self) -> ColdUsersSettings:
        _leaves_some(self.valid, self.test)
        return self


class GivenSettings(SplitSettings):
    """The split that an `exchange` source brings; nothing is filtered, nothing taken out."""

    kind: Literal["given"] = "given"
    implementation: ClassVar[str] = "genrec.data.protocols:Given"


def _leaves_some(valid: float, test: float) -> None:
    if valid + test >= 1:
        raise ValueError(
            f"valid={valid} and test={test} leave nothing to learn from; expected less than 1 together"
        )


Split = Annotated[
    LastOutSettings
    | RandomOutSettings
    | TemporalSettings
    | ColdItemsSettings
    | ColdUsersSettings
    | GivenSettings,
    Field(discriminator="kind"),
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
