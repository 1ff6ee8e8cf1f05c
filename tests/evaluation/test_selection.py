"""The validation score: pairs by hand, every family, its error, and that rare lesions do not decide."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from toxfusion.evaluation import bootstrap
from toxfusion.evaluation.families import FAMILIES
from toxfusion.evaluation.selection import SelectionScore, standing, validation_score
from toxfusion.evaluation.statistics import auroc_statistic
from toxfusion.evaluation.survival import harrell_c


def _rows(
    task: str, family: str, label: np.ndarray, score: np.ndarray, compound: np.ndarray | None = None, **more
):
    n = len(label)
    compound = np.arange(n) if compound is None else compound
    return pd.DataFrame({"task": task, "family": family, "part": "valid", "fold": 0, "seed": 0, "label": label,
                         "score": score, "compound": np.asarray(compound).astype(str), **more})  # fmt: skip


def _by_hand(label: np.ndarray, score: np.ndarray) -> tuple[float, int]:
    """Right pairs and pairs."""
    pairs = [(i, j) for i, j in itertools.permutations(range(len(label)), 2) if label[i] > label[j]]
    return sum((score[i] > score[j]) + 0.5 * (score[i] == score[j]) for i, j in pairs), len(pairs)


def test_pairs_are_pooled_over_tasks_of_every_family() -> None:
    rng = np.random.default_rng(0)
    n = 30
    binary, grade, value = (
        rng.integers(0, 2, n) * 1.0,
        rng.integers(0, 5, n) * 1.0,
        rng.normal(size=n).round(1),
    )
    scores = rng.random((4, n)).round(1)
    time, event = rng.exponential(size=n), rng.integers(0, 2, n) * 1.0
    table = pd.concat([
        _rows("dili", "binary", binary, scores[0]),
        _rows("severity", "ordinal", grade, scores[1]),
        _rows("biochemistry:ALT", "value", value, scores[2]),
        _rows("survival", "survival", time, scores[3], event=event),
    ])  # fmt: skip
    by_hand = [_by_hand(y, s) for y, s in zip((binary, grade, value), scores, strict=False)]
    comparable = sum(event[i] and time[j] > time[i] for i, j in itertools.permutations(range(n), 2))
    by_hand.append((harrell_c(time, event, scores[3]).value * comparable, int(comparable)))
    scored = validation_score(table)
    assert scored.value == pytest.approx(sum(r for r, _ in by_hand) / sum(p for _, p in by_hand))
    assert sorted(scored.n_pairs.values()) == sorted(p for _, p in by_hand)


def test_units_of_two_folds_or_without_a_label_make_no_pair() -> None:
    label, score = np.array([0.0, 1.0, 1.0, np.nan]), np.array([0.1, 0.9, 0.0, 0.5])
    table = _rows("injury", "binary", label, score)
    assert validation_score(table).value == 0.5
    apart = table.assign(fold=[0, 0, 1, 0])
    assert (validation_score(apart).value, validation_score(apart).n_pairs) == (1.0, {"injury": 1.0})
    assert np.isnan(validation_score(table.assign(part="test")).value)
    alike = validation_score(table.assign(label=1.0))
    assert np.isnan(alike.value)
    assert np.isnan(alike.error)


def test_the_error_is_that_of_the_cluster_bootstrap() -> None:
    rng = np.random.default_rng(3)
    compound = np.repeat(np.arange(40), 6)
    label = (rng.random(240) < 0.3).astype(float)
    score = label + rng.normal(size=240) + np.repeat(rng.normal(size=40), 6)
    scored = validation_score(_rows("injury", "binary", label, score, compound))
    resampling = bootstrap.resample(compound)
    drawn = auroc_statistic(label, score, resampling.codes(compound), 40)(resampling.weights)
    assert scored.error == pytest.approx(drawn.std(), rel=0.1)


def test_a_gain_has_a_paired_error() -> None:
    rng = np.random.default_rng(4)
    compound, label = np.repeat(np.arange(30), 5), (rng.random(150) < 0.4).astype(float)
    score = label + rng.normal(size=150)
    early = validation_score(_rows("injury", "binary", label, score, compound))
    same = validation_score(_rows("injury", "binary", label, 2 * score + 1, compound))
    late = validation_score(_rows("injury", "binary", label, score + 0.2 * rng.normal(size=150), compound))
    assert early.gain_over(same) == (0.0, 0.0)
    gain, error = late.gain_over(early)
    assert gain == pytest.approx(late.value - early.value)
    assert 0 < error < early.error / 2
    assert early.gain_over(SelectionScore.from_state(late.state())) == (-gain, error)
    with pytest.raises(ValueError, match="different validation units"):
        early.gain_over(validation_score(_rows("injury", "binary", label[:75], score[:75], compound[:75])))


@pytest.mark.parametrize("n_positive", [1, 2, 4])
def test_a_lesion_with_a_handful_of_positives_does_not_decide(n_positive: int) -> None:
    """Early, a rare lesion happens to be on top and all else is at chance; late, all else is learned, and it is not.

    The mean of AUROCs takes the early step; pooled pairs take the late one, by more than its error.
    """
    rng = np.random.default_rng(5)
    compound = np.repeat(np.arange(24), 5)
    common, rare = (rng.random(120) < 0.35).astype(float), np.zeros(120)
    rare[[7, 33, 58, 101][:n_positive]] = 1
    noise = rng.normal(size=(3, 120))

    def step(strength: float, of_rare: float) -> pd.DataFrame:
        tasks = {
            "lesion:a": (common, strength * common + noise[0]),
            "lesion:b": (rare, 9 * of_rare * rare + noise[1]),
        }
        tables = [_rows(task, "binary", *of_task, compound) for task, of_task in tasks.items()]
        grade = 2 * common
        return pd.concat(
            [*tables, _rows("severity", "ordinal", grade, strength * common + noise[2], compound)]
        )

    early, late = step(0.0, 1.0), step(1.0, -1.0)
    means = [
        np.mean([validation_score(t[t["task"] == task]).value for task in ("lesion:a", "lesion:b")])
        for t in (early, late)
    ]
    assert means[0] > means[1] + 0.1
    gain, error = validation_score(late).gain_over(validation_score(early))
    assert gain > 0.1
    assert gain > 2 * error


def test_times_of_two_strata_make_no_pair_in_choice_or_score() -> None:
    """All of stratum b die later, at lower risk: right within neither, and no matter between them."""
    survival = _rows(
        "survival", "survival", np.array([1.0, 2.0, 8.0, 9.0]), np.array([3.0, 4.0, 1.0, 2.0]), np.arange(4)
    )
    table = survival.assign(event=1.0, uno_weight=1.0)
    assert validation_score(table).value == pytest.approx(4 / 6)
    stratified = table.assign(stratum=list("aabb"))
    assert validation_score(stratified).value == 0.0
    assert validation_score(stratified).n_pairs == {"survival": 2.0}
    measures = FAMILIES["survival"].measures
    for name in ("harrell_c", "uno_c"):
        for of, expected in ((table, 4 / 6), (stratified, 0.0)):
            statistic = measures[name](of, np.arange(4), 4, np.full(4, "0 0"))
            assert float(statistic(np.ones((1, 4)))[0]) == pytest.approx(expected)


def test_the_first_score_stands_unless_a_later_one_gains_beyond_the_error() -> None:
    """A gain of 0.1 whose error is 0.02, one whose error is 1, and a score of no pair at all."""

    def score(value: float, influence: list[float]) -> SelectionScore:
        return SelectionScore(value, ("a", "b"), np.array(influence), {"dili": 4.0})

    first = score(0.5, [0.0, 0.0])
    sure, unsure = score(0.6, [0.01, -0.01]), score(0.6, [0.5, -0.5])
    nothing = score(float("nan"), [float("nan")] * 2)
    assert standing([first]) == 0
    assert standing([first, sure]) == 1
    assert standing([first, unsure]) == 0
    assert standing([first, first, nothing, unsure, sure]) == 4
    assert standing([sure, first]) == 0
    assert standing([nothing, sure]) == 0
