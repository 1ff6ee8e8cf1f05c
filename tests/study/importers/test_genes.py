"""Gene ids become genes: every id kept, dropped or collapsed is accounted for, whatever the order of the table."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from toxfusion.study.audit import Audit
from toxfusion.study.importers.genes import GeneIds, collapse_genes, id_kinds, normalised_ids
from toxfusion.study.importers.tables import ImportTableError


def named(
    values: pd.DataFrame, *, counts: bool = True, audit: Audit | None = None, **rules: Any
) -> tuple[pd.DataFrame, dict[str, Any]]:
    return GeneIds(**rules).named(values, Audit() if audit is None else audit, path="t.csv", counts=counts)


def one_row(**columns: float) -> pd.DataFrame:
    return pd.DataFrame([columns])


def table(path: Path, text: str) -> str:
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


def test_kinds_of_ids_and_their_versions() -> None:
    ids = ["ENSRNOG00000012345.7", "ENSG00000182378.14_PAR_Y", "24185", "24185.0", "NM_012488.2", "1367452_at",
           "ILMN_1343291", "Cyp1a1", "RGD1560687", " LOC100912 "]  # fmt: skip
    clean = normalised_ids(ids)
    assert clean == [
        "ENSRNOG00000012345", "ENSG00000182378_PAR_Y", "24185", "24185", "NM_012488", "1367452_at",
        "ILMN_1343291", "Cyp1a1", "RGD1560687", "LOC100912",
    ]  # fmt: skip
    assert id_kinds(clean) == {"symbol": 3, "ensembl": 2, "entrez": 2, "probe": 2, "refseq": 1}


def test_a_mixture_is_reported_with_its_numbers() -> None:
    audit = Audit()
    _, tally = named(one_row(Alb=1, Cyp1a1=2, ENSRNOG00000012345=3), audit=audit)
    assert tally["kinds"] == {"symbol": 2, "ensembl": 1}
    assert "2 symbol (Alb ...), 1 ensembl (ENSRNOG00000012345 ...)" in audit.records[0].reason


ANNOTATIONS = {
    "netaffx.csv": '#%version=1\n"Probe Set ID","Gene Symbol","Entrez Gene"\n"a_at","Alb","1"\n"b_at","Alb","1"\n'
    '"c_at","Cyp2b1 /// Cyp2b2","2 /// 3"\n"d_at","---","---"\n',
    "GPL1355.annot.gz": "^PLATFORM=GPL1355\n!table_begin\n#ID = probe\nID\tGene symbol\tGene ID\na_at\tAlb\t1\n"
    "b_at\tAlb\t1\nc_at\tCyp2b1///Cyp2b2\t2///3\nd_at\t\t\n!table_end\n",
    "plain.tsv": "probe\tsymbol\r\na_at\tAlb\r\nb_at\tAlb\r\nc_at\tCyp2b1\r\nc_at\tCyp2b2\r\n",
}


@pytest.mark.parametrize("name", ANNOTATIONS)
def test_probes_of_an_annotation(tmp_path: Path, name: str) -> None:
    audit = Audit()
    values = one_row(a_at=1.0, b_at=4.0, c_at=2.0, d_at=3.0)
    path = table(tmp_path / name, ANNOTATIONS[name])
    genes, tally = named(values, counts=False, audit=audit, map=path)
    assert genes.to_dict("list") == {"Alb": [2.5]}
    assert named(values, counts=False, map=path, collapse="max_mean")[0].to_dict("list") == {"Alb": [4.0]}
    assert {k: tally[k] for k in ("given", "unmapped", "ambiguous", "collapsed", "genes")} == {
        "given": 4, "unmapped": 1, "ambiguous": 1, "collapsed": 1, "genes": 1,
    }  # fmt: skip
    assert {(r.id, r.outcome) for r in audit.records} == {
        ("c_at", "dropped"), ("d_at", "dropped"), ("a_at -> Alb", "changed"), ("b_at -> Alb", "changed"),
    }  # fmt: skip


def test_ensembl_ids_of_any_version_meet_a_gtf(tmp_path: Path) -> None:
    gtf = table(
        tmp_path / "r.gtf.gz",
        "#!genome\n"
        '1\te\tgene\t1\t9\t.\t+\t.\tgene_id "ENSRNOG00000000001"; gene_version "3"; gene_name "Alb"; '
        'a "1"; b "2"; c "3"; d "4"; e "5"; '
        'f "6";\n'
        '1\te\texon\t1\t9\t.\t+\t.\tgene_id "ENSRNOG00000000001"; gene_name "Alb"; exon_number "1";\n'
        '1\te\tgene\t1\t9\t.\t+\t.\tgene_id "ENSRNOG00000000002"; gene_version "1";\n',
    )
    values = pd.DataFrame([[5, 6]], columns=["ENSRNOG00000000001.9", "ENSRNOG00000000002.1"])
    genes, tally = named(values, map=gtf)
    assert genes.to_dict("list") == {"Alb": [5]}
    assert tally["unmapped"] == 1


def test_columns_of_a_map_are_found_or_asked_for(tmp_path: Path) -> None:
    path = table(tmp_path / "m.csv", "Gene stable ID,NCBI gene ID,Gene name\nENSRNOG00000000001,24186,Alb\n")
    values = one_row(**{"24186": 1})
    assert named(values, map=path)[0].columns.tolist() == ["Alb"]
    assert named(values, map=path, map_to="Gene stable ID")[0].columns.tolist() == ["ENSRNOG00000000001"]
    with pytest.raises(
        ImportTableError, match=r"m\.csv: column 'x' of source\.gene_ids\.map_from is missing"
    ):
        named(values, map=path, map_from="x")
    with pytest.raises(ImportTableError, match=r"source\.gene_ids\.orthologs_to"):
        named(values, orthologs=path)
    with pytest.raises(
        ImportTableError, match=r"none of its 1 genes \(Alb \.\.\.\).*among the 1 .*\(24186 \.\.\.\)"
    ):
        named(one_row(Alb=1), map=path, map_from="NCBI gene ID")


ORTHOLOGS = "rat,human\nAlb,ALB\nCyp2b1,CYP2B6\nCyp2b2,CYP2B6\nMt1,MT1A\nMt1,MT1\nUgt1,UGT1A1\nUgt1,UGT1A3\n"


def test_orthologs_one_to_one_or_collapsed(tmp_path: Path) -> None:
    path = table(tmp_path / "o.csv", ORTHOLOGS)
    values = one_row(Alb=1, Cyp2b1=2, Cyp2b2=3, Mt1=4, Ugt1=5, Rat1=6)
    rules = {"orthologs": path, "orthologs_to": "human"}
    audit = Audit()
    strict, tally = named(values, audit=audit, **rules)
    assert strict.to_dict("list") == {"ALB": [1]}
    assert tally["orthologs"] == 5
    assert {r.id: r.reason for r in audit.records} == {
        "Cyp2b1": "shares its ortholog in o.csv with other genes",
        "Cyp2b2": "shares its ortholog in o.csv with other genes",
        "Mt1": "several orthologs in o.csv",
        "Ugt1": "several orthologs in o.csv",
        "Rat1": "no ortholog in o.csv",
    }
    loose, tally = named(values, **rules, many_orthologs="collapse")
    assert loose.to_dict("list") == {"ALB": [1], "CYP2B6": [5], "MT1": [4]}
    assert (tally["orthologs"], tally["collapsed"]) == (2, 1)


def test_summary_rows_of_counting_tools_are_no_genes() -> None:
    audit = Audit()
    genes, tally = named(one_row(Alb=1, __no_feature=9, N_unmapped=7), audit=audit)
    assert genes.columns.tolist() == ["Alb"]
    assert tally["summary"] == 2
    assert {r.id for r in audit.records if r.outcome == "dropped"} == {"__no_feature", "N_unmapped"}


def test_rules_and_row_numbers_are_refused() -> None:
    with pytest.raises(ImportTableError, match="collapse=median"):
        GeneIds(collapse="median")
    with pytest.raises(ImportTableError, match="many_orthologs=first"):
        GeneIds(many_orthologs="first")
    with pytest.raises(ImportTableError, match="sums of logarithms"):
        named(one_row(Alb=1), counts=False, collapse="sum")
    with pytest.raises(ImportTableError, match="row numbers"):
        named(pd.DataFrame(np.ones((2, 12)), columns=range(12)))


def test_doubled_genes_are_joined_in_place_and_audited() -> None:
    values = pd.DataFrame([[1.0, 4.0, 3.0]], columns=["b", "a", "b"])
    audit = Audit()
    assert collapse_genes(values, audit).to_dict("list") == {"b": [2.0], "a": [4.0]}
    assert collapse_genes(values, Audit(), how="sum").to_dict("list") == {"b": [4.0], "a": [4.0]}
    assert [(r.id, r.outcome) for r in audit.records] == [("b", "changed")]


IDS = st.lists(st.sampled_from([f"p{i}_at" for i in range(12)]), min_size=1, max_size=14)
MAPS = st.dictionaries(
    st.sampled_from([f"p{i}_at" for i in range(12)]),
    st.lists(st.sampled_from(["A", "B", "C", "D"]), min_size=0, max_size=2, unique=True),
    min_size=1,
)


@given(IDS, MAPS, st.sampled_from(["sum", "mean", "max_mean"]), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_is_lost_silently_in_any_order(
    tmp_path: Path, ids: list[str], of: dict[str, list[str]], how: str, random: Any
) -> None:
    lines = [f"{i},{' /// '.join(genes)}" for i, genes in of.items()]
    path = table(tmp_path / "map.csv", "\n".join(["probe,symbol", *lines]) + "\n")
    counts = np.random.default_rng(len(ids)).integers(0, 50, (3, len(ids)))
    values = pd.DataFrame(counts, columns=ids)
    audit = Audit()
    if not any(of.get(i) for i in ids):
        with pytest.raises(ImportTableError, match="none of its"):
            named(values, map=path, collapse=how)
        return
    genes, tally = named(values, audit=audit, map=path, collapse=how)
    lost = tally["unmapped"] + tally["ambiguous"]
    assert tally["given"] == len(ids) == tally["genes"] + lost + tally["collapsed"]
    assert set(genes.columns) == {of[i][0] for i in ids if len(of.get(i, [])) == 1}
    # Every id that is no gene of its own is in the audit, and no other.
    told = {r.id.split(" -> ")[0] for r in audit.records}
    sharing = pd.Series({i: of[i][0] for i in ids if len(of.get(i, [])) == 1}, dtype=object)
    twice = {i for i in ids if ids.count(i) > 1 and i in sharing}
    assert (
        told
        == {i for i in ids if i not in sharing} | set(sharing[sharing.duplicated(keep=False)].index) | twice
    )
    if how == "sum":
        kept = [len(of.get(i, [])) == 1 for i in ids]
        assert genes.sum(axis=1).tolist() == values.loc[:, kept].sum(axis=1).tolist()
    order = list(range(len(ids)))
    random.shuffle(order)
    again, tally_again = named(values.iloc[:, order], map=path, collapse=how)
    pd.testing.assert_frame_equal(
        again[genes.columns].astype(float), genes.astype(float), check_column_type=False
    )
    assert {k: v for k, v in tally_again.items() if k != "kinds"} == {
        k: v for k, v in tally.items() if k != "kinds"
    }
