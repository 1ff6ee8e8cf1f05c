"""The predictions table: contract, files, pooling over folds and seeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from toxfusion.evaluation import predictions
from toxfusion.evaluation.predictions import PredictionsError


def test_written_table_reads_back_equal(make_table, tmp_path: Path) -> None:
    table = predictions.validate(make_table())
    predictions.write(table, tmp_path / "run" / "predictions.parquet")
    pd.testing.assert_frame_equal(predictions.read(tmp_path / "run" / "predictions.parquet"), table)
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["predictions.parquet"]


def test_refused_table_leaves_the_old_file(make_table, tmp_path: Path) -> None:
    path = tmp_path / "predictions.parquet"
    table = make_table()
    predictions.write(table, path)
    with pytest.raises(PredictionsError, match="finite"):
        predictions.write(table.assign(score=np.nan), path)
    assert len(predictions.read(path)) == len(table)
    assert len(list(tmp_path.iterdir())) == 1


def test_absent_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PredictionsError, match=r"absent\.parquet"):
        predictions.read(tmp_path / "absent.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"not parquet")
    with pytest.raises(PredictionsError, match=r"broken\.parquet"):
        predictions.read(tmp_path / "broken.parquet")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("task", "", "task"),
        ("family", "toxicity", "family"),
        ("level", "animal", "level"),
        ("part", "train", "part"),
        ("score", np.inf, "finite"),
        ("score", 1.5, "probability"),
        ("label", 0.5, "label"),
        ("compound", "", "compound"),
        ("study", None, "study"),
        ("fold", "first", "fold"),
    ],
)
def test_bad_value_is_named(make_table, column: str, value: object, message: str) -> None:
    table = make_table().astype({"fold": object})
    first = table.index[table["task"] == "injury"][0]
    table[column] = table[column].astype(object)
    table.loc[first, column] = value
    with pytest.raises(PredictionsError, match=message):
        predictions.validate(table)


def test_missing_and_unknown_columns_are_named(make_table) -> None:
    with pytest.raises(PredictionsError, match="batch"):
        predictions.validate(make_table().drop(columns="batch"))
    with pytest.raises(PredictionsError, match="logit"):
        predictions.validate(make_table().assign(logit=0.0))


def test_unit_in_valid_and_test_is_refused(make_table) -> None:
    table = make_table(n_folds=2)
    leaked = table[table["part"] == "test"].iloc[[0]].assign(part="valid")
    with pytest.raises(PredictionsError, match="scored twice"):
        predictions.validate(pd.concat([table, leaked]))


def test_compound_rows_blank_what_differs_within_the_compound() -> None:
    obs = pd.DataFrame(
        {
            "compound": ["a", "a", "b"],
            "group_id": ["g1", "g2", "g3"],
            "dose_level": ["low", "high", "low"],
            "time_h": [24.0, 24.0, 48.0],
            "study": ["s", "s", "s"],
            "batch": ["p1", "p2", "p1"],
            "is_control": [False, True, True],
        },
        index=["x", "y", "z"],
    )
    units = predictions.describe_units(obs, "compound")
    assert units.loc["a"].tolist() == ["a", "", 24.0, "s", "", False]
    assert units.loc["b"].tolist() == ["b", "low", 48.0, "s", "p1", True]


def test_pool_joins_folds_and_averages_seeds(make_table) -> None:
    tables = [make_table(fold=f, n_folds=3, seed=s) for f in range(3) for s in range(2)]
    pooled = predictions.pool(tables)
    assert set(pooled["part"]) == {"test"}
    assert (pooled["n_seeds"] == 2).all()
    assert not pooled.duplicated(["task", "unit_id"]).any()
    assert (pooled["task"] == "dili").sum() == 24
    chosen = "task == 'dili' and unit_id == 'compound00' and part == 'test'"
    of_each_seed = [t.query(chosen)["score"].iloc[0] for t in tables if len(t.query(chosen))]
    assert len(of_each_seed) == 2
    assert pooled.query(chosen)["score"].iloc[0] == pytest.approx(np.mean(of_each_seed))


def test_pool_refuses_a_test_unit_in_two_folds(make_table) -> None:
    tables = [make_table(fold=0, n_folds=2), make_table(fold=0, n_folds=2).assign(fold=1)]
    with pytest.raises(PredictionsError, match=r"folds \[0, 1\]"):
        predictions.pool(tables)


def test_pool_refuses_the_same_run_twice(make_table) -> None:
    with pytest.raises(PredictionsError, match="scored twice"):
        predictions.pool([make_table(), make_table()])


def test_pool_refuses_labels_that_differ_between_seeds(make_table) -> None:
    other = make_table(seed=1)
    other["label"] = np.where(other["task"] == "dili", 1 - other["label"], other["label"])
    with pytest.raises(PredictionsError, match="differs between seeds"):
        predictions.pool([make_table(), other])


def test_pool_keeps_the_flag_of_imputed_units(make_table) -> None:
    flagged = make_table(fold=0, n_folds=2).assign(imputed=True)
    pooled = predictions.pool([flagged, make_table(fold=1, n_folds=2)])
    assert pooled.groupby("fold")["imputed"].all().tolist() == [True, False]
