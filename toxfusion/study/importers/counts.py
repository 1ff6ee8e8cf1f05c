"""Whether values are raw counts, logarithms, or counts scaled to one total."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from toxfusion.study.audit import Audit
from toxfusion.study.names import NEAR
from toxfusion.study.tables import TableError

#: above this, and below its negative, no log2 value of an array or of sequencing lies
LARGEST_LOG2 = 40.0
#: fewer genes than these do not tell whole logarithms from counts
FEW_GENES = 10
#: where counts go over a thousand, some below it are at least this
FEW_THOUSANDS = 100
#: by how much the rounding of TPM moves the million that they sum to
MILLION_TOLERANCE = 0.01


def looks_processed(values: np.ndarray) -> str:
    """What values look like that are no raw counts, whole or not: "" for none.

    Samples that all sum to a million within one per cent are TPM or CPM (rounding loses less than that). Values that
    are all below any log2 value of expression are logarithms where one is not whole; whole ones where half of those
    above 0 are above 2 in ten genes or more, which counts of so little depth never are.

    Args:
        values: float [n_samples, n_genes], finite and not negative.
    """
    if not values.size:
        return ""
    if np.allclose(values.sum(axis=1), 1e6, rtol=MILLION_TOLERANCE):
        return "TPM or CPM, each sample the sum of a million"
    whole = bool((values == np.round(values)).all())
    if values.max() >= LARGEST_LOG2 or not values.any():
        return ""
    if not whole or (values.shape[1] >= FEW_GENES and np.median(values[values > 0]) > 2):
        return f"logarithms, none above {values.max():g}"
    return ""


def ask_of_whole(table: pd.DataFrame, path: Path | str, audit: Audit) -> None:
    """Tell of values that are taken for logarithms and are all whole: most likely counts of little depth.

    Args:
        table: float [n_samples, n_genes], NaN where missing.
    """
    values = table.to_numpy(np.float64)
    known = values[~np.isnan(values)]
    if (
        min(values.shape)
        and max(values.shape) >= FEW_GENES
        and known.any()
        and (known == np.round(known)).all()
    ):
        audit.change(
            "prepare", "expression", Path(path).name,
            f"taken for log2; {NEAR} source=counts? All of its {len(known)} values are whole numbers",
        )  # fmt: skip


def thousands_as_decimals(values: np.ndarray) -> tuple[int, int] | None:
    """Sample and gene of a count that a point for thousands made a fraction (1.234 for 1234), None where there is none.

    Then every fraction has three decimals, most of them down to the last, none is below 1, and nothing is above 999.
    Expected counts (RSEM writes two decimals, salmon three) have values on both sides.

    Args:
        values: float [n_samples, n_genes], finite and not negative.
    """
    broken = values[values != np.round(values)]
    if not broken.size or broken.min() < 1 or not FEW_THOUSANDS <= values.max() < 1000:
        return None
    in_thousands = broken * 1000
    if not np.allclose(in_thousands, np.round(in_thousands), rtol=0, atol=1e-6):
        return None
    if np.mean(np.round(in_thousands) % 10 != 0) < 0.5:
        return None
    sample, gene = np.argwhere(values != np.round(values))[0]
    return int(sample), int(gene)


def refuse_no_log2(table: pd.DataFrame, path: Path | str, instead: str) -> None:
    """Refuse values that no logarithm of expression has, marks of missing values such as -999 among them.

    Args:
        table: float [n_samples, n_genes], NaN where missing, in any order of both.
        instead: the override that reads values which are no logarithms.

    Raises:
        TableError: sample, gene and value of the largest of them are named.
    """
    values = np.nan_to_num(table.to_numpy(np.float64), nan=0.0)
    if not values.size or np.abs(values).max() <= LARGEST_LOG2:
        return
    sample, gene = divmod(int(np.abs(values).argmax()), values.shape[1])
    value = values[sample, gene]
    remedy = (
        f"use {instead}, or take the logarithm"
        if value > 0
        else "leave the cell empty where there is no value, and take log2(value + 1) of zeros"
    )
    raise TableError(
        f"{path}, sample {str(table.index[sample])!r}, gene {str(table.columns[gene])!r}, value {value:g}: is no log2 "
        f"value; {remedy}"
    )
