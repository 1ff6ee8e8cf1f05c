"""A run as on cohorts of patients: groups scaled apart, few labels, slides alone after pretraining on both."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from tests.conftest import tiny_tables
from tests.feature_store import write_features
from toxfusion.config.entry import compose
from toxfusion.runs.loaded import load_own_study, load_run
from toxfusion.study.audit import Audit
from toxfusion.study.study import write_study
from toxfusion.training.folder import RunFolder
from toxfusion.training.run import run
from toxfusion.training.settings import RunSettings, SettingsError

SMALL = (
    "size=demo", "size.width=16", "size.shared_dim=8", "size.private_dim=8", "size.gene_latents=4",
    "size.pretrain_steps=4", "size.pretrain_batch=8", "size.finetune_steps=4", "size.compounds_per_batch=2",
    "trainer.progress=false", "trainer.validate_every=2", "heatmaps=0",
)  # fmt: skip


def settings(root: Path, *overrides: str) -> dict[str, object]:
    return compose(
        "train",
        [
            f"data.root={root / 'study'}", f"paths.output={root / 'run'}", "data=cohort", "data.within.column=batch",
            "tile_features=store", "tile_features.name=test", "split.valid_fraction=0.4", "split.n_folds=3",
            "task=labels", "task.labels=[mechanism]", "task.budget=1", "modality.finetune=wsi", *SMALL, *overrides,
        ],
    )  # fmt: skip


def test_slides_alone_after_pretraining_on_both_with_few_labels(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", **tiny_tables())
    write_features(study, coordinates="none")
    config = settings(tmp_path)
    run(config)  # type: ignore[arg-type]
    folder = RunFolder(tmp_path / "run")
    table = pd.read_parquet(folder.predictions)
    assert set(table["task"]) == {"mechanism"}
    assert set(table["family"]) == {"binary"}
    embedded = anndata.read_h5ad(folder.embeddings)
    assert not embedded.obs["has_expression"].any()
    assert (embedded.obs["gate_slide"][embedded.obs["has_slide"]] == 1).all()
    assert "expression_shared" in embedded.obsm
    history = pd.read_csv(folder.history)
    assert {"pretrain", "finetune"} <= set(history["stage"])
    assert any("task.budget=1" in record.reason for record in Audit.read(folder.audit).records)
    assert '"direction": "slide_to_expression"' in folder.metrics.read_text()  # retrieval is before, on both
    loaded = load_run(folder, *load_own_study(folder))
    tested = loaded.fold.split.test
    assert not any(loaded.fold.has_expression(s) for s in tested)
    again = loaded.predict(list(tested)).set_index("unit_id")["score"]
    first = table[table["part"] == "test"].set_index("unit_id")["score"]
    np.testing.assert_allclose(again.loc[first.index], first, rtol=1e-4)


def test_a_network_of_one_modality_cannot_go_on_with_another(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"modality\.finetune: 'wsi' with modality=omics"):
        RunSettings.read(settings(tmp_path, "modality=omics", "modality.finetune=wsi"))


def test_instance_clustering_is_part_of_fine_tuning_with_clam(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", **tiny_tables())
    write_features(study)
    run(settings(tmp_path, "experiment=clam", "task.labels=[mechanism,dose_level]", "task.budget=null"))  # type: ignore[arg-type]
    history = pd.read_csv(RunFolder(tmp_path / "run").history)
    monitored = history.loc[history["stage"] == "finetune"].filter(like="instances").dropna()
    assert len(monitored)
    assert (monitored > 0).all().all()
