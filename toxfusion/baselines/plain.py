"""Plain baselines by scikit-learn: pooled tiles, expression, its components, dose and time, serum chemistry, findings.

They see the same fold, references, labels and table of predictions as the network. Everything is fitted on
training samples; the strength of regularisation is chosen on the validation part.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss, mean_squared_error
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from toxfusion.baselines.blocks import (
    BaselineError,
    BaselineSettings,
    Block,
    alt_and_ast,
    clinical_columns,
    dose_and_time,
    every_gene,
    pathologist_findings,
    pooled_tiles,
    serum_chemistry,
    standardised_expression,
)
from toxfusion.baselines.survival import SURVIVAL_LEARNERS, fit_survival
from toxfusion.data.datamodule import FoldData
from toxfusion.evaluation import predictions
from toxfusion.evaluation.survival import even_grid
from toxfusion.study.vocabulary import MAX_GRADE
from toxfusion.tasks.survival import Survival
from toxfusion.tasks.task import Task
from toxfusion.tasks.task_set import TaskSet

log = logging.getLogger(__name__)

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
LEAF_SIZES = (10, 3, 1)
ROUNDS = (25, 50, 100, 200)
LEARNERS = ("logistic", "forest", "boosting")


FEATURES: dict[str, tuple[Callable[[FoldData, BaselineSettings], Block], ...]] = {
    "meanpool": (pooled_tiles,),
    "pca": (standardised_expression,),
    "genes": (every_gene,),
    "concat": (pooled_tiles, standardised_expression),
    "clinical": (clinical_columns,),
    "pca_clinical": (standardised_expression, clinical_columns),
    "genes_clinical": (every_gene, clinical_columns),
    "metadata": (dose_and_time,),
    "chemistry": (serum_chemistry,),
    "alt_ast": (alt_and_ast,),
    "findings": (pathologist_findings,),
    "tabular": (dose_and_time, serum_chemistry, pathologist_findings),
}
LATE_FUSION = "late"


def baseline_names() -> list[str]:
    """Every ``<features>_<learner>``; ``late`` is the mean of the scores of ``meanpool`` and ``pca``.

    ``cox``, ``coxnet`` and ``rsf`` predict survival alone, the other learners every other task.
    """
    plain = [f"{features}_{learner}" for features in (*FEATURES, LATE_FUSION) for learner in LEARNERS]
    return plain + [f"{features}_{learner}" for features in FEATURES for learner in SURVIVAL_LEARNERS]


def fit_baseline(
    name: str, fold: FoldData, tasks: TaskSet, *, seed: int, settings: BaselineSettings | None = None
) -> pd.DataFrame:
    """Fit one baseline on the training part and score the validation and test parts.

    Args:
        name: ``<features>_<learner>``, one of ``baseline_names()``.
        fold: study, split, labels, and the store and expression transform where the features need them.
        tasks: fitted; what is predicted.
        seed: of forests, boosting and randomised components.

    Returns:
        Predictions table (``toxfusion.evaluation.predictions``) of every task: lesions, severity,
        subtype and serum chemistry of samples, injury of treated dose groups (mean over their samples), DILI
        of compounds (mean and most extreme features over their treated samples; controls never enter). Column
        ``imputed`` is true where a feature was absent and the training mean stands in for it.

    Raises:
        BaselineError: an unknown name, features that the study or fold lacks, or a task that the baseline
            does not have (survival and other tasks by one learner; serum chemistry and findings from themselves).
        SurvivalBaselineError: scikit-survival is not installed, or no training sample has an event.
    """
    features, _, learner = name.rpartition("_")
    if name not in baseline_names():
        raise BaselineError(f"unknown baseline {name!r}; there are {baseline_names()}.")
    _refuse_tasks(name, learner, tasks)
    settings = settings or BaselineSettings()
    if features == LATE_FUSION:
        return _late_fusion([fit_baseline(f"{f}_{learner}", fold, tasks, seed=seed, settings=settings)
                             for f in ("meanpool", "pca")])  # fmt: skip
    blocks = [make(fold, settings) for make in FEATURES[features]]
    return _Scored(fold, tasks, blocks, learner, settings, seed).table()


def _refuse_tasks(name: str, learner: str, tasks: TaskSet) -> None:
    survival = [task for task in tasks if task.family == "survival"]
    if learner not in SURVIVAL_LEARNERS and survival:
        raise BaselineError(
            f"method={name}: does not predict survival; set task.survival.method=null, or take one of "
            f"{', '.join(SURVIVAL_LEARNERS)} in place of {learner}, or method=network."
        )
    if learner in SURVIVAL_LEARNERS and (not survival or len(tasks) > len(survival)):
        raise BaselineError(
            f"method={name}: predicts survival alone; set task=survival, or take another method."
        )
    read = FEATURES.get(name.rpartition("_")[0], ())
    sources = {task.source for task in tasks}
    if "chemistry" in sources and {serum_chemistry, alt_and_ast} & set(read):
        raise BaselineError(
            f"method={name}: task.biochemistry asks for the serum chemistry that this baseline reads; set "
            "task.biochemistry=null, or take another method."
        )
    if "findings" in sources and pathologist_findings in read:
        raise BaselineError(
            f"method={name}: injury, lesions and severity are the findings that this baseline reads; set task=dili, "
            "or take another method."
        )


def _late_fusion(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    first, second = tables
    imputed = first["imputed"].to_numpy() | second["imputed"].to_numpy()
    score = (first["score"].to_numpy() + second["score"].to_numpy()) / 2
    return predictions.validate(first.assign(score=score, imputed=imputed))


def reduced(block: Block, train: np.ndarray, n_components: int | None, seed: int) -> np.ndarray:
    """A block imputed, standardised and reduced to principal components, as fitted on training samples.

    The widest feature gets deviation 1 and the others keep their proportion: components are not whitened, and
    two blocks enter a penalised regression on one scale.

    Args:
        train: int [n_train], positions of the training samples.
        n_components: None for no reduction.
        seed: of randomised components.

    Returns:
        float64 [n_samples, d].

    Raises:
        BaselineError: fewer than two training samples have these features.
    """
    known = block.values[train]
    known = known[~np.isnan(known).all(axis=1)]
    if len(known) < 2:
        raise BaselineError(f"{len(known)} training samples have these features; at least two are needed.")
    steps: list[Any] = [SimpleImputer(keep_empty_features=True), StandardScaler()]
    if block.reduce and n_components is not None:
        steps.append(PCA(min(n_components, len(known) - 1, known.shape[1]), random_state=seed))
    pipeline = make_pipeline(*steps).fit(known)
    widest = float(pipeline.transform(known).std(axis=0).max())
    return pipeline.transform(block.values) / (widest or 1.0)


class _Scored:
    """Features of one baseline on one fold, and the predictions made from them."""

    def __init__(
        self,
        fold: FoldData,
        tasks: TaskSet,
        blocks: Sequence[Block],
        learner: str,
        settings: BaselineSettings,
        seed: int,
    ) -> None:
        self.fold, self.tasks, self.learner, self.seed = fold, tasks, learner, seed
        self.obs = fold.study.obs
        self.labels = {name: of_all.numpy() for name, of_all in fold.labels.items()}
        self.samples = {
            part: fold.study.positions(getattr(fold.split, part)) for part in ("train", "valid", "test")
        }
        self.treated = ~self.obs["is_control"].to_numpy(dtype=bool)
        self.imputed = np.any([b.absent for b in blocks], axis=0)
        self.known = np.any([~np.isnan(b.values).all(axis=1) for b in blocks], axis=0)
        self.features = np.concatenate(
            [reduced(b, self.samples["train"], settings.n_components, seed) for b in blocks], axis=1
        )

    def table(self) -> pd.DataFrame:
        tables: list[pd.DataFrame] = []
        for task in self.tasks:
            if isinstance(task, Survival):
                tables += self._of_patients(task)
            elif task.level == "sample":
                tables += self._of_samples(task)
            elif task.level == "group":
                tables += self._of_groups(task)
            else:
                tables += self._of_compounds(task)
        return predictions.validate(pd.concat(tables, ignore_index=True), "baseline predictions")

    def _of_samples(self, task: Task) -> list[pd.DataFrame]:
        units = self.obs.index.to_numpy(dtype=object)
        everyone = np.ones(len(units), dtype=bool)
        return self._score(task, units, self.features, allowed=everyone, fit_on=self.known)

    def _of_patients(self, survival: Survival) -> list[pd.DataFrame]:
        time, event = self.labels[survival.name][:, :2].T.astype(np.float64)
        train = self.samples["train"]
        train = train[(self.known & ~np.isnan(time))[train]]
        times = even_grid(survival.end)
        patient = self.obs["compound"].to_numpy(dtype=str)
        fitted = fit_survival(self.learner, self.features, time, event, patient, train, times, self.seed)
        tables = []
        for part in ("valid", "test"):
            scored = self.samples[part]
            if len(scored):
                curve = times, fitted.curve[scored]
                obs = self.obs.iloc[scored]
                columns = survival.optional_columns(obs, time[scored], event[scored], curve)
                tables.append(
                    predictions.of_units(
                        predictions.describe_units(obs, "sample").loc[obs.index],
                        task=survival.name,
                        family=survival.family,
                        headline=survival.headline,
                        level=survival.level,
                        label=time[scored],
                        score=fitted.risk[scored],
                        part=part,
                        fold=self.fold.split.fold,
                        seed=self.seed,
                        optional={"imputed": self.imputed[scored], **columns},
                    )
                )
        return tables

    def _of_groups(self, task: Task) -> list[pd.DataFrame]:
        units = self.obs["group_id"].to_numpy()
        return self._score(task, units, self.features, allowed=self.treated, fit_on=self.treated & self.known)

    def _of_compounds(self, task: Task) -> list[pd.DataFrame]:
        """Every treated sample carries the features of its compound and part; one of them is fitted on."""
        compounds = self.obs["compound"].to_numpy()
        features = np.zeros((len(compounds), 2 * self.features.shape[1]))
        first = np.zeros(len(compounds), dtype=bool)
        for samples in self.samples.values():
            treated = samples[self.treated[samples]]
            for compound in np.unique(compounds[treated]):
                members = treated[compounds[treated] == compound]
                seen = members[self.known[members]]
                features[members] = _aggregate(self.features[seen if len(seen) else members])
                first[members[0]] = len(seen) > 0
        return self._score(task, compounds, features, allowed=self.treated, fit_on=first)

    def _score(
        self, task: Task, units: np.ndarray, features: np.ndarray, *, allowed: np.ndarray, fit_on: np.ndarray
    ) -> list[pd.DataFrame]:
        """Fit on samples ``fit_on`` (bool [n_samples]), score samples ``allowed``, average over those of a unit."""
        labels = task.label_columns(self.labels[task.name])
        if task.family == "classes":
            scores = self._of_classes(task, features, fit_on)
        else:
            columns = [self._of_column(task, features, label, fit_on) for label in labels.T]
            scores = np.stack(columns, axis=1)
        tables = []
        for part in ("valid", "test"):
            scored = self.samples[part][allowed[self.samples[part]]]
            if len(scored):
                for name, label, score in zip(task.names, labels.T, scores.T, strict=True):
                    tables.append(self._of_units(task, name, units[scored], scored, label, score, part))
        return tables

    def _fitted_on(self, label: np.ndarray, fit_on: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions int64 of labelled training and validation samples."""
        usable = fit_on & ~np.isnan(label)
        train, valid = (self.samples[part][usable[self.samples[part]]] for part in ("train", "valid"))
        return train, valid

    def _of_column(
        self, task: Task, features: np.ndarray, label: np.ndarray, fit_on: np.ndarray
    ) -> np.ndarray:
        train, valid = self._fitted_on(label, fit_on)
        return _fit_and_score(task, self.learner, features, label, train, valid, self.seed)

    def _of_classes(self, task: Task, features: np.ndarray, fit_on: np.ndarray) -> np.ndarray:
        label = self.labels[task.name].astype(np.float64)
        train, valid = self._fitted_on(label, fit_on)
        return _class_probabilities(
            task.name, len(task.names), self.learner, features, label, train, valid, self.seed
        )

    def _of_units(
        self,
        task: Task,
        name: str,
        unit: np.ndarray,
        scored: np.ndarray,
        label: np.ndarray,
        score: np.ndarray,
        part: str,
    ) -> pd.DataFrame:
        grouped = pd.DataFrame(
            {"label": label[scored], "score": score[scored], "imputed": self.imputed[scored]}
        ).groupby(unit)
        return predictions.of_units(
            predictions.describe_units(self.obs.iloc[scored], task.level),
            task=name,
            family=task.family,
            headline=task.headline,
            level=task.level,
            label=grouped["label"].first(),
            score=grouped["score"].mean(),
            part=part,
            fold=self.fold.split.fold,
            seed=self.seed,
            optional={"imputed": grouped["imputed"].any()},
        )


