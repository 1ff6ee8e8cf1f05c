"""Clinical columns: what each adds to a task's number, from the training mean, slide and profile as they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from toxfusion.explanation.attribution import integrate_clinical
from toxfusion.runs.loaded import LoadedRun


def contributions(
    run: LoadedRun, sample_ids: Sequence[str], tasks: Sequence[str], *, steps: int
) -> pd.DataFrame:
    """Integrated gradients of the clinical columns of samples.

    With a head that is linear in what it reads, a contribution is its weight times the value.

    Returns:
        sample_id, compound, task, entry ("age", "sex: male" ...), value (as heads read it: deviations, or a category
        less its share in training), contribution (to the task's number); one row a sample, task and entry.
    """
    clinical = run.fold.clinical
    assert clinical is not None, "asked of a run with clinical columns"
    batch = run.batch(sample_ids)
    assert batch.clinical is not None, "a fold with clinical columns gives them"
    value, entries = batch.clinical.float().cpu().numpy(), clinical.entries
    compound = run.fold.study.obs.loc[list(sample_ids), "compound"].astype(str).to_numpy()
    tables = []
    for task in tasks:
        attribution = integrate_clinical(run, batch, task, steps=steps)
        tables.append(
            pd.DataFrame(
                {
                    "sample_id": np.repeat(list(sample_ids), len(entries)),
                    "compound": np.repeat(compound, len(entries)),
                    "task": task,
                    "entry": np.tile(entries, len(sample_ids)),
                    "value": value.ravel(),
                    "contribution": attribution.values.ravel(),
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """What a column adds over samples.

    Args:
        table: of `contributions`.

    Returns:
        task, entry, n (samples), slope (contribution for one unit of value, by least squares through 0: the weight of a
        linear head; NaN where the value is 0 throughout), mean_absolute (of the contributions).
    """
    grouped = table.assign(
        product=table["value"] * table["contribution"],
        square=table["value"] ** 2,
        size=table["contribution"].abs(),
    ).groupby(["task", "entry"], sort=False)
    sums = grouped.agg(
        n=("size", "size"),
        product=("product", "sum"),
        square=("square", "sum"),
        mean_absolute=("size", "mean"),
    ).reset_index()
    sums["slope"] = sums["product"] / sums["square"].where(sums["square"] > 0)
    return sums[["task", "entry", "n", "slope", "mean_absolute"]]


def explain_clinical(run: LoadedRun, place: Path, tasks: Sequence[str], *, steps: int) -> None:
    """Contributions of the test samples, and what each column adds over them; nothing for a run without columns."""
    usable = run.fold.usable(run.fold.split.test)
    if run.fold.clinical is None or not run.fold.clinical.entries or not usable:
        return
    place.mkdir(parents=True, exist_ok=True)
    table = contributions(run, usable, tasks, steps=steps)
    table.to_csv(place / "contributions.csv", index=False)
    summary(table).to_csv(place / "summary.csv", index=False)
