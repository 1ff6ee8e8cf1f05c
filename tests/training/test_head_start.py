"""Heads solved in closed form: against scikit-learn, and as a start that fine-tuning's own gradient leaves alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F

from tests.training.small_training import FOUR_TASKS, config, eight_samples, finetuning
from toxfusion.models.heads import MultiClassHead
from toxfusion.training.head_start import HeadRidge, HeadStartError, labelled_units, solve_heads


def planted(n: int = 120, width: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    vectors = 3.0 * torch.randn(n, width, generator=generator)
    return vectors, (vectors[:, 0] + torch.randn(n, generator=generator) > 0).long()


@pytest.mark.parametrize("c", [0.01, 1.0])
def test_it_is_the_logistic_regression_of_scikit_learn_on_vectors_of_unit_variance(c: float) -> None:
    vectors, labels = planted()
    heads = nn.ModuleDict({"subtype": MultiClassHead(12, 2)})
    ridge = HeadRidge.of(vectors, {"subtype": len(labels)}, {"subtype": c})
    solve_heads(heads, lambda: F.cross_entropy(heads["subtype"](vectors), labels) + ridge(heads)["subtype"])
    scale = float(vectors.var(0, correction=0).mean().sqrt())
    # Two logits with a penalty each are one logit whose C is half: w = w1 - w0 and |w1|^2 + |w0|^2 = |w|^2 / 2.
    theirs = LogisticRegression(C=2 * c, tol=1e-10, max_iter=5000).fit(
        vectors.numpy() / scale, labels.numpy()
    )
    logits = heads.eval()["subtype"](vectors).detach()
    expected = theirs.decision_function(vectors.numpy() / scale)
    assert np.abs((logits[:, 1] - logits[:, 0]).numpy() - expected).max() < 2e-3 * np.abs(expected).max()


def test_the_start_does_not_depend_on_random_weights_nor_leave_another_mode() -> None:
    vectors, labels = planted()

    def solved(seed: int) -> Tensor:
        torch.manual_seed(seed)
        heads = nn.ModuleDict({"subtype": MultiClassHead(12, 2)}).train()
        ridge = HeadRidge.of(vectors, {"subtype": len(labels)}, {"subtype": 0.1})
        solve_heads(
            heads, lambda: F.cross_entropy(heads["subtype"](vectors), labels) + ridge(heads)["subtype"]
        )
        assert heads.training
        assert all(p.grad is None for p in heads.parameters())
        return heads.eval()["subtype"](vectors).softmax(1).detach()

    assert (solved(0) - solved(1)).abs().max() < 1e-3


def test_all_heads_of_a_module_begin_where_their_loss_is_flat() -> None:
    """Compounds, dose groups, lesions and grades at once: no head has a gradient left, and the loss has fallen."""
    module, batch = finetuning(config()), eight_samples()
    module.eval()
    with torch.no_grad():
        vectors = module.predictor(batch).fused.vector
    labelled = labelled_units(FOUR_TASKS, batch)
    module.ridge = HeadRidge.of(vectors, labelled, dict.fromkeys(labelled, 0.1))

    def loss() -> Tensor:
        return module.total(module.penalised(module.losses(vectors, batch)))

    before = float(loss().detach())
    least = solve_heads(module.predictor.heads, loss)
    assert least < before
    loss().backward()
    assert (
        max(float(p.grad.abs().max()) for p in module.predictor.heads.parameters() if p.grad is not None)
        < 1e-3
    )


def test_units_are_compounds_dose_groups_and_samples() -> None:
    assert labelled_units(FOUR_TASKS, eight_samples()) == {
        "dili": 4,
        "injury": 6,
        "lesions": 8,
        "severity": 7,
    }


def test_a_strength_of_zero_is_refused() -> None:
    with pytest.raises(HeadStartError, match=r"head_c=0"):
        HeadRidge.of(torch.zeros(3, 2), {"dili": 3}, {"dili": 0.0})


def test_each_part_of_the_heads_has_its_mode_again() -> None:
    """A part that was frozen in evaluation mode stays so."""
    heads = nn.ModuleDict({"subtype": nn.Sequential(nn.Dropout().eval(), nn.Linear(3, 2))})
    before = [part.training for part in heads.modules()]
    solve_heads(heads, lambda: torch.stack([p.square().sum() for p in heads.parameters()]).sum())
    assert [part.training for part in heads.modules()] == before
