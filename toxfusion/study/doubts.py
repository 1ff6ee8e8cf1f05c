"""Values that a study may hold and that look like a slip: told in the audit as questions, which ``prepare`` shows.

Two spellings of one name make two classes, or two studies. A value below 0 alone in its column, nines far above all
others, and words for what is not known are most likely marks of a missing one. One word makes a column of numbers text.
A group of controls without a control, and one image of two samples, are most likely misspelt. None is changed here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from toxfusion.study.names import NEAR, strangers
from toxfusion.study.rules import CONTRACT_COLUMNS, StudyTables

if TYPE_CHECKING:
    from toxfusion.study.audit import Audit

STAGE = "prepare"
#: words for what is not known, letter case aside; `MISSING_MARKS` are read as missing already, None is a word
_UNKNOWN = frozenset(
    ("na", "n.a.", "n.a", "nd", "n.d.", "n.d", "n/d", "-", "--", "---", ".", "?", "unknown", "not known", "missing",
     "not available", "not determined", "tbd", "k.a.", "unbekannt", "inconnu")
)  # fmt: skip
_NINES = re.compile(r"9{3,}")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
_WHOLE = re.compile(r"([+-]?\d+)\.0+")
#: from this share of its values on that are numbers, a column of text was meant as one of numbers
_MOSTLY = 2 / 3
#: the file of a MuData study: all its slides are in it
_VECTORS = ".h5mu"
#: what pandas and R write behind a name that a table has twice
_REPEATED = re.compile(r"(?<=\D)\.\d+$")


def same_name(name: str) -> str:
    """What two spellings of a name have in common that differ in letter case, width of letters, blanks, or the decimal
    of a whole number alone."""
    plain = "".join(unicodedata.normalize("NFKC", name).casefold().split())
    return whole[1] if (whole := _WHOLE.fullmatch(plain)) else plain


def alike(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Each name that differs from an earlier one in what `same_name` passes over, and that one."""
    first: dict[str, str] = {}
    for name in dict.fromkeys(names):
        known = first.setdefault(same_name(name), name)
        if known != name:
            yield name, known


def audit_doubts(study: StudyTables, audit: Audit) -> None:
    """Record what looks like a slip, in the columns of obs and among the names and values of findings and chemistry."""
    obs = study.obs
    for column in map(str, obs.columns):
        if obs[column].dtype == object:
            texts = obs[column][[isinstance(value, str) and value != "" for value in obs[column]]]
            _ask_of_names(audit, f"value of {column}", "values", texts)
            _ask_of_words(audit, column, texts)
            if column not in CONTRACT_COLUMNS:
                _ask_of_text(audit, column, texts)
    _ask_of_controls(audit, obs)
    _ask_of_images(audit, study.slides)
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
            f"kept; {NEAR} {known!r}? They differ in case, blanks or a decimal alone, and are two {what}",
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
    largest = known.max() if len(known) else 0.0
    others = known[known < largest]
    if _NINES.fullmatch(f"{largest:.0f}") and len(others) and others.max() < largest / 3:
        at = known.index[known == largest]
        audit.change(
            STAGE, f"value of {column}", f"{largest:.0f}",
            f"kept; {NEAR} a missing value, which is an empty cell? No other is above {others.max():g}; it is at "
            f"{len(at)} samples ({at[0]} ...)",
        )  # fmt: skip


def _ask_of_words(audit: Audit, column: str, texts: pd.Series) -> None:
    """Words for what is not known, beside others in their column: a class of their own."""
    words = list(dict.fromkeys(texts))
    unknown = [word for word in words if word.casefold() in _UNKNOWN]
    if len(unknown) < len(words):
        for word in unknown:
            audit.change(
                STAGE, f"value of {column}", word,
                f"kept as a word; {NEAR} a missing value, which is an empty cell? It is at {(texts == word).sum()} "
                f"samples ({texts.index[texts == word][0]} ...)",
            )  # fmt: skip


def _ask_of_text(audit: Audit, column: str, texts: pd.Series) -> None:
    """A column that is text for a few words among its numbers, or for its decimal commas."""
    commas = texts.map(lambda text: bool(_DECIMAL_COMMA.fullmatch(text)))
    values = pd.to_numeric(texts.mask(commas, texts.str.replace(",", ".")).astype(object), errors="coerce")
    words = texts[values.isna()]
    if not len(texts) or values.notna().mean() < _MOSTLY or not (len(words) or commas.any()):
        return
    odd = words if len(words) else texts[commas]
    what = "with a decimal point" if commas.any() else "or an empty cell"
    audit.change(
        STAGE, f"value of {column}", str(odd.iloc[0]),
        f"kept, and the column is text; {NEAR} a number {what}? {int(values.notna().sum())} of its {len(texts)} values "
        f"are numbers, but not that of {odd.index[0]}",
    )  # fmt: skip


def _ask_of_controls(audit: Audit, obs: pd.DataFrame) -> None:
    """Groups of controls that no vehicle control is of."""
    groups = obs["control_group"][obs["control_group"] != ""]
    with_control = set(groups[obs.loc[groups.index, "is_control"]])
    without = groups[~groups.isin(with_control)]
    if not with_control:
        return
    near = strangers(without, with_control).near
    for name, of in without.groupby(without, sort=False):
        meant = repr(near[str(name)]) if near[str(name)] else "another"
        audit.change(
            STAGE, "control_group", str(name),
            f"kept; {NEAR} {meant}? None of its {len(of)} samples ({of.index[0]} ...) is a vehicle control",
        )  # fmt: skip


def _ask_of_images(audit: Audit, slides: pd.DataFrame) -> None:
    """Whole images that are the slide of two samples."""
    whole = slides[slides["x"].isna() & ~slides["path"].str.endswith(_VECTORS)]
    for path, of in whole.groupby("path", sort=False)["sample_id"]:
        for slide_id, sample in of[of != of.iloc[0]].items():
            audit.change(
                STAGE, "slide", str(slide_id),
                f"kept; {NEAR} another image? That of {sample!r}, {path}, is also that of {of.iloc[0]!r}",
            )  # fmt: skip
