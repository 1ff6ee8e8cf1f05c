"""A finished run scored again from its checkpoint: what ``toxfusion.evaluate`` calls."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import pandas as pd

from toxfusion.data.audit import replace_file
from toxfusion.distributed import device_of
from toxfusion.evaluation import figures, predictions
from toxfusion.evaluation.scoring import as_dict, out_of_fold, score_run
from toxfusion.loading import load_own_study, load_run
from toxfusion.prediction import encode_samples, predictions_table, write_embeddings, write_survival_curves
from toxfusion.runs import RunFolder


def evaluate_run(folder: RunFolder, output: Path, *, draws: int, seed: int) -> pd.DataFrame:
    """Predict validation and test parts anew and score the test part.

    Writes predictions.parquet, metrics.json, embeddings.h5ad, embedding.png, curves.png (with a two-class task) and
    survival_curves.parquet (with discrete survival) into ``output``. A baseline has no network to run again: its
    stored predictions are scored.

    Args:
        draws, seed: of the bootstrap over compounds.

    Returns:
        The table of ``toxfusion.evaluation.scoring.score_run``.
    """
    config = folder.read_config()
    study, split = load_own_study(folder)
    output.mkdir(parents=True, exist_ok=True)
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
        embeddings = anndata.read_h5ad(output / "embeddings.h5ad")
        figures.embedding_map(embeddings.X, embeddings.obs, output / "embedding.png", seed=seed)
    else:
        table = predictions.read(folder.predictions)
    predictions.write(table, output / "predictions.parquet")
    truth = study.root / "truth" if study.virtual and not config["permute_labels"] else None
    scores = score_run(table, truth, draws=draws, seed=seed)
    replace_file(output / "metrics.json", json.dumps(as_dict(scores), indent=1).encode())
    tested = out_of_fold([table])
    if figures.curve_headlines(tested):
        figures.run_curves(tested, output / "curves.png", title=config["name"])
    return scores
