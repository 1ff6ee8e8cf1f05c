"""Scores of the oracles of a virtual study: the probability of a label given the latents that were drawn."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from toxfusion.evaluation.predictions import PredictionsError

ORACLE_FILE = "oracles.parquet"
ORACLE_COLUMNS = ("task", "level", "unit_id", "view", "label", "score")
VIEWS = ("both", "slide", "expression")


def read_oracles(truth: Path) -> pd.DataFrame | None:
    """The oracle scores of a virtual study, ``truth/oracles.parquet``; None where there is no such file.

    Raises:
        PredictionsError: a column is missing, or a unit is scored twice in one view.
    """
    path = Path(truth) / ORACLE_FILE
    if not path.is_file():
        return None
    table = pd.read_parquet(path)
    missing = [c for c in ORACLE_COLUMNS if c not in table.columns]
    if missing:
        raise PredictionsError(f"{path}: columns {missing} are missing; oracles have {list(ORACLE_COLUMNS)}.")
    table = table.astype({"task": str, "view": str, "unit_id": str})
    twice = table.duplicated(["task", "view", "unit_id"])
    if twice.any():
        first = table[twice].iloc[0]
        raise PredictionsError(
            f"{path}: unit {first['unit_id']!r} of {first['task']!r}, {first['view']!r}, is twice."
        )
    return table


def with_oracle(predictions: pd.DataFrame, oracles: pd.DataFrame, view: str) -> pd.DataFrame:
    """The predictions that have an oracle score of this view, the score in column ``oracle``.

    Raises:
        PredictionsError: the oracle's labels are others than those of the predictions (permuted labels, or another
            study).
    """
    of_view = oracles.loc[oracles["view"] == view, ["task", "unit_id", "score", "label"]]
    of_view = of_view[of_view["score"].notna()].rename(columns={"score": "oracle", "label": "oracle_label"})
    known = predictions.merge(of_view, on=["task", "unit_id"], how="inner")
    other = known["oracle_label"].notna() & (known["oracle_label"] != known["label"])
    if other.any():
        first = known[other].iloc[0]
        raise PredictionsError(
            f"unit {first['unit_id']!r} of task {first['task']!r} has label {first['label']:.0f} in the "
            f"predictions and "
            f"{first['oracle_label']:.0f} in {ORACLE_FILE} ({int(other.sum())} such units): score this run "
            f"without truth."
        )
    return known.drop(columns="oracle_label")
