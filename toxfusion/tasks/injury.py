"""Injury of the dose group: two or more of five animals affected."""

from __future__ import annotations

from torch import Tensor

from toxfusion.data.batch import Batch
from toxfusion.study.vocabulary import INJURY
from toxfusion.tasks.task import PooledTask


class Injury(PooledTask):
    """One probability a dose group, pooled over its animals."""

    name = headline = column = INJURY
    level = "group"
    unit = "group_id"
    source = "findings"

    def codes(self, batch: Batch) -> Tensor:
        return batch.group
