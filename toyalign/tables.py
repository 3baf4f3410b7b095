"""Reading a study's tidy table: the rows with some values, and the estimate that a row holds."""

from typing import TYPE_CHECKING

from toyalign.errors import ToyalignError
from toyalign.intervals import Estimate

if TYPE_CHECKING:
    import pandas as pd


def pick(table: "pd.DataFrame", **where: object) -> "pd.DataFrame":
    """The rows with these values in these columns."""
    for column, value in where.items():
        table = table.loc[table[column] == value]
    return table


def estimate(table: "pd.DataFrame", **where: object) -> Estimate:
    """The estimate of the one row with these values, from its columns mean, low, high and n.

    Raises:
        ToyalignError: if it is not one row.
    """
    rows = pick(table, **where)
    if len(rows) != 1:
        raise ToyalignError(f"{len(rows)} rows of the table have {where}, not one")
    return of_row(rows.iloc[0])


def last(table: "pd.DataFrame", **where: object) -> Estimate:
    """The estimate at the last step among the rows with these values; rows without a step aside."""
    rows = pick(table, **where)
    return of_row(rows.dropna(subset="step").sort_values("step").iloc[-1])


def of_row(row: "pd.Series") -> Estimate:
    """The estimate in the columns mean, low, high and n of a row."""
    mean, low, high = (float(row[name]) for name in ("mean", "low", "high"))
    return Estimate(mean, low, high, int(row["n"]))
