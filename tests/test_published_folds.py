"""Benchmarks on published folds: metrics as scikit-learn has them, overlaps named, tables of what is finished alone."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

import toxfusion as tf
from benchmarks import mirror_folds, mirror_tables, released_risks
from toxfusion.evaluation import predictions

CLASSES = ("COAD", "READ")


@pytest.mark.parametrize("module", [released_risks, mirror_folds])
def test_the_command_line_of_a_benchmark_is_one_that_train_takes(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[tuple[str, ...]] = []
    monkeypatch.setattr(module, "command", lambda *line, **_: lines.append(line))
    if module is released_risks:
        (tmp_path / "studies" / "blca" / "splits").mkdir(parents=True)
        (tmp_path / "studies" / "blca" / "splits" / "published.csv").touch()
        released_risks.run_cohort("blca", tmp_path, tmp_path, ["pca_cox"])
    else:
        mirror_folds.train(tmp_path, "brca", list(mirror_folds.METHODS)[:1], [0], overlap=False)
    ((name, _, *overrides),) = lines
    assert name == "toxfusion.train"
    config = tf.compose("train", [override.replace("=0,1,2,3,4", "=0") for override in overrides])
    assert config["paths"]["variant"] == ""


def _tested(fold: int, n: int = 40) -> pd.DataFrame:
    """Predictions of one fold, a patient of no known subtype among them; the second class is rare."""
    rng = np.random.default_rng(fold)
    names = [f"TCGA-AA-{fold}{i:03d}" for i in range(n)]
    label = (np.arange(n) % 4 == 0).astype(float)
    score = np.clip(0.3 * label + rng.uniform(0, 0.7, n), 0, 1)
    label[-1] = np.nan
    units = pd.DataFrame(
        {"compound": names, "dose_level": "", "time_h": np.nan, "study": "AA", "batch": "coadread",
         "is_control": False}, index=pd.Index(names, name="unit_id"),
    )  # fmt: skip
    return pd.concat(
        [
            predictions.of_units(
                units, task=f"subtype:{name}", family="classes", headline="subtype", level="sample", part="test",
                fold=fold, seed=0, label=label if k else 1 - label, score=score if k else 1 - score,
            )
            for k, name in enumerate(CLASSES)
        ]
    )  # fmt: skip


def _finish(output: Path, row: str, fold: int) -> None:
    folder = output / "runs" / "coadread" / "study" / row / f"fold{fold}_seed0"
    folder.mkdir(parents=True)
    predictions.write(_tested(fold), folder / "predictions.parquet")
    (folder / "done.json").write_text("{}")


def test_values_are_means_of_folds_and_rows_of_fewer_folds_are_named(tmp_path: Path) -> None:
    for fold in range(5):
        _finish(tmp_path, "genes_logistic", fold)
    _finish(tmp_path, "full_overlap", 0)
    folds = mirror_folds.folds_file(tmp_path, "coadread")
    folds.parent.mkdir(parents=True)
    parts = ["train", "test", "test"]
    pd.DataFrame({"sample_id": ["a", "a", "b"], "fold": 2, "part": parts}).to_csv(folds, index=False)
    mirror_folds.unknown_file(tmp_path, "coadread").write_text("c\nd\n")
    estimates = mirror_folds.scores(tmp_path, "coadread", "genes_logistic", range(5))
    assert estimates is not None
    expected = []
    for fold in range(5):
        tested = _tested(fold).query("task == 'subtype:READ' and label == label")
        called = tested["score"] > 0.5
        expected.append(
            (accuracy_score(tested["label"], called), roc_auc_score(tested["label"], tested["score"]),
             f1_score(tested["label"], called, average="macro"))
        )  # fmt: skip
    for metric, value in zip(mirror_folds.METRICS, np.mean(expected, axis=0), strict=True):
        low, high = estimates[metric].interval
        assert estimates[metric].value == pytest.approx(value)
        assert low < value < high
    assert mirror_folds.scores(tmp_path, "coadread", "full", range(5)) is None
    text = "\n".join(mirror_tables.blocks(tmp_path, tmp_path / "images"))
    assert "| expression | `genes_logistic` |" in text
    assert "`full` (1 of 5 folds)" in text
    assert "fold 2: 1" in text
    assert "2 are not" in text
    assert (tmp_path / "images" / mirror_tables.PICTURE).read_bytes().startswith(b"\x89PNG")
    assert mirror_tables.blocks(tmp_path / "nothing", tmp_path / "images") == []


def test_published_folds_are_of_known_patients_and_overlaps_are_found(tmp_path: Path) -> None:
    for fold in range(5):
        (tmp_path / f"splits_{fold}.csv").write_text(
            ",train,val\n0,TCGA-AA-0001,TCGA-AA-0002\n1,TCGA-AA-0001,TCGA-ZZ-0000\n"
            + ("2,TCGA-AA-0002,\n" if fold == 3 else "")
        )
    table, unknown = mirror_folds.published_folds(tmp_path, ["TCGA-AA-0001", "TCGA-AA-0002"])
    assert unknown == ["TCGA-ZZ-0000"]
    assert len(table) == 11  # a patient of several slides is one row
    assert mirror_folds.overlaps(table) == {3: ["TCGA-AA-0002"]}


def test_concordance_of_released_risks_by_hand(tmp_path: Path) -> None:
    """Four patients, five comparable pairs, three and a half of them in the right order."""
    path = tmp_path / "released.csv"
    path.write_text(
        "model,cohort,fold,case_id,risk,months,event\n"
        "m,blca,0,a,0.9,1,1\nm,blca,0,b,0.2,2,1\nm,blca,0,c,0.9,3,0\nm,blca,0,d,0.1,4,0\n"
    )
    concordance = released_risks.concordance_by_fold(released_risks.released(path))
    assert concordance.loc["m", "blca", 0] == pytest.approx(3.5 / 5)


def test_released_risks_stand_beside_the_row_that_they_are_compared_with(tmp_path: Path) -> None:
    place = tmp_path / "comparison" / "blca"
    place.mkdir(parents=True)
    (place / "comparison.csv").write_text(
        "experiment,survival_n,survival_value,survival_low,survival_high,survival_difference,"
        "survival_difference_low,survival_difference_high,survival_p_holm\n"
        "full_both,9,0.64,0.60,0.67,,,,\nSNN,9,0.51,0.47,0.55,-0.13,-0.17,-0.08,0.005\n"
    )
    text = "\n".join(released_risks._paired(place / "comparison.csv", tmp_path))
    assert "Differences are from `full_both`, the default on slides and expression." in text
    assert "| `full_both` | ours | 0.640 [0.600, 0.670] | reference |  |" in text
    assert "| `SNN` | released | 0.510 [0.470, 0.550] | -0.130 [-0.170, -0.080] | 0.005 |" in text
