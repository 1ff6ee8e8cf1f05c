"""A small study that any test can open: 6 compounds, two times, shared controls, gaps in both modalities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from toxfusion.study.audit import Audit
from toxfusion.study.bag_store import BagStore
from toxfusion.study.store_spec import StoreSpec
from toxfusion.study.study import Study, write_study

N_GENES = 50
TERMS = ("Necrosis", "Hypertrophy", "Vacuolization, cytoplasmic")
#: compound -> (study whose vehicle controls it shares, DILI class)
COMPOUNDS = {
    "alphamide": ("S1", 1.0),
    "betazole": ("S1", 0.0),
    "gammacin": ("S2", 1.0),
    "deltaprofen": ("S3", 0.0),
    "epsilol": ("S4", 1.0),
    "zetastat": ("S5", 0.0),
}


def tiny_obs() -> pd.DataFrame:
    """52 samples: per compound and time 1 low, 2 high and 1 or 2 control animals; S1 serves two compounds."""
    samples = []
    for compound, (study, dili) in COMPOUNDS.items():
        for time in (24.0, 96.0):
            controls = 2 if study in ("S2", "S3") else 1
            for level, dose, animals in (("control", 0.0, controls), ("low", 10.0, 1), ("high", 100.0, 2)):
                injury = {"control": 0.0, "low": 0.0, "high": dili}[level]
                for animal in range(animals):
                    samples.append(
                        {
                            "sample_id": f"{compound}_{time:.0f}h_{level}_{animal}",
                            "animal_id": f"{compound}-{time:.0f}-{level}-{animal}",
                            "compound": compound,
                            "dose": dose,
                            "dose_level": level,
                            "time_h": time,
                            "study": study,
                            "batch": "A" if study in ("S1", "S2", "S3") else "B",
                            "is_control": level == "control",
                            "control_group": f"{study}_{time:.0f}h",
                            "group_id": f"{compound}_{time:.0f}h_{level}",
                            "dili": dili,
                            "injury": injury,
                            "mechanism": "oxidative" if dili else "none",
                        }
                    )
    return pd.DataFrame(samples).set_index("sample_id")


def tiny_tables(seed: int = 0) -> dict[str, Any]:
    """The arguments of ``write_study`` for the small study, but for its root."""
    obs = tiny_obs()
    rng = np.random.default_rng(seed)
    n = len(obs)
    genes = [f"ENSRNOG{i:011d}" for i in range(N_GENES)]
    x = rng.normal(8.0, 1.0, (1, N_GENES)) + rng.normal(0.0, 0.3, (n, N_GENES))
    harmed = ((obs["dili"] == 1) & (obs["dose_level"] == "high")).to_numpy()
    x[harmed, :5] += 2.0
    x[3::11] = np.nan
    grades = pd.DataFrame(0.0, index=obs.index, columns=list(TERMS))
    grades.loc[harmed, "Necrosis"] = rng.integers(1, 5, harmed.sum())
    grades.iloc[0, 1] = 1.0
    spontaneous = pd.DataFrame(False, index=obs.index, columns=list(TERMS))
    spontaneous.iloc[0, 1] = True
    chemistry = pd.DataFrame(
        {"ALT": rng.normal(40, 5, n) * np.where(harmed, 4, 1), "AST": rng.normal(70, 5, n)}, index=obs.index
    )
    chemistry.iloc[2, 0] = np.nan
    slides = [
        {"slide_id": f"{s}.{k}", "sample_id": s, "path": f"slides/{s}.{k}.tif"}
        for i, s in enumerate(obs.index)
        if i % 7 != 2
        for k in range(2 if i % 10 == 0 else 1)
    ]
    empty = dict.fromkeys(("mpp_override", "x", "y", "width", "height"), np.nan)
    return {
        "obs": obs,
        "var": pd.DataFrame(
            {"symbol": [f"Gene{i}" for i in range(N_GENES)]}, index=pd.Index(genes, name="gene_id")
        ),
        "expression": x.astype(np.float32),
        "findings": grades,
        "spontaneous": spontaneous,
        "chemistry": chemistry,
        "slides": pd.DataFrame(slides).assign(**empty).set_index("slide_id"),
        "provenance": {"seed": seed, "sources": ["generated"], "note": None},
        "name": "tiny",
        "species": "Rattus norvegicus",
        "virtual": True,
        "audit": Audit(),
    }


@pytest.fixture
def study_tables() -> dict[str, Any]:
    """The arguments of ``write_study`` for the small study, to change and write."""
    return tiny_tables()


@pytest.fixture(scope="session")
def tiny_study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The small study on disk, shared by all tests: read only (``own_tiny_study`` may be changed)."""
    return write_study(tmp_path_factory.mktemp("tiny") / "study", **tiny_tables())


@pytest.fixture
def own_tiny_study(tmp_path: Path) -> Study:
    """A copy of the small study that a test may change."""
    return write_study(tmp_path / "study", **tiny_tables())


@pytest.fixture
def study_with_features(own_tiny_study: Study) -> Study:
    """A study that a test may change, with a feature store "random": 3 to 6 tiles a slide, 8 numbers a tile."""
    rng = np.random.default_rng(1)
    spec = StoreSpec(
        "features", "float16", (8,), {"encoder": "random", "mpp": 1.0, "tile_px": 112, "trained_on": []}
    )
    store = BagStore.create(own_tiny_study.root / "features" / "random", spec)
    with store.writer() as writer:
        for i, slide_id in enumerate(own_tiny_study.slides.index):
            n = 3 + i % 4
            corners = np.column_stack([112 * np.arange(n), np.zeros(n)]).astype(np.int32)
            writer.append(
                slide_id, rng.normal(size=(n, 8)).astype(np.float16), corners, tile_size=112.0, mpp0=1.0
            )
    return own_tiny_study
