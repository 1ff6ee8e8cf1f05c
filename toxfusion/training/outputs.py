"""From a trained network to predictions and embeddings: every sample once, whatever the number of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import torch
import torch.distributed as dist

from toxfusion.data.batch import Batch
from toxfusion.data.datamodule import FoldData, StudyDataModule
from toxfusion.distributed.ranks import world_size
from toxfusion.models.modes import evaluating, place_of
from toxfusion.models.network import Network
from toxfusion.models.predictor import Predictor, read_by_heads
from toxfusion.study.files import replacing, write_parquet
from toxfusion.tasks.task_set import TaskSet


@dataclass(frozen=True)
class SampleOutputs:
    """What the network says of samples, in the order of ``sample_ids``.

    Attributes:
        fused: float32 [n, W], the fused vector.
        gate: float32 [n, 2], weights of slide and expression, summing to 1.
        slide_shared, expression_shared: float32 [n, S], in common; NaN rows where a modality is absent.
        slide_private, expression_private: float32 [n, R], of each alone, likewise.
        clinical: float32 [n, C], what heads read beside the fused vector; C is 0 where the run reads no such columns.
        membership: float32 [n, K], groups in which heads may deviate; K is 0 where they may not.
    """

    sample_ids: list[str]
    fused: np.ndarray
    gate: np.ndarray
    slide_shared: np.ndarray
    slide_private: np.ndarray
    expression_shared: np.ndarray
    expression_private: np.ndarray
    clinical: np.ndarray
    membership: np.ndarray

    @property
    def read(self) -> torch.Tensor:
        """What heads read, float32; see `read_by_heads`."""
        return read_by_heads(*(torch.from_numpy(of) for of in (self.fused, self.clinical, self.membership)))

    def positions(self, sample_ids: Sequence[str]) -> np.ndarray:
        """int64 [n], where these samples stand among those of the outputs."""
        where = {s: i for i, s in enumerate(self.sample_ids)}
        return np.array([where[s] for s in sample_ids], dtype=np.int64)

    def of(self, sample_ids: Sequence[str]) -> SampleOutputs:
        """The outputs of some of the samples, in the order given."""
        positions = self.positions(sample_ids)
        arrays = (
            self.fused,
            self.gate,
            self.slide_shared,
            self.slide_private,
            self.expression_shared,
            self.expression_private,
            self.clinical,
            self.membership,
        )
        return SampleOutputs(list(sample_ids), *(array[positions] for array in arrays))


@torch.no_grad()
def encode_samples(network: Network, data: StudyDataModule, sample_ids: Sequence[str]) -> SampleOutputs:
    """Run the network on all tiles of the samples, shared over ranks, gathered without doubles.

    Batches go to where the network lies; its mode, device and type stay as they are.
    """
    place = place_of(network)
    encoded: dict[str, list[np.ndarray]] = {}
    with evaluating(network):
        for stored in data.loader(sample_ids):
            batch = stored.to(*place)
            arrays = _outputs(network, batch)
            for i, sample in enumerate(batch.sample_ids):
                encoded[sample] = [a[i] for a in arrays]
    if world_size() > 1:
        everyone: list[dict[str, list[np.ndarray]]] = [{} for _ in range(world_size())]
        dist.all_gather_object(everyone, encoded)
        encoded = {sample: values for share in everyone for sample, values in share.items()}
    columns = [np.stack([encoded[s][k] for s in sample_ids]) for k in range(8)]
    return SampleOutputs(list(sample_ids), *columns)


def _outputs(network: Network, batch: Batch) -> list[np.ndarray]:
    """Arrays of `SampleOutputs` for one batch, float32 on the CPU."""
    out = network(batch)
    parts = [out.fused.vector, out.fused.gate]
    for part, present in (
        (out.slide_shared, batch.has_slide),
        (out.slide_private, batch.has_slide),
        (out.expression_shared, batch.has_expression),
        (out.expression_private, batch.has_expression),
    ):
        values = out.fused.vector.new_zeros(len(batch), 0) if part is None else part.clone()
        values[~present] = float("nan")
        parts.append(values)
    nothing = out.fused.vector.new_zeros(len(batch), 0)
    parts += [nothing if of is None else of for of in (batch.clinical, batch.head_membership)]
    return [p.float().cpu().numpy() for p in parts]


def predictions_table(
    predictor: Predictor,
    tasks: TaskSet,
    fold: FoldData,
    outputs: SampleOutputs,
    *,
    part: str,
    sample_ids: Sequence[str],
    seed: int,
) -> pd.DataFrame:
    """Scores of one part for every task, one row a unit."""
    positions = fold.study.positions(sample_ids)
    return tasks.predictions(
        predictor,
        outputs.read[outputs.positions(sample_ids)],
        fold.study.obs.loc[list(sample_ids)],
        {name: of_all[positions].numpy() for name, of_all in fold.labels.items()},
        part=part,
        fold=fold.split.fold,
        seed=seed,
    )


def survival_curves(predictor: Predictor, tasks: TaskSet, outputs: SampleOutputs) -> pd.DataFrame | None:
    """Survival over time, see ``toxfusion.tasks.task.Task.curves``; None where no task has such curves."""
    return tasks.curves(predictor, outputs.read, outputs.sample_ids)


def write_survival_curves(predictor: Predictor, tasks: TaskSet, outputs: SampleOutputs, path: Path) -> None:
    """`survival_curves` as parquet, at once or not at all; nothing where there are none."""
    table = survival_curves(predictor, tasks, outputs)
    if table is not None:
        write_parquet(table, path)


def embeddings_table(fold: FoldData, outputs: SampleOutputs) -> anndata.AnnData:
    """Fused vectors as an AnnData that scanpy opens.

    obs holds the columns of the study, the part, which modalities the run read of a sample, and its gate.
    """
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
    for name in ("slide_shared", "slide_private", "expression_shared", "expression_private"):
        values = getattr(outputs, name)
        if values.shape[1]:
            table.obsm[name] = values
    return table


def write_embeddings(fold: FoldData, outputs: SampleOutputs, path: Path) -> None:
    """`embeddings_table` as a file, at once or not at all."""
    with replacing(path) as draft:
        embeddings_table(fold, outputs).write_h5ad(draft)
