"""A column of obs as a task: what it is taken for, its labels and scores, and refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from toxfusion.study.audit import Audit
from toxfusion.study.study import Study
from toxfusion.tasks.column import ColumnTask
from toxfusion.tasks.task import Scored, TaskError

WORDS = ("None", "Mild", "Severe", "")


@pytest.fixture
def study(tiny_study: Study) -> Study:
    n = len(tiny_study.obs)
    return replace(
        tiny_study,
        obs=tiny_study.obs.assign(
            inflammation=[WORDS[i % 4] for i in range(n)],
            sex=["MALE" if i % 3 else "FEMALE" for i in range(n)],
            age=np.where(np.arange(n) % 5 == 0, np.nan, np.arange(n)),
            stage=[float(i % 3) for i in range(n)],
        ),
    )


def fitted(study: Study, **settings: Any) -> ColumnTask:
    return ColumnTask(**settings).fit(study, study.sample_ids[:40], Audit())


@pytest.mark.parametrize(
    ("settings", "family", "names", "first"),
    [
        ({"column": "sex"}, "binary", ("sex",), [0, 1, 1, 0]),
        ({"column": "inflammation"}, "classes", tuple(f"inflammation:{w}" for w in ("Mild", "None", "Severe")),
         [1, 0, 2, np.nan]),
        ({"column": "inflammation", "kind": "ordinal", "order": ["None", "Mild", "Severe"]}, "ordinal",
         ("inflammation",), [0, 1, 2, np.nan]),
        ({"name": "inflamed", "column": "inflammation", "negative": "None", "positive": ["Mild", "Severe"]}, "binary",
         ("inflamed",), [0, 1, 1, np.nan]),
        ({"column": "inflammation", "kind": "binary", "order": ["None", "Severe"]}, "binary", ("inflammation",),
         [0, np.nan, 1, np.nan]),
        ({"column": "stage", "kind": "classes", "order": ["0", "1", "2"]}, "classes", ("stage:0", "stage:1", "stage:2"),
         [0, 1, 2, 0]),
        ({"name": "late", "column": "stage", "negative": 0, "positive": [1, 2]}, "binary", ("late",), [0, 1, 1, 0]),
    ],
)  # fmt: skip
def test_labels(
    study: Study, settings: dict[str, Any], family: str, names: tuple[str, ...], first: list[Any]
) -> None:
    task = fitted(study, **settings)
    assert (task.family, task.names) == (family, names)
    np.testing.assert_array_equal(task.labels(study, study.sample_ids[:4]), np.float32(first))
    back = ColumnTask(**settings).restored(task.state())
    np.testing.assert_array_equal(back.labels(study, study.sample_ids), task.labels(study, study.sample_ids))
    head = task.head(6).eval()
    vectors = torch.randn(4, 6)
    scores = task.scores(head, vectors)
    assert scores.shape == (4, len(names))
    assert task.targets(head, vectors).shape == (4, len(names))
    scored = Scored(study.obs.iloc[:4], task.labels(study, study.sample_ids[:4]), "test", 0, 0)
    (*_, table) = task.predictions(head, vectors, scored)
    assert set(table["family"]) == {family}


def test_a_value_is_in_deviations_of_training_samples(study: Study) -> None:
    task = fitted(study, column="age")
    assert task.family == "value"
    labels = task.labels(study, study.sample_ids[:40])
    assert np.nanmean(labels) == pytest.approx(0, abs=1e-6)
    assert np.nanstd(labels) == pytest.approx(1, abs=1e-6)
    assert np.isnan(labels[::5]).all()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"column": "organ"}, "'organ' is no column"),
        ({"column": "sex", "kind": "guess"}, "'guess' is none of"),
        ({"column": "sex", "kind": "value"}, "holds words"),
        ({"column": "inflammation", "kind": "binary"}, "has 3 classes"),
        ({"column": "inflammation", "negative": "None", "positive": "Moderate"}, "'Moderate'.* is not in"),
        ({"column": "inflammation", "negative": "None"}, "both negative and positive"),
        ({"column": "group_id", "kind": "ordinal"}, "takes two to 5"),
    ],
)  # fmt: skip
def test_refusals(study: Study, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(TaskError, match=said):
        fitted(study, **settings)
