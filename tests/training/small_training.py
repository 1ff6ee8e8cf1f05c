"""A preset or an experiment of the conf folder as a small module on eight samples, for either stage."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from toxfusion.config.entry import compose
from toxfusion.data.batch import Batch, RaggedTiles
from toxfusion.models.network import Network
from toxfusion.models.predictor import Predictor
from toxfusion.tasks.dili import Dili
from toxfusion.tasks.injury import Injury
from toxfusion.tasks.lesions import Lesions
from toxfusion.tasks.severity import Severity
from toxfusion.tasks.task_set import TaskSet
from toxfusion.training.assemble import build_network, build_terms
from toxfusion.training.finetuning import FinetuningModule
from toxfusion.training.optimization import Optimization
from toxfusion.training.pretraining import PretrainingModule
from toxfusion.training.settings import RunSettings

CONF = Path(__file__).resolve().parents[2] / "conf"
GENES, FEATURES = 30, 10
FOUR_TASKS = TaskSet(
    [
        Dili(weight=0.5),
        Injury(),
        Lesions().restored({"chosen": ("Necrosis", "Hypertrophy")}),
        Severity(weight=0.5),
    ]
)
PLAN = Optimization(1e-3, 0.0, 0.1, 10)


@functools.cache
def config(*overrides: str) -> dict[str, Any]:
    return compose("train", ["data.root=study", "size=tiny", *overrides])


def names(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def only(term: str) -> tuple[str, ...]:
    """Overrides that leave one term of pretrain=clip."""
    return ("pretrain=clip", "pretrain.weights.align=0", f"pretrain.weights.{term}=1")


PRESETS = [(f"pretrain={name}",) for name in names("pretrain") if name != "none"]
#: Terms of no preset.
ALONE = ("tiles", "vicreg", "consistency")


def network_of(settings: dict[str, Any]) -> Network:
    torch.manual_seed(0)
    return build_network(RunSettings.read(settings).network, n_genes=GENES, tile_dim=FEATURES)


def pretraining(settings: dict[str, Any]) -> PretrainingModule:
    network = network_of(settings)
    read = RunSettings.read(settings)
    terms = build_terms(read.pretrain.terms, read.network, network, n_genes=GENES, tile_dim=FEATURES)
    return PretrainingModule(
        network,
        terms,
        optimization=PLAN,
        seed=0,
        noise=read.pretrain.noise,
        holds_linear=read.pretrain.warm_start is not None,
    )


def finetuning(settings: dict[str, Any]) -> FinetuningModule:
    network = network_of(settings)
    return FinetuningModule(
        Predictor(network, FOUR_TASKS.heads(network.fused_width)),
        FOUR_TASKS,
        labels=eight_samples().labels,
        network_lr_share=1.0,
        optimization=PLAN,
        seed=0,
        contract={},
    )


def network_in(of: PretrainingModule | FinetuningModule) -> Network:
    return of.predictor.network if isinstance(of, FinetuningModule) else of.network


def eight_samples(lengths: tuple[int, ...] = (5, 0, 3, 9, 4, 2, 6, 2)) -> Batch:
    """The second has no slide and the fifth no expression; the third is a control; the last two are one dose group."""
    generator = torch.Generator().manual_seed(1)
    sizes = torch.tensor(lengths)
    n = int(sizes.sum())
    expression = torch.randn(8, GENES, generator=generator)
    expression[4] = 0.0
    nan = float("nan")
    control = torch.arange(8) == 2
    dili = torch.tensor([1.0, 1.0, nan, 0.0, 1.0, 1.0, 0.0, 0.0])
    return Batch(
        sample_ids=[f"s{i}" for i in range(8)],
        tiles=RaggedTiles(
            torch.randn(n, FEATURES, generator=generator),
            torch.randint(0, 40, (n, 2), generator=generator) * 128.0,
            torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)]),
        ),
        expression=expression,
        has_slide=sizes > 0,
        has_expression=torch.arange(8) != 4,
        compound=torch.arange(8) // 2,
        group=torch.tensor([0, 1, 2, 3, 4, 5, 6, 6]),
        animal=torch.arange(8),
        is_control=control,
        labels={
            "dili": dili,
            "injury": dili,
            "lesions": torch.tensor([[1.0, 0.0], [0.0, 0.0]]).repeat(4, 1),
            "severity": torch.tensor([0.0, 4.0, 0.0, 2.0, 1.0, nan, 3.0, 0.0]),
        },
    )


def losses(of: PretrainingModule | FinetuningModule, batch: Batch, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(0)
    if isinstance(of, FinetuningModule):
        return of.losses(of.predictor(batch).fused.vector, batch)
    return of.losses(batch, torch.Generator().manual_seed(seed))[0]


def total(of: PretrainingModule | FinetuningModule, losses: dict[str, Tensor]) -> Tensor:
    weights = of.tasks.weights if isinstance(of, FinetuningModule) else of.terms.weights
    return torch.stack([weights[name] * value for name, value in losses.items()]).sum()
