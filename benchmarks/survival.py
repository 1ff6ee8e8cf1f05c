"""Survival on published folds: networks, their linear shadow and baselines, with and without age and sex.

    python -m benchmarks.survival FOLDER --output published/survival --jobs 2
    python -m benchmarks.survival FOLDER --rows age ridge_cox --folds 0 1

FOLDER holds one folder a cohort, as `benchmarks.pairs` reads it, each with ``splits/splits_<k>.csv``. The cohorts are
one study, and fold k of it is fold k of every cohort. A cell is one row on one fold; finished cells are skipped, so
that the command may be repeated. `python -m benchmarks.published` makes the tables.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from benchmarks.pairs import FOLDS, STORE, cohorts_in, command, prepare, run_cells
from toxfusion.study.files import replace_file, write_parquet
from toxfusion.study.importers.tcga import FOLDS_FILE
from toxfusion.study.splits import Predefined
from toxfusion.study.study import Study

AGE, AGE_AND_SEX = ("age",), ("age", "is_female")


@dataclass(frozen=True)
class Row:
    """One row of the tables.

    Attributes:
        what: it is, in the words of the document.
        method: of ``fit_baseline``, fitted cohort by cohort; "pooled" for the shadow; "" for a network.
        clinical: columns that it reads.
        overrides: of ``toxfusion.train``, for a network.
        pretrained_as: network whose pretraining it shares; its own where empty.
    """

    name: str
    what: str
    method: str = ""
    clinical: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    pretrained_as: str = ""


def _networks() -> Iterator[Row]:
    reads = (("both", "slides and expression", ()), ("expression", "expression", ("modality.finetune=omics",)),
             ("slides", "slides", ("modality.finetune=wsi",)))  # fmt: skip
    for name, words, overrides in reads:
        for clinical in (AGE_AND_SEX, ()):
            yield Row(
                f"full_{name}" + ("_clinical" if clinical else ""),
                f"`experiment=survival`, reads {words}" + (", age and sex" if clinical else ""),
                clinical=clinical,
                overrides=(f"clinical=[{','.join(clinical)}]", *overrides),
                pretrained_as="full_both_clinical",
            )


ROWS = {
    row.name: row
    for row in (
        *_networks(),
        Row("pooled_cox_clinical", "linear shadow: one ridge Cox of all cohorts, age, sex", "pooled", AGE_AND_SEX),
        Row("pooled_cox", "the same without age and sex", "pooled"),
        Row("ridge_cox_clinical", "ridge Cox on 30 components and age, in each cohort", "pca_clinical_cox", AGE),
        Row("ridge_cox", "ridge Cox on 30 components, in each cohort", "pca_cox"),
        Row("coxnet_clinical", "elastic-net Cox on every gene and age", "genes_clinical_coxnet", AGE),
        Row("coxnet", "elastic-net Cox on every gene", "genes_coxnet"),
        Row("rsf_clinical", "random survival forest on every gene and age", "genes_clinical_rsf", AGE),
        Row("rsf", "random survival forest on every gene", "genes_rsf"),
        Row("age", "age alone", "clinical_cox", AGE),
        Row("age_sex", "age and sex", "clinical_cox", AGE_AND_SEX),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A row on one fold; its folder holds ``survival.parquet`` when it is done."""

    row: Row
    fold: int
    output: Path

    @property
    def name(self) -> str:
        return f"{self.row.name}, fold {self.fold}"

    @property
    def folder(self) -> Path:
        return self.output / "cells" / self.row.name / f"fold{self.fold}"

    @property
    def readings(self) -> Path:
        return self.folder / "survival.parquet"

    @property
    def done(self) -> bool:
        return self.readings.is_file()


