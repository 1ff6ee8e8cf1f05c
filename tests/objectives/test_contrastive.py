"""InfoNCE, SigLIP and NT-Xent by hand and against plain loops; near-duplicates."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from toxfusion.objectives.contrastive import InfoNCE, Kin, NTXent, Scale, SigLIP

S = 2.0  # 1 / temperature


def views(n: int = 6, d: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(n, d, generator=generator, dtype=torch.float64) for _ in range(2))  # type: ignore[return-value]


def codes(*values: int) -> Tensor:
    return torch.tensor(values)


def kin_of(group: Tensor, animal: Tensor | None = None, control: Tensor | None = None) -> Kin:
    n = len(group)
    return Kin(
        group,
        torch.arange(n) if animal is None else animal,
        torch.zeros(n, dtype=torch.bool) if control is None else control,
    )


def loss(duplicates: str = "exclude", **more: float) -> InfoNCE:
    return InfoNCE(temperature=1 / S, learnable=False, duplicates=duplicates, **more)


def test_info_nce_of_two_pairs_by_hand() -> None:
    first = torch.eye(2, dtype=torch.float64) * 3.0  # length does not matter
    second = torch.tensor([[0.6, 0.8], [0.0, 1.0]], dtype=torch.float64)
    # cosines: [[0.6, 0.0], [0.8, 1.0]], by rows and by columns
    by_row = [math.log(1 + math.exp(S * (0.0 - 0.6))), math.log(1 + math.exp(S * (0.8 - 1.0)))]
    by_column = [math.log(1 + math.exp(S * (0.8 - 0.6))), math.log(1 + math.exp(S * (0.0 - 1.0)))]
    term = loss()(first, second)
    assert float(term.loss) == pytest.approx(sum(by_row + by_column) / 4, rel=1e-6)
    assert float(term.accuracy) == 0.75
    assert int(term.skipped) == 0


def test_info_nce_does_not_care_which_view_is_first() -> None:
    first, second = views()
    assert torch.allclose(loss()(first, second).loss, loss()(second, first).loss)


def by_loops(first: Tensor, second: Tensor, kin: set[tuple[int, int]], soft: float | None) -> float:
    """The definition written out; ``soft`` None drops kin, else it is the weight on them."""
    n = len(first)
    total, used = 0.0, 0
    for a, b in ((first, second), (second, first)):
        a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
        for i in range(n):
            own_kin = [j for j in range(n) if (i, j) in kin]
            negatives = [j for j in range(n) if j != i and j not in own_kin]
            if not negatives:
                continue
            shown = [i, *negatives, *(own_kin if soft is not None else [])]
            logits = {j: S * float(a[i] @ b[j]) for j in shown}
            norm = math.log(sum(math.exp(v) for v in logits.values()))
            target = {i: 1.0}
            if soft is not None and own_kin:
                target = {i: 1 - soft} | {j: soft / len(own_kin) for j in own_kin}
            total -= sum(t * (logits[j] - norm) for j, t in target.items())
            used += 1
    return total / used


@pytest.mark.parametrize("soft", [None, 0.3])
def test_near_duplicates_against_a_plain_loop(soft: float | None) -> None:
    first, second = views()
    kin = kin_of(
        codes(0, 0, 1, 2, 3, -1),
        codes(5, 6, 7, 7, 8, -1),
        torch.tensor([False, False, False, False, True, True]),
    )
    related = {(0, 1), (2, 3), (4, 5)}  # one group, one animal, two vehicle controls; -1 is kin to nobody
    related |= {(j, i) for i, j in related}
    module = loss() if soft is None else loss("soft", soft_weight=soft)
    assert float(module(first, second, kin).loss) == pytest.approx(
        by_loops(first, second, related, soft), rel=1e-6
    )
    kept = loss("keep")(first, second, kin).loss
    assert float(kept) == pytest.approx(by_loops(first, second, set(), None), rel=1e-6)


def test_excluded_pairs_exert_no_force() -> None:
    first, second = views(4)
    second.requires_grad_()
    kin = kin_of(codes(0, 0, 1, 2))
    log_p = loss()(first, second, kin)
    log_p.loss.backward()
    gradient = second.grad.clone()
    second.grad = None
    apart = loss("keep")(first, second, kin).loss
    apart.backward()
    assert not torch.allclose(gradient, second.grad)
    # Moving the twin's embedding changes nothing in row 0's own terms.
    moved = second.detach().clone()
    moved[1] = -moved[1]
    own_terms = [loss()(first[[0, 2, 3]], s[[0, 2, 3]]).loss for s in (second.detach(), moved)]
    assert torch.equal(own_terms[0], own_terms[1])


def test_rows_without_a_negative_are_skipped_and_counted() -> None:
    first, second = views(3)
    alone = loss()(first, second, kin_of(codes(1, 1, 1)))
    assert float(alone.loss) == 0.0
    assert int(alone.skipped) == 6
    first.requires_grad_()
    loss()(first, second, kin_of(codes(1, 1, 1))).loss.backward()
    assert first.grad.isfinite().all()
    one = loss()(first[:1], second[:1])
    assert float(one.loss.detach()) == 0.0
    assert int(one.skipped) == 2


@pytest.mark.parametrize("duplicates", ["exclude", "soft"])
def test_rows_that_lack_a_view_are_neither_rows_nor_columns(duplicates: str) -> None:
    first, second = views()
    group = codes(0, 0, 1, 2, 2, 3)
    valid = torch.tensor([True, True, False, True, True, True])
    some = loss(duplicates)(first, second, kin_of(group), valid)
    subset = loss(duplicates)(first[valid], second[valid], kin_of(group[valid]))
    assert torch.allclose(some.loss, subset.loss)
    garbage = first.clone()
    garbage[2] = 1e3
    assert torch.equal(loss(duplicates)(garbage, second, kin_of(group), valid).loss, some.loss)


def test_norms_are_taken_in_float32_under_autocast() -> None:
    first, second = (v.float() for v in views())
    exact = loss()(first, second).loss
    with torch.autocast("cpu", torch.bfloat16):
        rough = loss()(first, second).loss
    assert rough.dtype == torch.float32
    assert torch.equal(rough, exact)  # the inputs are float32 here, so nothing at all may be rounded


def test_the_scale_is_held_and_comes_back() -> None:
    scale = Scale(0.07, learnable=True)
    assert float(scale()) == pytest.approx(1 / 0.07)
    with torch.no_grad():
        scale.log_scale.fill_(10.0)
    value = scale()
    assert float(value) == pytest.approx(100.0, rel=1e-5)
    value.backward()
    assert scale.log_scale.grad > 0
    assert not Scale(0.07, learnable=False).log_scale.requires_grad
    with pytest.raises(ValueError, match="must lie in"):
        Scale(0.0001, learnable=True)


def test_siglip_against_a_plain_loop() -> None:
    first, second = views(4)
    group = codes(0, 0, 1, 2)
    a, b = F.normalize(first, dim=1), F.normalize(second, dim=1)
    total = 0.0
    for i in range(4):
        for j in range(4):
            if {i, j} == {0, 1}:
                continue
            y = 1 if i == j else -1
            total += math.log(1 + math.exp(-y * (10 * float(a[i] @ b[j]) - 10)))
    assert float(SigLIP()(first, second, kin_of(group)).loss) == pytest.approx(total / 4, rel=1e-6)


def test_nt_xent_against_a_plain_loop() -> None:
    first, second = views(3)
    both = F.normalize(torch.cat([first, second]), dim=1)
    total = 0.0
    for i in range(6):
        partner = (i + 3) % 6
        others = [math.exp(float(both[i] @ both[j]) / 0.2) for j in range(6) if j != i]
        total -= math.log(math.exp(float(both[i] @ both[partner]) / 0.2) / sum(others))
    assert float(NTXent(temperature=0.2)(first, second).loss) == pytest.approx(total / 6, rel=1e-6)


@pytest.mark.parametrize("module", [InfoNCE, SigLIP])
def test_unknown_ways_with_duplicates_are_refused(module: type) -> None:
    with pytest.raises(ValueError, match="duplicates='drop'"):
        module(duplicates="drop")
