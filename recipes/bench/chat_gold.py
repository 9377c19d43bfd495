"""What shoppers say, and what is right to answer: the conversations of `chat_data/`, checked.

    python -m recipes.bench.chat_gold [--movies ../shared/data/movielens-posters/movies.csv]

Checks every line against its catalogue and prints the counts that `chat_data/README.md` shows. The
right items are computed from the catalogue's ground truth, never stored: the demo's from
`genrec.demo`, which knows what its pictures show, the films' from the file of MovieLens.
`recipes.bench.chat_score` judges replies.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from genrec.demo.catalogue import make_products
from genrec.demo.vocabulary import CATEGORIES, SILHOUETTES

DATA = Path(__file__).parent / "chat_data"
MOVIES = Path(os.environ.get("GENREC_DATA", Path(__file__).parents[3] / "shared" / "data"))
MOVIES = MOVIES / "movielens-posters" / "movies.csv"
Name = Literal["demo", "movielens"]
Behaviour = Literal[
    "show",
    "show_with_doubt",
    "abstain",
    "answer",
    "clarify",
    "details",
    "compare",
    "explain",
    "remember",
    "help",
]
Op = Literal["in", "not in", "<", "<=", ">", ">=", "between", "contains", "not contains"]
ALL = "all"  # in `refers_to`, `like` and `unlike`: every item of the list shown before
NOTHING_FITS = ("abstain", "show_with_doubt")
ABOUT_SHOWN = ("details", "compare", "explain")
NO_REQUEST = ("answer", "clarify", "help")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class OfRank(_Part):
    """The value of the column at one item of the list shown before; -1 is the last."""

    rank: int


class OfShare(_Part):
    """The value below which this share lies of the items that the other conditions leave."""

    quantile: float = Field(ge=0, le=1)


Scalar = int | float | str


class Condition(_Part):
    """One thing that must hold for an item.

    On a column of lists (genres, interests), "in" holds if any value of the item is named, "not in"
    if none is; "contains" finds a piece of text, whatever its case.
    """

    column: str
    op: Op
    value: OfRank | OfShare | list[Scalar] | Scalar


class AnyOf(_Part):
    """At least one of these lists of conditions must hold."""

    any_of: list[list[Condition]]


class Sort(_Part):
    """The order that was asked for."""

    by: str
    descending: bool


class Gold(_Part):
    """What is right after one message.

    Attributes:
        behaviour: the best; `also`: others that a shopper would take as well.
        where: the whole state after this turn: what must hold for items shown.
        query: what is wished for beyond the columns, in English; not scored.
        sort, count: order and number of the items, if asked for.
        like, unlike: liked and disliked items, by rank in the list shown before or by title; neither
            is right to show again.
        refers_to: the items spoken of, by rank, by title, or all.
    """

    behaviour: Behaviour
    also: list[Behaviour] = []
    where: list[Condition | AnyOf]
    query: str | None = None
    sort: Sort | None = None
    count: int | None = Field(None, ge=1)
    like: list[int | str] = []
    unlike: list[int | str] = []
    refers_to: list[int | str] | None = None
    note: str | None = None

    @property
    def allowed(self) -> set[str]:
        """The behaviours that are right."""
        return {self.behaviour, *self.also}


class Turn(_Part):
    """A message and its gold."""

    say: str = Field(min_length=1)
    gold: Gold


class Conversation(_Part):
    """One to six messages of one shopper."""

    id: str
    catalogue: Name
    language: str = Field(pattern="^[a-z]{2}$")
    tags: list[str]
    turns: list[Turn] = Field(min_length=1, max_length=6)

    @property
    def spelling(self) -> str:
        """English, English with typos, or another language."""
        if self.language != "en":
            return "another language"
        return "typos" if "typo" in self.tags else "English"

    @property
    def request(self) -> str:
        """Whether anything is asked for, and whether it exists at every turn."""
        behaviours = {turn.gold.behaviour for turn in self.turns}
        if behaviours <= set(NO_REQUEST):
            return "no request"
        return "nothing fits" if behaviours & set(NOTHING_FITS) else "something fits"


class NothingThere(LookupError):
    """A message refers to an item of a list that is shorter than that."""


@dataclass(frozen=True)
class Catalogue:
    """Items with everything that is true of them.

    Attributes:
        frame: `item_id`, `title` and the columns that conditions name, one row per item.
        subject: the column that says what kind of thing an item is.
    """

    name: Name
    frame: pl.DataFrame
    subject: str

    def satisfying(self, where: Sequence[Condition | AnyOf], before: Sequence[str]) -> list[str]:
        """Returns the ids of the items for which `where` holds.

        Args:
            where: conditions that all must hold.
            before: ids of the list shown before, for values given by rank.

        Raises:
            NothingThere: a rank is beyond that list.
        """
        shares = [c for c in where if isinstance(c, Condition) and isinstance(c.value, OfShare)]
        left = self.frame.filter(*(self._expression(c, before) for c in where if c not in shares))
        for part in shares:
            assert isinstance(part.value, OfShare)
            bound = left[part.column].quantile(part.value.quantile, "nearest")
            if bound is None:
                return []
            fixed = Condition(column=part.column, op=part.op, value=bound)
            left = left.filter(self._expression(fixed, before))
        return left["item_id"].to_list()

    def right(self, gold: Gold, before: Sequence[str]) -> list[str]:
        """Returns the ids that are right to show: `where` holds, and not liked or disliked before.

        Raises:
            NothingThere: a rank is beyond the list shown before.
        """
        named = {*self.named(gold.like, before), *self.named(gold.unlike, before)}
        return [item for item in self.satisfying(gold.where, before) if item not in named]

    def named(self, names: Iterable[int | str], before: Sequence[str]) -> list[str]:
        """Returns the ids of items named by rank, by title, or all of the list shown before.

        Raises:
            NothingThere: a rank is beyond that list, or all of an empty one are meant.
        """
        found: list[str] = []
        for name in names:
            if isinstance(name, int):
                found.append(self._at(name, before))
            elif name == ALL:
                self._at(1, before)
                found += before
            else:
                found += self.frame.filter(pl.col("title") == name)["item_id"].to_list()
        return found

    def is_list(self, column: str) -> bool:
        """Whether items have several values in this column."""
        return self.frame.schema[column] == pl.List(pl.String)

    def values(self, column: str) -> set[object]:
        """Returns the values that occur in a column."""
        known = self.frame[column]
        return set((known.explode() if self.is_list(column) else known).to_list())

    @staticmethod
    def _at(rank: int, before: Sequence[str]) -> str:
        place = rank - 1 if rank > 0 else rank
        if not -len(before) <= place < len(before):
            raise NothingThere(f"item {rank} of a list of {len(before)}")
        return before[place]

    def _expression(self, part: Condition | AnyOf, before: Sequence[str]) -> pl.Expr:
        if isinstance(part, AnyOf):
            return pl.any_horizontal(
                pl.all_horizontal(self._expression(c, before) for c in one) for one in part.any_of
            )
        column, value = pl.col(part.column), part.value
        assert not isinstance(value, OfShare), "resolved by `satisfying`"
        if isinstance(value, OfRank):
            row = self.frame.filter(pl.col("item_id") == self._at(value.rank, before))
            if row.is_empty():
                raise ValueError(f"shown item {self._at(value.rank, before)!r} is in no catalogue")
            value = row[part.column].to_list()[0]
        values = value if isinstance(value, list) else [value]
        match part.op:
            case "in" | "not in":
                if self.is_list(part.column):
                    inside = pl.any_horizontal(column.list.contains(v) for v in values)
                else:
                    inside = column.is_in(values)
                return inside if part.op == "in" else ~inside
            case "contains" | "not contains":
                has = column.str.to_lowercase().str.contains(str(value).lower(), literal=True)
                return has if part.op == "contains" else ~has
            case "between":
                return column.is_between(*values)
            case "<":
                return column < value
            case "<=":
                return column <= value
            case ">":
                return column > value
            case ">=":
                return column >= value


def demo(item_ids: Iterable[str] | None = None) -> Catalogue:
    """Returns the made-up shop with all that is true of its products.

    Args:
        item_ids: those that a run kept; None is all 800.
    """
    products = make_products(800, seed=7)
    shape = [CATEGORIES[p.category].shapes[SILHOUETTES.index(p.silhouette)] for p in products]
    columns = ("item_id", "title", "brand", "category", "material", "colour", "pattern")
    frame = pl.DataFrame({name: [getattr(p, name) for p in products] for name in columns})
    frame = frame.with_columns(
        price=pl.Series([float(p.price) for p in products]),
        shape=pl.Series(shape),
        size=pl.Series([p.title.rpartition(", ")[2] for p in products]),
        interests=pl.Series([list(p.interests) for p in products]),
        text=pl.Series([f"{p.title}. {p.description}" for p in products]),
    )
    return _kept("demo", frame, "category", item_ids)


def movielens(path: str | Path = MOVIES, item_ids: Iterable[str] | None = None) -> Catalogue:
    """Returns the films of MovieLens: title with year, year, genres.

    Args:
        path: its movies.csv.
        item_ids: those that a run kept; None is all.
    """
    raw = pl.read_csv(path, schema_overrides={"movieId": pl.String})
    frame = raw.select(
        "title",
        item_id="movieId",
        year=pl.col("title").str.extract(r"\((\d{4})\)\s*$").cast(pl.Int64),
        genres=pl.col("genres").str.split("|"),
    )
    return _kept("movielens", frame, "genres", item_ids)


def _kept(
    name: Name, frame: pl.DataFrame, subject: str, item_ids: Iterable[str] | None
) -> Catalogue:
    if item_ids is not None:
        frame = frame.filter(pl.col("item_id").is_in(list(item_ids)))
    return Catalogue(name, frame, subject)


def load(catalogue: Name, *, locked: bool = False, folder: Path = DATA) -> list[Conversation]:
    """Reads the conversations over one catalogue.

    Args:
        catalogue: whose.
        locked: read the locked part, and nothing else. See `chat_data/README.md` before.
        folder: where the files are.

    Raises:
        ValueError: a line is no conversation; names file, line and field.
    """
    path = folder / f"{catalogue}{'-locked' if locked else ''}.jsonl"
    found: list[Conversation] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            found.append(Conversation.model_validate_json(line))
        except ValidationError as error:
            raise ValueError(f"{path}:{number}: {error}") from error
    return found


def faults(conversation: Conversation, catalogue: Catalogue) -> list[str]:
    """Returns what is wrong with a conversation's gold over this catalogue; empty if nothing.

    Every column, value and title must be real, except where nothing fits; a turn that shows must
    have right items, and enough of them for the ranks that come later; one where nothing fits must
    have none. What depends on the list shown before is known only while a system answers.
    """
    found: list[str] = []
    shown = 0  # length of the list that a system could have shown before
    for number, turn in enumerate(conversation.turns, 1):
        said = _turn_faults(turn.gold, catalogue)
        deepest = max((abs(rank) for rank in _ranks(turn.gold)), default=0)
        if deepest > shown:
            said.append(f"item {deepest} of at most {shown} shown")
        found += [f"{conversation.id}, turn {number}: {fault}" for fault in said]
        if turn.gold.behaviour == "show":
            shown = 3 if _is_relative(turn.gold) else _size(turn.gold, catalogue)
    return found


def _size(gold: Gold, catalogue: Catalogue) -> int:
    """How many items can be shown, though not more than are asked for."""
    try:
        return min(len(catalogue.right(gold, ())), gold.count or 5)
    except (pl.exceptions.PolarsError, TypeError):
        return 0  # said by `_turn_faults`


def _turn_faults(gold: Gold, catalogue: Catalogue) -> list[str]:
    found = [
        fault
        for part in _conditions(gold.where)
        for fault in _condition_faults(part, catalogue, real=gold.behaviour not in NOTHING_FITS)
    ]
    if gold.sort and gold.sort.by not in catalogue.frame.columns:
        found.append(f"sort by {gold.sort.by!r}: no such column")
    titles = catalogue.values("title") | {ALL}
    for name in (*gold.like, *gold.unlike, *(gold.refers_to or ())):
        if isinstance(name, str) and name not in titles:
            found.append(f"{name!r} is no title of this catalogue")
    if (gold.behaviour in ABOUT_SHOWN) != (gold.refers_to is not None):
        found.append(f"{gold.behaviour} and refers_to {gold.refers_to}")
    if not found and not _is_relative(gold):
        right = catalogue.right(gold, ())
        if gold.behaviour == "show" and len(right) < (gold.count or 1):
            found.append(f"to show, but {len(right)} items are right")
        if gold.behaviour in NOTHING_FITS and right:
            found.append(f"{gold.behaviour}, but {len(right)} items are right")
    return found


def _condition_faults(part: Condition, catalogue: Catalogue, *, real: bool) -> list[str]:
    if part.column not in catalogue.frame.columns:
        return [f"{part.column!r} is no column; there are {catalogue.frame.columns}"]
    number = catalogue.frame.schema[part.column].is_numeric()
    if part.op in ("in", "not in"):
        fits = isinstance(part.value, list | OfRank)
    elif part.op in ("contains", "not contains"):
        fits = isinstance(part.value, str) and not number
    elif part.op == "between":
        fits = isinstance(part.value, list) and len(part.value) == 2 and number
    else:
        fits = isinstance(part.value, int | float | OfRank | OfShare) and number
    if not fits:
        return [f"{part.column} {part.op} {part.value!r}: not for this column"]
    if real and part.op in ("in", "not in") and isinstance(part.value, list):
        unknown = set(part.value) - catalogue.values(part.column)
        return [f"{part.column}: {value!r} does not occur" for value in sorted(unknown, key=str)]
    return []


def _conditions(where: Sequence[Condition | AnyOf]) -> list[Condition]:
    """Every condition, those within alternatives too."""
    flat: list[Condition] = []
    for part in where:
        flat += [part] if isinstance(part, Condition) else [c for one in part.any_of for c in one]
    return flat


def _ranks(gold: Gold) -> list[int]:
    """The ranks of the list shown before that a turn's gold depends on; 1 where it is all."""
    names = (*gold.like, *gold.unlike, *(gold.refers_to or ()))
    values = (part.value for part in _conditions(gold.where))
    ranks = [1 if name == ALL else name for name in names]
    ranks += [value.rank for value in values if isinstance(value, OfRank)]
    return [rank for rank in ranks if isinstance(rank, int)]


