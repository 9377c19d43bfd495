"""The numbers in a catalogue's column, as the chat and the REST filters both read them.

Cells may be prices as shops write them: `39.99`, `€39.99`, `$1,299.00`, `39,99 €`, `1.299,00 EUR`,
`CHF 1'299.-`. Whether a comma or a point is the decimal sign is decided for the whole column, by the
cells that leave no doubt, for `1.299` alone may be either.
"""

from __future__ import annotations

import polars as pl

_CURRENCY = (
    r"(?:[a-z]{0,3}\p{Sc}"
    r"|eur|usd|gbp|chf|jpy|cny|rmb|inr|cad|aud|nzd|sek|nok|dkk|pln|czk|huf|ron|brl|mxn|try|rub|krw"
    r"|sgd|hkd|zar|ils|aed|kr\.?|zł|kč|ft|lei|rs\.?|euros?|dollars?|pounds?)"
)
_POINT = r"^[-+]?(?:\d+|[1-9]\d{0,2}(?:,\d{2,3})*,\d{3})(?:\.\d*)?$|^[-+]?\.\d+$"
_COMMA = r"^[-+]?(?:\d+|[1-9]\d{0,2}(?:\.\d{3})+)(?:,\d*)?$|^[-+]?,\d+$"
_SPACED = r"^[-+]?\d{1,3}(?:[ '\u2019]\d{3})+(?:[.,]\d*)?$"


def numbers_of(values: pl.Series) -> pl.Series:
    """Returns a column as numbers.

    Args:
        values: numbers, texts, or lists of them, [N].

    Returns:
        Float64 [N], or lists of it; null where a cell is no single number, such as `12 - 15`, and where
        the column writes decimals both ways and a cell may be read either way. Truth values are no
        numbers.
    """
    if isinstance(values.dtype, pl.List):
        lists, inner = values.to_list(), values.dtype.inner
        parts = pl.Series([part for cell in lists for part in cell or ()], dtype=inner)
        numbers = iter(numbers_of(parts))
        parsed = [None if cell is None else [next(numbers) for _ in cell] for cell in lists]
        return pl.Series(values.name, parsed, dtype=pl.List(pl.Float64))
    if values.dtype.is_numeric():
        return values.cast(pl.Float64)
    if values.dtype != pl.String:
        return pl.Series(values.name, [None] * len(values), dtype=pl.Float64)
    plain = values.cast(
        pl.Float64, strict=False
    )  # most columns are no more than that, and it is fast
    if plain.is_finite().sum() == values.count():
        return plain
    cells = values.drop_nulls().unique()
    return values.replace_strict(cells, _parsed(cells), default=None, return_dtype=pl.Float64)


def _parsed(cells: pl.Series) -> pl.Series:
    """The numbers of a column's different cells, Float64."""
    table = cells.to_frame("cell").select(_bare(pl.col("cell")).alias("cell"))
    cell = pl.col("cell")
    point = pl.when(cell.str.contains(_POINT)).then(_number(cell, group=",", sign="."))
    comma = pl.when(cell.str.contains(_COMMA)).then(_number(cell, group=".", sign=","))
    plain = cell.cast(pl.Float64, strict=False)  # 1e3
    table = table.select(
        point=point, comma=comma, plain=pl.when(plain.is_finite()).then(plain)
    ).with_columns(doubt=(pl.col("point") != pl.col("comma")).fill_null(False))
    points = table.select((pl.col("comma").is_null() & pl.col("point").is_not_null()).any()).item()
    commas = table.select((pl.col("point").is_null() & pl.col("comma").is_not_null()).any()).item()
    chosen = (
        pl.lit(None, pl.Float64) if points and commas else pl.col("comma" if commas else "point")
    )
    return table.select(
        pl.when("doubt").then(chosen).otherwise(pl.coalesce("point", "comma", "plain"))
    ).to_series()


def _bare(cell: pl.Expr) -> pl.Expr:
    """A cell without its currency, spaces and `,-`."""
    text = cell.str.replace_all("[\u00a0\u2007\u2009\u202f]", " ").str.strip_chars()
    text = text.str.replace(r"^(\W*)\u2212", "${1}-")  # a typographic minus
    text = text.str.replace(rf"(?i)^([-+]?)\s*{_CURRENCY}\s*", "${1}")
    text = text.str.replace(rf"(?i)\s*{_CURRENCY}$", "").str.replace(
        "(\\d)[.,][-\u2013\u2014]+$", "${1}"
    )
    spaced = text.str.contains(_SPACED)
    return pl.when(spaced).then(text.str.replace_all("[ '\u2019]", "")).otherwise(text)


def _number(cell: pl.Expr, *, group: str, sign: str) -> pl.Expr:
    bare = cell.str.replace_all(group, "", literal=True).str.replace(sign, ".", literal=True)
    return bare.cast(pl.Float64, strict=False)
