"""Survival baselines by scikit-survival: ridge Cox, elastic-net Cox and random survival forests.

Everything is fitted, and its regularisation chosen, on training samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from toxfusion.evaluation.survival import harrell_c

SURVIVAL_LEARNERS = ("cox", "coxnet", "rsf")
RIDGE_PENALTIES = (1000.0, 300.0, 100.0, 30.0, 10.0, 3.0, 1.0)
L1_RATIOS = (0.9, 0.5, 0.1)
N_PENALTIES = 30
LEAST_PENALTY = 0.05
"""Of the elastic net, as a share of the penalty that leaves no gene."""
SURVIVAL_LEAF_SIZES = (15, 5)
N_TREES = 200
INNER_FOLDS = 5


class SurvivalBaselineError(ValueError):
    """scikit-survival is not installed, or there is nothing to fit on."""


@dataclass(frozen=True)
class SurvivalFit:
    """What a fitted survival baseline says of samples.

    Attributes:
        risk: float64 [n], higher = earlier.
        curve: float64 [n, K], the probability of no event up to each of the times asked for.
    """

    risk: np.ndarray
    curve: np.ndarray


def fit_survival(
    learner: str,
    features: np.ndarray,
    time: np.ndarray,
    event: np.ndarray,
    patient: np.ndarray,
    train: np.ndarray,
    times: np.ndarray,
    seed: int,
) -> SurvivalFit:
    """Fit one learner on training samples and score every sample.

    Args:
        learner: "cox" (ridge penalty, Efron's ties) and "coxnet" (elastic net) take the penalty of the highest mean
            Harrell's C over five folds of the training samples, the strongest of equals; "rsf" the leaf size of the
            highest out-of-bag C.
        features: float64 [n, d], standardised, without NaN.
        time, event: float64 [n]; without NaN in ``train``.
        patient: [n]; samples of one are in one inner fold.
        train: int [n_train], positions of the training samples.
        times: float64 [K], rising, at which survival curves are wanted.
        seed: of inner folds and forests.

    Raises:
        SurvivalBaselineError: scikit-survival is not installed, or no training sample has an event.
    """
    try:
        from sksurv.util import Surv
    except ImportError as error:
        raise SurvivalBaselineError(
            "survival baselines need scikit-survival: pip install 'toxfusion[survival]', which from Python 3.13 on "
            "compiles ecos and so needs a C compiler"
        ) from error
    if not (event[train] == 1).any():
        raise SurvivalBaselineError(
            f"none of {len(train)} training samples with these features has an event; take another split"
        )

    def fit(model: Any, kept: np.ndarray) -> Any:
        return model.fit(features[kept], Surv.from_arrays(event[kept] == 1, time[kept]))

    def inner_c(risks: Callable[[np.ndarray], list[Callable[[np.ndarray], np.ndarray]]]) -> np.ndarray:
        """Mean C of each candidate over the inner folds where it is defined; chance where it is in none."""
        concordances = [
            [
                harrell_c(time[held_out], event[held_out], risk(features[held_out])).value
                for risk in risks(kept)
            ]
            for kept, held_out in _inner_folds(event, patient, train, seed)
        ]
        if not concordances:
            return np.zeros(1)
        known = ~np.isnan(concordances)
        total, n = np.nansum(concordances, axis=0), known.sum(axis=0)
        return np.divide(total, n, out=np.full(len(n), 0.5), where=n > 0)

    make = {"cox": _ridge, "coxnet": _elastic_net, "rsf": _forest}[learner]
    model = make(fit, inner_c, train, seed)
    functions = model.predict_survival_function(features)
    curve = np.stack([np.append(1.0, f.y)[np.searchsorted(f.x, times, side="right")] for f in functions])
    return SurvivalFit(np.asarray(model.predict(features), np.float64), curve)


Fit = Callable[[Any, np.ndarray], Any]
InnerC = Callable[[Callable[[np.ndarray], list[Callable[[np.ndarray], np.ndarray]]]], np.ndarray]


def _ridge(fit: Fit, inner_c: InnerC, train: np.ndarray, seed: int) -> Any:
    from sksurv.linear_model import CoxPHSurvivalAnalysis

    def candidates(kept: np.ndarray) -> list[Callable[[np.ndarray], np.ndarray]]:
        return [fit(CoxPHSurvivalAnalysis(alpha=a, ties="efron"), kept).predict for a in RIDGE_PENALTIES]

    best = RIDGE_PENALTIES[int(np.argmax(inner_c(candidates)))]
    return fit(CoxPHSurvivalAnalysis(alpha=best, ties="efron"), train)


def _elastic_net(fit: Fit, inner_c: InnerC, train: np.ndarray, seed: int) -> Any:
    best, highest = (L1_RATIOS[0], np.empty(0)), -np.inf
    for ratio in L1_RATIOS:
        penalties = _path(fit, train, ratio, None).alphas_

        def candidates(
            kept: np.ndarray, ratio: float = ratio, penalties: np.ndarray = penalties
        ) -> list[Callable[[np.ndarray], np.ndarray]]:
            path = _path(fit, kept, ratio, penalties)
            reached = np.maximum(penalties, path.alphas_[-1])
            return [partial(path.predict, alpha=penalty) for penalty in reached]

        mean_c = inner_c(candidates)
        if mean_c.max() > highest:
            best, highest = (ratio, penalties[: int(np.argmax(mean_c)) + 1]), mean_c.max()
    return _path(fit, train, *best)


def _path(fit: Fit, kept: np.ndarray, ratio: float, penalties: np.ndarray | None) -> Any:
    """Fitted from the strongest penalty down, each fit starting at the one before; its own penalties where None.

    A weak penalty may have no finite fit: the path then ends before it. Predicts by its weakest penalty.
    """
    from sksurv.linear_model import CoxnetSurvivalAnalysis

    settings: dict[str, Any] = {"l1_ratio": ratio, "fit_baseline_model": True}
    if penalties is None:
        settings |= {"n_alphas": N_PENALTIES, "alpha_min_ratio": LEAST_PENALTY}
    try:
        return fit(CoxnetSurvivalAnalysis(alphas=penalties, **settings), kept)
    except ArithmeticError as error:
        if penalties is None:
            shorter: dict[str, Any] = {**settings, "alpha_min_ratio": LEAST_PENALTY**0.5}
            return fit(CoxnetSurvivalAnalysis(**shorter), kept)
        if len(penalties) == 1:
            raise SurvivalBaselineError(
                f"elastic-net Cox, penalty {penalties[0]:.3g}: {error} Look for a gene of extreme values, or set "
                "data.expression.clip lower"
            ) from error
        return _path(fit, kept, ratio, penalties[:-1])


def _forest(fit: Fit, inner_c: InnerC, train: np.ndarray, seed: int) -> Any:
    from sksurv.ensemble import RandomSurvivalForest

    forests = [
        fit(
            RandomSurvivalForest(
                N_TREES, min_samples_leaf=size, max_features="sqrt", oob_score=True, random_state=seed
            ),
            train,
        )
        for size in SURVIVAL_LEAF_SIZES
    ]
    return max(forests, key=lambda forest: forest.oob_score_)


def _inner_folds(
    event: np.ndarray, patient: np.ndarray, train: np.ndarray, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Samples to fit on and samples held out, stratified by event; none where there are too few events or patients."""
    died = np.unique(patient[train][event[train] == 1])
    n_folds = min(INNER_FOLDS, len(died), len(np.unique(patient[train])) - len(died))
    if n_folds < 2:
        return
    folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    for kept, held_out in folds.split(np.zeros((len(train), 1)), event[train], patient[train]):
        if (event[train[kept]] == 1).any():
            yield train[kept], train[held_out]
