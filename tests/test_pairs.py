"""The benchmark on pairs: statistics by hand, the same patients for every row, nothing learned from test patients."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from benchmarks.cohort_study import SPLIT, cohorts_in, site_folds
from benchmarks.pairs import label_tasks, learned_from, parse
from benchmarks.pairs_cells import PairsCell, cells_of
from benchmarks.pairs_methods import METHODS
from benchmarks.pairs_readings import EVERY, FEW, Label, Vectors, label_scores, predicted_genes, retrieval
from benchmarks.pairs_statistics import (
    auroc,
    concordance,
    gene_correlation,
    median_share,
    recall,
    weights,
)
from benchmarks.pairs_tables import gain_of_both, gain_of_pretraining
from toxfusion.config.entry import compose
from toxfusion.study.files import replace_file
from toxfusion.training.task_nodes import build_tasks

GRADE = Label("grade", "grade", ("low",), ("high",))


def patients(n: int = 240, seed: int = 0) -> Vectors:
    """Two cohorts of one organ; slide and expression share three directions, of which the first is the label."""
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(n, 3))
    obs = pd.DataFrame(
        {
            "batch": np.where(np.arange(n) // 6 % 2, "luad", "lusc"),
            "organ": "lung",
            "part": np.tile(["train", "train", "train", "train", "valid", "test"], n // 6),
            "grade": np.where(latent[:, 0] > 0, "high", "low"),
        },
        index=pd.Index([f"p{i:03d}" for i in range(n)], name="sample_id"),
    )
    slide = np.c_[latent + 0.3 * rng.normal(size=(n, 3)), rng.normal(size=(n, 2))]
    expression = np.c_[latent + 0.3 * rng.normal(size=(n, 3)), rng.normal(size=(n, 2))]
    genes = latent @ rng.normal(size=(3, 20)) + rng.normal(size=(n, 20))
    return Vectors(obs, slide, expression, genes=genes)


def test_recall_and_median_by_hand() -> None:
    table = pd.DataFrame({"sample_id": list("abcd"), "fold": 0, "seed": 0, "rank": [1, 10, 11, 40], "n": 40})
    estimate = recall(table)
    assert estimate.value == 0.5
    low, high = estimate.interval
    assert 0.0 <= low < 0.5 < high <= 1.0
    assert median_share(table).value == pytest.approx(10.5 / 40)
    again = pd.concat([table, table.assign(seed=1, rank=1)])
    assert recall(again).value == 0.75  # of a patient, the mean over seeds


def test_auroc_compares_patients_of_one_fold() -> None:
    """Scores of fold 1 lie far above those of fold 0: within each the ranking is right."""
    table = pd.DataFrame(
        {"sample_id": list("abcdef"), "fold": [0, 0, 0, 1, 1, 1], "seed": 0, "draw": 0,
         "label": [0.0, 0.0, 1.0, 0.0, 1.0, 1.0], "score": [0.0, 1.0, 2.0, 100.0, 101.0, 99.0]}
    )  # fmt: skip
    assert auroc(table).value == pytest.approx((2 + 1) / (2 + 2))


def test_concordance_by_hand() -> None:
    table = pd.DataFrame(
        {"sample_id": list("abcd"), "fold": 0, "seed": 0, "time": [1.0, 2.0, 3.0, 4.0], "event": [1, 0, 1, 0],
         "score": [4.0, 3.0, 0.0, 1.0]}
    )  # fmt: skip
    assert concordance(table).value == pytest.approx(3 / 4)  # a before b, c, d; c before d is wrong


def test_gene_correlation_is_the_median_of_pearsons_r() -> None:
    rng = np.random.default_rng(0)
    names = [f"p{i}" for i in range(30)]
    truth, predicted = (pd.DataFrame(rng.normal(size=(30, 5)), index=names) for _ in range(2))
    expected = np.median([np.corrcoef(truth[j], predicted[j])[0, 1] for j in range(5)])
    estimate = gene_correlation({0: predicted, 1: predicted.iloc[:2]}, {0: truth, 1: truth})
    assert estimate.value == pytest.approx(expected)
    assert estimate.interval[0] < expected < estimate.interval[1]


def test_all_rows_draw_the_same_patients() -> None:
    names = np.array([f"p{i}" for i in range(20)])
    order = np.random.default_rng(0).permutation(20)
    first, second = (weights(n, np.full(20, "0"), 7) for n in (names, names[order]))
    np.testing.assert_array_equal(first[:, order], second)
    assert (first.sum(1) == 20).all()


def test_the_difference_of_a_row_from_itself_is_nothing() -> None:
    table = (
        retrieval(patients()).assign(fold=0, seed=0).query("within == 'luad' and direction == 'slide to RNA'")
    )
    difference = recall(table).minus(recall(table.sample(frac=1, random_state=0)))
    assert difference.value == 0
    assert difference.interval == (0, 0)


def test_readings_see_what_is_there() -> None:
    of = patients()
    ranked = retrieval(of)
    assert set(ranked["within"]) == {"luad", "lusc", "lung"}
    assert ranked.groupby("within")["n"].first().to_dict() == {"luad": 20, "lung": 40, "lusc": 20}
    assert (ranked["rank"] <= 5).mean() > 0.5
    scores = label_scores(of, (GRADE,)).assign(fold=0, seed=0)
    for budget, reads in itertools.product((FEW, EVERY), ("slide", "expression", "both")):
        chosen = scores[(scores["labels"] == budget) & (scores["input"] == reads)]
        assert chosen["draw"].nunique() == (10 if budget == FEW else 1)
        assert auroc(chosen).value > 0.8
    predicted = predicted_genes(of)
    assert predicted is not None
    truth = pd.DataFrame(of.genes, index=of.obs.index, columns=[str(i) for i in range(20)])
    assert gene_correlation({0: predicted.set_index("sample_id")}, {0: truth}).value > 0.3


def test_what_a_cohort_has_in_common_finds_no_patient() -> None:
    of = patients()
    assert of.slide is not None
    in_cohort = (of.obs["batch"] == "luad").to_numpy()
    moved = retrieval(replace(of, slide=of.slide + np.where(in_cohort[:, None], 7.0, 0.0)))
    before = retrieval(of)
    alone = before["within"] == "luad"
    pd.testing.assert_frame_equal(moved[alone], before[alone])
    # Where both cohorts are searched, one that lies apart is easily told from the other, and then nothing else is.
    assert (
        moved.loc[moved["within"] == "lung", "rank"].mean()
        > before.loc[before["within"] == "lung", "rank"].mean()
    )


def test_labels_are_read_from_what_heads_read() -> None:
    of, nothing = patients(), np.random.default_rng(1).normal(size=(240, 2))
    from_parts = label_scores(replace(of, slide_read=of.slide, slide=nothing), [GRADE])
    pd.testing.assert_frame_equal(from_parts, label_scores(of, [GRADE]))
    unread = label_scores(replace(of, slide_read=nothing), [GRADE]).query("input == 'slide'")
    assert auroc(unread.assign(fold=0, seed=0)[unread["labels"] == EVERY]).value < 0.75


def test_readings_learn_nothing_from_test_patients() -> None:
    of, other = patients(), patients()
    tested = (of.obs["part"] == "test").to_numpy()
    other.obs.loc[tested, "grade"] = "low"
    other.obs.loc[other.obs.index[tested][0], "grade"] = "high"
    assert other.genes is not None
    other.genes[tested] = 7.0
    scores = [label_scores(v, (GRADE,))["score"] for v in (of, other)]
    np.testing.assert_array_equal(*scores)
    genes = [predicted_genes(v) for v in (of, other)]
    pd.testing.assert_frame_equal(genes[0], genes[1])


def test_folds_keep_sites_whole_and_cohorts_alike() -> None:
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"study": rng.integers(0, 60, 900).astype(str)})
    obs["batch"] = np.where(rng.random(900) < 0.3, "luad", "brca")
    obs.index = pd.Index([f"p{i}" for i in range(900)], name="sample_id")
    table = site_folds(obs)
    assert table[table["part"] == "test"]["sample_id"].value_counts().eq(1).all()
    for _, fold in table.groupby("fold"):
        parts = fold.set_index("sample_id")["part"]
        assert pd.crosstab(obs["study"], parts).gt(0).sum(1).max() == 1
        share = obs["batch"][parts == "test"].eq("luad").mean()
        assert abs(share - obs["batch"].eq("luad").mean()) < 0.1
        assert 0.1 < (parts == "valid").mean() < 0.2


def test_rows_of_fewer_pairs_are_parts_of_each_other_and_are_tested_alike(tmp_path) -> None:
    obs, root = patients().obs.assign(study=[f"s{i // 8}" for i in range(240)]), tmp_path / "study"
    replace_file(root / SPLIT, site_folds(obs).to_csv(index=False).encode())
    parts = {}
    for name in ("full", "full_half", "full_quarter"):
        table = pd.read_csv(learned_from(PairsCell(METHODS[name], 1, tmp_path, 0), root, obs["batch"])).query(
            "fold == 1"
        )
        parts[name] = {part: set(of) for part, of in table.groupby("part")["sample_id"]}
    whole, half, quarter = (parts[name]["train"] for name in parts)
    assert quarter < half < whole
    assert len(half) == pytest.approx(len(whole) / 2, rel=0.2)
    assert all(
        of["test"] == parts["full"]["test"] and of["valid"] == parts["full"]["valid"] for of in parts.values()
    )
    without = replace(METHODS["full_without_lihc"], without="lusc")
    table = pd.read_csv(learned_from(PairsCell(without, 1, tmp_path, 0), root, obs["batch"])).query(
        "fold == 1"
    )
    cohort = table["sample_id"].map(obs["batch"])
    assert set(cohort[table["part"] != "test"]) == {"luad"}
    assert set(cohort[table["part"] == "test"]) == {"luad", "lusc"}


def test_a_second_modality_that_adds_nothing_is_told_as_nothing_and_one_that_costs_by_its_task(
    tmp_path,
) -> None:
    cell = PairsCell(METHODS["full"], 0, tmp_path, 0)
    label = np.tile([0.0, 1.0], 20)
    noise = np.random.default_rng(0).normal(size=40)
    scores = {"slide": noise, "expression": label + 0.1 * noise, "both": label + 0.1 * noise}
    about = {"sample_id": [f"p{i:02d}" for i in range(40)], "label": label, "labels": FEW, "draw": 0}
    parts = [
        pd.DataFrame(
            {**about, "task": task, "input": reads, "score": noise if (task, reads) == ("b", "both") else of}
        )
        for task in ("a", "b")
        for reads, of in scores.items()
    ]
    replace_file(cell.readings, pd.concat(parts).to_parquet())
    told = gain_of_both([cell], ["a"])
    assert "| full | ten | 0.000 [0.000, 0.000] | 0." in told
    assert told.endswith("| none |")
    assert gain_of_both([cell], ["a", "b"]).endswith("| b |")


def test_what_pretraining_teaches_is_told_of_rows_of_the_same_folds(tmp_path) -> None:
    label, noise = np.tile([0.0, 1.0], 20), np.random.default_rng(0).normal(size=40)
    about = {
        "sample_id": [f"p{i:02d}" for i in range(40)],
        "label": label,
        "draw": 0,
        "input": "slide",
        "task": "a",
    }
    cells = []
    for name, score in (
        ("slide_after_both", label),
        ("slide_alone", -label),
        ("abmil", label),
        ("clam", noise),
    ):
        cells.append(PairsCell(METHODS[name], 0, tmp_path, 0))
        parts = [pd.DataFrame({**about, "labels": budget, "score": score}) for budget in (FEW, EVERY)]
        replace_file(cells[-1].readings, pd.concat(parts).to_parquet())
    folds = {name: frozenset[int]() for name in METHODS} | {c.method.name: frozenset({0}) for c in cells}
    told = gain_of_pretraining(cells, ["a"], folds | {"clam": frozenset({0, 1})})
    assert "| `slide_after_both` less `slide_alone` | ten | +1.000 | 1.000 [1.000, 1.000] |" in told
    assert "| `slide_after_both` less `abmil` | all | +0.000 | 0.000 [0.000, 0.000] |" in told
    assert "clam" not in told
    assert gain_of_pretraining(cells[:1], ["a"], {**folds, "slide_alone": frozenset(), "abmil": frozenset(),
                                                  "clam": frozenset()}) == ""  # fmt: skip


def test_a_plan_of_cells_goes_seed_by_seed_and_closed_forms_have_one(tmp_path) -> None:
    arguments = parse([str(tmp_path), "--rows", "full", "ridge", "--folds", "0", "2", "--seeds", "5", "6"])
    cells = [(c.method.name, c.fold, c.seed) for c in cells_of(arguments)]
    assert cells == [
        ("full", 0, 5),
        ("ridge", 0, 5),
        ("full", 2, 5),
        ("ridge", 2, 5),
        ("full", 0, 6),
        ("full", 2, 6),
    ]
    assert set(METHODS) >= {"full", "mirror", "tangle", "clip", "siglip", "ridge", "logistic"}
    with pytest.raises(SystemExit, match="holds no cohort"):
        cohorts_in(tmp_path, ["luad"])


def test_rows_that_are_trained_ask_for_the_labels_that_the_cohorts_have() -> None:
    obs = pd.DataFrame(
        {"batch": ["luad", "lusc", "lihc", "lihc"], "subtype": "x",
         "ishak_fibrosis_score": ["", "", "0 - No Fibrosis", "1,2 - Portal Fibrosis"]}
    )  # fmt: skip
    task, labels, _ = label_tasks(obs)
    config = compose("train", ["data.root=study", task, labels])
    assert config["task"]["labels"] == {
        "luad_or_lusc": {"column": "batch", "negative": ["luad"], "positive": ["lusc"]},
        "lihc_fibrosis_any_or_none": {
            "column": "ishak_fibrosis_score", "negative": ["0 - No Fibrosis"], "positive": ["1,2 - Portal Fibrosis"],
        },
    }  # fmt: skip
    assert set(build_tasks(config).weights) == {"luad_or_lusc", "lihc_fibrosis_any_or_none"}
