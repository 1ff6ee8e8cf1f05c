"""Two gloo ranks must equal one process on the joined batch, in loss and in gradient."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from tests.processes import METHOD
from toxfusion.data.batch import RaggedTiles
from toxfusion.distributed.ranks import first_row, gather_rows, global_mean, rank, world_size
from toxfusion.models.heads import CompoundHead, Pooling
from toxfusion.objectives.classification import CompoundBCE, CrossEntropy, MaskedBCE, MaskedRegression
from toxfusion.objectives.contrastive import InfoNCE, Kin, NTXent, SigLIP
from toxfusion.objectives.masked import (
    ExpressionReconstruction,
    LatentRetention,
    MaskedGenes,
    MaskedTileFeatures,
    TileRetention,
)
from toxfusion.objectives.ordinal import Coral, Corn, DoseMonotonicity
from toxfusion.objectives.orthogonality import Orthogonality
from toxfusion.objectives.style import PrototypeClustering, StyleBranch, StyleKL
from toxfusion.objectives.survival import CoxEfron, DiscreteSurvival
from toxfusion.objectives.vicreg import Consistency, VICReg
from toxfusion.training.validation import SampleVectors

N, D = 12, 6
CUT = 5  # rank 0 has 5 samples, rank 1 has 7: unequal on purpose
NAN = float("nan")

Rows = dict[str, Tensor]
Loss = Callable[["Toy", Rows], Tensor]


def joined_batch() -> Rows:
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {
        "first": normal(N, D),
        "second": normal(N, D),
        "mask": torch.rand(N, D, generator=generator) < 0.4,
        # Groups, animals, compounds, ties and risk sets all lie on both ranks.
        "group": torch.tensor([0, 0, 1, 2, 3, 3, 4, 5, 0, 6, 7, -1]),
        "animal": torch.tensor([0, 1, 2, 3, 4, 5, 6, 6, 7, 2, 8, -1]),
        "is_control": torch.tensor([0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0], dtype=torch.bool),
        "compound": torch.tensor([0, 0, 1, 1, 2, 2, 2, 3, 0, 1, 2, 3]),
        "dili": torch.tensor([1.0, 1, 0, NAN, 1, 1, 1, 0, 1, 0, NAN, 0]),
        "valid": torch.tensor([1, 1, 1, 1, 0, 1, 1, 1, 1, 0, 1, 1], dtype=torch.bool),
        "time": torch.tensor([2.0, 3, 3, 1, 5, 3, 2, NAN, 4, 1, 5, 6], dtype=torch.float64),
        "event": torch.tensor([1.0, 1, 0, 1, 0, 1, 1, 1, 0, 0, 1, 0], dtype=torch.float64),
        "grade": torch.tensor([0.0, 1, 2, NAN, 1, 0, 2, 0, NAN, 1, 2, 0]),
        "dose": torch.tensor([0.0, 10, 30, 0, 10, 30, 0, 10, 30, 0, 10, 30], dtype=torch.float64),
        "label": torch.tensor([0.0, 1, 1, NAN, 1, 0, NAN, 0, 1, 0, 1, 1]),
    }


class Toy(nn.Module):
    """Two linear encoders in float64 and whatever parameters an objective has of its own."""

    def __init__(self, extra: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.first = nn.Linear(D, D).double()
        self.second = nn.Linear(D, D).double()
        self.extra = extra

    def pair(self, batch: Rows) -> tuple[Tensor, Tensor]:
        return self.first(batch["first"]), self.second(batch["second"])


def kin(batch: Rows) -> Kin:
    return Kin(batch["group"], batch["animal"], batch["is_control"])


def contrast(toy: Toy, batch: Rows) -> Tensor:
    return toy.extra(*toy.pair(batch), kin(batch), batch["valid"]).loss


def compound_bce(toy: Toy, batch: Rows) -> Tensor:
    output = toy.extra(toy.first(batch["first"]).float(), batch["compound"], batch["is_control"])
    return CompoundBCE(torch.tensor(2.0))(output, batch["compound"], batch["dili"], batch["is_control"])


def dose(toy: Toy, batch: Rows) -> Tensor:
    return DoseMonotonicity()(toy.first(batch["first"])[:, 0], batch["dose"], batch["compound"])


def style(toy: Toy, batch: Rows) -> Tensor:
    """Both terms of the shared branch, on samples that lack one modality or the other."""
    branch = toy.extra.eval()
    slide, expression = (branch(vector) for vector in toy.pair(batch))
    kl = StyleKL()(slide, expression, batch["valid"], ~batch["is_control"])
    paired = batch["valid"] & ~batch["is_control"]
    return kl + PrototypeClustering()(slide.scores, expression.scores, paired).loss


def latents(toy: Toy, batch: Rows) -> Tensor:
    """Two equal tokens: whichever of them a rank's generator hides, the loss is the same."""
    return toy.extra(toy.first(batch["first"])[:, None].expand(-1, 2, -1), batch["valid"])


