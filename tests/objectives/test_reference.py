"""Agreement with the released losses of the sources; values worked out by hand are in the tests beside this one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from toxfusion.objectives.contrastive import InfoNCE
from toxfusion.objectives.masked import masked_mean_square
from toxfusion.objectives.style import PrototypeClustering, style_kl
from toxfusion.objectives.survival import DiscreteSurvival

FOLDER = Path(__file__).resolve().parents[2].parent / "shared" / "reference"
RELATIVE = 1e-5


def arrays(name: str) -> dict[str, Tensor]:
    path = FOLDER / name
    if not path.is_file():
        pytest.skip(f"{path} is not there; the reference arrays do not ship with the project")
    with np.load(path) as stored:
        return {key: torch.as_tensor(stored[key]) for key in stored.files}


def everybody(vectors: Tensor) -> Tensor:
    return torch.ones(len(vectors), dtype=torch.bool)


def test_mirror_losses() -> None:
    a = arrays("mirror_losses.npz")
    align = InfoNCE(
        temperature=1 / float(a["logit_scale"]), learnable=False, duplicates="keep", normalize=False
    )
    wsi, rna = a["wsi_score"], a["rna_score"]
    kl = style_kl(a["wsi_mu"], a["wsi_logstd"], everybody(wsi)) + style_kl(
        a["rna_mu"], a["rna_logstd"], everybody(rna)
    )
    computed = {
        "alignment": align(a["wsi_alignment_emb"], a["rna_alignment_emb"]).loss,
        "wsi_retention": masked_mean_square(
            a["wsi_retention_emb"], a["wsi_retention_target"], a["wsi_mask"].bool()
        ),
        "rna_retention": masked_mean_square(
            a["rna_retention_emb"], a["rna_retention_target"], a["rna_mask"].bool()
        ),
        "style_kl": kl,
        "cluster_kl": PrototypeClustering(temperature=1.0, entropy_weight=0.0)(wsi, rna, everybody(wsi)).loss,
    }
    for name, value in computed.items():
        assert float(value) == pytest.approx(float(a[f"expected_{name}"]), rel=RELATIVE), name
    weights = {
        "alignment": "alignment",
        "wsi_retention": "wsi_retention",
        "rna_retention": "rna_retention",
        "style_kl": "style",
        "cluster_kl": "cluster",
    }
    total = sum(
        float(computed[name]) * float(a[f"weight_{key}_loss_weight"]) for name, key in weights.items()
    )
    assert total == pytest.approx(float(a["expected_total"]), rel=RELATIVE)


def test_info_nce() -> None:
    a = arrays("info_nce.npz")
    loss = InfoNCE(temperature=float(a["temperature"]), learnable=False, duplicates="keep")(
        a["query"], a["key"]
    )
    assert float(loss.loss) == pytest.approx(float(a["expected_symmetric"]), rel=RELATIVE)


@pytest.mark.parametrize("alpha", ["0p0", "0p15", "0p5"])
def test_discrete_survival(alpha: str) -> None:
    a = arrays("discrete_survival_nll.npz")
    loss = DiscreteSurvival(alpha=float(alpha.replace("p", ".")))(a["logits"], a["time_bin"], a["event"])
    assert float(loss) == pytest.approx(float(a[f"expected_mean_alpha_{alpha}"]), rel=RELATIVE)
