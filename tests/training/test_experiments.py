"""What holds of every preset of pretraining and every experiment with a network: gradient, precision, ranks, size.

The lists are those of the conf folder, so that a new preset or experiment is held to the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from tests.second_device import second_device
from tests.training.small_training import (
    ALONE,
    CONF,
    PRESETS,
    config,
    eight_samples,
    finetuning,
    losses,
    names,
    network_in,
    only,
    pretraining,
    total,
)
from toxfusion.models.expression import MaskedGeneEncoder


def distinct(cases: list[tuple[str, ...]], *keys: str) -> Iterator[tuple[str, ...]]:
    """Leaves out what repeats an earlier case in all of these keys of the config."""
    seen: list[list[Any]] = []
    for case in cases:
        content = [config(*case)[key] for key in keys]
        if content not in seen:
            seen.append(content)
            yield case


NETWORKS = [
    (f"experiment={name}",)
    for name in names("experiment")
    if "\nmethod:" not in (CONF / "experiment" / f"{name}.yaml").read_text()
]
PARTS = ("modality", "bag", "expression", "fusion")
#: Everything that is pretrained in its own way, and everything whose fine-tuned network is of its own kind.
PRETRAINED = [
    case
    for case in distinct([*PRESETS, *NETWORKS, *(only(term) for term in ALONE)], *PARTS, "pretrain")
    if config(*case)["pretrain"]["steps"]
]
FINETUNED = list(distinct(NETWORKS, *PARTS))
pretrained = pytest.mark.parametrize("case", PRETRAINED, ids=",".join)
finetuned = pytest.mark.parametrize("case", FINETUNED, ids=",".join)


def idle(of: nn.Module) -> set[str]:
    """Parameters without a gradient, or whose gradient is all zero; the others are checked to be finite."""
    trained = {name: p for name, p in of.named_parameters() if p.requires_grad}
    assert all(p.grad is None or p.grad.isfinite().all() for p in trained.values())
    return {name for name, p in trained.items() if p.grad is None or not p.grad.any()}


VECTORS, SHARED, PRIVATE = (
    ("bag", "expression"),
    ("slide_shared", "expression_shared"),
    ("slide_private", "expression_private"),
)
#: What each term reads of the network.
READS: dict[str, tuple[str, ...]] = {
    "align": (*VECTORS, *SHARED),
    "sub_bag": ("bag", "slide_shared"),
    "genes": ("expression", "decoder"),
    "orthogonality": (*VECTORS, *SHARED, *PRIVATE),
    "retention": (*VECTORS, *SHARED, *PRIVATE),
    "tiles": ("bag",),
    "slide_latents": ("bag",),
    "expression_latents": ("expression",),
    "expression_from_slide": ("bag",),
    "style": VECTORS,
    "cluster": VECTORS,
    "vicreg": (*VECTORS, *SHARED),
    "consistency": (*VECTORS, *SHARED),
}


DECODER = ("mix.", "ask.", "tell.", "gene_mean")


def part_of_network(name: str) -> str:
    """The part, in the words of `READS`, that a parameter of the network belongs to."""
    top, _, rest = name.partition(".")
    if top.endswith("_projections"):
        kind = rest.partition(".")[0]
        # The linear path gives both parts, and no term reads a private part alone.
        part = "shared" if kind == "linear" else kind
        return "fusion" if kind.endswith("_token") else f"{top.removesuffix('_projections')}_{part}"
    if top == "fusion_gain":
        return "fusion"
    return "decoder" if top == "expression" and rest.startswith(DECODER) else top


#: A learned token stands in for a missing modality, which weighs 0: it is heard only where tokens meet before that.
MAY_BE_IDLE = {"network.fusion.missing_slide", "network.fusion.missing_expression"}


@pretrained
def test_pretraining_moves_every_parameter_that_its_terms_read_and_no_other(case: tuple[str, ...]) -> None:
    of = pretraining(config(*case)).eval()  # no modality is dropped
    computed = losses(of, eight_samples())
    assert all(value.ndim == 0 and value.isfinite() for value in computed.values())
    total(of, computed).backward()
    read = {part for term in of.terms.weights for part in READS[term]}
    unread = {f"network.{n}" for n, _ in of.network.named_parameters() if part_of_network(n) not in read}
    assert idle(of) - MAY_BE_IDLE == unread - MAY_BE_IDLE


@finetuned
def test_finetuning_moves_every_parameter_but_the_decoder_of_genes(case: tuple[str, ...]) -> None:
    of = finetuning(config(*case)).eval()
    computed = losses(of, eight_samples())
    assert set(computed) == {"dili", "injury", "lesions", "severity"}
    total(of, computed).backward()
    network = of.predictor.network
    decoder = {f"network.{n}" for n, _ in network.named_parameters() if part_of_network(n) == "decoder"}
    assert bool(decoder) == isinstance(network.expression, MaskedGeneEncoder)
    assert idle(of.predictor) - MAY_BE_IDLE == decoder


@pytest.mark.parametrize(
    ("stage", "case"),
    [*(("pretrain", case) for case in PRETRAINED), *(("finetune", case) for case in FINETUNED)],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)
def test_losses_on_a_second_device_are_those_here(stage: str, case: tuple[str, ...]) -> None:
    of = (pretraining if stage == "pretrain" else finetuning)(config(*case))
    here = losses(of, eight_samples())
    with second_device() as device:
        of.to(device)
        there = losses(of, eight_samples().to(device))
        total(of, there).backward()
        assert {value.device for value in there.values()} == {device}
        assert {p.grad.device for p in of.parameters() if p.grad is not None} == {device}
        for name, value in there.items():
            torch.testing.assert_close(value.cpu(), here[name])


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize(
    ("stage", "case"),
    [*(("pretrain", case) for case in PRETRAINED), *(("finetune", case) for case in FINETUNED)],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)
def test_losses_under_autocast_are_float32_and_close(
    stage: str, case: tuple[str, ...], kind: torch.dtype
) -> None:
    """Each term within 0.1 and 10 % in bfloat16, 0.02 and 2 % in float16; gradients are finite."""
    of = (pretraining if stage == "pretrain" else finetuning)(config(*case)).eval()
    exact = losses(of, eight_samples())
    with torch.autocast("cpu", kind):
        rough = losses(of, eight_samples())
    total(of, rough).backward()
    bound = 0.1 if kind == torch.bfloat16 else 0.02
    for name, value in rough.items():
        assert value.dtype == torch.float32, name
        torch.testing.assert_close(
            value, exact[name], rtol=bound, atol=bound, msg=lambda said, name=name: f"{name}: {said}"
        )
    assert all(p.grad.isfinite().all() for p in of.parameters() if p.grad is not None)
    assert any(p.grad is not None and p.grad.any() for p in network_in(of).parameters())


@pytest.mark.parametrize(
    ("stage", "case"),
    [
        # The other experiments have the terms of these with other weights.
        *(("pretrain", case) for case in PRETRAINED if case in PRESETS or case in FINETUNED),
        *(("finetune", case) for case in FINETUNED),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)
def test_the_published_size_takes_a_step(stage: str, case: tuple[str, ...]) -> None:
    """The widths, heads, latents and prototypes of size=published, on few genes and tiles."""
    build = pretraining if stage == "pretrain" else finetuning
    of = build(config("size=published", *case))
    assert config("size=published")["size"]["width"] == 768
    optimizer = of.configure_optimizers()["optimizer"]
    before = [p.detach().clone() for p in of.parameters() if p.requires_grad]
    computed = losses(of, eight_samples())
    total(of, computed).backward()
    optimizer.step()
    assert all(value.isfinite() for value in computed.values())
    after = [p for p in of.parameters() if p.requires_grad]
    assert all(p.isfinite().all() for p in after)
    assert any(not torch.equal(p, q) for p, q in zip(before, after, strict=True))
    assert all(value.isfinite() for value in losses(of, eight_samples()).values())
