"""Finished runs set beside a reference: read from their folders, compared, and written as tables and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from glob import glob
from pathlib import Path
from typing import Any

import anndata
import pandas as pd

from toxfusion.evaluation import comparison_pages as pages
from toxfusion.evaluation import figures, predictions
from toxfusion.evaluation.bootstrap import IntervalMethod
from toxfusion.evaluation.comparison import Cohort, ComparisonError, Run, compare
from toxfusion.evaluation.external import external_runs
from toxfusion.evaluation.oracles import read_oracles
from toxfusion.evaluation.probing import mean_over_runs
from toxfusion.study.audit import Audit
from toxfusion.study.files import replace_file
from toxfusion.study.split import read_manifest
from toxfusion.study.study import read_provenance, virtual_setting
from toxfusion.training.folder import RunError, RunFolder, modality_in_use

#: Every file of a comparison: what an earlier one left must not lie beside the tables of a later one.
WRITTEN = ("comparison.csv", "comparison.md", "comparison.tex", "comparison.html", "comparison.png",
           "differences.png", "few_shot.png", "audit.json")  # fmt: skip
#: What a modality lets a method see, as the oracles are named; without any, doses and times only.
VIEW_OF = {"both": "both", "wsi": "slide", "omics": "expression", "none": "both"}
#: Keys of a config that destroy something on purpose, and what.
_NULLS = {
    ("permute_labels", True): "permuted labels",
    ("shuffle_pairs", "pretraining"): "pairs shuffled in pretraining",
    ("shuffle_pairs", "throughout"): "pairs shuffled throughout",
}


def compare_runs(
    pattern: str,
    output: Path,
    *,
    reference: str,
    draws: int,
    seed: int,
    interval: IntervalMethod,
    external: Sequence[str] = (),
) -> None:
    """Compare the runs that a pattern matches; writes tables and figures in place of an earlier comparison.

    Args:
        pattern: of run folders, or of folders above them.
        output: folder of comparison.csv, .md, .tex, .html and the figures.
        reference: the experiment that the others are set beside. Its name alone will do where one row is of it.
        draws, seed, interval: of the bootstrap.
        external: tables of other models' predictions, see `external_runs`; what they leave out goes to audit.json.

    Raises:
        ComparisonError: no finished run, several rows of the reference, or runs or external predictions that cannot
            be set side by side.
        TableError: an external table that cannot be read.
        RunError, PredictionsError: a run folder that lacks or breaks a file.
    """
    runs, cohorts, notes = read_runs(pattern)
    reference = _named(runs, reference)
    compared, audit = list(runs), Audit()
    for file in external:
        others, said = external_runs(file, compared, reference, audit)
        compared += others
        notes += said
    comparison = compare(
        compared,
        cohorts,
        reference=reference,
        draws=draws,
        seed=seed,
        method=interval,
    )
    comparison.notes.extend(notes)
    output.mkdir(parents=True, exist_ok=True)
    for name in WRITTEN:
        (output / name).unlink(missing_ok=True)
    drawn = {"comparison.png": figures.comparison}
    if comparison.table["experiment"].nunique() > 1:
        drawn["differences.png"] = figures.differences
    for name, draw in drawn.items():
        draw(comparison, output / name)
    pictures = [*drawn, *_few_shot(runs, output, comparison.notes)]
    if len(audit):
        audit.write(output / "audit.json")
    replace_file(output / "comparison.csv", comparison.wide().to_csv().encode())
    replace_file(output / "comparison.md", pages.to_markdown(comparison).encode())
    replace_file(output / "comparison.tex", pages.to_latex(comparison).encode())
    replace_file(output / "comparison.html", pages.to_html(comparison, pictures).encode())
    print(pages.to_text(comparison))
    print(f"\nwritten to {output}: comparison.csv, .md, .tex, .html, {', '.join(pictures)}")


def _few_shot(runs: list[Run], output: Path, notes: list[str]) -> list[str]:
    """Learning curves of the pretrained embeddings of runs that have been probed; the names of what is drawn."""
    tables: dict[str, list[pd.DataFrame]] = {}
    for run in runs:
        if (file := RunFolder(Path(run.source)).probes).is_file():
            tables.setdefault(run.experiment, []).append(pd.read_parquet(file))
    for name, of_runs in tables.items():
        if len(of_runs) < (n := sum(run.experiment == name for run in runs)):
            notes.append(f"{name}: few-shot curve of {len(of_runs)} of {n} runs; the others were not probed.")
    curves = mean_over_runs(tables, "pretrained") if tables else pd.DataFrame()
    if curves.empty:
        return []
    title = "linear probe of pretrained embeddings, mean over runs"
    figures.few_shot(curves, output / "few_shot.png", by="experiment", title=title)
    return ["few_shot.png"]


def read_runs(pattern: str) -> tuple[list[Run], dict[str, Cohort], list[str]]:
    """Finished runs that a pattern matches, or that lie below the folders it matches.

    Returns:
        The runs, their studies by name, and notes on runs left out.

    Raises:
        ComparisonError: the pattern matches no finished run.
    """
    kept: list[tuple[RunFolder, dict[str, Any]]] = []
    notes: list[str] = []
    for folder in map(RunFolder, _run_folders(pattern)):
        if folder.finished() is None:
            notes.append(f"{folder.root}: not finished, left out.")
        elif not folder.predictions.is_file():
            notes.append(f"{folder.root}: finished without predictions (a tile encoder, say), left out.")
        else:
            kept.append((folder, folder.read_config()))
    # What every run was given beside its experiment tells none of them apart.
    shared = len({_variant(config) for _, config in kept}) == 1
    roots: dict[Path, str] = {}
    runs = [
        Run(
            experiment=config["name"] + ("" if shared else _variant(config)),
            cohort=_cohort_name(Path(config["data"]["root"]), roots),
            fold=int(config["split"]["fold"]),
            seed=int(config["seed"]),
            n_folds=config["split"].get("n_folds"),
            table=predictions.read(folder.predictions),
            source=str(folder.root),
            transductive=_is_transductive(folder),
            null=_null(config),
            view=VIEW_OF[modality_in_use(config)],
            name=config["name"],
        )
        for folder, config in kept
    ]
    if not runs:
        raise ComparisonError(
            f"runs={pattern}: no finished run with predictions there. {' '.join(notes)}".strip()
        )
    runs = _permutations_apart(runs)
    return runs, {name: _read_cohort(root, name, notes) for root, name in roots.items()}, notes


def _named(runs: Sequence[Run], reference: str) -> str:
    """The row that a reference names: by its own name, or by that of the experiment where one row is of it.

    Raises:
        ComparisonError: several rows are of it.
    """
    experiments = sorted({run.experiment for run in runs if run.name == reference})
    if reference in {run.experiment for run in runs} or not experiments:
        return reference
    if len(experiments) > 1:
        raise ComparisonError(
            f"reference={reference}: {len(experiments)} rows are of that experiment; name one: "
            f"{', '.join(experiments)}"
        )
    return experiments[0]


def _permutations_apart(runs: list[Run]) -> list[Run]:
    """Runs on permuted labels named by their seed where there are several: each is scored on labels of its own."""
    permuted = [run for run in runs if _NULLS["permute_labels", True] in run.null]
    seeds: dict[str, set[int]] = {}
    for run in permuted:
        seeds.setdefault(run.experiment, set()).add(run.seed)
    return [
        replace(run, experiment=f"{run.experiment} (seed {run.seed})")
        if len(seeds.get(run.experiment, ())) > 1
        else run
        for run in runs
    ]


def _run_folders(pattern: str) -> list[Path]:
    """Folders with a config.yaml, in or below what the pattern matches; Hydra's own hidden folders aside."""
    folders = set()
    for match in map(Path, glob(pattern, recursive=True)):
        for file in match.rglob("config.yaml") if match.is_dir() else ():
            if not any(part.startswith(".") for part in file.relative_to(match).parts):
                folders.add(file.parent)
    return sorted(folders)


