"""Tables that a split reads: analogues of compounds, and parts that somebody published.

A table of analogues is a guard: compounds that it joins must never meet across training and test. So it is matched by
name whatever the case and the blanks, and one that joins nothing of the study is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from toxfusion.study.any_table import read_any_table
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


@dataclass(frozen=True)
class PublishedParts:
    """One fold that somebody published.

    Attributes:
        part: sample_id -> train, valid or test, once each; test for a sample of ``overlap``.
        overlap: samples that are in train and in test.
    """

    part: pd.Series
    overlap: list[str]


def read_parts(path: Path | str, fold: int, parts: Sequence[str]) -> PublishedParts:
    """A fold of a table (parquet, text or a spreadsheet) with the columns sample_id, fold and part.

    Args:
        parts: what part may be.

    Raises:
        TableError: there is no such file, it is no table, lacks a column, a value or the fold, or a sample is twice
            in the fold in any way but in train and test.
    """
    columns = ("sample_id", "fold", "part")
    if not Path(path).is_file():
        raise TableError(f"{path}: no such file; split.path names a table {', '.join(columns)}")
    table = read_any_table(path, columns)
    without = table.index[table["sample_id"].isna()]
    if len(without):
        raise TableError(
            f"{path}, column 'sample_id', row {without[0]}: is missing; fill it in, or remove the row"
        )
    wrong = table["part"][~table["part"].isin(parts)]
    if len(wrong):
        raise TableError(f"{path}, column 'part', value {wrong.iloc[0]!r}: is none of {tuple(parts)}")
    folds = pd.to_numeric(table["fold"].astype(object), errors="coerce")
    wrong = table["fold"][folds.isna() | (folds % 1 != 0)]
    if len(wrong):
        raise TableError(
            f"{path}, column 'fold', value {wrong.iloc[0]!r}: is no whole number; number the folds from 0"
        )
    of_fold = table[folds == fold]
    if of_fold.empty:
        raise TableError(f"{path}, column 'fold', value {fold}: there are {sorted(set(folds.astype(int)))}")
    named = of_fold.assign(sample_id=of_fold["sample_id"].astype(str)).groupby("sample_id", sort=False)[
        "part"
    ]
    overlap = [str(sample) for sample, of in named if sorted(of) == ["test", "train"]]
    for sample, of in named:
        if len(of) > 1 and sample not in overlap:
            raise TableError(
                f"{path}, column 'sample_id', value {sample!r}: twice in fold {fold}, in {' and '.join(of)}; give it "
                "one part"
            )
    return PublishedParts(named.last().mask(named.size() > 1, "test"), overlap)
