"""Splits: no unit straddles parts, folds cover every unit once and share classes, parts are repeatable."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toxfusion.config.entry import compose
from toxfusion.config.folders import config_dir
from toxfusion.config.names import transductive_name
from toxfusion.config.nodes import build
from toxfusion.study.split import Split, SplitError, read_manifest, split_units, write_manifest
from toxfusion.study.splits import (
    CompoundKFold,
    DoseExtrapolation,
    GroupKFold,
    Holdout,
    Predefined,
    TimeForward,
    TransductiveLeaveGroupOut,
)
from toxfusion.study.study import Study, write_study

SCHEMES = [
    CompoundKFold(n_folds=3),
    Holdout(test_fraction=0.3),
    GroupKFold(column="study", n_folds=3),
    TimeForward(n_folds=3),
    DoseExtrapolation(n_folds=3),
    TransductiveLeaveGroupOut(),
    TimeForward(unseen_compounds=False),
    DoseExtrapolation(unseen_compounds=False),
]


def cohort(n_positive: int, n_negative: int, sizes: list[int]) -> Study:
    """A study of obs alone: compounds with their own controls, ``sizes`` treated animals each in turn."""
    rows = []
    for i in range(n_positive + n_negative):
        for animal in range(sizes[i % len(sizes)] + 1):
            rows.append(
                {
                    "sample_id": f"c{i:03d}.{animal}",
                    "compound": f"c{i:03d}",
                    "control_group": f"g{i:03d}",
                    "group_id": f"c{i:03d}.{animal > 0}",
                    "is_control": animal == 0,
                    "dili": float(i < n_positive),
                }
            )
    obs = pd.DataFrame(rows).set_index("sample_id")
    none = pd.DataFrame(index=obs.index)
    return Study(
        root=Path(), name="cohort", species="", virtual=True, obs=obs, var=pd.DataFrame(),
        expression=np.zeros((len(obs), 0), np.float32), findings=none, spontaneous=None, chemistry=None,
        slides=pd.DataFrame({"sample_id": []}),
    )  # fmt: skip


def compounds_of(study: Study, ids: list[str]) -> set[str]:
    return set(study.obs.loc[ids, "compound"])


def test_units_join_compounds_that_share_controls(tiny_study: Study) -> None:
    units = split_units(tiny_study.obs)
    by_compound = units.groupby(tiny_study.obs["compound"]).unique()
    assert all(len(u) == 1 for u in by_compound)
    assert by_compound["alphamide"][0] == by_compound["betazole"][0] == "alphamide"
    assert units.nunique() == 5


def test_units_are_transitive_and_blank_control_groups_join_nothing() -> None:
    obs = pd.DataFrame(
        {"compound": list("abcde"), "control_group": ["g", "g", "", "", "h"]},
        index=[f"s{i}" for i in range(5)],
    )
    assert split_units(obs).tolist() == ["a", "a", "c", "d", "e"]
    # b is a parent of c, c of e: with the shared control of a and b all four meet.
    assert split_units(obs, analogues={"c": "b", "e": "c"}).tolist() == ["a", "a", "a", "d", "a"]


@pytest.mark.parametrize(
    "scheme", SCHEMES, ids=lambda s: f"{type(s).__name__}-{getattr(s, 'unseen_compounds', '')}"
)
def test_every_scheme_is_disjoint_checked_and_repeatable(tiny_study: Study, scheme: Any) -> None:
    split = scheme(tiny_study)
    split.check(tiny_study)
    parts = [split.train, split.valid, split.test]
    assert all(set(a).isdisjoint(b) for a, b in combinations(parts, 2))
    assert split == scheme(tiny_study)
    if not split.manifest["transductive"]:
        named = [compounds_of(tiny_study, p) for p in parts]
        assert all(a.isdisjoint(b) for a, b in combinations(named, 2))
    else:
        assert "ransductive" in split.manifest["scheme"]


@settings(max_examples=20, deadline=None)
@given(
    positive=st.integers(3, 14),
    negative=st.integers(3, 14),
    n_folds=st.integers(2, 5),
    seed=st.integers(0, 5),
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3),
)
def test_folds_cover_each_unit_once_and_share_classes_evenly(
    positive: int, negative: int, n_folds: int, seed: int, sizes: list[int]
) -> None:
    study = cohort(positive, negative, sizes)
    splits = [CompoundKFold(n_folds=n_folds, fold=fold, seed=seed)(study) for fold in range(n_folds)]
    tested = [s for split in splits for s in split.test]
    assert sorted(tested) == sorted(study.sample_ids)
    for key in ("positive", "negative"):
        counts = [split.manifest["parts"]["test"]["dili"][key] for split in splits]
        assert max(counts) - min(counts) <= 1
    for split in splits:
        assert sorted(split.train + split.valid + split.test) == sorted(study.sample_ids)
        valid, train = (split.manifest["parts"][p]["dili"] for p in ("valid", "train"))
        for key in ("positive", "negative"):
            n = valid[key] + train[key]
            assert valid[key] == (0 if n < 2 else min(n - 1, max(1, round(0.2 * n))))


def test_folds_do_not_depend_on_the_order_of_samples_but_on_the_seed() -> None:
    study = cohort(10, 10, [2, 3])
    turned = replace(study, obs=study.obs.iloc[::-1])
    one, two = CompoundKFold(seed=3)(study), CompoundKFold(seed=3)(turned)
    assert set(one.test) == set(two.test)
    assert set(one.valid) == set(two.valid)
    assert set(CompoundKFold(seed=4)(study).test) != set(one.test)


def test_a_compound_on_both_sides_is_named(tiny_study: Study) -> None:
    split = CompoundKFold(n_folds=3)(tiny_study)
    moved = split.test[0]
    compound = tiny_study.obs.at[moved, "compound"]
    wrong = replace(split, test=split.test[1:], train=[*split.train, moved])
    with pytest.raises(SplitError, match=compound):
        wrong.check(tiny_study)


def test_compounds_with_shared_controls_on_both_sides_are_named(tiny_study: Study) -> None:
    obs = tiny_study.obs
    a = obs.index[(obs["compound"] == "alphamide")].tolist()
    b = obs.index[(obs["compound"] == "betazole")].tolist()
    with pytest.raises(SplitError, match=r"alphamide.*betazole"):
        Split(a, [], b, 0).check(tiny_study)


def test_analogues_stay_together_and_are_checked_again_from_the_manifest(
    tiny_study: Study, tmp_path: Path
) -> None:
    table = tmp_path / "analogues.csv"
    table.write_text("compound,parent\nepsilol,zetastat\n")
    for fold in range(3):
        split = CompoundKFold(n_folds=3, fold=fold, analogues=str(table))(tiny_study)
        test = compounds_of(tiny_study, split.test)
        assert ("epsilol" in test) == ("zetastat" in test)
    obs = tiny_study.obs
    apart = Split(
        obs.index[obs["compound"] == "epsilol"].tolist(),
        [],
        obs.index[obs["compound"] == "zetastat"].tolist(),
        0,
        split.manifest,
    )
    with pytest.raises(SplitError, match=r"epsilol.*zetastat"):
        apart.check(tiny_study)


def test_unknown_and_doubled_samples_are_refused(tiny_study: Study) -> None:
    first = tiny_study.sample_ids[0]
    with pytest.raises(SplitError, match="nobody"):
        Split(["nobody"], [], [first], 0).check(tiny_study)
    with pytest.raises(SplitError, match=first):
        Split([first], [first], [], 0).check(tiny_study)


def test_group_folds_keep_groups_and_compounds(tiny_study: Study) -> None:
    obs = tiny_study.obs
    for fold in range(2):
        split = GroupKFold(column="mechanism", n_folds=2, fold=fold, keep_compounds=False)(tiny_study)
        assert obs.loc[split.test, "mechanism"].nunique() == 1
        assert split.manifest["transductive"]
    # alphamide (oxidative) shares its controls with betazole (none): mechanism and compounds make one unit.
    with pytest.raises(SplitError, match="1 units"):
        GroupKFold(column="mechanism", n_folds=2)(tiny_study)
    with pytest.raises(SplitError, match="'strain'"):
        GroupKFold(column="strain", n_folds=2)(tiny_study)


def test_validation_may_be_blocks_within_training_groups_but_never_within_a_block(tiny_study: Study) -> None:
    obs = tiny_study.obs
    split = GroupKFold(column="batch", n_folds=2, valid_column="group_id")(tiny_study)
    assert compounds_of(tiny_study, split.train) & compounds_of(tiny_study, split.valid)
    assert compounds_of(tiny_study, split.test).isdisjoint(
        compounds_of(tiny_study, split.train + split.valid)
    )
    assert set(obs.loc[split.train, "group_id"]).isdisjoint(obs.loc[split.valid, "group_id"])
    assert not split.manifest["transductive"]
    pair = next(s for s in split.train if s.endswith("high_0"))
    torn = replace(split, train=[s for s in split.train if s != pair], valid=[*split.valid, pair])
    with pytest.raises(SplitError, match=obs.at[pair, "group_id"]):
        torn.check(tiny_study)
    moved = replace(split, train=[*split.train, split.test[0]], test=split.test[1:])
    with pytest.raises(SplitError, match=obs.at[split.test[0], "compound"]):
        moved.check(tiny_study)


def test_time_forward_tests_later_times_of_unseen_compounds(tiny_study: Study) -> None:
    obs = tiny_study.obs
    split = TimeForward(train_until_h=24, test_from_h=96, n_folds=3)(tiny_study)
    assert obs.loc[split.train + split.valid, "time_h"].max() == 24
    assert obs.loc[split.test, "time_h"].min() == 96
    assert split.manifest["left_out"] == len(obs) - len(split.train + split.valid + split.test) > 0
    seen = TimeForward(unseen_compounds=False)(tiny_study)
    assert set(seen.test) == set(obs.index[obs["time_h"] == 96])


def test_dose_extrapolation_trains_below_the_tested_level(tiny_study: Study) -> None:
    obs = tiny_study.obs
    split = DoseExtrapolation(test_level="high", n_folds=3)(tiny_study)
    assert set(obs.loc[split.test, "dose_level"]) == {"high"}
    assert set(obs.loc[split.train, "dose_level"]) == {"control", "low"}
    with pytest.raises(SplitError, match="top"):
        DoseExtrapolation(test_level="top")(tiny_study)


def test_leave_group_out_tests_each_treated_group_once_and_trains_on_controls(tiny_study: Study) -> None:
    obs = tiny_study.obs
    treated = sorted(set(obs.loc[~obs["is_control"], "group_id"]))
    tested: list[str] = []
    for fold in range(len(treated)):
        split = TransductiveLeaveGroupOut(fold=fold)(tiny_study)
        assert set(obs.index[obs["is_control"]]) <= set(split.train)
        tested += split.test
    assert sorted(tested) == sorted(obs.index[~obs["is_control"]])
    with pytest.raises(SplitError, match=f"0 to {len(treated) - 1}"):
        TransductiveLeaveGroupOut(fold=len(treated))(tiny_study)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_predefined_parts_are_read_and_refused_when_a_compound_straddles(
    tiny_study: Study, tmp_path: Path, suffix: str
) -> None:
    obs = tiny_study.obs
    part = obs["compound"].map(
        {"gammacin": "train", "deltaprofen": "train", "epsilol": "test", "zetastat": "valid"}
    )
    table = pd.DataFrame({"sample_id": obs.index, "fold": 1, "part": part.to_numpy()}).dropna()
    path = tmp_path / f"parts{suffix}"

    def save(rows: pd.DataFrame) -> None:
        rows.to_parquet(path) if suffix == ".parquet" else rows.to_csv(path, index=False)

    save(table)
    split = Predefined(path=str(path), fold=1)(tiny_study)
    assert compounds_of(tiny_study, split.test) == {"epsilol"}
    assert split.manifest["left_out"] == int(part.isna().sum())
    with pytest.raises(SplitError, match=r"value 2"):
        Predefined(path=str(path), fold=2)(tiny_study)
    table.iloc[0, 2] = "test"
    save(table)
    with pytest.raises(SplitError, match="gammacin"):
        Predefined(path=str(path), fold=1)(tiny_study)
    table.iloc[0, 2] = "exam"
    save(table)
    with pytest.raises(SplitError, match="'exam'"):
        Predefined(path=str(path), fold=1)(tiny_study)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("sample_id,fold,part\n{0},0,train\n{1},0,test\nnobody,0,train\n", ["'sample_id'", "'nobody'"]),
        ("sample_id,fold,part\n{0},0,train\n{1},0,test\n{0},0,train\n", ["'sample_id'", "{0}", "twice in fold 0"]),
        ("sample_id,fold,part\n{0},,train\n{1},0,test\n", ["'fold'", "None", "no whole number"]),
        ("sample_id,fold,part\n{0},first,train\n{1},0,test\n", ["'fold'", "'first'", "no whole number"]),
        ("sample_id,fold,part\n{0},0.5,train\n{1},0,test\n", ["'fold'", "'0.5'", "no whole number"]),
        ("sample_id,fold,part\n{0},1,train\n{1},2,test\n", ["'fold'", "value 0", "[1, 2]"]),
        ("sample_id,fold,part\n{0},0,train\n{1},0,\n", ["'part'", "None", "none of"]),
        ("sample_id,fold,part\n{0},0,train\n", ["no sample in test"]),
        ("sample_id,fold,part\n{1},0,test\n", ["no sample in train"]),
        ("sample_id,part\n{0},train\n", ["column 'fold' is missing"]),
        ("", ["cannot be read as a table"]),
    ],
    ids=["unknown", "double", "no-fold", "word", "half", "absent-fold", "no-part", "no-test", "no-train", "column",
         "empty"],
)  # fmt: skip
def test_a_predefined_table_with_a_fault_is_refused_by_file_column_and_value(
    tiny_study: Study, tmp_path: Path, content: str, says: list[str]
) -> None:
    obs = tiny_study.obs
    samples = [obs.index[obs["compound"] == compound][0] for compound in ("gammacin", "epsilol")]
    path = tmp_path / "folds.csv"
    path.write_text(content.format(*samples))
    with pytest.raises(SplitError) as refused:
        Predefined(path=str(path))(tiny_study)
    for words in ([] if "no sample" in says[0] else [str(path)], says):
        assert all(word.format(*samples) in str(refused.value) for word in words)


def test_a_patient_of_a_predefined_table_on_both_sides_is_named(tmp_path: Path) -> None:
    study = cohort(4, 4, [2])
    parts = np.where(
        np.arange(len(study.obs)) < 10, "train", "test"
    )  # three samples a patient: c003 is cut in two
    path = tmp_path / "folds.csv"
    pd.DataFrame({"sample_id": study.obs.index, "fold": 0, "part": parts}).to_csv(path, index=False)
    with pytest.raises(SplitError, match=r"compound 'c003' is in test and train"):
        Predefined(path=str(path), valid_fraction=0.0)(study)


def test_published_parts_that_overlap_are_refused_or_repeated_under_their_name(tmp_path: Path) -> None:
    """The patient on both sides trains and is tested, is never drawn to choose on, and the manifest lists it."""
    study = cohort(10, 10, [0])
    path = tmp_path / "folds.csv"
    test = study.obs.index[[0, 1, 10, 11]]
    table = pd.DataFrame({"sample_id": study.obs.index, "fold": 0, "part": "train"})
    table = pd.concat([table[~table["sample_id"].isin(test[1:])],
                       pd.DataFrame({"sample_id": test, "fold": 0, "part": "test"})])  # fmt: skip
    table.to_csv(path, index=False)
    with pytest.raises(
        SplitError, match=rf"1 samples are in train and in test of fold 0 \({test[0]}\).*allow_over"
    ):
        Predefined(path=str(path))(study)
    for seed in range(5):
        split = Predefined(path=str(path), seed=seed, valid_fraction=0.5, allow_overlap=True)(study)
        assert set(split.test) & set(split.train) == {test[0]}
        assert not set(split.valid) & {*split.train, *split.test}
    assert split.manifest["overlap"] == [test[0]]
    assert split.manifest["transductive"] is True
    assert split.part_of()[test[0]] == "test"
    with pytest.raises(SplitError, match="2 times"):
        replace(split, manifest={**split.manifest, "overlap": []}).check(study)
    honest = table.drop_duplicates("sample_id", keep="last")
    honest.to_csv(path, index=False)
    assert Predefined(path=str(path), allow_overlap=True)(study).manifest["transductive"] is False
    table.replace({"part": {"train": "valid"}}).to_csv(path, index=False)
    with pytest.raises(SplitError, match=rf"'{test[0]}': twice in fold 0, in valid and test"):
        Predefined(path=str(path), allow_overlap=True)(study)


def test_a_range_without_samples_is_named(tiny_study: Study) -> None:
    with pytest.raises(SplitError, match=r"TimeForward.*range to test"):
        TimeForward(test_from_h=700)(tiny_study)
    patients = replace(tiny_study, obs=tiny_study.obs.assign(dose_level=""))
    with pytest.raises(SplitError, match=r"DoseExtrapolation.*range to train on"):
        DoseExtrapolation()(patients)


def test_a_predefined_fold_without_a_validation_part_draws_one_from_training(tmp_path: Path) -> None:
    study = cohort(10, 10, [3])
    tested = study.obs["compound"].isin(["c000", "c010"])
    path = tmp_path / "folds.csv"
    table = pd.DataFrame({"sample_id": study.obs.index, "fold": 0, "part": np.where(tested, "test", "train")})
    table.to_csv(path, index=False)
    split = Predefined(path=str(path))(study)
    assert compounds_of(study, split.test) == {"c000", "c010"}
    drawn = compounds_of(study, split.valid)
    assert len(drawn) == 4  # a fifth of nine compounds of each class
    assert sum(c < "c010" for c in drawn) == 2
    assert split.manifest["valid_drawn"] is True
    assert Predefined(path=str(path))(study) == split
    assert Predefined(path=str(path), seed=1)(study).valid != split.valid
    assert Predefined(path=str(path), valid_fraction=0.0)(study).valid == []
    named = study.obs["compound"].eq("c001").to_numpy()
    table.assign(part=table["part"].mask(named, "valid")).to_csv(path, index=False)
    split = Predefined(path=str(path))(study)
    assert compounds_of(study, split.valid) == {"c001"}  # the table's own, and nothing drawn beside it
    assert split.manifest["valid_drawn"] is False


def test_a_cohort_without_dili_labels_is_stratified_by_its_events() -> None:
    study = cohort(0, 40, [0])
    study.obs["is_control"], study.obs["control_group"], study.obs["dili"] = False, "", np.nan
    study.obs["event"] = [1.0] * 10 + [0.0] * 30
    for fold in range(5):
        split = GroupKFold(column="compound", n_folds=5, fold=fold)(study)
        assert study.obs.loc[split.test, "event"].sum() == 2
        assert study.obs.loc[split.valid, "event"].sum() == 2


def test_more_folds_than_units_or_a_fold_that_is_not_there(tiny_study: Study) -> None:
    with pytest.raises(SplitError, match="6 folds of 5 units"):
        CompoundKFold(n_folds=6)(tiny_study)
    with pytest.raises(SplitError, match="0 to 2"):
        CompoundKFold(n_folds=3, fold=3)(tiny_study)


@st.composite
def random_studies(draw: st.DrawFn) -> tuple[Study, dict[str, str]]:
    """A study with controls, sites, mechanisms, times and doses shared in any way, and a table of analogues."""
    n = draw(st.integers(4, 8))
    names = [f"c{i}" for i in range(n)]
    rows = []
    for name in names:
        group = draw(st.sampled_from(["", "", *(f"g{i}" for i in range(n))]))
        fixed = {"compound": name, "mechanism": f"m{draw(st.integers(0, 5))}", "study": f"s{draw(st.integers(0, 5))}",
                 "dili": draw(st.sampled_from([0.0, 1.0, np.nan]))}  # fmt: skip
        for level in ("control", "low", "high"):
            for time in (24.0, 96.0):
                for _ in range(draw(st.integers(0, 1)) + (level == "high")):
                    rows.append({**fixed, "sample_id": f"x{len(rows)}", "time_h": time, "dose_level": level,
                                 "control_group": f"{group}_{time:.0f}" if group else "",
                                 "is_control": level == "control", "batch": f"b{draw(st.integers(0, 3))}",
                                 "animal_id": f"{name}.{draw(st.integers(0, 2))}",
                                 "group_id": f"{name}_{level}_{time:.0f}"})  # fmt: skip
    analogues = {name: draw(st.sampled_from(names)) for name in names[: draw(st.integers(0, 2))]}
    obs = pd.DataFrame(rows).set_index("sample_id")
    return replace(cohort(1, 1, [1]), obs=obs), {k: v for k, v in analogues.items() if k != v}


def spread(obs: pd.DataFrame, columns: tuple[str, ...], analogues: dict[str, str]) -> list[int]:
    """A label of each sample, the least that reaches it through any shared value: by repetition, without a graph."""
    label = list(range(len(obs)))
    keys = [
        [f"{c}:{v}" for c, v in zip(columns, row, strict=True) if v] for row in obs[list(columns)].to_numpy()
    ]
    for mine, compound in zip(keys, obs["compound"], strict=True):
        mine += [f"analogue:{k}" for k, v in analogues.items() if compound in (k, v)]
    changed = True
    while changed:
        least: dict[str, int] = {}
        for mine, own in zip(keys, label, strict=True):
            for key in mine:
                least[key] = min(own, least.get(key, own))
        new = [min([own, *(least[key] for key in mine)]) for mine, own in zip(keys, label, strict=True)]
        changed, label = new != label, new
    return label


UNITS = ("compound", "control_group")
ANY_STUDY: dict[str, tuple[Any, tuple[str, ...]]] = {
    "compound": (CompoundKFold(n_folds=2, fold=1), UNITS),
    "holdout": (Holdout(test_fraction=0.4), UNITS),
    "study": (GroupKFold(column="study", n_folds=2), ("study", *UNITS)),
    "mechanism": (GroupKFold(column="mechanism", n_folds=2), ("mechanism", *UNITS)),
    "patient": (GroupKFold(column="animal_id", n_folds=2), ("animal_id", *UNITS)),
    "batch_alone": (GroupKFold(column="batch", n_folds=2, keep_compounds=False), ("batch",)),
    "time": (TimeForward(n_folds=2), UNITS),
    "dose": (DoseExtrapolation(n_folds=2), UNITS),
}


@pytest.mark.parametrize("name", ANY_STUDY)
@settings(max_examples=8, deadline=None)
@given(made=random_studies(), seed=st.integers(0, 3))
def test_no_unit_of_any_study_straddles_parts(
    name: str, made: tuple[Study, dict[str, str]], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    study, analogues = made
    scheme, columns = ANY_STUDY[name]
    table = tmp_path_factory.getbasetemp() / f"analogues_{name}.csv"
    pd.DataFrame(analogues.items(), columns=["compound", "parent"]).to_csv(table, index=False)
    refused, split = "", None
    try:
        split = replace(scheme, seed=seed, analogues=str(table) if analogues else None)(study)
    except SplitError as error:
        refused = str(error)
    if split is None:  # too few units to divide, or no sample in the range: said, and nothing made
        assert any(words in refused for words in ("folds of", "leaves", "range"))
        return
    # Without compounds to keep, a table of analogues has nothing to join.
    units = pd.Series(
        spread(study.obs, columns, analogues if "compound" in columns else {}), index=study.obs.index
    )
    parts = [set(units[part]) for part in (split.train, split.valid, split.test)]
    assert all(a.isdisjoint(b) for a, b in combinations(parts, 2))
    assert split.train
    assert split.test


def test_the_name_of_a_run_tells_a_transductive_split_from_the_others(
    tiny_study: Study, tmp_path: Path
) -> None:
    """For every option of conf/split and each key that makes one transductive, as its manifest says."""
    folds = pd.DataFrame({"sample_id": tiny_study.obs.index, "fold": 0, "part": "train"})
    folds.loc[tiny_study.obs["compound"].eq("epsilol").to_numpy(), "part"] = "test"
    folds.to_csv(tmp_path / "folds.csv", index=False)
    small = {"n_folds": 2, "path": str(tmp_path / "folds.csv"), "column": "batch"}
    told = []
    for option in sorted((config_dir() / "split").glob("*.yaml")):
        path = ["split.path=folds.csv"] if option.stem == "predefined" else []
        node = compose("train", ["data.root=study", f"split={option.stem}", *path])["split"]
        node |= {
            k: v for k, v in small.items() if k in node and option.stem != "transductive_leave_group_out"
        }
        for key, value in (
            ("", None),
            ("keep_compounds", False),
            ("unseen_compounds", False),
            ("transductive", True),
        ):
            if key and key not in node:
                continue
            changed = {**node, key: value} if key else node
            named = transductive_name(changed) == "_transductive"
            assert named == build(changed)(tiny_study).manifest["transductive"], (option.stem, key)
            told.append(named)
    assert any(told)
    assert not all(told)
    config = compose("train", ["data.root=study", "split=time_forward", "split.unseen_compounds=false"])
    assert "transductive" in config["paths"]["output"]
    assert "transductive" not in compose("train", ["data.root=study"])["paths"]["output"]
    overlap = ["data.root=study", "split=predefined", "split.path=folds.csv", "split.allow_overlap=true"]
    assert "_overlap/fold0" in compose("train", overlap)["paths"]["output"]


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: type(s).__name__)
def test_a_manifest_read_again_is_the_split(tiny_study: Study, tmp_path: Path, scheme: Any) -> None:
    split = scheme(tiny_study)
    write_manifest(split, tmp_path / "split.json")
    assert read_manifest(tmp_path / "split.json") == split


def test_manifest_round_trip(tiny_study: Study, tmp_path: Path) -> None:
    split = CompoundKFold(n_folds=3)(tiny_study)
    write_manifest(split, tmp_path / "split.json")
    assert read_manifest(tmp_path / "split.json") == split
    test = split.manifest["parts"]["test"]
    assert sum(test["dili"].values()) == test["n_compounds"] == len(compounds_of(tiny_study, split.test))
    (tmp_path / "split.json").write_text("{")
    with pytest.raises(SplitError, match=r"split\.json"):
        read_manifest(tmp_path / "split.json")


def test_unlabelled_compounds_are_dealt_as_a_class_of_their_own(
    tmp_path: Path, study_tables: dict[str, Any]
) -> None:
    study_tables["obs"]["dili"] = np.nan
    study = write_study(tmp_path / "study", **study_tables)
    split = CompoundKFold(n_folds=5)(study)
    assert split.manifest["parts"]["test"]["dili"]["unlabelled"] >= 1
    assert split.valid


def test_inner_folds_choose_on_every_training_unit_once(tmp_path: Path) -> None:
    study = cohort(10, 10, [3])
    schemes = [CompoundKFold(n_folds=4, fold=1, valid_folds=3, valid_fold=k) for k in range(3)]
    splits = [scheme(study) for scheme in schemes]
    assert len({tuple(s.test) for s in splits}) == 1
    chosen = [set(s.valid) for s in splits]
    assert set.union(*chosen) == set(splits[0].train) | set(splits[0].valid)
    assert sum(map(len, chosen)) == len(set.union(*chosen))
    with pytest.raises(SplitError, match=r"valid_fold 3 does not exist"):
        CompoundKFold(n_folds=4, valid_folds=3, valid_fold=3)(study)
    with pytest.raises(SplitError, match=r"valid_folds 1 of"):
        CompoundKFold(n_folds=4, valid_folds=1)(study)
    with pytest.raises(SplitError, match="draws within groups"):
        GroupKFold(column="compound", n_folds=4, valid_column="animal_id", valid_folds=3)(study)
    path = tmp_path / "folds.csv"
    part = np.where(study.obs["compound"].isin(["c000", "c010"]), "test", "train")
    table = pd.DataFrame({"sample_id": study.obs.index, "fold": 0, "part": part})
    table.to_csv(path, index=False)
    parts = [Predefined(path=str(path), valid_folds=3, valid_fold=k)(study) for k in range(3)]
    assert set.union(*(set(s.valid) for s in parts)) == set(study.obs.index[part == "train"])
    named = study.obs["compound"].eq("c001").to_numpy()
    table.assign(part=table["part"].mask(named, "valid")).to_csv(path, index=False)
    with pytest.raises(SplitError, match="has its validation part"):
        Predefined(path=str(path), valid_folds=3)(study)
