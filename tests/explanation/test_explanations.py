"""Explanations: hand-worked values of the measures, and sums, signs and files on a trained run of the small study."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from tests.feature_store import featured_study
from tests.training.small_runs import trained
from toxfusion.data.batch import Batch, RaggedTiles
from toxfusion.data.expression import ExpressionTransform
from toxfusion.explanation import (
    agreement,
    cohort,
    explaining,
    faithfulness,
    figures,
    fusion,
    genes,
    regions,
    truth,
)
from toxfusion.explanation.attribution import integrate_genes, integrate_tiles, samples_with, within_tolerance
from toxfusion.explanation.pathways import GeneSetSettings
from toxfusion.explanation.targets import TargetError, chosen_tasks, predict
from toxfusion.models.fusion import Fused
from toxfusion.models.network import Representation
from toxfusion.report import explained
from toxfusion.report import pages as html_report
from toxfusion.runs.loaded import LoadedRun, load_own_study, load_run
from toxfusion.study.study import Study
from toxfusion.synthetic.slide_spec import PHENOTYPES
from toxfusion.training.folder import RunError, RunFolder

GENE_SETS = (
    "first\t-\t" + "\t".join(f"Gene{i}" for i in range(6)) + "\nlast\t-\tGene40\tGene41\tGene49\tGene8\n"
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return featured_study(tmp_path_factory.mktemp("explained") / "study", mpp_override=0.5)


@pytest.fixture(scope="module")
def full(study: Study, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    style = ["pretrain.weights.style=0.1", "pretrain.weights.cluster=0.1"]
    steps = ["size.finetune_steps=3", "size.pretrain_steps=3"]
    return trained(study, tmp_path_factory.mktemp("full"), *steps, *style)


@pytest.fixture(scope="module")
def survpath(study: Study, tmp_path_factory: pytest.TempPathFactory) -> LoadedRun:
    folder = tmp_path_factory.mktemp("survpath")
    (folder / "sets.gmt").write_text(GENE_SETS)
    made = trained(
        study, folder, "expression=pathways", f"expression.gene_sets.gmt={folder / 'sets.gmt'}", "fusion=survpath",
        "expression.gene_sets.min_genes=1", "size.n_genes=50", "bag=abmil", "size.finetune_steps=2", "pretrain=none",
    )  # fmt: skip
    return load_run(made, *load_own_study(made))


@pytest.fixture(scope="module")
def null(study: Study, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run on permuted labels, with the split of ``full``."""
    steps = ("size.finetune_steps=2", "pretrain=none")
    return trained(study, tmp_path_factory.mktemp("null"), "permute_labels=true", *steps)


def one_with_slide(run: LoadedRun) -> str:
    return samples_with(run, run.fold.split.test, "slide")[0]


def test_bags_are_taken_in_the_order_asked() -> None:
    tiles = RaggedTiles(torch.arange(5.0)[:, None], torch.zeros(5, 2), torch.tensor([0, 2, 2, 5]))
    taken = tiles.take(torch.tensor([2, 1, 0, 2]))
    assert taken.features[:, 0].tolist() == [2, 3, 4, 0, 1, 2, 3, 4]
    assert taken.lengths.tolist() == [3, 0, 2, 3]


def test_predictions_of_a_taken_batch_are_those_of_the_batch(run: LoadedRun) -> None:
    batch = run.fold.batch(run.fold.split.test, stage="evaluate")
    samples = torch.tensor([3, 0, 0, 5])
    for task in run.tasks.names:
        whole = predict(run, batch, task)
        torch.testing.assert_close(predict(run, batch.take(samples), task), whole[samples])


