"""Finished runs of one experiment into a bundle: what ``toxfusion.export`` calls."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anndata
import yaml

from toxfusion import __version__
from toxfusion.config.nodes import target_nodes
from toxfusion.evaluation import predictions
from toxfusion.evaluation.records import as_dict
from toxfusion.evaluation.scoring import score_run
from toxfusion.models.tile import share_tile_encoder
from toxfusion.runs.bundle import CARD, METRICS, Bundle, BundledRun, BundleError, is_bundle
from toxfusion.runs.loaded import check_network_run
from toxfusion.runs.model_card import model_card
from toxfusion.runs.new_study import check_one_experiment
from toxfusion.study.files import replace_file
from toxfusion.training.folder import RunFolder
from toxfusion.training.settings import TrainedFeatures, read_tile_features

#: Columns of a run's embeddings that scoring a new study reads.
KNOWN_COLUMNS = ["part", "compound", "group_id", "is_control", "has_slide", "has_expression"]


def export_runs(
    folders: Sequence[RunFolder], output: Path, *, licence: str | None = None, draws: int = 2000
) -> Bundle:
    """Write a bundle of finished runs, whole or not at all; a bundle that is there is replaced.

    Args:
        folders: folds and seeds of one experiment.
        output: the bundle's folder.
        licence: for the card, an identifier of the Hugging Face hub.
        draws: of the bootstrap behind the card's intervals.

    Raises:
        RunError: a run is not finished or not of a network, runs of several experiments, or no vectors were kept.
        BundleError: something else lies in ``output``, or a run's tile encoder is gone.
        CheckpointError, PredictionsError: a run that lacks or breaks a file.
    """
    for folder in folders:
        if isinstance(folder, BundledRun):
            raise BundleError(
                f"{folder.root}: is a bundle already; copy it, or export the runs that it was made of"
            )
        check_network_run(folder)
    check_one_experiment(folders)
    if output.exists() and not is_bundle(output) and (not output.is_dir() or any(output.iterdir())):
        raise BundleError(f"{output}: holds something that is no bundle; give another output")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as draft:
        made = Path(draft) / "bundle"
        runs = [_write_run(folder, made) for folder in folders]
        scores = score_run([folder.read_predictions() for folder in folders], draws=draws)
        replace_file(made / METRICS, json.dumps(as_dict(scores), indent=1).encode())
        card = model_card(folders, scores, name=output.name, licence=licence, version=__version__)
        replace_file(made / CARD, card.encode())
        Bundle.seal(made, output.name, runs, __version__)
        if output.exists():
            shutil.move(output, Path(draft) / "replaced")
        made.rename(output)
    return Bundle.open(output, trust=_packages(folders))


def _packages(folders: Sequence[RunFolder]) -> list[str]:
    """Packages whose classes the runs name; who exports a run has run their code."""
    configs = [folder.read_config() for folder in folders]
    return sorted({str(node["_target_"]).partition(".")[0] for c in configs for _, node in target_nodes(c)})


def _write_run(folder: RunFolder, bundle: Path) -> BundledRun:
    config = folder.read_config()
    run = BundledRun(bundle / "runs" / f"fold{config['split']['fold']}_seed{config['seed']}")
    run.root.mkdir(parents=True)
    trained = folder.read_trained()
    run.write_trained(trained)
    if (
        isinstance(read_tile_features(config["tile_features"]), TrainedFeatures)
        and trained["contract"]["features"]
    ):
        _share_encoder(folder, run, trained["contract"]["features"]["name"])
    replace_file(run.config, yaml.safe_dump(_portable(config), sort_keys=False).encode())
    shutil.copyfile(folder.done, run.done)
    table = folder.read_predictions()
    predictions.write(table[table["part"] == "valid"], run.predictions)
    _known(folder.read_embeddings()).write_h5ad(run.embeddings)
    return run


def _share_encoder(folder: RunFolder, run: BundledRun, name: str) -> None:
    """The tile encoder that the run trained; folds that share one share its file."""
    own, shared = folder.tile_encoder(name), run.tile_encoder(name)
    if not own.is_file():
        raise BundleError(
            f"{own}: the run's tile encoder is not there; put the study back where it was trained"
        )
    if not shared.is_file():
        share_tile_encoder(own, shared)


def _portable(config: dict[str, Any]) -> dict[str, Any]:
    """The config without folders and accounts of the machine it was made on."""
    kept = {key: value for key, value in config.items() if key not in ("paths", "logger")}
    kept["data"] = {**config["data"], "root": Path(config["data"]["root"]).name}
    return kept


def _known(table: anndata.AnnData) -> anndata.AnnData:
    """Vectors of training and validation samples, and of their obs what scoring reads."""
    known = table.obs["part"].isin(["train", "valid"]).to_numpy()
    obs = table.obs.loc[known, KNOWN_COLUMNS].copy()
    for column in obs.select_dtypes("category"):
        obs[column] = obs[column].cat.remove_unused_categories()
    return anndata.AnnData(X=table.X[known], obs=obs)