def run_cell(cell: Cell, root: Path, extra: Sequence[str]) -> None:
    """Fit, or train, one cell, and write its readings."""
    from benchmarks.survival_rows import of_cohorts, pooled, trained

    row, study = cell.row, Study.open(root)
    split = Predefined(path=str(root / FOLDS_FILE), fold=cell.fold)(study)
    part = pd.Series(split.part_of())
    if row.method == "pooled":
        table = pooled(study, part, row.clinical)
    elif row.method:
        table = of_cohorts(study, part, row.method, row.clinical)
    else:
        _train(cell, root, extra)
        table = trained(cell.folder / "run", part)
    cell.folder.mkdir(parents=True, exist_ok=True)
    write_parquet(table, cell.readings)


def _train(cell: Cell, root: Path, extra: Sequence[str]) -> None:
    """One run; its pretraining is that of another row on this fold, where that is finished."""
    run = cell.folder / "run"
    shared = (
        cell.output
        / "cells"
        / cell.row.pretrained_as
        / f"fold{cell.fold}"
        / "run"
        / "checkpoints"
        / "pretrain"
    )
    own = run / "checkpoints" / "pretrain"
    if (shared / "finished.json").is_file() and not own.is_dir():
        draft = own.with_name(".pretrain")
        shutil.rmtree(draft, ignore_errors=True)
        shutil.copytree(shared, draft)
        draft.rename(own)
    command(
        "toxfusion.train", "experiment=survival", f"name={cell.row.name}", f"data.root={root}", "tile_features=store",
        f"tile_features.name={STORE}", "data.expression.n_genes=null", "split=predefined",
        f"split.path={root / FOLDS_FILE}", f"split.fold={cell.fold}", "heatmaps=0", "trainer.progress=false",
        *cell.row.overrides, *extra, f"paths.output={run}", log=cell.folder.with_suffix(".log"),
    )  # fmt: skip


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cohorts", nargs="+", help="default: all that are there")
    parser.add_argument("--rows", nargs="+", choices=tuple(ROWS), default=list(ROWS))
    parser.add_argument("--folds", type=int, nargs="+", choices=range(FOLDS), default=list(range(FOLDS)))
    parser.add_argument("--jobs", type=int, default=2, help="cells side by side, one thread each")
    parser.add_argument("--limit-minutes", type=float, help="begin no cell after so many minutes")
    parser.add_argument("--output", type=Path, default=Path("published/survival"))
    parser.add_argument(
        "--overrides",
        nargs="+",
        default=[],
        help="of toxfusion.train, for every network (a test run: size=tiny)",
    )
    return parser.parse_args(arguments)


def main() -> None:
    given = parse()
    given.output = given.output.resolve()
    cohorts = cohorts_in(given.folder.resolve(), given.cohorts)
    root = given.output / "study"
    study = prepare(given.folder.resolve(), cohorts, root)
    if not (root / FOLDS_FILE).is_file():
        raise SystemExit(
            f"error: {root} has no {FOLDS_FILE}; a cohort of {given.folder} lacks splits/splits_<k>.csv"
        )
    if sorted(set(study.obs["batch"])) != sorted(cohorts):
        raise SystemExit(f"error: {root} is a study of other cohorts than {cohorts}; give another --output")
    # Networks come fold by fold, the one whose pretraining others share first.
    cells = [
        Cell(ROWS[name], fold, given.output) for fold in given.folds for name in ROWS if name in given.rows
    ]
    replace_file(
        given.output / "command.txt", " ".join(["python -m benchmarks.survival", *_told(given)]).encode()
    )
    failed = run_cells(
        cells, partial(run_cell, root=root, extra=given.overrides), given.jobs, given.limit_minutes
    )
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    print(
        f"{sum(cell.done for cell in cells)} of {len(cells)} cells are finished; now: python -m benchmarks.published"
    )
    if failed:
        raise SystemExit(1)


def _told(given: argparse.Namespace) -> list[str]:
    """The arguments that decide results."""
    told = [given.folder.name]
    if given.cohorts:
        told += ["--cohorts", *given.cohorts]
    return told + (["--overrides", *given.overrides] if given.overrides else [])


if __name__ == "__main__":
    main()
