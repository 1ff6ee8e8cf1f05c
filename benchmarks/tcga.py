"""Survival of TCGA patients from expression: networks beside three survival baselines, writes docs/survival.md.

    python benchmarks/tcga.py survpath_blca tcga_lihc_all_clean.csv.zip --output survival

Each input is a cohort: a folder of SurvPath's form (``tcga_<name>.csv``, ``rna_clean.csv.gz``, ``*signatures.csv``,
``splits/``), scored by disease-specific survival on its published folds, or a ``tcga_<name>_all_clean.csv.zip`` of
z-scores, scored by overall survival on five folds of patients of our own. Each finished step is skipped when the
command is repeated. Nothing is chosen on a test part: baselines choose penalties by folds inside training, a network
its step on an inner fold; the networks of all inner folds are averaged.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.command import command
from benchmarks.markdown import markdown_table
from toxfusion.evaluation.predictions import pool, read
from toxfusion.evaluation.survival import concordance_statistic

BASELINES = ("pca_cox", "genes_coxnet", "genes_rsf")
#: Row of the table -> the experiment and what it changes.
NETWORKS = {
    "survival_snn": ("experiment=survival_snn",),
    "survival_pathways": (
        "experiment=survival_snn",
        "expression=pathways",
        "expression.n_blocks=0",
        "optimizer.finetune_lr=0.002",
    ),
    "survival_masked_genes": ("experiment=survival_masked_genes",),
}
FOLDS = 5


@dataclass(frozen=True)
class Cohort:
    """A cohort and how it is read.

    Attributes:
        prepare: overrides of ``toxfusion.prepare``.
        signatures: table of gene sets, None where there is none.
        published: whether it brings its folds.
    """

    name: str
    prepare: tuple[str, ...]
    signatures: Path | None
    published: bool


def cohort_of(source: Path, signatures: Path | None) -> Cohort:
    """What a folder or table holds.

    Raises:
        SystemExit: it is neither; says what is missing.
    """
    if source.is_file():
        name = source.name.split("_")[1] if source.name.count("_") > 1 else source.name.split(".")[0]
        columns = ("source.time_column=survival_months", "source.censorship_column=censorship")
        return Cohort(
            name,
            (f"source.cases={source}", "source.kind=zscore", *columns),
            signatures,
            False,
        )
    clinical, own = sorted(source.glob("tcga_*.csv")), sorted(source.glob("*signatures.csv"))
    needed = (clinical, own, list(source.glob("rna_clean.csv*")), list(source.glob("splits/splits_*.csv")))
    if any(not files for files in needed):
        raise SystemExit(
            f"error: {source} is no table, and lacks one of tcga_<name>.csv, *signatures.csv, rna_clean.csv.gz and "
            "splits/splits_<k>.csv"
        )
    prepare = (
        f"source.cases={clinical[0]}",
        f"source.rna={needed[2][0]}",
        f"source.folds={source / 'splits'}",
    )
    return Cohort(clinical[0].stem.removeprefix("tcga_"), prepare, own[0], True)


def run_cohort(cohort: Cohort, arguments: argparse.Namespace) -> None:
    """Prepare a cohort and run what is asked for on its folds."""
    study = arguments.output / "studies" / cohort.name
    if not (study / "expression.h5ad").is_file():
        sets = () if cohort.signatures is None else (f"source.signatures={cohort.signatures}",)
        named = (f"output={study}", f"source.name={cohort.name}")
        command("toxfusion.prepare", "source=tcga", *named, *cohort.prepare, *sets)
    folds = ("split=patient_kfold", f"split.n_folds={FOLDS}")
    if cohort.published:
        folds = ("split=predefined", f"split.path={study / 'splits' / 'published.csv'}")
    common = (
        f"data.root={study}",
        "data=cohort",
        "tile_features=none",
        *folds,
        f"split.fold={','.join(map(str, range(FOLDS)))}",
        f"paths.outputs={arguments.output / 'runs'}",
        "paths.variant=",
        "trainer.progress=false",
        "hydra/launcher=joblib",
        f"hydra.launcher.n_jobs={arguments.jobs}",
    )
    baselines = [name for name in arguments.methods if name in BASELINES]
    if baselines:
        every_gene = ("data.expression.n_genes=null", "modality=omics")
        command("toxfusion.train", "-m", f"experiment={','.join(baselines)}", *every_gene, *common)
    for name in (n for n in arguments.methods if n in NETWORKS):
        changes: tuple[str, ...] = (*NETWORKS[name], f"name={name}")
        if "expression=pathways" in changes:
            gmt = sorted(study.glob("gene_sets/*.gmt"))
            if not gmt:
                print(f"{cohort.name}: no gene sets, so no {name}; name a table of them by --signatures")
                continue
            changes += (f"expression.gene_sets.gmt={gmt[0]}",)
        members = ",".join(map(str, range(arguments.members)))
        inner = (f"split.valid_folds={arguments.members}", f"seed={members}", "split.valid_fold=${seed}")
        command("toxfusion.train", "-m", *changes, *inner, *common)


def of_folds(runs: Path) -> pd.DataFrame:
    """One row a method: mean and deviation over folds of Harrell's C, mean Uno's C and integrated Brier score."""
    by_method = []
    for method in sorted(p for p in runs.iterdir() if p.is_dir()):
        tables = [read(done.with_name("predictions.parquet")) for done in sorted(method.glob("*/done.json"))]
        if not tables:
            continue
        tested = pool(tables)
        tested = tested[tested["label"].notna()]
        scores = pd.DataFrame([_scores(fold) for _, fold in tested.groupby("fold")])
        by_method.append(
            {
                "method": method.name,
                "folds": len(scores),
                "runs": len(tables),
                "Harrell C": scores["harrell"].mean(),
                "SD over folds": scores["harrell"].std(),
                "Uno C": scores["uno"].mean(),
                "integrated Brier": scores["brier"].mean(),
            }
        )
    return pd.DataFrame(by_method).sort_values("Harrell C", ascending=False)


def _scores(fold: pd.DataFrame) -> dict[str, float]:
    time, event, risk = (fold[c].to_numpy() for c in ("label", "event", "score"))
    one = np.zeros(len(fold), np.int64)
    harrell, uno = (
        float(concordance_statistic(time, event, risk, weight, one, 1)(np.ones((1, 1)))[0])
        for weight in (event, fold["uno_weight"].to_numpy())
    )
    terms = fold["brier_term"] if "brier_term" in fold else pd.Series(np.nan, index=fold.index)
    return {"harrell": harrell, "uno": uno, "brier": float(terms.mean(skipna=False))}


def write_document(cohorts: list[Cohort], arguments: argparse.Namespace) -> None:
    """The tables of every cohort, with what is missing said by the comparison."""
    blocks = [
        "# Survival of TCGA patients from expression\n\n"
        f"Written by `python benchmarks/tcga.py {' '.join(s.name for s in arguments.sources)} "
        f"--members {arguments.members} --methods {' '.join(arguments.methods)}`.\n\n"
        f"A network is the mean of the log risks of {arguments.members} networks. Each chose its step on another inner "
        "fold of the training patients. Baselines are fitted on all of them. Their penalties are chosen by five inner "
        "folds, and that of the forest by out-of-bag C. Cox networks have no survival curve, so they have no Brier "
        "score.\n\n"
        "Settings of the networks (conf/size/survival.yaml, conf/experiment/survival_snn.yaml) come from inner "
        "cross-validation within the training parts of the bladder and liver cohorts, pooled over folds. Weight decay "
        "and the number of steps are from judgement. Every patient of these two is in the training part of some fold. "
        "So this is not strictly nested. A cohort that had no part in it is the cleaner test."
    ]
    for cohort in cohorts:
        runs, output = arguments.output / "runs" / cohort.name, arguments.output / "comparison" / cohort.name
        reference = next(m for m in (*BASELINES, *NETWORKS) if (runs / m).is_dir())
        command("toxfusion.compare", f"runs={runs}", f"reference={reference}", f"output={output}")
        endpoint = (
            "disease-specific, published folds" if cohort.published else "overall, five folds of patients"
        )
        table = of_folds(runs)
        lines = [
            ["-" if v != v else f"{v:.3f}" if isinstance(v, float) else str(v) for v in line]
            for line in table.itertuples(index=False)
        ]
        pooled = (output / "comparison.md").read_text().strip()
        blocks += [f"## {cohort.name}: {endpoint}", markdown_table(list(table.columns), lines), pooled]
    arguments.document.write_text("\n\n".join(blocks) + "\n")
    print(f"written: {arguments.document}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", type=Path, nargs="+", help="folders of SurvPath's form, or tables")
    parser.add_argument("--output", type=Path, default=Path("survival"))
    parser.add_argument(
        "--signatures", type=Path, help="gene sets of tables; default: those of the first folder"
    )
    parser.add_argument("--members", type=int, default=5, help="inner folds, and networks averaged")
    parser.add_argument("--jobs", type=int, default=2, help="cells trained side by side, one thread each")
    parser.add_argument(
        "--methods", nargs="+", choices=(*BASELINES, *NETWORKS), default=[*BASELINES, *NETWORKS]
    )
    parser.add_argument("--document", type=Path, default=Path("docs/survival.md"))
    arguments = parser.parse_args()
    for source in arguments.sources:
        if not source.exists():
            raise SystemExit(f"error: {source}: no such folder or table")
    folders = [s for s in arguments.sources if s.is_dir()]
    signatures = arguments.signatures or (cohort_of(folders[0], None).signatures if folders else None)
    cohorts = [cohort_of(source, signatures) for source in arguments.sources]
    for cohort in cohorts:
        run_cohort(cohort, arguments)
    write_document(cohorts, arguments)


if __name__ == "__main__":
    main()
