"""What is explained: for each task of a run, one differentiable number a sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from toxfusion.data.batch import Batch
from toxfusion.models.heads import CompoundHead, OrdinalHead
from toxfusion.runs.loaded import LoadedRun


class TargetError(ValueError):
    """A task that the run does not predict."""


def target_values(run: LoadedRun, vector: Tensor) -> dict[str, Tensor]:
    """The number that stands for each task, higher = more of it.

    Logits of DILI, injury and lesions (of the sample: compounds and dose groups pool these), the expected grade of
    severity, the logit of a subtype, the standardised value of an analyte, the Cox log risk, and minus the sum over
    bins of survival for discrete hazards: what the predictions table holds, before a sigmoid or softmax.

    Args:
        vector: [B, W], fused vectors.

    Returns:
        Task name, as in the predictions table -> float32 [B], with gradient.
    """
    heads, tasks = run.module.heads, run.fold.tasks
    found: dict[str, Tensor] = {}
    for task in ("dili", "injury"):
        if task in heads:
            found[task] = cast(CompoundHead, heads[task]).head(vector)[:, 0].float()
    if tasks.lesions:
        found |= dict(zip(tasks.lesion_tasks, heads["lesions"](vector).unbind(1), strict=True))
    if tasks.severity:
        head = cast(OrdinalHead, heads["severity"])
        found["severity"] = head.expected_grade(head(vector))[:, 0]
    if tasks.survival is not None:
        risk = heads["survival"](vector)
        discrete = tasks.survival.method == "discrete"
        found["survival"] = -F.logsigmoid(-risk).cumsum(1).exp().sum(1) if discrete else risk
    if tasks.subtype is not None:
        found |= dict(zip(tasks.subtype_tasks, heads["subtype"](vector).unbind(1), strict=True))
    if tasks.biochemistry is not None:
        found |= dict(zip(tasks.biochemistry_tasks, heads["biochemistry"](vector).unbind(1), strict=True))
    return found


def task_names(run: LoadedRun) -> list[str]:
    """All tasks of the run, in the order of `target_values`."""
    weight = next(run.module.heads.parameters())
    width = int(run.config["size"]["width"])
    with torch.no_grad():
        return list(target_values(run, weight.new_zeros(1, width)))


def chosen_tasks(run: LoadedRun, wanted: Sequence[str] | str) -> list[str]:
    """The tasks asked for; all of them for "auto".

    Raises:
        TargetError: one that the run does not predict.
    """
    known = task_names(run)
    if wanted == "auto":
        return known
    asked = [wanted] if isinstance(wanted, str) else list(wanted)
    unknown = [t for t in asked if t not in known]
    if unknown or not asked:
        raise TargetError(f"tasks: {unknown} not among those of {run.folder.root}: {', '.join(known)}")
    return asked


def predict(run: LoadedRun, batch: Batch, task: str) -> Tensor:
    """The task's number for B samples, float32 [B], with gradient."""
    return target_values(run, run.module.network(batch).fused.vector)[task]
