"""Concordance and Brier score against scikit-survival, on ties, censoring and truncation."""

from __future__ import annotations

import numpy as np
import pytest

from tests.evaluation.censored import integrated_brier, uno_c
from toxfusion.evaluation.survival import harrell_c

pytest.importorskip("sksurv", reason="the extra survival is not installed")


def cohort(n: int, seed: int, *, ties: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times, events and a risk that tells something of them; with ties among events, among the censored, and in risk.

    No event is tied with a censoring: we weigh by G(t-), scikit-survival by G(t).
    """
    rng = np.random.default_rng(seed)
    risk = rng.normal(size=n)
    time, censored = rng.exponential(np.exp(-risk)), rng.exponential(2.0, n)
    event, time = time <= censored, np.minimum(time, censored)
    if not ties:
        return time, event, risk
    return np.ceil(4 * time) + 0.5 * ~event, event, risk.round(1)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_harrell_is_that_of_scikit_survival(seed: int, ties: bool) -> None:
    from sksurv.metrics import concordance_index_censored

    time, event, risk = cohort(80, seed, ties=ties)
    theirs = concordance_index_censored(event, time, risk)[0]
    assert harrell_c(time, event.astype(float), risk).value == pytest.approx(theirs)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_uno_is_that_of_scikit_survival(seed: int, ties: bool) -> None:
    from sksurv.metrics import concordance_index_ipcw
    from sksurv.util import Surv

    train_time, train_event, _ = cohort(120, seed + 10, ties=ties)
    time, event, risk = cohort(80, seed, ties=ties)
    tau = float(np.quantile(train_time, 0.8))
    theirs = concordance_index_ipcw(
        Surv.from_arrays(train_event, train_time), Surv.from_arrays(event, time), risk, tau=tau
    )[0]
    ours = uno_c(train_time, train_event.astype(float), time, event.astype(float), risk, tau)
    assert ours == pytest.approx(theirs)


@pytest.mark.parametrize("seed", range(3))
def test_brier_is_that_of_scikit_survival(seed: int) -> None:
    """Without ties: where a time is tied with a point of the grid, the two differ in what is 'at' it."""
    from sksurv.metrics import integrated_brier_score
    from sksurv.util import Surv

    train_time, train_event, _ = cohort(120, seed + 10, ties=False)
    time, event, risk = cohort(80, seed, ties=False)
    inside = (time > train_time.min()) & (time < train_time.max())
    time, event, risk = time[inside], event[inside], risk[inside]
    grid = np.linspace(*np.quantile(time, [0.1, 0.8]), 30)
    survival = np.exp(-grid * np.exp(risk)[:, None])
    theirs = integrated_brier_score(
        Surv.from_arrays(train_event, train_time), Surv.from_arrays(event, time), survival, grid
    )
    ours = integrated_brier(train_time, train_event.astype(float), time, event.astype(float), grid, survival)
    assert ours == pytest.approx(theirs, rel=1e-6)
