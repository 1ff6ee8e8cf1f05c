"""Lesions of the animal: which of the pathologists' findings it shows, each present (grade 1 or more) or absent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

from toxfusion.models.heads import MultiLabelHead
from toxfusion.objectives.classification import MaskedBCE, positive_weights
from toxfusion.study.audit import Audit
from toxfusion.study.rules import EXPRESSION_FILE
from toxfusion.study.study import Study
from toxfusion.study.vocabulary import LESION_PREFIX, LESIONS
from toxfusion.tasks.task import SampleTask, TaskError


class Lesions(SampleTask):
    """A probability for each finding term.

    Attributes:
        chosen: the terms that are predicted, in the order of the scores; fitted.

    Args:
        terms: finding terms; "auto" for every term seen in at least ``min_animals`` animals of at least
            ``min_compounds`` compounds of the whole study (a choice of what to score, by prevalence alone); None or
            none for no such task.
        weight: of the task in the loss.
    """

    name = headline = LESIONS
    family = "binary"
    source = "findings"
    fitted = ("chosen",)

    def __init__(
        self,
        terms: Sequence[str] | str | None = "auto",
        *,
        min_animals: int = 10,
        min_compounds: int = 4,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight=weight)
        self.terms = (terms,) if isinstance(terms, str) and terms != "auto" else terms
        self.min_animals, self.min_compounds = min_animals, min_compounds
        self.chosen: tuple[str, ...] = ()

    @property
    def wanted(self) -> bool:
        return bool(self.terms)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{LESION_PREFIX}{term}" for term in self.chosen)

    def learn(self, study: Study, train: Sequence[str], audit: Audit) -> None:
        known = list(study.findings.columns)
        if self.terms == "auto":
            present, compounds = study.findings.ge(1), study.obs["compound"]
            self.chosen = tuple(
                t
                for t in known
                if present[t].sum() >= self.min_animals
                and compounds[present[t].to_numpy()].nunique() >= self.min_compounds
            )
            if not self.chosen:
                few = f"no finding in {self.min_animals} animals of {self.min_compounds} compounds"
                audit.drop("labels", "task", "lesions", few)
            return
        self.chosen = tuple(self.terms or ())
        unknown = [t for t in self.chosen if t not in known]
        if unknown:
            raise TaskError(
                f"task.lesions: {unknown} not among the findings of {study.root / EXPRESSION_FILE}; known: {known}"
            )

    def labels(self, study: Study, sample_ids: Sequence[str]) -> np.ndarray:
        """float32 [n, terms], 1 where the grade is 1 or more; NaN where it was not examined."""
        grades = study.findings.loc[list(sample_ids)]
        # A study to be scored may lack a term altogether: no label then.
        chosen = grades.reindex(columns=list(self.chosen)).to_numpy(np.float32)
        return np.where(np.isnan(chosen), np.nan, chosen >= 1).astype(np.float32)

    def head(self, width: int) -> nn.Module:
        return MultiLabelHead(width, len(self.chosen))

    def objective(self, labels: Tensor) -> nn.Module:
        return MaskedBCE(positive_weights(labels))

    def targets(self, head: nn.Module, vector: Tensor) -> Tensor:
        return head(vector)

    def scores(self, head: nn.Module, vectors: Tensor) -> Tensor:
        return head(vectors).sigmoid()
