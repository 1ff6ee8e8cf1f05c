"""Losses of labels by hand: masked, pooled, graded, censored; finite at large logits."""

from __future__ import annotations

import math

import pytest
import torch

from toxfusion.models.heads import CompoundHead, CompoundLogits
from toxfusion.objectives.classification import (
    CompoundBCE,
    CrossEntropy,
    MaskedBCE,
    MaskedRegression,
    positive_weights,
)
from toxfusion.objectives.ordinal import Coral, Corn, DoseMonotonicity
from toxfusion.objectives.survival import CoxEfron, DiscreteSurvival

NAN = float("nan")


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_masked_bce_by_hand() -> None:
    logits = torch.tensor([[0.0, 5.0], [1.0, -2.0]], requires_grad=True)
    labels = torch.tensor([[1.0, NAN], [0.0, 1.0]])
    loss = MaskedBCE(torch.tensor([3.0, 1.0]))(logits, labels)
    assert float(loss) == pytest.approx((3 * math.log(2) + softplus(1.0) + softplus(2.0)) / 3)
    loss.backward()
    assert logits.grad[0, 1] == 0
    assert logits.grad.isfinite().all()
    first = MaskedBCE()(logits, labels, keep=torch.tensor([True, False]))
    assert float(first) == pytest.approx(math.log(2))
    assert float(MaskedBCE()(logits, torch.full((2, 2), NAN))) == 0.0


def test_positive_weights_are_capped_and_one_where_they_mean_nothing() -> None:
    labels = torch.zeros(101, 4)
    labels[0, 0] = 1.0  # 100 to 1: capped
    labels[:25, 1] = 1.0  # 76 to 25
    labels[:, 3] = NAN
    assert positive_weights(labels).tolist() == pytest.approx([20.0, 76 / 25, 1.0, 1.0])


def test_each_compound_counts_once_and_controls_never() -> None:
    compound = torch.tensor([4, 4, 4, 9, 9, 5])
    control = torch.tensor([False, False, True, False, True, False])
    labels = torch.tensor(
        [1.0, 1.0, NAN, 0.0, 1.0, NAN]
    )  # the control's 1 must be ignored; compound 5 has none
    output = CompoundLogits(torch.tensor([4, 5, 9]), torch.tensor([2.0, 7.0, -1.0]))
    loss = CompoundBCE()(output, compound, labels, control)
    assert float(loss) == pytest.approx((softplus(-2.0) + softplus(-1.0)) / 2)


def test_a_compound_with_two_labels_is_refused() -> None:
    output = CompoundLogits(torch.tensor([4]), torch.zeros(1))
    with pytest.raises(ValueError, match=r"compound code 4 carries label 0\.0 on one sample"):
        CompoundBCE()(
            output, torch.tensor([4, 4]), torch.tensor([0.0, 1.0]), torch.zeros(2, dtype=torch.bool)
        )


def test_a_batch_of_controls_gives_zero_with_a_gradient() -> None:
    head = CompoundHead(4)
    vector, control = torch.randn(3, 4), torch.ones(3, dtype=torch.bool)
    output = head(vector, torch.tensor([0, 0, 1]), control)
    loss = CompoundBCE()(output, torch.tensor([0, 0, 1]), torch.ones(3), control)
    loss.backward()
    assert float(loss) == 0.0


def test_cross_entropy_and_regression_leave_out_what_is_missing() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [9.0, 9.0]])
    assert float(CrossEntropy()(logits, torch.tensor([0.0, NAN]))) == pytest.approx(math.log(4))
    predicted, target = torch.tensor([[0.5, 1.0], [3.0, 0.0]]), torch.tensor([[0.0, NAN], [0.0, NAN]])
    assert float(MaskedRegression()(predicted, target)) == pytest.approx((0.125 + 2.5) / 2)


def test_coral_by_hand() -> None:
    logits = torch.tensor([[[1.0, -1.0]], [[0.0, 0.0]], [[3.0, 3.0]]])
    labels = torch.tensor([1.0, 2.0, NAN])
    first = softplus(-1.0) + softplus(-1.0)  # exceeds 0, not 1
    second = 2 * math.log(2)  # exceeds both
    assert float(Coral()(logits, labels)) == pytest.approx((first + second) / 2)


def test_corn_by_hand_asks_each_step_of_those_who_reached_it() -> None:
    logits = torch.tensor([[[1.0, 50.0]], [[1.0, 2.0]], [[3.0, 3.0]]])
    labels = torch.tensor([0.0, 1.0, NAN])
    # grade 0 is asked the first step only (its logit 50 costs nothing); grade 1 both
    terms = softplus(1.0) + softplus(-1.0) + softplus(2.0)
    assert float(Corn()(logits, labels)) == pytest.approx(terms / 3)


def test_grades_beyond_the_head_are_refused() -> None:
    with pytest.raises(ValueError, match="set n_grades"):
        Coral()(torch.zeros(1, 1, 2), torch.tensor([3.0]))


