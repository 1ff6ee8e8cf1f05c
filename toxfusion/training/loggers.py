"""The loggers of a run beside history.csv, which is always written."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import Logger

from toxfusion.distributed.ranks import is_rank_zero
from toxfusion.training.folder import RunFolder


class LoggerError(ValueError):
    """A logger that does not exist, or whose package is not installed."""


def make_loggers(config: dict[str, Any], folder: RunFolder) -> list[Logger]:
    """The loggers that a config asks for; none on other ranks than zero.

    Raises:
        LoggerError: an unknown kind, or its package is missing.
        TrackingError: Weights & Biases cannot be reached, or does not take the run.
    """
    kind = config["logger"]["kind"]
    if kind == "csv" or not is_rank_zero():
        return []
    if kind == "wandb":
        from toxfusion.training.wandb import make_logger

        return [make_logger(config, folder)]
    if kind == "tensorboard":
        try:
            import tensorboard  # noqa: F401
        except ImportError as error:
            raise LoggerError(
                "logger=tensorboard: the package tensorboard is not installed; pip install 'toxfusion[tensorboard]', "
                "or take logger=csv, which is always written"
            ) from error
        return [TensorBoardLogger(folder.root, name="tensorboard", version="")]
    raise LoggerError(f"logger.kind: {kind!r} is none of csv, wandb, tensorboard")


def log_test_metrics(loggers: list[Logger], scores: dict[str, dict[str, Any]]) -> None:
    """Send metrics of the test part to TensorBoard; W&B gets a finished run from its folder.

    Args:
        scores: task -> metric -> a record with "value".
    """
    values = {
        f"test/{task}/{name}": entry["value"]
        for task, metrics in scores.items()
        for name, entry in metrics.items()
        if entry["value"] is not None
    }
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_metrics(values)
            logger.finalize("success")
