"""What is predicted, and at which level: DILI of compounds, injury of dose groups, lesions and severity of samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from toxfusion.data.study import Study

LESION_PREFIX = "lesion:"


class TaskError(ValueError):
    """A task that the study has no labels for."""


@dataclass(frozen=True)
class Tasks:
    """The labels of one run.

    Attributes:
        dili: drug-induced liver injury of the compound; vehicle controls carry no label.
        injury: two or more of five animals of the dose group affected; vehicle controls carry no label.
        lesions: finding terms, each present (grade 1 or more) or absent in the animal.
        severity: the highest grade of any finding of the animal, 0 to 4.
    """

    dili: bool
    injury: bool
    lesions: tuple[str, ...]
    severity: bool

    def __bool__(self) -> bool:
        """Whether there is anything to predict."""
        return bool(self.dili or self.injury or self.lesions or self.severity)

    @property
    def lesion_tasks(self) -> tuple[str, ...]:
        """Names of the lesion tasks in the predictions table."""
        return tuple(f"{LESION_PREFIX}{term}" for term in self.lesions)

    def labels(self, study: Study, sample_ids: Sequence[str]) -> dict[str, np.ndarray]:
        """Labels of samples, float32, NaN where there is none.

        Returns:
            "dili" [n], "injury" [n], "lesions" [n, L] and "severity" [n], as far as switched on.
        """
        obs = study.obs.loc[list(sample_ids)]
        treated = ~obs["is_control"].to_numpy(dtype=bool)
        out: dict[str, np.ndarray] = {}
        if self.dili:
            out["dili"] = np.where(treated, obs["dili"].to_numpy(np.float32), np.nan).astype(np.float32)
        if self.injury:
            out["injury"] = np.where(treated, obs["injury"].to_numpy(np.float32), np.nan).astype(np.float32)
        grades = study.findings.loc[list(sample_ids)]
        if self.lesions:
            # A study to be scored may lack a term altogether: no label then.
            chosen = grades.reindex(columns=list(self.lesions)).to_numpy(np.float32)
            out["lesions"] = np.where(np.isnan(chosen), np.nan, chosen >= 1).astype(np.float32)
        if self.severity:
            out["severity"] = grades.max(axis=1, skipna=True).to_numpy(np.float32)
        return out


def resolve_tasks(
    study: Study,
    *,
    dili: bool,
    injury: bool,
    lesions: Sequence[str] | str | None,
    severity: bool,
    min_animals: int = 10,
    min_compounds: int = 4,
) -> Tasks:
    """Turn the task settings into a task list for one study.

    Args:
        lesions: terms; "auto" for every term seen in at least ``min_animals`` animals of at least ``min_compounds``
            compounds of the whole study (a choice of what to score, by prevalence alone); None for no lesions.

    Raises:
        TaskError: a term that the study does not have, or no label of a task that is switched on.
    """
    terms = list(study.findings.columns)
    if lesions is None:
        chosen: tuple[str, ...] = ()
    elif lesions == "auto":
        present = study.findings.ge(1)
        compounds = study.obs["compound"]
        chosen = tuple(
            t
            for t in terms
            if present[t].sum() >= min_animals and compounds[present[t].to_numpy()].nunique() >= min_compounds
        )
    else:
        chosen = (lesions,) if isinstance(lesions, str) else tuple(lesions)
        unknown = [t for t in chosen if t not in terms]
        if unknown:
            raise TaskError(
                f"task.lesions: {unknown} not among the findings of {study.root / 'expression.h5ad'}; known: {terms}"
            )
    for name, wanted in (("dili", dili), ("injury", injury)):
        if wanted and study.obs.loc[~study.obs["is_control"].astype(bool), name].isna().all():
            raise TaskError(
                f"task.{name}: column {name!r} of {study.root / 'expression.h5ad'} has no label for a treated sample; "
                f"add labels or set task.{name}=false"
            )
    return Tasks(dili=dili, injury=injury, lesions=chosen, severity=severity)
