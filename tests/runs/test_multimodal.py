"""A run's MuData has the numbers of the study and of the run, and comes back as a study."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import toxfusion as tf
from toxfusion import prepare
from toxfusion.study.importers.mudata import import_mudata
from toxfusion.study.importers.tables import ImportTableError
from toxfusion.study.study import Study
from toxfusion.training.folder import RunError


def test_what_a_run_writes_comes_back_as_a_study(finished_run: tuple[Study, Path], tmp_path: Path) -> None:
    pytest.importorskip("mudata", reason="the extra interop is not installed")
    study, folder = finished_run
    loaded = tf.load(folder)
    written, vectors = loaded.multimodal(study), loaded.embed(study)
    assert set(written.mod) == {"expression", "slides", "fused"}
    np.testing.assert_array_equal(written["fused"][vectors.obs_names].X, vectors.X)
    shared = vectors[written["slides"].obs_names].obsm["slide_shared"]
    np.testing.assert_array_equal(written["slides"].X, shared)
    written.write_h5mu(tmp_path / "run.h5mu")
    prepare.main(["source=mudata", f"output={tmp_path / 'back'}", f"source.file={tmp_path / 'run.h5mu'}",
                  "source.slides=slides", f"paths.outputs={tmp_path}"])  # fmt: skip
    back = Study.open(tmp_path / "back")
    assert set(back.sample_ids) == set(written.obs_names)
    profiled = list(written["expression"].obs_names)
    ours, theirs = (s.expression[s.positions(profiled)] for s in (study, back))
    np.testing.assert_array_equal(theirs, ours)
    kept = [
        "compound",
        "dose",
        "dose_level",
        "time_h",
        "is_control",
        "control_group",
        "group_id",
        "dili",
        "injury",
    ]
    for column in kept:
        values = back.obs[column].astype(str).tolist()
        assert values == study.obs.loc[back.obs.index, column].astype(str).tolist(), column
    store = back.features("mudata")
    assert len(store.slide_ids) == len(shared)
    for sample, vector in zip(written["slides"].obs_names, shared, strict=True):
        np.testing.assert_array_equal(store.rows(back.slides_of(sample)[0]), vector[None])
    # The vectors have seen the compounds of training: a fold that tests them refuses them.
    assert set(store.spec.provenance["trained_on"]) == set(loaded.on().contract["compounds"])
    with pytest.raises(ImportTableError, match="has no modality 'rna'; it has fused, expression, slides"):
        import_mudata(tmp_path / "none", file=str(tmp_path / "run.h5mu"), expression="rna")


def test_without_the_package_a_sentence_says_what_to_install(
    finished_run: tuple[Study, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mudata", None)
    with pytest.raises(RunError, match=r"toxfusion\[interop\]"):
        tf.load(finished_run[1]).multimodal()
    with pytest.raises(ImportTableError, match=r"toxfusion\[interop\]"):
        import_mudata(tmp_path, file="x.h5mu")
