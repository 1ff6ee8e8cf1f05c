"""The study of TCGA cohorts that benchmarks share: prepared once, with folds of whole sites."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from benchmarks.command import command
from toxfusion.study.files import replace_file
from toxfusion.study.study import Study

FOLDS = 5
INNER_FOLDS = 6
SPLIT = "splits/sites.csv"
STORE = "hipt"


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

    Raises:
        SystemExit: what is there is a study of other cohorts.
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
    study = Study.open(root)
    there = sorted(set(study.obs["batch"]))
    if there != sorted(cohorts):
        raise SystemExit(
            f"error: {root} is a study of {there}, not of {list(cohorts)}; give another --output"
        )
    return study


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
