"""The audit ledger keeps every record once, in order, and is replaced whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from toxfusion.study.audit import Audit, AuditRecord


def filled() -> Audit:
    audit = Audit()
    audit.drop("prepare", "gene", "Alb", "seen in 2 samples")
    audit.drop("prepare", "gene", "Cyp1a1", "seen in 2 samples")
    audit.change("prepare", "gene", "1-Mar", "recovered as Marchf1")
    return audit


def test_records_keep_order_and_are_not_repeated() -> None:
    audit = filled()
    audit.drop("prepare", "gene", "Alb", "seen in 2 samples")
    assert [r.id for r in audit.records] == ["Alb", "Cyp1a1", "1-Mar"]
    assert [r.outcome for r in audit.records] == ["dropped", "dropped", "changed"]
    assert audit.dropped.records == audit.records[:2]
    first, second = audit.summary().splitlines()
    assert first.split() == [
        "2",
        "gene",
        "dropped",
        "in",
        "prepare:",
        "seen",
        "in",
        "2",
        "samples",
        "(Alb,",
        "Cyp1a1)",
    ]
    assert "changed" in second


def test_many_records_alike_are_counted_without_their_names() -> None:
    audit = Audit()
    for gene in ("a", "b", "c", "d"):
        audit.drop("prepare", "gene", gene, "constant")
    assert audit.summary().split() == ["4", "gene", "dropped", "in", "prepare:", "constant"]


def test_writing_merges_with_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "audit.json"
    filled().write(path)
    later = Audit([AuditRecord("extract", "slide", "s1", "no mpp")])
    later.drop("prepare", "gene", "Alb", "seen in 2 samples")
    later.write(path)
    assert Audit.read(path).records == [*filled().records, later.records[0]]
    Audit.write_new(path, later)
    assert Audit.read(path).records == later.records
    assert [p.name for p in path.parent.iterdir()] == ["audit.json"]


@pytest.mark.parametrize("text", ["{", '[{"stage": "a"}]', "3"])
def test_a_file_that_is_no_audit_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "audit.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"audit\.json"):
        Audit.read(path)
