"""Names that match nothing are told, with what they come near to."""

from __future__ import annotations

import pytest

from toxfusion.study.audit import Audit
from toxfusion.study.names import drop_strangers, strangers
from toxfusion.study.tables import TableError


@pytest.mark.parametrize("name", ["S-01", "s01", "S 01", "S_1", "S1", "S-001"])
def test_a_dash_a_case_or_a_zero_too_many_is_near(name: str) -> None:
    assert strangers([name, "S02"], ["S01", "S02"]).near == {name: "S01"}


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
