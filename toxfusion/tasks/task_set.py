"""The tasks of a run, each one object: their labels, heads, losses, rows of predictions and targets together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from toxfusion.data.batch import Batch
from toxfusion.evaluation import predictions
from toxfusion.models.modes import evaluating, placed
from toxfusion.models.predictor import Predictor
from toxfusion.study.audit import Audit
from toxfusion.study.study import Study
from toxfusion.tasks.task import Scored, Task, TaskError


class TaskSet:
    """Tasks in a fixed order, each name once.

    Args:
        tasks: those that are not wanted are left out.

    Raises:
        TaskError: two tasks of one name.
    """

    def __init__(self, tasks: Iterable[Task] = ()) -> None:
        self._tasks: dict[str, Task] = {}
        for task in tasks:
            if not isinstance(task, Task):
                raise TaskError(
                    f"task.kinds: {type(task).__module__}.{type(task).__qualname__} is no task; derive it from "
                    "toxfusion.tasks.task.Task"
                )
            if not task.wanted:
                continue
            if task.name in self._tasks:
                raise TaskError(f"task.kinds: two tasks are named {task.name!r}; leave one of them out")
            self._tasks[task.name] = task

    def __iter__(self) -> Iterator[Task]:
        return iter(self._tasks.values())

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, name: object) -> bool:
        return name in self._tasks

    def __getitem__(self, name: str) -> Task:
        return self._tasks[name]

    @property
    def names(self) -> list[str]:
        """Tasks of the predictions table, and of what is explained, in order."""
        return [name for task in self for name in task.names]

    @property
    def columns(self) -> list[str]:
        """Columns of obs that hold labels, beside dili and injury; known before anything is fitted."""
        return [column for task in self for column in task.columns]

    @property
    def chemistry(self) -> bool:
        """Whether serum chemistry is a label."""
        return any(task.source == "chemistry" for task in self)

    @property
    def weights(self) -> dict[str, float]:
        """Name -> weight in the loss."""
        return {task.name: task.weight for task in self}

    def fit(self, study: Study, train: Sequence[str], audit: Audit) -> TaskSet:
        """The same tasks, fitted on training samples; one that turns out to have nothing to predict is left out.

        Args:
            audit: takes the labels that are left out.

        Raises:
            TaskError: a setting that does not exist, or no label in the study; a line for each such task.
            StudyError: a column whose values break the rules of its kind.
        """
        fitted, refused = [], []
        for task in self:
            try:
                fitted.append(task.fit(study, train, audit))
            except TaskError as error:
                refused.append(str(error))
        if refused:
            raise TaskError("\n".join(refused))
        return TaskSet(task for task in fitted if task.names)

    def state(self) -> dict[str, dict[str, Any]]:
        """What was fitted, as plain types: name -> attribute -> value."""
        return {task.name: task.state() for task in self}

    def restored(self, state: Mapping[str, dict[str, Any]]) -> TaskSet:
        """The tasks of a checkpoint, with what they were fitted to.

        Raises:
            TaskError: the state is of a task that is not among these.
        """
        if unknown := [name for name in state if name not in self]:
            raise TaskError(f"task.kinds: the checkpoint is of {unknown}, the config of {list(self._tasks)}")
        return TaskSet(self[name].restored(of_task) for name, of_task in state.items())

    def labels(self, study: Study, sample_ids: Sequence[str]) -> dict[str, np.ndarray]:
        """Labels of samples by the name of the task, float32 [n] or [n, L], NaN where there is none."""
        return {task.name: task.labels(study, sample_ids) for task in self}

    def heads(self, width: int) -> dict[str, nn.Module]:
        """A new head for each task, on fused vectors [B, width]."""
        return {task.name: task.head(width) for task in self}

    def objectives(self, labels: Mapping[str, Tensor]) -> dict[str, nn.Module]:
        """The loss of each task; labels are those of the samples that are trained on."""
        return {task.name: task.objective(labels[task.name]) for task in self}

    def losses(
        self, objectives: nn.ModuleDict, heads: nn.ModuleDict, vector: Tensor, batch: Batch
    ) -> dict[str, Tensor]:
        """Loss of each task from fused vectors [B, W]; a task without a label in the batch gives 0."""
        return {t.name: t.loss(objectives[t.name], heads[t.name], vector, batch) for t in self}

    def targets(self, predictor: Predictor, vector: Tensor) -> dict[str, Tensor]:
        """The number that is explained of each task of the predictions table, float [B], with gradient."""
        of_names: dict[str, Tensor] = {}
        for task in self:
            columns = task.targets(predictor.heads[task.name], vector).unbind(1)
            of_names |= dict(zip(task.names, columns, strict=True))
        return of_names

    def predictions(
        self,
        predictor: Predictor,
        vectors: Tensor,
        obs: pd.DataFrame,
        labels: Mapping[str, np.ndarray],
        *,
        part: str,
        fold: int,
        seed: int,
    ) -> pd.DataFrame:
        """The predictions table of the samples of one part.

        Args:
            vectors: float32 [n, W], anywhere: they go to the heads, which stay as and where they are.
            obs: of the study, n rows.
            labels: of the samples, by task.

        Raises:
            PredictionsError: a score that is not finite, or another breach of the table's contract.
        """
        tables = []
        for task in self:
            head = predictor.heads[task.name]
            with evaluating(head), torch.no_grad():
                scored = Scored(obs, labels[task.name], part, fold, seed)
                tables += task.predictions(head, placed(vectors, head), scored)
        # Once for all tasks: a validation of training asks for this table every few steps.
        return predictions.validate(pd.concat(tables, ignore_index=True), f"{part} part")

    def curves(self, predictor: Predictor, vectors: Tensor, sample_ids: Sequence[str]) -> pd.DataFrame | None:
        """Survival curves of samples, see `Task.curves`; None where no task has any."""
        for task in self:
            head = predictor.heads[task.name]
            with evaluating(head), torch.no_grad():
                table = task.curves(head, placed(vectors, head), sample_ids)
            if table is not None:
                return table
        return None
