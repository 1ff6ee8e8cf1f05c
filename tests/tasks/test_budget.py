"""A budget of labels: so many units a class, nested, the same for all that ask with one seed, and nothing of test."""

from __future__ import annotations

import numpy as np
import pytest

from toxfusion.study.audit import Audit
from toxfusion.study.splits import CompoundKFold, Split
from toxfusion.study.study import Study
from toxfusion.tasks.budget import within_budget
from toxfusion.tasks.column import ColumnTask
from toxfusion.tasks.dili import Dili
from toxfusion.tasks.injury import Injury
from toxfusion.tasks.lesions import Lesions
from toxfusion.tasks.severity import Severity
from toxfusion.tasks.task import TaskError
from toxfusion.tasks.task_set import TaskSet


@pytest.fixture
def split(tiny_study: Study) -> Split:
    return CompoundKFold(n_folds=3, fold=0, valid_fraction=0.3)(tiny_study)


def limited(study: Study, split: Split, budget: int | None, seed: int = 0) -> dict[str, np.ndarray]:
    tasks = TaskSet([Dili(), Lesions(["Necrosis"]), Severity()]).fit(study, split.train, Audit())
    labels = tasks.labels(study, study.sample_ids)
    return within_budget(tasks, labels, study, split.train, budget, seed, Audit())


def test_so_many_compounds_a_class_keep_their_labels(tiny_study: Study, split: Split) -> None:
    every, one = limited(tiny_study, split, None), limited(tiny_study, split, 1)
    train = tiny_study.positions(split.train)
    compound = tiny_study.obs["compound"].to_numpy()
    for name in ("dili", "severity"):
        kept = train[~np.isnan(one[name][train])]
        for value in np.unique(every[name][train][~np.isnan(every[name][train])]):
            assert len(set(compound[kept[one[name][kept] == value]])) == 1
        np.testing.assert_array_equal(one[name][kept], every[name][kept])
    others = tiny_study.positions([*split.valid, *split.test])
    for name, values in every.items():
        np.testing.assert_array_equal(one[name][others], values[others])


def test_draws_are_nested_and_of_the_seed(tiny_study: Study, split: Split) -> None:
    kept = [~np.isnan(limited(tiny_study, split, k)["lesions"]) for k in (1, 2, 3)]
    assert kept[0].sum() < kept[1].sum()
    assert not (kept[0] & ~kept[1]).any()
    assert not (kept[1] & ~kept[2]).any()
    np.testing.assert_array_equal(kept[0], ~np.isnan(limited(tiny_study, split, 1)["lesions"]))
    others = [~np.isnan(limited(tiny_study, split, 1, seed)["lesions"]) for seed in range(1, 9)]
    assert any(not np.array_equal(kept[0], other) for other in others)


def test_every_task_without_a_label_is_named_at_once(tiny_study: Study, split: Split) -> None:
    study = Study(**{**vars_of(tiny_study), "obs": tiny_study.obs.assign(dili=np.nan, injury=np.nan)})
    with pytest.raises(TaskError, match=r"(?s)set task.dili=false.*set task.injury=false"):
        TaskSet([Dili(), Injury(), Severity()]).fit(study, split.train, Audit())


def test_a_budget_is_a_whole_number(tiny_study: Study, split: Split) -> None:
    for wrong in (0, -3, 1.5, True):
        with pytest.raises(TaskError, match=r"task\.budget"):
            limited(tiny_study, split, wrong)  # type: ignore[arg-type]


def test_values_have_one_class(tiny_study: Study, split: Split) -> None:
    obs = tiny_study.obs.assign(age=np.arange(len(tiny_study.obs), dtype=float))
    study = Study(**{**vars_of(tiny_study), "obs": obs})
    tasks = TaskSet([ColumnTask(column="age")]).fit(study, split.train, Audit())
    labels = tasks.labels(study, study.sample_ids)
    audit = Audit()
    labelled = within_budget(tasks, labels, study, split.train, 2, 0, audit)["age"]
    train = study.positions(split.train)
    known = train[~np.isnan(labelled[train])]
    assert study.obs["compound"].iloc[known].nunique() == 2
    assert "training labels are hidden" in audit.summary()


def vars_of(study: Study) -> dict[str, object]:
    """The fields of a study, without what it has computed of them."""
    return {name: getattr(study, name) for name in study.__dataclass_fields__}
