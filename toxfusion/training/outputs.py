"""From a trained network to predictions and embeddings: every sample once, whatever the number of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist

from toxfusion.data.datamodule import FoldData, StudyDataModule
from toxfusion.distributed.ranks import world_size
from toxfusion.evaluation.predictions import describe_units, rows
from toxfusion.evaluation.survival import curve_on_grid, survival_columns
from toxfusion.models.network import Network
from toxfusion.tasks.tasks import measured_as
from toxfusion.training.finetuning import FinetuningModule


@dataclass(frozen=True)
class SampleOutputs:
    """What the network says of samples, in the order of ``sample_ids``.

    Attributes:
        fused: float32 [n, W], the fused vector.
        gate: float32 [n, 2], weights of slide and expression, summing to 1.
        slide_shared, expression_shared: float32 [n, S]; NaN rows where the modality is absent.
    """

    sample_ids: list[str]
    fused: np.ndarray
    gate: np.ndarray
    slide_shared: np.ndarray
    expression_shared: np.ndarray

    def rows_of(self, sample_ids: Sequence[str]) -> np.ndarray:
        where = {s: i for i, s in enumerate(self.sample_ids)}
        return np.array([where[s] for s in sample_ids], dtype=np.int64)

    def of(self, sample_ids: Sequence[str]) -> SampleOutputs:
        """The outputs of some of the samples, in the order given."""
        rows = self.rows_of(sample_ids)
        arrays = (self.fused, self.gate, self.slide_shared, self.expression_shared)
        return SampleOutputs(list(sample_ids), *(array[rows] for array in arrays))


@torch.inference_mode()
def encode_samples(
    network: Network, data: StudyDataModule, sample_ids: Sequence[str], device: torch.device
) -> SampleOutputs:
    """Run the network on all tiles of the samples, shared over ranks, gathered without doubles."""
    network.eval().to(device)
    found: dict[str, list[np.ndarray]] = {}
    for batch in data.loader(sample_ids):
        out = network(batch.to(device))
        parts = [out.fused.vector, out.fused.gate]
        for shared, present in (
            (out.slide_shared, batch.has_slide),
            (out.expression_shared, batch.has_expression),
        ):
            values = out.fused.vector.new_zeros(len(batch), 0) if shared is None else shared.clone()
            values[~present.to(device)] = float("nan")
            parts.append(values)
        arrays = [p.float().cpu().numpy() for p in parts]
        for i, sample in enumerate(batch.sample_ids):
            found[sample] = [a[i] for a in arrays]
    if world_size() > 1:
        everyone: list[dict[str, list[np.ndarray]]] = [{} for _ in range(world_size())]
        dist.all_gather_object(everyone, found)
        found = {sample: values for share in everyone for sample, values in share.items()}
    columns = [np.stack([found[s][k] for s in sample_ids]) for k in range(4)]
    return SampleOutputs(list(sample_ids), *columns)


def predictions_table(
    module: FinetuningModule,
    fold: FoldData,
    outputs: SampleOutputs,
    *,
    part: str,
    sample_ids: Sequence[str],
    seed: int,
) -> pd.DataFrame:
    """Scores of one part for every task, one row a unit."""
    tables = []
    obs = fold.study.obs.loc[list(sample_ids)]
    labels = {k: v[[fold.row(s) for s in sample_ids]].numpy() for k, v in fold.labels.items()}
    scores = _scores(module, fold, outputs, sample_ids)

    def make_rows(units: pd.DataFrame, *, task: str, **columns: Any) -> pd.DataFrame:
        where: dict[str, Any] = {"part": part, "fold": fold.split.fold, "seed": seed}
        return rows(units, task=task, **measured_as(task), **where, **columns)

    treated = obs[~obs["is_control"].astype(bool)]
    for task, level in (("dili", "compound"), ("injury", "group")):
        if task in scores and len(treated):
            column = "compound" if level == "compound" else "group_id"
            known = treated[task].groupby(treated[column].astype(str)).first()
            units = describe_units(treated, level)
            tables.append(
                make_rows(units, task=task, level=level, label=known, score=pd.Series(scores[task]))
            )
    units = describe_units(obs, "sample").loc[list(sample_ids)]
    for i, task in enumerate(fold.tasks.lesion_tasks):
        label, score = labels["lesions"][:, i], scores["lesions"][:, i]
        tables.append(make_rows(units, task=task, level="sample", label=label, score=score))
    if "severity" in scores:
        tables.append(
            make_rows(
                units, task="severity", level="sample", label=labels["severity"], score=scores["severity"]
            )
        )
    if fold.tasks.survival is not None:
        time, event = labels["survival"].T.astype(np.float64)
        curve = None
        if "survival_curve" in scores:
            edges = np.array(fold.tasks.survival.edges)
            curve = curve_on_grid(edges, fold.tasks.survival.horizon, scores["survival_curve"])
        tables.append(
            make_rows(
                units,
                task="survival",
                level="sample",
                label=time,
                score=scores["survival"],
                optional=survival_columns(fold.tasks.survival, time, event, curve),
            )
        )
    for i, task in enumerate(fold.tasks.subtype_tasks):
        of_class = labels["subtype"]
        label, score = np.where(np.isnan(of_class), np.nan, of_class == i), scores["subtype"][:, i]
        tables.append(make_rows(units, task=task, level="sample", label=label, score=score))
    for i, task in enumerate(fold.tasks.biochemistry_tasks):
        label, score = labels["biochemistry"][:, i], scores["biochemistry"][:, i]
        tables.append(make_rows(units, task=task, level="sample", label=label, score=score))
    return pd.concat(tables, ignore_index=True)


def _scores(
    module: FinetuningModule, fold: FoldData, outputs: SampleOutputs, sample_ids: Sequence[str]
) -> dict[str, Any]:
    obs = fold.study.obs.loc[list(sample_ids)]
    return module.score_samples(
        torch.from_numpy(outputs.fused[outputs.rows_of(sample_ids)]),
        compound=obs["compound"].astype(str).tolist(),
        group=obs["group_id"].astype(str).tolist(),
        is_control=obs["is_control"].to_numpy(dtype=bool),
    )


def survival_curves(module: FinetuningModule, fold: FoldData, outputs: SampleOutputs) -> pd.DataFrame | None:
    """S at the ends of the time bins, one row a sample and bin; None without discrete survival.

    Returns:
        Columns sample_id, time (the last bin ends at the horizon, or is open where that lies in an earlier one:
        infinity) and survival, the probability of no event up to that time.
    """
    survival = fold.tasks.survival
    if survival is None or survival.method != "discrete":
        return None
    curve = _scores(module, fold, outputs, outputs.sample_ids)["survival_curve"]
    end = survival.horizon if survival.horizon > survival.edges[-1] else np.inf
    times = np.array([*survival.edges, end])
    return pd.DataFrame(
        {
            "sample_id": np.repeat(outputs.sample_ids, len(times)),
            "time": np.tile(times, len(curve)),
            "survival": curve.ravel(),
        }
    )


def write_survival_curves(
    module: FinetuningModule, fold: FoldData, outputs: SampleOutputs, path: Path
) -> None:
    """`survival_curves` as parquet, at once or not at all; nothing without discrete survival."""
    table = survival_curves(module, fold, outputs)
    if table is not None:
        part_file = path.with_name(f".{path.name}")
        table.to_parquet(part_file, index=False)
        part_file.replace(path)


def write_embeddings(fold: FoldData, outputs: SampleOutputs, path: Path) -> None:
    """Fused vectors as an AnnData that scanpy opens.

    obs holds the columns of the study, the part, which modalities the run read of a sample, and its gate.
    """
    import anndata

    part = fold.split.part_of()
    obs = fold.study.obs.loc[outputs.sample_ids].copy()
    obs["part"] = [part.get(s, "") for s in outputs.sample_ids]
    for column in obs.columns:
        if obs[column].dtype == object or isinstance(obs[column].dtype, pd.StringDtype):
            obs[column] = pd.Categorical(obs[column].astype(str))
    obs["has_slide"] = [fold.has_slide(s) for s in outputs.sample_ids]
    obs["has_expression"] = [fold.has_expression(s) for s in outputs.sample_ids]
    obs["gate_slide"], obs["gate_expression"] = outputs.gate[:, 0], outputs.gate[:, 1]
    table = anndata.AnnData(X=outputs.fused, obs=obs)
    for name in ("slide_shared", "expression_shared"):
        values = getattr(outputs, name)
        if values.shape[1]:
            table.obsm[name] = values
    part_file = path.with_name(f".{path.name}")
    table.write_h5ad(part_file)
    part_file.replace(path)
