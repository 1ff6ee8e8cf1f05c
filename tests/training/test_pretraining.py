"""Presets of pretraining: each has its terms and no others, with gradient everywhere, on either modality alone too."""

from __future__ import annotations

from dataclasses import replace

import lightning as L
import pytest
import torch
import yaml
from torch import Tensor

from tests.training.small_training import (
    ALONE,
    CONF,
    FEATURES,
    GENES,
    config,
    eight_samples,
    losses,
    only,
    pretraining,
    total,
)
from toxfusion.config.entry import compose
from toxfusion.data.batch import Batch
from toxfusion.objectives.masked import draw_hidden_tiles
from toxfusion.objectives.terms.sub_bag import split_bags
from toxfusion.objectives.terms.term import PretrainingError
from toxfusion.training.assemble import build_network, build_terms
from toxfusion.training.pretraining import PretrainingModule
from toxfusion.training.settings import RunSettings
from toxfusion.training.warm_start import linear_parameters

SLIDE, EXPRESSION = {"sub_bag", "tiles", "slide_latents"}, {"genes", "expression_latents"}
FULL = {"align": 1.0, "genes": 1.0, "orthogonality": 0.1, "retention": 0.1}
MIRROR = {"align": 0.5, "slide_latents": 0.15, "expression_latents": 0.15, "style": 0.1, "cluster": 0.1}
PRESETS: dict[str, dict[str, float]] = {
    "full": FULL,
    "clip": {"align": 1.0},
    "siglip": {"align": 1.0},
    "tangle": {"align": 1.0},
    "tangle_rec": {"expression_from_slide": 1.0},
    "mirror": MIRROR,
}
EXPERIMENTS = {
    "mirror": MIRROR,
    "tangle": {"align": 1.0},
    "mirror_noalign": {k: w for k, w in MIRROR.items() if k != "align"},
    "mirror_noretention": {k: w for k, w in MIRROR.items() if not k.endswith("latents")},
    "mirror_nostyle": {k: w for k, w in MIRROR.items() if k != "style"},
    "mirror_nocluster": {k: w for k, w in MIRROR.items() if k != "cluster"},
    "mirror_orthogonality": MIRROR | {"orthogonality": 0.25, "retention": 0.25},
}


def module(*overrides: str) -> PretrainingModule:
    return pretraining(config(*overrides))


@pytest.fixture
def batch() -> Batch:
    return eight_samples((5, 0, 3, 9, 4, 1, 6, 2))


def check(of: PretrainingModule, batch: Batch, expected: set[str]) -> None:
    """The terms are the expected ones, finite, and every parameter that they own moves."""
    computed = losses(of, batch)
    assert set(computed) == set(of.terms.weights) == expected
    assert all(v.ndim == 0 and v.isfinite() for v in computed.values())
    assert all(v.isfinite() for v in of.terms.beside.values())
    total(of, computed).backward()
    for name, parameter in of.terms.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name
    gradients = [p.grad for p in of.network.parameters() if p.grad is not None]
    assert gradients
    assert all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("preset", [*PRESETS, "none"])
def test_a_preset_has_every_key_of_full_and_only_such(preset: str) -> None:
    full = yaml.safe_load((CONF / "pretrain" / "full.yaml").read_text())
    composed = config(f"pretrain={preset}")["pretrain"]
    assert list(full["weights"]) == list(full["terms"])
    assert set(full["weights"]) == set(composed["weights"]) == set(composed["terms"])
    assert set(full) == set(composed)


@pytest.mark.parametrize(("preset", "weights"), PRESETS.items())
def test_a_preset_has_its_terms_with_their_weights(
    batch: Batch, preset: str, weights: dict[str, float]
) -> None:
    trained = module(f"pretrain={preset}")
    assert trained.terms.weights == weights
    check(trained, batch, set(weights))


@pytest.mark.parametrize(("experiment", "weights"), EXPERIMENTS.items())
def test_a_peer_changes_its_own_parts_and_an_ablation_of_it_pretraining_alone(
    batch: Batch, experiment: str, weights: dict[str, float]
) -> None:
    peer = experiment.partition("_")[0]
    changes = {
        "mirror": {"name", "paths", "pretrain", "projections", "bag", "expression", "fusion"},
        "tangle": {"name", "paths", "pretrain", "projections", "bag", "expression", "fusion"},
    }
    mine, base = config(f"experiment={experiment}"), config(f"experiment={peer}")
    full = config("experiment=full")
    assert set(mine) == set(full)
    assert {key for key in full if mine[key] != full[key]} == changes[peer]
    assert {key for key in full if mine[key] != base[key]} <= {"name", "paths", "pretrain"}
    trained = module(f"experiment={experiment}")
    assert trained.terms.weights == weights
    check(trained, batch, set(weights))


@pytest.mark.parametrize("term", ALONE)
def test_a_term_of_no_preset_is_one_override(batch: Batch, term: str) -> None:
    check(module(*only(term)), batch, {term})