def _is_relative(gold: Gold) -> bool:
    return bool(_ranks(gold))


def kinds(conversation: Conversation, number: int, catalogue: Catalogue) -> set[str]:
    """Returns the kinds of a turn, by which scores are told apart.

    Args:
        conversation: whose.
        number: of the turn, from 0.
        catalogue: says which column is the subject.
    """
    gold = conversation.turns[number].gold
    found = {"all", conversation.catalogue, conversation.spelling}
    flat = _conditions(gold.where)
    for kind, has in (
        ("no request", gold.behaviour in NO_REQUEST),
        ("nothing fits", gold.behaviour in NOTHING_FITS),
        ("about shown items", gold.behaviour in ABOUT_SHOWN),
        ("reference", _is_relative(gold)),
        ("negation", any(part.op.startswith("not") for part in flat)),
        ("alternatives", any(isinstance(part, AnyOf) for part in gold.where)),
        ("order or number", gold.sort is not None or gold.count is not None),
        ("later turn", number > 0),
    ):
        if has:
            found.add(kind)
    if number and gold.behaviour in ("show", *NOTHING_FITS):
        change = _change(conversation.turns[number - 1].gold.where, gold.where, catalogue.subject)
        found |= {change} if change else set()
    return found


def _change(
    old: Sequence[Condition | AnyOf], new: Sequence[Condition | AnyOf], subject: str
) -> str | None:
    """Another kind of thing is a new subject; a wish taken back or replaced is cancelling."""
    was, now = _named(old), _named(new)
    before, after = was.get((subject, "in")), now.get((subject, "in"))
    if before and after and not before & after:
        return "new subject"
    lost = {part.column for part in _conditions(old)} - {part.column for part in _conditions(new)}
    replaced = any(
        not values & now[key] if key[1] == "in" else not values <= now[key]
        for key, values in was.items()
        if key in now and values and now[key]
    )
    return "cancelling" if lost or replaced else None


