"""What a term of pretraining is: a loss of one pass over a batch, with what it needs and parameters of its own.

A new term is one class, listed by ``_target_`` under ``terms`` in a file of conf/pretrain, with a weight of the same
name under ``weights``; the class may lie in any package.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from toxfusion.models.expression import MaskedGeneEncoder
from toxfusion.models.network import Network
from toxfusion.objectives.terms.view import View

Branch = Literal["bag", "expression"]
Need = Literal["hidden_genes", "hidden_tiles", "style", "prototypes"]
PAIR: tuple[Branch, ...] = ("bag", "expression")


class PretrainingError(ValueError):
    """A setting of pretraining that does not exist, or that does not go with the network."""


@dataclass(frozen=True)
class NetworkShape:
    """Sizes of the network that terms build their own parameters by.

    Attributes:
        width: W of the vectors of the branches and of the fusion.
        shared_dim, private_dim: S and R of the shared and the private parts.
        n_genes: G of the expression, 0 without.
        tile_dim: D of the tile features, 0 without.
        n_tokens: of the expression branch, 0 without.
        decodes_genes: whether the expression branch has a decoder of its own.
    """

    width: int
    shared_dim: int
    private_dim: int
    n_genes: int
    tile_dim: int
    n_tokens: int
    decodes_genes: bool

    @classmethod
    def of(
        cls, network: Network, *, width: int, shared_dim: int, private_dim: int, n_genes: int, tile_dim: int
    ) -> NetworkShape:
        """The shape of a network; sizes of a branch that it does not have are 0."""
        encoder = network.expression
        return cls(
            width,
            shared_dim,
            private_dim,
            n_genes=0 if encoder is None else n_genes,
            tile_dim=0 if network.bag is None else tile_dim,
            n_tokens=0 if encoder is None else encoder.n_tokens,
            decodes_genes=isinstance(encoder, MaskedGeneEncoder),
        )


class Term(nn.Module, ABC):
    """One term of pretraining.

    Its constructor takes ``shape``, a `NetworkShape`, and by name what its node in conf/pretrain says.

    Attributes:
        branches: of the network; where one is absent, the term is left out.
        needs: what of a `View` it reads that is not made unless a term asks for it.
        beside: what the last pass says beside its loss, name -> scalar, to be logged; set anew by ``forward``.
    """

    branches: ClassVar[tuple[Branch, ...]] = ()
    needs: ClassVar[frozenset[Need]] = frozenset()

    def __init__(self) -> None:
        super().__init__()
        self.beside: dict[str, Tensor] = {}

    @abstractmethod
    def forward(self, view: View, network: Network) -> Tensor:
        """The loss of a pass, unweighted, a scalar.

        Args:
            network: what is pretrained, for a term that encodes or decodes more than the view holds.
        """
