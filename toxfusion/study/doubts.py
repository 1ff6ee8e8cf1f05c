"""Values that a study may hold and that look like a slip: told in the audit as questions, which ``prepare`` shows.

Two spellings of one name make two classes, or two studies. A value below 0, alone in its column, is most likely a mark
of a missing one. Neither is changed here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from toxfusion.study.names import NEAR

if TYPE_CHECKING:
    from toxfusion.study.audit import Audit
    from toxfusion.study.study import Study

STAGE = "prepare"
#: what pandas and R write behind a name that a table has twice
_REPEATED = re.compile(r"(?<=\D)\.\d+$")


def same_name(name: str) -> str:
    """What two spellings of a name have in common that differ in letter case, width of letters, or blanks alone."""
    return "".join(unicodedata.normalize("NFKC", name).casefold().split())


def alike(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Each name that differs from an earlier one in letter case or blanks alone, and that one."""
    first: dict[str, str] = {}
    for name in dict.fromkeys(names):
        known = first.setdefault(same_name(name), name)
        if known != name:
            yield name, known


def audit_doubts(study: Study, audit: Audit) -> None:
    """Record what looks like a slip, in the columns of obs and among the names and values of findings and chemistry."""
    obs = study.obs
    for column in obs.columns:
        if obs[column].dtype == object:
            texts = (value for value in obs[column] if isinstance(value, str))
            _ask_of_names(audit, f"value of {column}", "values", texts)
    tables = {"finding": study.findings, "analyte": study.chemistry}
    for what, table in tables.items():
        if table is not None:
            names = [str(name) for name in table.columns]
            _ask_of_names(audit, what, "columns", names)
            for name in names:
                before = _REPEATED.sub("", name)
                if before != name and before in names:
                    audit.change(STAGE, what, name, f"kept; {NEAR} {before!r}, whose column is there twice?")
    numbers = pd.concat([obs, *(table for table in (study.chemistry,) if table is not None)], axis=1)
    for measure, values in numbers.select_dtypes("number").items():
        _ask_of_marks(audit, str(measure), values)


def _ask_of_names(audit: Audit, kind: str, what: str, names: Iterable[str]) -> None:
    for name, known in alike(names):
        audit.change(
            STAGE,
            kind,
            name,
            f"kept; {NEAR} {known!r}? They differ in case or blanks alone, and are two {what}",
        )


def _ask_of_marks(audit: Audit, column: str, values: pd.Series) -> None:
    known = values.dropna().astype(np.float64)
    low = known[known < 0]
    if low.nunique() == 1 and (known > 0).any():
        audit.change(
            STAGE, f"value of {column}", f"{low.iloc[0]:g}",
            f"kept; {NEAR} a missing value, which is an empty cell? It is the only one below 0, at {len(low)} samples "
            f"({low.index[0]} ...)",
        )  # fmt: skip
