"""A budget of labels: how much is learned from few labelled patients, or compounds, while pretraining sees all of them.

A budget of k keeps the labels of k units a class among the training samples and hides the others. Draws are nested: the
units of a smaller budget are among those of a larger one, of one seed, so that a sweep gives a learning curve.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from toxfusion.study.audit import Audit
from toxfusion.study.draws import generator
from toxfusion.study.study import Study
from toxfusion.tasks.task import TaskError
from toxfusion.tasks.task_set import TaskSet

_ONE_CLASS = 0.0


def within_budget(
    tasks: TaskSet,
    labels: Mapping[str, np.ndarray],
    study: Study,
    train: Sequence[str],
    budget: int | None,
    seed: int,
    audit: Audit,
) -> dict[str, np.ndarray]:
    """Labels of all samples of a study, with those of training samples beyond the budget hidden.

    A unit is a compound (of patients, who have none, the patient). A sample keeps its label where its unit is among
    those drawn for the class of that label: grades and classes are classes, of survival event and censoring, and a
    value is of one class. Each finding is a question of its own. Labels for validation and test stay as they are.

    Args:
        labels: by task, float32 [n] or [n, L] in the order of ``study.obs``.
        budget: units a class; None for all.
        audit: takes, for each task, how many labels are hidden.

    Returns:
        Arrays of the same shapes; those given stay as they are.

    Raises:
        TaskError: the budget is not a positive whole number.
    """
    if budget is None:
        return dict(labels)
    if isinstance(budget, bool) or not isinstance(budget, int) or budget < 1:
        raise TaskError(f"task.budget: {budget!r} is no whole number above 0; null for all labels")
    unit = study.obs["compound"].astype(str).to_numpy()
    trained = study.positions(train)
    limited = {}
    for task in tasks:
        values = labels[task.name].copy()
        columns = values.reshape(len(values), -1)
        joint = task.family == "survival"
        hidden = 0
        for column in range(1 if joint else columns.shape[1]):
            of_column = columns if joint else columns[:, column : column + 1]
            known = trained[~np.isnan(of_column[trained]).any(1)]
            classes = of_column[known, 1] if joint else of_column[known, -1]
            if task.family == "value":
                classes = np.full(len(known), _ONE_CLASS)
            kept = _kept(unit[known], classes, budget, (seed, "budget", task.name, column))
            of_column[known[~kept]] = np.nan
            hidden += int((~kept).sum())
        audit.change(
            "labels", "task", task.name, f"task.budget={budget}: {hidden} training labels are hidden"
        )
        limited[task.name] = values
    return limited


def _kept(unit: np.ndarray, classes: np.ndarray, budget: int, key: tuple[int | str, ...]) -> np.ndarray:
    """bool [n]: whether each sample's unit is one of the first so many of its class, in an order drawn once a class."""
    kept = np.zeros(len(unit), dtype=bool)
    for value in np.unique(classes):
        of_class = classes == value
        units = np.unique(unit[of_class])
        chosen = generator(*key, f"{value:g}").permutation(units)[:budget]
        kept |= of_class & np.isin(unit, chosen)
    return kept