def _variant(config: dict[str, Any]) -> str:
    """What the command line changed beside the experiment, as the run folder's name has it."""
    return str(config["paths"].get("variant", ""))


def _is_transductive(folder: RunFolder) -> bool:
    """What the manifest of the run's own split says.

    Raises:
        RunError: the run has no split.json.
        SplitError: it cannot be read.
    """
    if not folder.split.is_file():
        raise RunError(
            f"{folder.split}: missing, so that nobody knows which compounds were in training; run it again"
        )
    return bool(read_manifest(folder.split).manifest["transductive"])


def _null(config: dict[str, Any]) -> str:
    """What was destroyed in the run on purpose; "" for a method."""
    return "; ".join(name for (key, value), name in _NULLS.items() if config.get(key) == value)


def _cohort_name(root: Path, roots: dict[Path, str]) -> str:
    """The name of a study's folder; its whole path where another study has that name."""
    root = root.resolve()
    if root not in roots:
        roots[root] = str(root) if root.name in roots.values() else root.name
    return roots[root]


def _read_cohort(root: Path, name: str, notes: list[str]) -> Cohort:
    file = root / "expression.h5ad"
    if not file.is_file():
        notes.append(f"{name}: no study at {root} any more, so no oracle, and it is taken for a real study.")
        return Cohort(name, virtual=False)
    about = anndata.read_h5ad(file, backed="r").uns.get("toxfusion", {})
    virtual = bool(about.get("virtual", False))
    if virtual:
        setting = virtual_setting(read_provenance(about.get("provenance", {})))
        notes.append(f"{name} is a virtual study, {setting}.")
    return Cohort(name, virtual, read_oracles(root / "truth") if virtual else None)
