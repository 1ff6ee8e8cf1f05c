"""What is predicted, and at which level: DILI of compounds, injury of dose groups, all else of samples."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np

from toxfusion.study.audit import Audit
from toxfusion.study.vocabulary import (
    BIOCHEMISTRY,
    BIOCHEMISTRY_PREFIX,
    LESION_PREFIX,
    LESIONS,
    SUBTYPE,
    SUBTYPE_PREFIX,
)
from toxfusion.tasks.outcomes import Biochemistry, Subtype, Survival, SurvivalSettings, TaskError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from toxfusion.study.study import Study

OrdinalMethod = Literal["coral", "corn"]


#: Headline -> family of measurement.
FAMILIES: dict[str, Literal["binary", "ordinal", "survival", "classes", "value"]] = {
    "dili": "binary",
    "injury": "binary",
    LESIONS: "binary",
    "severity": "ordinal",
    "survival": "survival",
    SUBTYPE: "classes",
    BIOCHEMISTRY: "value",
}


def measured_as(task: str) -> dict[str, Any]:
    """Family and headline of a task of the predictions table."""
    groups = {LESION_PREFIX: LESIONS, SUBTYPE_PREFIX: SUBTYPE, BIOCHEMISTRY_PREFIX: BIOCHEMISTRY}
    headline = next((of for prefix, of in groups.items() if task.startswith(prefix)), task)
    return {"family": FAMILIES[headline], "headline": headline}


@dataclass(frozen=True)
class Tasks:
    """The labels of one run.

    Attributes:
        dili: drug-induced liver injury of the compound; vehicle controls carry no label.
        injury: two or more of five animals of the dose group affected; vehicle controls carry no label.
        lesions: finding terms, each present (grade 1 or more) or absent in the animal.
        severity: the highest grade of any finding of the animal, 0 to 4.
        severity_loss: how grades are learned, "coral" or "corn".
        survival, subtype, biochemistry: of the sample, with what was fitted on training samples; None for none.
    """

    dili: bool
    injury: bool
    lesions: tuple[str, ...]
    severity: bool
    severity_loss: OrdinalMethod = "coral"
    survival: Survival | None = None
    subtype: Subtype | None = None
    biochemistry: Biochemistry | None = None

    def __bool__(self) -> bool:
        """Whether there is anything to predict."""
        fitted = self.survival or self.subtype or self.biochemistry
        return bool(self.dili or self.injury or self.lesions or self.severity or fitted)

    def state(self) -> dict[str, Any]:
        """Plain types, for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Tasks:
        """The tasks of a checkpoint; those of before there was survival, subtype and biochemistry lack these."""
        fitted: dict[str, Any] = {"survival": Survival, "subtype": Subtype, "biochemistry": Biochemistry}
        plain = {k: v for k, v in state.items() if k not in fitted}
        for name, kind in fitted.items():
            if state.get(name) is not None:
                values = {k: tuple(v) if isinstance(v, list) else v for k, v in state[name].items()}
                plain[name] = kind(**values)
        return cls(**{**plain, "lesions": tuple(state["lesions"])})

    @property
    def lesion_tasks(self) -> tuple[str, ...]:
        """Names of the lesion tasks in the predictions table."""
        return tuple(f"{LESION_PREFIX}{term}" for term in self.lesions)

    @property
    def subtype_tasks(self) -> tuple[str, ...]:
        """Names of the classes in the predictions table, each against the rest."""
        return () if self.subtype is None else tuple(f"{SUBTYPE_PREFIX}{c}" for c in self.subtype.classes)

    @property
    def biochemistry_tasks(self) -> tuple[str, ...]:
        """Names of the analytes in the predictions table."""
        analytes = () if self.biochemistry is None else self.biochemistry.analytes
        return tuple(f"{BIOCHEMISTRY_PREFIX}{a}" for a in analytes)

    def labels(self, study: Study, sample_ids: Sequence[str]) -> dict[str, np.ndarray]:
        """Labels of samples, float32, NaN where there is none.

        Returns:
            "dili" [n], "injury" [n], "lesions" [n, L], "severity" [n], "survival" [n, 2] (time, event), "subtype"
            [n] (position of the class) and "biochemistry" [n, analytes] (standardised), as far as switched on.
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
        for name, fitted in (
            ("survival", self.survival),
            ("subtype", self.subtype),
            ("biochemistry", self.biochemistry),
        ):
            if fitted is not None:
                out[name] = fitted.labels(study, sample_ids)
        return out


def resolve_tasks(
    study: Study,
    *,
    dili: bool,
    injury: bool,
    lesions: Sequence[str] | str | None,
    severity: bool,
    severity_loss: str = "coral",
    survival: SurvivalSettings | None = None,
    subtype: str | None = None,
    classes: Sequence[str] | str | None = None,
    biochemistry: Sequence[str] | str | None = None,
    biochemistry_log: bool = True,
    min_animals: int = 10,
    min_compounds: int = 4,
    train: Sequence[str] = (),
    audit: Audit | None = None,
) -> Tasks:
    """Turn the task settings into a task list for one study.

    Args:
        lesions: terms; "auto" for every term seen in at least ``min_animals`` animals of at least ``min_compounds``
            compounds of the whole study (a choice of what to score, by prevalence alone); None for no lesions.
        subtype: a column of obs that holds classes.
        classes: those of them to tell apart; None for all that training samples have.
        biochemistry, biochemistry_log: as ``analytes`` and ``log`` of `Biochemistry.fit`.
        train: training samples, on which survival, subtype and biochemistry are fitted.
        audit: takes the labels that are left out.

    Raises:
        TaskError: an unknown value, a term, column or analyte that the study does not have, or no label of a
            task that is switched on.
        StudyError: a column whose values break the rules of its kind.
    """
    if severity_loss not in get_args(OrdinalMethod):
        raise TaskError(f"task.severity_loss: {severity_loss!r} is none of coral, corn; take one of them")
    audit = Audit() if audit is None else audit
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
    enough = {"min_animals": min_animals, "min_compounds": min_compounds}
    return Tasks(
        dili=dili,
        injury=injury,
        lesions=chosen,
        severity=severity,
        severity_loss=cast(OrdinalMethod, severity_loss),
        survival=None
        if survival is None or survival.method is None
        else Survival.fit(study, train, survival, audit),
        subtype=None
        if subtype is None
        else Subtype.fit(study, train, subtype, audit, [classes] if isinstance(classes, str) else classes),
        biochemistry=None
        if biochemistry is None
        else Biochemistry.fit(study, train, biochemistry, log=biochemistry_log, **enough, audit=audit),
    )
