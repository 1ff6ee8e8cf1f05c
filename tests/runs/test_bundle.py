"""A bundle says what its runs say, bit for bit, where their study is gone; what was tampered with is refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

import toxfusion as tf
from tests.conftest import tiny_tables
from tests.feature_store import tiled_study
from tests.training.small_runs import trained
from toxfusion import export, predict
from toxfusion.runs.bundle import Bundle, BundledRun, BundleError, packed, unpacked
from toxfusion.runs.exporting import export_runs
from toxfusion.study.files import sha256_of
from toxfusion.study.study import Study
from toxfusion.training.folder import RunError, RunFolder

SHORT = ["size.tile_steps=2", "size.tile_batch=4", "size.pretrain_steps=2", "size.finetune_steps=3",
         "tile_features=contrastive"]  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[RunFolder]:
    """Two folds, each with a tile encoder of its own."""
    root = tmp_path_factory.mktemp("runs")
    study = tiled_study(root / "study")
    return [trained(study, root / f"fold{fold}", *SHORT, f"split.fold={fold}") for fold in (0, 1)]


@pytest.fixture(scope="module")
def bundle(runs: list[RunFolder], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "liver"
    pattern = str(runs[0].root.parents[1] / "fold*" / "full")
    export.main([f"run={pattern}", f"output={folder}", "license=apache-2.0", "draws=50",
                 f"paths.outputs={folder.parent}"])  # fmt: skip
    return folder


@pytest.fixture
def own_bundle(bundle: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return shutil.copytree(bundle, tmp_path / "own")


def sealed_anew(folder: Path) -> None:
    """Make the hashes those of the files, as somebody would who changes a bundle on purpose."""
    manifest = json.loads((folder / "bundle.json").read_text())
    manifest["sha256"] = {name: sha256_of(folder / name) for name in manifest["sha256"]}
    (folder / "bundle.json").write_text(json.dumps(manifest))


def changed_config(folder: Path, key: str, target: str) -> None:
    file = next(folder.glob("runs/*/config.yaml"))
    config = yaml.safe_load(file.read_text())
    config[key]["_target_"] = target
    file.write_text(yaml.safe_dump(config))
    sealed_anew(folder)


def test_a_bundle_says_what_its_runs_say_bit_for_bit_without_their_study(
    runs: list[RunFolder], bundle: Path, tmp_path: Path
) -> None:
    mine, theirs = (tiled_study(tmp_path / name, seed=1) for name in ("mine", "theirs"))
    said = tf.load(runs[0].root.parents[1] / "fold*" / "full").predict(mine)
    away = runs[0].root.parents[1] / "study"
    away.rename(away.with_name("gone"))
    try:
        loaded = tf.load(bundle)
        pd.testing.assert_frame_equal(loaded.predict(theirs), said, check_exact=True)
    finally:
        away.with_name("gone").rename(away)
    assert (said.loc[said["task"] == "dili", "n_runs"] == 2).all()
    first = loaded.members[0]
    own = tf.load(runs[0].root).embed(mine)
    assert (first.embed(theirs).X == own.X).all()
    for member, folder in zip(loaded.members, runs, strict=True):
        weights, kept = (f.read_trained() for f in (member.folders[0], folder))
        assert all(torch.equal(v, kept["state_dict"][k]) for k, v in weights["state_dict"].items())
        assert repr(weights["contract"]) == repr(kept["contract"])
    with pytest.raises(RunError, match=re.escape("take one of run.members")):
        loaded.embed(theirs)
    with pytest.raises(RunError, match="holds no study"):
        first.embed()


def with_age_and_sex(seed: int) -> dict[str, Any]:
    """Tables of the small study with age in years and sex, each unknown of one sample."""
    tables, rng = tiny_tables(seed), np.random.default_rng(seed)
    n = len(tables["obs"])
    age, sex = rng.normal(50, 12, n), rng.choice(np.array(["female", "male"], dtype=object), n)
    age[4], sex[5] = np.nan, None
    return {**tables, "obs": tables["obs"].assign(age=age, sex=sex)}


def test_clinical_columns_travel_in_a_bundle(tmp_path: Path) -> None:
    study = tiled_study(tmp_path / "study", tables=with_age_and_sex(0))
    folder = trained(study, tmp_path / "run", *SHORT, "clinical=[age,sex]")
    export_runs([folder], tmp_path / "bundle", draws=10)
    mine, theirs = (tiled_study(tmp_path / to, 1, with_age_and_sex(1)) for to in ("mine", "theirs"))
    run = tf.load(folder.root)
    said, embedded = run.predict(mine), run.embed(mine)
    # Ages of their own, so that the comparison is of a prediction that reads them.
    older = with_age_and_sex(1)
    older["obs"]["age"] += 30
    aged = run.predict(tiled_study(tmp_path / "older", 1, older))
    assert not np.allclose(aged["risk"], said["risk"], equal_nan=True)
    shutil.rmtree(study.root)
    bundled = tf.load(tmp_path / "bundle")
    pd.testing.assert_frame_equal(bundled.predict(theirs), said, check_exact=True)
    np.testing.assert_array_equal(bundled.embed(theirs).X, embedded.X)


def test_a_bundle_holds_no_pickle_no_path_of_the_machine_and_a_card(
    runs: list[RunFolder], bundle: Path
) -> None:
    files = [file for file in bundle.rglob("*") if file.is_file()]
    assert {f.suffix for f in files} == {".safetensors", ".json", ".yaml", ".parquet", ".h5ad", ".md"}
    home = str(runs[0].root.parents[1]).encode()
    assert not [file for file in files if home in file.read_bytes()]
    assert sorted(f.name for f in (bundle / "runs").iterdir()) == ["fold0_seed0", "fold1_seed0"]
    assert len(list((bundle / "encoders").iterdir())) == 2
    for run in Bundle.open(bundle).runs:
        assert set(run.read_predictions()["part"]) == {"valid"}
        assert set(run.read_embeddings().obs["part"]) == {"train", "valid"}
    card = huggingface_hub.ModelCard.load(bundle / "README.md")
    assert card.data.library_name == "toxfusion"
    assert card.data.license == "apache-2.0"
    scores = json.loads((bundle / "metrics.json").read_text())
    scored = re.search(r"\| dili \| auroc \| (\S+) \| (\S+) to (\S+) \|", card.text)
    assert scored is not None
    told = scores["dili"]["auroc"]
    assert [float(x) for x in scored.groups()] == [round(told[key], 3) for key in ("value", "low", "high")]
    assert "**The study is virtual**" in card.text


@pytest.mark.parametrize("sign", ["without paths_by", "with a rate of the linear paths"])
def test_a_run_of_an_earlier_version_is_refused_in_one_sentence(own_bundle: Path, sign: str) -> None:
    for file in own_bundle.glob("runs/*/config.yaml"):
        config = yaml.safe_load(file.read_text())
        if sign == "without paths_by":
            del config["paths_by"]
        else:
            config["pretrain"]["linear_lr_share"] = 0.3
        file.write_text(yaml.safe_dump(config))
    sealed_anew(own_bundle)
    with pytest.raises(RunError, match=r"of an earlier version of toxfusion.*train it again"):
        tf.load(own_bundle).predict(tiled_study(own_bundle / "study", seed=1))


@pytest.mark.parametrize("pattern", ["runs/fold1*/model.safetensors", "runs/fold0*/contract.json",
                                     "encoders/*.safetensors", "runs/fold0*/predictions.parquet"])  # fmt: skip
def test_a_file_that_was_changed_or_lost_is_refused_by_name(own_bundle: Path, pattern: str) -> None:
    file = next(own_bundle.glob(pattern))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(BundleError, match=rf"{re.escape(str(file))}: not the file that was exported"):
        tf.load(own_bundle)
    file.unlink()
    with pytest.raises(BundleError, match=f"{re.escape(str(file))}: missing"):
        tf.load(own_bundle)


def test_what_is_no_class_of_a_trusted_package_is_never_called(own_bundle: Path) -> None:
    for target in ("os.system", "toxfusion.study.files.hashlib.sha256", "toxfusion.study.files.replace_file"):
        changed_config(own_bundle, "fusion", target)
        with pytest.raises(BundleError, match=re.escape(f"fusion is of {target}")):
            tf.load(own_bundle)
    changed_config(own_bundle, "fusion", "tests.training.test_own_fusion.Product")
    with pytest.raises(BundleError, match=re.escape("give trust=[tests]")):
        tf.load(own_bundle)


def test_files_outside_and_other_schemas_are_refused(own_bundle: Path) -> None:
    manifest = json.loads((own_bundle / "bundle.json").read_text())
    (own_bundle / "bundle.json").write_text(json.dumps({**manifest, "sha256": {"../secret": "0" * 64}}))
    with pytest.raises(BundleError, match=r"'\.\./secret' lies outside the bundle"):
        Bundle.open(own_bundle)
    unhashed = {k: v for k, v in manifest["sha256"].items() if not k.endswith("config.yaml")}
    (own_bundle / "bundle.json").write_text(json.dumps({**manifest, "sha256": unhashed}))
    with pytest.raises(BundleError, match=r"config\.yaml: bundle\.json has no SHA-256"):
        Bundle.open(own_bundle)
    (own_bundle / "bundle.json").write_text(json.dumps({**manifest, "schema": 99}))
    with pytest.raises(BundleError, match="not of schema 1"):
        Bundle.open(own_bundle)


def test_an_export_replaces_a_bundle_and_nothing_else(
    runs: list[RunFolder], own_bundle: Path, tmp_path: Path
) -> None:
    assert len(export_runs(runs[:1], own_bundle, draws=10).runs) == 1
    assert [f.name for f in (own_bundle / "runs").iterdir()] == ["fold0_seed0"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(BundleError, match="no bundle; give another output"):
        export_runs(runs, tmp_path / "mine")
    assert [f.name for f in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    with pytest.raises(BundleError, match="is a bundle already"):
        export_runs(Bundle.open(own_bundle).runs, tmp_path / "again")


def test_the_command_scores_with_a_bundle_of_the_hub(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache as the hub's client leaves it: files are links into a store of blobs."""
    cached = tmp_path / "cache" / "models--lab--liver"
    revision = "0" * 40
    for file in (f for f in bundle.rglob("*") if f.is_file()):
        blob = cached / "blobs" / sha256_of(file)
        blob.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, blob)
        link = cached / "snapshots" / revision / file.relative_to(bundle)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(revision)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    study: Study = tiled_study(tmp_path / "new", seed=2)
    predict.main(["run=hf://lab/liver@main", f"study={study.root}", f"paths.outputs={tmp_path}"])
    scores = pd.read_csv(tmp_path / "predict" / "new" / "scores.csv", float_precision="round_trip")
    said = tf.load("lab/liver").predict(study)
    np.testing.assert_array_equal(scores["risk"], said["risk"])
    assert set(scores["n_runs"]) == {2}
    with pytest.raises(BundleError, match="the hub does not give it"):
        tf.load("hf://lab/nobody")


def test_a_contract_comes_back_as_it_was() -> None:
    content = {"a": (1, 0.1 + 0.2, None), "b": [{"c": torch.arange(3)}, "x"], "d": {"$e": True}, "f": ()}
    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(packed(content, tensors))
    assert repr(unpacked(json.loads(text), tensors)) == repr(content)
    assert list(tensors) == ["b.0.c"]
    with pytest.raises(BundleError, match=r"contract\.g: a set"):
        packed({"g": {1}}, {})


def test_a_run_of_a_bundle_is_a_run_folder(bundle: Path) -> None:
    run = BundledRun(bundle / "runs" / "fold0_seed0")
    assert run.finished() is not None
    assert run.read_config()["data"]["root"] == "study"
    assert not {"paths", "logger"} & set(run.read_config())
