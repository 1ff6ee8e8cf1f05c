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
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from benchmarks.pairs_closed_form import logistic_vectors, random_vectors, ridge_vectors, site_vectors
from benchmarks.pairs_readings import CONTROLS, EVERY, FEW, LABELS, Vectors, write_predictions, write_readings
from benchmarks.pairs_tables import DOCUMENT, write_document
from toxfusion.study.draws import generator
from toxfusion.study.files import replace_file
from toxfusion.study.study import Study

FOLDS = 5
INNER_FOLDS = 6
SPLIT = "splits/sites.csv"
STORE = "hipt"


@dataclass(frozen=True)
class Row:
    """One row of the tables.

    Attributes:
        name: of the row. what: it is, in the words of the document.
        overrides: of ``toxfusion.train``, for a network; None for a closed form, which needs no seed.
        reads: what a row that is trained on labels sees of a patient ("slide", "expression" or "both"), once with ten
            labelled patients a class and once with all; "" for a row that gives vectors alone.
        takes_sets: its tokens of expression are gene sets where there are any (``--gene-sets``).
        pairs: share of the training patients that it learns from; smaller shares are parts of larger ones.
        without: a cohort that it learns nothing from. Labels are not read of a row that lacks patients.
    """

    name: str
    what: str
    overrides: tuple[str, ...] | None = None
    reads: str = ""
    takes_sets: bool = False
    pairs: float = 1.0
    without: str = ""

    @property
    def whole(self) -> bool:
        """It learns from every training patient."""
        return self.pairs == 1.0 and not self.without


def _preset(name: str, what: str, *overrides: str) -> Row:
    return Row(name, what, (f"experiment={name}", *overrides))


def _ablation(name: str, what: str, *overrides: str) -> Row:
    return Row(name, what, ("experiment=full", f"name={name}", *overrides))


def _trained(name: str, what: str, reads: str, *overrides: str, takes_sets: bool = False) -> Row:
    return Row(name, what, (*overrides, f"name={name}"), reads, takes_sets)


ROWS = {
    row.name: row
    for row in (
        _preset("full", "the default"),
        _preset("ablation_noalign", "without alignment, in the loss and in the start"),
        _preset("ablation_noorth", "without orthogonality"),
        _preset("ablation_noxattn", "without cross-attention"),
        _ablation("ablation_nogenes", "without masked genes", "pretrain.weights.genes=0"),
        _ablation("ablation_nostart", "without the closed-form start", "pretrain.warm_start.kind=none"),
        _ablation(
            "ablation_notraining",
            "the closed-form start alone",
            "size.pretrain_steps=1",
            "optimizer.pretrain_lr=0",
        ),
        _ablation("ablation_nogroups", "one linear path for all organs", "paths_by=null"),
        replace(_ablation("full_half", "the default on half of the training patients"), pairs=0.5),
        replace(_ablation("full_quarter", "the default on a quarter of them"), pairs=0.25),
        replace(
            _ablation(
                "full_without_lihc", "the default on all cohorts but LIHC", "data.within.unseen=pooled"
            ),
            without="lihc",
        ),
        _preset("mirror", "MIRROR"),
        _preset("tangle", "TANGLE"),
        _preset("clip", "InfoNCE alone"),
        _preset("siglip", "SigLIP alone"),
        _trained("full_finetuned", "the default, fine-tuned on labels", "both", "experiment=full"),
        _trained(
            "slide_after_both",
            "pretrained on both, fine-tuned on slides alone",
            "slide",
            "experiment=full",
            "modality.finetune=wsi",
        ),
        _trained("slide_alone", "slides alone from the start", "slide", "experiment=ablation_wsi_only"),
        _trained("expression_alone", "expression alone", "expression", "experiment=ablation_omics_only"),
        _trained("nopretrain", "both, without pretraining", "both", "experiment=ablation_nopretrain"),
        _trained("abmil", "gated attention", "slide", "experiment=abmil"),
        _trained("clam", "gated attention with instance clustering (CLAM)", "slide", "experiment=clam"),
        _trained("mcat", "MCAT", "both", "experiment=mcat", takes_sets=True),
        _trained("survpath", "SurvPath", "both", "experiment=survpath", takes_sets=True),
        Row("ridge", "reduced-rank ridge on the pairs of all cohorts, the own weighing 3"),
        Row("ridge_own", "the same on the pairs of the own cohort alone"),
        Row("logistic", "mean and deviation of tiles; principal components of expression"),
        _preset("null_shuffled_pairs", "null: pretrained on pairs that do not belong together"),
        _trained("null_permuted_labels", "null: labels permuted", "both", "experiment=null_permuted_labels"),
        Row("null_random", "null: random vectors"),
        Row("null_site", "null: the site alone"),
    )
}


