"""Probes of frozen embeddings: few-shot linear, nearest neighbours, nearest class mean; nested hiding of samples.

Works on arrays. Everything is fitted on training units, chosen on validation units and scored on test units.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from toxfusion.evaluation import bootstrap
from toxfusion.evaluation.metrics import auroc, one_class_reason
from toxfusion.evaluation.out_of_fold import Pairing, headline_statistic, resampling_of
from toxfusion.evaluation.retrieval import unit_length
from toxfusion.study.draws import generator
from toxfusion.study.vocabulary import in_order, members_of

SHOTS = (1, 5, 10, 25)
SHOT_DRAWS = 50
PENALTIES = (0.01, 0.1, 1.0)
NEIGHBOURS = (1, 5, 10, 20)
UNDECIDED_PENALTY, UNDECIDED_NEIGHBOURS = 0.1, 5
"""Taken where the validation part lacks a class, and so cannot choose."""
COLUMNS = ("probe", "embedding", "task", "headline", "k", "hidden", "share", "metric", "value", "low", "high", "chance",
           "n", "draws", "undefined", "reason")  # fmt: skip

Record = dict[str, Any]


@dataclass(frozen=True)
class Units:
    """Labelled units of one task in one embedding; n may be 0.

    Attributes:
        task: of the predictions table, with two classes: ``dili``, ``lesion:<term>``, ``subtype:<class>`` ...
        level: ``compound``, ``group`` or ``sample``.
        values: float64 [n, d].
        label: float64 [n], 0 or 1.
        unit_id, compound: str [n].
        part: str [n], ``train``, ``valid`` or ``test``.
        headline: group that the task is averaged into; "" for a task that stands alone.
    """

    task: str
    level: str
    values: np.ndarray
    label: np.ndarray
    unit_id: np.ndarray
    compound: np.ndarray
    part: np.ndarray
    headline: str = ""

    def positions(self, part: str) -> np.ndarray:
        """int64, the positions of one part."""
        return np.flatnonzero(self.part == part)

    def untestable(self) -> str:
        """Why no probe of this task can be scored; "" when it can."""
        for part in ("train", "test"):
            if reason := one_class_reason(self.label[self.positions(part)]):
                return f"{part} part: {reason}"
        return ""

    def standardised(self) -> np.ndarray:
        """float64 [n, d], by mean and deviation of the training units."""
        return StandardScaler().fit(self.values[self.positions("train")]).transform(self.values)


def record(probe: str, embedding: str, task: str, **content: Any) -> Record:
    """One row of the probes table; what is not given is NaN, 0 or ""."""
    blank: Record = {c: float("nan") for c in COLUMNS}
    blank |= {
        "headline": task,
        "hidden": "",
        "metric": "auroc",
        "n": 0,
        "draws": 0,
        "undefined": 0,
        "reason": "",
    }
    return blank | {"probe": probe, "embedding": embedding, "task": task} | content


def draw_shots(
    label: np.ndarray, compound: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """One draw: units of distinct compounds in random order, for either class.

    The first k of both are the k shots of each class, so that the shots of a smaller k are among those of a larger.

    Args:
        label: [n], 0 or 1.
        compound: [n].

    Returns:
        int64 positions of negatives and of positives, one unit for each compound that has one.
    """
    orders = []
    for value in (0, 1):
        mixed = rng.permutation(np.flatnonzero(label == value))
        _, first = np.unique(compound[mixed], return_index=True)
        orders.append(mixed[rng.permutation(first)])
    return orders[0], orders[1]


@dataclass(frozen=True)
class FewShot:
    """AUROC on the test units, float64 [draws] (empty where undefined), and why or what to know."""

    values: np.ndarray
    reason: str


def few_shot(units: Units, *, seed: int, draws: int = SHOT_DRAWS) -> dict[int, FewShot]:
    """Logistic regression on k shots a class, for each k of ``SHOTS``.

    The strength of regularisation is the one of highest mean AUROC over draws on the validation units.
    """
    if reason := units.untestable():
        return {k: FewShot(np.empty(0), reason) for k in SHOTS}
    train, valid, test = (units.positions(p) for p in ("train", "valid", "test"))
    values = units.standardised()
    fewest = min(len(np.unique(units.compound[train][units.label[train] == c])) for c in (0, 1))
    orders = [
        draw_shots(units.label[train], units.compound[train], generator(seed, "few_shot", units.task, draw))
        for draw in range(draws)
    ]
    undecided = one_class_reason(units.label[valid])
    penalties = (UNDECIDED_PENALTY,) if undecided else PENALTIES
    by_shots = {}
    for k in SHOTS:
        if fewest < k:
            by_shots[k] = FewShot(np.empty(0), f"{fewest} training compounds have a unit of the rarer class")
            continue
        shots = [train[np.concatenate([negative[:k], positive[:k]])] for negative, positive in orders]
        best, most = np.empty(0), -np.inf
        for penalty in penalties:
            scores = [_logistic(values, units.label, chosen, penalty) for chosen in shots]
            on_valid = 0.0 if undecided else _mean_auroc(units.label[valid], [s[valid] for s in scores])
            if on_valid > most:
                most = on_valid
                best = np.array([auroc(units.label[test], s[test]).value for s in scores])
        by_shots[k] = FewShot(
            best, f"C fixed at {UNDECIDED_PENALTY}; validation: {undecided}" if undecided else ""
        )
    return by_shots


def _logistic(values: np.ndarray, label: np.ndarray, shots: np.ndarray, penalty: float) -> np.ndarray:
    """Decision values of all units, [n].

    The solution lies in the span of the shots, so it is sought there: as many coordinates as shots.
    """
    _, _, basis = np.linalg.svd(values[shots], full_matrices=False)
    model = LogisticRegression(C=penalty, solver="newton-cholesky", max_iter=200)
    model.fit(values[shots] @ basis.T, label[shots])
    return values @ (basis.T @ model.coef_[0])


def _mean_auroc(label: np.ndarray, scores: Sequence[np.ndarray]) -> float:
    return float(np.mean([auroc(label, s).value for s in scores]))


def few_shot_records(tasks: Sequence[Units], embedding: str, *, seed: int) -> list[Record]:
    """Mean over draws with the 2.5th and 97.5th percentile, for each task and for each averaged headline."""
    by_task = {units.task: few_shot(units, seed=seed) for units in tasks}
    records = []
    for units in tasks:
        for k, few in by_task[units.task].items():
            of_k = _over_draws(embedding, units.task, k, few, len(units.positions("test")))
            records.append(of_k | {"headline": units.headline or units.task})
    for headline, members in _averaged(tasks).items():
        for k in SHOTS:
            defined = [by_task[u.task][k].values for u in members if len(by_task[u.task][k].values)]
            note = f"mean of {len(defined)} of {len(members)} {members_of(headline)}"
            macro = FewShot(np.mean(defined, axis=0) if defined else np.empty(0), note)
            n = len({i for u in members for i in u.unit_id[u.positions("test")]})
            records.append(_over_draws(embedding, headline, k, macro, n))
    return records


def _averaged(tasks: Sequence[Units]) -> dict[str, list[Units]]:
    """The tasks of each headline that is an average."""
    names = in_order(units.headline for units in tasks if units.headline not in ("", units.task))
    return {name: [units for units in tasks if units.headline == name] for name in names}


def _over_draws(embedding: str, task: str, k: int, few: FewShot, n: int) -> Record:
    common: Record = {"k": k, "chance": 0.5, "n": n, "draws": SHOT_DRAWS, "reason": few.reason}
    if len(few.values) == 0:
        return record("few_shot", embedding, task, **common, undefined=SHOT_DRAWS)
    low, high = np.quantile(few.values, (0.025, 0.975))
    value = float(few.values.mean())
    return record("few_shot", embedding, task, **common, value=value, low=float(low), high=float(high))


@dataclass(frozen=True)
class Scored:
    """Scores of the test units, float64 [n_test], the k that made them (NaN: none), and what to know."""

    score: np.ndarray
    k: float = float("nan")
    reason: str = ""


def nearest_neighbours(units: Units) -> Scored:
    """Share of positives among the k nearest training units by cosine, k chosen by AUROC on the validation units.

    Of equal choices the smallest k is taken; of equally near units, those that come first.
    """
    train, valid, test = (units.positions(p) for p in ("train", "valid", "test"))
    unit = unit_length(units.standardised())
    nearest = np.argsort(-(unit @ unit[train].T).round(9), axis=1, kind="stable")
    voted = units.label[train][nearest]
    undecided = one_class_reason(units.label[valid])
    chosen, most = min(UNDECIDED_NEIGHBOURS, len(train)), -np.inf
    for k in () if undecided else (k for k in NEIGHBOURS if k <= len(train)):
        score = auroc(units.label[valid], voted[valid, :k].mean(axis=1)).value
        if score > most:
            chosen, most = k, score
    note = f"k fixed; validation: {undecided}" if undecided else ""
    return Scored(voted[test, :chosen].mean(axis=1), float(chosen), note)


def nearest_class_mean(units: Units) -> Scored:
    """Cosine to the mean of the positive training units minus that to the mean of the negative ones."""
    train, test = units.positions("train"), units.positions("test")
    values = units.standardised()
    means = [values[train[units.label[train] == c]].mean(axis=0) for c in (0, 1)]
    negative, positive = (unit_length(values[test]) @ unit_length(np.stack(means)).T).T
    return Scored(positive - negative)


CLASSIFIERS: dict[str, Callable[[Units], Scored]] = {
    "knn": nearest_neighbours,
    "prototype": nearest_class_mean,
}
EMBEDDING_PROBES = ("few_shot", *CLASSIFIERS)
"""Probes of frozen embeddings; each tells two classes apart, of several classes one from the rest."""


def classifier_records(
    probe: str, tasks: Sequence[Units], embedding: str, *, draws: int, seed: int
) -> list[Record]:
    """AUROC of ``knn`` or ``prototype`` with an interval over test compounds, for each task and averaged headline.

    Args:
        draws, seed: of the bootstrap over compounds.
    """
    records: list[Record] = []
    tables: dict[str, pd.DataFrame] = {}
    for units in tasks:
        place = {"headline": units.headline or units.task}
        if reason := units.untestable():
            records.append(record(probe, embedding, units.task, chance=0.5, reason=reason, **place))
            continue
        classified, test = CLASSIFIERS[probe](units), units.positions("test")
        table = pd.DataFrame(
            {
                "task": units.task,
                "family": "binary",
                "level": units.level,
                "fold": 0,
                "unit_id": units.unit_id[test],
                "compound": units.compound[test],
                "label": units.label[test],
                "score": classified.score,
            }
        )
        tables[units.task] = table
        content = _interval(table, draws, seed) | {"k": classified.k, "reason": classified.reason}
        records.append(record(probe, embedding, units.task, **content, **place))
    for headline, members in _averaged(tasks).items():
        scored = [tables[units.task] for units in members if units.task in tables]
        reason = f"mean of {len(scored)} of {len(members)} {members_of(headline)}"
        content = _interval(pd.concat(scored, ignore_index=True), draws, seed) if scored else {"chance": 0.5}
        records.append(record(probe, embedding, headline, **content, reason=reason))
    return records


def _interval(table: pd.DataFrame, draws: int, seed: int) -> Record:
    resampling = resampling_of(table, draws=draws, seed=seed)
    span = bootstrap.interval(headline_statistic(table, resampling, Pairing("folds")), resampling)
    return {"value": span.value, "low": span.low, "high": span.high, "chance": 0.5,
            "n": table["unit_id"].nunique(), "draws": span.draws, "undefined": span.undefined_draws}  # fmt: skip


def hide_nested(
    sample_ids: Sequence[str], shares: Sequence[float], rng: np.random.Generator
) -> dict[float, frozenset[str]]:
    """Which samples lose a modality at each share: whoever is hidden at one share is hidden at every larger one."""
    order = [str(s) for s in rng.permutation(np.asarray(sample_ids, dtype=object))]
    return {share: frozenset(order[: round(share * len(order))]) for share in shares}


def mean_over_runs(tables: Mapping[str, Sequence[pd.DataFrame]], embedding: str) -> pd.DataFrame:
    """Few-shot rows of several experiments, each the mean over its runs of what is defined there.

    Args:
        tables: experiment -> probes tables of its folds and seeds.

    Returns:
        Columns probe, experiment, task, headline, metric, chance, k, value, low, high (means over runs: the spread
        over draws, not over runs), reason ("" throughout).
    """
    averaged = []
    for experiment, of_runs in tables.items():
        joined = pd.concat(of_runs, ignore_index=True)
        joined = joined[
            (joined["probe"] == "few_shot") & (joined["embedding"] == embedding) & joined["value"].notna()
        ]
        means = (
            joined.groupby(["task", "headline", "metric", "chance", "k"], sort=False)[
                ["value", "low", "high"]
            ]
            .mean()
            .reset_index()
        )
        averaged.append(means.assign(probe="few_shot", experiment=experiment, reason=""))
    return pd.concat(averaged, ignore_index=True)
