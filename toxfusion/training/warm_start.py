"""The linear paths of a network set to closed forms of its training samples, before any step of pretraining."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from toxfusion.data.datamodule import FoldData
from toxfusion.models.bag import bag_moments
from toxfusion.models.closed_form import SharedMaps, principal_map, shared_maps
from toxfusion.models.network import LinearFirst, Network, Projections
from toxfusion.training.settings import WarmStartSettings

LEAST_SAMPLES = 3


class WarmStartError(ValueError):
    """A network that has no linear path to start, or too few samples to solve for one."""


def warm_start(
    network: Network,
    fold: FoldData,
    sample_ids: Sequence[str],
    settings: WarmStartSettings,
    *,
    batch_size: int,
    weights: Sequence[float] | None = None,
) -> None:
    """Set the linear paths of a network, in place.

    With both modalities, the shared parts are regularised canonical variates of the bags' moments and the profiles of
    the samples that have both; each private part is what the principal components of a view have beside its shared
    part. With one modality there is nothing shared: both parts are its principal components, those of the private part
    after those of the shared one. With ``kind`` pca that holds of each modality by itself: nothing aligns them.

    Where paths deviate by group, each group of the training samples has canonical variates of its own, of the pairs of
    all groups with its own weighing more, turned to the axes of the common ones.

    Args:
        fold: gives whole bags and profiles.
        sample_ids: training samples.
        batch_size: samples that are read at a time.
        weights: of the samples, in the canonical correlations; 1 where None.

    Raises:
        WarmStartError: the network has no linear path, or fewer than three samples have what it reads.
    """
    slide_side, expression_side = network.slide_projections, network.expression_projections
    moments, profiles, has_slide, has_expression, membership = _views(fold, sample_ids, batch_size)
    if slide_side is None or expression_side is None:
        view, there = (profiles, has_expression) if slide_side is None else (moments, has_slide)
        only = _linear(expression_side if slide_side is None else slide_side)
        start_alone(only, _enough(view[there], "samples with the one modality in use"))
        return
    if settings.kind == "pca":
        start_alone(_linear(slide_side), _enough(moments[has_slide], "training samples with slides"))
        start_alone(
            _linear(expression_side), _enough(profiles[has_expression], "training samples with expression")
        )
        return
    paired = has_slide & has_expression
    share = None if weights is None else torch.tensor(weights, dtype=torch.float64)[paired]
    start_together(
        _linear(slide_side),
        _linear(expression_side),
        _enough(moments[paired], "training samples with slide and expression"),
        profiles[paired],
        settings,
        share,
        membership[paired],
    )


def start_together(
    slide: LinearFirst,
    expression: LinearFirst,
    moments: Tensor,
    profiles: Tensor,
    settings: WarmStartSettings,
    weights: Tensor | None = None,
    membership: Tensor | None = None,
) -> None:
    """Start both sides from moments [n, 2 D] and profiles [n, G] of the same samples, weighed by weights [n].

    Args:
        membership: [n, K], 1 in the column of the sample's group.
    """

    def solved(share: Tensor | None) -> SharedMaps:
        return shared_maps(
            moments,
            profiles,
            slide.shared_dim,
            first_ridge=settings.slide_ridge,
            second_ridge=settings.expression_ridge,
            power=settings.power,
            weights=share,
        )

    common, groups = solved(weights), {}
    deviating = [] if membership is None or settings.own_weight == 1 else list(membership.T > 0)
    for column, own in enumerate(deviating):
        if own.any() and not own.all():
            share = torch.where(own, settings.own_weight, 1.0).double()
            groups[column] = solved(share if weights is None else share * weights).turned_to(
                common, moments[own], profiles[own]
            )
    for side, view, which in ((slide, moments, "first"), (expression, profiles, "second")):
        shared = getattr(common, which)
        private = principal_map(view, side.private_dim, without=shared(view))
        side.start_at(shared, private, {column: getattr(of, which) for column, of in groups.items()})


def start_alone(side: LinearFirst, view: Tensor) -> None:
    """Start one side from its view [n, P] alone."""
    shared = principal_map(view, side.shared_dim)
    side.start_at(shared, principal_map(view, side.private_dim, without=shared(view)))


def linear_parameters(network: Network) -> list[str]:
    """Prefixes of the names of the parameters of the linear paths."""
    return [
        f"{name}.{path}."
        for name in ("slide_projections", "expression_projections")
        if isinstance(getattr(network, name), LinearFirst)
        for path in ("linear", "deviations")
    ]


def _views(
    fold: FoldData, sample_ids: Sequence[str], batch_size: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Moments [n, 2 D] and profiles [n, G], which samples have them, bool [n] each, and groups of paths [n, K]."""
    parts = []
    for start in range(0, len(sample_ids), batch_size):
        batch = fold.batch(sample_ids[start : start + batch_size], stage="evaluate")
        own = batch.path_membership
        groups = torch.zeros(len(batch), 0) if own is None else own
        views = bag_moments(batch.tiles), batch.expression, batch.has_slide, batch.has_expression, groups
        parts.append(views)
    moments, profiles, has_slide, has_expression, membership = (
        torch.cat(each) for each in zip(*parts, strict=True)
    )
    return moments, profiles, has_slide, has_expression, membership


def _linear(side: Projections | None) -> LinearFirst:
    if not isinstance(side, LinearFirst):
        raise WarmStartError(
            "pretrain.warm_start.kind=cca sets linear paths, and projections=perceptron has none; take "
            "projections=linear or pretrain.warm_start.kind=none"
        )
    return side


def _enough(view: Tensor, what: str) -> Tensor:
    if len(view) < LEAST_SAMPLES:
        raise WarmStartError(
            f"pretrain.warm_start: {len(view)} {what}, and at least {LEAST_SAMPLES} are needed; take "
            "pretrain.warm_start.kind=none"
        )
    return view
