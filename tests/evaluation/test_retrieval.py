"""Retrieval ranks by hand, chance in closed form against simulation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.retrieval import of_runs
from toxfusion.evaluation import retrieval


def test_ranks_by_hand() -> None:
    query = np.eye(3)
    target = np.array([[1.0, 0.0, 0.0], [0.0, 0.1, 1.0], [0.0, 1.0, 0.1]])
    assert retrieval.ranks(query, target).tolist() == [1, 2, 2]
    assert retrieval.ranks(query, target, np.array(["a", "b", "b"])).tolist() == [1, 1, 1]


def test_equal_embeddings_are_found_first_and_constant_ones_are_at_chance() -> None:
    vectors = np.random.default_rng(0).normal(size=(41, 8))
    assert (retrieval.ranks(vectors, vectors) == 1).all()
    assert (retrieval.ranks(np.ones((41, 3)), np.ones((41, 3))) == 21).all()


@pytest.mark.parametrize("grouped", [False, True])
def test_chance_in_closed_form_equals_random_orders(grouped: bool) -> None:
    n = 30
    groups = np.arange(n) // 4 if grouped else None
    recall, median = retrieval.chance(groups, n)
    rng = np.random.default_rng(1)
    rank = np.concatenate(
        [retrieval.ranks(rng.normal(size=(n, 30)), rng.normal(size=(n, 30)), groups) for _ in range(150)]
    )
    for k, expected in recall.items():
        assert (rank <= k).mean() == pytest.approx(expected, abs=0.03)
    assert np.median(rank) == pytest.approx(median, abs=1)


def test_chance_by_hand() -> None:
    recall, median = retrieval.chance(None, 20)
    assert recall == {1: pytest.approx(0.05), 5: pytest.approx(0.25), 10: pytest.approx(0.5)}
    assert median == 10
    recall, _ = retrieval.chance(np.array([0, 0, 1, 1]), 4, (1, 2, 10))
    # Two right of four: 2/4 at rank 1; miss both of the first two with 2/4 * 1/3.
    assert recall == {1: pytest.approx(0.5), 2: pytest.approx(1 - 1 / 6), 10: pytest.approx(1)}


def test_table_has_both_directions_and_shuffles_fall_to_chance() -> None:
    rng = np.random.default_rng(2)
    slide = rng.normal(size=(60, 16))
    expression = slide + 0.3 * rng.normal(size=(60, 16))
    table = retrieval.retrieval_table(slide, expression, groups=np.arange(60) // 3, shuffles=20)
    assert len(table) == 2 * 2 * 4
    first = table[table["metric"] == "recall_at_1"]
    assert (first["value"] > 0.9).all()
    assert (first["shuffled"] - first["chance"]).abs().max() < 0.05


def test_bad_embeddings_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        retrieval.ranks(np.full((3, 2), np.nan), np.ones((3, 2)))
    with pytest.raises(ValueError, match="alike"):
        retrieval.ranks(np.ones((3, 2)), np.ones((4, 2)))


def test_runs_of_a_folder_are_summed_up_by_experiment(tmp_path: Path) -> None:
    def run(experiment: str, fold: int, value: float) -> None:
        folder = tmp_path / "study" / experiment / f"fold{fold}_seed0"
        folder.mkdir(parents=True)
        common = {"direction": "slide_to_expression", "chance": 0.1, "shuffled": 0.11}
        records = [
            {**common, "match": match, "metric": metric, "value": value + other}
            for match, metric, other in (
                ("instance", "recall_at_10", 0.0),
                ("instance", "recall_at_5", 9.0),
                ("group", "recall_at_10", 9.0),
            )
        ]
        (folder / "metrics.json").write_text(json.dumps({"retrieval": records}))

    run("full_split.n_folds-5", 0, 0.2)
    run("full_split.n_folds-5", 1, 0.4)
    run("null_shuffled_pairs_split.n_folds-5", 0, 0.1)
    table = of_runs(tmp_path).set_index("experiment")
    assert table.loc["full", ["mean", "least", "highest", "runs"]].tolist() == pytest.approx(
        [0.3, 0.2, 0.4, 2]
    )
    assert table.loc["null_shuffled_pairs", "mean"] == pytest.approx(0.1)
    with pytest.raises(SystemExit, match="no finished run with two modalities"):
        of_runs(tmp_path / "study" / "nothing")
