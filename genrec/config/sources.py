"""Where the catalogue and the histories come from: `prepare.source`, and how pictures are fetched."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from genrec.config.base import Path_, Section


class Interchange(Section):
    """The field's JSON files: `{user: [items]}`, `{item: {title, ...}}`, `{item: ["<a_1>", ...]}`."""

    kind: Literal["interchange"] = "interchange"
    interactions: Path_
    items: Path_
    index: Path_ | None = None
    images: Path_ | None = None


class Movielens(Section):
    """MovieLens files (CSV, or the `.dat` of 1M and 10M) and a folder of posters named by movie id."""

    kind: Literal["movielens"] = "movielens"
    ratings: Path_
    movies: Path_
    images: Path_ | None = None
    min_rating: float = 0.0


class Demo(Section):
    """A seeded made-up shop with rendered pictures and known ground truth."""

    kind: Literal["demo"] = "demo"
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
    item: str = Field("item_id", description="the column of ids")
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
        description="by type; an interaction counts once those of its user and item so far add up",
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


class _Pictured(Section):
    """What sources that can name pictures have in common."""

    images: Literal["download"] | Path_ | None = Field(None, description=_IMAGES)
    max_image_mb: float = Field(20.0, gt=0, description="largest picture file, in 1e6 bytes")
    max_image_megapixels: float = Field(50.0, gt=0, description="largest picture once decoded")
    max_unknown: float = Field(
        0.05,
        ge=0,
        le=1,
        description="share of interactions with items that the catalogue lacks: up to it they are "
        "dropped and counted, over it an error",
    )


class Files(_Pictured):
    """Your own tables: parquet, CSV, TSV or JSON lines, plain, gzip or zstd; any column names."""

    kind: Literal["files"] = "files"
    items: ItemFile
    interactions: LogFile


class Amazon(_Pictured):
    """Amazon Reviews 2023, 2018 or 2014: two files, or a category of the hub's 2023 dataset."""

    kind: Literal["amazon"] = "amazon"
    reviews: Path_ | None = Field(None, description="JSON lines of reviews, or CSV of ratings")
    meta: Path_ | None = Field(None, description="JSON lines of products")
    category: str | None = Field(None, description="such as All_Beauty, instead of two files")
    dataset: str = Field(
        "McAuley-Lab/Amazon-Reviews-2023", description="hub id, or a folder laid out like it"
    )
    revision: str = Field("main", description="of the hub dataset; a commit can be repeated")
    min_rating: float = Field(0.0, ge=0, le=5, description="lower ratings are no interactions")
    verified: bool = Field(False, description="verified purchases only")
    describe: tuple[Literal["description", "features"], ...] = Field(
        ("description", "features"), description="what the description is made of"
    )

    @model_validator(mode="after")
    def _one_way(self) -> Amazon:
        pair = (self.reviews is not None, self.meta is not None)
        if (self.category is None) != all(pair) or (self.category is not None and any(pair)):
            raise ValueError(
                "name either `category` (of the hub's dataset), or the two files `reviews` and `meta`"
            )
        return self


class RecBole(_Pictured):
    """RecBole's atomic files: `.inter` and `.item`, tab-separated, with typed headers."""

    kind: Literal["recbole"] = "recbole"
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
    def _together(self) -> RecBole:
        if self.min_rating and not self.rating:
            raise ValueError("min_rating needs `rating`, the field of ratings")
        return self


class Exchange(Section):
    """A dataset in another toolkit's files, as `genrec export` writes them; SIDs come along."""

    kind: Literal["exchange"] = "exchange"
    format: Literal["index-json", "minionerec", "id2sid", "recbole", "rectools"]
    folder: Path_
    name: str = Field(description="the files' name, such as Industrial_and_Scientific")

    @property
    def index(self) -> str:
        """Where published SIDs are."""
        return self.folder


Source = Annotated[
    Interchange | Movielens | Demo | Files | Amazon | RecBole | Exchange,
    Field(discriminator="kind"),
]


class Downloads(Section):
    """How pictures are fetched; what is fetched once is never asked for again."""

    concurrency: int = Field(8, ge=1, le=64, description="pictures fetched at once")
    timeout: float = Field(
        20.0, gt=0, description="seconds for one picture, from first to last byte"
    )
    attempts: int = Field(4, ge=1, description="tries where the server or the network fails")
    max_wait: float = Field(60.0, ge=0, description="seconds waited at most, Retry-After included")
    allow_private: bool = Field(
        False, description="also fetch from private, loopback and link-local addresses"
    )
