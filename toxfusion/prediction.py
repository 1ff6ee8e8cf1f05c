"""From a trained network to predictions and embeddings: every sample once, whatever the number of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist

from toxfusion.data.datamodule import FoldData, StudyDataModule
from toxfusion.distributed import world_size
from toxfusion.evaluation.predictions import describe_units, rows
from toxfusion.models.network import Network
from toxfusion.modules.finetuning import FinetuningModule


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
    scores = module.score_samples(
        torch.from_numpy(outputs.fused[outputs.rows_of(sample_ids)]),
        compound=obs["compound"].astype(str).tolist(),
        group=obs["group_id"].astype(str).tolist(),
        is_control=obs["is_control"].to_numpy(dtype=bool),
    )
    make_rows = partial(rows, part=part, fold=fold.split.fold, seed=seed)
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
    return pd.concat(tables, ignore_index=True)


def write_embeddings(fold: FoldData, outputs: SampleOutputs, path: Path) -> None:
    """Fused vectors as an AnnData that scanpy opens: obs of the study, the part, and the gate of each sample."""
    import anndata

    part = fold.split.part_of()
    obs = fold.study.obs.loc[outputs.sample_ids].copy()
    obs["part"] = [part.get(s, "") for s in outputs.sample_ids]
    for column in obs.columns:
        if obs[column].dtype == object or isinstance(obs[column].dtype, pd.StringDtype):
            obs[column] = pd.Categorical(obs[column].astype(str))
    obs["gate_slide"], obs["gate_expression"] = outputs.gate[:, 0], outputs.gate[:, 1]
    table = anndata.AnnData(X=outputs.fused, obs=obs)
    for name in ("slide_shared", "expression_shared"):
        values = getattr(outputs, name)
        if values.shape[1]:
            table.obsm[name] = values
    part_file = path.with_name(f".{path.name}")
    table.write_h5ad(part_file)
    part_file.replace(path)
