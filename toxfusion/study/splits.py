"""Which samples train, choose and test: parts that no compound, with its vehicle controls, straddles.

A scheme (``CompoundKFold`` ...) is built from plain scalars and called with a study; it returns a ``Split``.
Schemes that put one compound into training and test are called transductive in their manifest, and are meant
for illustrations, never for a claim about unseen compounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from toxfusion.study.analogues import PublishedParts, read_analogues, read_parts, unknown_analogues
from toxfusion.study.split import (
    PARTS,
    UNIT_COLUMNS,
    Split,
    SplitError,
    column_values,
    describe_parts,
    split_units,
)
from toxfusion.study.study import Study
from toxfusion.study.tables import TableError
from toxfusion.study.vocabulary import DOSE_LEVELS, TREATED_LEVELS

#: Samples that an error about an overlap of parts names.
_NAMED = 20


def _analogues(path: str | None, study: Study) -> dict[str, str]:
    try:
        return read_analogues(path, study.obs["compound"])
    except TableError as error:
        raise SplitError(str(error)) from error


# -------------------------------------------------------------------------------- schemes


@dataclass(frozen=True)
class Scheme:
    """What all schemes take.

    Args:
        fold: which fold is tested here, or which draw it is.
        valid_fraction: share of the units that are not tested, class by class, that makes the validation part.
        seed: of the split; independent of the seed of training.
    """

    fold: int = 0
    valid_fraction: float = 0.2
    seed: int = 0


@dataclass(frozen=True)
class UnitScheme(Scheme):
    """Schemes that keep units whole.

    Args:
        analogues: CSV table compound,parent, or None.
    """

    analogues: str | None = None


@dataclass(frozen=True)
class InnerFolds(UnitScheme):
    """Schemes whose validation part may be one of the inner folds of the units that are not tested.

    Args:
        valid_folds: deal those units into so many folds, of which ``valid_fold`` is the validation part; networks
            that each left out one of them average to one that has learned from every unit. None draws.
    """

    valid_folds: int | None = None
    valid_fold: int = 0


@dataclass(frozen=True)
class KFold(UnitScheme):
    """Schemes of folds; the test parts of all folds cover every unit once.

    Args:
        n_folds: number of folds.
    """

    n_folds: int = 5


@dataclass(frozen=True)
class CompoundKFold(KFold, InnerFolds):
    """Folds over compounds with their controls, stratified by DILI class and, for ties, by number of samples."""

    def __call__(self, study: Study) -> Split:
        return _k_fold(study, self, UNIT_COLUMNS, _analogues(self.analogues, study), transductive=False)


@dataclass(frozen=True)
class GroupKFold(KFold, InnerFolds):
    """Folds over the values of any column of obs (study, mechanism, batch ...).

    Args:
        column: its values are never divided.
        keep_compounds: compounds and their controls are not divided either; groups that share one are merged.
            False makes the split transductive over compounds, and its manifest says so.
        valid_column: draw the validation part from values of this column within the training groups (blocks
            of a tissue section, say) where there are too few groups to spare one; None draws whole groups.
        valid_folds, valid_fold: as in ``InnerFolds``; of whole groups, without ``valid_column``.
    """

    column: str = "study"
    keep_compounds: bool = True
    valid_column: str | None = None

    def __call__(self, study: Study) -> Split:
        empty = [not v for v in column_values(study.obs, self.column, required=False)]
        if any(empty):
            sample = study.obs.index[int(np.argmax(empty))]
            raise SplitError(
                f"obs column {self.column!r} is empty at sample {sample!r}; fill it in, or split by another"
            )
        if self.valid_column is not None and self.valid_folds is not None:
            raise SplitError(
                f"split.valid_column {self.valid_column!r} and split.valid_folds {self.valid_folds}: the one draws "
                "within groups, the other deals whole ones; set one of them to null"
            )
        together = (self.column, *UNIT_COLUMNS) if self.keep_compounds else (self.column,)
        analogues = _analogues(self.analogues, study)
        split = _k_fold(study, self, together, analogues, transductive=not self.keep_compounds)
        return split if self.valid_column is None else self._valid_within(study, split, self.valid_column)

    def _valid_within(self, study: Study, split: Split, column: str) -> Split:
        """The same test part, with a validation part of whole values of ``column``."""
        rest = study.obs.drop(index=split.test)
        units = _unit_table(rest, (column,), {})
        valid = _draw(units, self.valid_fraction, np.random.default_rng([self.seed, 3, self.fold]))
        in_valid = split_units(rest, (column,)).isin(valid)
        part = pd.Series("test", index=study.obs.index)
        part[rest.index] = np.where(in_valid, "valid", "train")
        together, transductive = split.manifest["together"], bool(split.manifest["transductive"])
        return _split(study, self, part, together, split.manifest["analogues"], transductive, (column,))


@dataclass(frozen=True)
class Holdout(UnitScheme):
    """One test part of compounds, class by class at random; ``fold`` numbers repeated draws."""

    test_fraction: float = 0.2

    def __call__(self, study: Study) -> Split:
        _check_fraction("test_fraction", self.test_fraction)
        analogues = _analogues(self.analogues, study)
        units = _unit_table(study.obs, UNIT_COLUMNS, analogues)
        test = _draw(units, self.test_fraction, np.random.default_rng([self.seed, 2, self.fold]))
        if not test or len(test) == len(units):
            raise SplitError(f"test_fraction {self.test_fraction} of {len(units)} units leaves an empty part")
        return _from_units(study, self, units, test, UNIT_COLUMNS, analogues, transductive=False)


@dataclass(frozen=True)
class TimeForward(KFold):
    """Train and choose on early sacrifices, test on later ones.

    Args:
        train_until_h: sacrifices up to this many hours train.
        test_from_h: sacrifices from here on are tested.
        unseen_compounds: test compounds of fold ``fold`` of ``CompoundKFold`` only; False tests the later
            times of all compounds (``fold`` then only varies the validation part): transductive.
    """

    train_until_h: float = 24.0
    test_from_h: float = 96.0
    unseen_compounds: bool = True

    def __call__(self, study: Study) -> Split:
        if self.test_from_h <= self.train_until_h:
            raise SplitError(
                f"test_from_h {self.test_from_h} is not later than train_until_h {self.train_until_h}"
            )
        time = study.obs["time_h"]
        return _extrapolate(study, self, time <= self.train_until_h, time >= self.test_from_h)


@dataclass(frozen=True)
class DoseExtrapolation(KFold):
    """Train and choose on vehicle controls and the lower dose levels, test on ``test_level``.

    Args:
        test_level: low, middle or high; levels above it are left out.
        unseen_compounds: as in ``TimeForward``.
    """

    test_level: str = "high"
    unseen_compounds: bool = True

    def __call__(self, study: Study) -> Split:
        if self.test_level not in TREATED_LEVELS:
            raise SplitError(f"test_level {self.test_level!r} is none of {TREATED_LEVELS}")
        lower = DOSE_LEVELS[: DOSE_LEVELS.index(self.test_level)]
        level = study.obs["dose_level"]
        return _extrapolate(study, self, level.isin(lower), level == self.test_level)


@dataclass(frozen=True)
class TransductiveLeaveGroupOut(Scheme):
    """Leave one treated group out, other groups of its compound in training: the one-compound illustration.

    Fold k tests the k-th treated value of ``column``, sorted. Vehicle controls always train.
    """

    column: str = "group_id"

    def __call__(self, study: Study) -> Split:
        obs = study.obs
        groups = pd.Series(column_values(obs, self.column, required=True), index=obs.index)
        treated = sorted(set(groups[~obs["is_control"]]))
        mixed = sorted(set(treated) & set(groups[obs["is_control"]]))
        if mixed:
            raise SplitError(
                f"obs column {self.column!r}, value {mixed[0]!r} holds controls and treated animals"
            )
        _check_fold(self.fold, len(treated), f"treated values of {self.column!r}")
        test = treated[self.fold]
        others = [g for g in treated if g != test]
        _check_fraction("valid_fraction", self.valid_fraction)
        rng = np.random.default_rng([self.seed, 1, self.fold])
        chosen = rng.permutation(len(others))[: _share(self.valid_fraction, len(others))]
        valid = {others[i] for i in chosen}
        part = groups.map(lambda g: "test" if g == test else "valid" if g in valid else "train")
        return _split(study, self, part, (self.column,), {}, transductive=True)


@dataclass(frozen=True, kw_only=True)
class Predefined(InnerFolds):
    """Parts from a table (parquet or CSV) with the columns sample_id, fold, part (train, valid or test).

    Args:
        path: of the table.
        fold: rows of this fold are taken; samples without a row are left out.
        valid_fraction: share of the training units, class by class, that makes the validation part of a fold for
            which the table names none; the manifest then says ``valid_drawn``. 0 leaves it without one.
        valid_folds, valid_fold: as in ``InnerFolds``, in place of that draw.
        seed: of that draw; independent of the seed of training.
        transductive: the table knowingly divides compounds; only the animals' groups are then checked.
        allow_overlap: samples that the table has in train and in test are trained on and tested, as somebody published
            it; none of them is drawn for validation, and the manifest lists them as ``overlap``.
    """

    path: str
    transductive: bool = False
    allow_overlap: bool = False

    def __call__(self, study: Study) -> Split:
        published = self._published()
        unknown = [s for s in published.part.index if s not in study.obs.index]
        if unknown:
            raise SplitError(
                f"{self.path}, column 'sample_id', value {unknown[0]!r}: no such sample in {study.name!r}"
            )
        part = published.part.reindex(study.obs.index).fillna("")
        together = ("group_id",) if self.transductive else UNIT_COLUMNS
        analogues = _analogues(self.analogues, study)
        named = bool((part == "valid").any())
        if named and self.valid_folds is not None:
            raise SplitError(
                f"{self.path}, column 'part', value 'valid': fold {self.fold} has its validation part; set "
                "split.valid_folds=null"
            )
        drawn = [] if named else self._draw_valid(study.obs[part == "train"], together, analogues)
        part[drawn] = "valid"
        split = _split(
            study, self, part, together, analogues, self.transductive, overlap=frozenset(published.overlap)
        )
        return replace(split, manifest={**split.manifest, "valid_drawn": bool(drawn)})

    def _draw_valid(
        self, train: pd.DataFrame, together: Sequence[str], analogues: dict[str, str]
    ) -> list[str]:
        """Training samples that become the validation part."""
        if train.empty:
            return []
        units = _unit_table(train, together, analogues)
        valid = _choose_valid(units, self, np.random.default_rng([self.seed, 4, self.fold]))
        return train.index[split_units(train, together, analogues).isin(valid)].tolist()

    def _published(self) -> PublishedParts:
        try:
            published = read_parts(self.path, self.fold, PARTS)
        except TableError as error:
            raise SplitError(str(error)) from error
        if published.overlap and not self.allow_overlap:
            named = ", ".join(published.overlap[:_NAMED]) + (" ..." if published.overlap[_NAMED:] else "")
            raise SplitError(
                f"{self.path}, column 'sample_id': {len(published.overlap)} samples are in train and in test of fold "
                f"{self.fold} ({named}); scores of them say nothing of new patients. Take them out of train, or set "
                "split.allow_overlap=true to repeat a published split as it is, and its name will say so"
            )
        return published


# -------------------------------------------------------------------------------- how parts are made


def _unit_table(obs: pd.DataFrame, together: Sequence[str], analogues: Mapping[str, str]) -> pd.DataFrame:
    """Units by name: ``n`` samples, and ``stratum`` 1, 0 or -1 (unlabelled) by most of its compounds.

    The class is DILI; in a cohort without any DILI label that follows its patients, whether the event happened.
    """
    units = split_units(obs, together, analogues)
    label = "event" if "event" in obs.columns and obs["dili"].isna().all() else "dili"
    labels = obs.assign(unit=units)[~obs["is_control"]].groupby(["unit", "compound"])[label].first()
    mean = labels.groupby("unit").mean().reindex(sorted(set(units)))
    stratum = np.where(mean.isna(), -1, (mean > 0.5).astype(int))
    return pd.DataFrame({"n": units.value_counts().reindex(mean.index), "stratum": stratum}, index=mean.index)


def _deal(units: pd.DataFrame, n_folds: int, rng: np.random.Generator) -> dict[str, int]:
    """Unit -> fold: in random order, to the fold that has fewest units of its class, then fewest samples."""
    dealt: dict[str, int] = {}
    total = np.zeros(n_folds, dtype=np.int64)
    for stratum in sorted(set(units["stratum"]), reverse=True):
        members = units[units["stratum"] == stratum]
        count = np.zeros(n_folds, dtype=np.int64)
        for i in rng.permutation(len(members)):
            fold = int(np.lexsort((total, count))[0])
            dealt[str(members.index[i])] = fold
            count[fold] += 1
            total[fold] += int(members["n"].iloc[i])
    return dealt


def _share(fraction: float, n: int) -> int:
    """How many of n make a fraction: rounded, at least one of two or more, never all."""
    if fraction == 0 or n < 2:
        return 0
    return min(n - 1, max(1, round(fraction * n)))


def _draw(units: pd.DataFrame, fraction: float, rng: np.random.Generator) -> set[str]:
    """A random share of the units of each class; unlabelled units count as a class."""
    drawn: set[str] = set()
    for stratum in sorted(set(units["stratum"]), reverse=True):
        members = units.index[units["stratum"] == stratum]
        drawn |= {str(members[i]) for i in rng.permutation(len(members))[: _share(fraction, len(members))]}
    if not drawn and fraction > 0 and len(units) > 1:
        drawn = {str(units.index[int(rng.integers(len(units)))])}
    return drawn


def _choose_valid(
    units: pd.DataFrame,
    scheme: UnitScheme,
    rng: np.random.Generator,
) -> set[str]:
    """The validation units among those that are not tested: a draw, or one of the inner folds."""
    _check_fraction("valid_fraction", scheme.valid_fraction)
    if not isinstance(scheme, InnerFolds) or scheme.valid_folds is None:
        return _draw(units, scheme.valid_fraction, rng)
    if not 2 <= scheme.valid_folds <= len(units):
        raise SplitError(
            f"split.valid_folds {scheme.valid_folds} of {len(units)} units: use at least 2, and no more than units"
        )
    if not 0 <= scheme.valid_fold < scheme.valid_folds:
        raise SplitError(
            f"split.valid_fold {scheme.valid_fold} does not exist: valid_folds is {scheme.valid_folds}, so it is 0 to "
            f"{scheme.valid_folds - 1}"
        )
    return {unit for unit, fold in _deal(units, scheme.valid_folds, rng).items() if fold == scheme.valid_fold}


def _check_fraction(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise SplitError(f"{name} {value} is not in [0, 1)")


def _check_fold(fold: int, n: int, what: str) -> None:
    if not 0 <= fold < n:
        raise SplitError(f"fold {fold} does not exist: there are {n} {what}, so fold is 0 to {n - 1}")


def _k_fold(
    study: Study,
    scheme: KFold,
    together: Sequence[str],
    analogues: Mapping[str, str],
    transductive: bool,
) -> Split:
    units = _unit_table(study.obs, together, analogues)
    if scheme.n_folds < 2 or len(units) < scheme.n_folds:
        raise SplitError(
            f"{scheme.n_folds} folds of {len(units)} units joined by {list(together)}: "
            "use at least 2 folds, and no more than units"
        )
    _check_fold(scheme.fold, scheme.n_folds, "folds")
    dealt = _deal(units, scheme.n_folds, np.random.default_rng([scheme.seed, 0]))
    test = {unit for unit, fold in dealt.items() if fold == scheme.fold}
    return _from_units(study, scheme, units, test, together, analogues, transductive)


def _from_units(
    study: Study,
    scheme: UnitScheme,
    units: pd.DataFrame,
    test: set[str],
    together: Sequence[str],
    analogues: Mapping[str, str],
    transductive: bool,
) -> Split:
    part = _parts(study, scheme, units, test, split_units(study.obs, together, analogues))
    return _split(study, scheme, part, together, analogues, transductive)


def _parts(
    study: Study,
    scheme: UnitScheme,
    units: pd.DataFrame,
    test: set[str],
    of_sample: pd.Series,
) -> pd.Series:
    """The part of every sample, given the test units; validation units are drawn from the others."""
    rest = units[~units.index.isin(test)]
    valid = _choose_valid(rest, scheme, np.random.default_rng([scheme.seed, 1, scheme.fold]))
    return of_sample.map(lambda u: "test" if u in test else "valid" if u in valid else "train")


def _extrapolate(
    study: Study, scheme: TimeForward | DoseExtrapolation, near: pd.Series, far: pd.Series
) -> Split:
    """Keep ``near`` samples of training and validation units, ``far`` samples of test units (or of all)."""
    for chosen, what in ((near, "to train on"), (far, "to test")):
        if not chosen.any():
            raise SplitError(
                f"{type(scheme).__name__}: no sample of study {study.name!r} lies in the range {what}; it needs the "
                f"times and dose levels that {scheme} names (a cohort of patients has none)"
            )
    analogues = _analogues(scheme.analogues, study)
    if scheme.unseen_compounds:
        base = _k_fold(study, scheme, UNIT_COLUMNS, analogues, transductive=False)
        part = study.obs.index.to_series().map(base.part_of())
        part = part.where(((part == "test") & far) | ((part != "test") & near), "")
        return _split(study, scheme, part, UNIT_COLUMNS, analogues, transductive=False)
    units = _unit_table(study.obs, UNIT_COLUMNS, analogues)
    inner = _parts(study, scheme, units, set(), split_units(study.obs, UNIT_COLUMNS, analogues))
    part = inner.where(near, "").mask(far, "test")
    return _split(study, scheme, part, ("group_id",), {}, transductive=True)


def _split(
    study: Study,
    scheme: Any,
    part: pd.Series,
    together: Sequence[str],
    analogues: Mapping[str, str],
    transductive: bool,
    valid_together: Sequence[str] | None = None,
    overlap: frozenset[str] = frozenset(),
) -> Split:
    """Build, describe and check a split; ``part`` is train, valid, test or '' (left out), by sample.

    Args:
        overlap: test samples that are trained on as well.
    """
    name = type(scheme).__name__
    ids = {p: part.index[part == p].tolist() for p in PARTS}
    both = [sample for sample in ids["test"] if sample in overlap]
    ids["train"] = part.index[(part == "train") | part.index.isin(both)].tolist()
    transductive = transductive or bool(both)
    for needed in ("train", "test"):
        if not ids[needed]:
            raise SplitError(f"{name} leaves no sample in {needed}; look at its settings {scheme}")
    settings = {k: v for k, v in vars(scheme).items() if isinstance(v, str | int | float | bool | None)}
    units = split_units(study.obs, together, analogues)
    manifest = {
        "scheme": f"{name} (transductive)" if transductive and "Transductive" not in name else name,
        "settings": settings,
        "study": study.name,
        "transductive": transductive,
        "together": list(together),
        "valid_together": list(valid_together or together),
        "analogues": dict(analogues),
        "left_out": int((part == "").sum()),
        "overlap": both,
        "parts": {p: describe_parts(study.obs.loc[ids[p]], units) for p in PARTS},
    }
    if unknown := unknown_analogues(analogues, study.obs["compound"]):
        manifest["unknown_analogues"] = unknown
    split = Split(ids["train"], ids["valid"], ids["test"], int(scheme.fold), manifest)
    split.check(study)
    return split
