"""Words that more than one room says: dose levels, grades, and the names of tasks and of their groups."""

from __future__ import annotations

from collections.abc import Iterable

DOSE_LEVELS = ("control", "low", "middle", "high")
"""Dose levels of a study in their order; "" stands for a level that is not known."""
TREATED_LEVELS = DOSE_LEVELS[1:]
DOSE_ORDER = {level: place for place, level in enumerate((*DOSE_LEVELS, ""))}
"""Place of a dose level in a table; what is not known comes last."""

GRADES = (0, 1, 2, 3, 4)
"""Grades of a finding: none, minimal, slight, moderate, severe."""
N_GRADES, MAX_GRADE = len(GRADES), GRADES[-1]

DILI, INJURY, SEVERITY, SURVIVAL = "dili", "injury", "severity", "survival"
LESIONS, SUBTYPE, BIOCHEMISTRY = "lesions", "subtype", "biochemistry"
"""Groups of tasks that are averaged into one headline."""
LESION_PREFIX, SUBTYPE_PREFIX, BIOCHEMISTRY_PREFIX = "lesion:", "subtype:", "biochemistry:"

_TITLES = {
    DILI: "DILI of compounds",
    INJURY: "Injury of dose groups",
    LESIONS: "Lesions of animals, macro average",
    SEVERITY: "Severity of animals",
    SURVIVAL: "Survival of samples",
    SUBTYPE: "Subtype of samples, one against the rest, macro average",
    BIOCHEMISTRY: "Serum chemistry of samples, macro average",
}
_MEMBERS = {LESIONS: "lesions", SUBTYPE: "classes", BIOCHEMISTRY: "analytes"}


def title_of(headline: str) -> str:
    """What a headline is called in tables and figures; a task of one's own goes by its name."""
    return _TITLES.get(headline, headline)


def members_of(headline: str) -> str:
    """What the tasks of an averaged headline are called: lesions, classes, analytes."""
    return _MEMBERS.get(headline, "tasks")


def short_name(task: str) -> str:
    """The name of a task within its group: "Necrosis" of "lesion:Necrosis"."""
    return task.partition(":")[2] or task


def in_order(headlines: Iterable[str]) -> list[str]:
    """Distinct headlines in the order of tables: the known ones first, then others by name."""
    known = list(_TITLES)
    return sorted(set(headlines), key=lambda h: (known.index(h) if h in known else len(known), h))
