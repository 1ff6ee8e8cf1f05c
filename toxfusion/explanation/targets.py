"""What is explained: for each task of a run, one differentiable number a sample."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from toxfusion.data.batch import Batch
from toxfusion.runs.loaded import LoadedRun


class TargetError(ValueError):
    """A task that the run does not predict."""


def chosen_tasks(run: LoadedRun, wanted: Sequence[str] | str) -> list[str]:
    """The tasks asked for; all of them for "auto".

    Raises:
        TargetError: one that the run does not predict.
    """
    known = run.tasks.names
    if wanted == "auto":
        return known
    asked = [wanted] if isinstance(wanted, str) else list(wanted)
    unknown = [t for t in asked if t not in known]
    if unknown or not asked:
        raise TargetError(f"tasks: {unknown} not among those of {run.folder.root}: {', '.join(known)}")
    return asked


def predict(run: LoadedRun, batch: Batch, task: str) -> Tensor:
    """The task's number for B samples, float [B], with gradient, where the predictor lies; see `Task.targets`."""
    return run.targets(run.predictor.vector(batch))[task]
