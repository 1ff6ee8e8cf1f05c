"""Drug-induced liver injury of the compound: known to cause it in patients, or not."""

from __future__ import annotations

from torch import Tensor

from toxfusion.data.batch import Batch
from toxfusion.study.vocabulary import DILI
from toxfusion.tasks.task import PooledTask


class Dili(PooledTask):
    """One probability a compound, pooled over its treated samples."""

    name = headline = column = DILI
    level = "compound"
    unit = "compound"

    def codes(self, batch: Batch) -> Tensor:
        return batch.compound
