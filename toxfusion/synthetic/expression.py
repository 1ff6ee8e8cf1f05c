"""The array: latents to log2 intensities, with animal factors, plates, experiments and each compound's own response."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from toxfusion.synthetic.axes import AXES
from toxfusion.synthetic.cohort import Compounds, Latents
from toxfusion.synthetic.genes import FACTOR_SHARE, FACTORS, LEVEL_RANGE, GeneCatalogue, gene_catalogue
from toxfusion.synthetic.randomness import stream

PLATE_SD, EXPERIMENT_SD, ARRAY_OFFSET_SD = 0.12, 0.08, 0.08
RESPONSE_LOG_SD, UNRESPONSIVE_SHARE = 0.45, 0.15
OWN_GENES, OWN_SD = 40, 0.7
VISIBILITY_SCALE = {0.0: 0.0, 1.0: 0.4, 1.5: 0.55, 2.0: 0.7, 2.5: 0.85, 3.0: 1.0}
"""Factor on a programme by the axis' visibility in expression."""
ANOREXIA_SHIFT = 0.5


def response(seed: int, index: int, catalogue: GeneCatalogue) -> tuple[np.ndarray, np.ndarray]:
    """How the genes of one compound answer: factors [A, G] on the programmes, and changes [G] of no axis.

    Genes of a programme answer by factors with log-SD `RESPONSE_LOG_SD`, some not at all; about `OWN_GENES` genes
    change with dose for reasons of the compound's own.
    """
    rng = stream(seed, "response", index)
    shape = (len(AXES), len(catalogue))
    factor = np.exp(RESPONSE_LOG_SD * rng.standard_normal(shape)) * (rng.random(shape) >= UNRESPONSIVE_SHARE)
    own = np.where(rng.random(len(catalogue)) < OWN_GENES / len(catalogue), OWN_SD, 0.0)
    return factor, own * rng.standard_normal(len(catalogue))


def measure_expression(
    seed: int,
    compounds: Compounds,
    latents: Latents,
    times_h: Sequence[float],
    batches: np.ndarray,
    rats: np.ndarray,
) -> np.ndarray:
    """float32 [n, G] log2 intensities like RMA's.

    Args:
        batches: int [C, T], the array plate.
        rats: int [n, 4], position in compounds, times, dose levels and rats of the group.
    """
    catalogue = gene_catalogue()
    n_genes = len(catalogue)
    scale = np.array([VISIBILITY_SCALE[axis.expression] for axis in AXES])[:, None]
    residual = catalogue.sd * np.sqrt(1 - FACTOR_SHARE)
    plates = {
        int(b): PLATE_SD * stream(seed, "plate", int(b)).standard_normal(n_genes) for b in np.unique(batches)
    }
    feeding = FACTORS.index("feeding")
    out = np.empty((len(rats), n_genes), np.float32)
    for c, index in enumerate(compounds.index):
        factor, own = response(seed, int(index), catalogue)
        programme = catalogue.programme * scale * factor
        experiment = EXPERIMENT_SD * stream(seed, "experiment", int(index)).standard_normal(n_genes)
        for sample in np.flatnonzero(rats[:, 0] == c):
            _, t, level, rat = (int(v) for v in rats[sample])
            dose = latents.dose_fraction[c, level]
            rng = stream(seed, "array", int(index), round(times_h[t] * 60), level, rat)
            factors = rng.standard_normal(len(FACTORS))
            factors[feeding] += ANOREXIA_SHIFT * dose
            noise = residual * rng.standard_normal(n_genes) + ARRAY_OFFSET_SD * rng.standard_normal()
            value = catalogue.level + experiment + plates[int(batches[c, t])] + own * dose / (dose + 0.3)
            value = value + latents.activity[c, t, level, rat] @ programme
            out[sample] = np.clip(value + catalogue.factor_loadings @ factors + noise, *LEVEL_RANGE)
    return out
