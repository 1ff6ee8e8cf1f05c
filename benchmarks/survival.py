"""Survival on published folds: networks, their linear shadow and baselines, with and without age and sex.

    python -m benchmarks.survival FOLDER --output published/survival --jobs 2
    python -m benchmarks.survival FOLDER --rows age ridge_cox --folds 0 1

FOLDER holds one folder a cohort, as `benchmarks.pairs` reads it, each with ``splits/splits_<k>.csv``. The cohorts are
one study, and fold k of it is fold k of every cohort. A cell is one row on one fold, of a network with one seed;
finished cells are skipped, so that the command may be repeated. `python -m benchmarks.published` makes the tables.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from benchmarks.cells import Cell, cell_parser, run_cells
from benchmarks.cohort_study import STORE, cohorts_in, prepare
from benchmarks.command import command
from benchmarks.survival_methods import METHODS, Method
from benchmarks.survival_readings import of_cohorts, pooled, trained
from toxfusion.study.files import replace_file, write_parquet
from toxfusion.study.importers.tcga import FOLDS_FILE
from toxfusion.study.splits import Predefined
from toxfusion.study.study import Study


class SurvivalCell(Cell[Method]):
    """A cell that leaves one table; that of a network, its run too."""

    last = "survival.parquet"
    seeded = True

    @property
    def pretraining(self) -> Path:
        """Where the checkpoint of its pretraining lies, of a network."""
        return self.folder / "run" / "checkpoints" / "pretrain"


def run_cell(cell: SurvivalCell, root: Path, extra: Sequence[str]) -> None:
    """Fit, or train, one cell, and write its readings."""
    method, study = cell.method, Study.open(root)
    split = Predefined(path=str(root / FOLDS_FILE), fold=cell.fold)(study)
    part = pd.Series(split.part_of())
    if method.baseline == "pooled":
        table = pooled(study, part, method.clinical)
    elif method.baseline:
        table = of_cohorts(study, part, method.baseline, method.clinical)
    else:
        _train(cell, root, extra)
        table = trained(cell.folder / "run", part)
    cell.folder.mkdir(parents=True, exist_ok=True)
    write_parquet(table, cell.readings)


def _train(cell: SurvivalCell, root: Path, extra: Sequence[str]) -> None:
    """One run; its pretraining is that of another network on this fold and seed, where that is finished."""
    pretrained_as = METHODS.get(cell.method.pretrained_as, cell.method)
    shared = SurvivalCell(pretrained_as, cell.fold, cell.output, cell.seed).pretraining
    own = cell.pretraining
    if (shared / "finished.json").is_file() and not own.is_dir():
        draft = own.with_name(".pretrain")
        shutil.rmtree(draft, ignore_errors=True)
        shutil.copytree(shared, draft)
        draft.rename(own)
    command(
        "toxfusion.train", "experiment=survival", f"name={cell.method.name}", f"data.root={root}",
        "tile_features=store", f"tile_features.name={STORE}", "data.expression.n_genes=null", "split=predefined",
        f"split.path={root / FOLDS_FILE}", f"split.fold={cell.fold}", f"seed={cell.seed}", "heatmaps=0",
        "trainer.progress=false", *cell.method.overrides, *extra, f"paths.output={cell.folder / 'run'}",
        log=cell.folder.with_suffix(".log"),
    )  # fmt: skip


def parse(command_line: Sequence[str] | None = None) -> argparse.Namespace:
    parser = cell_parser(__doc__, METHODS, "published/survival")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of networks")
    return parser.parse_args(command_line)


def main() -> None:
    arguments = parse()
    arguments.output = arguments.output.resolve()
    cohorts = cohorts_in(arguments.folder.resolve(), arguments.cohorts)
    root = arguments.output / "study"
    prepare(arguments.folder.resolve(), cohorts, root)
    if not (root / FOLDS_FILE).is_file():
        raise SystemExit(
            f"error: {root} has no {FOLDS_FILE}; a cohort of {arguments.folder} lacks splits/splits_<k>.csv"
        )
    # Networks come fold by fold, the one whose pretraining others share first.
    cells = [
        SurvivalCell(method, fold, arguments.output, seed)
        for seed in arguments.seeds
        for fold in arguments.folds
        for name, method in METHODS.items()
        if name in arguments.methods and (not method.baseline or seed == arguments.seeds[0])
    ]
    line = " ".join(["python -m benchmarks.survival", *_deciding(arguments)])
    replace_file(arguments.output / "command.txt", line.encode())
    run = partial(run_cell, root=root, extra=arguments.overrides)
    failed = run_cells(cells, run, arguments.jobs, arguments.limit_minutes)
    print(
        f"{sum(cell.done for cell in cells)} of {len(cells)} cells are finished; now: python -m benchmarks.published"
    )
    if failed:
        raise SystemExit(1)


def _deciding(arguments: argparse.Namespace) -> list[str]:
    """The arguments that decide results."""
    cohorts = ["--cohorts", *arguments.cohorts] if arguments.cohorts else []
    overrides = ["--overrides", *arguments.overrides] if arguments.overrides else []
    return [arguments.folder.name, *cohorts, *overrides]


if __name__ == "__main__":
    main()
