"""A network on a fold through its stages: pretraining, fine-tuning, and what it says of the parts in the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import lightning as L
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import Logger
from torch import Tensor

from toxfusion.data.datamodule import PositionedDataModule
from toxfusion.data.sampling import torch_seed
from toxfusion.distributed.ranks import device_of, is_rank_zero
from toxfusion.evaluation.retrieval import retrieval_table
from toxfusion.evaluation.selection import validation_score
from toxfusion.models.predictor import Predictor, read_width
from toxfusion.training.assemble import Assembled, build_terms, contract
from toxfusion.training.averaging import AveragedWeights
from toxfusion.training.choice import Score, WeightChoice
from toxfusion.training.finetuning import FinetuningModule
from toxfusion.training.folder import RunFolder
from toxfusion.training.head_start import HeadRidge, labelled_units, solve_heads
from toxfusion.training.outputs import (
    SampleOutputs,
    encode_samples,
    predictions_table,
    write_embeddings,
    write_survival_curves,
)
from toxfusion.training.pretraining import PretrainingModule
from toxfusion.training.settings import TrainerSettings
from toxfusion.training.stage import fit_stage
from toxfusion.training.validation import TaskChoice
from toxfusion.training.validation_metrics import table_metrics
from toxfusion.training.warm_start import warm_start


@dataclass(frozen=True)
class Stages:
    """How and where the stages of a run are trained."""

    folder: RunFolder
    settings: TrainerSettings
    loggers: list[Logger]
    resume: bool

    def fit(
        self,
        module: L.LightningModule,
        data: PositionedDataModule,
        *,
        stage: str,
        steps: int,
        choice: WeightChoice | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        """Train one stage, or load it where it is finished; see `fit_stage`."""
        fit_stage(
            module,
            data,
            stage=stage,
            folder=self.folder.stage(stage),
            history=self.folder.history,
            steps=steps,
            settings=self.settings,
            loggers=self.loggers,
            resume=self.resume,
            choice=choice,
            callbacks=callbacks,
        )
        module.to(device_of(self.settings.accelerator))  # Lightning leaves it on the CPU


def pretrain(of: Assembled, stages: Stages) -> None:
    """Self-supervised pretraining on training samples."""
    settings, fold = of.settings, of.fold
    if settings.pretrain.warm_start is not None:
        warm_start(
            of.network,
            of.pretraining_fold(),
            of.train,
            settings.pretrain.warm_start,
            batch_size=settings.batches.eval_batch,
            weights=of.draw_weights(),
        )
    torch.manual_seed(torch_seed(settings.seed, "pretraining"))
    module = PretrainingModule(
        of.network,
        build_terms(
            settings.pretrain.terms,
            settings.network,
            of.network,
            n_genes=fold.n_genes,
            tile_dim=fold.tile_dim,
        ),
        optimization=of.optimization(settings.optimizer.pretrain_lr, settings.pretrain.steps),
        seed=settings.seed,
        noise=settings.pretrain.noise,
        holds_linear=settings.pretrain.warm_start is not None,
    )
    stages.fit(module, of.pretraining_data(), stage="pretrain", steps=settings.pretrain.steps)


def finetune(of: Assembled, stages: Stages, choose: Callable[..., WeightChoice] = TaskChoice) -> Predictor:
    """Supervised fine-tuning; returns the predictor with the weights that are kept.

    Args:
        choose: makes what chooses them, called as `TaskChoice`.
    """
    settings, fold = of.settings, of.fold
    optimizer, steps = settings.optimizer, settings.finetune.steps
    frozen = optimizer.network_lr_share == 0
    from_scratch = settings.pretrain.steps == 0 and not frozen
    torch.manual_seed(torch_seed(settings.seed, "finetuning"))
    width = read_width(of.network.fused_width, fold.n_clinical, fold.n_head_groups)
    predictor = Predictor(of.network, of.tasks.heads(width))
    module = FinetuningModule(
        predictor,
        of.tasks,
        labels={k: v[fold.study.positions(of.train)] for k, v in fold.labels.items()},
        network_lr_share=1.0 if from_scratch else optimizer.network_lr_share,
        optimization=of.optimization(optimizer.finetune_lr, steps),
        seed=settings.seed,
        contract=contract(fold, of.tasks, of.gene_sets),
    )

    head_c = None if from_scratch else optimizer.head_c
    if head_c is not None:
        start_heads(of, module, head_c)
    choice = choose(
        stages.folder.stage("finetune") / "best.ckpt",
        settings.trainer.patience,
        place=dict(zip(of.valid, fold.study.positions(of.valid).tolist(), strict=True)),
        judge=partial(_judge, of, predictor),
    )
    if head_c is not None:
        vectors = encode(of, _in_study_order(of, of.valid)).read
        score = _judge(of, predictor, vectors)[0]
        if not math.isnan(score.value):
            choice.begin_at(score, module)
    average = []
    if optimizer.average > 0:
        average = [AveragedWeights(optimizer.average, steps, device_of(settings.trainer.accelerator))]
    data = of.finetuning_data()
    stages.fit(module, data, stage="finetune", steps=steps, choice=choice, callbacks=average)
    return predictor


def _judge(of: Assembled, predictor: Predictor, vectors: Tensor) -> tuple[Score, dict[str, Tensor]]:
    """The score of the validation part from its vectors, in the order of its samples in the study, and its metrics."""
    fold = of.fold
    samples = _in_study_order(of, of.valid)
    positions = fold.study.positions(samples)
    table = of.tasks.predictions(
        predictor,
        vectors,
        fold.study.obs.loc[samples],
        {name: of_all[positions].numpy() for name, of_all in fold.labels.items()},
        part="valid",
        fold=fold.split.fold,
        seed=of.settings.seed,
    )
    return validation_score(table), table_metrics(table, vectors.device)


def _in_study_order(of: Assembled, sample_ids: Sequence[str]) -> list[str]:
    positions = of.fold.study.positions(sample_ids)
    return [sample_ids[i] for i in positions.argsort()]


def start_heads(of: Assembled, module: FinetuningModule, c: float) -> None:
    """Put the heads at the minimum of their penalised loss on the training samples, with the network as it is."""
    outputs = encode(of, of.train)
    # Labels and codes alone are read of this batch; one tile of a bag is as good as all.
    batch = of.fold.batch(of.train, stage="evaluate", tiles_per_bag=1)
    vectors = outputs.read
    module.ridge = HeadRidge.of(
        torch.from_numpy(outputs.fused),
        labelled_units(of.tasks, batch),
        c,
        n_clinical=of.fold.n_clinical,
        n_groups=of.fold.n_head_groups,
        clinical_c=of.settings.optimizer.clinical_c,
    )
    solve_heads(module.predictor.heads, lambda: module.total(module.penalised(module.losses(vectors, batch))))


def encode(of: Assembled, sample_ids: Sequence[str]) -> SampleOutputs:
    """What the network says of samples, on all their tiles."""
    return encode_samples(of.network, of.pretraining_data(), sample_ids)


def part_predictions(
    of: Assembled, predictor: Predictor, part: str, sample_ids: Sequence[str], outputs: SampleOutputs
) -> pd.DataFrame:
    """The predictions table of some samples of one part."""
    seed = of.settings.seed
    return predictions_table(
        predictor, of.tasks, of.fold, outputs, part=part, sample_ids=sample_ids, seed=seed
    )


def held_out_predictions(
    of: Assembled, predictor: Predictor | None, folder: RunFolder
) -> pd.DataFrame | None:
    """Write embeddings and survival curves; returns the predictions of validation and test part.

    Args:
        predictor: None where nothing is predicted; there are no predictions then.
    """
    split = of.fold.split
    held_out = [*split.valid, *split.test]
    outputs = encode(of, list(dict.fromkeys([*of.train, *held_out])))
    if is_rank_zero():
        write_embeddings(of.fold, outputs, folder.embeddings)
    if predictor is None:
        return None
    if is_rank_zero():
        write_survival_curves(predictor, of.tasks, outputs.of(held_out), folder.survival_curves)
    parts = (("valid", split.valid), ("test", split.test))
    tables = [part_predictions(of, predictor, part, ids, outputs) for part, ids in parts]
    return pd.concat(tables, ignore_index=True)


def cross_modal_retrieval(of: Assembled) -> list[dict[str, Any]]:
    """Cross-modal retrieval among test samples with both modalities; empty where there are fewer than two."""
    fold = of.fold
    paired = [s for s in fold.split.test if fold.has_slide(s) and fold.has_expression(s)]
    if len(paired) < 2:
        return []
    outputs = encode(of, paired)
    groups = fold.study.obs.loc[paired, "group_id"].astype(str).to_numpy()
    table = retrieval_table(
        outputs.slide_shared, outputs.expression_shared, groups=groups, shuffles=20, seed=of.settings.seed
    )
    return [{str(k): v for k, v in record.items()} for record in table.to_dict("records")]
