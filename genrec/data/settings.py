"""Where the data comes from (`prepare.source`), how it is split, and how images are fetched."""

from __future__ import annotations

import codecs
import hashlib
import hmac
from pathlib import PurePath
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    SecretStr,
    model_validator,
)

from genrec.settings import PartSettings, Path_, Section

# Names of columns that an interaction has in our tables, or that `compose.context` makes of its time.
_TAKEN = ("user", "user_id", "item", "item_id", "timestamp", "split", "row", "file")
TIMED = ("gap", "weekday", "month")


def _context(columns: tuple[str, ...]) -> tuple[str, ...]:
    if twice := sorted({name for name in columns if columns.count(name) > 1}):
        raise ValueError(f"{twice}: named twice; name a column once")
    if taken := [name for name in columns if name in (*_TAKEN, *TIMED)]:
        raise ValueError(
            f"{taken}: names that have a meaning of their own ({', '.join((*_TAKEN, *TIMED))}); rename "
            "the column in the file"
        )
    return columns


_CONTEXT = "columns to keep with each interaction, for `compose.context`"
Context = Annotated[tuple[str, ...], AfterValidator(_context)]


class SourceSettings(PartSettings):
    """What every source has. `implementation` is a function: see `genrec.data.source.ReadSource`.

    Attributes:
        read_users: `module:name` of what reads the table of users, see `genrec.data.files.read_users`.
    """

    read_users: ClassVar[str] = "genrec.data.files:read_users"

    @property
    def kept(self) -> tuple[str, ...]:
        """The columns of the log that are kept with each interaction."""
        return tuple(getattr(self, "context", ()))

    @property
    def kept_by(self) -> str | None:
        """The field that names them; None where there is none."""
        return "context" if "context" in type(self).model_fields else None

    @property
    def user_file(self) -> UserFile | None:
        """The table of users; None where there is none."""
        return None

    @property
    def timed(self) -> bool:
        """Whether interactions may have times; what is found when they are read counts."""
        return True

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
_IMAGES = (
    "null: none; a folder; or `download`: fetch the URLs, once, into runtime.store, from public "
    "addresses only"
)


Format = Literal["parquet", "csv", "tsv", "jsonl", "xlsx"]
# What the name of a file says of its format, before what says how it is compressed.
SUFFIXES: dict[str, Format] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".xlsx": "xlsx",
    ".xlsm": "xlsx",
    ".xlsb": "xlsx",
    ".xls": "xlsx",
    ".ods": "xlsx",
}
PACKED = (".gz", ".zst", ".zip")
Quoting = Literal["double", "backslash", "none"]
Operator = Literal[
    "=", "!=", "<", "<=", ">", ">=", "in", "not in", "starts with", "not starts with"
]
Value = bool | int | float | str | None
Condition = tuple[str, Operator, Value | tuple[Value, ...]]


class TableFile(Section):
    """A table in a file, a glob of files or a folder of parts, and how its rows and cells are read."""

    later: ClassVar[tuple[str, ...]] = (
        *("format", "columns", "quoting", "encoding", "sheet", "where", "whole_ids"),
        *("repeats", "time_format", "explode", "clicked", "history"),
    )
    path: Path_ = Field(description="a file, a glob, or a folder of parts")
    format: Format | None = Field(
        None,
        description="null: the name tells it (.csv, .tsv, .jsonl, .parquet, .xlsx; before .gz, .zst or "
        ".zip). Name it for .dat, .data, .txt and the like",
    )
    columns: tuple[str, ...] | None = Field(
        None, description="the names of the columns, for a text file without a header row"
    )
    separator: str | None = Field(
        None,
        min_length=1,
        description='between the cells of a text file; null: a comma, or a tab in TSV. Such as ";", "|" '
        'or "::"',
    )
    quoting: Quoting = Field(
        "double",
        description='a quote within a quoted cell is written "" (double) or \\" (backslash); none: '
        "quotes are ordinary characters",
    )
    encoding: str = Field(
        "utf-8", description="of a text file: utf-8, latin-1, cp1252, utf-16 or another of Python's"
    )
    sheet: str | None = Field(
        None,
        description='of an Excel file that has several: its name, or a glob such as "Year *" for sheets '
        "that follow one another; null: the only one",
    )
    where: tuple[Condition, ...] = Field(
        (),
        description="the rows to keep: column, operator, value. Each must hold, such as "
        '[[Quantity, ">", 0], [Invoice, "not starts with", C], [Customer, "!=", null]]; null is an '
        "empty cell",
    )
    whole_ids: bool = Field(
        False,
        description="read ids such as 17850.0, which pandas makes of whole numbers where a cell is "
        "empty, as 17850",
    )

    def made_with(self) -> set[str]:
        """Returns fastexcel where the file is one of Excel."""
        form = self.format or SUFFIXES.get(PurePath(self.path or "").suffix.lower())
        return super().made_with() | ({"fastexcel"} if form == "xlsx" else set())

    def unset(self) -> set[str]:
        """Adds the item and the title that a file of items has by default, and the log's has not."""
        if self.path is not None:
            return super().unset()
        return super().unset() | ({"item", "title"} - self.model_fields_set)

    @model_validator(mode="after")
    def _readable(self) -> TableFile:
        if self.separator and len(self.separator) > 1 and self.quoting == "backslash":
            raise ValueError("quoting=backslash needs a separator of one character")
        if self.columns and len(set(self.columns)) < len(self.columns):
            raise ValueError(f"columns: a name is there twice in {list(self.columns)}")
        try:
            codecs.lookup(self.encoding)
        except LookupError as error:
            raise ValueError(
                f"encoding={self.encoding}: no such encoding; expected utf-8, latin-1, cp1252, "
                "utf-16 or another that Python knows"
            ) from error
        for column, operator, value in self.where:
            if isinstance(value, tuple) != (operator in ("in", "not in")):
                raise ValueError(
                    f"where: [{column}, {operator!r}, {value}]: `in` and `not in` take a list, "
                    "the other operators one value"
                )
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if operator in ("<", "<=", ">", ">=") and not number:
                raise ValueError(f"where: [{column}, {operator!r}, {value}]: expected a number")
            if "starts with" in operator and not isinstance(value, str):
                raise ValueError(f"where: [{column}, {operator!r}, {value}]: expected a text")
        return self


