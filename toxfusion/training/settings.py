"""The config of a run as dataclasses, read once: nothing below `toxfusion.training.assemble` looks a key up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from toxfusion.config.nodes import build, located, part
from toxfusion.config.values import check_arguments
from toxfusion.data.input_noise import InputNoise
from toxfusion.models.compilation import check_backend
from toxfusion.models.network import Modality, ProjectionKind
from toxfusion.objectives.terms.term_set import ListedTerm, TermSettings, ViewSettings
from toxfusion.study.split import Split
from toxfusion.study.study import Study
from toxfusion.tasks.task_set import TaskSet
from toxfusion.training.folder import modality_in_use
from toxfusion.training.task_nodes import build_tasks

Config = dict[str, Any]
Shuffled = Literal["pretraining", "throughout"]
WARM_STARTS = ("cca", "pca", "none")


class SettingsError(ValueError):
    """A config that asks for what does not exist."""


@dataclass(frozen=True)
class TrainerSettings:
    """How a stage is run; see conf/trainer for the meaning of each key.

    Raises:
        CompileError: ``compile`` names no backend.
    """

    accelerator: str
    devices: int
    num_nodes: int
    strategy: str
    precision: str
    gradient_clip_val: float
    accumulate_grad_batches: int
    checkpoint_every: int
    validate_every: int
    patience: int | None
    progress: bool
    compile: str | None

    def __post_init__(self) -> None:
        check_backend(self.compile)

    @property
    def processes(self) -> int:
        """Ranks of all nodes."""
        return self.devices * self.num_nodes


@dataclass(frozen=True)
class DataSettings:
    """Where the study lies and how it becomes batches; see conf/data.

    Attributes:
        within: keywords of ``Within``: the samples whose tile features are standardised together.
        expression: keywords of ``ExpressionTransform.fit``.
        draw: ``column`` and ``weights`` of ``group_weights``: how often samples are drawn in pretraining.
    """

    root: Path
    grid: str
    tile_reference: str
    within: Mapping[str, Any]
    expression: Mapping[str, Any]
    draw: Mapping[str, Any]


@dataclass(frozen=True)
class StoredFeatures:
    """Tile features that are in the study already, by the name of their store."""

    name: str


@dataclass(frozen=True)
class PublishedFeatures:
    """Tile features by a published encoder; see conf/tile_features/imagenet.yaml."""

    encoder: str
    weights: str | None
    encode_batch: int


@dataclass(frozen=True)
class TrainedFeatures:
    """Tile features by an encoder of the fold; see conf/tile_features/contrastive.yaml.

    Attributes:
        kind: "contrastive", or "random" for one that is left as it begins.
    """

    kind: str
    backbone: str
    pretrained: bool
    steps: int
    batch_size: int
    projection_dim: int
    temperature: float
    lr: float
    weight_decay: float
    warmup: float
    seed: int
    encode_batch: int


TileFeatures = StoredFeatures | PublishedFeatures | TrainedFeatures | None


def read_tile_features(node: Mapping[str, Any]) -> TileFeatures:
    """From the group tile_features of a config; None with tile_features=none.

    Raises:
        SettingsError: an unknown kind.
    """
    kinds: dict[str, type[Any] | None] = {
        "published": PublishedFeatures,
        "contrastive": TrainedFeatures,
        "random": TrainedFeatures,
        "store": StoredFeatures,
        "none": None,
    }
    if node["kind"] not in kinds:
        raise SettingsError(f"tile_features.kind: {node['kind']!r} is none of {', '.join(kinds)}")
    kind = kinds[node["kind"]]
    return None if kind is None else _fields_of(kind, node)


@dataclass(frozen=True)
class GeneSetSettings:
    """The gene sets that an expression encoder reads, and how many genes of the model one must have."""

    gmt: Path
    min_genes: int
    max_genes: int


@dataclass(frozen=True)
class NetworkSettings:
    """The parts of the network, and their widths.

    Attributes:
        bag, expression, fusion: what makes each part, called with what the data decide (``in_dim``, ``n_genes``).
        gene_sets: of an expression encoder that reads sets.
        projections: from the branches to their shared and private parts; see conf/train.yaml.
    """

    bag: partial[Any]
    expression: partial[Any]
    fusion: partial[Any]
    gene_sets: GeneSetSettings | None
    modality: Modality
    modality_dropout: float
    width: int
    shared_dim: int
    private_dim: int
    projections: ProjectionKind

    @classmethod
    def read(cls, config: Config) -> NetworkSettings:
        """From the groups bag, expression, fusion, modality and size of a config."""
        size, sets = config["size"], config["expression"].get("gene_sets")
        if sets is not None:
            sets = GeneSetSettings(Path(sets["gmt"]), sets["min_genes"], sets["max_genes"])
        return cls(
            **{name: part(config[name]) for name in ("bag", "expression", "fusion")},
            gene_sets=sets,
            modality=config["modality"]["name"],
            modality_dropout=config["modality"]["dropout"],
            width=size["width"],
            shared_dim=size["shared_dim"],
            private_dim=size["private_dim"],
            projections=config["projections"],
        )


@dataclass(frozen=True)
class BatchSettings:
    """How many samples, compounds and tiles a batch holds; see conf/size."""

    tiles_per_bag: int
    compounds_per_batch: int
    treated_per_compound: int
    controls_per_compound: int
    eval_batch: int


@dataclass(frozen=True)
class WarmStartSettings:
    """The closed form that the linear paths start at; see conf/pretrain/full.yaml.

    Attributes:
        kind: cca (what both views share) or pca (principal components of each, which share nothing).
        slide_ridge, expression_ridge: in units of the mean eigenvalue of each view's correlations.
        power: of the canonical correlations.
        own_weight: of the pairs of a group in the map of that group, beside 1 for those of others.
    """

    kind: str
    slide_ridge: float
    expression_ridge: float
    power: float
    own_weight: float


@dataclass(frozen=True)
class PretrainSettings:
    """Self-supervised pretraining; see conf/pretrain.

    Attributes:
        steps: optimiser steps; 0 for no pretraining.
        batch_size: samples of a batch of one rank.
        terms: what is learned.
        warm_start: None to start at random.
        noise: on what is read.
    """

    steps: int
    batch_size: int
    terms: TermSettings
    warm_start: WarmStartSettings | None
    noise: InputNoise

    @classmethod
    def read(cls, node: Config) -> PretrainSettings:
        """From the group pretrain of a config.

        Raises:
            SettingsError: an unknown warm start.
        """
        start = node["warm_start"]
        if start["kind"] not in WARM_STARTS:
            raise SettingsError(
                f"pretrain.warm_start.kind: {start['kind']!r} is none of {', '.join(WARM_STARTS)}"
            )
        return cls(
            node["steps"],
            node["batch_size"],
            read_terms(node),
            None if start["kind"] == "none" else _fields_of(WarmStartSettings, start),
            InputNoise(**node["noise"]),
        )


def read_clinical(names: Any) -> tuple[str, ...]:
    """Names of clinical columns.

    Raises:
        SettingsError: no list of names.
    """
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SettingsError(
            f"clinical: {names!r} is no list of columns; write clinical=[age,sex], or [] for none"
        )
    return tuple(names)


def read_terms(node: Config) -> TermSettings:
    """From the group pretrain of a config; raises ConfigError for a ``_target_`` that does not exist."""
    listed = {
        name: ListedTerm(located(term["_target_"], f"pretrain.terms.{name}"), partial(build, term))
        for name, term in node["terms"].items()
    }
    return TermSettings(listed, node["weights"], _fields_of(ViewSettings, node))


@dataclass(frozen=True)
class FinetuneSettings:
    """Supervised fine-tuning.

    Attributes:
        steps: optimiser steps, those on top that pretrain=none gives among them.
        budget: training labels by units a class; None for all; see ``within_budget``.
        modality: what is read from fine-tuning on, of a network of both: "both", "wsi" or "omics".
    """

    steps: int
    budget: int | None
    modality: Modality


def read_finetune_modality(config: Config) -> Modality:
    """What fine-tuning and test read, from the group modality of a config.

    Raises:
        SettingsError: no modality, or one that the network does not have.
    """
    name, wanted = config["modality"]["name"], config["modality"]["finetune"]
    if wanted is None or wanted == name:
        return name
    if name != "both" or wanted not in ("wsi", "omics"):
        raise SettingsError(
            f"modality.finetune: {wanted!r} with modality={name}; a network of both can go on with wsi or omics, any "
            "other with what it has (null)"
        )
    return wanted


@dataclass(frozen=True)
class OptimizerSettings:
    """Learning rates, penalties and the average of weights; see conf/optimizer.

    Attributes:
        head_c: strengths of the penalty on heads, which are solved before fine-tuning, that each task chooses from
            on validation, the first one standing; None to begin heads at random.
        clinical_c: the same of their weights on clinical columns.
    """

    pretrain_lr: float
    finetune_lr: float
    network_lr_share: float
    weight_decay: float
    warmup: float
    average: float
    head_c: Sequence[float] | None
    clinical_c: float


@dataclass(frozen=True)
class NullSettings:
    """What is broken on purpose; see conf/train.yaml.

    Attributes:
        permute_labels: those of units, before training.
        shuffle_pairs: when slides are dealt anew to profiles; None for never.
    """

    permute_labels: bool
    shuffle_pairs: Shuffled | None


@dataclass(frozen=True)
class RunSettings:
    """All that decides one run.

    Attributes:
        name, seed, method, resume: see conf/train.yaml.
        modality: "both", "wsi", "omics" or "none": what the method reads.
        split: deals the samples of a study to parts.
        tasks: what is predicted, as yet fitted to nothing.
        clinical: names of the columns that heads read beside the fused vector.
        heads_by: column of obs in whose groups the weights of heads may deviate; None for none.
        paths_by: the same of the linear paths of the network.
        network: its parts; not used by another method than "network".
    """

    name: str
    seed: int
    method: str
    modality: str
    resume: bool
    nulls: NullSettings
    data: DataSettings
    split: Callable[[Study], Split]
    tile_features: TileFeatures
    tasks: TaskSet
    clinical: tuple[str, ...]
    heads_by: str | None
    paths_by: str | None
    network: NetworkSettings
    batches: BatchSettings
    pretrain: PretrainSettings
    finetune: FinetuneSettings
    optimizer: OptimizerSettings
    trainer: TrainerSettings

    @classmethod
    def read(cls, config: Config) -> RunSettings:
        """From a resolved config of ``toxfusion.train``."""
        data, pretrain = config["data"], config["pretrain"]
        return cls(
            name=config["name"],
            seed=int(config["seed"]),
            method=config["method"],
            modality=modality_in_use(config),
            resume=config["resume"],
            nulls=_fields_of(NullSettings, config),
            data=_fields_of(DataSettings, {**data, "root": Path(data["root"])}),
            split=build(config["split"]),
            tile_features=read_tile_features(config["tile_features"]),
            tasks=build_tasks(config),
            clinical=read_clinical(config["clinical"]),
            heads_by=config["heads_by"],
            paths_by=config["paths_by"],
            network=NetworkSettings.read(config),
            batches=_fields_of(BatchSettings, config["size"]),
            pretrain=PretrainSettings.read(pretrain),
            finetune=FinetuneSettings(
                config["size"]["finetune_steps"] + pretrain["finetune_extra_steps"],
                config["task"]["budget"],
                read_finetune_modality(config),
            ),
            optimizer=_fields_of(OptimizerSettings, config["optimizer"]),
            trainer=_trainer(config["trainer"]),
        )


def _trainer(node: Config) -> TrainerSettings:
    check_arguments("trainer", node, TrainerSettings)
    return TrainerSettings(**node)


Settings = TypeVar("Settings")


def _fields_of(kind: type[Settings], node: Mapping[str, Any]) -> Settings:
    """A dataclass from those keys of a node that it has; raises ConfigError for a value of another type."""
    check_arguments("", {field.name: node[field.name] for field in fields(kind)}, kind)  # type: ignore[arg-type]
    return kind(**{field.name: node[field.name] for field in fields(kind)})  # type: ignore[arg-type]
