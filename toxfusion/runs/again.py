"""A finished run scored again from its checkpoint: what ``toxfusion.evaluate`` calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import anndata
import pandas as pd

from toxfusion.evaluation import figures, predictions
from toxfusion.evaluation.probing import COLUMNS
from toxfusion.evaluation.records import as_dict, plain_records
from toxfusion.evaluation.scoring import score_run
from toxfusion.evaluation.strata import score_strata
from toxfusion.runs.loaded import LoadedRun, load_own_study, load_run
from toxfusion.runs.probes import EMBEDDINGS, ProbeError, check_probes, probe_run
from toxfusion.study.files import replace_file, write_parquet
from toxfusion.training.folder import RunError, RunFolder
from toxfusion.training.outputs import write_embeddings, write_survival_curves

#: Every file of an evaluation: what an earlier one left must not lie beside the scores of a later one.
WRITTEN = ("metrics.json", "predictions.parquet", "strata.csv", "curves.png", "confusion.png",
           "survival_curves.parquet", "embeddings.h5ad", "embedding.png", "probes.parquet", "probes.csv",
           "few_shot.png", "missing_modality.png")  # fmt: skip


@dataclass(frozen=True)
class Evaluation:
    """The tables of ``scoring.score_run``, ``strata.score_strata`` and ``probes.probe_run`` (may be empty)."""

    scores: pd.DataFrame
    strata: pd.DataFrame
    probes: pd.DataFrame


def evaluate_run(
    folder: RunFolder,
    output: Path,
    *,
    draws: int,
    seed: int,
    probes: Sequence[str] = (),
    embeddings: Sequence[str] = EMBEDDINGS,
) -> Evaluation:
    """Predict validation and test parts anew and score the test part.

    Writes predictions.parquet, metrics.json, strata.csv, embeddings.h5ad, embedding.png, curves.png (with a two-class
    task), confusion.png (with classes or grades) and survival_curves.parquet (with discrete survival) into
    ``output``. A baseline has no network to run again: its stored predictions are scored. With probes also
    probes.parquet and .csv, few_shot.png and missing_modality.png. What an earlier evaluation left there and this
    one does not write (probes, say) is removed.

    Args:
        draws, seed: of the bootstrap over compounds; the seed is also that of the probes.
        probes, embeddings: see ``toxfusion.runs.probes``.

    Raises:
        ProbeError: an unknown probe or embedding, or probes of a baseline.
        RunError: ``output`` is the run folder itself, whose own files would be written over.
    """
    check_probes(probes, embeddings)
    config = folder.read_config()
    if probes and config["method"] != "network":
        raise ProbeError(f"{folder.root}: {config['method']} has no network to probe; leave probes empty")
    if output.resolve() == folder.root.resolve():
        raise RunError(f"{output}: is the run itself; give paths.output a folder of its own")
    study, split = load_own_study(folder)
    network = config["method"] == "network"
    source = load_run(folder, study, split) if network else predictions.read(folder.predictions)
    output.mkdir(parents=True, exist_ok=True)
    for name in WRITTEN:
        (output / name).unlink(missing_ok=True)
    probed = pd.DataFrame(columns=list(COLUMNS))
    if isinstance(source, LoadedRun):
        table = _predicted_again(source, output, seed)
        if probes:
            probed = probe_run(source, probes, embeddings, draws=draws, seed=seed)
            _write_probes(probed, output, config["name"])
    else:
        table = source
    predictions.write(table, output / "predictions.parquet")
    truth = study.root / "truth" if study.virtual and not config["permute_labels"] else None
    evaluation = Evaluation(
        score_run(table, truth, draws=draws, seed=seed), score_strata(table, draws=draws, seed=seed), probed
    )
    replace_file(output / "strata.csv", evaluation.strata.to_csv(index=False).encode())
    figures.held_out([table], output, title=config["name"])
    metrics = {
        "scores": as_dict(evaluation.scores),
        "strata": plain_records(evaluation.strata),
        "probes": plain_records(evaluation.probes),
    }
    replace_file(output / "metrics.json", json.dumps(metrics, indent=1).encode())
    return evaluation


def _predicted_again(run: LoadedRun, output: Path, seed: int) -> pd.DataFrame:
    """Predictions of the fine-tuned network; embeddings, their map and survival curves are written."""
    split, config = run.fold.split, run.config
    outputs = run.embed([*split.valid, *split.test])
    write_embeddings(run.fold, outputs, output / "embeddings.h5ad")
    write_survival_curves(run.predictor, run.tasks, outputs, output / "survival_curves.parquet")
    written = anndata.read_h5ad(output / "embeddings.h5ad")
    figures.embedding_map(written.X, written.obs, output / "embedding.png", seed=seed,
                          title=f"{config['name']}: fused vectors of validation and test samples")  # fmt: skip
    parts = [
        run.predict(ids, part=part, outputs=outputs)
        for part, ids in (("valid", split.valid), ("test", split.test))
    ]
    return pd.concat(parts, ignore_index=True)


def _write_probes(table: pd.DataFrame, output: Path, name: str) -> None:
    write_parquet(table, output / "probes.parquet")
    replace_file(output / "probes.csv", table.to_csv(index=False).encode())
    drawn: dict[str, Callable[..., None]] = {
        "few_shot": figures.few_shot,
        "missing_modality": figures.missing_modality,
    }
    for probe, draw in drawn.items():
        if table.loc[table["probe"] == probe, "value"].notna().any():
            draw(table, output / f"{probe}.png", title=name)
