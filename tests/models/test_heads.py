"""Heads: compounds pooled by hand, controls left out, grades in order."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from toxfusion.models.heads import (
    BinaryHead,
    CompoundHead,
    MultiClassHead,
    MultiLabelHead,
    OrdinalHead,
    Pooling,
    RegressionHead,
    SurvivalHead,
    pool_compounds,
)

LOGITS = torch.tensor([1.0, -1.0, 3.0, 50.0, 0.5])
COMPOUND = torch.tensor([7, 7, 2, 7, 7])
TREATED = torch.tensor([True, True, True, False, True])


def pooled(pooling: Pooling, scores: torch.Tensor | None = None) -> torch.Tensor:
    scores = torch.zeros(5) if scores is None else scores
    codes, logits = pool_compounds(LOGITS, scores, COMPOUND, TREATED, pooling)
    assert codes.tolist() == [2, 7]
    assert logits[0] == pytest.approx(3.0)  # one sample: any pooling gives it back
    return logits[1]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_pooling_by_hand() -> None:
    assert pooled("mean") == pytest.approx(0.5 / 3)
    assert pooled("max") == 1.0
    p = 1 - (1 - sigmoid(1)) * (1 - sigmoid(-1)) * (1 - sigmoid(0.5))
    assert pooled("noisy_or") == pytest.approx(math.log(p / (1 - p)), rel=1e-5)
    scores = torch.tensor([math.log(2.0), 0.0, 0.0, 9.0, 0.0])
    assert pooled("attention", scores) == pytest.approx((2 * 1 - 1 + 0.5) / 4)


def test_noisy_or_is_finite_at_any_logit() -> None:
    for value in (-200.0, -50.0, 50.0, 200.0):
        logits = torch.full((3,), value, requires_grad=True)
        _, out = pool_compounds(
            logits, logits, torch.zeros(3, dtype=torch.long), torch.ones(3, dtype=torch.bool), "noisy_or"
        )
        out.sum().backward()
        assert out.isfinite().all()
        assert logits.grad.isfinite().all()
    few = torch.tensor([-40.0, -40.0])
    _, out = pool_compounds(
        few, few, torch.zeros(2, dtype=torch.long), torch.ones(2, dtype=torch.bool), "noisy_or"
    )
    assert float(out) == pytest.approx(-40 + math.log(2), rel=1e-5)  # small risks add


@pytest.mark.parametrize("pooling", ["mean", "max", "noisy_or", "attention"])
def test_controls_never_enter(pooling: Pooling) -> None:
    torch.manual_seed(0)
    head = CompoundHead(8, pooling=pooling).eval()
    vector = torch.randn(6, 8)
    compound = torch.tensor([0, 0, 1, 1, 3, 3])
    is_control = torch.tensor([False, True, False, False, True, True])
    out = head(vector, compound, is_control)
    assert out.compound.tolist() == [0, 1]  # compound 3 has controls only
    moved = head(torch.where(is_control[:, None], 1000.0, vector), compound, is_control)
    assert_close(moved.logits, out.logits)
    order = torch.tensor([3, 5, 2, 0, 4, 1])
    assert_close(head(vector[order], compound[order], is_control[order]).logits, out.logits)


def test_a_batch_of_controls_gives_no_compound() -> None:
    out = CompoundHead(8)(torch.randn(2, 8), torch.tensor([0, 1]), torch.ones(2, dtype=torch.bool))
    assert out.logits.shape == (0,)


def test_unknown_pooling_is_refused() -> None:
    with pytest.raises(ValueError, match="none of mean, max"):
        CompoundHead(8, pooling="median")


def test_shapes_of_plain_heads() -> None:
    vector = torch.randn(3, 8)
    assert BinaryHead(8)(vector).shape == (3,)
    assert MultiLabelHead(8, 5)(vector).shape == (3, 5)
    assert MultiClassHead(8, 4)(vector).shape == (3, 4)
    assert RegressionHead(8, 2)(vector).shape == (3, 2)
    assert SurvivalHead(8, 4)(vector).shape == (3, 4)
    assert SurvivalHead(8, None)(vector).shape == (3,)


@pytest.mark.parametrize("method", ["coral", "corn"])
def test_grades_exceed_in_order(method: str) -> None:
    torch.manual_seed(0)
    head = OrdinalHead(8, 5, n_targets=3, method=method).eval()
    logits = head(torch.randn(10, 8))
    assert logits.shape == (10, 3, 4)
    exceeded = head.exceedance(logits)
    assert (exceeded.diff(dim=-1) <= 0).all()
    grade = head.expected_grade(logits)
    assert ((grade > 0) & (grade < 4)).all()


def test_expected_grade_by_hand() -> None:
    coral, corn = OrdinalHead(8, 3), OrdinalHead(8, 3, method="corn")
    logits = torch.tensor([[[0.0, math.log(1 / 3)]]])  # probabilities 1/2 and 1/4
    assert_close(coral.expected_grade(logits), torch.tensor([[0.75]]))
    assert_close(corn.expected_grade(logits), torch.tensor([[0.5 + 0.125]]))


@pytest.mark.parametrize("method", ["coral", "corn"])
def test_every_parameter_of_the_ordinal_head_learns(method: str) -> None:
    head = OrdinalHead(8, 5, n_targets=2, method=method)
    out = head(torch.randn(6, 8))
    (out * torch.randn_like(out)).sum().backward()
    assert not [n for n, p in head.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
