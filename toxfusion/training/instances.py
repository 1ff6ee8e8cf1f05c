"""Instance clustering beside the losses of the tasks, for a bag encoder that asks for it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toxfusion.data.batch import Batch
from toxfusion.models.bag import BagEncoder, SlideEncoding
from toxfusion.models.clam import ClusteredAttention
from toxfusion.objectives.instance_clustering import InstanceClustering
from toxfusion.tasks.task_set import TaskSet

WITH_CLASSES = ("binary", "classes")


class InstanceTerms(nn.Module):
    """Instance clustering for each task with classes of samples: one problem a finding, one for a set of classes.

    Args:
        bag: whose tiles are clustered. tasks: fitted.
    """

    def __init__(self, bag: ClusteredAttention, tasks: TaskSet) -> None:
        super().__init__()
        self.weight = bag.instance_weight
        self.exclusive = {
            task.name: task.family == "classes" for task in tasks if task.family in WITH_CLASSES
        }
        self.problems: dict[str, list[InstanceClustering]] = {}
        for task in tasks:
            if task.name in self.exclusive:
                several = self.exclusive[task.name]
                n_classes, problems = (len(task.names), 1) if several else (2, len(task.names))
                self.problems[task.name] = [
                    InstanceClustering(bag.width, n_classes, n_tiles=bag.instance_tiles)
                    for _ in range(problems)
                ]
        self.terms = nn.ModuleList(problem for of_task in self.problems.values() for problem in of_task)

    @classmethod
    def of(cls, bag: BagEncoder | None, tasks: TaskSet) -> InstanceTerms | None:
        """Those of a bag encoder that clusters; None for another, or where no task has classes."""
        if not isinstance(bag, ClusteredAttention) or bag.instance_weight == 0:
            return None
        terms = cls(bag, tasks)
        return terms if len(terms.terms) else None

    def forward(self, slide: SlideEncoding, batch: Batch) -> Tensor:
        """Mean over problems."""
        losses = []
        for name, problems in self.problems.items():
            labels = batch.labels[name].reshape(len(batch), -1)
            losses += [problem(slide, labels[:, i]) for i, problem in enumerate(problems)]
        return torch.stack(losses).mean()
