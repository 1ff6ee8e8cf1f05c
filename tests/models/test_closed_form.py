"""The closed forms against scikit-learn, against planted structure, and at their edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cross_decomposition import CCA
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from torch import Tensor
from torch.testing import assert_close

from toxfusion.models.closed_form import ClosedFormError, principal_map, shared_maps

N = 300


def views(n: int = N, noise: float = 1.0, seed: int = 0, wide: int = 20) -> tuple[Tensor, Tensor]:
    """Two views of three common factors; columns of very different scale and mean."""
    generator = torch.Generator().manual_seed(seed)
    factors = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    mix = torch.Generator().manual_seed(99)
    made = []
    for width in (8, wide):
        loading = torch.randn(3, width, generator=mix, dtype=torch.float64)
        scale = torch.logspace(-2, 2, width, dtype=torch.float64)
        raw = factors @ loading + noise * torch.randn(n, width, generator=generator, dtype=torch.float64)
        made.append(raw * scale + 5 * scale)
    return made[0], made[1]


def standard(view: Tensor) -> np.ndarray:
    columns = view.numpy()
    return (columns - columns.mean(0)) / columns.std(0)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(abs(a @ b) / np.linalg.norm(a) / np.linalg.norm(b))


def test_each_variate_is_the_ridge_of_its_view_onto_the_other_one() -> None:
    """(C_xx + l)^-1 C_xy b_k is proportional to a_k: scikit-learn's ridge with a penalty of n l."""
    x, y = views()
    maps = shared_maps(x, y, 3, first_ridge=0.7, second_ridge=2.0)
    for view, own, ridge, other in (
        (x, maps.first(x), 0.7, maps.second(y)),
        (y, maps.second(y), 2.0, maps.first(x)),
    ):
        fitted = Ridge(alpha=ridge * N).fit(standard(view), other.numpy()).predict(standard(view))
        for k in range(3):
            assert cosine(fitted[:, k], own[:, k].numpy()) > 1 - 1e-10


def test_without_ridge_it_is_canonical_correlation() -> None:
    x, y = views()
    maps = shared_maps(x, y, 3, first_ridge=1e-9, second_ridge=1e-9, power=0.0)
    ours = [
        float(torch.corrcoef(torch.stack([maps.first(x)[:, k], maps.second(y)[:, k]]))[0, 1])
        for k in range(3)
    ]
    theirs = CCA(3, max_iter=5000, tol=1e-12).fit(x.numpy(), y.numpy()).transform(x.numpy(), y.numpy())
    expected = [np.corrcoef(theirs[0][:, k], theirs[1][:, k])[0, 1] for k in range(3)]
    assert ours == pytest.approx(expected, abs=1e-6)
    assert maps.correlations.tolist() == pytest.approx(expected, abs=1e-6)


def test_the_power_of_the_correlations_is_the_ratio_of_the_variates() -> None:
    x, y = views()
    flat, steep = (shared_maps(x, y, 3, first_ridge=1.0, second_ridge=1.0, power=p) for p in (0.0, 1.0))
    ratio = (steep.first(x) / flat.first(x)).mean(0)
    assert_close(ratio / ratio[0], steep.correlations / steep.correlations[0])


def test_pairs_of_new_samples_are_found_and_shuffled_pairs_are_not() -> None:
    x, y = views()
    new_x, new_y = views(seed=1)

    def accuracy(order: Tensor) -> float:
        maps = shared_maps(x, y[order], 3, first_ridge=0.1, second_ridge=0.1)
        a, b = (torch.nn.functional.normalize(m, dim=1) for m in (maps.first(new_x), maps.second(new_y)))
        rank = ((a @ b.T) > (a * b).sum(1)[:, None]).sum(1)
        return float((rank < 10).double().mean())

    assert accuracy(torch.arange(N)) > 0.5
    assert accuracy(torch.randperm(N, generator=torch.Generator().manual_seed(3))) < 0.1


def test_a_weight_of_two_is_the_sample_twice() -> None:
    x, y = views(60)
    weights = torch.ones(60)
    weights[:20] = 2.0
    twice = torch.cat([torch.arange(60), torch.arange(20)])
    weighted = shared_maps(x, y, 2, first_ridge=1.0, second_ridge=1.0, weights=weights)
    doubled = shared_maps(x[twice], y[twice], 2, first_ridge=1.0, second_ridge=1.0)
    assert_close(weighted.correlations, doubled.correlations)
    gram = [m.first(x) @ m.second(y).T for m in (weighted, doubled)]
    assert_close(gram[0], gram[1])


def test_more_genes_than_samples_constant_columns_and_more_dimensions_than_rank() -> None:
    x, y = views(12, wide=500)
    x[:, 3] = 7.0
    maps = shared_maps(x, y, 32, first_ridge=1.0, second_ridge=4.0)
    for view, of in ((x, maps.first), (y, maps.second)):
        out = of(view)
        assert out.shape == (12, 32)
        assert out.isfinite().all()
        assert float(out.square().sum(1).mean()) == pytest.approx(32)
    assert not maps.first.weight[:, 3].any()
    assert not maps.first.weight[8:].any()


def test_principal_components_are_those_of_scikit_learn() -> None:
    _, y = views()
    ours, theirs = principal_map(y, 4)(y), PCA(4).fit_transform(standard(y))
    for k in range(4):
        assert cosine(ours[:, k].numpy(), theirs[:, k]) > 1 - 1e-10
    spread = ours.std(0).numpy()
    assert spread / spread[0] == pytest.approx(theirs.std(0) / theirs.std(0)[0])


def test_what_is_left_over_is_uncorrelated_with_what_is_shared_and_is_the_residual() -> None:
    x, y = views()
    shared = shared_maps(x, y, 3, first_ridge=1.0, second_ridge=1.0).second(y)
    private = principal_map(y, 5, without=shared)(y)
    both = torch.cat([shared, private], 1)
    assert torch.corrcoef(both.T)[:3, 3:].abs().max() < 1e-8
    standardised = standard(y)
    basis = (shared - shared.mean(0)).numpy()
    residual = standardised - basis @ np.linalg.lstsq(basis, standardised, rcond=None)[0]
    expected = PCA(5).fit_transform(residual)
    for k in range(5):
        assert cosine(private[:, k].numpy(), expected[:, k]) > 1 - 1e-8


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x, y: (x[:-1], y), "299 and 300 samples"),
        (lambda x, y: (x[:2], y[:2]), "2 samples"),
        (lambda x, y: (x.masked_fill(x == x[0, 0], torch.nan), y), "finite"),
    ],
)
def test_views_that_cannot_be_solved_are_refused(change, said: str) -> None:  # type: ignore[no-untyped-def]
    x, y = change(*views())
    with pytest.raises(ClosedFormError, match=said):
        shared_maps(x, y, 3, first_ridge=1.0, second_ridge=1.0)


def test_a_ridge_of_zero_is_refused() -> None:
    with pytest.raises(ClosedFormError, match="above 0"):
        shared_maps(*views(), 3, first_ridge=0.0, second_ridge=1.0)
