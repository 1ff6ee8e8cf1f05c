"""Which clinical columns would give a label away, by name and with the reason."""

from __future__ import annotations

import re
from collections.abc import Sequence

from toxfusion.data.clinical import ClinicalError
from toxfusion.study.study import Study
from toxfusion.tasks.task_set import TaskSet

_UNITS = ("animal_id", "compound", "group_id", "control_group", "study")
_ALWAYS = {
    **dict.fromkeys(("dili", "injury"), "it is a label"),
    **dict.fromkeys(
        _UNITS, "it names the unit that a split keeps whole, so that no test sample has a known value"
    ),
    "slide_id": "it names a slide",
}
_OUTCOME = re.compile(
    r"surviv|censor|vital_status|deceased|^event$|^dead$|days_to|follow_?up|recurren|progression|relapse|"
    r"(^|_)(os|dss|dfs|dfi|pfs|pfi)(_|$)",
    re.IGNORECASE,
)


def refuse_leaks(names: Sequence[str], study: Study, tasks: TaskSet) -> None:
    """Refuse clinical columns that are a label, that a label is made from, or that name who is tested.

    Args:
        names: of the columns asked for.

    Raises:
        ClinicalError: the first such column, with the reason.
    """
    for name in names:
        reason = _reason(name, study, tasks)
        if reason:
            raise ClinicalError(f"clinical: {name!r} would leak: {reason}; leave it out")


def _reason(name: str, study: Study, tasks: TaskSet) -> str:
    """Why a column may not be read; empty where it may."""
    if name in _ALWAYS:
        return _ALWAYS[name]
    for task in tasks:
        if name in task.columns:
            return f"the task {task.name} predicts it"
    if study.chemistry is not None and name in study.chemistry.columns and tasks.chemistry:
        return "the task biochemistry predicts serum chemistry, and analytes of one serum tell of each other"
    if name in study.findings.columns or re.search(
        r"(^|_)(finding|grade|lesion)s?(_|$)", name, re.IGNORECASE
    ):
        return "it is what a pathologist saw on the slide, which labels are made from"
    if _OUTCOME.search(name):
        return "it tells what became of the patient after the sample was taken"
    return ""