@dataclass(frozen=True)
class Cell:
    """A row on one fold with one seed; its folder holds ``readings/labels.parquet`` when it is done."""

    row: Row
    fold: int
    seed: int
    output: Path

    @property
    def name(self) -> str:
        return f"{self.row.name}, fold {self.fold}, seed {self.seed}"

    @property
    def folder(self) -> Path:
        return self.output / "cells" / self.row.name / f"fold{self.fold}_seed{self.seed}"

    @property
    def readings(self) -> Path:
        return self.folder / "readings"

    @property
    def done(self) -> bool:
        return (self.readings / "labels.parquet").is_file()


class AnyCell(Protocol):
    """What can be run beside others, and left out where it is done."""

    @property
    def name(self) -> str: ...

    @property
    def done(self) -> bool: ...


SomeCell = TypeVar("SomeCell", bound=AnyCell)


def command(*arguments: str, log: Path | None = None) -> None:
    """One command line of toxfusion, one thread; prints it, and stops with it when it fails."""
    print("$ python -m", *arguments, flush=True)
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    if log is None:
        subprocess.run([sys.executable, "-m", *arguments], check=True, env=environment)
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        subprocess.run(
            [sys.executable, "-m", *arguments], check=True, env=environment, stdout=file, stderr=file
        )


def cohorts_in(folder: Path, wanted: Sequence[str] | None) -> list[str]:
    """Cohorts of a folder: those with a table and bags.

    Raises:
        SystemExit: one that is wanted is not there, or there is none.
    """
    there = sorted(
        p.parent.name for p in folder.glob("*/tcga_*_all_clean.csv*") if (p.parent / "bags").is_dir()
    )
    missing = sorted(set(wanted or ()) - set(there))
    if missing or not there:
        raise SystemExit(
            f"error: {folder} holds no cohort {missing or ''}; a cohort is a folder with bags/ and "
            f"tcga_<cohort>_all_clean.csv.zip; there are {there}"
        )
    return [c for c in there if wanted is None or c in wanted]


def prepare(folder: Path, cohorts: Sequence[str], root: Path) -> Study:
    """The study of the cohorts with its features and folds, made where it is not there.

    Published folds (``splits/splits_<k>.csv``) become ``splits/published.csv`` where every cohort has them.
    """
    if not (root / "expression.h5ad").is_file():
        published = [folder / c / "splits" for c in cohorts]
        folds = ",".join(map(str, published)) if all(p.is_dir() for p in published) else ""
        tables = ",".join(str(next((folder / c).glob("tcga_*_all_clean.csv*"))) for c in cohorts)
        labels = ",".join(str(path) for c in cohorts for path in sorted((folder / c).glob("*_labels.csv")))
        command(
            "toxfusion.prepare", "source=tcga", f"output={root}", "source.name=pairs", f"source.cases=[{tables}]",
            "source.kind=zscore", "source.time_column=survival_months", "source.censorship_column=censorship",
            "source.duplicates=mean", "source.slides=listed", f"source.labels=[{labels}]",
            *((f"source.folds=[{folds}]",) if folds else ()),
        )  # fmt: skip
    # Whole bags are kept: an interrupted import is taken up where it stopped.
    if not (root / SPLIT).is_file():
        bags = ",".join(str(folder / c / "bags") for c in cohorts)
        command(
            "toxfusion.prepare", "source=features", f"output={root}", "source.coordinates=none",
            f"source.encoder={STORE}", f"source.files=[{bags}]",
        )  # fmt: skip
        replace_file(root / SPLIT, site_folds(Study.open(root).obs).to_csv(index=False).encode())
    return Study.open(root)


