"""Names of one table among those of another: which match, which do not, and what those come near to.

Every table of names that a source or a split takes passes here, so that none can match nothing in silence.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from toxfusion.study.audit import Audit
from toxfusion.study.tables import TableError

#: Names that came near to another are told with this in their reason, and ``prepare`` shows them first.
NEAR = "did you mean"
_COMPARED = 2000
_MARK = re.compile(r"[^\w]|_")
_ADDED = re.compile(r"^X(?=\d)|(?<=\d)\.0$")
#: what R and pandas write behind a name that a table has twice
_REPEATED = re.compile(r"\.\d+$")


@dataclass(frozen=True)
class Strangers:
    """Names that are not among the known ones.

    Attributes:
        near: name -> the known name that it comes near to, "" for none.
    """

    near: dict[str, str]

    def told(self, name: str) -> str:
        """What to add to a reason: the near name, or nothing."""
        return f"; {NEAR} {self.near[name]!r}?" if self.near.get(name) else ""

    def all_told(self, most: int = 3) -> str:
        """The first names, those with a near one first, in one phrase."""
        ordered = sorted(self.near, key=lambda name: not self.near[name])
        shown = [
            f"{name!r} ({NEAR} {self.near[name]!r}?)" if self.near[name] else repr(name) for name in ordered
        ]
        return ", ".join(shown[:most]) + (", ..." if len(shown) > most else "")


def strangers(names: Iterable[object], known: Iterable[object]) -> Strangers:
    """The names that are not among ``known``, each with the free known name that it comes near to.

    Near is a name that differs in blanks, letter case, accents, dashes, leading zeros or marks alone, in the X of R or
    the decimal of a spreadsheet; then one that goes on behind a mark (S1 of S1.CEL.gz, S1_rep1 or S1-liver); then the
    closest of a few by spelling. A known name that some other name already is in full is no candidate, but for one that
    R or pandas has numbered as a repeat of it (S1.1).
    """
    asked = list(dict.fromkeys(map(str, names)))
    among = list(dict.fromkeys(map(str, known)))
    taken, there = set(asked), set(among)
    odd = [name for name in asked if name not in there]
    if not odd:
        return Strangers({})
    free = [name for name in among if name not in taken]
    by_plain: dict[str, str] = {}
    for name in free:
        by_plain.setdefault(_core(name), name)
    longer: dict[str, set[str]] = {}
    for name in free:
        for part in _parts(name):
            longer.setdefault(_core(part), set()).add(name)
    near: dict[str, str] = {}
    for position, name in enumerate(odd):
        close = next(
            (by_plain[core] for part in (name, *_parts(name)) if (core := _core(part)) in by_plain), ""
        )
        goes_on = longer.get(_core(name), set())
        if not close and len(goes_on) == 1:
            close = next(iter(goes_on))
        if not close and (repeated := _REPEATED.sub("", name)) != name and repeated in there:
            close = repeated
        if not close and position < 20 and len(free) <= _COMPARED:
            close = next(iter(difflib.get_close_matches(name, free, n=1, cutoff=0.8)), "")
        near[name] = close
    return Strangers(near)


def plain_name(name: str) -> str:
    """Letters and digits only, without case, accents and leading zeros of numbers."""
    letters = unicodedata.normalize("NFKD", name).casefold()
    return re.sub(r"(?<!\d)0+(?=\d)", "", re.sub(r"[^\w]|_", "", letters))


def _core(name: str) -> str:
    """`plain_name` without the X that R puts before a digit, and without the decimal that a spreadsheet puts behind."""
    return plain_name(_ADDED.sub("", name)) or name


def _parts(name: str) -> Iterator[str]:
    """A name without what is behind one of its marks, the longest first: S1.CEL.gz gives S1.CEL and S1."""
    for mark in reversed(list(_MARK.finditer(name))):
        if mark.start():
            yield name[: mark.start()]


def drop_strangers(
    names: Sequence[str],
    known: Iterable[str],
    *,
    path: Path | str,
    column: str,
    kind: str,
    of: str,
    audit: Audit,
    stage: str,
    ids: Sequence[str] | None = None,
    said: str = "",
) -> list[bool]:
    """Whether each name is known; the others are audited, with the known name that they come near to.

    Args:
        names: of a column of a table.
        known: those of ``of`` ("the sample table").
        kind, ids: of the record in the audit; the names themselves where no ids are given.
        said: at the start of its reason.

    Raises:
        TableError: there are names, and none of them is known.
    """
    among = set(known)
    kept = [name in among for name in names]
    if all(kept):
        return kept
    lost = strangers(names, sorted(among))
    if not any(kept):
        raise TableError(
            f"{path}, column {column!r}: none of its {len(names)} names is in {of}: {lost.all_told()}; {of} has "
            f"{', '.join(map(repr, sorted(among)[:3]))}; use the same names"
        )
    for name, identity, there in zip(names, names if ids is None else ids, kept, strict=True):
        if not there:
            what = "" if ids is None else f"its {column} {name!r} is "
            audit.drop(stage, kind, identity, f"{said}{what}not in {of}{lost.told(name)}")
    return kept