def _aggregate(features: np.ndarray) -> np.ndarray:
    """[2 d]: mean over samples [n, d], and the entry of largest magnitude with its sign (that of a component is
    arbitrary).
    """
    extreme = np.take_along_axis(features, np.abs(features).argmax(axis=0)[None], axis=0)[0]
    return np.concatenate([features.mean(axis=0), extreme])


def _candidates(learner: str, measured: bool, seed: int) -> list[Any]:
    """Estimators from the most to the least regularised; regressors where the label is a grade or a value."""
    if learner == "logistic":
        return [Ridge(alpha=1 / c) if measured else LogisticRegression(C=c, max_iter=2000) for c in PENALTIES]
    if learner == "forest":
        forest = RandomForestRegressor if measured else RandomForestClassifier
        return [forest(n_estimators=200, min_samples_leaf=k, random_state=seed) for k in LEAF_SIZES]
    boosting = HistGradientBoostingRegressor if measured else HistGradientBoostingClassifier
    common = {"learning_rate": 0.05, "max_depth": 3, "early_stopping": False, "random_state": seed}
    return [boosting(max_iter=k, **common) for k in ROUNDS]


def _fit_and_score(
    task: Task,
    learner: str,
    features: np.ndarray,
    label: np.ndarray,
    train: np.ndarray,
    valid: np.ndarray,
    seed: int,
) -> np.ndarray:
    """Scores of every sample, [n], by the candidate of least validation loss.

    The loss is the log loss; of grades and values the squared error. Without validation labels the most regularised
    candidate is taken. Training labels of one value (or none) give every sample their mean (without labels one half,
    of a value 0).
    """
    measured = task.family in ("ordinal", "value")
    known = label[train]
    if len(known) == 0 or known.min() == known.max():
        constant = float(known.mean()) if len(known) else 0.0 if task.family == "value" else 0.5
        log.warning(
            "%s: %d training labels, all alike; every unit is scored %.2f", task.name, len(known), constant
        )
        return np.full(len(features), constant)

    def score(candidate: Any) -> np.ndarray:
        fitted = candidate.fit(features[train], known)
        of_all = fitted.predict(features) if measured else fitted.predict_proba(features)[:, 1]
        return np.clip(of_all, 0, MAX_GRADE) if task.family == "ordinal" else of_all

    def loss(scores: np.ndarray) -> float:
        if measured:
            return mean_squared_error(label[valid], scores[valid])
        return log_loss(label[valid], scores[valid], labels=[0, 1])

    return _of_least_loss(_candidates(learner, measured, seed), score, loss if len(valid) else None)


