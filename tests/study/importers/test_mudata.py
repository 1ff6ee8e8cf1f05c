"""A MuData file with slips: each is refused by the file and its modality, and no vector that says nothing is stored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest

from toxfusion.study.importers.mudata import import_mudata
from toxfusion.study.tables import TableError

mudata = pytest.importorskip("mudata", reason="pip install 'toxfusion[interop]'")
pytestmark = pytest.mark.filterwarnings("ignore")
SAMPLES = ["s1", "s2", "s3"]


def written(folder: Path, change: Callable[[Any, Any], None] = lambda expression, slides: None) -> str:
    obs = pd.DataFrame({"compound": "a", "dose": [0.0, 10.0, 30.0]}, index=SAMPLES)
    values = np.array([[1.5, 2.0], [3.0, 4.5], [5.0, 6.0]], np.float32)
    expression = anndata.AnnData(values, obs=obs, var=pd.DataFrame(index=["Alb", "Mt1"]))
    vectors = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    slides = anndata.AnnData(vectors, obs=pd.DataFrame(index=SAMPLES))
    change(expression, slides)
    mudata.MuData({"expression": expression, "slides": slides}).write_h5mu(folder / "m.h5mu")
    return str(folder / "m.h5mu")


def test_vectors_become_bags_and_ask_nothing(tmp_path: Path) -> None:
    study = import_mudata(tmp_path / "study", file=written(tmp_path), slides="slides")
    assert [study.features("mudata").n_rows(i) for i in study.slides.index] == [1, 1, 1]
    assert "did you mean" not in (study.root / "audit.json").read_text()


def _zeros(expression: Any, slides: Any) -> None:
    slides.X[1] = 0


def _same(expression: Any, slides: Any) -> None:
    slides.X[:] = slides.X[0]


def _no_dose(expression: Any, slides: Any) -> None:
    del expression.obs["dose"]


def _counts(expression: Any, slides: Any) -> None:
    expression.X *= 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_zeros, r"m\.h5mu, modality 'slides', sample 's2': its vector is zeros"),
        (_same, r"m\.h5mu, modality 'slides': all samples have one vector"),
        (_no_dose, r"m\.h5mu, obs: column 'dose' is missing"),
        (_counts, r"m\.h5mu, modality 'expression', sample 's3', gene 'Mt1', value 600: is no log2 value"),
    ],
)
def test_what_is_refused_is_named_by_the_file(
    tmp_path: Path, change: Callable[[Any, Any], None], message: str
) -> None:
    with pytest.raises(TableError, match=message):
        import_mudata(tmp_path / "study", file=written(tmp_path, change), slides="slides")
    assert not (tmp_path / "study" / "features").exists()
