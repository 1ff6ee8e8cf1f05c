"""Clinical columns as an input: what was known or measured of a sample beside its slide and its profile.

Age and sex of a patient; dose, time, weights and serum chemistry of an animal. Everything is fitted on training
samples. Which columns a task forbids is said in toxfusion.tasks.clinical_leaks.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from toxfusion.data.group_scaling import POOLED, GroupScaler, Within
from toxfusion.distributed.ranks import is_rank_zero
from toxfusion.study.audit import Audit
from toxfusion.study.rules import EXPRESSION_FILE
from toxfusion.study.study import Study

STAGE = "clinical"
CLIP = 5.0
"""Bound of a standardised number, in deviations."""
LEAST_SPREAD = 0.1
"""Least deviation of a group, as a share of that of all training samples."""
LEAST_SKEWNESS = 1.0
"""Sample skewness of training values above which a number that is never negative is read as log(1 + x)."""
LEAST_OF_CATEGORY = 5
"""A category of fewer training samples is read as missing."""
MOST_CATEGORIES = 30


class ClinicalError(ValueError):
    """A clinical column that is not there, that cannot be read, or that would give the label away."""


@dataclass(frozen=True)
class Numbers:
    """A numeric column in deviations from the training mean.

    Attributes:
        name: of the column.
        logarithm: whether it is read as log(1 + x).
        scaler: mean and deviation, within groups of samples where there are any.
        token: whether training samples miss it, so that being missing is an entry of its own.
    """

    name: str
    logarithm: bool
    scaler: GroupScaler
    token: bool

    @property
    def entries(self) -> list[str]:
        """Names of what is read of the column."""
        return [self.name]

    def encode(self, values: pd.Series, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """float [n, 1] with 0 where nothing is known, and bool [n], where that is."""
        numbers = _numbers(values, self.logarithm)
        standard = self.scaler.standardised(numbers[:, None], groups)
        return np.clip(np.nan_to_num(standard), -CLIP, CLIP), np.isnan(numbers)

    def state(self) -> dict[str, Any]:
        """Tensors and plain types."""
        return {
            "name": self.name,
            "logarithm": self.logarithm,
            "scaler": self.scaler.state(),
            "token": self.token,
        }


@dataclass(frozen=True)
class Categories:
    """A column of words, or of two numbers: one entry a category, less its share in training.

    Attributes:
        name: of the column.
        words: categories seen in training often enough.
        shares: of the training samples in each.
        token: as of `Numbers`.
    """

    name: str
    words: tuple[str, ...]
    shares: tuple[float, ...]
    token: bool

    @property
    def _shown(self) -> slice:
        """Of two categories the second says all."""
        return slice(1, None) if len(self.words) == 2 else slice(None)

    @property
    def entries(self) -> list[str]:
        """Names of what is read of the column."""
        return [f"{self.name}: {word}" for word in self.words[self._shown]]

    def encode(self, values: pd.Series, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """float [n, entries] with 0 where nothing is known, and bool [n], where that is."""
        words = _words(values).to_numpy(object)
        equal = words[:, None] == np.array(self.words, object)
        missing = ~equal.any(1)
        centred = np.where(missing[:, None], 0.0, equal - np.array(self.shares))
        return centred[:, self._shown], missing

    def state(self) -> dict[str, Any]:
        """Plain types."""
        return {
            "name": self.name,
            "words": list(self.words),
            "shares": list(self.shares),
            "token": self.token,
        }


@dataclass(frozen=True)
class ClinicalColumns:
    """What heads read of clinical columns beside the fused vector.

    A number becomes deviations from the training mean, within the groups that expression is standardised in. Words
    become one entry a category. What is missing, or was never seen in training, is the training mean; where training
    samples miss a column, that it is missing is an entry of its own (0 or 1), and a head learns its weight.

    Attributes:
        columns: fitted.
        within: the groups that numbers are standardised in.
    """

    columns: tuple[Numbers | Categories, ...]
    within: Within

    @classmethod
    def fit(
        cls,
        study: Study,
        train: Sequence[str],
        names: Sequence[str],
        *,
        within: Mapping[str, Any] | None = None,
        audit: Audit | None = None,
    ) -> ClinicalColumns:
        """Scales and categories of training samples.

        Args:
            names: of columns of obs, or of serum chemistry.
            within: keywords of `Within`.
            audit: takes columns that do not vary in training, and categories that are too rare; both are left out.

        Raises:
            ClinicalError: a column that is not there, is there or named twice, or whose words are nearly all different.
            GroupError: the column of the groups is missing or empty.
        """
        twice = sorted({name for name in names if list(names).count(name) > 1})
        if twice:
            raise ClinicalError(f"clinical: {', '.join(twice)} is named twice; name each column once")
        grouping = Within(**(within or {}))
        positions, groups = study.positions(train), _groups(grouping, study)
        columns = []
        for name in names:
            values = _column(study, name)
            if values is None:
                raise ClinicalError(
                    f"clinical: {name!r} is no column of obs or obsm['chemistry'] of {study.root / EXPRESSION_FILE}; "
                    f"there are {[*study.obs.columns, *_chemistry(study)]}"
                )
            column = _fit(name, values.iloc[positions], groups[positions], grouping, audit)
            if column is None:
                _tell(audit, name, "does not vary among training samples: left out")
            else:
                columns.append(column)
        return cls(tuple(columns), grouping)

    @property
    def names(self) -> list[str]:
        """The columns."""
        return [column.name for column in self.columns]

    @property
    def entries(self) -> list[str]:
        """Names of the C entries: "age", "sex: male", "age: missing"."""
        return [
            entry
            for column in self.columns
            for entry in (*column.entries, *([f"{column.name}: missing"] if column.token else []))
        ]

    def missing(self, study: Study) -> pd.DataFrame:
        """bool, samples of a study x columns: what is missing or was never seen in training."""
        groups = _groups(self.within, study)
        parts = {c.name: c.encode(_read(study, c.name), groups)[1] for c in self.columns}
        return pd.DataFrame(parts, index=study.obs.index)

    def encode(self, study: Study, audit: Audit | None = None) -> np.ndarray:
        """float32 [n, C] of all samples of a study; 0 is the training mean.

        Args:
            audit: takes, for each column, how many samples are read as missing; they are printed too.

        Raises:
            GroupError: samples of a group that training had none of, where ``within.unseen`` is refuse.
        """
        groups = _groups(self.within, study)
        parts = [np.zeros((len(groups), 0))]
        for column in self.columns:
            encoded, missing = column.encode(_read(study, column.name), groups)
            parts += [encoded, missing[:, None].astype(float)] if column.token else [encoded]
            if missing.any():
                absent = _column(study, column.name) is None
                why = "the study has no such column" if absent else "missing, or no value of training"
                read_as = "as training samples that miss it" if column.token else "as the training mean"
                _tell(
                    audit,
                    column.name,
                    f"{int(missing.sum())} of {len(missing)} samples: {why}; read {read_as}",
                )
        return np.concatenate(parts, 1).astype(np.float32)

    def state(self) -> dict[str, Any]:
        """Tensors and plain types, for a checkpoint."""
        within = {"column": self.within.column, "unseen": self.within.unseen}
        return {"within": within, "columns": [column.state() for column in self.columns]}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> ClinicalColumns:
        """As it was fitted."""
        columns: list[Numbers | Categories] = []
        for of in state["columns"]:
            if "scaler" in of:
                columns.append(Numbers(**{**of, "scaler": GroupScaler.from_state(of["scaler"])}))
            else:
                columns.append(Categories(of["name"], tuple(of["words"]), tuple(of["shares"]), of["token"]))
        return cls(tuple(columns), Within(**state["within"]))


def _fit(
    name: str, values: pd.Series, groups: np.ndarray, within: Within, audit: Audit | None
) -> Numbers | Categories | None:
    """A column of training samples; None where it does not vary."""
    if pd.api.types.is_numeric_dtype(values) and values.nunique() > 2:
        plain = _numbers(values, logarithm=False)
        known = plain[~np.isnan(plain)]
        logarithm = bool((known >= 0).all() and stats.skew(known) > LEAST_SKEWNESS)
        numbers = _numbers(values, logarithm)
        return Numbers(name, logarithm, _scaler(numbers, groups, within), bool(np.isnan(numbers).any()))
    words = _words(values)
    counts = words[words != ""].value_counts()
    kept = sorted(counts.index[counts >= min(LEAST_OF_CATEGORY, counts.max() if len(counts) else 0)])
    if len(kept) > MOST_CATEGORIES:
        raise ClinicalError(
            f"clinical: {name!r} has {len(kept)} categories among training samples ({kept[0]!r} ...), more than "
            f"{MOST_CATEGORIES}; join them into a column of fewer, or leave it out"
        )
    for word in sorted(set(counts.index) - set(kept)):
        _tell(audit, name, f"{word!r}: {counts[word]} training samples, read as missing")
    if len(kept) < 2:
        return None
    usual = words.isin(kept)
    shares = tuple(float((words[usual] == word).mean()) for word in kept)
    return Categories(name, tuple(kept), shares, bool((~usual).any()))


def _scaler(numbers: np.ndarray, groups: np.ndarray, within: Within) -> GroupScaler:
    """Mean and deviation of each group; those of all training samples where a group has no number."""
    least = LEAST_SPREAD * float(np.nanstd(numbers))
    scaler = GroupScaler.fit(numbers[:, None], groups, within=within, least_scale=least)
    empty = np.array([n != POOLED and bool(np.isnan(numbers[groups == n]).all()) for n in scaler.names])
    mean, scale = (np.where(empty[:, None], of[-1:], of) for of in (scaler.mean, scaler.scale))
    return replace(scaler, mean=mean, scale=scale)


def _groups(within: Within, study: Study) -> np.ndarray:
    groups = within.groups(study.obs)
    return np.full(len(study.obs), POOLED, object) if groups is None else groups


def _chemistry(study: Study) -> list[str]:
    return [] if study.chemistry is None else [str(c) for c in study.chemistry.columns]


def _column(study: Study, name: str) -> pd.Series | None:
    """A column of obs or of serum chemistry; None where the study has none.

    Raises:
        ClinicalError: both have it.
    """
    in_obs, in_chemistry = name in study.obs.columns, name in _chemistry(study)
    if in_obs and in_chemistry:
        raise ClinicalError(
            f"clinical: {name!r} is a column of obs and of obsm['chemistry'] of {study.root / EXPRESSION_FILE}; "
            "rename one of them"
        )
    if in_chemistry:
        assert study.chemistry is not None, "it has the column"
        return study.chemistry[name]
    return study.obs[name] if in_obs else None


def _read(study: Study, name: str) -> pd.Series:
    """A column; all missing where the study has none."""
    column = _column(study, name)
    return pd.Series(np.nan, index=study.obs.index) if column is None else column


def _numbers(values: pd.Series, logarithm: bool) -> np.ndarray:
    """float64 [n]; NaN for what is no number, and for a negative one on a log scale."""
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(np.float64)
    if not logarithm:
        return numbers
    return np.log1p(np.where(numbers >= 0, numbers, np.nan))


def _words(values: pd.Series) -> pd.Series:
    """Words of a column, "" where there is none; 3.0 and True are "3" and "True"."""
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        return values.map(lambda v: "" if pd.isna(v) else f"{float(v):g}").astype(object)
    return values.astype(object).where(values.notna(), "").astype(str)


def _tell(audit: Audit | None, column: str, reason: str) -> None:
    """To the audit and, once, on the screen."""
    if audit is not None:
        audit.change(STAGE, "column", column, reason)
        if is_rank_zero():
            print(f"clinical: {column}: {reason}", file=sys.stderr)
