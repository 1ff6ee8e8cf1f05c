"""The virtual cohort is a function of its seed, and its rats behave as their axes say."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from toxfusion.synthetic.audit import intraclass_correlation
from toxfusion.synthetic.axes import AXES, AXIS_NAMES, COURSE_TIMES_H, INDEX, at_time, genes
from toxfusion.synthetic.cohort import (
    GENERATOR_VERSION,
    PHENOTYPE_INDEX,
    CohortConfig,
    CohortError,
    batch_numbers,
    compound_numbers,
    draw_compounds,
    draw_latents,
)
from toxfusion.synthetic.drawn import Cohort, draw_cohort
from toxfusion.synthetic.expression import measure_expression
from toxfusion.synthetic.labels import TERMS, group_injury, read_study
from toxfusion.synthetic.liability import components, dili, rat_liability, weighted_sum
from toxfusion.synthetic.settings import SETTINGS
from toxfusion.synthetic.slide_spec import PHENOTYPES

TIMES = (24.0, 360.0)
DIGESTS = {3: "50dc1b2c87fe185e"}


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return draw_cohort(CohortConfig(seed=7, n_compounds=120, times_h=TIMES, animals_per_group=2))


def _expression(cohort: Cohort, rats: np.ndarray) -> np.ndarray:
    return measure_expression(
        cohort.config.seed, cohort.compounds, cohort.latents, cohort.config.times_h, cohort.batches, rats
    )


def test_version_pins_latents_labels_and_expression() -> None:
    """Whoever changes the generator raises GENERATOR_VERSION and adds its digest; earlier results are void."""
    cohort = draw_cohort(CohortConfig(seed=7, n_compounds=6, times_h=TIMES))
    latents = cohort.latents
    digest = hashlib.sha256()
    for values in (
        latents.animal,
        latents.slide_severity,
        latents.reading,
        latents.activity,
        _expression(cohort, cohort.rats),
    ):
        digest.update(np.round(np.asarray(values, np.float64) * 100).astype("<i8").tobytes())
    digest.update(cohort.reading.grade.tobytes() + cohort.injury.tobytes() + cohort.dili.tobytes())
    assert digest.hexdigest()[:16] == DIGESTS[GENERATOR_VERSION]


def test_a_larger_cohort_keeps_the_animals_of_a_smaller_one() -> None:
    small = draw_cohort(CohortConfig(seed=3, n_compounds=3, times_h=(24.0,), animals_per_group=1))
    large = draw_cohort(CohortConfig(seed=3, n_compounds=5, times_h=(3.0, 24.0, 360.0), animals_per_group=3))
    assert np.array_equal(small.latents.animal[:, 0], large.latents.animal[:3, 1])
    assert np.array_equal(small.reading.grade[:, 0], large.reading.grade[:3, 1])
    shared = {name: place for place, name in enumerate(large.sample_ids)}
    places = np.array([shared[name] for name in small.sample_ids])
    assert np.array_equal(_expression(small, small.rats), _expression(large, large.rats)[places])


def test_seeds_differ() -> None:
    a, b = draw_compounds(1, range(8)), draw_compounds(2, range(8))
    assert not np.allclose(a.ed50, b.ed50)
    assert not np.array_equal(a.loaded, b.loaded)


def test_controls_get_no_dose_and_no_related_lesion(cohort: Cohort) -> None:
    assert (cohort.latents.dose_fraction[:, 0] == 0).all()
    assert cohort.reading.related[:, :, 0].mean() < 0.002
    assert (cohort.latents.activity[:, :, 0] == 0).all()
    assert not cohort.injury[:, :, 0].any()


def test_dose_levels_are_three_or_ten_thirds_apart(cohort: Cohort) -> None:
    ratio = cohort.latents.dose_fraction[:, 3] / cohort.latents.dose_fraction[:, 2]
    assert set(np.round(ratio, 3)) == {3.0, 3.333}
    assert np.allclose(cohort.latents.dose_fraction[:, 2] / cohort.latents.dose_fraction[:, 1], ratio)


def test_response_rises_with_dose(cohort: Cohort) -> None:
    share = cohort.reading.related.any(-1).mean((0, 1, 3))
    assert (np.diff(share) > 0).all()
    means = cohort.latents.activity.mean((0, 1, 3, 4))
    assert (np.diff(means) > 0).all()


def test_unloaded_axes_show_nothing() -> None:
    compounds = draw_compounds(5, range(60))
    bare = np.flatnonzero(~compounds.loaded.any(1))
    assert len(bare) > 0
    latents = draw_latents(5, compounds, TIMES)
    assert (latents.animal[bare] < 0).all()
    fasting = INDEX["A13"]
    others = [a for a in range(len(AXES)) if a != fasting]
    assert (latents.activity[bare][..., others] == 0).all()


def test_expression_comes_before_the_lesion_where_the_axis_says_so() -> None:
    """CAR/PXR: the programme is at 90 % of its course at 24 h, hypertrophy at 30 %."""
    axis = AXES[INDEX["A1"]]
    assert at_time(axis.expression_course, np.array(24.0)) == pytest.approx(0.9)
    assert at_time(axis.slide_course, np.array(24.0)) == pytest.approx(0.3)
    compounds = draw_compounds(9, range(150))
    kept = compounds.loaded[:, INDEX["A1"]] & compounds.effect_on[:, PHENOTYPE_INDEX["hypertrophy"]]
    latents = draw_latents(9, compounds, (9.0, 696.0))
    lesion = (latents.animal[kept][:, :, 3, :, PHENOTYPE_INDEX["hypertrophy"]] > 0).mean((0, 2))
    activity = latents.activity[kept][:, :, 3, :, INDEX["A1"]].mean((0, 2))
    assert lesion[0] < 0.25 * lesion[1]
    assert activity[0] / activity[1] > 2 * lesion[0] / lesion[1]


def test_courses_are_between_absent_and_full() -> None:
    for axis in AXES:
        for course in (axis.slide_course, axis.expression_course, *(e.course for e in axis.effects)):
            assert len(course) == len(COURSE_TIMES_H)
            assert 0 <= min(course) <= max(course) <= 1
        assert sum(share for _, share in axis.zones) == pytest.approx(1.0)
        assert all(effect.phenotype in PHENOTYPES for effect in axis.effects)


def test_axes_differ_in_where_they_are_seen() -> None:
    assert AXES[INDEX["A11"]].slide == 0
    assert not AXES[INDEX["A11"]].effects
    assert AXES[INDEX["A4"]].slide > AXES[INDEX["A4"]].expression
    assert sum(bool(axis.effects) for axis in AXES) >= 8


def test_genes_reads_signs_and_slashes() -> None:
    assert genes("Acot1+10.4 Scd-3.4 Cyp3a23/3a1+3") == {"Acot1": 10.4, "Scd": -3.4, "Cyp3a23/3a1": 3.0}


def test_groups_are_alike_but_not_the_same(cohort: Cohort) -> None:
    related = cohort.reading.related.any(-1)
    assert 0.70 < intraclass_correlation(related) < 0.90
    affected = related[:, :, 1:].sum(-1)
    some = affected[affected > 0]
    assert 0.05 < (some == 1).mean() < 0.25
    assert 0.35 < (some == 5).mean() < 0.65


def test_intraclass_correlation_by_hand() -> None:
    """Groups all alike give 1; as many affected rats in every group as by no grouping gives -1 / (n - 1)."""
    alike = np.array([1, 0, 1, 0], bool)[None, None, :, None].repeat(5, axis=3)
    assert intraclass_correlation(np.concatenate([alike[:, :, :1], alike], 2)) == pytest.approx(1.0)
    mixed = np.array([[1, 0], [0, 1], [1, 0], [0, 1]], bool)[None, None]
    assert intraclass_correlation(mixed) == pytest.approx(-1.0)


def test_injury_is_two_or_more_of_five(cohort: Cohort) -> None:
    related = cohort.reading.related.any(-1).sum(-1)
    assert np.array_equal(group_injury(cohort.reading), related >= 2)


def test_spontaneous_findings_do_not_follow_dose() -> None:
    cohort = draw_cohort(CohortConfig(seed=21, n_compounds=250, times_h=(24.0, 96.0, 360.0)))
    spontaneous = cohort.reading.spontaneous.any(-1).mean((0, 1, 3)) * 100
    assert np.ptp(spontaneous) < 2.0
    assert 3.0 < spontaneous.mean() < 7.0
    named = {t for k, t in enumerate(TERMS) if cohort.reading.spontaneous[..., k].any()}
    assert named == {"Necrosis", "Cellular infiltration", "Microgranuloma"}


def test_readers_grade_the_piece_they_see() -> None:
    """Far from the thresholds the grade is the severity rounded up, times a gain of 0.8 to 1.25."""
    compounds = draw_compounds(11, range(40))
    latents = draw_latents(11, compounds, (360.0,))
    piece = np.full_like(latents.reading, -1.0)
    piece[..., PHENOTYPE_INDEX["fibrosis"]] = 2.0
    reading = read_study(
        11, compounds, replace(latents, reading=piece, spontaneous=np.zeros_like(piece)), (360.0,)
    )
    grade = reading.grade[..., list(TERMS).index("Fibrosis")]
    assert reading.related[..., list(TERMS).index("Fibrosis")].all()
    assert set(np.unique(grade)) <= {1, 2, 3, 4}
    assert np.isin(grade, (2, 3)).mean() > 0.9
    assert reading.grade.sum() == grade.sum()


def test_slide_and_rna_pieces_agree_in_part() -> None:
    compounds = draw_compounds(13, range(200))
    latents = draw_latents(13, compounds, TIMES)
    there = latents.animal[..., PHENOTYPE_INDEX["infiltration"]] > 0
    slide = np.clip(latents.slide[..., PHENOTYPE_INDEX["infiltration"]], 0, None)[there]
    rna = np.clip(latents.rna[..., INDEX["A6"]], 0, None)[there]
    assert 0.5 < np.corrcoef(slide, rna)[0, 1] < 0.9


def test_batches_are_crossed_with_compounds() -> None:
    batches = batch_numbers(1, range(40), TIMES)
    per_batch = [
        len({c for c, of_compound in enumerate(batches) if b in of_compound}) for b in np.unique(batches)
    ]
    assert max(per_batch) > 1
    split = (batches[:, 0] != batches[:, 1]).mean()
    assert 0.1 < split < 0.8


def test_liability_has_the_shares_it_claims() -> None:
    for name, setting in SETTINGS.items():
        compounds = draw_compounds(12345, range(6000), name)
        raw, liability = components(compounds, name), setting.liability
        np.testing.assert_allclose(raw.mean(0), liability.mean, atol=0.05)
        used = np.array(liability.weights) > 0
        np.testing.assert_allclose(raw.std(0)[used], np.array(liability.sd)[used], rtol=0.1)
        assert weighted_sum(compounds, name).std() == pytest.approx(setting.liability.scale, rel=0.06)
        assert rat_liability(compounds, name).var() == pytest.approx(setting.liability.rat, rel=0.12)
        assert dili(compounds, name).mean() == pytest.approx(0.5, abs=0.03)


def test_interactions_need_both_modalities() -> None:
    """Hypertrophy alone adds nothing to the hazard; with oxidative stress it does."""
    compounds = draw_compounds(1, range(1))
    loaded = np.zeros_like(compounds.loaded)
    a1, a9 = INDEX["A1"], INDEX["A9"]
    strength = np.where(np.arange(loaded.shape[1]) == a1, 2.0, 0.0)[None]
    adaptive = replace(compounds, slide_max=strength, expression_max=np.zeros_like(strength))
    assert (components(adaptive)[:, :4] == 0).all()
    oxidative = np.where(np.arange(loaded.shape[1]) == a9, 1.0, 0.0)[None]
    adverse = replace(adaptive, expression_max=oxidative)
    assert components(adverse)[0, 2] > 0
    assert components(replace(adverse, slide_max=np.zeros_like(strength)))[0, 2] == 0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"setting": "hard"}, "setting"),
        ({"n_compounds": 0}, "n_compounds"),
        ({"animals_per_group": 6}, "animals_per_group"),
        ({"times_h": (24.0, 24.0)}, "times_h"),
        ({"no_slide": 1.5}, "no_slide"),
    ],
)
def test_bad_settings_are_named(change: dict[str, object], named: str) -> None:
    with pytest.raises(CohortError, match=named):
        CohortConfig(**change)  # type: ignore[arg-type]


def test_a_mechanism_left_out_passes_over_the_compounds_that_load_on_it(cohort: Cohort) -> None:
    config = CohortConfig(seed=7, n_compounds=60, leave_out=("A2", "A5"))
    numbers = compound_numbers(config)
    left_out = [INDEX["A2"], INDEX["A5"]]
    loads = cohort.compounds.loaded[:, left_out].any(axis=1)
    fitting = cohort.compounds.index[~loads]
    assert loads.any()
    assert numbers[: len(fitting)] == fitting.tolist()[:60]
    # What stays is the same compound.
    kept, first = draw_compounds(7, numbers[:3]), np.isin(cohort.compounds.index, numbers[:3])
    np.testing.assert_array_equal(kept.slide_max, cohort.compounds.slide_max[first])
    assert compound_numbers(replace(config, leave_out=()), 5) == list(range(5, 65))
    with pytest.raises(CohortError, match="no axis 'A99'; the axes are A1, A2"):
        CohortConfig(leave_out=("A99",))
    with pytest.raises(CohortError, match="every axis"):
        CohortConfig(leave_out=AXIS_NAMES)
