"""Readings of the survival benchmark on one fold: baselines cohort by cohort, the pooled shadow, trained networks.

Every method gives the same readings: of each test patient the risk, the weight of its pairs in Uno's C and its term of
the integrated Brier score, all with the censoring of the training patients of its cohort.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import torch
from torch import nn

from toxfusion.baselines.blocks import BaselineSettings, Block
from toxfusion.baselines.plain import fit_baseline, reduced
from toxfusion.data.clinical import ClinicalColumns
from toxfusion.data.datamodule import FoldData
from toxfusion.data.expression import ExpressionTransform
from toxfusion.data.sample_groups import SampleGroups
from toxfusion.evaluation.survival import even_grid, harrell_c, survival_columns
from toxfusion.models.heads import SurvivalHead
from toxfusion.models.predictor import read_by_heads
from toxfusion.objectives.survival import CoxEfron
from toxfusion.runs.loaded import load_own_study, load_run
from toxfusion.study.audit import Audit
from toxfusion.study.split import Split
from toxfusion.study.study import Study
from toxfusion.tasks.survival import Survival
from toxfusion.tasks.task_set import TaskSet
from toxfusion.training.folder import RunFolder
from toxfusion.training.head_start import HeadRidge, solve_heads

COMPONENTS = 30
POOLED_COMPONENTS = 200
POOLED_C = (0.01, 0.003, 0.001, 0.0003, 0.0001)
"""Strength of the pooled ridge, from which validation patients choose; see `HeadRidge`."""
CLIP = 5.0
KEPT = ["sample_id", "cohort", "time", "event", "score", "uno_weight", "brier_term"]


def of_cohorts(
    study: Study, part: pd.Series, method: str, clinical: Sequence[str], seed: int = 0
) -> pd.DataFrame:
    """A baseline of the package, fitted in each cohort alone on all its training patients.

    Args:
        part: sample_id -> train, valid or test, of one fold.
        method: of `fit_baseline`. clinical: columns that it reads.
    """
    tables = []
    for cohort in sorted(set(study.obs["batch"])):
        own = _alone(study, cohort)
        parts = part.reindex(own.obs.index)
        train, test = (own.obs.index[parts.isin(of)].tolist() for of in (["train", "valid"], ["test"]))
        tasks = TaskSet([Survival("cox")]).fit(own, train, Audit())
        expression = None
        if method.startswith(("pca", "genes")):
            expression = ExpressionTransform.fit(own, train, n_genes=None, reference="none", clip=CLIP)
        columns = ClinicalColumns.fit(own, train, clinical) if clinical else None
        fold = FoldData(
            own,
            Split(train, [], test, 0, {}),
            tasks.labels(own, own.sample_ids),
            store=None,
            expression=expression,
            scaler=None,
            seed=seed,
            clinical=columns,
        )
        predictions = fit_baseline(
            method, fold, tasks, seed=seed, settings=BaselineSettings(n_components=COMPONENTS)
        )
        tables.append(
            predictions.rename(columns={"unit_id": "sample_id", "label": "time", "batch": "cohort"})[KEPT]
        )
    return pd.concat(tables, ignore_index=True)


def _alone(study: Study, cohort: str) -> Study:
    """The patients of one cohort as a study."""
    mine = (study.obs["batch"] == cohort).to_numpy()
    obs = study.obs[mine]
    return replace(
        study,
        obs=obs,
        expression=study.expression[mine],
        findings=study.findings[mine],
        slides=study.slides[study.slides["sample_id"].isin(obs.index)],
    )


def pooled(study: Study, part: pd.Series, clinical: Sequence[str]) -> pd.DataFrame:
    """The linear shadow of the network: one ridge Cox on components of all cohorts, each with its baseline hazard.

    The weights of a cohort deviate from the common ones under the same penalty, as with ``heads_by``. Expression is
    standardised within the cohort, and the penalty chosen by validation patients; then it is fitted anew on training
    and validation patients together.
    """
    obs, within = study.obs, {"column": "batch", "unseen": "refuse"}
    parts = part.reindex(obs.index)
    train, every = (obs.index[parts.isin(of)].tolist() for of in (["train"], ["train", "valid"]))
    task = Survival("cox", strata="batch")
    label = torch.from_numpy(task.labels(study, study.sample_ids))

    def read(fit_on: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        transform = ExpressionTransform.fit(
            study, fit_on, n_genes=None, reference="none", clip=CLIP, within=within, scaling="normal_scores"
        )
        genes = Block(transform.transform(study, study.sample_ids).astype(np.float64), reduce=True)
        components = reduced(genes, study.positions(fit_on), POOLED_COMPONENTS, 0)
        columns = np.zeros((len(obs), 0))
        if clinical:
            columns = ClinicalColumns.fit(study, fit_on, clinical, within=within).encode(study)
        membership = SampleGroups.fit(study, fit_on, "batch").membership(study)
        return (
            torch.from_numpy(components).float(),
            torch.from_numpy(columns).float(),
            torch.from_numpy(membership).float(),
        )

    def risks(
        of: tuple[torch.Tensor, torch.Tensor, torch.Tensor], fit_on: Sequence[str], c: float
    ) -> np.ndarray:
        return ridge_risks(label, *of, study.positions(fit_on), c)

    first = read(train)
    scores = [mean_c(obs, parts, risks(first, train, c), "valid") for c in POOLED_C]
    best = POOLED_C[int(np.argmax(scores))]
    return readings(obs, parts, risks(read(every), every, best))


def ridge_risks(
    label: torch.Tensor,
    vectors: torch.Tensor,
    columns: torch.Tensor,
    membership: torch.Tensor,
    fitted: np.ndarray,
    c: float,
    clinical_c: float = 1.0,
) -> np.ndarray:
    """Log risks of the head that solves the Cox loss of some patients under `HeadRidge`.

    Args:
        label: float32 [n, 3], time, event and stratum.
        vectors, columns, membership: float32 [n, W], [n, C] and [n, K], as `read_by_heads` takes them.
        fitted: int64 [m], patients that it is fitted on.
        c, clinical_c: strength of the penalty, as ``optimizer.head_c`` and ``optimizer.clinical_c``.

    Returns:
        float64 [n].
    """
    read = read_by_heads(vectors, columns, membership)
    torch.manual_seed(0)  # a log risk is known but for a constant
    heads = nn.ModuleDict({"survival": SurvivalHead(read.shape[1], None, dropout=0.0)})
    ridge = HeadRidge.of(
        vectors[fitted],
        {"survival": len(fitted)},
        {"survival": c},
        n_clinical=columns.shape[1],
        n_groups=membership.shape[1],
        clinical_c=clinical_c,
    )
    cox, (time, event, stratum) = CoxEfron(), label[fitted].unbind(1)

    def loss() -> torch.Tensor:
        return cox(heads["survival"](read[fitted]), time, event, stratum) + ridge(heads)["survival"]

    solve_heads(heads, loss)
    with torch.no_grad():
        return heads["survival"](read).double().numpy()


def mean_c(obs: pd.DataFrame, part: pd.Series, risk: np.ndarray, name: str) -> float:
    """Harrell's C of one part, the mean over cohorts."""
    cs = []
    for cohort in sorted(set(obs["batch"])):
        own = ((obs["batch"] == cohort) & (part == name)).to_numpy()
        time, event = (obs[c].to_numpy(np.float64)[own] for c in ("survival_time", "event"))
        cs.append(harrell_c(time, event, risk[own]).value)
    return float(np.nanmean(cs))