def pairs_of_tiles(features: Tensor) -> RaggedTiles:
    """Bags of two equal tiles at one place: whichever of them a rank's generator hides, the loss is the same."""
    twice = features.repeat_interleave(2, 0)
    return RaggedTiles(twice, 100 * twice[:, :2].detach(), torch.arange(len(features) + 1) * 2)


def encoded_tiles(toy: Toy, batch: Rows) -> Tensor:
    return toy.extra(pairs_of_tiles(toy.first(batch["first"])))


def hidden_tiles(toy: Toy, batch: Rows) -> Tensor:
    """One hidden tile of each bag; the ranks hide different numbers of them."""
    tiles = pairs_of_tiles(batch["second"])
    return toy.extra(toy.first(batch["first"]), tiles, torch.arange(len(tiles.features)) % 2 == 0)


def anonymous_retention() -> nn.Module:
    """Without identities of tokens, so that it does not matter which one is hidden."""
    module = LatentRetention(D, 2, heads=2).double()
    nn.init.zeros_(module.identity).requires_grad_(False)
    return module


def steps(toy: Toy, batch: Rows) -> Tensor:
    return toy.first(batch["first"])[:, None, :2]


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(1)
    return build()


def seeded_head(pooling: Pooling) -> nn.Module:
    return seeded(lambda: CompoundHead(D, pooling=pooling, dropout=0.0))


CASES: dict[str, tuple[Callable[[], nn.Module | None], Loss]] = {
    "info_nce_keep": (lambda: InfoNCE(temperature=0.2, duplicates="keep"), contrast),
    "info_nce_exclude": (lambda: InfoNCE(temperature=0.2, duplicates="exclude"), contrast),
    "info_nce_soft": (lambda: InfoNCE(temperature=0.2, duplicates="soft"), contrast),
    "siglip": (lambda: SigLIP(), contrast),
    "nt_xent": (lambda: NTXent(), lambda toy, batch: toy.extra(*toy.pair(batch)).loss),
    "orthogonality_cosine": (
        lambda: Orthogonality(form="cosine"),
        lambda toy, batch: toy.extra(*toy.pair(batch), batch["valid"]).loss,
    ),
    "orthogonality_correlation": (
        lambda: Orthogonality(form="cross_correlation"),
        lambda toy, batch: toy.extra(*toy.pair(batch), batch["valid"]).loss,
    ),
    "masked_genes": (
        MaskedGenes,
        lambda toy, batch: toy.extra(
            toy.first(batch["first"]), batch["second"], batch["mask"], batch["valid"]
        ),
    ),
    "vicreg": (VICReg, lambda toy, batch: toy.extra(*toy.pair(batch), batch["valid"]).loss),
    "clustering": (
        PrototypeClustering,
        lambda toy, batch: toy.extra(*toy.pair(batch), batch["valid"]).loss,
    ),
    "style": (lambda: seeded(lambda: StyleBranch(D, latent=3, n_prototypes=4).double()), style),
    "latent_retention": (lambda: seeded(anonymous_retention), latents),
    "tile_retention": (lambda: seeded(lambda: TileRetention(D, heads=2).double()), encoded_tiles),
    "masked_tiles": (lambda: seeded(lambda: MaskedTileFeatures(D, D).double()), hidden_tiles),
    "expression_from_slide": (
        lambda: seeded(lambda: ExpressionReconstruction(nn.Linear(D, D).double())),
        lambda toy, batch: toy.extra(toy.first(batch["first"]), batch["second"], batch["valid"]),
    ),
    "consistency": (Consistency, lambda toy, batch: toy.extra(*toy.pair(batch), batch["valid"])),
    "cox": (
        CoxEfron,
        lambda toy, batch: toy.extra(toy.first(batch["first"])[:, 0], batch["time"], batch["event"]),
    ),
    "discrete_survival": (
        DiscreteSurvival,
        lambda toy, batch: toy.extra(
            toy.first(batch["first"]), (batch["time"] - 1).clamp(max=5), batch["event"]
        ),
    ),
    "masked_bce": (
        lambda: MaskedBCE(torch.tensor(3.0)),
        lambda toy, batch: toy.extra(toy.first(batch["first"])[:, 0], batch["label"]),
    ),
    "cross_entropy": (
        CrossEntropy,
        lambda toy, batch: toy.extra(toy.first(batch["first"]), batch["grade"]),
    ),
    "regression": (
        MaskedRegression,
        lambda toy, batch: toy.extra(toy.first(batch["first"])[:, :1], batch["time"][:, None]),
    ),
    "coral": (Coral, lambda toy, batch: toy.extra(steps(toy, batch), batch["grade"])),
    "corn": (Corn, lambda toy, batch: toy.extra(steps(toy, batch), batch["grade"])),
    "dose": (lambda: None, dose),
    "compound_mean": (lambda: seeded_head("mean"), compound_bce),
    "compound_noisy_or": (lambda: seeded_head("noisy_or"), compound_bce),
    "compound_attention": (lambda: seeded_head("attention"), compound_bce),
}