def test_control_profiles_are_zero_change_or_the_mean_of_the_other_controls(study: Study) -> None:
    samples = study.sample_ids
    settings = {"n_genes": 10, "clip": 50.0}
    change = ExpressionTransform.fit(study, samples, reference="matched_controls", **settings)
    expected = (0.0 - change.mean) / change.scale
    np.testing.assert_allclose(
        change.control_profiles(study, samples[:4]), np.tile(expected, (4, 1)), rtol=1e-5
    )
    plain = ExpressionTransform.fit(study, samples, reference="none", **settings)
    controls = study.obs.index[study.obs["is_control"] & study.has_expression]
    treated = next(s for s in samples if not study.obs.at[s, "is_control"])
    matched = [
        c for c in controls if study.obs.at[c, "control_group"] == study.obs.at[treated, "control_group"]
    ]
    np.testing.assert_allclose(
        plain.control_profiles(study, [treated])[0], plain.transform(study, matched).mean(0), atol=1e-4
    )


def test_integrated_gradients_sum_to_the_difference_within_a_hundredth(run: LoadedRun) -> None:
    fold = run.fold
    having = samples_with(run, fold.split.test, "expression")
    control = fold.expression.control_profiles(fold.study, having)
    batch = fold.batch(having, stage="evaluate")
    sample = one_with_slide(run)
    for task in ("dili", "severity"):
        of_genes = integrate_genes(run, batch, task, control, steps=8)
        assert of_genes.converged.all()
        np.testing.assert_allclose(of_genes.value, predict(run, batch, task).detach().numpy(), rtol=1e-4)
        difference = of_genes.value - of_genes.baseline
        assert np.abs(difference).max() > 1e-3
        error = of_genes.values.sum(1) - difference
        assert (np.abs(error) <= np.maximum(0.011 * np.abs(difference), 2e-4)).all()
        of_tiles = integrate_tiles(
            run, fold.batch([sample], stage="evaluate"), task, fold.control_tiles([sample])[0]
        )
        assert of_tiles.converged.all()
        assert of_tiles.values.shape == (
            len(fold.batch([sample], stage="evaluate").tiles.features),
            fold.tile_dim,
        )


def test_tolerance_is_a_hundredth_of_the_difference() -> None:
    assert within_tolerance(np.array([0.009, 0.011]), np.array([-1.0, 1.0])).tolist() == [True, False]