class ItemFile(TableFile):
    """The catalogue's file, and the owner's names for what we need."""

    path: Path_ | None = Field(  # type: ignore[assignment]
        None,
        description="a file, a glob, or a folder of parts; null: the items of the interactions' file, "
        "with those of its columns that are named here",
    )
    item: str = Field(
        "item_id",
        description='the column of ids; 12 and "12" are one id, all else is letter by letter. Without '
        "`path` it is that of the interactions",
    )
    title: str | None = Field(
        "title",
        description="the column of titles; null, or left out without `path`: the ids are the titles",
    )
    description: tuple[str, ...] | None = Field(
        None, description="columns joined to the description; null: `description`, if there is one"
    )
    image: str | None = Field(
        None, description="paths within `images`, or URLs; null: `image`, if there is one"
    )
    attributes: tuple[str, ...] | None = Field(
        None,
        description="further columns to keep; null: all, and none of the interactions' own file",
    )
    numbers: tuple[str, ...] = Field(
        (), description="of those, numbers that a text file has as text: price, stock"
    )
    repeats: Literal["error", "first"] = Field(
        "error",
        description="an item in several rows: an error, or of each column the first cell that is not "
        "empty. Without `path` always the first",
    )

    @model_validator(mode="after")
    def _kept(self) -> ItemFile:
        if self.attributes is not None and (lost := set(self.numbers) - set(self.attributes)):
            raise ValueError(f"numbers: {sorted(lost)} not among `attributes`; name them there too")
        return self


class LogFile(TableFile):
    """The interactions' file, and which of them count."""

    later: ClassVar[tuple[str, ...]] = (*TableFile.later, "context")
    user: str = Field("user_id", description="the column of user ids")
    item: str = Field("item_id", description="the column of item ids")
    timestamp: str | None = Field(
        "timestamp", description="the column of times; null: there are none"
    )
    unit: Unit = Field("auto", description=_UNIT)
    time_format: str | None = Field(
        None,
        description='how dates are written, in strptime\'s letters, such as "%m/%d/%Y %H:%M"; null: '
        "ISO 8601 or numbers",
    )
    type: str | None = Field(None, description="the column that says view, cart, purchase, ...")
    weights: dict[str, float] = Field(
        {},
        description="by type: an interaction counts once those of its user and item so far, its own "
        "among them, reach the threshold. {view: 1, cart: 3} and 3: three views, or one cart",
    )
    threshold: float = Field(1.0, gt=0, description="what the weights have to add up to")
    rating: str | None = Field(None, description="the column of ratings")
    min_rating: float = Field(0.0, description="lower ratings are no interactions")
    explode: str | None = Field(
        None,
        min_length=1,
        description='the item cell holds several items, in order: the text between them, such as " " or '
        '","; `list` where it is a list of JSON or parquet. Each becomes a row',
    )
    clicked: str | None = Field(
        None,
        min_length=1,
        description='the ending of the items that count, such as "-1" in `N1-1 N2-0`; it is taken off, '
        "and items without it are left out",
    )
    history: str | None = Field(
        None,
        description="the column with the items that a user had before the first row, oldest first, "
        "written as `explode` says; they count as interactions at the time of that row",
    )
    context: Context = Field((), description=_CONTEXT)

    @model_validator(mode="after")
    def _together(self) -> LogFile:
        if bool(self.type) != bool(self.weights):
            raise ValueError(
                "type and weights go together: `type` names the column, `weights` what each kind in "
                "it is worth, such as {view: 1, purchase: 5}"
            )
        if self.min_rating and not self.rating:
            raise ValueError("min_rating needs `rating`, the column of ratings")
        if self.time_format and (self.timestamp is None or self.unit not in ("auto", "iso")):
            raise ValueError(
                "time_format says how the dates in `timestamp` are written; it goes with neither "
                "timestamp=null nor unit"
            )
        if (self.clicked or self.history) and not self.explode:
            raise ValueError("clicked and history need `explode`, the text between items")
        if self.history and (self.type or self.rating or self.context):
            raise ValueError(
                "history has no types, no ratings and no context; leave out `type`, `rating` and "
                "`context`"
            )
        return self


