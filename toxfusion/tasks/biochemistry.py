"""Serum chemistry of the sample, standardised by the training samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats
from torch import Tensor, nn

from toxfusion.models.heads import RegressionHead
from toxfusion.objectives.classification import MaskedRegression
from toxfusion.study.audit import Audit
from toxfusion.study.rules import EXPRESSION_FILE
from toxfusion.study.study import Study
from toxfusion.study.vocabulary import BIOCHEMISTRY, BIOCHEMISTRY_PREFIX
from toxfusion.tasks.task import SampleTask, TaskError

LEAST_SKEWNESS = 1.0
"""Sample skewness of training values above which a positive analyte is put on the log scale."""


class Biochemistry(SampleTask):
    """A value of each analyte, in deviations of the training samples.

    Attributes:
        chosen: columns of ``study.chemistry`` that are predicted; fitted.
        on_log: which of them are on the natural log scale; fitted.
        mean, deviation: of training samples, on that scale; fitted.

    Args:
        analytes: names, or "auto" for every one measured in ``min_animals`` animals of ``min_compounds`` compounds of
            the whole study (a choice of what to score, by presence alone) that varies in training; None for no such
            task.
        log: take the log of analytes that are positive and skewed (skewness above 1) in training.
        weight: of the task in the loss.
    """

    name = headline = BIOCHEMISTRY
    family = "value"
    source = "chemistry"
    fitted = ("chosen", "on_log", "mean", "deviation")

    def __init__(
        self,
        analytes: Sequence[str] | str | None = "auto",
        *,
        log: bool = True,
        min_animals: int = 10,
        min_compounds: int = 4,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight=weight)
        self.analytes = (analytes,) if isinstance(analytes, str) and analytes != "auto" else analytes
        self.log, self.min_animals, self.min_compounds = log, min_animals, min_compounds
        self.chosen: tuple[str, ...] = ()
        self.on_log: tuple[bool, ...] = ()
        self.mean: tuple[float, ...] = ()
        self.deviation: tuple[float, ...] = ()

    @property
    def wanted(self) -> bool:
        return self.analytes is not None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{BIOCHEMISTRY_PREFIX}{a}" for a in self.chosen)

    def learn(self, study: Study, train: Sequence[str], audit: Audit) -> None:
        """Scale of each analyte.

        Raises:
            TaskError: no chemistry, an unknown analyte, or one without two different training values.
        """
        where = f"obsm['chemistry'] of {study.root / EXPRESSION_FILE}"
        table = study.chemistry
        if table is None or table.empty:
            raise TaskError(f"task.biochemistry: {where} is absent; add it, or set task.biochemistry=null")
        asked = self._measured_enough(study, audit) if self.analytes == "auto" else list(self.analytes or ())
        unknown = [a for a in asked if a not in table.columns]
        if unknown:
            raise TaskError(f"task.biochemistry: {unknown} not in {where}; known: {list(table.columns)}")
        scales = {name: self._scale(study, train, name, where, audit) for name in asked}
        known = {name: scale for name, scale in scales.items() if scale is not None}
        if not known:
            raise TaskError(
                f"task.biochemistry: no analyte of {where} is measured in {self.min_animals} animals of "
                f"{self.min_compounds} compounds and varies in training; set task.min_animals or task.min_compounds "
                "lower, or task.biochemistry=null"
            )
        self.chosen = tuple(known)
        self.on_log, self.mean, self.deviation = zip(*known.values(), strict=True)

    def _scale(
        self, study: Study, train: Sequence[str], name: str, where: str, audit: Audit
    ) -> tuple[bool, float, float] | None:
        """Whether on the log scale, mean and deviation of an analyte; None where "auto" passes over it."""
        assert study.chemistry is not None, "asked of a study with chemistry"
        column = study.chemistry[name]
        values = column[list(train)].dropna().to_numpy(np.float64)
        if len(np.unique(values)) < 2:
            if self.analytes != "auto":
                raise TaskError(
                    f"task.biochemistry: {name!r} of {where} has {len(values)} training values, none of them "
                    "different from the others; leave it out"
                )
            audit.drop("labels", "analyte", name, "does not vary among training samples")
            return None
        on_log = self.log and bool((values > 0).all() and stats.skew(values) > LEAST_SKEWNESS)
        if on_log:
            for sample in study.chemistry.index[column <= 0]:
                audit.drop("labels", f"analyte {name}", str(sample), "not positive, on a log scale: no label")
        scaled = np.log(values) if on_log else values
        return on_log, float(scaled.mean()), float(scaled.std())

    def _measured_enough(self, study: Study, audit: Audit) -> list[str]:
        table = study.chemistry
        assert table is not None, "asked of a study with chemistry"
        kept = []
        for name in table.columns:
            measured = study.obs[table[name].notna().to_numpy()]
            animals, compounds = measured["animal_id"].nunique(), measured["compound"].nunique()
            if animals >= self.min_animals and compounds >= self.min_compounds:
                kept.append(str(name))
            else:
                reason = f"measured in {animals} animals of {compounds} compounds"
                audit.drop("labels", "analyte", str(name), reason)
        return kept

    def labels(self, study: Study, sample_ids: Sequence[str]) -> np.ndarray:
        """float32 [n, analytes], standardised; NaN where not measured, or not positive on a log scale."""
        if study.chemistry is None:
            return np.full((len(sample_ids), len(self.chosen)), np.nan, np.float32)
        scaled = study.chemistry.reindex(index=list(sample_ids), columns=list(self.chosen)).to_numpy(
            np.float64
        )
        for i, on_log in enumerate(self.on_log):
            if on_log:
                column = scaled[:, i]
                scaled[:, i] = np.log(column, where=column > 0, out=np.full(len(column), np.nan))
        return ((scaled - np.array(self.mean)) / np.array(self.deviation)).astype(np.float32)

    def head(self, width: int) -> nn.Module:
        return RegressionHead(width, len(self.chosen))

    def objective(self, labels: Tensor) -> nn.Module:
        return MaskedRegression()

    def targets(self, head: nn.Module, vector: Tensor) -> Tensor:
        return head(vector)

    def scores(self, head: nn.Module, vectors: Tensor) -> Tensor:
        return head(vectors)
