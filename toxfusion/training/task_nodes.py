"""The tasks of a config: each node of ``task.kinds`` built."""

from __future__ import annotations

from typing import Any

from toxfusion.config.nodes import build
from toxfusion.tasks.task_set import TaskSet

COLUMN_TASK = "toxfusion.tasks.column.ColumnTask"


def build_tasks(config: dict[str, Any]) -> TaskSet:
    """The tasks of a resolved config, as yet fitted to nothing: its kinds, and a task for each of ``task.labels``.

    Raises:
        TaskError: a node that is no task, or two tasks of one name.
    """
    labels = config["task"]["labels"] or {}
    if not isinstance(labels, dict):
        labels = dict.fromkeys([labels] if isinstance(labels, str) else labels)
    nodes = [
        {"_target_": COLUMN_TASK, "name": str(name), "column": str(name), **(about or {})}
        for name, about in labels.items()
    ]
    kinds = [node for node in config["task"]["kinds"].values() if node is not None]
    return TaskSet(build(node) for node in (*kinds, *nodes))
