"""A network on a fold through its stages: pretraining, fine-tuning, and what it says of the parts in the end."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
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
from toxfusion.evaluation.selection import SelectionScore, standing, validation_score
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

    choice = choose(
        stages.folder.stage("finetune") / "best.ckpt",
        settings.trainer.patience,
        place=dict(zip(of.valid, fold.study.positions(of.valid).tolist(), strict=True)),
        judge=partial(_judge, of, predictor),
    )
    if optimizer.head_c is not None and not from_scratch:
        held_out = encode(of, _in_study_order(of, of.valid)).read
        chosen = start_heads(of, module, optimizer.head_c, held_out)
        score = _judge(of, predictor, held_out)[0]
        if not math.isnan(score.value):
            choice.begin_at(score, module, {"head_c": chosen})
    average = []
    if optimizer.average > 0:
        average = [AveragedWeights(optimizer.average, steps, device_of(settings.trainer.accelerator))]
    data = of.finetuning_data()
    stages.fit(module, data, stage="finetune", steps=steps, choice=choice, callbacks=average)
    return predictor


def _judge(of: Assembled, predictor: Predictor, vectors: Tensor) -> tuple[Score, dict[str, Tensor]]:
    """The score of the validation part from its vectors, in the order of its samples in the study, and its metrics."""
    table = _validation_table(of, predictor, vectors)
    return validation_score(table), table_metrics(table, vectors.device)


def _validation_table(of: Assembled, predictor: Predictor, vectors: Tensor) -> pd.DataFrame:
    """Predictions of the validation part from its vectors, in the order of its samples in the study."""
    fold = of.fold
    samples = _in_study_order(of, of.valid)
    positions = fold.study.positions(samples)
    return of.tasks.predictions(
        predictor,
        vectors,
        fold.study.obs.loc[samples],
        {name: of_all[positions].numpy() for name, of_all in fold.labels.items()},
        part="valid",
        fold=fold.split.fold,
        seed=of.settings.seed,
    )


def _in_study_order(of: Assembled, sample_ids: Sequence[str]) -> list[str]:
    positions = of.fold.study.positions(sample_ids)
    return [sample_ids[i] for i in positions.argsort()]


def start_heads(
    of: Assembled, module: FinetuningModule, strengths: Sequence[float], held_out: Tensor
) -> dict[str, float]:
    """Put the heads at the minimum of their penalised loss on the training samples, with the network as it is.

    Each task has the first strength of the penalty, unless the head under another one ranks the validation part better
    by more than the standard error of that gain.

    Args:
        held_out: float32 [n, W], what heads read of the validation samples, in the order of the study.

    Returns:
        Task -> strength, which the module keeps for fine-tuning.
    """
    outputs = encode(of, of.train)
    # Labels and codes alone are read of this batch; one tile of a bag is as good as all.
    batch = of.fold.batch(of.train, stage="evaluate", tiles_per_bag=1)
    vectors, labelled = outputs.read, labelled_units(of.tasks, batch)

    def ridge(c: Mapping[str, float]) -> HeadRidge:
        return HeadRidge.of(
            torch.from_numpy(outputs.fused),
            labelled,
            c,
            n_clinical=of.fold.n_clinical,
            n_groups=of.fold.n_head_groups,
            clinical_c=of.settings.optimizer.clinical_c,
        )

    def scores() -> dict[str, SelectionScore]:
        table = _validation_table(of, module.predictor, held_out)
        return {task.name: validation_score(table[table["task"].isin(task.names)]) for task in of.tasks}

    heads, start = module.predictor.heads, copy.deepcopy(module.predictor.heads.state_dict())
    solved, said = [], []
    for c in strengths:
        heads.load_state_dict(start)
        module.ridge = ridge(dict.fromkeys(labelled, c))
        solve_heads(heads, lambda: module.total(module.penalised(module.losses(vectors, batch))))
        solved.append({name: copy.deepcopy(head.state_dict()) for name, head in heads.items()})
        said.append(scores())
    chosen = {name: standing([of_tasks[name] for of_tasks in said]) for name in heads}
    for name, head in heads.items():
        head.load_state_dict(solved[chosen[name]][name])
    strength = {name: strengths[place] for name, place in chosen.items()}
    module.ridge = ridge(strength)
    return strength


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
