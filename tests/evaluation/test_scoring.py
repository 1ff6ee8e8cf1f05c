"""Scoring of a whole run: pooled, thresholds from validation, oracle share, nulls."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from toxfusion.evaluation import metrics, scoring
from toxfusion.evaluation.oracles import read_oracles
from toxfusion.evaluation.out_of_fold import (
    Pairing,
    headline_rows,
    headline_statistic,
    join_cohorts,
    out_of_fold,
    resampling_of,
)
from toxfusion.evaluation.predictions import PredictionsError
from toxfusion.evaluation.records import as_dict


def _value(scores: pd.DataFrame, task: str, metric: str, column: str = "value") -> float:
    matching = scores[(scores["task"] == task) & (scores["metric"] == metric)]
    assert len(matching) == 1
    return matching[column].iloc[0]


def _folds(make_table, **settings) -> list[pd.DataFrame]:
    return [make_table(fold=f, n_folds=3, **settings) for f in range(3)]


def test_pooled_scores_of_every_task(make_table) -> None:
    tables = _folds(make_table)
    scores = scoring.score_run(tables, draws=200)
    joined = pd.concat(tables).query("part == 'test'")
    dili, necrosis = joined.query("task == 'dili'"), joined.query("task == 'lesion:necrosis'")
    assert _value(scores, "dili", "auroc") == pytest.approx(metrics.auroc(dili["label"], dili["score"]).value)
    pooled = metrics.auroc(necrosis["label"], necrosis["score"]).value
    assert _value(scores, "lesion:necrosis", "auroc_pooled") == pytest.approx(pooled)
    pairs = [part["label"].sum() * (1 - part["label"]).sum() for _, part in necrosis.groupby("fold")]
    inside = [metrics.auroc(part["label"], part["score"]).value for _, part in necrosis.groupby("fold")]
    lesion = np.average(inside, weights=pairs)
    assert _value(scores, "lesion:necrosis", "auroc") == pytest.approx(lesion)
    assert _value(scores, "lesions", "auroc") == pytest.approx(lesion)
    assert _value(scores, "dili", "auroc", "n") == _value(scores, "dili", "auroc", "n_compounds") == 24
    assert _value(scores, "injury", "auroc", "n") == 120
    assert _value(scores, "severity", "quadratic_kappa") > 0.2
    assert _value(scores, "lesions", "auroc", "reason").startswith("mean of 2 of 2")
    for task in ("dili", "injury", "lesions"):
        for metric in ("auroc", "auprc", "balanced_accuracy", "mcc"):
            value, low, high = (_value(scores, task, metric, c) for c in ("value", "low", "high"))
            assert low < value < high


def test_thresholds_come_from_the_validation_part_of_the_fold(make_table) -> None:
    table = make_table(fold=0, n_folds=3)
    valid = table.query("task == 'injury' and part == 'valid'")
    expected = metrics.choose_threshold(valid["label"], valid["score"]).value
    tested = out_of_fold([table]).query("task == 'injury'")
    assert (tested["threshold"] == expected).all()
    np.testing.assert_array_equal(tested["called"], tested["score"] >= expected)


def test_grades_are_called_by_cutoffs_of_the_validation_part_or_not_at_all(make_table) -> None:
    table = make_table(fold=0, n_folds=3)
    valid = table.query("task == 'severity' and part == 'valid'")
    cutoffs = metrics.choose_cutoffs(valid["label"], valid["score"])
    tested = out_of_fold([table]).query("task == 'severity'")
    np.testing.assert_array_equal(tested["called"], metrics.as_grade(tested["score"], cutoffs))
    # Confidence is not agreement: scores half as far from zero are called as before.
    timid = table.assign(score=table["score"].where(table["task"] != "severity", table["score"] / 2))
    kappa = _value(scoring.score_run(timid, draws=50), "severity", "quadratic_kappa")
    assert kappa == pytest.approx(_value(scoring.score_run(table, draws=50), "severity", "quadratic_kappa"))
    alone = scoring.score_run(table[(table["task"] != "severity") | (table["part"] == "test")], draws=50)
    assert np.isnan(_value(alone, "severity", "quadratic_kappa"))
    assert "no labelled unit" in _value(alone, "severity", "quadratic_kappa", "reason")
    assert np.isfinite(_value(alone, "severity", "mean_absolute_error"))


def test_operating_points_hold_their_specificity_on_validation_and_say_what_test_kept(make_table) -> None:
    table = make_table(fold=0, n_folds=3)
    valid, test = (table.query(f"task == 'injury' and part == '{p}'") for p in ("valid", "test"))
    threshold = metrics.threshold_of_specificity(valid["label"], valid["score"], 0.9).value
    negative, positive = test[test["label"] == 0], test[test["label"] == 1]
    scores = scoring.score_run(table, draws=50)
    sensitivity, specificity = (
        _value(scores, "injury", f"validated_{m}_90") for m in ("sensitivity", "specificity")
    )
    assert sensitivity == pytest.approx((positive["score"] >= threshold).mean())
    assert specificity == pytest.approx((negative["score"] < threshold).mean())
    both = (_value(scores, "injury", "sensitivity") + _value(scores, "injury", "specificity")) / 2
    assert both == pytest.approx(_value(scores, "injury", "balanced_accuracy"))
    macro = [_value(scores, t, "validated_sensitivity_95") for t in ("lesion:necrosis", "lesion:hypertrophy")]
    assert _value(scores, "lesions", "validated_sensitivity_95") == pytest.approx(np.mean(macro))


def test_without_validation_the_ranking_stays_and_calls_say_why_not(make_table) -> None:
    scores = scoring.score_run(make_table(), draws=50)
    assert np.isfinite(_value(scores, "dili", "auroc"))
    assert np.isnan(_value(scores, "dili", "mcc"))
    assert "validation" in _value(scores, "dili", "mcc", "reason")


def test_lesions_of_one_class_stay_out_of_the_macro_and_are_counted(make_table) -> None:
    table = make_table()
    table.loc[table["task"] == "lesion:hypertrophy", "label"] = 0.0
    scores = scoring.score_run(table, draws=50)
    assert np.isnan(_value(scores, "lesion:hypertrophy", "auroc"))
    assert "negative" in _value(scores, "lesion:hypertrophy", "auroc", "reason")
    assert _value(scores, "lesions", "auroc") == _value(scores, "lesion:necrosis", "auroc")
    assert _value(scores, "lesions", "auroc", "reason").startswith("mean of 1 of 2")


def test_a_compound_has_no_dose_stratum(make_table) -> None:
    scores = scoring.score_run(make_table(), draws=50)
    assert "doses" in _value(scores, "dili", "auroc_within_strata", "reason")
    assert np.isfinite(_value(scores, "injury", "auroc_within_strata"))


def test_dose_and_time_alone_are_at_chance_within_strata(make_table) -> None:
    table = make_table()
    table["score"] = np.where(
        table["task"] == "severity", table["score"], 0.1 * (table["dose_level"] == "high")
    )
    scores = scoring.score_run(table, draws=50)
    assert _value(scores, "injury", "auroc_within_strata") == pytest.approx(0.5)


def test_a_method_that_only_knows_its_training_prevalence_is_at_chance_within_folds(make_table) -> None:
    """Pooled, it falls below chance: a fold rich in positives has a training part that is poor in them."""
    tables = _folds(make_table)
    joined = pd.concat(tables)
    tested = joined[(joined["part"] == "test") & (joined["task"] == "injury")]
    for table in tables:
        elsewhere = tested.loc[tested["fold"] != table["fold"].iloc[0], "label"].mean()
        table["score"] = np.where(table["task"] == "injury", elsewhere, table["score"])
    scores = scoring.score_run(tables, draws=50)
    assert _value(scores, "injury", "auroc_pooled") < 0.48
    assert _value(scores, "injury", "auroc") == pytest.approx(0.5)
    alone = scoring.score_run(tables[0], draws=50)
    assert "auroc_pooled" not in set(alone["metric"])


def test_knowing_the_training_prevalence_is_worth_nothing_over_many_studies() -> None:
    """Forty animals a fold, labels by chance: 0.5 within folds; about 0.43 pooled, in the same repeats."""
    rng, within, pooled = np.random.default_rng(5), [], []
    fold = np.repeat(np.arange(5), 40)
    for _ in range(200):
        label = (rng.random(200) < 0.2).astype(float)
        known = np.array([label[fold != k].mean() for k in range(5)])[fold]
        table = pd.DataFrame({
            "task": "lesion:a", "family": "binary", "headline": "lesions", "level": "sample", "label": label,
            "score": known, "fold": fold, "unit_id": np.arange(200).astype(str), "compound": np.arange(200).astype(str),
        })  # fmt: skip
        pairing = Pairing.of(table)
        assert (pairing.pairs, pairing.reason) == ("folds", "")
        resampling = resampling_of(table, draws=2)
        ones = np.ones((1, 200))
        within.append(headline_statistic(table, resampling, pairing)(ones)[0])
        pooled.append(headline_statistic(table, resampling, pairing.other)(ones)[0])
    assert within == [0.5] * 200
    assert np.mean(pooled) == pytest.approx(0.43, abs=0.02)


def test_folds_too_small_to_rank_in_are_pooled_and_say_so(make_table) -> None:
    scores = scoring.score_run(_folds(make_table), draws=50)  # eight compounds a fold
    assert "8 units a fold, under 10" in _value(scores, "dili", "auroc", "reason")
    assert np.isfinite(_value(scores, "dili", "auroc_within_folds"))
    assert _value(scores, "injury", "auroc", "reason") == ""
    assert np.isfinite(_value(scores, "injury", "auroc_pooled"))


def test_values_are_ranked_within_folds_too() -> None:
    """A score that is its fold's training mean correlates negatively over folds, and not at all within them."""
    rng, fold = np.random.default_rng(0), np.repeat(np.arange(4), 30)
    label = rng.normal(size=120) + fold
    score = np.array([label[fold != k].mean() for k in range(4)])[fold] + 1e-3 * rng.normal(size=120)
    table = pd.DataFrame({"task": "biochemistry:ALT", "family": "value", "headline": "biochemistry", "level": "sample",
                         "label": label, "score": score, "fold": fold, "unit_id": np.arange(120).astype(str),
                         "compound": np.arange(120).astype(str)})  # fmt: skip
    resampling, ones = resampling_of(table, draws=2), np.ones((1, 120))
    pairing = Pairing.of(table)
    inside = headline_statistic(table, resampling, pairing)(ones)[0]
    by_hand = np.mean([spearmanr(label[fold == k], score[fold == k]).statistic for k in range(4)])
    assert inside == pytest.approx(by_hand)
    assert headline_statistic(table, resampling, pairing.other)(ones)[0] < -0.5 < inside - 0.3


