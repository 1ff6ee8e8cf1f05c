"""Probes by hand: shots of distinct compounds, neighbours and class means on toys, nested hiding, one class."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from toxfusion.evaluation import figures, probing
from toxfusion.evaluation.figures import FigureError
from toxfusion.evaluation.metrics import auroc
from toxfusion.evaluation.probing import SHOTS, Units
from toxfusion.study.draws import generator


def units(
    values: list[list[float]] | np.ndarray, label: list[int] | np.ndarray, part: list[str] | np.ndarray, *,
    task: str = "dili", compound: list[str] | None = None,
) -> Units:  # fmt: skip
    names = np.array([f"u{i}" for i in range(len(label))], dtype=object)
    of_unit = names if compound is None else np.array(compound, dtype=object)
    level = "compound" if task == "dili" else "sample"
    return Units(
        task, level, np.asarray(values, float), np.asarray(label, float), names, of_unit, np.asarray(part)
    )


def two_clouds(n: int, distance: float, *, task: str = "dili", seed: int = 0) -> Units:
    """n units of each class in 6 dimensions in each part, of 3 n compounds a class."""
    rng = np.random.default_rng(seed)
    label = np.tile([0, 1], 3 * n)
    values = rng.normal(size=(6 * n, 6)) + distance * label[:, None] * np.eye(6)[0]
    return units(values, label, np.repeat(["train", "valid", "test"], 2 * n), task=task)


def test_shots_are_of_distinct_compounds_and_nested() -> None:
    label = np.array([1, 1, 1, 1, 0, 0, 0])
    compound = np.array(["a", "a", "a", "b", "a", "c", "c"], dtype=object)
    taken = set()
    for draw in range(40):
        negative, positive = probing.draw_shots(label, compound, generator(0, draw))
        assert sorted(compound[positive]) == ["a", "b"]
        assert sorted(compound[negative]) == ["a", "c"]
        assert (label[positive] == 1).all()
        assert (label[negative] == 0).all()
        taken |= {*positive.tolist(), *negative.tolist()}
    assert taken == set(range(7))


def test_two_shots_rank_by_the_line_between_them() -> None:
    """With one shot a class the weights point from the negative to the positive shot."""
    table = units(
        [[-1, 0], [1, 0], [-2, 5], [0.5, -5], [3, 5], [-0.5, 5]],
        [0, 1, 0, 1, 1, 0],
        ["train", "train", "test", "test", "test", "test"],
    )
    by_shots = probing.few_shot(table, seed=0, draws=3)
    assert by_shots[1].values.tolist() == [1.0, 1.0, 1.0]
    assert "C fixed" in by_shots[1].reason  # no validation part
    assert len(by_shots[5].values) == 0
    assert "1 training compounds" in by_shots[5].reason


def test_the_span_of_the_shots_holds_the_whole_solution() -> None:
    rng = np.random.default_rng(1)
    values, label = rng.normal(size=(40, 30)), np.arange(40) % 2
    shots = np.arange(10)
    ours = probing._logistic(values, label, shots, 0.1)
    whole = LogisticRegression(C=0.1, tol=1e-8, max_iter=2000).fit(values[shots], label[shots])
    expected = values @ whole.coef_[0]
    np.testing.assert_allclose(ours, expected, atol=1e-3)
    assert auroc(label, ours).value == pytest.approx(auroc(label, expected).value)


def test_more_shots_find_more_and_noise_stays_at_chance() -> None:
    curve = pd.DataFrame(probing.few_shot_records([two_clouds(30, 2.5)], "e", seed=0)).set_index("k")
    assert curve["value"].is_monotonic_increasing
    assert curve.loc[25, "value"] > 0.85
    assert (curve["low"] <= curve["value"]).all()
    nothing = pd.DataFrame(probing.few_shot_records([two_clouds(30, 0.0)], "e", seed=0))
    assert (nothing["value"] - 0.5).abs().max() < 0.12
    again = pd.DataFrame(probing.few_shot_records([two_clouds(30, 2.5)], "e", seed=0)).set_index("k")
    pd.testing.assert_frame_equal(curve, again)


def test_nothing_is_fitted_or_chosen_on_test_units() -> None:
    table = two_clouds(12, 1.5)
    test = table.positions("test")
    moved = Units(**{**vars(table), "values": table.values.copy()})
    moved.values[test[0]] += 50.0
    for classify in probing.CLASSIFIERS.values():
        assert (classify(table).score[1:] == classify(moved).score[1:]).all()
    others = np.setdiff1d(np.arange(len(table.label)), test)
    assert (table.standardised()[others] == moved.standardised()[others]).all()


def test_neighbours_by_hand() -> None:
    """Angles from the training mean: k = 1 is right on validation, larger k is not."""
    angle = np.deg2rad([0, 90, 180, 270, 5, 95, 185, 275, 2, 92, 182, 272])
    label = np.array([1, 0, 1, 0] * 3)
    table = units(
        np.stack([np.cos(angle), np.sin(angle)], 1), label, np.repeat(["train", "valid", "test"], 4)
    )
    scored = probing.nearest_neighbours(table)
    assert scored.k == 1
    assert scored.score.tolist() == [1, 0, 1, 0]


def test_neighbours_without_validation_say_so() -> None:
    table = two_clouds(10, 3.0)
    table.label[table.positions("valid")] = 1
    scored = probing.nearest_neighbours(table)
    assert scored.k == probing.UNDECIDED_NEIGHBOURS
    assert "all 20 labelled units are positive" in scored.reason


def test_class_means_by_hand() -> None:
    table = units([[1, 0], [-1, 0], [0.1, 1], [-0.1, 1]], [1, 0, 1, 0], ["train", "train", "test", "test"])
    # The second feature does not vary in training, so it keeps its scale: cosines are +-0.1 / sqrt(1.01).
    np.testing.assert_allclose(probing.nearest_class_mean(table).score, np.array([0.2, -0.2]) / np.sqrt(1.01))


@pytest.mark.parametrize("part", ["train", "test"])
def test_one_class_is_undefined_with_its_reason(part: str) -> None:
    table = two_clouds(6, 1.0)
    table.label[table.positions(part)] = 0
    records = probing.few_shot_records([table], "e", seed=0)
    records += [
        r for p in probing.CLASSIFIERS for r in probing.classifier_records(p, [table], "e", draws=20, seed=0)
    ]
    assert len(records) == len(SHOTS) + 2
    for record in records:
        assert np.isnan(record["value"])
        assert record["reason"] == f"{part} part: all 12 labelled units are negative"


def test_lesions_are_averaged_and_counted() -> None:
    three = [
        replace(two_clouds(12, d, task=f"lesion:{d}", seed=int(d)), headline="lesions")
        for d in (1.0, 3.0, 5.0)
    ]
    three[0].label[three[0].positions("test")] = 0
    by_task = pd.DataFrame(probing.few_shot_records(three, "e", seed=0)).set_index(["task", "k"])
    mean = (by_task.loc[("lesion:3.0", 5), "value"] + by_task.loc[("lesion:5.0", 5), "value"]) / 2
    assert by_task.loc[("lesions", 5), "value"] == pytest.approx(mean)
    assert by_task.loc[("lesions", 5), "reason"] == "mean of 2 of 3 lesions"
    assert np.isnan(by_task.loc[("lesions", 25), "value"])
    known = pd.DataFrame(probing.classifier_records("knn", three, "e", draws=50, seed=0)).set_index("task")
    assert known.loc["lesions", "value"] == pytest.approx(
        known.loc[["lesion:3.0", "lesion:5.0"], "value"].mean()
    )


def test_curves_of_experiments_are_means_over_runs_where_defined(tmp_path: Path) -> None:
    probe = {
        "probe": "few_shot",
        "embedding": "pretrained",
        "task": "dili",
        "headline": "dili",
        "metric": "auroc",
        "chance": 0.5,
        "low": 0.4,
        "high": 0.8,
    }
    first = pd.DataFrame([{**probe, "k": 1, "value": 0.5}, {**probe, "k": 5, "value": 0.6}])
    second = pd.DataFrame([{**probe, "k": 1, "value": 0.7}, {**probe, "k": 5, "value": np.nan}])
    other = pd.DataFrame([{**probe, "embedding": "finetuned", "k": 1, "value": 0.9}])
    curves = probing.mean_over_runs({"full": [first, second], "clip": [first], "none": [other]}, "pretrained")
    mean = curves.set_index(["experiment", "k"])["value"]
    assert mean.to_dict() == {("full", 1): 0.6, ("full", 5): 0.6, ("clip", 1): 0.5, ("clip", 5): 0.6}
    figures.few_shot(curves, tmp_path / "curves.png", by="experiment")


def test_an_interval_that_does_not_hold_its_value_is_drawn(tmp_path: Path) -> None:
    """A percentile interval of few draws may lie on one side of the value."""
    probe = {"probe": "few_shot", "embedding": "pretrained", "task": "dili", "headline": "dili", "metric": "auroc",
           "chance": 0.5, "reason": ""}  # fmt: skip
    table = pd.DataFrame([{**probe, "k": k, "value": 0.5, "low": 0.6, "high": 0.7} for k in (1, 5)])
    figures.few_shot(table, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").is_file()


def test_hiding_is_nested_and_seeded() -> None:
    names = [f"s{i}" for i in range(10)]
    shares = (0.0, 0.25, 0.5, 1.0)
    hidden = probing.hide_nested(names, shares, generator(3))
    assert [len(hidden[s]) for s in shares] == [0, 2, 5, 10]
    assert hidden[0.25] < hidden[0.5] < hidden[1.0] == set(names)
    assert hidden == probing.hide_nested(names, shares, generator(3))
    assert hidden != probing.hide_nested(names, shares, generator(4))


def test_figures_are_drawn_and_refused_without_a_value(tmp_path: Path) -> None:
    table = pd.DataFrame(probing.few_shot_records([two_clouds(12, 2.0)], "pretrained", seed=0))
    figures.few_shot(table, tmp_path / "few_shot.png")
    assert (tmp_path / "few_shot.png").stat().st_size > 10_000
    with pytest.raises(FigureError, match="no few-shot probe"):
        figures.few_shot(table.assign(value=np.nan), tmp_path / "none.png")
    with pytest.raises(FigureError, match="modality hidden"):
        figures.missing_modality(table, tmp_path / "none.png")
