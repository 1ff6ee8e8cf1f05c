"""Gene sets: what a GMT file may be, how its names meet the study's genes, and what is left out."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from toxfusion.data.gene_sets import GeneSet, GeneSetError, place_gene_sets, read_gene_sets, read_gmt
from toxfusion.study.audit import Audit

VAR = pd.DataFrame(
    {"symbol": ["Alb", "Tp53", "Cyp1a1", "Tp53"], "human_ortholog": ["ALB", "TP53", "CYP1A2", ""]},
    index=pd.Index(["g1", "g2", "g3", "g4"], name="gene_id"),
)


def gmt(folder: Path, text: str) -> Path:
    path = folder / "sets.gmt"
    path.write_bytes(text.encode())
    return path


def test_a_file_is_read_in_its_order(tmp_path: Path) -> None:
    path = gmt(tmp_path, "\ufeffB\thttp://b\tAlb\tTp53\tAlb\t\r\n\r\nA\t\tCyp1a1\r\n")
    assert read_gmt(path) == {"B": ["Alb", "Tp53"], "A": ["Cyp1a1"]}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("A\td\tAlb\nB Alb Tp53\n", r"sets\.gmt, line 2: .*separated by tabs"),
        ("A\td\n", r"line 1: "),
        ("A\td\t\t\n", r"line 1: "),
        ("\td\tAlb\n", r"line 1: "),
        ("A\td\tAlb\n\nA\td\tTp53\n", r"line 3: the set 'A' is there twice"),
        ("\n", r"sets\.gmt: no gene set"),
    ],
)
def test_a_malformed_file_is_refused_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(GeneSetError, match=says):
        read_gmt(gmt(tmp_path, text))


def test_a_file_that_is_none_is_refused_with_the_key(tmp_path: Path) -> None:
    (tmp_path / "binary.gmt").write_bytes(b"\xff\xfe\x00\x81")
    for name in ("absent.gmt", "binary.gmt", "."):
        with pytest.raises(GeneSetError, match=r"expression\.gene_sets\.gmt"):
            read_gmt(tmp_path / name)


def test_names_are_ids_then_symbols_then_orthologs_in_any_case(tmp_path: Path) -> None:
    path = gmt(
        tmp_path, "ids\t\tG1\tg3\nsymbols\t\tTP53\tnone\northologs\t\tCYP1A2\tcyp1a1\tALB\nnothing\t\tX\n"
    )
    assert read_gene_sets(path, VAR) == [
        GeneSet("ids", 2, ("g1", "g3")),
        GeneSet("symbols", 2, ("g2", "g4")),
        GeneSet("orthologs", 3, ("g3", "g1")),
        GeneSet("nothing", 1, ()),
    ]
    plain = read_gene_sets(path, VAR.drop(columns="human_ortholog"))
    assert plain[2] == GeneSet("orthologs", 3, ("g3", "g1"))


def test_a_file_of_other_genes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GeneSetError, match=r"sets\.gmt: none of its genes is in the study.*'g1'.*'Alb'"):
        read_gene_sets(gmt(tmp_path, "A\td\tPOMC\tINS\n"), VAR)


def test_sets_are_placed_on_the_chosen_genes_and_losses_are_audited() -> None:
    sets = [
        GeneSet("whole", 2, ("g3", "g1")),
        GeneSet("shrunk", 3, ("g2", "g4", "g1")),
        GeneSet("small", 5, ("g2", "g3")),
        GeneSet("large", 4, ("g1", "g3", "g4", "g5")),
    ]
    audit = Audit()
    placed = place_gene_sets(sets, ["g5", "g4", "g3", "g1"], min_genes=2, max_genes=3, audit=audit)
    assert placed == {"whole": [2, 3], "shrunk": [1, 3]}
    said = {record.id: (record.outcome, record.reason) for record in audit.records}
    assert set(said) == {"shrunk", "small", "large"}
    outcome, reason = said["shrunk"]
    assert outcome == "changed"
    assert reason == "of 3 genes in the file, 3 are in the study and 2 among the 4 that the model reads"
    assert said["small"][0] == said["large"][0] == "dropped"
    assert said["small"][1].endswith("fewer than min_genes=2")
    assert said["large"][1].endswith("more than max_genes=3")


@pytest.mark.parametrize(("low", "high"), [(0, 5), (4, 3), (3, 9)])
def test_limits_that_leave_nothing_are_refused_with_their_keys(low: int, high: int) -> None:
    with pytest.raises(GeneSetError, match=r"expression\.gene_sets\.min_genes"):
        place_gene_sets(
            [GeneSet("a", 2, ("g1", "g2"))], ["g1", "g2"], min_genes=low, max_genes=high, audit=Audit()
        )