def test_oracle_share(make_table, tmp_path: Path) -> None:
    table = make_table()
    oracle = table[["task", "level", "unit_id", "label", "score"]].copy()
    oracle.assign(view="both").to_parquet(tmp_path / "oracles.parquet")
    scores = scoring.score_run(table, tmp_path, draws=50)
    assert _value(scores, "dili", "oracle_share_both") == pytest.approx(1)
    assert _value(scores, "lesions", "auroc_minus_oracle_both") == 0
    perfect = oracle.assign(view="both", score=oracle["label"])
    perfect.to_parquet(tmp_path / "oracles.parquet")
    scores = scoring.score_run(table, tmp_path, draws=50)
    expected = (_value(scores, "dili", "auroc") - 0.5) / 0.5
    assert _value(scores, "dili", "oracle_share_both") == pytest.approx(expected)


def test_broken_oracles_are_refused(make_table, tmp_path: Path) -> None:
    table = make_table()[["task", "level", "unit_id", "label", "score"]]
    table.to_parquet(tmp_path / "oracles.parquet")
    with pytest.raises(PredictionsError, match="view"):
        read_oracles(tmp_path)
    assert read_oracles(tmp_path / "elsewhere") is None


def test_oracle_of_other_labels_is_refused(make_table, tmp_path: Path) -> None:
    table = make_table()
    oracle = table[["task", "level", "unit_id", "label", "score"]].assign(view="both")
    oracle["label"] = np.where(oracle["task"] == "dili", 1 - oracle["label"], oracle["label"])
    oracle.to_parquet(tmp_path / "oracles.parquet")
    with pytest.raises(PredictionsError, match="without truth"):
        scoring.score_run(table, tmp_path, draws=10)


