"""Distances, conformal p-values and the band of risks, by hand and on samples whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf

from toxfusion.evaluation.applicability import (
    LEAST_UNITS,
    NEIGHBOURS,
    ApplicabilityError,
    Reference,
    beyond,
    choose_band,
    conformal_p,
)


def reference(n: int = 60, scale: float = 1.0) -> tuple[Reference, np.ndarray]:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(n, 4)) * [1.0, 2.0, 0.5, 3.0] * scale
    return Reference.fit(vectors, [f"c{i // 4}" for i in range(n)]), vectors


def test_distance_is_mahalanobis_to_the_fifth_compound() -> None:
    fitted, vectors = reference()
    at = np.array([[1.0, -2.0, 0.3, 4.0]])
    precision = LedoitWolf().fit(vectors).precision_
    gap = vectors - at
    each = np.sqrt(np.einsum("ij,jk,ik->i", gap, precision, gap)).reshape(15, 4).min(axis=1)
    table = fitted.to_compounds(at)
    np.testing.assert_allclose(table[[f"c{i}" for i in range(15)]].to_numpy()[0], each)
    np.testing.assert_allclose(fitted.distance(at), np.sort(each)[NEIGHBOURS - 1])


def test_distance_does_not_depend_on_the_unit_of_the_vectors() -> None:
    (small, vectors), (large, _) = reference(), reference(scale=100.0)
    np.testing.assert_allclose(small.distance(vectors), large.distance(100.0 * vectors), rtol=1e-6)


def test_more_dimensions_than_samples_are_fine_and_one_sample_is_not() -> None:
    rng = np.random.default_rng(1)
    wide = Reference.fit(rng.normal(size=(12, 40)), [f"c{i}" for i in range(12)])
    near, far = wide.distance(np.stack([np.zeros(40), np.full(40, 9.0)]))
    assert np.isfinite(far)
    assert near < far
    with pytest.raises(ApplicabilityError, match="1 training samples"):
        Reference.fit(np.zeros((1, 3)), ["a"])


def test_p_counts_validation_units_at_least_as_far() -> None:
    valid = np.array([1.0, 2.0, 2.0, 3.0])
    np.testing.assert_array_equal(beyond(valid, np.array([0.5, 2.0, 2.5, 9.0])), [4, 3, 1, 0])
    # (4 x 3/4 + 1) / 5; two folds of four: (8 x 3/8 + 1) / 9; a second seed of them changes nothing.
    one, two, twice = np.array([3]), np.array([3]), np.array([6])
    np.testing.assert_allclose(conformal_p(one, np.array([4]), np.array([4])), [0.8])
    np.testing.assert_allclose(conformal_p(two, np.array([8]), np.array([8])), [4 / 9])
    np.testing.assert_allclose(conformal_p(twice, np.array([16]), np.array([8])), [4 / 9])
    # Without a validation unit nothing can be called far.
    np.testing.assert_array_equal(conformal_p(np.array([0]), np.array([0]), np.array([0])), [1.0])


def test_units_like_those_of_validation_are_called_far_as_often_as_alpha_says() -> None:
    rng = np.random.default_rng(2)
    rates = []
    for _ in range(2000):
        d = rng.exponential(size=40)
        p = conformal_p(beyond(d[:39], d[39:]), np.array([39]), np.array([39]))
        rates.append(p[0] <= 0.1)
    assert np.mean(rates) == pytest.approx(0.1, abs=0.02)


def test_the_band_is_the_narrowest_that_keeps_the_error() -> None:
    # Margins 0.49 down to 0.20, right; then two wrong of margin 0.10, and ten right of margin 0.05.
    sure = 0.5 + np.linspace(0.49, 0.20, 30)
    score = np.concatenate([sure, [0.6, 0.6], np.full(10, 0.45)])
    label = np.concatenate([np.ones(30), [0.0, 0.0], np.zeros(10)])
    band = choose_band(label, score, 0.0)
    assert band.half_width == pytest.approx(0.20)
    assert (band.kept, band.error, band.n) == (pytest.approx(30 / 42), 0.0, 42)
    all_of_them = choose_band(label, score, 2 / 42)
    assert (all_of_them.half_width, all_of_them.kept) == (0.0, 1.0)
    # 2 of 32 is too much, and units of one margin are kept together or not at all.
    assert choose_band(label, score, 0.04).half_width == pytest.approx(0.20)


def test_no_band_where_too_few_units_are_called_well() -> None:
    few = LEAST_UNITS - 1
    band = choose_band(np.ones(few), np.full(few, 0.9), 0.1)
    assert np.isinf(band.half_width)
    assert band.kept == 0.0
    wrong = choose_band(np.zeros(50), np.full(50, 0.9), 0.1)
    assert np.isinf(wrong.half_width)
    unlabelled = choose_band(np.full(50, np.nan), np.full(50, 0.9), 0.1)
    assert (unlabelled.n, unlabelled.half_width) == (0, np.inf)