def test_dose_monotonicity_by_hand() -> None:
    scores = torch.tensor([0.0, 2.0, 1.0, 9.0])
    dose, series = torch.tensor([0.0, 10.0, 30.0, 0.0]), torch.tensor([0, 0, 0, 1])
    assert float(DoseMonotonicity()(scores, dose, series)) == pytest.approx(
        1 / 3
    )  # one of three pairs falls, by 1


def test_discrete_survival_by_hand() -> None:
    logits = torch.tensor([[0.3, -0.7, 0.2], [0.1, 0.4, -0.5], [1.0, 1.0, 1.0]])
    time_bin, event = torch.tensor([1.0, 1.0, NAN]), torch.tensor([1.0, 0.0, 1.0])
    died = softplus(0.3) + softplus(0.7)  # survives bin 0, event in bin 1
    censored = softplus(0.1) + softplus(0.4)  # survives bins 0 and 1
    for alpha in (0.0, 0.4):
        loss = DiscreteSurvival(alpha=alpha)(logits, time_bin, event)
        assert float(loss) == pytest.approx((died + (1 - alpha) * censored) / 2, rel=1e-6)


@pytest.mark.parametrize("loss_of", [Coral, Corn])
@pytest.mark.parametrize("value", [-200.0, -50.0, 50.0, 200.0])
def test_grades_at_large_logits_cost_their_size_where_wrong_and_nothing_where_right(
    loss_of: type[Coral] | type[Corn], value: float
) -> None:
    """Five grades: the lowest is asked 4 steps by CORAL and 1 by CORN, the highest 4 by both."""
    for grade, wrong in ((0.0, value > 0), (4.0, value < 0)):
        logits = torch.full((1, 1, 4), value, requires_grad=True)
        loss = loss_of()(logits, torch.tensor([grade]))
        loss.backward()
        summed = (
            4 if loss_of is Coral else 1
        )  # CORAL is a mean over samples, CORN over the steps that were asked
        assert float(loss.detach()) == pytest.approx(summed * abs(value) if wrong else 0.0, abs=1e-5)
        assert logits.grad.isfinite().all()
        assert bool(logits.grad[0, 0, 0].abs() > 0.1) is wrong


@pytest.mark.parametrize("value", [-200.0, -50.0, 50.0, 200.0])
def test_survival_is_finite_at_large_logits(value: float) -> None:
    logits = torch.full((2, 4), value, requires_grad=True)
    loss = DiscreteSurvival(alpha=0.0)(logits, torch.tensor([3.0, 2.0]), torch.tensor([1.0, 0.0]))
    loss.backward()
    # Surviving three bins each costs |l| a bin where the hazard is near 1, and the event where it is near 0.
    assert float(loss.detach()) == pytest.approx(3 * value if value > 0 else -value / 2)
    assert logits.grad.isfinite().all()
    risk = torch.tensor([value, -value, 0.0], requires_grad=True)
    loss = CoxEfron()(risk, torch.tensor([1.0, 1.0, 2.0]), torch.tensor([1.0, 1.0, 0.0]))
    loss.backward()
    assert loss.isfinite()
    assert risk.grad.isfinite().all()


def test_efron_by_hand() -> None:
    risk = torch.tensor([0.5, -0.2, 0.1, 0.8, 3.0])
    time = torch.tensor([1.0, 1.0, 2.0, 3.0, NAN])
    event = torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0])
    e = [math.exp(r) for r in (0.5, -0.2, 0.1, 0.8)]
    everyone, tied = sum(e), e[0] + e[1]
    log_likelihood = (0.5 - 0.2) - math.log(everyone) - math.log(everyone - tied / 2)
    log_likelihood += 0.1 - math.log(e[2] + e[3])
    assert float(CoxEfron()(risk, time, event)) == pytest.approx(-log_likelihood / 3, rel=1e-5)
    order = torch.tensor([3, 1, 4, 0, 2])
    assert float(CoxEfron()(risk[order], time[order], event[order])) == pytest.approx(
        -log_likelihood / 3, rel=1e-5
    )


def test_strata_of_cox_are_likelihoods_that_add_up_whatever_their_times() -> None:
    generator = torch.Generator().manual_seed(0)
    risk, time = torch.randn(12, generator=generator), torch.rand(12, generator=generator) + 0.1
    event = torch.tensor([1.0, 1.0, 0.0] * 4)
    stratum = torch.arange(12) % 2.0
    parts = [CoxEfron()(risk[s], time[s], event[s]) * event[s].sum() for s in (stratum == 0, stratum == 1)]
    expected = float(sum(parts) / event.sum())
    assert float(CoxEfron()(risk, time, event, stratum)) == pytest.approx(expected, rel=1e-5)
    later = torch.where(stratum == 1, 1000 * time, time)
    assert float(CoxEfron()(risk, later, event, stratum)) == pytest.approx(expected, rel=1e-5)
    assert float(CoxEfron()(risk, later, event)) != pytest.approx(float(CoxEfron()(risk, time, event)))


def test_cox_without_an_event_is_zero_with_a_gradient() -> None:
    risk = torch.randn(3, requires_grad=True)
    loss = CoxEfron()(risk, torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3))
    loss.backward()
    assert float(loss) == 0.0
    assert risk.grad.isfinite().all()
