"""A fusion of one's own: one file in a package of one's own, one yaml, and nothing of toxfusion touched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.feature_store import featured_study
from tests.training.small_runs import overrides
from toxfusion.train import main

FUSION = '''
import torch

from toxfusion.models.fusion import Fused, Fusion, Gate


class LargestFusion(Fusion):
    """The larger of the two pooled vectors, entry by entry."""

    def __init__(self, width: int, sharpness: float = 1.0) -> None:
        super().__init__(width)
        self.gate = Gate(width)
        self.sharpness = torch.nn.Parameter(torch.tensor(sharpness))

    def fuse(self, slide, expression, has_slide, has_expression) -> Fused:
        pooled_slide, pooled_expression = slide.tokens.mean(1), expression.tokens.mean(1)
        gate = self.gate(pooled_slide, pooled_expression, has_slide, has_expression)
        weighed = gate[:, :1] * pooled_slide, gate[:, 1:] * pooled_expression
        return Fused(torch.maximum(*weighed) * self.sharpness, gate)
'''


def test_a_fusion_of_a_package_of_ones_own_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mylab").mkdir()
    (tmp_path / "mylab" / "fusion.py").write_text(FUSION)
    (tmp_path / "conf" / "fusion").mkdir(parents=True)
    (tmp_path / "conf" / "fusion" / "largest.yaml").write_text(
        "_target_: mylab.fusion.LargestFusion\nwidth: ${size.width}\nsharpness: 1.5\n"
    )
    study = featured_study(tmp_path / "study")
    lines = overrides(study, tmp_path / "outputs", "fusion=largest", "heatmaps=0")
    monkeypatch.syspath_prepend(tmp_path)
    main(["--config-dir", str(tmp_path / "conf"), *lines])
    (metrics,) = (tmp_path / "outputs").rglob("metrics.json")
    assert json.loads(metrics.read_text())["scores"]["lesions"]
