"""Studies in which an association has been broken on purpose: permuted labels and shuffled pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from toxfusion.data.sampling import generator
from toxfusion.data.splits import Split
from toxfusion.data.study import Study


def permute_labels(study: Study, seed: int, *, columns: Sequence[str] = (), chemistry: bool = False) -> Study:
    """The study with its labels permuted: DILI over compounds, injury over treated groups, findings over samples.

    Each label keeps its prevalence and its level; nothing links it to slides or expression any more.

    Args:
        columns: further labels of samples in obs, permuted together (a time stays with its event).
        chemistry: permute serum chemistry over samples too, where it is the label.
    """
    obs = study.obs.copy()
    treated = ~obs["is_control"].astype(bool)
    obs["dili"] = _permute_by(obs["dili"], obs["compound"], treated, generator(seed, "null", "dili"))
    obs["injury"] = _permute_by(obs["injury"], obs["group_id"], treated, generator(seed, "null", "injury"))
    order = generator(seed, "null", "findings").permutation(len(obs))
    findings = pd.DataFrame(
        study.findings.to_numpy()[order], index=study.findings.index, columns=study.findings.columns
    )
    measured = study.chemistry
    order = generator(seed, "null", "outcomes").permutation(len(obs))
    for column in columns:
        obs[column] = obs[column].to_numpy()[order]
    if chemistry and measured is not None:
        measured = measured.iloc[order].set_axis(measured.index)
    return replace(study, obs=obs, findings=findings, chemistry=measured)


def shuffle_pairs(study: Study, split: Split, seed: int) -> Study:
    """The study with slides dealt anew among the training and validation samples that have any; test pairs stay."""
    moving = [s for s in [*split.train, *split.valid] if study.slides_of(s)]
    dealt = generator(seed, "null", "pairs").permutation(moving)
    new_owner = dict(zip(moving, map(str, dealt), strict=True))
    slides = study.slides.copy()
    slides["sample_id"] = [new_owner.get(str(s), str(s)) for s in slides["sample_id"]]
    return replace(study, slides=slides)


def _permute_by(label: pd.Series, unit: pd.Series, treated: pd.Series, rng: np.random.Generator) -> pd.Series:
    per_unit = label[treated].groupby(unit[treated].astype(str), sort=True).first()
    known = per_unit.dropna()
    permuted = pd.Series(rng.permutation(known.to_numpy()), index=known.index).reindex(per_unit.index)
    out = label.astype(float).copy()
    out[treated] = unit[treated].astype(str).map(permuted).to_numpy(float)
    return out
