"""Tables that a split reads: analogues of compounds, and parts that somebody published.

A table of analogues is a guard: compounds that it joins must never meet across training and test. So it is matched by
name whatever the case and the blanks, and one that joins nothing of the study is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from toxfusion.study.names import plain_name, strangers
from toxfusion.study.tables import TableError, read_table


def read_analogues(path: Path | str | None, compounds: Iterable[str]) -> dict[str, str]:
    """Compound -> parent of a table with the columns compound and parent.

    Args:
        compounds: of the study. A name of the table that differs from one of them in case, blanks, dashes or accents
            alone is that compound.

    Returns:
        The pairs, names as the study spells them where it has them.

    Raises:
        TableError: the table cannot be read, a name is missing, a compound has two parents, or no compound or parent
            of the table is in the study.
    """
    if path is None:
        return {}
    table = read_table(path, required=("compound", "parent"))
    for column in ("compound", "parent"):
        without = table.index[table[column].isna()]
        if len(without):
            raise TableError(
                f"{path}, column {column!r}, row {without[0]}: is missing; fill it in, or remove the row"
            )
    known = list(dict.fromkeys(map(str, compounds)))
    spelt = {plain_name(name): name for name in reversed(known)}
    pairs: dict[str, str] = {}
    for row, compound, parent in table[["compound", "parent"]].itertuples():
        child, of = (spelt.get(plain_name(name), name) for name in (compound, parent))
        if pairs.setdefault(child, of) != of:
            raise TableError(
                f"{path}, column 'compound', value {compound!r}, row {row}: has two parents, {pairs[child]!r} and "
                f"{of!r}; keep one"
            )
    named = {*pairs, *pairs.values()}
    if pairs and not named & set(known):
        odd = strangers(pairs, known)
        raise TableError(
            f"{path}: none of its {len(named)} names is a compound of the study: {odd.all_told()}; the study has "
            f"{', '.join(map(repr, sorted(known)[:3]))}; correct the table, or leave it out"
        )
    return pairs


def unknown_analogues(pairs: Mapping[str, str], compounds: Iterable[str]) -> list[str]:
    """A phrase for each compound of a table of analogues that the study does not have, with a near one."""
    odd = strangers(pairs, compounds)
    return [f"{name!r} is no compound of the study{odd.told(name)}" for name in odd.near]


def read_parts(path: Path | str) -> pd.DataFrame:
    """The columns sample_id, fold and part of a parquet file, or of a text table or spreadsheet, as text.

    Raises:
        TableError: there is no such file, it is no table, or it lacks a column or a cell.
    """
    columns = ("sample_id", "fold", "part")
    place = Path(path)
    if place.suffix == ".parquet" and place.is_file():
        try:
            table = pd.read_parquet(place)
        except (ValueError, OSError) as error:
            raise TableError(f"{path}: no table can be read from it ({error})") from error
        for column in columns:
            if column not in table.columns:
                raise TableError(f"{path}: column {column!r} is missing; it needs {', '.join(columns)}")
        return table.assign(sample_id=table["sample_id"].astype(str))
    if not place.is_file():
        raise TableError(f"{path}: no such file; split.path names a table {', '.join(columns)}")
    return read_table(path, required=columns)
