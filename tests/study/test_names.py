"""Names that match nothing are told, with what they come near to."""

from __future__ import annotations

import pytest

from toxfusion.study.audit import Audit
from toxfusion.study.names import drop_strangers, strangers
from toxfusion.study.tables import TableError


@pytest.mark.parametrize("name", ["S-01", "s01", "S 01", "S_1", "S1", "S-001"])
def test_a_dash_a_case_or_a_zero_too_many_is_near(name: str) -> None:
    assert strangers([name, "S02"], ["S01", "S02"]).near == {name: "S01"}


@pytest.mark.parametrize("name", ["S1.CEL.gz", "S1_rep1", "S1-liver", "s01 (2)"])
def test_what_goes_on_behind_a_mark_is_near(name: str) -> None:
    assert strangers([name, "S2"], ["S1", "S2"]).near == {name: "S1"}
    assert strangers(["S1", "S2"], [name, "S2"]).near == {"S1": name}


@pytest.mark.parametrize("name", ["X101", "101.0", "X101.CEL", "0101"])
def test_what_r_and_spreadsheets_add_to_numbers_is_passed_over(name: str) -> None:
    assert strangers([name], ["101", "102"]).near == {name: "101"}


def test_of_two_names_that_go_on_none_is_proposed() -> None:
    assert strangers(["S1"], ["S1_left lobe", "S1_median"]).near == {"S1": ""}


def test_a_name_numbered_as_a_repeat_is_asked_about() -> None:
    assert strangers(["S1", "S1.1", "S2_1"], ["S1", "S2"]).near == {"S1.1": "S1", "S2_1": "S2"}


def test_what_another_name_already_is_in_full_is_not_proposed() -> None:
    assert strangers(["S-01", "S01"], ["S01"]).near == {"S-01": ""}


def test_strangers_are_audited_with_the_near_name_and_none_at_all_is_refused() -> None:
    audit = Audit()
    about = {
        "path": "t.csv",
        "column": "sample_id",
        "kind": "row",
        "of": "the sample table",
        "stage": "prepare",
    }
    kept = drop_strangers(["a", "b-1", "zzz"], ["a", "b1"], audit=audit, **about)
    assert kept == [True, False, False]
    assert [(r.id, r.reason) for r in audit.records] == [
        ("b-1", "not in the sample table; did you mean 'b1'?"),
        ("zzz", "not in the sample table"),
    ]
    with pytest.raises(
        TableError, match=r"t\.csv, column 'sample_id': none of its 1 names.*did you mean 'b1'"
    ):
        drop_strangers(["B-1"], ["a", "b1"], audit=audit, **about)
