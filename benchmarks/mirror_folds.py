"""Subtypes on the folds that MIRROR published: slides, expression and both, by `full`, MIRROR and logistic regression.

    python -m benchmarks.mirror_folds FOLDER --output published/mirror
    python -m benchmarks.mirror_folds FOLDER --datasets nsclc coadread --rows genes_logistic full --folds 0

FOLDER holds one folder a cohort (``tcga_<cohort>_all_clean.csv.zip``, ``bags/``) and ``mirror_splits/<data set>/``. The
train column of a fold is the training part, of which a fifth is drawn to choose on, and the val column is the test
part. Finished runs are skipped, so that the command may be repeated; no row of a fold is begun after
``--limit-minutes``. `python -m benchmarks.published` makes the tables.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.cohort_study import STORE, cohorts_in, prepare
from benchmarks.command import command
from benchmarks.pairs_statistics import DRAWS, Estimate, mean_of, weights
from toxfusion.evaluation.scoring import called_classes
from toxfusion.evaluation.statistics import auroc_statistic, class_statistics
from toxfusion.study.files import replace_file
from toxfusion.study.tables import read_table

FOLDS = 5
#: Classification of MIRROR -> the OncoTree codes that are told apart.
DATASETS = {
    "nsclc": ("LUAD", "LUSC"),
    "brca": ("IDC", "ILC"),
    "coadread": ("COAD", "READ"),
    "rcc": ("CCRCC", "PRCC"),
}


@dataclass(frozen=True)
class Method:
    """One row of the tables.

    Attributes:
        reads: of a patient, "slide", "expression" or "both".
        what: it is, in the words of the document.
        overrides: of ``toxfusion.train``, its name and ``data=cohorts`` aside; of one without any, its name is the
            method of `concat_logistic`.
    """

    reads: str
    what: str
    overrides: tuple[str, ...] = ()


METHODS = {
    "genes_logistic": Method("expression", "logistic regression on every gene"),
    "pca_logistic": Method("expression", "the same on 50 principal components"),
    "meanpool_logistic": Method("slide", "logistic regression on mean and deviation of tiles"),
    "concat_logistic": Method("both", "logistic regression on both"),
    "genes_centred": Method(
        "expression",
        "`genes_logistic`, each file standardised by its own training patients",
        ("experiment=concat_logistic", "method=genes_logistic", "data.within.column=batch"),
    ),
    "full": Method("both", "the default, pretrained on both and fine-tuned", ("experiment=full",)),
    "full_slide": Method(
        "slide", "the same, fine-tuned and tested on slides", ("experiment=full", "modality.finetune=wsi")
    ),
    "full_expression": Method(
        "expression", "the same, on expression", ("experiment=full", "modality.finetune=omics")
    ),
    "mirror": Method("both", "our preset of MIRROR", ("experiment=mirror",)),
}
METRICS = ("accuracy", "macro-AUROC", "macro-F1")


def published_folds(folder: Path, study: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """Columns sample_id, fold, part of the patients that the study has, and the names of the others."""
    named = []
    for fold in range(FOLDS):
        table = read_table(folder / f"splits_{fold}.csv", required=("train", "val"))
        for column, part in (("train", "train"), ("val", "test")):
            cases = dict.fromkeys(table[column].dropna().str.slice(0, 12))
            named.append(pd.DataFrame({"sample_id": list(cases), "fold": fold, "part": part}))
    table = pd.concat(named, ignore_index=True)
    known = table["sample_id"].isin(set(study))
    return table[known], sorted(set(table.loc[~known, "sample_id"]))


def overlaps(table: pd.DataFrame) -> dict[int, list[str]]:
    """Fold -> patients that it trains and tests."""
    both = table[table.duplicated(["sample_id", "fold"])]
    return {int(str(fold)): sorted(of["sample_id"]) for fold, of in both.groupby("fold")}


def folds_file(output: Path, dataset: str) -> Path:
    """Where the folds of a data set lie, as `Predefined` reads them."""
    return output / "study" / "splits" / f"mirror_{dataset}.csv"


def unknown_file(output: Path, dataset: str) -> Path:
    """Where the patients of the folds that no cohort has are named, one a line."""
    return folds_file(output, dataset).with_suffix(".unknown.txt")


def runs_of(output: Path, dataset: str, method: str) -> dict[int, Path]:
    """Fold -> predictions of the finished runs of a method; the folder of an overlapping split says so."""
    there = (output / "runs" / dataset).glob("*/*/fold*_seed0/done.json")
    return {
        int(done.parent.name.removeprefix("fold").removesuffix("_seed0")): done.with_name(
            "predictions.parquet"
        )
        for done in there
        if done.parent.parent.name in (method, f"{method}_overlap")
    }


def train(output: Path, dataset: str, methods: Sequence[str], folds: Sequence[int], overlap: bool) -> None:
    """Train and test methods on folds, in one process; several at once are those without overrides."""
    plain = ("experiment=concat_logistic", f"method={','.join(methods)}", "name=${method}")
    overrides = METHODS[methods[0]].overrides
    command(
        "toxfusion.train", "-m", *((*overrides, f"name={methods[0]}") if overrides else plain),
        f"data.root={output / 'study'}", "data=cohorts", "tile_features=store", f"tile_features.name={STORE}",
        "data.within.unseen=pooled", "data.expression.n_genes=null", "task=subtype",
        f"task.classes=[{','.join(DATASETS[dataset])}]",
        "split=predefined", f"split.path={folds_file(output, dataset)}", f"split.fold={','.join(map(str, folds))}",
        f"split.allow_overlap={str(overlap).lower()}", "heatmaps=0", "trainer.progress=false",
        "paths.variant=''", f"paths.outputs={output / 'runs' / dataset}",
        log=output / "logs" / f"{dataset}_{methods[0]}.log",
    )  # fmt: skip


def scores(output: Path, dataset: str, method: str, folds: Sequence[int]) -> dict[str, Estimate] | None:
    """Metric -> mean over folds, as published, with draws of patients within folds; None before all are done.

    Patients whose subtype is none of the two have no label, and are not tested. The class of highest probability is
    called.
    """
    done = runs_of(output, dataset, method)
    if not set(folds) <= set(done):
        return None
    of_folds = []
    for fold in folds:
        table = pd.read_parquet(done[fold])
        of_folds.append(
            _of_fold(table[(table["part"] == "test") & table["label"].notna()], f"{dataset} {fold}")
        )
    return {
        metric: mean_of({str(fold): of[metric] for fold, of in enumerate(of_folds)}) for metric in METRICS
    }


def _of_fold(tested: pd.DataFrame, stratum: str) -> dict[str, Estimate]:
    true = called_classes(tested).sort_values("unit_id")
    names, tasks = true["unit_id"].to_numpy(str), sorted(tested["task"].unique())
    label, called = (true[column].map(tasks.index).to_numpy(float) for column in ("task", "called_task"))
    codes, n = np.arange(len(names)), len(names)
    accuracy, _, macro_f1 = class_statistics(label, called, codes, n)
    # Of two exclusive classes the AUROC of one is that of the other, and so the macro mean.
    one = tested[tested["task"] == tasks[0]].set_index("unit_id").loc[names]
    ranked = auroc_statistic(one["label"].to_numpy(), one["score"].to_numpy(), codes, n)
    drawn = np.vstack([np.ones(n), weights(names, np.full(n, stratum), DRAWS)])
    values = zip(METRICS, (accuracy(drawn), ranked(drawn), macro_f1(drawn)), strict=True)
    return {metric: Estimate(float(v[0]), v[1:]) for metric, v in values}


def parse(command_line: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="holds a folder a cohort, and mirror_splits/")
    parser.add_argument("--output", type=Path, default=Path("published/mirror"))
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=list(DATASETS))
    parser.add_argument("--rows", dest="methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--folds", nargs="+", type=int, choices=range(FOLDS), default=list(range(FOLDS)))
    parser.add_argument(
        "--limit-minutes", type=float, help="begin no row of a data set after so many minutes"
    )
    return parser.parse_args(command_line)


def main() -> None:
    arguments = parse()
    ends = None if arguments.limit_minutes is None else time.monotonic() + 60 * arguments.limit_minutes
    cohorts = cohorts_in(arguments.folder, None)
    study = prepare(arguments.folder, cohorts, arguments.output / "study")
    both: dict[str, dict[int, list[str]]] = {}
    for dataset in arguments.datasets:
        table, unknown = published_folds(arguments.folder / "mirror_splits" / dataset, study.sample_ids)
        replace_file(folds_file(arguments.output, dataset), table.to_csv(index=False).encode())
        replace_file(
            unknown_file(arguments.output, dataset), "".join(f"{case}\n" for case in unknown).encode()
        )
        both[dataset] = overlaps(table)
        for fold, cases in both[dataset].items():
            print(
                f"{dataset}, fold {fold}: {len(cases)} patients in train and test: {', '.join(cases)}",
                flush=True,
            )
    plain = [name for name in arguments.methods if not METHODS[name].overrides]
    others = [[name] for name in arguments.methods if METHODS[name].overrides]
    for methods in [plain, *others] if plain else others:
        for dataset in arguments.datasets:
            done = [runs_of(arguments.output, dataset, method) for method in methods]
            missing = [fold for fold in sorted(set(arguments.folds)) if any(fold not in of for of in done)]
            if missing and (ends is None or time.monotonic() < ends):
                train(arguments.output, dataset, methods, missing, overlap=bool(both[dataset]))


if __name__ == "__main__":
    main()
