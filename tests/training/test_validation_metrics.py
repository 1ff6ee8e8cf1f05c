"""Metrics of the log of a training agree with those of the evaluation; vectors of two ranks are those of one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn import metrics as sk

from toxfusion.evaluation import metrics
from toxfusion.training.validation import SampleVectors
from toxfusion.training.validation_metrics import metrics_of, table_metrics


def _kappa(grade: np.ndarray, called: np.ndarray) -> float:
    return sk.cohen_kappa_score(grade.astype(int), called.astype(int), labels=range(5), weights="quadratic")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(4, 60))
def test_metrics_agree_with_those_of_the_evaluation(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, n).astype(float)
    label[:2] = (0.0, 1.0)
    score = np.round(rng.random(n), 1)  # with ties
    unlabelled = np.append(label, np.nan)
    ours = metrics_of("binary", torch.from_numpy(unlabelled), torch.from_numpy(np.append(score, 0.5)))
    assert float(ours["auroc"]) == pytest.approx(metrics.auroc(label, score).value, abs=1e-6)
    assert float(ours["auprc"]) == pytest.approx(sk.average_precision_score(label, score), abs=1e-6)
    grade = rng.integers(0, 5, n).astype(float)
    grade[:2] = (0.0, 3.0)
    expected = rng.random(n) * 4
    kappa = metrics_of("ordinal", torch.from_numpy(grade), torch.from_numpy(expected))["quadratic_kappa"]
    assert float(kappa) == pytest.approx(_kappa(grade, expected.round()), abs=1e-6)
    value, predicted = rng.normal(size=n), rng.normal(size=n)
    rho = metrics_of("value", torch.from_numpy(value), torch.from_numpy(predicted))["spearman"]
    assert float(rho) == pytest.approx(spearmanr(value, predicted).statistic, abs=1e-6)


def test_what_is_undefined_is_left_out_of_the_mean_of_a_headline() -> None:
    part = pd.DataFrame({"label": [1.0, 1, 1, 1], "score": [0.1, 0.9, 0.6, 0.4]})
    lesions = part.assign(headline="lesions", family="binary", task="lesion:a")
    both = lesions.assign(task="lesion:b", label=[0.0, 1, 0, 1])
    survival = both.assign(headline="survival", family="survival", task="survival")
    logged = table_metrics(pd.concat([lesions, both, survival]), torch.device("cpu"))
    assert set(logged) == {"lesions_auroc", "lesions_auprc"}
    assert float(logged["lesions_auroc"]) == pytest.approx(0.75)


def test_vectors_are_collected_in_the_order_of_samples_and_anew_each_time() -> None:
    vectors, collected = torch.randn(5, 3), SampleVectors()
    for places in ([3, 0], [4, 1, 2]):
        collected.update(torch.tensor(places), vectors[places])
    place, vector = collected.compute()
    assert place.tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(vector, vectors)
    collected.reset()
    collected.update(torch.tensor([2]), vectors[[2]])
    assert torch.equal(collected.compute()[1], vectors[[2]])