def _class_probabilities(
    task: str,
    n_classes: int,
    learner: str,
    features: np.ndarray,
    label: np.ndarray,
    train: np.ndarray,
    valid: np.ndarray,
    seed: int,
) -> np.ndarray:
    """Probabilities of exclusive classes, [n, n_classes]; a class whose training samples lack features gets 0."""
    known = np.unique(label[train])
    if len(known) < 2:
        raise BaselineError(
            f"task {task!r}: the training samples with these features are of {len(known)} class; two are needed."
        )

    def score(candidate: Any) -> np.ndarray:
        fitted = candidate.fit(features[train], label[train])
        of_all = np.zeros((len(features), n_classes))
        of_all[:, fitted.classes_.astype(int)] = fitted.predict_proba(features)
        return of_all

    def loss(scores: np.ndarray) -> float:
        return log_loss(label[valid], scores[valid], labels=np.arange(n_classes))

    return _of_least_loss(_candidates(learner, False, seed), score, loss if len(valid) else None)


def _of_least_loss(
    candidates: Sequence[Any],
    score: Callable[[Any], np.ndarray],
    loss: Callable[[np.ndarray], float] | None,
) -> np.ndarray:
    """Scores by the candidate of least validation loss, the first of equals; by the first of all without a loss."""
    if loss is None:
        return score(candidates[0])
    return min((score(candidate) for candidate in candidates), key=loss)
