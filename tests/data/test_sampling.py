"""Samplers: every draw a function of its key, whatever the number of ranks and wherever training starts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from toxfusion.data.sampling import (
    CompoundStream,
    SampleStream,
    SamplingError,
    choose_tiles,
    group_weights,
    seed_draws,
    torch_seed,
)
from toxfusion.study.draws import generator
from toxfusion.study.study import Study


def test_draws_depend_on_every_part_of_the_key_and_on_nothing_else() -> None:
    base = generator(1, "pretrain", 3, "animal").random(4)
    assert np.array_equal(base, generator(1, "pretrain", 3, "animal").random(4))
    for other in ((2, "pretrain", 3, "animal"), (1, "finetune", 3, "animal"), (1, "pretrain", 4, "animal"),
                  (1, "pretrain", 3, "animals")):  # fmt: skip
        assert not np.array_equal(base, generator(*other).random(4))
    assert torch_seed(0, "x", -1) != torch_seed(0, "x", 1)


def test_a_stream_shows_each_sample_once_an_epoch() -> None:
    ids = tuple(f"s{i}" for i in range(10))
    stream = SampleStream(ids, batch_size=5, seed=0)
    first = stream.batch(0) + stream.batch(1)
    second = stream.batch(2) + stream.batch(3)
    assert sorted(first) == sorted(second) == sorted(ids)
    assert first != second


@pytest.mark.parametrize("batch_size", [3, 4, 7])
def test_two_ranks_see_what_one_process_of_twice_the_batch_sees(batch_size: int) -> None:
    ids = tuple(f"s{i}" for i in range(20))
    one = SampleStream(ids, 2 * batch_size, seed=3)
    two = SampleStream(ids, batch_size, seed=3)
    for step in range(5):
        ranks = [two.batch(step, rank, 2) for rank in (0, 1)]
        assert ranks[0] == one.batch(step)[0::2]
        assert ranks[1] == one.batch(step)[1::2]


def test_compounds_come_whole_capped_and_with_their_controls(tiny_study: Study) -> None:
    obs = tiny_study.obs
    stream = CompoundStream(
        obs, compounds_per_batch=3, treated_per_compound=4, controls_per_compound=1, seed=0
    )
    seen = []
    for step in range(2):
        animals = obs.loc[stream.batch(step)]
        treated = animals[~animals["is_control"]]
        assert treated["compound"].nunique() == 3
        assert (treated.groupby("compound").size() == 4).all()
        # Four strata of dose and time, four samples: one of each.
        assert (treated.groupby(["compound", "dose_level", "time_h"]).size() == 1).all()
        assert (animals[animals["is_control"]].groupby("compound").size() <= 1).all()
        seen.extend(treated["compound"].unique())
    assert sorted(seen) == sorted(obs["compound"].unique())


def test_patients_without_dose_and_time_are_drawn(tiny_study: Study) -> None:
    patients = tiny_study.obs.assign(
        compound=tiny_study.obs.index, dose_level="", time_h=np.nan, is_control=False
    )
    stream = CompoundStream(
        patients, compounds_per_batch=3, treated_per_compound=4, controls_per_compound=1, seed=0
    )
    steps = len(stream.compounds) // 3
    seen = [s for step in range(steps) for s in stream.batch(step)]
    assert len(seen) == len(set(seen)) == 3 * steps


def test_tiles_of_a_bag_are_distinct_and_change_with_the_step() -> None:
    first, again, later = (choose_tiles(100, 20, 0, "pretrain", step, "a") for step in (0, 0, 1))
    assert np.array_equal(first, again)
    assert len(set(first.tolist())) == 20
    assert not np.array_equal(first, later)
    assert np.array_equal(choose_tiles(5, 20, 0, "x", 0, "a"), np.arange(5))
    assert np.array_equal(choose_tiles(5, None, 0, "x", 0, "a"), np.arange(5))


def test_weighted_samples_come_as_often_as_they_weigh() -> None:
    names = tuple(f"s{i}" for i in range(60))
    weights = tuple([3.0] * 10 + [1.0] * 30 + [0.5] * 18 + [0.0] * 2)
    stream = SampleStream(names, 23, seed=0, weights=weights)
    drawn = [s for step in range(3 * 40) for s in stream.batch(step)]
    counts = pd.Series(drawn).value_counts().reindex(names).fillna(0).to_numpy()
    assert (counts[:10] == 120).all()
    assert (counts[10:40] == 40).all()
    assert counts[40:58].sum() == 40 * 9
    assert counts[40:58].min() > 8
    assert (counts[58:] == 0).all()
    twice = [len(batch) - len(set(batch)) for batch in (stream.batch(step) for step in range(120))]
    assert np.mean(twice) < 1.5  # drawn at random, a batch would hold some four doubles


def test_weights_of_groups() -> None:
    obs = pd.DataFrame({"batch": ["luad", "lusc", "brca"]})
    assert group_weights(obs, "batch", {}) is None
    assert group_weights(obs, "batch", {"luad": 3, "lusc": 0.5}) == (3.0, 0.5, 1.0)
    with pytest.raises(SamplingError, match="'gbm'"):
        group_weights(obs, "batch", {"gbm": 2})
    with pytest.raises(SamplingError, match="0 or more"):
        group_weights(obs, "batch", {"luad": -1})


def test_draws_without_a_generator_are_those_of_a_manual_seed_and_other_devices_are_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(torch_seed(1, "pretrain", 2))
    expected = torch.rand(5)
    asked: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", asked.append)
    seed_draws(torch.device("cpu"), 1, "pretrain", 2)
    assert torch.equal(torch.rand(5), expected)
    assert asked == []
