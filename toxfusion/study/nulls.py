"""Associations broken on purpose: studies with permuted labels, slides dealt anew to profiles."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from toxfusion.study.draws import generator
from toxfusion.study.split import Split
from toxfusion.study.study import Study


def permute_labels(
    study: Study, split: Split, seed: int, *, columns: Sequence[str] = (), chemistry: bool = False
) -> Study:
    """The study with its labels permuted: DILI over compounds, injury over treated groups, findings over samples.

    Each label keeps its level, and its prevalence in each part of the split, of which folds are made by class: a
    permutation over all compounds would leave a fold that tests many positives with few to learn from, and a method
    that knows nothing but the prevalence of its training part would then score below chance.

    Args:
        split: labels are permuted within its train, valid and test parts.
        columns: further labels of samples in obs, permuted together (a time stays with its event).
        chemistry: permute serum chemistry over samples too, where it is the label.
    """
    obs = study.obs.copy()
    treated = ~obs["is_control"].astype(bool)
    part = pd.Series(split.part_of()).reindex(obs.index).fillna("")
    for label, unit in (("dili", "compound"), ("injury", "group_id")):
        rng = generator(seed, "null", label, split.fold)
        obs[label] = _permute_units(obs[label], obs[unit], treated, part, rng)
    order = _order_within(part, generator(seed, "null", "findings", split.fold))
    findings = pd.DataFrame(
        study.findings.to_numpy()[order], index=study.findings.index, columns=study.findings.columns
    )
    measured = study.chemistry
    order = _order_within(part, generator(seed, "null", "outcomes", split.fold))
    for column in columns:
        obs[column] = obs[column].to_numpy()[order]
    if chemistry and measured is not None:
        measured = measured.iloc[order].set_axis(measured.index)
    return replace(study, obs=obs, findings=findings, chemistry=measured)


def deal_slides(parts: Iterable[Sequence[str]], *key: int | str) -> dict[str, str]:
    """Whose slides each sample gets when pairs of slides and profiles are dealt anew.

    A sample gets the bag of another as that one has it: whoever reads the tiles refers them to the vehicle controls of
    the animal they are of. Animals, labels and references stay what they are.

    Args:
        parts: samples that have slides; each part of a split by itself, so that training sees no slide of another.
        key: what the draw depends on, such as the seed and the fold.

    Returns:
        sample -> the sample whose slides it gets, a permutation of each part.
    """
    dealt: dict[str, str] = {}
    for k, samples in enumerate(parts):
        order = generator("null", "pairs", k, *key).permutation(len(samples))
        dealt |= {sample: samples[i] for sample, i in zip(samples, order, strict=True)}
    return dealt


def _order_within(block: pd.Series, rng: np.random.Generator) -> np.ndarray:
    """Positions int64 [n], permuted within each value of ``block``."""
    order = np.arange(len(block))
    for value in sorted(block.unique()):
        members = np.flatnonzero(block.to_numpy() == value)
        order[members] = rng.permutation(members)
    return order


def _permute_units(
    label: pd.Series, unit: pd.Series, treated: pd.Series, part: pd.Series, rng: np.random.Generator
) -> pd.Series:
    """The label of each treated sample after those of units were permuted; a unit that two parts share is two."""
    key = part[treated] + "/" + unit[treated].astype(str)
    units = pd.DataFrame({"label": label[treated], "part": part[treated]}).groupby(key, sort=True).first()
    known = units[units["label"].notna()]
    order = _order_within(known["part"], rng)
    permuted = pd.Series(known["label"].to_numpy()[order], index=known.index, dtype=np.float64)
    out = label.astype(float).copy()
    out[treated] = key.map(permuted).to_numpy(float)
    return out
