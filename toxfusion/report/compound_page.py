"""The page of a compound: its risks, predictions and findings by dose, gates, genes and nearest compounds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from toxfusion.explanation.folder import FINDING
from toxfusion.report.cells import dose_and_time, finding_columns, known_label, means_without, records
from toxfusion.report.explained import Explained
from toxfusion.report.statements import over_runs
from toxfusion.study.vocabulary import LESION_PREFIX


def compound_page(explanation: Explained, compound: str) -> dict[str, Any]:
    """What the template of a compound's page shows, its slides aside."""
    mine = explanation.samples[explanation.samples["compound"] == compound]
    predicted = explanation.predictions[explanation.predictions["compound"] == compound]
    of_compound = predicted[predicted["level"] == "compound"]
    return {
        "compound": compound,
        "mine": records(mine),
        "label": known_label(mine, "dili"),
        "risks": [
            {"task": task, **over_runs(scores["score"]), "n_runs": scores["run"].nunique()}
            for task, scores in of_compound.groupby("task", sort=False)
        ],
        "by_dose": by_dose(explanation, compound, predicted[predicted["level"] != "compound"]),
        "findings": findings_by_dose(explanation, compound),
        "gates": gates(explanation, mine),
        "without": without_modality(explanation, compound),
        "genes": leading_genes(explanation, mine),
        "dose_response": dose_response(explanation, compound),
        "nearest": nearest_compounds(explanation, compound),
    }


def by_dose(explanation: Explained, compound: str, predicted: pd.DataFrame) -> dict[str, Any] | None:
    """Mean predictions of samples and dose groups, one row a dose level and time, one column a task."""
    if predicted.empty:
        return None
    tasks = [t for t in explanation.tasks if t in set(predicted["task"])]
    lines = []
    for (level, time), samples in explanation.groups(compound):
        same_time = predicted["time_h"].isna() if math.isnan(time) else predicted["time_h"] == time
        here = predicted[(predicted["dose_level"] == level) & same_time]
        mean = here.groupby("task")["score"].mean()
        lines.append(
            {**dose_and_time(samples.iloc[0]), "n": len(samples), "values": [mean.get(t) for t in tasks]}
        )
    return {"tasks": tasks, "rows": lines}


def findings_by_dose(explanation: Explained, compound: str) -> dict[str, Any] | None:
    """Animals with each finding among those examined, by dose and time; findings of no animal are left out."""
    columns = finding_columns(explanation.samples)
    groups = list(explanation.groups(compound))
    if not columns or not any(animals[columns].notna().any(axis=None) for _, animals in groups):
        return None
    seen = [c for c in columns if any((animals[c] >= 1).any() for _, animals in groups)]
    return {
        "groups": [dose_and_time(animals.iloc[0]) for _, animals in groups],
        "rows": [
            {
                "finding": c.removeprefix(FINDING),
                "cells": [
                    {"n": int((r[c] >= 1).sum()), "of": int(r[c].notna().sum()), "worst": r[c].max()}
                    for _, r in groups
                ],
            }
            for c in seen
        ],
    }


def gates(explanation: Explained, mine: pd.DataFrame) -> list[dict[str, Any]]:
    table = explanation.of_runs("fusion/gates.csv")
    if table.empty:
        return []
    both = table[table["has_slide"] & table["has_expression"] & table["sample_id"].isin(mine["sample_id"])]
    both = both.assign(time_h=both["time_h"].astype(float), dose=both["dose"].astype(float))
    return [
        {**dose_and_time(group.iloc[0]), "n": group["sample_id"].nunique(), **over_runs(group["gate_slide"])}
        for _, group in both.groupby(["dose", "dose_level", "time_h"], dropna=False)
    ]


def without_modality(explanation: Explained, compound: str) -> list[dict[str, Any]]:
    table = explanation.of_runs("fusion/without.csv")
    return [] if table.empty else means_without(table[table["compound"] == compound])


def leading_genes(explanation: Explained, mine: pd.DataFrame) -> list[dict[str, Any]]:
    """Leading genes of its treated samples for DILI, injury, severity and the findings that it shows."""
    treated = mine[~mine["is_control"]]
    shown = [
        LESION_PREFIX + c.removeprefix(FINDING) for c in finding_columns(treated) if (treated[c] >= 1).any()
    ]
    wanted = [t for t in explanation.tasks if ":" not in t or t in shown or not t.startswith(LESION_PREFIX)]
    parts = []
    for task in wanted:
        table = explanation.genes_of(treated["sample_id"].tolist(), task)
        if table is not None:
            most = table["integrated"].abs().max() or 1.0
            parts.append(
                {"task": task, "rows": records(table.assign(share=table["integrated"].abs() / most))}
            )
    return parts


def dose_response(explanation: Explained, compound: str) -> Path | None:
    table = explanation.table("cohort/dose_response/index.csv")
    if table is None:
        return None
    files = table.loc[table["compound"].astype(str) == compound, "file"]
    path = Path("cohort") / "dose_response" / Path(str(files.iloc[0])).name if len(files) else None
    return path if path is not None and (explanation.root / path).is_file() else None


def nearest_compounds(explanation: Explained, compound: str) -> list[dict[str, Any]]:
    table = explanation.table("cohort/nearest_compounds.csv")
    return (
        [] if table is None else records(table[table["compound"].astype(str) == compound].sort_values("rank"))
    )