def site_folds(obs: pd.DataFrame) -> pd.DataFrame:
    """Five folds of whole sites, alike in their share of each cohort; the validation part is a sixth of the others.

    Returns:
        Columns sample_id, fold and part.
    """
    site, cohort, parts = obs["study"].to_numpy(), obs["batch"].to_numpy(), []
    outer = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    for fold, (rest, tested) in enumerate(outer.split(obs, cohort, site)):
        inner = StratifiedGroupKFold(INNER_FOLDS, shuffle=True, random_state=fold)
        _, valid = next(inner.split(rest, cohort[rest], site[rest]))
        part = np.full(len(obs), "train", object)
        part[rest[valid]], part[tested] = "valid", "test"
        parts.append(pd.DataFrame({"sample_id": obs.index, "fold": fold, "part": part}))
    return pd.concat(parts, ignore_index=True)


def split_of(root: Path, fold: int) -> pd.Series:
    """sample_id -> part, of one fold."""
    table = pd.read_csv(root / SPLIT)
    return table[table["fold"] == fold].set_index("sample_id")["part"]


def learned_from(cell: Cell, root: Path, cohort: pd.Series) -> Path:
    """The table of folds of a cell: that of the study, without the patients that its row does not learn from.

    Args:
        cohort: of each patient of the study.
    """
    row = cell.row
    if row.whole:
        return root / SPLIT
    table = pd.read_csv(root / SPLIT)
    order = generator(0, "pairs learned from").permutation(len(cohort))
    place = pd.Series(order / len(order), index=cohort.index)
    told = table["sample_id"]
    left_out = (table["part"] == "train") & (told.map(place) >= row.pairs)
    left_out |= (table["part"] != "test") & (told.map(cohort) == row.without)
    file = cell.folder / "folds.csv"
    replace_file(file, table[~left_out].to_csv(index=False).encode())
    return file


def run_cell(cell: Cell, root: Path, extra: Sequence[str]) -> None:
    """Train, or fit, one cell, and read it."""
    if cell.row.overrides is None:
        write_readings(closed_form(cell, root), cell.readings, cell.seed)
        return
    obs = Study.open(root).obs
    common = (
        *cell.row.overrides, f"data.root={root}", "data=cohorts", "tile_features=store",
        f"tile_features.name={STORE}", "data.expression.n_genes=null", "split=predefined",
        f"split.path={learned_from(cell, root, obs['batch'])}", f"split.fold={cell.fold}", f"seed={cell.seed}",
        "heatmaps=0", "trainer.progress=false", *extra,
    )  # fmt: skip
    log = cell.folder.with_suffix(".log")
    if not cell.row.reads:
        command("toxfusion.train", *common, "task=none", f"paths.output={cell.folder}", log=log)
        write_readings(network_vectors(cell, root), cell.readings, cell.seed, labels=cell.row.whole)
        return
    predictions = {}
    for budget in (FEW, EVERY):
        output = cell.folder / (f"labels{budget}" if budget else "all")
        limit = f"task.budget={budget or 'null'}"
        command("toxfusion.train", *common, *label_tasks(obs), limit, f"paths.output={output}", log=log)
        predictions[budget] = pd.read_parquet(output / "predictions.parquet")
    write_predictions(predictions, cell.row.reads, cell.readings)


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


def network_vectors(cell: Cell, root: Path) -> Vectors:
    """Parts of a trained network, as its run wrote them, beside the expression that genes are judged by."""
    import anndata

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


