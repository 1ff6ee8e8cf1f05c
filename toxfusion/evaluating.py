"""A finished run scored again from its checkpoint: what ``toxfusion.evaluate`` calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import anndata
import pandas as pd

from toxfusion.data.audit import replace_file
from toxfusion.distributed import device_of
from toxfusion.evaluation import figures, predictions
from toxfusion.evaluation.probing import COLUMNS
from toxfusion.evaluation.scoring import as_dict, plain_records, score_run
from toxfusion.loading import load_own_study, load_run
from toxfusion.prediction import encode_samples, predictions_table, write_embeddings, write_survival_curves
from toxfusion.probes import EMBEDDINGS, ProbeError, check_probes, probe_run
from toxfusion.runs import RunFolder


def evaluate_run(
    folder: RunFolder,
    output: Path,
    *,
    draws: int,
    seed: int,
    probes: Sequence[str] = (),
    embeddings: Sequence[str] = EMBEDDINGS,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predict validation and test parts anew and score the test part.

    Writes predictions.parquet, metrics.json, embeddings.h5ad, embedding.png, curves.png (with a two-class task),
    confusion.png (with classes or grades) and survival_curves.parquet (with discrete survival) into ``output``. A
    baseline has no network to run again: its stored predictions are scored. With probes also probes.parquet and .csv,
    few_shot.png and missing_modality.png.

    Args:
        draws, seed: of the bootstrap over compounds; the seed is also that of the probes.
        probes, embeddings: see ``toxfusion.probes``.

    Returns:
        The table of ``toxfusion.evaluation.scoring.score_run``, and that of ``toxfusion.probes.probe_run``.

    Raises:
        ProbeError: an unknown probe or embedding, or probes of a baseline.
    """
    check_probes(probes, embeddings)
    config = folder.read_config()
    if probes and config["method"] != "network":
        raise ProbeError(f"{folder.root}: {config['method']} has no network to probe; leave probes empty")
    study, split = load_own_study(folder)
    output.mkdir(parents=True, exist_ok=True)
    probed = pd.DataFrame(columns=list(COLUMNS))
    if config["method"] == "network":
        run = load_run(folder, study, split)
        device = device_of(config["trainer"]["accelerator"])
        outputs = encode_samples(run.module.network, run.data_module(), [*split.valid, *split.test], device)
        table = pd.concat(
            [
                predictions_table(
                    run.module, run.fold, outputs, part=part, sample_ids=ids, seed=config["seed"]
                )
                for part, ids in (("valid", split.valid), ("test", split.test))
            ],
            ignore_index=True,
        )
        write_embeddings(run.fold, outputs, output / "embeddings.h5ad")
        write_survival_curves(run.module, run.fold, outputs, output / "survival_curves.parquet")
        written = anndata.read_h5ad(output / "embeddings.h5ad")
        figures.embedding_map(written.X, written.obs, output / "embedding.png", seed=seed)
        if probes:
            probed = probe_run(run, probes, embeddings, draws=draws, seed=seed)
            _write_probes(probed, output, config["name"])
    else:
        table = predictions.read(folder.predictions)
    predictions.write(table, output / "predictions.parquet")
    truth = study.root / "truth" if study.virtual and not config["permute_labels"] else None
    scores = score_run(table, truth, draws=draws, seed=seed)
    metrics = {"scores": as_dict(scores), "probes": plain_records(probed)}
    replace_file(output / "metrics.json", json.dumps(metrics, indent=1).encode())
    figures.held_out([table], output, title=config["name"])
    return scores, probed


def _write_probes(table: pd.DataFrame, output: Path, name: str) -> None:
    part = output / ".probes.parquet"
    table.to_parquet(part, index=False)
    part.replace(output / "probes.parquet")
    replace_file(output / "probes.csv", table.to_csv(index=False).encode())
    drawn: dict[str, Callable[..., None]] = {
        "few_shot": figures.few_shot,
        "missing_modality": figures.missing_modality,
    }
    for probe, draw in drawn.items():
        if table.loc[table["probe"] == probe, "value"].notna().any():
            draw(table, output / f"{probe}.png", title=name)
