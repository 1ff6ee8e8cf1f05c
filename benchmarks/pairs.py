"""Every preset, ablation, baseline and null on real pairs of slides and expression: writes docs/pairs.md.

    python -m benchmarks.pairs FOLDER --output pairs --jobs 2
    python -m benchmarks.pairs FOLDER --cohorts luad lusc --rows full ridge --folds 0 --seeds 0 --limit-minutes 60

FOLDER holds one folder a cohort: ``tcga_<cohort>_all_clean.csv.zip``, ``bags/<slide_id>.pt`` and label tables
``*_labels.csv``. The study is prepared once. A cell is one row on one fold with one seed; finished cells are skipped,
so that the command may be repeated, with more rows, folds or seeds, until the tables are whole. No cell is begun after
``--limit-minutes``; the tables say which cells are missing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import anndata
import numpy as np
import pandas as pd

from benchmarks.cells import cell_parser, run_cells
from benchmarks.cohort_study import SPLIT, STORE, cohorts_in, prepare, split_of
from benchmarks.command import command
from benchmarks.pairs_cells import PairsCell, cells_of, truth_of
from benchmarks.pairs_closed_form import (
    fold_data,
    logistic_vectors,
    random_vectors,
    ridge_vectors,
    site_vectors,
)
from benchmarks.pairs_methods import METHODS
from benchmarks.pairs_readings import CONTROLS, EVERY, FEW, LABELS, Vectors, write_predictions, write_readings
from benchmarks.pairs_tables import DOCUMENT, write_document
from toxfusion.study.draws import generator
from toxfusion.study.files import replace_file, replacing
from toxfusion.study.study import Study


def learned_from(cell: PairsCell, root: Path, cohort: pd.Series) -> Path:
    """The table of folds of a cell: that of the study, without the patients that its method does not learn from.

    Args:
        cohort: of each patient of the study.
    """
    method = cell.method
    if method.whole:
        return root / SPLIT
    table = pd.read_csv(root / SPLIT)
    order = generator(0, "pairs learned from").permutation(len(cohort))
    place = pd.Series(order / len(order), index=cohort.index)
    patients = table["sample_id"]
    left_out = (table["part"] == "train") & (patients.map(place) >= method.pairs)
    left_out |= (table["part"] != "test") & (patients.map(cohort) == method.without)
    file = cell.folder / "folds.csv"
    replace_file(file, table[~left_out].to_csv(index=False).encode())
    return file


def run_cell(cell: PairsCell, root: Path, extra: Sequence[str]) -> None:
    """Train, or fit, one cell, and read it."""
    if cell.method.overrides is None:
        write_readings(closed_form(cell, root), cell.readings.parent)
        return
    obs = Study.open(root).obs
    common = (
        *cell.method.overrides, f"data.root={root}", "data=cohorts", "tile_features=store",
        f"tile_features.name={STORE}", "data.expression.n_genes=null", "split=predefined",
        f"split.path={learned_from(cell, root, obs['batch'])}", f"split.fold={cell.fold}", f"seed={cell.seed}",
        "heatmaps=0", "trainer.progress=false", *extra,
    )  # fmt: skip
    log = cell.folder.with_suffix(".log")
    if not cell.method.reads:
        command("toxfusion.train", *common, "task=none", f"paths.output={cell.folder}", log=log)
        write_readings(network_vectors(cell), cell.readings.parent, labels=cell.method.whole)
        return
    predictions = {}
    for budget in (FEW, EVERY):
        output = cell.folder / (f"labels{budget}" if budget else "all")
        limit = f"task.budget={budget or 'null'}"
        command("toxfusion.train", *common, *label_tasks(obs), limit, f"paths.output={output}", log=log)
        predictions[budget] = pd.read_parquet(output / "predictions.parquet")
    write_predictions(predictions, cell.method.reads, cell.readings.parent)


def label_tasks(obs: pd.DataFrame) -> tuple[str, ...]:
    """Overrides that make a task of each label that the cohorts have, and of survival."""
    nodes = []
    for label in (*LABELS, *CONTROLS):
        if len(np.unique(label.of(obs)[~np.isnan(label.of(obs))])) == 2:
            values = obs[label.column].astype(str)
            words = {
                side: ",".join(f'"{word}"' for word in of if (values == word).any())
                for side, of in (("negative", label.negative), ("positive", label.positive))
            }
            told = ",".join(f"{side}:[{of}]" for side, of in words.items())
            nodes.append(f"{label.slug}:{{column:{label.column},{told}}}")
    return "task=labels", f"task.labels={{{','.join(nodes)}}}", "task.survival.method=discrete"


def network_vectors(cell: PairsCell) -> Vectors:
    """Parts of a trained network, as its run wrote them, beside the expression that genes are judged by."""
    table = anndata.read_h5ad(cell.folder / "embeddings.h5ad")
    parts = {
        side: [table.obsm[f"{side}_{name}"].astype(np.float64) for name in ("shared", "private")]
        for side in ("slide", "expression")
    }
    obs = table.obs.astype(dict.fromkeys(("batch", "organ", "part", "subtype"), str))
    genes = pd.read_parquet(truth_of(cell.output, cell.fold)).loc[obs.index].to_numpy(np.float64)
    return Vectors(
        obs,
        parts["slide"][0],
        parts["expression"][0],
        slide_read=np.hstack(parts["slide"]),
        expression_read=np.hstack(parts["expression"]),
        genes=genes,
    )


def closed_form(cell: PairsCell, root: Path) -> Vectors:
    """Vectors of a method that is no network."""
    makers = {
        "ridge": lambda study, part: ridge_vectors(study, part, STORE, own_weight=3.0),
        "ridge_own": lambda study, part: ridge_vectors(study, part, STORE, own_weight=None),
        "logistic": lambda study, part: logistic_vectors(study, part, STORE),
        "null_random": lambda study, part: random_vectors(study, part, STORE, cell.seed),
        "null_site": lambda study, part: site_vectors(study, part),
    }
    return makers[cell.method.name](Study.open(root), split_of(root, cell.fold))


def write_truth(root: Path, output: Path, fold: int) -> None:
    """Standardised expression of all patients of a fold, as closed forms see it; once a fold."""
    place = truth_of(output, fold)
    if place.is_file():
        return
    data = fold_data(Study.open(root), split_of(root, fold), STORE)
    assert data.expression is not None, "the fold reads expression"
    values = data.expression.transform(data.study, data.sample_ids)
    table = pd.DataFrame(values, index=pd.Index(data.sample_ids, name="sample_id"))
    table.columns = [str(c) for c in table.columns]
    with replacing(place) as draft:
        table.to_parquet(draft)


def parse(command_line: Sequence[str] | None = None) -> argparse.Namespace:
    parser = cell_parser(__doc__, METHODS, "pairs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--gene-sets", type=Path, help="GMT file of symbols, for the tokens of mcat and survpath"
    )
    parser.add_argument("--document", type=Path, default=DOCUMENT)
    return parser.parse_args(command_line)


def main() -> None:
    arguments = parse()
    arguments.output = arguments.output.resolve()
    cohorts = cohorts_in(arguments.folder.resolve(), arguments.cohorts)
    root = arguments.output / "study"
    study = prepare(arguments.folder.resolve(), cohorts, root)
    cells = [cell for cell in cells_of(arguments) if cell.method.without in ("", *cohorts)]
    for fold in arguments.folds:
        write_truth(root, arguments.output, fold)
    run = partial(run_cell, root=root, extra=arguments.overrides)
    failed = run_cells(cells, run, arguments.jobs, arguments.limit_minutes)
    done = [cell for cell in cells if cell.done]
    if done:
        write_document(study, done, cells, arguments, failed)
    if failed:
        raise SystemExit(f"error: {len(failed)} of {len(cells)} cells failed")


if __name__ == "__main__":
    main()
