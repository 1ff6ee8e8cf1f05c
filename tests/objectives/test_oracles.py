"""Independent implementations as judges: statsmodels and scikit-survival of Cox, lightly of contrast and VICReg."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from toxfusion.objectives.contrastive import InfoNCE, NTXent
from toxfusion.objectives.survival import CoxEfron
from toxfusion.objectives.vicreg import VICReg

RELATIVE = 1e-5


def cohort(n: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Covariates float64 [n, 3], times of few distinct values (so that most are tied), events as bool [n]."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3))
    hazard = np.exp(x @ np.array([0.8, -0.5, 0.0]))
    time = np.ceil(4 * rng.exponential(1 / hazard)).clip(max=9)
    return x, time, rng.random(n) < 0.7


def cox(x: np.ndarray, beta: Tensor, time: np.ndarray, event: np.ndarray) -> Tensor:
    """Our partial log-likelihood at ``beta``: the loss is its negative over the number of events."""
    risk = torch.as_tensor(x, dtype=beta.dtype) @ beta
    happened = torch.as_tensor(event.astype(float))
    return -CoxEfron()(risk, torch.as_tensor(time), happened) * int(event.sum())


@pytest.mark.parametrize("beta", [(0.0, 0.0, 0.0), (0.8, -0.5, 0.1), (-2.0, 1.5, 3.0)])
def test_cox_is_the_likelihood_and_score_of_statsmodels(beta: tuple[float, ...]) -> None:
    from statsmodels.duration.hazard_regression import PHReg

    x, time, event = cohort()
    assert len(np.unique(time[event])) < event.sum() / 3  # ties are what is tested
    model = PHReg(time, x, status=event.astype(int), ties="efron")
    ours = torch.tensor(beta, requires_grad=True)
    value = cox(x, ours, time, event)
    value.backward()
    assert float(value.detach()) == pytest.approx(model.loglike(np.array(beta)), rel=RELATIVE)
    np.testing.assert_allclose(ours.grad, model.score(np.array(beta)), rtol=1e-4, atol=1e-3)


def test_cox_without_effects_counts_the_risk_sets() -> None:
    """All risks 0: d tied events among r at risk cost sum_l log(r - l)."""
    x, time, event = cohort()
    expected = 0.0
    for at in np.unique(time[event]):
        tied, risk_set = int((event & (time == at)).sum()), int((time >= at).sum())
        expected -= sum(math.log(risk_set - done) for done in range(tied))
    assert float(cox(x, torch.zeros(3), time, event)) == pytest.approx(expected, rel=RELATIVE)


def test_cox_is_highest_where_scikit_survival_fits() -> None:
    pytest.importorskip("sksurv", reason="the extra survival is not installed")
    from sksurv.linear_model import CoxPHSurvivalAnalysis
    from sksurv.util import Surv

    x, time, event = cohort()
    fitted = CoxPHSurvivalAnalysis(ties="efron", tol=1e-12).fit(x, Surv.from_arrays(event, time)).coef_
    beta = torch.tensor(fitted, dtype=torch.float32, requires_grad=True)
    best = cox(x, beta, time, event)
    best.backward()
    assert beta.grad.abs().max() < 1e-3
    for step in 0.1 * torch.eye(3):
        for moved in (beta + step, beta - step):
            assert cox(x, moved.detach(), time, event) < best.detach() - 0.05


def views(n: int = 12, d: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(n, d, generator=generator)
    return first, first + 0.7 * torch.randn(n, d, generator=generator)


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
def test_nt_xent_is_that_of_lightly(temperature: float) -> None:
    """Both normalise rows and take the mean over the 2N views: the factor is 1."""
    from lightly.loss import NTXentLoss

    first, second = (view.requires_grad_() for view in views())
    ours, theirs = NTXent(temperature=temperature)(first, second).loss, NTXentLoss(temperature)(first, second)
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=RELATIVE)
    for mine, other in zip(
        torch.autograd.grad(ours, (first, second)), torch.autograd.grad(theirs, (first, second)), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


def test_info_nce_is_the_contrast_of_lightly_with_a_bank_of_the_other_modality() -> None:
    """lightly has no symmetric two-tower loss; with a memory bank of one row it is one of our rows (factor 1).

    Row i against its partner and the other columns, averaged over rows and both directions, is InfoNCE.
    """
    from lightly.loss import NTXentLoss

    first, second = views(6)
    losses = []
    for queries, keys in ((first, second), (second, first)):
        unit = torch.nn.functional.normalize(keys, dim=1)
        for i in range(len(queries)):
            theirs = NTXentLoss(temperature=0.2, memory_bank_size=(5, keys.shape[1]))
            theirs.memory_bank.bank = torch.cat([unit[:i], unit[i + 1 :]])
            theirs.memory_bank.bank_ptr = torch.zeros(1, dtype=torch.long)
            losses.append(float(theirs(queries[i : i + 1], keys[i : i + 1])))
    ours = InfoNCE(temperature=0.2, duplicates="keep")(first, second).loss.detach()
    assert float(ours) == pytest.approx(sum(losses) / len(losses), rel=RELATIVE)


def test_vicreg_is_that_of_lightly() -> None:
    """Weights 25, 25, 1; variances and covariances over N - 1, variance halved over both views: the factor is 1."""
    from lightly.loss import VICRegLoss

    first, second = (view.requires_grad_() for view in views())
    ours, theirs = VICReg()(first, second).loss, VICRegLoss()(first, second)
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=RELATIVE)
    for mine, other in zip(
        torch.autograd.grad(ours, (first, second)), torch.autograd.grad(theirs, (first, second)), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)
