"""Scoring a study without labels with finished runs: what ``toxfusion.predict`` calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from toxfusion.data.audit import Audit
from toxfusion.data.splits import Split
from toxfusion.data.study import Study
from toxfusion.distributed import device_of
from toxfusion.evaluation import predictions
from toxfusion.evaluation.calibration import fit_temperature, scale
from toxfusion.loading import load_run
from toxfusion.prediction import encode_samples, predictions_table, survival_curves
from toxfusion.runs import RunError, RunFolder

LEAST_TO_CALIBRATE = 20
"""Validation units below which a temperature would be noise; scores stay as they are then."""


@dataclass(frozen=True)
class Scores:
    """Scores of a new study.

    Attributes:
        units: one row a task and unit: unit_id, compound, risk (mean over runs; probabilities, but for subtype,
            are calibrated on the validation part of each run where that has 20 units; survival: the risk score;
            biochemistry: the standardised value), spread (standard deviation over runs), low, high (over runs),
            n_runs, seen_in_training (a run trained on a compound of that name).
        samples: one row a sample: gate_slide, gate_expression (means over runs), and which modalities there are.
        curves: ``prediction.survival_curves`` of each run, named in column ``run``; None without discrete survival.
    """

    units: pd.DataFrame
    samples: pd.DataFrame
    curves: pd.DataFrame | None


def score_study(run_folders: Sequence[Path], study: Study, audit: Audit) -> Scores:
    """Score every sample of a study with every run.

    Raises:
        RunError: a run is not finished or not of a network, or no sample has what it reads.
    """
    tables, gates, curves = [], [], []
    for folder in run_folders:
        table, gate, curve = _score_with(RunFolder(folder), study, audit)
        tables.append(table)
        gates.append(gate)
        curves += [] if curve is None else [curve.assign(run=str(folder))]
    joined = pd.concat(tables, ignore_index=True)
    keys = ["task", "level", "unit_id", "compound", "dose_level", "time_h", "study"]
    grouped = joined.groupby(keys, sort=False, dropna=False)
    units = grouped["score"].agg(
        risk="mean", spread=lambda s: float(np.std(s)), low="min", high="max", n_runs="size"
    )
    units["seen_in_training"] = grouped["seen"].any()
    samples = pd.concat(gates).groupby(level=0, sort=False).mean()
    samples["has_slide"] = [bool(study.slides_of(s)) for s in samples.index]
    samples["has_expression"] = study.has_expression[study.positions(list(samples.index))]
    return Scores(
        units.reset_index(),
        samples.rename_axis("sample_id").reset_index(),
        pd.concat(curves, ignore_index=True) if curves else None,
    )


def _score_with(
    folder: RunFolder, study: Study, audit: Audit
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame | None]:
    # Transductive: a compound that the run has seen may be scored again; the table says which ones were seen.
    split = Split(train=[], valid=[], test=study.sample_ids, fold=0, manifest={"transductive": True})
    run = load_run(folder, study, split)
    usable = run.fold.usable(study.sample_ids, audit)
    if not usable:
        raise RunError(f"{study.root}: no sample has what {folder.root} reads; extract its slides first")
    device = device_of(run.config["trainer"]["accelerator"])
    outputs = encode_samples(run.module.network, run.data_module(), usable, device)
    table = predictions_table(
        run.module, run.fold, outputs, part="test", sample_ids=usable, seed=int(run.config["seed"])
    )
    table = _calibrated(table, predictions.read(folder.predictions))
    gate = pd.DataFrame(outputs.gate, index=usable, columns=["gate_slide", "gate_expression"])
    curves = survival_curves(run.module, run.fold, outputs)
    return table.assign(seen=table["compound"].isin(run.contract["compounds"])), gate, curves


def _calibrated(table: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
    """Scores of binary tasks divided, as logits, by the temperature of the run's validation part.

    Probabilities of subtypes stay as they are: scaled one by one they would no longer add up to 1.
    """
    table = table.copy()
    for task in table["task"].unique():
        valid = known[(known["task"] == task) & (known["part"] == "valid") & known["label"].notna()]
        single = predictions.is_binary(task) and not predictions.is_subtype(task)
        if not single or valid["label"].nunique() < 2 or len(valid) < LEAST_TO_CALIBRATE:
            continue
        temperature = fit_temperature(valid["label"].to_numpy(), valid["score"].to_numpy())
        if temperature.defined:
            mine = table["task"] == task
            table.loc[mine, "score"] = scale(table.loc[mine, "score"].to_numpy(), temperature.value)
    return table
