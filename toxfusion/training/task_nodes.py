"""The tasks of a config: each node of ``task.kinds`` built."""

from __future__ import annotations

from typing import Any

from toxfusion.config.nodes import build
from toxfusion.tasks.task_set import TaskSet


def build_tasks(config: dict[str, Any]) -> TaskSet:
    """The tasks of a resolved config, as yet fitted to nothing.

    Raises:
        TaskError: a node that is no task, or two tasks of one name.
    """
    return TaskSet(build(node) for node in config["task"]["kinds"].values() if node is not None)