def trained(folder: Path, part: pd.Series) -> pd.DataFrame:
    """The readings of a finished run of a network that fine-tuning left as pretraining had made it.

    Its head is solved anew on training and validation patients together, under the penalty of the run, as baselines
    learn from both.
    """
    run = load_run(RunFolder(folder), *load_own_study(RunFolder(folder)))
    table = anndata.read_h5ad(folder / "embeddings.h5ad")
    ids, optimizer = table.obs_names.tolist(), run.settings.optimizer
    batch = run.fold.batch(ids, stage="evaluate", tiles_per_bag=1)
    nothing = torch.zeros(len(ids), 0)
    columns, membership = (nothing if of is None else of for of in (batch.clinical, batch.head_membership))
    (strength,) = optimizer.head_c or ()  # experiment=survival names one
    fitted = np.flatnonzero(part.reindex(ids).isin(["train", "valid"]))
    vectors = torch.from_numpy(np.asarray(table.X, np.float32))
    risk = ridge_risks(
        batch.labels["survival"],
        vectors,
        columns,
        membership,
        fitted,
        strength,
        optimizer.clinical_c,
    )
    obs = run.fold.study.obs
    return readings(
        obs, part.reindex(obs.index), pd.Series(risk, ids).reindex(obs.index).to_numpy(np.float64)
    )


def readings(obs: pd.DataFrame, part: pd.Series, risk: np.ndarray) -> pd.DataFrame:
    """Test patients of a log risk; survival curves by Breslow's estimate in the training patients of the cohort.

    Args:
        risk: float [n], of every patient of training and test; NaN of one who lacks what the row reads and is no part
            of the estimate.
    """
    tables = []
    for cohort in sorted(set(obs["batch"])):
        mine = (obs["batch"] == cohort).to_numpy()
        train, test = (mine & part.isin(of).to_numpy() for of in (["train", "valid"], ["test"]))
        train &= np.isfinite(risk)
        time, event = (obs[c].to_numpy(np.float64) for c in ("survival_time", "event"))
        end = float(time[train & (event == 1)].max())
        times = even_grid(end)
        hazard = breslow(time[train], event[train], risk[train])(times)
        curve = np.exp(-hazard[None, :] * np.exp(risk[test])[:, None])
        columns = survival_columns(time[train], event[train], end, time[test], event[test], (times, curve))
        about = {"sample_id": obs.index[test], "cohort": cohort, "time": time[test], "score": risk[test]}
        tables.append(pd.DataFrame({**about, **columns})[KEPT])
    return pd.concat(tables, ignore_index=True)


def breslow(time: np.ndarray, event: np.ndarray, risk: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The cumulative baseline hazard: sum over events up to t of 1 / (sum of e^risk at risk) (Breslow 1972)."""
    order = np.argsort(time, kind="stable")
    at_risk = np.cumsum(np.exp(risk[order])[::-1])[::-1]
    first = np.searchsorted(time[order], time[order], side="left")
    cumulative = np.append(0.0, np.cumsum(event[order] / at_risk[first]))
    return lambda at: cumulative[np.searchsorted(time[order], at, side="right")]
