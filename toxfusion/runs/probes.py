"""Probes of a finished run: its embeddings at every stage, retrieval, and fine-tuned scores with a modality hidden."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from toxfusion.baselines.blocks import BaselineSettings, pooled_tiles, standardised_expression
from toxfusion.baselines.plain import reduced
from toxfusion.data.batch import Batch
from toxfusion.data.datamodule import FoldData
from toxfusion.data.sampling import torch_seed
from toxfusion.evaluation import probing
from toxfusion.evaluation.families import FAMILIES
from toxfusion.evaluation.probing import Record, Units, record
from toxfusion.evaluation.retrieval import retrieval_table
from toxfusion.evaluation.scoring import headline_scores, score_run
from toxfusion.models.network import Network
from toxfusion.runs.loaded import LoadedRun, load_part
from toxfusion.study.draws import generator
from toxfusion.tasks.task import PooledTask, Task
from toxfusion.training.assemble import build_network
from toxfusion.training.checkpoint import read_checkpoint
from toxfusion.training.outputs import SampleOutputs

EMBEDDING_PROBES = probing.EMBEDDING_PROBES
PROBES = (*EMBEDDING_PROBES, "retrieval", "missing_modality")
EMBEDDINGS = ("pretrained", "finetuned", "random", "plain")
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
LABELS = {"ordinal": "a grade", "survival": "a time with an event", "value": "a value"}
"""What the labels of the families without classes are."""
MODALITIES: tuple[Literal["slide", "expression"], ...] = ("slide", "expression")


class ProbeError(ValueError):
    """A probe or an embedding that does not exist, or a run that has none."""


def check_probes(probes: Sequence[str], embeddings: Sequence[str]) -> None:
    """Refuse names that do not exist.

    Raises:
        ProbeError: lists the choices.
    """
    for key, names, known in (("probes", probes, PROBES), ("embeddings", embeddings, EMBEDDINGS)):
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ProbeError(f"{key}: {unknown} unknown; choose among {', '.join(known)}")


def probe_run(
    run: LoadedRun, probes: Sequence[str], embeddings: Sequence[str], *, draws: int, seed: int
) -> pd.DataFrame:
    """Every probe on every embedding.

    Args:
        probes: of ``PROBES``.
        embeddings: of ``EMBEDDINGS``, for all probes but missing_modality, which is of the fine-tuned network.
        draws, seed: of the bootstrap over compounds; the seed is also that of shots and of hidden samples.

    Returns:
        The probes table, columns ``probing.COLUMNS``; what cannot be computed is NaN with its reason.

    Raises:
        ProbeError: an unknown name.
        CheckpointError: the pretrained checkpoint cannot be read.
    """
    check_probes(probes, embeddings)
    records: list[Record] = []
    for embedding in embeddings:
        records += _of_embedding(run, embedding, probes, draws, seed)
    if "missing_modality" in probes:
        records += _missing_modality(run, draws, seed)
    return pd.DataFrame(records, columns=list(probing.COLUMNS))


def _of_embedding(
    run: LoadedRun, embedding: str, probes: Sequence[str], draws: int, seed: int
) -> list[Record]:
    fold, split = run.fold, run.fold.split
    read = [p for p in EMBEDDING_PROBES if p in probes]
    asked = [*read, *(["retrieval"] if "retrieval" in probes else [])]
    if not asked:
        return []
    if embedding == "pretrained" and not run.config["pretrain"]["steps"]:
        return [record(p, embedding, "", metric="", reason="the run has no pretraining") for p in asked]
    parts = {"train": fold.usable(split.train), "valid": split.valid, "test": split.test}
    if not read:
        parts = {"test": split.test}
    samples = [s for ids in parts.values() for s in ids]
    part = np.array([name for name, ids in parts.items() for _ in ids], dtype=object)
    records: list[Record] = []
    if embedding == "plain":
        values = (
            plain_embedding(fold, parts.get("train", []))[fold.study.positions(samples)] if read else None
        )
        if "retrieval" in probes:
            reason = "pooled features have no space in common"
            records.append(record("retrieval", embedding, "", metric="", reason=reason))
    else:
        outputs = run.embed(samples, network_of(run, embedding))
        values = outputs.fused
        if "retrieval" in probes:
            records += _retrieval(run, embedding, outputs)
    if values is None:
        return records
    for probe in read:
        records += [_unfit(task, probe, embedding) for task in run.tasks if probe not in task.probes]
        fitting = [task for task in run.tasks if probe in task.probes]
        units = task_units(fold, fitting, samples, part, values)
        if probe == "few_shot":
            records += probing.few_shot_records(units, embedding, seed=seed)
        else:
            records += probing.classifier_records(probe, units, embedding, draws=draws, seed=seed)
    return records


def network_of(run: LoadedRun, embedding: str) -> Network:
    """The network of a run before any training ("random"), before fine-tuning ("pretrained") or after it.

    It lies where the run's own does; one that is made here is in training mode.

    Raises:
        CheckpointError: the pretrained checkpoint is gone, broken, or of another network.
    """
    if embedding == "finetuned":
        return run.network
    fold = run.fold
    # The run drew its first weights from this seed: "random" is where it started.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(run.settings.seed, "network"))
        network = build_network(
            run.settings.network,
            n_genes=fold.n_genes,
            tile_dim=fold.tile_dim,
            n_groups=fold.n_path_groups,
            gene_sets=run.contract["gene_sets"],
        )
    if embedding == "pretrained":
        path = run.folder.stage("pretrain") / "best.ckpt"
        load_part(network, read_checkpoint(path)["state_dict"], "network.", path)
    return network.to(run.predictor.device)


def plain_embedding(fold: FoldData, train: Sequence[str]) -> np.ndarray:
    """Pooled tile features and expression, each reduced to principal components of the training samples.

    Returns:
        float64 [n_samples, d], in the order of ``fold.sample_ids``.
    """
    settings = BaselineSettings()
    blocks = []
    if fold.store is not None:
        blocks.append(pooled_tiles(fold, settings))
    if fold.expression is not None:
        blocks.append(standardised_expression(fold, settings))
    positions = fold.study.positions(train)
    return np.concatenate([reduced(b, positions, settings.n_components, fold.seed) for b in blocks], axis=1)


def task_units(
    fold: FoldData, tasks: Iterable[Task], sample_ids: Sequence[str], part: np.ndarray, values: np.ndarray
) -> list[Units]:
    """Labelled units of tasks with two classes each: samples, or means over the treated samples of larger units.

    Args:
        part: str [n], of each sample.
        values: float [n, d], embeddings of the samples.
    """
    obs = fold.study.obs.loc[list(sample_ids)]
    positions = fold.study.positions(sample_ids)
    compound = obs["compound"].astype(str).to_numpy(dtype=object)
    of_tasks = []
    for task in tasks:
        unit = obs.index.to_numpy(dtype=object)
        if isinstance(task, PooledTask):
            unit = obs[task.unit].astype(str).to_numpy(dtype=object)
        labels = task.label_columns(fold.labels[task.name][positions].numpy())
        for name, label in zip(task.names, labels.T, strict=True):
            keep = ~np.isnan(label)  # vehicle controls carry no label of a compound or dose group
            known = Units(
                name,
                task.level,
                values[keep].astype(np.float64),
                label[keep],
                unit[keep],
                compound[keep],
                part[keep],
                "" if task.headline == name else task.headline,
            )
            of_tasks.append(known if task.level == "sample" else _unit_means(known))
    return of_tasks


def _unit_means(samples: Units) -> Units:
    """One row a unit and part: the mean of its samples."""
    keys = pd.MultiIndex.from_arrays([samples.part, samples.unit_id])
    code = keys.factorize(sort=True)[0]
    first = np.unique(code, return_index=True)[1]
    return replace(
        samples,
        values=pd.DataFrame(samples.values).groupby(code).mean().to_numpy(),
        label=samples.label[first],
        unit_id=samples.unit_id[first],
        compound=samples.compound[first],
        part=samples.part[first],
    )


def _unfit(task: Task, probe: str, embedding: str) -> Record:
    """Why a probe has no row of numbers for a task."""
    reason = f"{probe} tells two classes apart, and the label of this task is {LABELS[task.family]}"
    return record(probe, embedding, task.headline, metric="", reason=reason)


def _retrieval(run: LoadedRun, embedding: str, outputs: SampleOutputs) -> list[Record]:
    """Among the test samples that have both modalities."""
    fold = run.fold
    paired = [s for s in fold.split.test if fold.has_slide(s) and fold.has_expression(s)]
    reason = "" if len(paired) > 1 else f"{len(paired)} test samples have both modalities"
    if (modality := run.config["modality"]["name"]) != "both":
        reason = f"not applicable: the run reads one modality ({modality})"
    if reason:
        return [record("retrieval", embedding, "", metric="", reason=reason)]
    pairs = outputs.positions(paired)
    groups = fold.study.obs.loc[paired, "group_id"].astype(str).to_numpy()
    table = retrieval_table(outputs.slide_shared[pairs], outputs.expression_shared[pairs], groups=groups)
    return [
        record("retrieval", embedding, f"{measured['direction']}/{measured['match']}", metric=measured["metric"],
               value=measured["value"], chance=measured["chance"], n=measured["n"])
        for measured in table.to_dict("records")
    ]  # fmt: skip


def _missing_modality(run: LoadedRun, draws: int, seed: int) -> list[Record]:
    """Headline scores with slides, or expression, hidden from a share of the test samples that have them."""
    if (modality := run.config["modality"]["name"]) != "both":
        reason = f"not applicable: the run reads one modality ({modality})"
        return [record("missing_modality", "finetuned", "", metric="", reason=reason)]
    fold, split = run.fold, run.fold.split
    whole = run.embed([*split.valid, *split.test])

    def table(outputs: SampleOutputs, part: str) -> pd.DataFrame:
        return run.predict(getattr(split, part), part=part, outputs=outputs)

    valid = table(whole, "valid")
    has: dict[str, Callable[[str], bool]] = {"slide": fold.has_slide, "expression": fold.has_expression}
    records: list[Record] = []
    for hidden in MODALITIES:
        without = _encode_without(run, hidden, split.test)
        having = [s for s in split.test if has[hidden](s)]
        for share, chosen in probing.hide_nested(
            having, SHARES, generator(seed, "missing_modality", hidden)
        ).items():
            mixed = whole.fused.copy()
            lost = [s for s in split.test if s in chosen]
            mixed[whole.positions(lost)] = without.fused[without.positions(lost)]
            scored = score_run(
                pd.concat([valid, table(replace(whole, fused=mixed), "test")], ignore_index=True),
                draws=draws,
                seed=seed,
            )
            for score in headline_scores(scored).to_dict("records"):
                records.append(_hidden_record(hidden, share, {str(k): v for k, v in score.items()}))
    return records


def _hidden_record(hidden: str, share: float, score: dict[str, Any]) -> Record:
    kept = {c: score[c] for c in ("metric", "value", "low", "high", "n", "draws", "reason")}
    chance = FAMILIES[score["family"]].chance
    return record("missing_modality", "finetuned", score["task"], hidden=hidden, share=share, chance=chance,
                  undefined=score["undefined_draws"], **kept)  # fmt: skip


def _encode_without(
    run: LoadedRun, hidden: Literal["slide", "expression"], sample_ids: Sequence[str]
) -> SampleOutputs:
    """The fine-tuned network on samples without one of their modalities."""

    def hide(_: torch.nn.Module, arguments: tuple[Any, ...]) -> tuple[Batch]:
        return (arguments[0].without(hidden),)

    hook = run.network.register_forward_pre_hook(hide)
    try:
        return run.embed(sample_ids)
    finally:
        hook.remove()