def closed_form(cell: Cell, root: Path) -> Vectors:
    """Vectors of a row that is no network."""
    makers = {
        "ridge": lambda study, part: ridge_vectors(study, part, STORE, own_weight=3.0),
        "ridge_own": lambda study, part: ridge_vectors(study, part, STORE, own_weight=None),
        "logistic": lambda study, part: logistic_vectors(study, part, STORE),
        "null_random": lambda study, part: random_vectors(study, part, STORE, cell.seed),
        "null_site": lambda study, part: site_vectors(study, part),
    }
    return makers[cell.row.name](Study.open(root), split_of(root, cell.fold))


def truth_of(output: Path, fold: int) -> Path:
    """Where the standardised expression of a fold lies, patients x genes."""
    return output / "truth" / f"fold{fold}.parquet"


def write_truth(root: Path, output: Path, fold: int) -> None:
    """Standardised expression of all patients of a fold, as closed forms see it; once a fold."""
    place = truth_of(output, fold)
    if place.is_file():
        return
    from benchmarks.pairs_closed_form import fold_data

    data = fold_data(Study.open(root), split_of(root, fold), STORE)
    assert data.expression is not None, "the fold reads expression"
    values = data.expression.transform(data.study, data.sample_ids)
    table = pd.DataFrame(values, index=pd.Index(data.sample_ids, name="sample_id"))
    table.columns = [str(c) for c in table.columns]
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = place.with_name(f".{place.name}")
    table.to_parquet(draft)
    draft.replace(place)


def cells_of(given: argparse.Namespace) -> Iterator[Cell]:
    """Fold by fold and seed by seed, so that a partial run has whole columns of fewer folds."""
    for seed in given.seeds:
        for fold in given.folds:
            for name in given.rows:
                row = ROWS[name]
                if row.takes_sets and given.gene_sets is not None:
                    sets = ("expression=pathways", f"expression.gene_sets.gmt={given.gene_sets.resolve()}")
                    row = replace(row, overrides=(*(row.overrides or ()), *sets))
                if row.overrides is not None or seed == given.seeds[0]:
                    yield Cell(row, fold, seed, given.output)


def run_cells(
    cells: Sequence[SomeCell], run: Callable[[SomeCell], None], jobs: int, limit_minutes: float | None
) -> list[str]:
    """Run what is not done, ``jobs`` side by side, until the time is up; returns what failed, with its reason."""
    ends = None if limit_minutes is None else time.monotonic() + 60 * limit_minutes
    failed: list[str] = []

    def one(cell: SomeCell) -> None:
        if cell.done or (ends is not None and time.monotonic() > ends):
            return
        started = time.monotonic()
        try:
            run(cell)
        except (subprocess.CalledProcessError, ValueError, OSError) as error:
            failed.append(f"{cell.name}: {error}")
            return
        print(f"{cell.name}: {time.monotonic() - started:.0f} s", flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, cells))
    return failed


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cohorts", nargs="+", help="default: all that are there")
    parser.add_argument("--rows", nargs="+", choices=tuple(ROWS), default=list(ROWS))
    parser.add_argument("--folds", type=int, nargs="+", choices=range(FOLDS), default=list(range(FOLDS)))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="cells side by side, one thread each")
    parser.add_argument("--limit-minutes", type=float, help="begin no cell after so many minutes")
    parser.add_argument("--output", type=Path, default=Path("pairs"))
    parser.add_argument(
        "--gene-sets", type=Path, help="GMT file of symbols, for the tokens of mcat and survpath"
    )
    parser.add_argument("--document", type=Path, default=DOCUMENT)
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
    there = sorted(set(study.obs["batch"]))
    if there != sorted(cohorts):
        raise SystemExit(f"error: {root} is a study of {there}, not of {cohorts}; give another --output")
    cells = [cell for cell in cells_of(given) if cell.row.without in ("", *cohorts)]
    for fold in given.folds:
        write_truth(root, given.output, fold)
    failed = run_cells(
        cells, partial(run_cell, root=root, extra=given.overrides), given.jobs, given.limit_minutes
    )
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    done = [cell for cell in cells if cell.done]
    if done:
        write_document(study, done, cells, given, failed)
    if failed:
        raise SystemExit(f"error: {len(failed)} of {len(cells)} cells failed")


if __name__ == "__main__":
    main()