def loss_and_gradient(name: str, batch: Rows) -> tuple[Tensor, Tensor]:
    build, loss_of = CASES[name]
    toy = Toy(build())
    loss = loss_of(toy, batch)
    loss.backward()
    used = [
        p.grad if p.grad is not None else torch.zeros_like(p) for p in toy.parameters() if p.requires_grad
    ]
    return loss.detach().double(), torch.cat([g.double().flatten() for g in used])


def one_rank(index: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=index, world_size=2)
    own = {k: v[:CUT] if index == 0 else v[CUT:] for k, v in joined_batch().items()}
    by_term: dict[str, tuple[Tensor, Tensor]] = {}
    for name in CASES:
        loss, gradient = loss_and_gradient(name, own)
        for value in (loss, gradient):
            dist.all_reduce(value)
        by_term[name] = (loss / 2, gradient / 2)
    gathered = gather_rows(own["first"])
    flags = gather_rows(own["mask"])
    nothing = global_mean(torch.tensor(0.0), torch.tensor(0))
    collected, order = SampleVectors(), torch.arange(N).flip(0)
    for part in (order[:CUT] if index == 0 else order[CUT:]).split(3):
        collected.update(part, joined_batch()["first"][part])
    torch.save(
        {
            "terms": by_term,
            "gathered": gathered,
            "flags": flags,
            "place": (rank(), world_size(), first_row(own["first"])),
            "nothing": nothing,
            "collected": collected.compute(),
        },
        f"{folder}/rank{index}.pt",
    )
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.start_processes(one_rank, args=(str(folder),), nprocs=2, start_method=METHOD)
    return [torch.load(folder / f"rank{index}.pt", weights_only=True) for index in range(2)]


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_equal_one_process(name: str, two_ranks: list[dict]) -> None:
    loss, gradient = loss_and_gradient(name, joined_batch())
    assert gradient.abs().sum() > 0
    for of_rank in two_ranks:
        torch.testing.assert_close(of_rank["terms"][name][0], loss, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(of_rank["terms"][name][1], gradient, rtol=1e-5, atol=1e-7)


def test_rows_are_gathered_in_order_of_rank(two_ranks: list[dict]) -> None:
    batch = joined_batch()
    for index, of_rank in enumerate(two_ranks):
        assert torch.equal(of_rank["gathered"], batch["first"])
        assert torch.equal(of_rank["flags"], batch["mask"])
        assert of_rank["place"] == (index, 2, 0 if index == 0 else CUT)
        assert of_rank["nothing"] == 0


def test_vectors_of_a_validation_are_those_of_all_ranks_in_the_order_of_samples(
    two_ranks: list[dict],
) -> None:
    for of_rank in two_ranks:
        row, vector = of_rank["collected"]
        assert row.tolist() == list(range(N))
        assert torch.equal(vector, joined_batch()["first"].float())


def test_one_process_is_the_case_of_one_rank() -> None:
    batch = torch.randn(3, 2)
    assert gather_rows(batch) is batch
    assert (rank(), world_size(), first_row(batch)) == (0, 1, 0)
    assert global_mean(torch.tensor(6.0), torch.tensor(4)) == 1.5
    assert global_mean(torch.tensor(0.0), torch.tensor(0)) == 0
