"""Whether values are raw counts, logarithms, or counts scaled to one total."""

from __future__ import annotations

import numpy as np

#: above this no log2 value of an array or of sequencing lies
LARGEST_LOG2 = 40.0
#: fewer genes than these do not tell whole logarithms from counts
FEW_GENES = 10
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