@pytest.mark.parametrize("modality", ["wsi", "omics"])
@pytest.mark.parametrize("preset", PRESETS)
def test_terms_of_an_absent_modality_are_left_out(batch: Batch, preset: str, modality: str) -> None:
    left = {
        term
        for term in PRESETS[preset]
        if term in {"orthogonality", "retention"} | (SLIDE if modality == "wsi" else EXPRESSION)
    }
    if left:
        check(module(f"pretrain={preset}", f"modality={modality}"), batch, left)
    else:
        with pytest.raises(PretrainingError, match=f"no term applies to modality={modality}"):
            module(f"pretrain={preset}", f"modality={modality}")


@pytest.mark.parametrize("overrides", [("pretrain=mirror",), only("tiles")])
def test_what_is_hidden_follows_the_generator(batch: Batch, overrides: tuple[str, ...]) -> None:
    trained = module(*overrides)
    first, again, other = (total(trained, losses(trained, batch, seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("overrides", [("pretrain=mirror",), ("pretrain=tangle_rec",), only("tiles")])
def test_what_a_sample_does_not_have_changes_no_loss(batch: Batch, overrides: tuple[str, ...]) -> None:
    trained = module(*overrides).eval()
    expression = batch.expression.clone()
    expression[4] = 9.0
    one, other = losses(trained, batch), losses(trained, replace(batch, expression=expression))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_hidden_tiles_leave_one_of_each_bag_and_are_a_share_of_it(batch: Batch) -> None:
    hidden = draw_hidden_tiles(batch.tiles, 0.5, torch.Generator().manual_seed(0))
    assert [int(part.sum()) for part in batch.tiles.split(hidden)] == [2, 0, 1, 4, 2, 0, 3, 1]


def test_a_fixed_temperature_stays_and_duplicates_count_in_tangle_alone(batch: Batch) -> None:
    """Samples 6 and 7 are one dose group: TANGLE contrasts them, CLIP with our negatives does not."""
    fixed = module("pretrain=tangle")
    assert not any(p.requires_grad for p in fixed.terms.parameters())
    losses(fixed, batch)
    assert float(fixed.terms.beside["align_scale"]) == pytest.approx(100.0)
    apart = replace(batch, group=torch.arange(8))
    for preset, same in (("tangle", True), ("clip", False), ("siglip", False)):
        trained = module(f"pretrain={preset}").eval()
        assert torch.equal(losses(trained, batch)["align"], losses(trained, apart)["align"]) is same


def test_sub_bags_leave_the_other_terms_the_whole_bag(batch: Batch) -> None:
    """In evaluation mode nothing but masks is drawn, and masks of genes are drawn first."""
    alone, beside = (
        module("pretrain=full", "pretrain.weights.expression_latents=0", f"pretrain.weights.sub_bag={w}")
        for w in (0, 0.1)
    )
    seen: list[list[int]] = []
    beside.network.bag.register_forward_pre_hook(lambda _, tiles: seen.append(tiles[0].lengths.tolist()))
    without, with_halves = losses(alone.eval(), batch), losses(beside.eval(), batch)
    assert set(with_halves) - set(without) == {"sub_bag"}
    for term, loss in without.items():
        assert torch.equal(loss, with_halves[term]), term
    whole = batch.tiles.lengths.tolist()
    first, second = ([length - length // 2 for length in whole], [length // 2 for length in whole])
    assert seen == [whole, first + second]


def test_halves_of_a_bag_are_its_tiles_each_once(batch: Batch) -> None:
    halves = split_bags(batch.tiles, torch.Generator().manual_seed(0))
    both = halves[0].followed_by(halves[1])
    assert both.n_bags == 16
    for bag, tiles in enumerate(batch.tiles.split(batch.tiles.features)):
        parts = both.split(both.features)
        again = torch.cat([parts[bag], parts[bag + 8]])
        assert torch.equal(again.sort(0).values, tiles.sort(0).values)
        assert len(parts[bag]) - len(parts[bag + 8]) in (0, 1)


def test_prototypes_are_as_many_as_the_size_says() -> None:
    assert config("experiment=mirror")["pretrain"]["prototypes"] == 64
    published = compose("train", ["data.root=study", "size=published", "experiment=mirror"])["pretrain"]
    assert (published["prototypes"], published["style_latent"]) == (3000, 128)


def test_terms_not_in_use_have_no_parameters_and_checkpoints_hold_tensors() -> None:
    names = {name for name, _ in module("experiment=mirror").terms.named_parameters()}
    assert {name.split(".")[1] for name in names} >= {"align", "slide_latents", "expression_latents"}
    assert not any(name.startswith(("terms.retention", "terms.genes")) for name in names)
    without = {name for name, _ in module("experiment=mirror_nocluster").terms.named_parameters()}
    assert names - without == {f"style_branch.{k}" for k in ("prototypes", "decode.weight", "decode.bias")}
    assert all(isinstance(v, Tensor) for v in module("pretrain=mirror").state_dict().values())


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("pretrain.align_loss=infonse",), "pretrain.terms.align: loss='infonse' is none of infonce"),
        (("pretrain.negatives=drop",), "pretrain.terms.align: duplicates='drop' is none of keep"),
        (("pretrain.orthogonality=dot",), "terms.orthogonality: form='dot' is neither cosine"),
        (
            ("pretrain=siglip", "pretrain.negatives=soft"),
            "align: negatives='soft' does not go with loss='siglip'",
        ),
        (("pretrain.gene_mask=0",), r"pretrain.gene_mask=0: the term genes needs a share"),
        (("pretrain=mirror", "pretrain.prototypes=1"), "pretrain.prototypes=1: the term cluster"),
        ((*only("tiles"), "pretrain.tile_mask=1.0"), r"pretrain.tile_mask=1.0: the term tiles"),
    ],
)
def test_what_does_not_exist_or_fit_is_refused_by_key_and_value(
    overrides: tuple[str, ...], says: str
) -> None:
    with pytest.raises(PretrainingError, match=says):
        module(*overrides)


def test_an_unknown_term_is_refused_by_name() -> None:
    settings = RunSettings.read(config("pretrain=clip"))
    terms = settings.pretrain.terms
    wrong = replace(terms, weights={**terms.weights, "aling": 1.0})
    network = build_network(settings.network, n_genes=GENES, tile_dim=FEATURES)
    with pytest.raises(PretrainingError, match="no term 'aling'; there are align, sub_bag"):
        build_terms(wrong, settings.network, network, n_genes=GENES, tile_dim=FEATURES)


def monitored(of: PretrainingModule, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    logged: dict[str, Tensor] = {}
    monkeypatch.setattr(of, "log_dict", lambda values, **_: logged.update(values))
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    of.trainer = L.Trainer(accelerator="cpu", log_every_n_steps=1, enable_model_summary=False, **quiet)
    of.training_step(batch, 0)
    return {name: float(value) for name, value in logged.items() if name.startswith("monitor/")}


@pytest.mark.parametrize(("start", "stays"), [("cca", True), ("none", False)])
def test_linear_paths_that_a_closed_form_solved_stay_and_others_learn(
    batch: Batch, start: str, stays: bool
) -> None:
    of = module("pretrain=full", f"pretrain.warm_start.kind={start}")
    before = {name: value.detach().clone() for name, value in of.named_parameters()}
    optimizer = of.configure_optimizers()["optimizer"]
    terms, _ = of.losses(batch, torch.Generator().manual_seed(0))
    of.terms.total(terms).backward()
    optimizer.step()
    paths = [f"network.{name}" for name in linear_parameters(of.network)]
    held = {
        name: torch.equal(value, before[name])
        for name, value in of.named_parameters()
        if any(map(name.startswith, paths))
    }
    assert set(held.values()) == {stays}
    assert len(held) == 4  # weight and bias of both sides
    beside = of.network.slide_projections.shared[-1].weight  # type: ignore[union-attr]
    assert not torch.equal(beside, before["network.slide_projections.shared.2.weight"])


@torch.no_grad()
def test_a_collapsed_representation_shows_in_every_monitor(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Projections that became constant, the shared ones of both modalities to the same point."""
    of = module("pretrain=full")
    healthy = monitored(of, batch, monkeypatch)
    for projections in (of.network.slide_projections, of.network.expression_projections):
        projections.linear.weight.zero_()
        projections.shared[-1].weight.zero_()
        projections.shared[-1].bias.fill_(1.0)
    collapsed = monitored(of, batch, monkeypatch)
    for name in ("slide", "expression"):
        assert healthy[f"monitor/rank_{name}"] > 2
        assert collapsed[f"monitor/rank_{name}"] == pytest.approx(1.0, abs=0.01)
        assert healthy[f"monitor/uniformity_{name}"] < -0.1
        assert collapsed[f"monitor/uniformity_{name}"] == pytest.approx(0.0, abs=1e-4)
        assert healthy[f"monitor/variance_private_{name}"] > 1e-4
        assert collapsed[f"monitor/variance_private_{name}"] == pytest.approx(0.0, abs=1e-8)
    assert healthy["monitor/alignment"] > 0.1
    assert collapsed["monitor/alignment"] == pytest.approx(0.0, abs=1e-6)


def test_alignment_is_of_samples_with_both_modalities_alone(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = module("pretrain=clip").eval()
    expression = batch.expression.clone()
    expression[4] = 9.0  # of a sample that says it has none
    one, other = (monitored(of, b, monkeypatch) for b in (batch, replace(batch, expression=expression)))
    assert one == other
    nobody = monitored(of, replace(batch, has_slide=torch.zeros(8, dtype=torch.bool)), monkeypatch)
    assert "monitor/alignment" not in nobody
    assert "monitor/uniformity_slide" not in nobody