def test_a_contribution_is_exact_where_the_path_is_linear(
    full: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number that is linear in the mean tile: contributions add up to its difference from controls."""
    loaded = load_run(full, *load_own_study(full))
    sample = one_with_slide(loaded)
    network, weight = loaded.network, torch.linspace(-1, 1, loaded.fold.tile_dim)

    def linear(batch: Batch) -> Representation:
        of_bag = torch.stack([bag.mean(0) @ weight for bag in batch.tiles.split(batch.tiles.features)])
        vector = of_bag[:, None].expand(-1, network.fused_width)
        return Representation(Fused(vector, torch.ones(len(batch), 2)))

    monkeypatch.setattr(network, "forward", linear)
    scores = regions.tile_scores(loaded, [sample], ["dili"])
    batch = loaded.fold.batch([sample], stage="evaluate")
    control = torch.from_numpy(loaded.fold.control_tiles([sample])).repeat(len(batch.tiles.features), 1)
    bare = replace(batch, tiles=batch.tiles.with_features(control))
    difference = (predict(loaded, batch, "dili") - predict(loaded, bare, "dili")).item()
    assert abs(difference) > 1e-3
    assert scores["contribution:dili"].sum() == pytest.approx(difference, rel=1e-3)


def test_tiles_spread_out_and_no_tile_is_at_both_ends() -> None:
    corners = np.array([[0, 0], [1, 0], [10, 0], [20, 0]])
    assert regions.spread_out(np.array([4.0, 3.0, 2.0, 1.0]), corners, 3, apart=5).tolist() == [0, 2, 3]
    table = pd.DataFrame({"x": corners[:, 0], "y": 0, "side": 1.0, "s": [4.0, 3.0, 2.0, 1.0]})
    extremes = regions.extreme_tiles(table, "s", 5)
    assert extremes["end"].tolist() == ["top", "top", "bottom", "bottom"]
    assert not extremes.index.duplicated().any()


def test_a_slide_of_one_tile_has_a_top_and_no_bottom() -> None:
    table = pd.DataFrame({"x": [0], "y": [0], "side": [1.0], "s": [-2.0]})
    extremes = regions.extreme_tiles(table, "s", 5)
    assert extremes[["end", "rank"]].values.tolist() == [["top", 1]]


def test_geojson_is_closed_squares_with_finite_measurements() -> None:
    tile = {"sample_id": "s", "slide_id": "a", "tile": 0, "x": 5, "y": 7, "side": 2.0, "mpp0": 0.5}
    collection = regions.geojson(pd.DataFrame([{**tile, "attention": 0.25, "contribution:dili": np.nan}]))
    (feature,) = collection["features"]
    assert feature["geometry"]["coordinates"] == [[[5, 7], [7, 7], [7, 9], [5, 9], [5, 7]]]
    assert feature["properties"]["measurements"] == {"attention": 0.25}
    json.dumps(collection, allow_nan=False)


def test_smoothing_keeps_a_constant_and_stays_on_tiles() -> None:
    corners = np.array([[0.0, 0.0], [8.0, 0.0], [4.0, 0.0]])
    smoothed = figures.smooth_map((20, 30), corners, 8.0, np.full(3, 2.5))
    np.testing.assert_allclose(smoothed.compressed(), 2.5)
    assert (~np.ma.getmaskarray(smoothed)).sum() == 8 * 16


def test_deletion_and_insertion_start_and_end_alike_and_mirror_each_other(run: LoadedRun) -> None:
    sample = one_with_slide(run)
    batch = run.fold.batch([sample], stage="evaluate")
    score = np.arange(len(batch.tiles.features), dtype=float)
    curves = faithfulness.deletion_insertion(run, batch, "dili", score, draws=4, seed=0)
    deletion, insertion = (curves[curves["curve"] == c].reset_index() for c in ("deletion", "insertion"))
    whole = predict(run, batch, "dili").item()
    bare = predict(run, batch.without("slide"), "dili").item()
    for start, end, curve in ((whole, bare, deletion), (bare, whole, insertion)):
        assert curve["value"].iloc[[0, -1]].tolist() == pytest.approx([start, end], rel=1e-4)
        assert curve["random"].iloc[[0, -1]].tolist() == pytest.approx([start, end], rel=1e-4)
    # Deleting the head leaves what inserting the tail of the reversed order puts in.
    back = faithfulness.deletion_insertion(run, batch, "dili", -score, draws=1, seed=0)
    back = back[back["curve"] == "insertion"]["value"].to_numpy()[::-1]
    half = np.isclose(np.array(faithfulness.SHARES) * len(score) % 1, 0)
    np.testing.assert_allclose(deletion["value"].to_numpy()[half], back[half], rtol=1e-4)


def test_the_area_is_positive_where_the_order_finds_what_raises_the_number() -> None:
    share = [0.0, 0.5, 1.0]
    curves = [
        pd.DataFrame(
            {"curve": "deletion", "share": share, "value": [1.0, 0.0, 0.0], "random": [1.0, 0.5, 0.0]}
        ),
        pd.DataFrame(
            {"curve": "insertion", "share": share, "value": [0.0, 1.0, 1.0], "random": [0.0, 0.5, 1.0]}
        ),
    ]
    assert faithfulness.area_between(pd.concat(curves)) == pytest.approx(
        {"deletion": 0.25, "insertion": 0.25}
    )


def test_random_weights_change_network_and_heads_and_leave_the_run(run: LoadedRun) -> None:
    before = {k: v.clone() for k, v in run.predictor.state_dict().items()}
    other, again = faithfulness.randomised(run, 5), faithfulness.randomised(run, 5)
    assert all(torch.equal(v, run.predictor.state_dict()[k]) for k, v in before.items())
    drawn = other.predictor.state_dict()
    assert not torch.equal(drawn["heads.lesions.head.1.weight"], before["heads.lesions.head.1.weight"])
    assert not torch.equal(drawn["network.bag.project.0.weight"], before["network.bag.project.0.weight"])
    assert all(torch.equal(v, again.predictor.state_dict()[k]) for k, v in drawn.items())


def test_kendalls_w_by_hand() -> None:
    same = np.array([[1.0, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4]])
    assert genes.kendall_w(same) == 1
    assert genes.kendall_w(np.array([[1.0, 2, 3], [3, 2, 1]])) == 0
    # Sums 3, 3, 6, 8 about 5: S = 4 + 4 + 1 + 9 = 18, and 12 * 18 / (4 * 60) = 0.9.
    assert genes.kendall_w(np.array([[1.0, 2, 3, 4], [2, 1, 3, 4]])) == pytest.approx(0.9)
    # A tie of two: 2 * (2^3 - 2) = 12 less below; sums 2.5, 3.5, 6 about 4, S = 6.5.
    assert genes.kendall_w(np.array([[1.5, 1.5, 3], [1, 2, 3]])) == pytest.approx(12 * 6.5 / (4 * 24 - 2 * 6))
    assert np.isnan(genes.kendall_w(same[:1]))


def test_aggregation_keeps_common_genes_and_measures_overlap() -> None:
    def table(ids: str, values: list[float]) -> pd.DataFrame:
        return pd.DataFrame({"gene_id": list(ids), "symbol": list(ids.upper()), "integrated": values})

    ranked, stability = genes.aggregate(
        {"one": table("abcd", [4.0, -3, 2, 1]), "two": table("dcbe", [1.0, 2, -3, 9])}, top_k=1
    )
    assert ranked["gene_id"].tolist() == ["b", "c", "d"]
    assert ranked.loc[0, ["mean_rank", "same_sign", "in_top"]].tolist() == [1, 1, 1]
    assert stability["left_out"] == 2
    assert (stability["kendall_w"], stability["top_overlap"]) == (1, 1)
    assert stability["top_overlap_chance"] == pytest.approx(1 / 3)


def test_without_a_modality_is_the_batch_without_it(run: LoadedRun) -> None:
    batch = run.fold.batch(run.fold.usable(run.fold.split.test), stage="evaluate")
    table = fusion.without_each(run, batch, ["dili"]).set_index("sample_id")
    both = (batch.has_slide & batch.has_expression).numpy()
    bare = predict(run, batch.without("slide"), "dili").detach().numpy()
    np.testing.assert_allclose(table["without_slide"].to_numpy()[both], bare[both], rtol=1e-5)
    assert table["without_expression"].isna().to_numpy().tolist() == (~both).tolist()
    gate = fusion.gates(run, batch)
    np.testing.assert_allclose(gate["gate_slide"] + gate["gate_expression"], 1, rtol=1e-5)
    assert (gate.loc[~gate["has_slide"], "gate_slide"] == 0).all()
    attention = fusion.token_attention(run, batch)
    np.testing.assert_allclose(attention.groupby(["direction", "from"])["attention"].sum(), 1, rtol=1e-4)


def test_attention_over_pathways_sums_to_one_and_reaches_tiles(survpath: LoadedRun) -> None:
    having = samples_with(survpath, survpath.fold.split.test, "expression")
    attention = genes.pathway_attention(survpath, having)
    assert list(attention.columns) == ["first", "last", genes.OTHERS]
    np.testing.assert_allclose(attention.sum(axis=1), 1, rtol=1e-4)
    attributions = genes.attribute_genes(survpath, having, "severity")
    table = genes.pathway_table(survpath, attributions, attention).set_index("pathway")
    ids = survpath.fold.expression.symbols
    mine = [i for i, s in enumerate(ids) if s in {f"Gene{k}" for k in range(6)}]
    assert table.at["first", "integrated"] == pytest.approx(
        attributions.integrated.mean().to_numpy()[mine].sum(), rel=1e-4
    )
    with_slides = samples_with(survpath, survpath.fold.split.test, "slide")[:2]
    tiles = fusion.expression_on_tiles(survpath, with_slides)
    assert {"first", "last", "shared"} <= set(tiles.columns)
    assert (tiles[["first", "last"]] >= 0).all(axis=None)


def test_cross_attention_reads_tiles_token_by_token(run: LoadedRun) -> None:
    sample = one_with_slide(run)
    tiles = fusion.expression_on_tiles(run, [sample])
    tokens = tiles[
        [c for c in tiles.columns if c.startswith("latent") or c in ("profile", "shared", "private")]
    ]
    assert len(tokens.columns) == run.network.expression.n_tokens + 2
    assert (tokens > 0).all(axis=None)
    assert (tokens.sum() < 1).all()
    batch = run.fold.batch([sample], stage="evaluate")
    seen = run.network(batch).fused.attention["expression_to_tiles"].mean(1).detach().numpy()
    np.testing.assert_allclose(tokens.to_numpy(), seen, rtol=1e-5)


def test_localisation_and_recovery_by_hand() -> None:
    lesion = np.array([True, False, True, False])
    best = truth.localisation(np.array([4.0, 1.0, 3.0, 2.0]), lesion)
    assert best == {"auroc": 1, "average_precision": 1, "pointing": 1, "prevalence": 0.5}
    tied = truth.localisation(np.zeros(4), lesion)
    assert (tied["auroc"], tied["pointing"]) == (0.5, 0.5)
    recovered = truth.recovery(np.array([3.0, 2.0, 1.0]), ["A", "B", "C"], {"A", "C", "D"})
    assert recovered["average_precision"] == pytest.approx((1 + 2 / 3) / 2)


def test_lesion_shares_read_the_mask_under_the_tile(tmp_path: Path, study: Study) -> None:
    bits = np.zeros((10, 10), np.uint16)
    bits[0:2, 4:6] = 1 << PHENOTYPES.index("necrosis")
    (tmp_path / "truth" / "masks").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "truth" / "masks" / "a.png"), bits)
    # Tiles of 16 level-0 px at 0.5 um are 4 px of a mask at 2 um.
    tiles = pd.DataFrame({"slide_id": "a", "x": [0, 16], "y": [0, 0], "side": 16.0, "mpp0": 0.5})
    shares = truth.lesion_shares(replace(study, root=tmp_path), tiles)
    assert shares["necrosis"].tolist() == [0.0, 0.25]
    with pytest.raises(truth.TruthError, match="no lesion mask"):
        truth.lesion_shares(replace(study, root=tmp_path), tiles.assign(slide_id="b"))


def test_correlation_of_ranks_by_hand() -> None:
    one = np.array([[1.0, 2, 3], [1, 2, 3], [1, 1, 2], [5, 5, 5]])
    other = np.array([[10.0, 20, 30], [3, 2, 1], [1, 2, 3], [1, 2, 3]])
    # Third row: ranks 1.5, 1.5, 3 and 1, 2, 3 about 2: 1.5 / sqrt(1.5 * 2).
    expected = [1, -1, 1.5 / np.sqrt(3.0), np.nan]
    np.testing.assert_allclose(agreement.row_correlation(one, other), expected, rtol=1e-12)


def test_scores_agree_with_themselves_and_lose_their_sign_when_turned(run: LoadedRun) -> None:
    scores = agreement.scores_of(run, ["dili"], steps=8)
    compound = run.fold.study.obs["compound"].to_dict()
    same = agreement.agreement(scores, scores, compound)
    assert set(zip(same["subject"], same["score"], strict=True)) == {
        ("tiles", "attention"), ("tiles", "contribution"), ("tiles", "gradient"), ("genes", "integrated"),
    }  # fmt: skip
    np.testing.assert_allclose(same[["spearman", "signed"]], 1)
    assert scores.tiles is not None
    turned = replace(
        scores, tiles=scores.tiles.assign(**{"contribution:dili": -scores.tiles["contribution:dili"]})
    )
    contribution = agreement.agreement(scores, turned, compound).set_index("score").loc["contribution"]
    assert contribution["spearman"] == pytest.approx(1)
    assert contribution["signed"] == pytest.approx(-1)
    assert contribution["n"] == (scores.tiles.groupby("slide_id").size() >= agreement.LEAST_TILES).sum()
    other = agreement.agreement(
        scores, agreement.scores_of(faithfulness.randomised(run, 5), ["dili"], 8), compound
    )
    assert (other["spearman"] < 0.99).all()


def test_nulls_are_nulls_on_the_same_test_part(full: RunFolder, null: RunFolder, tmp_path: Path) -> None:
    assert agreement.null_kind(null) == "permuted labels"
    assert agreement.nulls_of(full, [null]) == [null]
    with pytest.raises(RunError, match="neither labels were permuted"):
        agreement.null_kind(full)
    other = RunFolder(tmp_path)
    split = json.loads(null.split.read_text())
    other.split.write_text(json.dumps({**split, "test": split["test"][1:]}))
    with pytest.raises(RunError, match="train them on the same study and split"):
        agreement.nulls_of(full, [other])


def test_a_folder_without_a_manifest_is_not_ours_and_keeps_what_it_holds(tmp_path: Path) -> None:
    mine = tmp_path / "report" / "notes.txt"
    mine.parent.mkdir()
    mine.write_text("kept")
    explaining.clear(tmp_path)
    assert mine.read_text() == "kept"
    (tmp_path / "manifest.json").write_text("{}")
    explaining.clear(tmp_path)
    assert not mine.exists()


def test_the_folder_has_its_layout_and_its_report(
    full: RunFolder,
    null: RunFolder,
    run: LoadedRun,
    study: Study,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cohort, "LEAST_SAMPLES", 10_000)  # the map, slow to compile, is test_cohort's
    slide = study.slides_of(one_with_slide(run))[0]
    path = study.slide_path(slide)
    path.parent.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    tifffile.imwrite(
        path, rng.integers(0, 255, (2300, 2300, 3), np.uint8), tile=(256, 256), photometric="rgb"
    )
    (tmp_path / "sets.gmt").write_text(GENE_SETS)
    settings = explaining.ExplainSettings(
        study=None, tasks="auto", slides=[slide], n_slides=1, tiles=2, views_mpp=[1.0], view_px=300, steps=8,
        draws=3, top_k=5, seed=0, neighbours=2, nulls=[str(null.root)], viewer_px=1024,
        gene_sets=GeneSetSettings(False, str(tmp_path / "sets.gmt"), None, 1, 500, 20, 1),
    )  # fmt: skip
    manifest = explaining.explain_runs(explaining.finished_runs(full.root), tmp_path, settings)
    place = tmp_path / "runs" / full.root.name
    assert json.loads((tmp_path / "manifest.json").read_text()) == manifest
    assert manifest["runs"][0]["slides"] == [slide]
    for name in (
        "tiles.parquet",
        "extreme_tiles.csv",
        "convergence.csv",
        "deletion_insertion.csv",
        "areas.csv",
    ):
        assert (place / "regions" / name).is_file()
    drawn = pd.read_csv(place / "regions" / "extreme_tiles.csv")
    assert all((place / "regions" / f).is_file() for f in drawn["file"])
    assert len(list((place / "regions" / slide).glob("*_whole.png"))) == explaining.TASKS_DRAWN
    collection = json.loads((place / "regions" / slide / "tiles.geojson").read_text())
    assert len(collection["features"]) == run.fold.store.n_rows(slide)
    for name in ("ranking.csv", "convergence.csv", "dili.parquet"):
        assert (place / "genes" / name).is_file()
    for name in ("gates.csv", "gates_by.csv", "gates.png", "without.csv", "token_attention.csv"):
        assert (place / "fusion" / name).is_file()
    stability = pd.read_csv(tmp_path / "genes" / "stability.csv")
    assert set(stability["task"]) == set(run.tasks.names)
    assert set(pd.read_csv(tmp_path / "pathways" / "gsea.csv")["task"]) == set(run.tasks.names)
    for name in ("dose_response.csv", "nearest_compounds.csv", "prototypes.csv"):
        assert (tmp_path / "cohort" / name).is_file()
    agreed = pd.read_csv(tmp_path / "agreement.csv")
    assert set(agreed["against"]) == {"random weights", "permuted labels"}
    assert agreed["spearman"].abs().le(1 + 1e-9).all()
    nulls = pd.read_csv(tmp_path / "nulls.csv")
    assert set(nulls["null"]) == {"permuted labels"}
    about = json.loads((place / "run.json").read_text())
    assert about["digest"] == json.loads(full.done.read_text())["digest"]
    weights = (full.stage("finetune") / "best.ckpt").read_bytes()
    assert about["sha256"]["best.ckpt"] == hashlib.sha256(weights).hexdigest()
    own = pd.read_parquet(full.predictions).query("part == 'test'").sort_values(["task", "unit_id"])
    again = pd.read_csv(place / "predictions.csv").sort_values(["task", "unit_id"])
    np.testing.assert_allclose(again["score"], own["score"], rtol=1e-4)
    text = html_report.write_report(tmp_path).read_text()
    assert "permuted labels" in text
    assert set(explained.Explained(tmp_path).samples["sample_id"]) == set(run.fold.split.test)
    (viewed,) = json.loads((tmp_path / "report" / "tiles" / "slides.json").read_text())
    assert (viewed["slide_id"], viewed["width"]) == (slide, 1024)
    assert {o["score"] for o in viewed["overlays"]} == {"attention", "contribution", "integrated", "likeness"}
    compounds = set(study.obs.loc[run.fold.split.test, "compound"])
    assert {p.stem for p in (tmp_path / "report" / "compounds").iterdir()} == compounds
    no_sets = GeneSetSettings(False, (), None, 1, 500, 20, 1)
    fewer = replace(settings, tasks=["dili"], nulls=[], viewer_px=0, gene_sets=no_sets)
    explaining.explain_runs([full], tmp_path, fewer)
    assert not (tmp_path / "pathways").exists()
    assert not (tmp_path / "report").exists()
    assert not (tmp_path / "index.html").exists()
    assert not (tmp_path / "nulls.csv").exists(), "nothing of an earlier explanation stays"
    with pytest.raises(RunError, match="no test sample"):
        explaining.explain_runs([full], tmp_path, replace(settings, slides=["nowhere"]))


def test_what_does_not_exist_is_refused_by_name(run: LoadedRun, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="lesion:Gout"):
        chosen_tasks(run, ["lesion:Gout"])
    with pytest.raises(RunError, match="no run and no folder"):
        explaining.finished_runs(tmp_path)


def test_the_title_of_a_narrow_sheet_stays_within_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(figures, "save_figure", lambda figure, path: drawn.append(figure))
    tiles = pd.DataFrame({"end": ["top"], "rank": [1], "s": [0.5]})
    title = "E14874: tiles that raise and lower severity, integrated gradients"
    figures.tile_sheet(tiles, [np.zeros((8, 8, 3), np.uint8)], "s", tmp_path / "x.png", title=title)
    (figure,) = drawn
    FigureCanvasAgg(figure).draw()
    box = figure.texts[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width
