"""Explanations against what a virtual study has planted: lesion tiles by their mask, genes by their programme.

Reads ``truth/`` of a study that the generator wrote; nothing here is used by a model.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, roc_auc_score

from toxfusion.study.study import Study
from toxfusion.study.vocabulary import LESION_PREFIX
from toxfusion.synthetic.axes import AXES
from toxfusion.synthetic.labels import TERMS
from toxfusion.synthetic.slide_spec import MASK_MPP, PHENOTYPES

LEAST_SHARE = 0.02
"""A tile shows a lesion where the mask marks this share of it: of a tile of 112 um, about half a hepatocyte."""
SEVERE, ACTIVE = 1.0, 0.3
"""Least severity on the slide, and least activity of a programme, of the animals that an axis is measured on."""
FALLBACK_TASKS = ("severity", "injury", "dili")


class TruthError(ValueError):
    """A study without planted truth, or a mask that is not there."""


def axis_phenotypes() -> dict[str, tuple[str, ...]]:
    """Axis -> what it shows in the slide; axes that show nothing are left out."""
    return {a.name: tuple(e.phenotype for e in a.effects) for a in AXES if a.effects}


def task_of_axis(axis: str, tasks: Sequence[str]) -> str:
    """The task of a run that asks for the axis: the finding of its first phenotype, else what findings make together.

    Raises:
        TruthError: the run has neither.
    """
    phenotypes = axis_phenotypes().get(axis, ())
    own = [
        LESION_PREFIX + term
        for phenotype in phenotypes[:1]
        for term, shown in TERMS.items()
        if phenotype in shown and LESION_PREFIX + term in tasks
    ]
    candidates = [*own, *(t for t in FALLBACK_TASKS if t in tasks)]
    if not candidates:
        raise TruthError(
            f"axis {axis}: none of the tasks {list(tasks)} asks for it, nor severity, injury or DILI"
        )
    return candidates[0]


def lesion_shares(study: Study, tiles: pd.DataFrame) -> pd.DataFrame:
    """Share of each tile that the mask marks, phenotype by phenotype.

    Args:
        tiles: of `regions.tile_places`.

    Returns:
        float64 [T, phenotypes], the index of ``tiles``.

    Raises:
        TruthError: a slide has no mask.
    """
    shares = np.zeros((len(tiles), len(PHENOTYPES)))
    for slide, places in tiles.groupby("slide_id").indices.items():
        bits = lesion_mask(study, str(slide))
        for i in places:
            tile = tiles.iloc[i]
            scale = float(tile["mpp0"]) / MASK_MPP
            x, y, side = (float(tile[c]) * scale for c in ("x", "y", "side"))
            under = bits[
                round(y) : max(round(y + side), round(y) + 1), round(x) : max(round(x + side), round(x) + 1)
            ]
            shares[i] = [(under >> k & 1).mean() if under.size else 0.0 for k in range(len(PHENOTYPES))]
    return pd.DataFrame(shares, index=tiles.index, columns=list(PHENOTYPES))


def lesion_mask(study: Study, slide_id: str) -> np.ndarray:
    """The planted lesions of a slide at `MASK_MPP`; bit k stands for ``PHENOTYPES[k]``.

    Raises:
        TruthError: there is no mask.
    """
    path = study.root / "truth" / "masks" / f"{slide_id}.png"
    bits = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if bits is None:
        raise TruthError(f"{path}: no lesion mask; synthesize the study with slides to measure localisation")
    return bits


def localisation(score: np.ndarray, lesion: np.ndarray) -> dict[str, float]:
    """How well a tile score finds the lesion tiles of one slide.

    Args:
        score: float [T]. lesion: bool [T], both kinds of tile among them.

    Returns:
        auroc; average_precision; pointing: whether the tile with the highest score shows the lesion (the share of such
        tiles where several are highest); prevalence, which average precision and pointing have by chance.
    """
    return {
        "auroc": float(roc_auc_score(lesion, score)),
        "average_precision": float(average_precision_score(lesion, score)),
        "pointing": float(lesion[score == score.max()].mean()),
        "prevalence": float(lesion.mean()),
    }


def severe_samples(study: Study, axis: str, sample_ids: Sequence[str]) -> list[str]:
    """Treated animals among the samples whose slide shows the axis' first phenotype from severity `SEVERE` up."""
    column = f"slide:{axis_phenotypes()[axis][0]}"
    return _treated_from(study, column, SEVERE, sample_ids)


def active_samples(study: Study, axis: str, sample_ids: Sequence[str]) -> list[str]:
    """Treated animals among the samples whose programme of the axis is active from `ACTIVE` up."""
    return _treated_from(study, f"activity:{axis}", ACTIVE, sample_ids)


def seen_in(study: Study, sample_ids: Sequence[str]) -> pd.Series:
    """Where what a treated animal has can be seen: "slide", "expression", "both" or "neither"; controls are left out.

    In the slide from severity `SEVERE` of any lesion, in expression from activity `ACTIVE` of any programme.
    """
    planted = _table(study, "animals").set_index("sample_id").reindex(list(sample_ids))
    planted = planted[~study.obs.loc[planted.index, "is_control"].astype(bool)]
    slide = planted.filter(regex="^slide:").max(axis=1) >= SEVERE
    expression = planted.filter(regex="^activity:").max(axis=1) >= ACTIVE
    where = np.select([slide & expression, slide, expression], ["both", "slide", "expression"], "neither")
    return pd.Series(where, index=planted.index)


def _treated_from(study: Study, column: str, least: float, sample_ids: Sequence[str]) -> list[str]:
    planted = _table(study, "animals").set_index("sample_id").reindex(list(sample_ids))[column]
    treated = ~study.obs.loc[list(sample_ids), "is_control"].to_numpy(bool)
    return [s for s, value, t in zip(sample_ids, planted, treated, strict=True) if t and value >= least]


def programme(study: Study, axis: str) -> set[str]:
    """Symbols of the genes that the axis moves."""
    genes = _table(study, "genes")
    return set(genes.loc[genes["axis"] == axis, "symbol"].astype(str))


def recovery(score: np.ndarray, symbols: Sequence[str], planted: set[str]) -> dict[str, float]:
    """How well a gene score (float [G], higher = more) puts the programme's genes first; NaN where none is read."""
    there = np.array([s in planted for s in symbols])
    value = float(average_precision_score(there, score)) if there.any() else float("nan")
    return {"average_precision": value, "prevalence": float(there.mean()), "n_genes": float(there.sum())}


def _table(study: Study, name: str) -> pd.DataFrame:
    """A table of the planted truth: animals, compounds, genes, lesions or slides.

    Raises:
        TruthError: the study is not of the generator.
    """
    path = study.root / "truth" / f"{name}.parquet"
    if not path.is_file():
        raise TruthError(f"{path} is missing: truth is known of a virtual study alone; synthesize one")
    return pd.read_parquet(path)