def _named(where: Sequence[Condition | AnyOf]) -> dict[tuple[str, str], set[object]]:
    """The values named per column and op, of "in" and "not in"."""
    named: dict[tuple[str, str], set[object]] = defaultdict(set)
    for part in _conditions(where):
        if part.op in ("in", "not in") and isinstance(part.value, list):
            named[part.column, part.op] |= set(part.value)
    return named


def locked_ids(conversations: Iterable[Conversation]) -> set[str]:
    """Returns the ids of the fifth that is locked, drawn by a hash of the id within each stratum.

    Strata are the catalogue, the spelling and the request; of n conversations the n/5, rounded, with
    the smallest SHA-256 are taken.
    """
    strata: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for one in conversations:
        strata[one.catalogue, one.spelling, one.request].append(one.id)
    drawn: set[str] = set()
    for ids in strata.values():
        ids.sort(key=lambda name: hashlib.sha256(name.encode()).hexdigest())
        drawn.update(ids[: round(len(ids) / 5)])
    return drawn


class Both(NamedTuple):
    """A catalogue with all its conversations, locked or not."""

    catalogue: Catalogue
    conversations: list[Conversation]


def counts(parts: Sequence[Both]) -> str:
    """Returns the counts as tables in Markdown."""
    whose = [(one, part.catalogue) for part in parts for one in part.conversations]
    by_conversation: dict[str, Counter[str]] = {
        "catalogue": Counter(one.catalogue for one, _ in whose),
        "spelling": Counter(one.spelling for one, _ in whose),
        "request": Counter(one.request for one, _ in whose),
        "turns": Counter(str(len(one.turns)) for one, _ in whose),
        "language": Counter(one.language for one, _ in whose),
    }
    turns = [(one, i, catalogue) for one, catalogue in whose for i in range(len(one.turns))]
    by_turn: dict[str, Counter[str]] = {
        "behaviour": Counter(one.turns[i].gold.behaviour for one, i, _ in turns),
        "kind": Counter(k for one, i, cat in turns for k in kinds(one, i, cat)),
    }
    lines: list[str] = []
    for unit, tables in {"conversations": by_conversation, "turns": by_turn}.items():
        lines += [f"| of {unit} | | {unit} |", "|---|---|--:|"]
        for name, counter in tables.items():
            order = sorted(counter.items(), key=lambda pair: (-pair[1], pair[0]))
            lines += [f"| {name} | {value} | {number} |" for value, number in order]
        lines.append("")
    return "\n".join(lines).rstrip()


def main() -> None:
    """Checks both catalogues' conversations and prints the counts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--movies", type=Path, default=MOVIES, help="movies.csv of MovieLens")
    args = parser.parse_args()
    parts = [
        Both(shop, [*load(shop.name), *load(shop.name, locked=True)])
        for shop in (demo(), movielens(args.movies))
    ]
    said = [fault for shop, talks in parts for one in talks for fault in faults(one, shop)]
    if said:
        raise SystemExit("\n".join(said))
    print(counts(parts))


if __name__ == "__main__":
    main()
