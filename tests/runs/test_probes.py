"""Probes of finished runs: retrieval again as training had it, nothing hidden as the scores, refusals and reasons."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.training.small_runs import trained
from toxfusion.runs.again import Evaluation, evaluate_run
from toxfusion.runs.loaded import load_own_study, load_run
from toxfusion.runs.probes import EMBEDDINGS, PROBES, ProbeError, network_of, probe_run, task_units
from toxfusion.study.study import Study
from toxfusion.training.folder import RunError, RunFolder


@pytest.fixture(scope="module")
def probed(short_run: RunFolder) -> Evaluation:
    return evaluate_run(
        short_run, short_run.root / "evaluation", draws=100, seed=0, probes=PROBES, embeddings=EMBEDDINGS
    )


def test_every_probe_is_written_and_in_the_metrics(short_run: RunFolder, probed: Evaluation) -> None:
    table = pd.read_parquet(short_run.probes)
    pd.testing.assert_frame_equal(table, probed.probes)
    assert set(table["probe"]) == set(PROBES)
    assert set(table.loc[table["probe"] == "knn", "embedding"]) == set(EMBEDDINGS)
    written = json.loads((short_run.root / "evaluation" / "metrics.json").read_text())
    assert len(written["probes"]) == len(table)
    assert set(written["scores"]) >= {"dili", "injury"}
    assert (
        len(written["strata"])
        == len(probed.strata)
        == len(pd.read_csv(short_run.root / "evaluation" / "strata.csv"))
    )
    keys = ("task", "by", "stratum", "metric", "value", "n", "small")  # of the same table; draws differ
    of_training = json.loads(short_run.metrics.read_text())["strata"]
    assert [[stratum[k] for k in keys] for stratum in of_training] == [
        [stratum[k] for k in keys] for stratum in written["strata"]
    ]
    # NaN never stands alone.
    assert (table.loc[table["value"].isna(), "reason"] != "").all()
    assert (short_run.root / "evaluation" / "missing_modality.png").is_file()


def test_retrieval_of_the_pretrained_network_is_what_training_wrote(
    short_run: RunFolder, probed: Evaluation
) -> None:
    table = probed.probes
    ours = table[(table["probe"] == "retrieval") & (table["embedding"] == "pretrained")]
    theirs = json.loads(short_run.metrics.read_text())["retrieval"]
    assert [(f"{r['direction']}/{r['match']}", r["metric"]) for r in theirs] == list(
        zip(ours["task"], ours["metric"], strict=True)
    )
    np.testing.assert_allclose(ours["value"], [r["value"] for r in theirs])
    np.testing.assert_allclose(ours["chance"], [r["chance"] for r in theirs])


def test_nothing_hidden_is_the_score_itself_from_either_side(
    probed: Evaluation,
) -> None:
    scores, table = probed.scores, probed.probes
    hidden = table[(table["probe"] == "missing_modality") & (table["share"] == 0)]
    assert set(hidden["hidden"]) == {"slide", "expression"}
    known = scores.set_index(["task", "metric"])["value"]
    for score in hidden.itertuples():
        np.testing.assert_allclose(score.value, known[score.task, score.metric])


def test_the_random_network_is_where_the_run_began_and_all_is_deterministic(short_run: RunFolder) -> None:
    loaded = load_run(short_run, *load_own_study(short_run))
    state = torch.get_rng_state()
    first, second = (network_of(loaded, "random").state_dict() for _ in range(2))
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert torch.equal(state, torch.get_rng_state())
    tuned = network_of(loaded, "pretrained").state_dict()
    assert not all(torch.equal(first[k], tuned[k]) for k in first)
    tables = [probe_run(loaded, ["few_shot", "prototype"], ["finetuned"], draws=20, seed=1) for _ in range(2)]
    pd.testing.assert_frame_equal(*tables)


def test_units_are_means_of_treated_samples_within_a_part(short_run: RunFolder) -> None:
    loaded = load_run(short_run, *load_own_study(short_run))
    fold, split = loaded.fold, loaded.fold.split
    samples = [*split.train, *split.test]
    part = np.array(["train"] * len(split.train) + ["test"] * len(split.test), dtype=object)
    values = np.random.default_rng(0).normal(size=(len(samples), 3))
    by_task = {u.task: u for u in task_units(fold, loaded.tasks, samples, part, values)}
    obs = fold.study.obs.loc[samples]
    for task, column in (("dili", "compound"), ("injury", "group_id")):
        units = by_task[task]
        treated = ~obs["is_control"].to_numpy(dtype=bool)
        assert set(units.unit_id) == set(obs.loc[treated, column])
        for i, name in enumerate(units.unit_id):
            mine = treated & (obs[column] == name).to_numpy()
            np.testing.assert_allclose(units.values[i], values[mine].mean(axis=0))
            assert units.label[i] == obs.loc[mine, task].iloc[0]
            assert {units.part[i]} == set(part[mine])
            assert units.compound[i] == obs.loc[mine, "compound"].iloc[0]


def test_names_that_do_not_exist_list_the_choices(short_run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match=r"\['fewshot'\] unknown; choose among few_shot, knn, prototype"):
        evaluate_run(short_run, tmp_path, draws=10, seed=0, probes=["fewshot"])
    with pytest.raises(ProbeError, match="choose among pretrained, finetuned, random, plain"):
        evaluate_run(short_run, tmp_path, draws=10, seed=0, probes=["knn"], embeddings=["best"])


def test_one_modality_and_no_pretraining_are_said(study: Study, tmp_path: Path) -> None:
    folder = trained(study, tmp_path, "experiment=ablation_omics_only", "pretrain=none",
                     "size.finetune_steps=3")  # fmt: skip
    table = evaluate_run(folder, tmp_path / "out", draws=50, seed=0, probes=PROBES).probes
    missing = table[table["probe"] == "missing_modality"]
    assert missing["reason"].tolist() == ["not applicable: the run reads one modality (omics)"]
    assert not (tmp_path / "out" / "missing_modality.png").exists()
    assert set(table.loc[table["embedding"] == "pretrained", "reason"]) == {"the run has no pretraining"}
    assert table.loc[(table["embedding"] == "plain") & (table["probe"] == "prototype"), "value"].notna().any()


def test_an_evaluation_without_probes_leaves_none_of_an_earlier_one(
    short_run: RunFolder, tmp_path: Path
) -> None:
    output = tmp_path / "evaluation"
    evaluate_run(
        short_run, output, draws=10, seed=0, probes=["prototype", "missing_modality"], embeddings=["random"]
    )
    (output / "notes.txt").write_text("the user's own")
    before = {f.name for f in output.iterdir()}
    assert {"probes.parquet", "probes.csv", "missing_modality.png"} <= before
    evaluate_run(short_run, output, draws=10, seed=0)
    assert before - {f.name for f in output.iterdir()} == {
        "probes.parquet",
        "probes.csv",
        "missing_modality.png",
    }
    assert json.loads((output / "metrics.json").read_text())["probes"] == []
    with pytest.raises(ProbeError):
        evaluate_run(short_run, output, draws=10, seed=0, probes=["fewshot"])
    assert (output / "metrics.json").is_file()  # a refusal removes nothing


def test_the_run_itself_is_no_output(short_run: RunFolder) -> None:
    stored = short_run.predictions.read_bytes()
    with pytest.raises(RunError, match=r"is the run itself; give paths\.output"):
        evaluate_run(short_run, short_run.root, draws=10, seed=0)
    assert short_run.predictions.read_bytes() == stored


def test_a_baseline_has_nothing_to_probe(study: Study, tmp_path: Path) -> None:
    folder = trained(study, tmp_path, "experiment=metadata_logistic")
    with pytest.raises(ProbeError, match="metadata_logistic has no network to probe"):
        evaluate_run(folder, tmp_path / "out", draws=10, seed=0, probes=["knn"])
