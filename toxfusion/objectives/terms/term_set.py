"""The terms of pretraining in use: which apply to a network, and their losses of a pass.

Only terms in use are built, so that no parameter is left without a gradient. Weighing and logging live elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from toxfusion.models.network import Network
from toxfusion.objectives.style import StyleBranch
from toxfusion.objectives.terms.term import Need, NetworkShape, PretrainingError, Term
from toxfusion.objectives.terms.view import View


@dataclass(frozen=True)
class ViewSettings:
    """What a pass hides from the network, and the style branch that terms share; keys of conf/pretrain.

    Attributes:
        gene_mask: share of genes to hide, with any term; 0 for none.
        tile_mask: share of each bag's tiles to hide, where a term needs hidden tiles.
        style_latent, prototypes: sizes of the style branch.
    """

    gene_mask: float
    tile_mask: float
    style_latent: int
    prototypes: int

    def check(self, name: str, needs: frozenset[Need]) -> None:
        """Raises PretrainingError where a term needs what these settings do not give."""
        for need, key in (("hidden_genes", "gene_mask"), ("hidden_tiles", "tile_mask")):
            if need in needs and not 0 < getattr(self, key) < 1:
                raise PretrainingError(
                    f"pretrain.{key}={getattr(self, key)}: the term {name} needs a share between 0 and 1"
                )
        if "prototypes" in needs and self.prototypes < 2:
            raise PretrainingError(f"pretrain.prototypes={self.prototypes}: the term {name} needs 2 at least")


@dataclass(frozen=True)
class ListedTerm:
    """A term as pretrain.terms lists it.

    Attributes:
        kind: its class.
        build: makes it with the parameters of its node, given ``shape``.
    """

    kind: Callable[..., object]
    build: Callable[..., Term]


@dataclass(frozen=True)
class TermSettings:
    """What is learned in pretraining; see conf/pretrain.

    Attributes:
        listed: name -> term.
        weights: name -> weight; a term of weight 0, or whose branch is not in use, is left out.
        view: what a pass hides, and the style branch.
    """

    listed: Mapping[str, ListedTerm]
    weights: Mapping[str, float]
    view: ViewSettings


class TermSet(nn.Module):
    """The terms in use, with the parameters that they alone have.

    Args:
        network: what is pretrained; not a part of this module.
        settings: the terms that are listed, and their weights.
        shape: sizes of the network.

    Attributes:
        settings: of the passes and of the style branch.
        weights: name -> weight, of the terms in use, in the order they are listed.
        needs: what the terms in use read of a view.

    Raises:
        PretrainingError: a weight without a term or a term without a weight, a negative weight, settings of a term
            that do not exist or do not go with each other, or no term left.
    """

    def __init__(self, network: Network, settings: TermSettings, shape: NetworkShape) -> None:
        super().__init__()
        self.settings = settings.view
        self.weights = terms_in_use(network, settings.listed, settings.weights)
        self.needs: frozenset[Need] = frozenset()
        self.terms = nn.ModuleDict()
        for name in self.weights:
            term = _built(name, settings.listed[name], shape)
            self.settings.check(name, term.needs)
            self.terms[name] = term
            self.needs |= term.needs
        self.style_branch: StyleBranch | None = None
        if self.needs & {"style", "prototypes"}:
            n_prototypes = self.settings.prototypes if "prototypes" in self.needs else 0
            self.style_branch = StyleBranch(
                shape.width, latent=self.settings.style_latent, n_prototypes=n_prototypes
            )

    @property
    def beside(self) -> dict[str, Tensor]:
        """What the terms say of the last pass beside their losses, <term>_<name> -> scalar."""
        terms = ((name, cast(Term, term)) for name, term in self.terms.items())
        return {f"{name}_{key}": value for name, term in terms for key, value in term.beside.items()}

    def forward(self, view: View, network: Network) -> dict[str, Tensor]:
        """Term -> loss, unweighted, scalars."""
        return {name: term(view, network) for name, term in self.terms.items()}

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of the losses of a pass, a scalar."""
        return torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum()


def terms_in_use(
    network: Network, listed: Mapping[str, ListedTerm], weights: Mapping[str, float]
) -> dict[str, float]:
    """Name -> weight, of the terms that have one and whose branches the network has, in the order they are listed.

    Raises:
        PretrainingError: as of `TermSet`.
    """
    for name in sorted(set(weights) ^ set(listed)):
        if name in listed:
            raise PretrainingError(
                f"pretrain.terms.{name}: has no weight; give pretrain.weights.{name}, 0 to leave it out"
            )
        raise PretrainingError(f"pretrain.weights: no term {name!r}; there are {', '.join(listed)}")
    for name, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not weight >= 0:
            raise PretrainingError(
                f"pretrain.weights.{name}={weight}: a weight is 0, which leaves the term out, or above"
            )
    used = {}
    for name, term in listed.items():
        if not (isinstance(term.kind, type) and issubclass(term.kind, Term)):
            raise PretrainingError(
                f"pretrain.terms.{name}: {term.kind!r} is no subclass of {Term.__module__}.{Term.__name__}"
            )
        there = all(getattr(network, branch) is not None for branch in term.kind.branches)
        if weights[name] > 0 and there:
            used[name] = float(weights[name])
    if not used:
        raise PretrainingError(
            f"pretrain.weights={dict(weights)}: no term applies to modality={network.modality}; give one that does a "
            "weight, or take pretrain=none"
        )
    return used


def _built(name: str, term: ListedTerm, shape: NetworkShape) -> Term:
    """Raises PretrainingError that names the term, for parameters that it refuses."""
    try:
        return term.build(shape=shape)
    except ValueError as error:
        raise PretrainingError(f"pretrain.terms.{name}: {error}") from error