def test_studies_are_compared_within_themselves(make_table) -> None:
    """A shift of all scores of one study moves no joint AUROC, and draws keep each study's classes."""
    first = out_of_fold([make_table()])
    second = out_of_fold([make_table(noise=5)])
    shifted = second.assign(score=second["score"] / 2)
    values = []
    for other in (second, shifted):
        dili = headline_rows(join_cohorts({"a": first, "b": other}), "dili")
        resampling = resampling_of(dili, draws=20)
        assert len(resampling.clusters) == 48
        of_a = np.array([c.startswith("a/") for c in resampling.clusters])
        assert (resampling.weights[:, of_a].sum(axis=1) == 24).all()
        values.append(headline_statistic(dili, resampling, Pairing.of(dili))(np.ones((1, 48)))[0])
    single = [metrics.auroc(t.query("task == 'dili'")["label"], t.query("task == 'dili'")["score"]).value
              for t in (first, second)]  # fmt: skip
    assert values == pytest.approx([np.mean(single)] * 2)


def test_permuted_labels_are_at_chance(make_table) -> None:
    table = make_table(n_compounds=60)
    rng = np.random.default_rng(1)
    outside = {"dili": 0, "injury": 0}
    for _ in range(12):
        for task in outside:
            of_task = table["task"] == task
            table.loc[of_task, "label"] = rng.permutation(table.loc[of_task, "label"])
        scores = scoring.score_run(table[table["task"].isin(outside)], draws=200)
        for task in outside:
            low, high = (_value(scores, task, "auroc", side) for side in ("low", "high"))
            outside[task] += not low <= 0.5 <= high
    assert max(outside.values()) <= 3, outside


def test_same_seed_same_numbers(make_table) -> None:
    tables = _folds(make_table)
    pd.testing.assert_frame_equal(
        scoring.score_run(tables, draws=50), scoring.score_run(tables[::-1], draws=50)
    )


def test_a_run_that_was_not_tested_is_refused(make_table) -> None:
    valid = make_table(n_folds=3).query("part == 'valid'")
    with pytest.raises(PredictionsError, match="test"):
        scoring.score_run(valid)


def test_metrics_json_holds_plain_types(make_table) -> None:
    nested = as_dict(scoring.score_run(make_table(), draws=20))
    assert json.loads(json.dumps(nested, allow_nan=False))["dili"]["mcc"]["value"] is None
    assert nested["dili"]["auroc"]["n"] == 24
