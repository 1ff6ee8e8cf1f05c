"""A virtual study as files: the contract holds, truth is apart, rendering resumes, and other settings are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from toxfusion.study.study import Study
from toxfusion.synthetic import oracle, rendering
from toxfusion.synthetic.cohort import GENERATOR_VERSION, PHENOTYPE_INDEX, CohortConfig, CohortError
from toxfusion.synthetic.drawn import draw_cohort
from toxfusion.synthetic.labels import TERMS
from toxfusion.synthetic.slide_plan import ARTEFACT_RATES, LEAST_DRAWN, batch_stain
from toxfusion.synthetic.slide_spec import PHENOTYPES
from toxfusion.synthetic.study import (
    StudyConfig,
    provenance,
    slide_specs,
    study_name,
    synthesize_study,
)

TINY = StudyConfig(
    CohortConfig(seed=2, n_compounds=2, times_h=(360.0,), two_slides=0.3, no_slide=0.2, no_expression=0.3),
    slide_px=192,
    jobs=1,
)


@pytest.fixture(autouse=True, scope="module")
def _small_populations() -> object:
    patch = pytest.MonkeyPatch()
    patch.setattr(oracle, "POPULATION_COMPOUNDS", 20)
    patch.setattr(oracle, "DILI_POPULATION", 200)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("virtual") / "study"
    synthesize_study(folder, TINY)
    return folder


def test_the_study_opens_and_has_gaps_on_purpose(root: Path) -> None:
    study = Study.open(root)
    assert study.virtual
    assert study.provenance["setting"] == "realistic"
    assert study.provenance["generator_version"] == GENERATOR_VERSION
    assert set(study.findings.columns) == set(TERMS)
    assert (study.has_slide | study.has_expression).all()
    assert all(study.slide_path(s).is_file() for s in study.slides.index)
    assert study.obs.loc[study.obs["is_control"], ["dili", "injury"]].isna().all().all()
    groups = study.obs.groupby("control_group")
    assert (groups["is_control"].sum() >= 1).all()
    assert (groups["compound"].nunique() == 1).all()


def test_inputs_do_not_hold_the_truth(root: Path) -> None:
    study = Study.open(root)
    inputs = {*study.obs.columns, *study.var.columns, *study.findings.columns, *study.slides.columns}
    assert not {c for c in inputs if "severity" in c or "activity" in c or "slide_max" in c}
    lesions = pd.read_parquet(root / "truth" / "lesions.parquet")
    assert set(lesions["slide_id"]) <= set(study.slides.index)
    assert set(lesions["phenotype"]) <= set(PHENOTYPES)
    animals = pd.read_parquet(root / "truth" / "animals.parquet")
    assert animals["sample_id"].tolist() == study.sample_ids
    masks = {p.stem for p in (root / "truth" / "masks").glob("*.png")}
    assert masks == set(study.slides.index)


def test_rendered_slides_are_kept_and_missing_ones_come_back(root: Path) -> None:
    slides = sorted((root / "slides").glob("*.tif"))
    kept, lost = slides[0], slides[-1]
    before, pixels = kept.stat().st_mtime_ns, lost.read_bytes()
    lost.unlink()
    synthesize_study(root, TINY)
    assert kept.stat().st_mtime_ns == before
    assert lost.read_bytes() == pixels


def test_a_slide_of_the_same_specification_is_rendered_once_for_all_studies(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = replace(TINY, slide_cache=tmp_path / "cache")
    first, second = tmp_path / "first", tmp_path / "second"
    synthesize_study(first, cached)
    monkeypatch.setattr(rendering, "render_slide", lambda *_: pytest.fail("rendered again"))
    synthesize_study(second, cached)
    assert provenance(cached) == provenance(TINY)
    for slide in sorted((root / "slides").iterdir()):
        assert (second / "slides" / slide.name).read_bytes() == slide.read_bytes()
    pd.testing.assert_frame_equal(
        pd.read_parquet(root / "truth" / "slides.parquet"),
        pd.read_parquet(second / "truth" / "slides.parquet"),
    )


def test_another_seed_is_refused_by_name(root: Path) -> None:
    other = replace(TINY, cohort=replace(TINY.cohort, seed=3))
    with pytest.raises(CohortError, match=r"cohort\.seed is 2 there and 3 here"):
        synthesize_study(root, other)


def test_studies_from_before_a_mechanism_could_be_left_out_are_of_the_same_settings() -> None:
    assert "leave_out" not in provenance(TINY)["settings"]["cohort"]
    fewer = replace(TINY, cohort=replace(TINY.cohort, leave_out=("A2",)))
    assert provenance(fewer)["settings"]["cohort"]["leave_out"] == ["A2"]


def test_without_slides(tmp_path: Path) -> None:
    study = synthesize_study(tmp_path / "bare", replace(TINY, slides=False))
    assert study.slides.empty
    assert study.has_expression.any()
    assert study_name(replace(TINY.cohort, setting="control")) == "virtual-liver-control-s2"


def test_slides_show_the_latents_of_their_rat() -> None:
    config = StudyConfig(CohortConfig(seed=6, n_compounds=12, times_h=(360.0,)))
    cohort = draw_cohort(config.cohort)
    specs = slide_specs(cohort, config, np.ones(len(cohort.rats), int))
    shown = cohort.of_samples(cohort.latents.slide_severity)
    for place, (_, spec) in enumerate(specs.values()):
        for phenotype in PHENOTYPES:
            expected = shown[place, PHENOTYPE_INDEX[phenotype]]
            assert abs(spec.severity(phenotype) - expected) < max(LEAST_DRAWN, 0.5 * max(1.0, expected))


def test_size_stain_and_artefacts_do_not_follow_dose() -> None:
    config = StudyConfig(CohortConfig(seed=8, n_compounds=150, times_h=(24.0,)))
    cohort = draw_cohort(config.cohort)
    specs = [spec for _, spec in slide_specs(cohort, config, np.ones(len(cohort.rats), int)).values()]
    high = cohort.rats[:, 2] == 3
    for values in (
        [spec.width * spec.height for spec in specs],
        [spec.stain.thickness for spec in specs],
        [len(spec.artefacts) for spec in specs],
    ):
        x = np.array(values, float)
        difference = x[high].mean() - x[~high].mean()
        assert abs(difference) < 4 * x.std() * np.sqrt(1 / high.sum() + 1 / (~high).sum())
    folds = np.mean(["fold" in spec.artefacts for spec in specs])
    assert folds == pytest.approx(ARTEFACT_RATES["fold"], abs=0.05)


def test_slides_of_a_batch_share_stain() -> None:
    assert batch_stain(1, 4) == batch_stain(1, 4)
    assert batch_stain(1, 4) != batch_stain(1, 5)
