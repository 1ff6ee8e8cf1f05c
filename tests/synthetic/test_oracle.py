"""Oracles: labels are the study's, scores are calibrated, and more sight is never worse by more than chance."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from toxfusion.synthetic import oracle
from toxfusion.synthetic.axes import INDEX
from toxfusion.synthetic.cohort import CohortConfig, draw_compounds
from toxfusion.synthetic.drawn import Cohort, draw_cohort
from toxfusion.synthetic.liability import dili, dili_probability
from toxfusion.synthetic.oracle import dili_oracles, marginalise, oracle_aurocs, oracle_table
from toxfusion.synthetic.settings import SETTINGS
from toxfusion.synthetic.study import observations


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return draw_cohort(CohortConfig(seed=4, n_compounds=60, times_h=(360.0,), animals_per_group=1))


@pytest.fixture(scope="module")
def table(cohort: Cohort) -> pd.DataFrame:
    patch = pytest.MonkeyPatch()
    patch.setattr(oracle, "POPULATION_COMPOUNDS", 120)
    patch.setattr(oracle, "DILI_POPULATION", 1500)
    try:
        return oracle_table(cohort)
    finally:
        patch.undo()


def test_units_and_labels_are_those_of_the_study(cohort: Cohort, table: pd.DataFrame) -> None:
    obs = observations(cohort)
    treated = obs[~obs["is_control"]]
    dili_rows = table[(table["task"] == "dili") & (table["view"] == "both")].set_index("unit_id")
    assert set(dili_rows.index) == set(obs["compound"])
    assert (treated["dili"].to_numpy() == dili_rows.loc[treated["compound"], "label"].to_numpy()).all()
    injury = table[(table["task"] == "injury") & (table["view"] == "both")].set_index("unit_id")
    assert set(injury.index) == set(treated["group_id"])
    assert (treated["injury"].to_numpy() == injury.loc[treated["group_id"], "label"].to_numpy()).all()
    lesion = table[(table["task"] == "lesion:Hypertrophy") & (table["view"] == "slide")]
    assert lesion["unit_id"].tolist() == list(obs.index)
    assert not table.duplicated(["task", "view", "unit_id"]).any()


def test_scores_are_probabilities_and_grades(table: pd.DataFrame) -> None:
    binary = table[table["task"] != "severity"]
    assert binary["score"].between(0, 1).all()
    assert table.loc[table["task"] == "severity", "score"].between(0, 4).all()
    assert set(table["view"]) == {"both", "slide", "expression", "all"}


def test_oracles_of_injury_tell_more_than_chance_and_less_than_everything(table: pd.DataFrame) -> None:
    aurocs = oracle_aurocs(table).loc["injury"]
    assert 0.6 < aurocs["slide"] < aurocs["all"]
    assert 0.6 < aurocs["expression"] < aurocs["all"]
    assert aurocs["both"] > max(aurocs["slide"], aurocs["expression"]) - 0.02


def test_dili_probability_is_calibrated() -> None:
    for setting in SETTINGS:
        compounds = draw_compounds(77, range(4000), setting)
        label = dili(compounds, setting)
        for exposure in (False, True):
            score = dili_probability(compounds, setting, exposure=exposure)
            order = np.argsort(score)
            for part in np.array_split(order, 4):
                assert label[part].mean() == pytest.approx(score[part].mean(), abs=0.05)


def test_oracles_of_both_settings() -> None:
    """DILI of the positive control needs both modalities together: adding up what each says is clearly less."""
    aurocs, added = {}, {}
    for setting in SETTINGS:
        compounds, population = (
            draw_compounds(78, range(5000), setting),
            draw_compounds(79, range(2000), setting),
        )
        label = dili(compounds, setting)
        scores = dili_oracles(compounds, setting, population)
        aurocs[setting] = {view: roc_auc_score(label, score) for view, score in scores.items()}
        odds = sum(norm.ppf(scores[view].clip(0.01, 0.99)) for view in ("slide", "expression"))
        added[setting] = roc_auc_score(label, odds)
    assert aurocs["realistic"]["both"] == pytest.approx(0.64, abs=0.03)
    assert aurocs["realistic"]["all"] == pytest.approx(0.70, abs=0.03)
    assert aurocs["control"]["both"] == pytest.approx(0.85, abs=0.02)
    assert added["control"] < aurocs["control"]["both"] - 0.07
    for views in aurocs.values():
        assert 0.52 < views["slide"] < views["both"]
        assert 0.52 < views["expression"] < views["both"]


def test_marginalising_gives_the_mean_of_what_is_not_seen() -> None:
    """P depends on a seen flag and on an unseen one that is 1 in a quarter: expect the average over the latter."""
    rng = np.random.default_rng(0)
    seen, hidden = rng.integers(0, 2, 4000), rng.random(4000) < 0.25
    probability = 0.2 + 0.4 * seen + 0.3 * hidden
    score = marginalise(seen[:, None].astype(float), probability, np.array([[0.0], [1.0]]))
    assert score == pytest.approx([0.275, 0.675], abs=0.02)


def test_a_label_that_never_varies_is_itself() -> None:
    assert marginalise(np.zeros((5, 1)), np.zeros(5), np.zeros((2, 1))).tolist() == [0.0, 0.0]


def test_the_positive_control_has_plainer_lesions_and_less_of_everything_else() -> None:
    control, real = (
        draw_cohort(CohortConfig(seed=4, n_compounds=60, times_h=(696.0,), setting=setting))
        for setting in ("control", "realistic")
    )
    high = [cohort.latents.slide[:, 0, 3].clip(0).max(-1) for cohort in (control, real)]
    assert (high[0] > 1).mean() > (high[1] > 1).mean() + 0.2
    assert control.latents.background.mean() < 0.5 * real.latents.background.mean()
    silent = [INDEX[axis] for axis in SETTINGS["control"].silent]
    assert not control.compounds.expression_max[:, silent].any()
    assert real.compounds.expression_max[:, silent].any()
