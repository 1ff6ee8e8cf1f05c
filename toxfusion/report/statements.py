"""The summary of a report in plain words: what the numbers allow to be said, and what they do not.

Every sentence follows from numbers of the folder by a rule that stands here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from toxfusion.evaluation.bootstrap import Interval, mean_over_clusters
from toxfusion.evaluation.families import METRIC_NAMES
from toxfusion.evaluation.strata import SMALL
from toxfusion.explanation.folder import RANDOM, SEED
from toxfusion.report.explained import Explained
from toxfusion.study.study import virtual_setting

AGREES, CHANGED = 0.5, 0.2
"""Rank correlation from which two scores are said to agree, and below which one is said to have changed."""
OF_SUBJECT = {"tiles": "contribution", "genes": "integrated"}
TAUGHT = {
    RANDOM: "what was learned",
    "permuted labels": "what the labels taught",
    "shuffled pairs": "what the pairs taught",
}
KEPT = {"tiles": "the map is the slide itself", "genes": "the ranking is the change of expression itself"}
LEAST_COMPOUNDS = 5
"""With fewer compounds nothing is said of a mean over slides but that they are few."""
NAMES = {
    "dili": "DILI",
    "injury": "Injury of the dose group",
    "lesions": "Lesions (mean)",
    "severity": "Severity",
    "survival": "Survival",
    "subtype": "Subtype (mean)",
    "biochemistry": "Serum chemistry (mean)",
}


@dataclass(frozen=True)
class Statement:
    """One sentence; ``limit`` where it says what the report does not show."""

    text: str
    limit: bool = True


def task_name(task: str) -> str:
    """A task in words, beginning with a capital."""
    kind, _, name = task.partition(":")
    if name:
        return {"lesion": f"{name} (lesion)", "subtype": f"{name} (subtype)"}.get(kind, name)
    return NAMES.get(task, task)


def study_in_words(name: str) -> str:
    """ "the study" and its name; a study that is named "study" is the study alone."""
    return "the study" if name.casefold() == "study" else f"the study {name}"


def statements(explanation: Explained) -> list[Statement]:
    """The summary, what may be said first."""
    said = [
        *_extent(explanation),
        *_metrics(explanation),
        *_regions(explanation),
        *_genes(explanation),
        *_agreement(explanation),
        *_gates(explanation),
    ]
    return sorted(said, key=lambda s: s.limit)


def _extent(explanation: Explained) -> Iterator[Statement]:
    samples, runs, study = explanation.samples, explanation.runs, explanation.provenance["study"]
    yield Statement(
        f"{_count(len(runs), 'run')} of {explanation.manifest['experiment']} on {_count(len(samples), 'sample')} of "
        f"{_count(samples['compound'].nunique(), 'compound')} of {study_in_words(study['name'])}: which tiles, "
        "genes and modalities their predictions are associated with.",
        limit=False,
    )
    yield Statement(
        "Nothing here says what causes what. A gene or a tile can stand high because it moves together with the one "
        "that matters."
    )
    if study["virtual"]:
        yield Statement(
            f"The study is virtual, {virtual_setting(study['provenance'])}: nothing here is evidence about a real "
            "compound."
        )
    others = sorted({run.about["split"].get("study", study["name"]) for run in runs} - {study["name"]})
    if others:
        yield Statement(f"Metrics are of the test parts of {', '.join(others)}, where the runs were trained.")
    if any(run.about["split"].get("transductive") for run in runs):
        yield Statement(
            "The split puts compounds that are explained into training too: it says nothing of new ones."
        )


def _metrics(explanation: Explained) -> Iterator[Statement]:
    scores = [score for run in explanation.runs for score in run.about["scores"]]
    for task in dict.fromkeys(score["task"] for score in scores):
        mine = [r for r in scores if r["task"] == task and r["value"] is not None]
        if not mine:
            yield Statement(
                f"{task_name(task)}: how well it is predicted is not known, its metric being undefined in every run."
            )
            continue
        metric, chance = METRIC_NAMES[mine[0]["metric"]], mine[0]["chance"]
        better = [r for r in mine if r["low"] is not None and r["low"] > chance]
        mean, fewest = np.mean([r["value"] for r in mine]), min(r["n_compounds"] for r in mine)
        text = (
            f"{task_name(task)}: {metric} {mean:.2f} (mean of {_count(len(mine), 'run')}, chance {chance:g})"
        )
        if fewest < SMALL:
            yield Statement(
                f"{text}, on {_count(fewest, 'compound')}: too few to show that the prediction works."
            )
        elif len(better) == len(mine):
            yield Statement(f"{text}, above chance in every run.", limit=False)
        elif better:
            yield Statement(f"{text}, told apart from chance in {len(better)} of {len(mine)}.")
        else:
            yield Statement(
                f"{text}, in no run told apart from chance: explanations of it are of a prediction that was not shown "
                "to work."
            )


def areas(explanation: Explained) -> dict[str, tuple[Interval, int, int]]:
    """Area between curves and random orders, mean over slides and tasks; empty without curves.

    Returns:
        "deletion" and "insertion" -> the mean with its interval over compounds, number of curves, number of compounds.
    """
    table = explanation.of_runs("regions/areas.csv")
    if table.empty:
        return {}
    compound = table["sample_id"].map(explanation.samples.set_index("sample_id")["compound"]).to_numpy(str)
    return {
        c: (mean_over_clusters(table[c].to_numpy(float), compound), len(table), len(set(compound)))
        for c in ("deletion", "insertion")
    }


def _regions(explanation: Explained) -> Iterator[Statement]:
    measured = areas(explanation)
    if not measured:
        return
    area, n, n_compounds = measured["deletion"]
    text = (
        f"Taking away the highest tiles changed the predictions by {area.value:+.3f} more than random tiles"
    )
    told = f"({_count(n, 'curve')}, {_count(n_compounds, 'compound')}"
    if n_compounds < LEAST_COMPOUNDS:
        yield Statement(
            f"{text} {told}: too few to tell from chance). Do not read the heatmaps as maps of lesions."
        )
    elif not area.low > 0:
        yield Statement(
            f"{text}, which is not told apart from chance {told}, 95 % from {area.low:+.3f} to {area.high:+.3f}). Do "
            "not read the heatmaps as maps of lesions."
        )
    else:
        yield Statement(f"{text} {told}, 95 % from {area.low:+.3f} to {area.high:+.3f}).", limit=False)


def _genes(explanation: Explained) -> Iterator[Statement]:
    stability = explanation.table("genes/stability.csv")
    if stability is None or not (stability["n_runs"] > 1).any():
        if stability is not None:
            yield Statement("Genes are ranked by one run alone: how stable their order is, is not known.")
        return
    overlap, chance = stability["top_overlap"].mean(), stability["top_overlap_chance"].mean()
    yield Statement(
        f"Over {stability['n_runs'].max():.0f} runs {100 * overlap:.0f} % of the first {stability['top_k'].max():.0f} "
        f"genes are shared (chance {100 * chance:.0f} %), mean over tasks.",
        limit=bool(overlap < AGREES),
    )


def _agreement(explanation: Explained) -> Iterator[Statement]:
    table = explanation.table("agreement.csv")
    if table is None:
        return
    mean = table.groupby(["against", "subject", "score"])["spearman"].mean()
    for against in (a for a in table["against"].unique() if a != SEED):
        taught = TAUGHT.get(against, "what labels and pairs taught")
        for subject, score in OF_SUBJECT.items():
            value = mean.get((against, subject, score))
            if value is None or np.isnan(value):
                continue
            text = f"With {against} {subject} keep their order to a rank correlation of {value:.2f}"
            if value >= CHANGED:
                share = "much" if value >= AGREES else "part"
                yield Statement(f"{text}: {share} of {KEPT[subject]}, not {taught}.")
            else:
                yield Statement(f"{text}: their scores are of {taught}, as they should be.", limit=False)
    if SEED not in set(table["against"]):
        yield Statement("There is one seed a fold: how far seeds agree is not known.")
    for subject, score in OF_SUBJECT.items():
        value = mean.get((SEED, subject, score))
        if value is not None and not np.isnan(value):
            text = f"Seeds of one fold agree on {subject} to a rank correlation of {value:.2f}"
            few = value < AGREES
            yield Statement(f"{text}{': another seed would show others' if few else ''}.", limit=bool(few))
    if explanation.table("nulls.csv") is None:
        yield Statement(
            "No null run was named (nulls=[...]): permuted labels and shuffled pairs are not compared."
        )


def _gates(explanation: Explained) -> Iterator[Statement]:
    table = explanation.of_runs("fusion/gates.csv")
    if table.empty:
        return
    both = table[table["has_slide"] & table["has_expression"]]
    if len(both):
        yield Statement(
            f"The gate gives slides {100 * both['gate_slide'].mean():.0f} % and expression "
            f"{100 * both['gate_expression'].mean():.0f} % on average.",
            limit=False,
        )


def _count(n: int, word: str) -> str:
    return f"{n:,} {word}{'' if n == 1 else 's'}"


def over_runs(values: pd.Series) -> dict[str, float]:
    """Mean and range over runs; no range of one value."""
    low, high = (values.min(), values.max()) if len(values) > 1 else (float("nan"), float("nan"))
    return {"value": float(values.mean()), "low": float(low), "high": float(high)}
