"""Orthogonality, style and VICReg: values by hand, floors, trivial minima."""

from __future__ import annotations

import math

import pytest
import torch

from toxfusion.objectives.monitors import alignment, smooth_rank, uniformity, variance_of
from toxfusion.objectives.orthogonality import Orthogonality
from toxfusion.objectives.style import PrototypeClustering, StyleBranch, style_kl
from toxfusion.objectives.vicreg import Consistency, VICReg

YES = torch.ones(2, dtype=torch.bool)


def test_cosine_form_by_hand_is_squared() -> None:
    first = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    second = torch.tensor([[-3.0, 0.0], [1.0, 1.0]])
    assert float(Orthogonality(form="cosine")(first, second).loss) == pytest.approx((1 + 0.5) / 2)
    with pytest.raises(ValueError, match="equal widths"):
        Orthogonality(form="cosine")(first, torch.zeros(2, 3))


def test_correlation_form_by_hand() -> None:
    first = torch.tensor([[1.0], [2.0], [3.0]])
    same, none = -5 * first + 2, torch.tensor([[1.0], [-2.0], [1.0]])
    term = Orthogonality()
    assert float(term(first, same).loss) == pytest.approx(1.0)
    assert float(term(first, none).loss) == pytest.approx(0.0, abs=1e-6)
    assert float(term(first, torch.cat([same, none], 1)).loss) == pytest.approx(0.5)  # divided by d_s d_p


def test_independent_parts_sit_at_the_reported_floor() -> None:
    generator = torch.Generator().manual_seed(0)
    term = Orthogonality()
    draws = [term(*torch.randn(2, 16, 128, generator=generator)) for _ in range(5)]
    mean = sum(float(d.loss) for d in draws) / 5
    assert mean == pytest.approx(1 / 15, rel=0.03)
    assert float(draws[0].floor) == pytest.approx(1 / 15)


@pytest.mark.parametrize("form", ["cosine", "cross_correlation"])
def test_rows_without_both_parts_do_not_count(form: str) -> None:
    first, second = torch.randn(2, 6, 4)
    valid = torch.tensor([True, True, False, True, True, False])
    term = Orthogonality(form=form)
    some = term(first, second, valid).loss
    assert torch.allclose(some, term(first[valid], second[valid]).loss, atol=1e-6)
    first[2] = float("nan")
    if form == "cross_correlation":
        assert torch.allclose(term(first, second, valid).loss, some)


def test_a_constant_part_gives_no_nan() -> None:
    first = torch.ones(5, 3, requires_grad=True)
    Orthogonality()(first, torch.randn(5, 3)).loss.backward()
    assert first.grad.isfinite().all()


def test_style_kl_by_hand() -> None:
    mean, log_variance = (
        torch.tensor([[1.0, 0.0], [9.0, 9.0]]),
        torch.tensor([[0.0, math.log(2)], [9.0, 9.0]]),
    )
    expected = 0.5 * (1.0 + (2 - 1 - math.log(2)))
    assert float(style_kl(mean, log_variance, torch.tensor([True, False]))) == pytest.approx(expected)


def test_cluster_kl_by_hand() -> None:
    scores_s, scores_e = torch.tensor([[math.log(3.0), 0.0]]), torch.tensor([[0.0, 0.0]])
    term = PrototypeClustering(temperature=1.0, entropy_weight=2.0)(scores_s, scores_e, YES[:1])
    p, q = (0.75, 0.25), (0.5, 0.5)
    kl = 0.5 * sum(a * math.log(a / b) + b * math.log(b / a) for a, b in zip(p, q, strict=True))
    entropy = -sum(m * math.log(m) for m in (0.625, 0.375))
    assert float(term.kl) == pytest.approx(kl)
    assert float(term.entropy) == pytest.approx(entropy)
    assert float(term.loss) == pytest.approx(kl - 2 * entropy)


def test_one_prototype_for_all_is_worse_than_spread_prototypes() -> None:
    """Both have KL 0; without the entropy term nothing would tell them apart."""
    term = PrototypeClustering()
    spread, collapsed = torch.eye(4), torch.eye(4)[:1].repeat(4, 1)
    four = torch.ones(4, dtype=torch.bool)
    good, bad = term(spread, spread, four), term(collapsed, collapsed, four)
    assert float(good.kl) == float(bad.kl) == 0.0
    assert good.loss < bad.loss - 1


def test_style_branch_is_deterministic_in_eval_and_starts_orthogonal() -> None:
    torch.manual_seed(0)
    branch = StyleBranch(16, latent=4, n_prototypes=8)
    gram = branch.prototypes @ branch.prototypes.T
    assert torch.allclose(gram, torch.eye(8), atol=1e-5)
    vector = torch.randn(3, 16)
    branch.eval()
    assert torch.equal(branch(vector).scores, branch(vector).scores)
    assert (branch(vector).scores.abs() <= 1 + 1e-6).all()
    branch.train()
    assert not torch.equal(branch(vector).scores, branch(vector).scores)


def test_vicreg_by_hand() -> None:
    first = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    second = torch.tensor([[0.1, 0.0], [-0.1, 0.0]])
    term = VICReg(invariance=1.0, variance=1.0, covariance=1.0, eps=0.0)(first, second)
    assert float(term.invariance) == pytest.approx((0.81 + 1.0) / 2)
    # deviations: sqrt 2 twice (no hinge); sqrt 0.02 and 0
    assert float(term.variance) == pytest.approx((0.0 + (1 - math.sqrt(0.02) + 1) / 2) / 2, rel=1e-5)
    # covariance of the first: 2 off the diagonal twice, over d = 2; of the second none
    assert float(term.covariance) == pytest.approx(4.0)
    assert float(term.loss) == pytest.approx(float(term.invariance + term.variance + term.covariance))


def test_consistency_by_hand_and_zero_where_equal() -> None:
    a, b = torch.tensor([[math.log(3.0)]]), torch.tensor([[0.0]])
    assert float(Consistency()(a, b, YES[:1])) == pytest.approx(0.5 * 0.25 * math.log(3.0))
    assert float(Consistency()(a, a, YES[:1])) == 0.0


def test_monitors() -> None:
    assert float(smooth_rank(torch.eye(5))) == pytest.approx(5.0, rel=1e-5)
    assert float(smooth_rank(torch.ones(5, 3))) == pytest.approx(1.0, abs=1e-3)
    x = torch.randn(20, 4)
    assert float(alignment(x, 3 * x)) == pytest.approx(0.0, abs=1e-6)
    assert float(alignment(x, -x)) == pytest.approx(4.0, rel=1e-5)
    assert float(uniformity(torch.ones(4, 3))) == pytest.approx(0.0, abs=1e-4)
    assert float(uniformity(x)) < -0.5
    assert float(variance_of(torch.ones(4, 3))) == 0.0
    assert float(variance_of(torch.tensor([[0.0], [2.0]]))) == 1.0


def test_batch_statistics_are_taken_in_float32_under_autocast() -> None:
    first, second = torch.randn(2, 6, 4)
    valid = torch.ones(6, dtype=torch.bool)
    branch = StyleBranch(4, latent=2, n_prototypes=3).eval()
    with torch.autocast("cpu", torch.bfloat16):
        rough = Orthogonality()(first, second).loss, VICReg()(first, second).loss
        scores = branch._scores(first, branch.prototypes)
    exact = Orthogonality()(first, second).loss, VICReg()(first, second).loss
    assert torch.equal(torch.stack(rough), torch.stack(exact))
    assert torch.equal(scores, branch._scores(first, branch.prototypes))
    assert PrototypeClustering()(scores, scores, valid).loss.isfinite()