class UserFile(TableFile):
    """The users' file, and which of its columns are kept; users whom it lacks have no attributes."""

    user: str = Field("user_id", description="the column of user ids, each once")
    attributes: Context = Field(
        min_length=1,
        description="columns to keep of each user, for `compose.user_attributes`; no other is read",
    )

    @model_validator(mode="after")
    def _keeps_no_ids(self) -> UserFile:
        if self.user in self.attributes:
            raise ValueError(
                f"attributes: '{self.user}' holds the ids of users, which are no attribute (and would "
                "stand beside what hash_users makes of them); leave it out"
            )
        return self


class WithUsers(SourceSettings):
    """What sources that can have a table of users beside their own files have in common."""

    later: ClassVar[tuple[str, ...]] = ("users",)
    users: UserFile | None = Field(
        None,
        description="a table of users, such as their age group and country; null: there is none",
    )

    @property
    def user_file(self) -> UserFile | None:
        """That of `users`."""
        return self.users

    def options(self) -> dict[str, Any]:
        """Returns all but `kind` and `users`, which `read_source` reads for every source."""
        return {name: value for name, value in super().options().items() if name != "users"}


class _WithImages(WithUsers):
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


class InterchangeSettings(WithUsers):
    """The field's JSON files: `{user: [items]}`, `{item: {title, ...}}`, `{item: ["<a_1>", ...]}`."""

    kind: Literal["interchange"] = "interchange"
    implementation: ClassVar[str] = "genrec.data.formats.interchange:read"
    interactions: Path_
    items: Path_
    index: Path_ | Annotated[tuple[Path_, ...], Field(min_length=1)] | None = Field(
        None, description="the items' SIDs; several files are several sets of SIDs"
    )
    images: Path_ | None = None

    @property
    def brings_sids(self) -> bool:
        """Whether `index` is given."""
        return self.index is not None

    @property
    def timed(self) -> bool:
        """Never: lists have an order only."""
        return False


class MovieLensSettings(WithUsers):
    """MovieLens files (CSV, or the `.dat` of 1M and 10M) and a folder of posters named by movie id."""

    kind: Literal["movielens"] = "movielens"
    implementation: ClassVar[str] = "genrec.data.movielens:read"
    ratings: Path_
    movies: Path_
    images: Path_ | None = None
    min_rating: float = 0.0
    later: ClassVar[tuple[str, ...]] = (*WithUsers.later, "context")
    context: tuple[Literal["rating"], ...] = Field((), description=_CONTEXT)


class FilesSettings(_WithImages):
    """Your own tables: parquet, CSV, TSV, JSON lines or Excel, also compressed; any column names."""

    kind: Literal["files"] = "files"
    implementation: ClassVar[str] = "genrec.data.files:read"
    items: ItemFile = Field(
        ItemFile(), description="left out: the items of the interactions, with their ids as titles"
    )
    interactions: LogFile

    @property
    def kept(self) -> tuple[str, ...]:
        """Those that the section of the interactions names."""
        return self.interactions.context

    @property
    def kept_by(self) -> str:
        """That of the interactions."""
        return "interactions.context"

    @property
    def timed(self) -> bool:
        """Whether there is a column of times with a unit."""
        return self.interactions.timestamp is not None and self.interactions.unit != "order"


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
    later: ClassVar[tuple[str, ...]] = (*_WithImages.later, "context")
    context: tuple[Literal["rating"], ...] = Field((), description=_CONTEXT)

    @model_validator(mode="after")
    def _one_way(self) -> AmazonSettings:
        pair = (self.reviews is not None, self.meta is not None)
        if (self.category is None) != all(pair) or (self.category is not None and any(pair)):
            raise ValueError(
                "name either `category` (of the hub's dataset), or the two files `reviews` and `meta`"
            )
        return self


class RecBoleSettings(_WithImages):
    """RecBole's atomic files: `.inter`, `.item` and perhaps `.user`, by tabs, with typed headers."""

    kind: Literal["recbole"] = "recbole"
    implementation: ClassVar[str] = "genrec.data.recbole:read"
    read_users: ClassVar[str] = "genrec.data.recbole:read_users"
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
    later: ClassVar[tuple[str, ...]] = (*_WithImages.later, "context")
    context: Context = Field((), description=_CONTEXT)

    @property
    def timed(self) -> bool:
        """Whether there is a field of times with a unit."""
        return self.timestamp is not None and self.unit != "order"

    @model_validator(mode="after")
    def _together(self) -> RecBoleSettings:
        if self.min_rating and not self.rating:
            raise ValueError("min_rating needs `rating`, the field of ratings")
        return self


class ExchangeSettings(WithUsers):
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
