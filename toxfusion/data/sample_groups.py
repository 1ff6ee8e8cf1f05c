"""Groups of samples (cohorts, organs) in which weights may deviate from those that all groups have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from toxfusion.data.group_scaling import groups_of
from toxfusion.study.study import Study


@dataclass(frozen=True)
class SampleGroups:
    """A column of obs, and its groups among training samples.

    Attributes:
        column: of obs.
        names: the K groups that training samples are of, sorted. A sample of another group has no deviation.
    """

    column: str
    names: tuple[str, ...]

    @classmethod
    def fit(cls, study: Study, train: Sequence[str], column: str, key: str = "heads_by") -> SampleGroups:
        """The groups of training samples.

        Args:
            key: of the configuration, that names the column.

        Raises:
            GroupError: the column is missing, or empty for a sample.
        """
        groups = groups_of(study.obs, column, key)
        return cls(column, tuple(sorted(set(groups[study.positions(train)]))))

    def membership(self, study: Study) -> np.ndarray:
        """float32 [n, K]: 1 in the column of the group of each sample of a study; 0 throughout where it is of none."""
        if self.column not in study.obs:
            return np.zeros((len(study.obs), len(self.names)), np.float32)
        groups = study.obs[self.column].astype(object).astype(str).to_numpy(object)
        return (groups[:, None] == np.array(self.names, object)).astype(np.float32)

    def state(self) -> dict[str, Any]:
        """Plain types."""
        return {"column": self.column, "names": list(self.names)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> SampleGroups:
        """As it was fitted."""
        return cls(state["column"], tuple(state["names"]))
