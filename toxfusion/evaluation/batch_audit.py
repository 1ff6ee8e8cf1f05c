"""Whether batches can be read off vehicle controls: what a model may learn in place of toxicity.

Controls of all batches got the same treatment, so that what tells them apart is no effect of a compound.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.impute import SimpleImputer
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from toxfusion.study.bag_store import BagStore
from toxfusion.study.draws import generator
from toxfusion.study.study import Study

FOLDS = 5
MIN_CONTROLS = 3
"""Animals that a batch needs to be one of the classes."""
MAX_COMPONENTS = 20
COLUMNS = (
    "features",
    "column",
    "levels",
    "controls",
    "balanced_accuracy",
    "chance",
    "permuted",
    "p",
    "reason",
)


class BatchAuditError(ValueError):
    """A column that the study lacks."""


def batch_audit(
    study: Study, columns: Sequence[str], *, store: BagStore | None, permutations: int, seed: int
) -> pd.DataFrame:
    """Classify each batch column among vehicle controls by each kind of features.

    Features (expression; mean and deviation of tile features; log(1 + x) of serum chemistry) are averaged over the
    samples of an animal, standardised and reduced to principal components on all controls, without labels. A linear
    discriminant with equal priors predicts the column in stratified folds. Levels are permuted among animals of one
    ``time_h``, so that age, which a batch of one sacrifice time shows too, counts as no batch effect.

    Args:
        columns: of obs.
        store: tile features; None for none.
        permutations: of the levels; p is (1 + permutations at least as accurate) / (1 + permutations).
        seed: of folds and permutations.

    Returns:
        One row a kind of features and column: ``levels`` and ``controls`` (animals) that took part, ``chance`` =
        1 / levels, ``permuted`` = mean over permutations, ``reason`` why there is no number, or what was left out.

    Raises:
        BatchAuditError: an unknown column.
    """
    unknown = [c for c in columns if c not in study.obs.columns]
    if unknown:
        raise BatchAuditError(f"batch_columns: {unknown} are not among the columns of obs, {list(study.obs)}")
    kinds = {
        "expression": study.expression.astype(np.float64),
        "tiles": np.empty((len(study.obs), 0)) if store is None else _pooled(study, store),
        "chemistry": np.empty((len(study.obs), 0)) if study.chemistry is None else
        np.log1p(study.chemistry.clip(lower=0).to_numpy(np.float64)),
    }  # fmt: skip
    audits = []
    for name, values in kinds.items():
        control = study.obs["is_control"].to_numpy(bool) & ~np.isnan(values).all(axis=1)
        obs = study.obs[control]
        by_animal = pd.DataFrame(values[control]).groupby(obs["animal_id"].to_numpy()).mean()
        for column in columns:
            audited = _audit(
                by_animal, obs, column, permutations, generator(seed, "batch_audit", name, column)
            )
            audits.append({"features": name, "column": column, **audited})
    return pd.DataFrame(audits, columns=list(COLUMNS))


def _pooled(study: Study, store: BagStore) -> np.ndarray:
    """Mean and standard deviation over all tiles of a sample, float64 [n_samples, 2 D]; NaN without a bag."""
    values = np.full((len(study.obs), 2 * store.spec.row_shape[0]), np.nan)
    for i, sample in enumerate(study.obs.index):
        bags = [store.rows(slide) for slide in study.slides_of(str(sample)) if slide in store]
        if bags:
            tiles = np.concatenate(bags).astype(np.float64)
            values[i] = np.concatenate([tiles.mean(axis=0), tiles.std(axis=0)])
    return values


def _audit(
    features: pd.DataFrame, obs: pd.DataFrame, column: str, permutations: int, rng: np.random.Generator
) -> dict[str, object]:
    """The numbers of one row, or the reason why there are none; ``features`` by animal, ``obs`` by sample."""
    nothing = {"levels": 0, "controls": len(features), **dict.fromkeys(COLUMNS[4:8], np.nan)}
    if features.empty:
        return {**nothing, "reason": "no vehicle control has these features"}
    batches = obs.groupby("animal_id")[column].nunique()
    if (batches > 1).any():
        return {**nothing, "reason": f"animal {batches.idxmax()!r} is in two batches"}
    of_animal = obs.drop_duplicates("animal_id").set_index("animal_id").loc[features.index]
    level = of_animal[column].astype(object).where(of_animal[column].notna(), "").astype(str)
    sizes = level[level != ""].value_counts()
    kept = sizes.index[sizes >= MIN_CONTROLS]
    small = f"{len(sizes) - len(kept)} of {len(sizes)} levels have fewer than {MIN_CONTROLS} controls"
    if len(kept) < 2:
        reason = "fewer than two levels" if len(sizes) < 2 else f"{small}: fewer than two are left"
        return {**nothing, "levels": len(sizes), "reason": reason}
    chosen = level.isin(kept).to_numpy()
    values = features.to_numpy()[chosen]
    values = values[:, ~np.isnan(values).all(axis=0)]
    components = max(1, min(MAX_COMPONENTS, len(values) // 5, values.shape[1]))
    reduction = make_pipeline(SimpleImputer(), StandardScaler(), PCA(components, random_state=0))
    reduced = reduction.fit_transform(values)
    codes = np.unique(level[chosen], return_inverse=True)[1]
    strata = of_animal["time_h"].fillna(-1).to_numpy()[chosen]
    folds = StratifiedKFold(
        min(FOLDS, int(sizes[kept].min())), shuffle=True, random_state=int(rng.integers(2**31))
    )
    observed = _accuracy(reduced, codes, folds)
    permuted = [_accuracy(reduced, _permuted(codes, strata, rng), folds) for _ in range(permutations)]
    return {
        "levels": len(kept),
        "controls": len(values),
        "balanced_accuracy": observed,
        "chance": 1 / len(kept),
        "permuted": float(np.mean(permuted)) if permuted else np.nan,
        "p": (1 + sum(p >= observed for p in permuted)) / (1 + permutations),
        "reason": f"{small}: left out" if len(kept) < len(sizes) else "",
    }


def _accuracy(values: np.ndarray, codes: np.ndarray, folds: StratifiedKFold) -> float:
    """Mean recall of the levels, over all folds together."""
    n = int(codes.max()) + 1
    model = LinearDiscriminantAnalysis(priors=np.full(n, 1 / n))
    return float(balanced_accuracy_score(codes, cross_val_predict(model, values, codes, cv=folds)))


def _permuted(codes: np.ndarray, strata: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Codes shuffled within strata."""
    out = codes.copy()
    for stratum in np.unique(strata):
        inside = np.flatnonzero(strata == stratum)
        out[inside] = codes[rng.permutation(inside)]
    return out
