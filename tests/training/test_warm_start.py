"""The warm start of a fold: of training samples alone, the same whatever the batches, refused where it cannot be."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import anndata
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.feature_store import featured_study
from toxfusion.config.entry import compose
from toxfusion.data.datamodule import FoldData
from toxfusion.models.bag import bag_moments
from toxfusion.models.closed_form import shared_maps
from toxfusion.models.network import Network
from toxfusion.study.audit import Audit
from toxfusion.training.assemble import assemble, make_fold, make_tasks, open_study, with_nulls
from toxfusion.training.settings import RunSettings, WarmStartSettings
from toxfusion.training.tile_features import tile_features
from toxfusion.training.warm_start import WarmStartError, warm_start

SETTINGS = WarmStartSettings(kind="cca", slide_ridge=1.0, expression_ridge=4.0, power=1.0, own_weight=3.0)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return featured_study(tmp_path_factory.mktemp("warm") / "study").root


def on_fold(root: Path, *overrides: str) -> tuple[Network, FoldData, list[str]]:
    config = compose(
        "train",
        [
            f"data.root={root}",
            "size=tiny",
            "tile_features=store",
            "tile_features.name=test",
            "split.n_folds=3",
            "task.min_animals=3",
            "task.min_compounds=2",
            *overrides,
        ],
    )
    settings, audit = RunSettings.read(config), Audit()
    study, split = open_study(settings)
    study = with_nulls(settings, study, split)
    store = tile_features(settings, study, split, []) if settings.modality != "omics" else None
    tasks = make_tasks(settings, study, split, audit)
    fold = make_fold(settings, study, split, tasks, store, audit)
    of = assemble(settings, fold, tasks, None, audit)
    return of.network.eval(), fold, of.train


@torch.no_grad()
def test_a_network_begins_at_the_canonical_variates_of_its_training_pairs(root: Path) -> None:
    network, fold, train = on_fold(root)
    warm_start(network, fold, train, SETTINGS, batch_size=5)
    paired = [s for s in train if fold.has_slide(s) and fold.has_expression(s)]
    batch = fold.batch(paired, stage="evaluate")
    dim = network.slide_projections.shared_dim  # type: ignore[union-attr]
    maps = shared_maps(
        bag_moments(batch.tiles), batch.expression, dim, first_ridge=1.0, second_ridge=4.0, power=1.0
    )
    out = network(batch)
    for shared, expected in (
        (out.slide_shared, maps.first(bag_moments(batch.tiles))),
        (out.expression_shared, maps.second(batch.expression)),
    ):
        assert (shared - expected).norm() < 0.03 * expected.norm()


@torch.no_grad()
def test_samples_of_other_parts_and_the_size_of_batches_do_not_matter(root: Path) -> None:
    weights = []
    for size in (3, 100):
        network, fold, train = on_fold(root)
        warm_start(network, fold, train, SETTINGS, batch_size=size)
        weights.append(network.slide_projections.linear.weight)  # type: ignore[union-attr]
    assert_close(weights[0].abs(), weights[1].abs(), rtol=1e-3, atol=1e-4)
    network, fold, train = on_fold(root)
    warm_start(network, fold, [*train, *fold.split.test], SETTINGS, batch_size=100)
    assert (network.slide_projections.linear.weight.abs() - weights[0].abs()).abs().max() > 1e-3  # type: ignore[union-attr]


@torch.no_grad()
def test_each_group_begins_at_variates_of_all_pairs_with_its_own_weighing_more(root: Path) -> None:
    network, fold, train = on_fold(root, "paths_by=time_h")
    groups = fold.path_groups
    assert groups is not None
    assert len(groups.names) == 2
    warm_start(network, fold, train, SETTINGS, batch_size=7)
    paired = [s for s in train if fold.has_slide(s) and fold.has_expression(s)]
    batch = fold.batch(paired, stage="evaluate")
    moments, profiles = bag_moments(batch.tiles), batch.expression
    out = network(batch)
    assert batch.path_membership is not None
    for column in batch.path_membership.T:
        own = column > 0
        maps = shared_maps(
            moments,
            profiles,
            network.slide_projections.shared_dim,  # type: ignore[union-attr]
            first_ridge=1.0,
            second_ridge=4.0,
            weights=torch.where(own, 3.0, 1.0),
        )
        # Axes are turned together, so that every product of a slide with a profile is that of the closed form.
        expected = maps.first(moments[own]) @ maps.second(profiles[own]).T
        slide, expression = out.slide_shared[own].double(), out.expression_shared[own].double()  # type: ignore[index]
        assert (slide @ expression.T - expected).norm() < 0.05 * expected.norm()
    common = network(replace(batch, path_membership=None)).slide_shared
    unknown = network(replace(batch, path_membership=torch.zeros(len(batch), 2))).slide_shared
    assert_close(unknown, common)
    # Turned to the common axes: closer to them than the variates as they come.
    assert (out.slide_shared - common).norm() < 0.5 * common.norm()


def test_one_group_alone_has_no_path_of_its_own(root: Path, tmp_path: Path) -> None:
    own = shutil.copytree(root, tmp_path / "study")
    table = anndata.read_h5ad(own / "expression.h5ad")
    table.obs["organ"] = "liver"
    table.write_h5ad(own / "expression.h5ad")
    network, fold, _ = on_fold(own, "paths_by=organ")
    assert fold.path_groups is None
    assert network.slide_projections.deviations is None  # type: ignore[union-attr]


@torch.no_grad()
def test_with_a_weight_of_one_no_group_deviates(root: Path) -> None:
    network, fold, train = on_fold(root, "paths_by=time_h")
    warm_start(network, fold, train, replace(SETTINGS, own_weight=1.0), batch_size=7)
    for side in (network.slide_projections, network.expression_projections):
        assert not side.deviations.weight.any()  # type: ignore[union-attr]


@pytest.mark.parametrize("modality", ["wsi", "omics"])
@torch.no_grad()
def test_one_modality_begins_at_its_principal_components(root: Path, modality: str) -> None:
    network, fold, train = on_fold(root, f"modality={modality}")
    warm_start(network, fold, train, SETTINGS, batch_size=8)
    out = network(fold.batch(train, stage="evaluate"))
    shared = out.slide_shared if modality == "wsi" else out.expression_shared
    there = torch.tensor([(fold.has_slide if modality == "wsi" else fold.has_expression)(s) for s in train])
    spread = shared[there].var(0)  # type: ignore[index]
    assert (spread[:4].diff() < 0).all()
    mixed = torch.corrcoef(shared[there][:, :4].T)  # type: ignore[index]
    assert (mixed - torch.eye(4)).abs().max() < 0.2


@torch.no_grad()
def test_principal_components_know_nothing_of_the_other_modality(root: Path) -> None:
    network, fold, train = on_fold(root)
    apart = replace(SETTINGS, kind="pca")
    warm_start(network, fold, train, apart, batch_size=8)
    slide, expression = leading_axes(network)
    both = [s for s in train if fold.has_slide(s) and fold.has_expression(s)]
    dealt = fold.with_slides_dealt(dict(zip(both, [*both[1:], both[0]], strict=True)))
    warm_start(network, dealt, train, apart, batch_size=8)
    for now, before in zip(leading_axes(network), (slide, expression), strict=True):
        assert_close(now, before, rtol=1e-2, atol=1e-3)
    warm_start(network, dealt, train, SETTINGS, batch_size=8)
    assert (leading_axes(network)[0] - slide).norm() > 0.1 * slide.norm()


def leading_axes(network: Network) -> tuple[Tensor, Tensor]:
    """The first four shared axes of both linear paths, whichever way they point."""
    sides = network.slide_projections, network.expression_projections
    slide, expression = (side.linear.weight[:4].abs().clone() for side in sides)  # type: ignore[union-attr]
    return slide, expression


def test_what_cannot_be_started_is_refused(root: Path) -> None:
    network, fold, train = on_fold(root, "projections=perceptron")
    with pytest.raises(WarmStartError, match="projections=linear"):
        warm_start(network, fold, train, SETTINGS, batch_size=8)
    network, fold, train = on_fold(root)
    with pytest.raises(WarmStartError, match="2 training samples with slide and expression"):
        warm_start(
            network,
            fold,
            [s for s in train if fold.has_slide(s) and fold.has_expression(s)][:2],
            SETTINGS,
            batch_size=8,
        )
