"""Pathways: hand-worked tests of gene sets, planted sets that must come first, shuffled ones that must not."""

from __future__ import annotations

import csv
import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tests.feature_store import featured_study
from toxfusion.data.gene_sets import GeneSetError, read_gmt, read_orthologs
from toxfusion.explanation import pathways
from toxfusion.explanation.pathways import (
    GeneSetSettings,
    PlacedSet,
    enrichment,
    over_representation,
    place_sets,
)
from toxfusion.study.audit import Audit
from toxfusion.study.study import Study

SETTINGS = GeneSetSettings(False, [], None, 2, 500, 200, 1)
GENES = [f"g{i}" for i in range(200)]


def planted() -> tuple[pd.Series, list[PlacedSet]]:
    """Scores whose first set leads, whose second trails, and six sets drawn at random."""
    rng = np.random.default_rng(0)
    scores = pd.Series(rng.normal(size=len(GENES)), index=GENES)
    sets = [
        PlacedSet("up", "up", "f", tuple(GENES[:15])),
        PlacedSet("down", "down", "f", tuple(GENES[15:30])),
    ]
    sets += [
        PlacedSet(f"random{i}", "r", "f", tuple(rng.choice(GENES[30:], 15, replace=False))) for i in range(6)
    ]
    scores[list(sets[0].gene_ids)] += 2.0
    scores[list(sets[1].gene_ids)] -= 2.0
    return scores, sets


def test_sets_that_lead_and_trail_come_first_with_their_sign() -> None:
    scores, sets = planted()
    enriched = enrichment(scores, sets, permutations=200, seed=0)
    assert set(enriched["set"][:2]) == {"up", "down"}
    by_set = enriched.set_index("set")
    assert by_set.at["up", "nes"] > 1.5
    assert by_set.at["down", "nes"] < -1.5
    assert (by_set.loc[["up", "down"], "fdr"] < 0.05).all()
    assert enriched["p"].min() >= 1 / 200
    assert set(by_set.at["up", "leading_genes"]) <= set(sets[0].gene_ids)
    pd.testing.assert_frame_equal(enriched, enrichment(scores, sets, permutations=200, seed=0))


def test_the_enrichment_score_is_the_largest_deviation_of_the_running_sum() -> None:
    scores = pd.Series([4.0, 3.0, 2.0, 1.0, -1.0, -2.0], index=list("abcdef"))
    one = [PlacedSet("s", "s", "f", ("a", "c")), PlacedSet("t", "t", "f", ("e", "f"))]
    by_set = enrichment(scores, one, permutations=20, seed=0).set_index("set")
    # a: 4/6; b: - 1/4; c: + 2/6, which makes 0.75; the other one falls to -1 before its first gene.
    assert by_set.at["s", "es"] == pytest.approx(4 / 6 - 1 / 4 + 2 / 6)
    assert by_set.at["t", "es"] == pytest.approx(-1.0)


def test_over_representation_is_the_hypergeometric_tail() -> None:
    _, sets = planted()
    top = [*GENES[:6], *GENES[100:104]]
    tested = over_representation(top, GENES, sets).set_index("set")
    expected = stats.hypergeom.sf(5, 200, 15, 10)
    assert tested.at["up", "p"] == pytest.approx(expected)
    assert tested.at["up", "odds_ratio"] == pytest.approx(6 * 181 / (9 * 4))
    assert tested.at["up", "fdr"] == pytest.approx(expected * len(sets))
    assert (tested.at["up", "overlap"], tested.at["up", "genes"]) == (6, GENES[:6])
    assert tested.at["down", "p"] == 1.0


def test_shuffled_genes_pass_less_often_than_planted_ones() -> None:
    scores, sets = planted()
    ranking = pd.DataFrame({"gene_id": GENES, "integrated": scores.to_numpy()})
    passing = pathways.passing_by_chance(ranking, sets, 20, replace(SETTINGS, null_draws=4), seed=0)
    assert len(passing["gsea"]) == len(passing["over_representation"]) == 4
    assert np.mean(passing["gsea"]) < 2
    assert max(passing["over_representation"]) < 2


def test_shipped_programmes_are_well_formed_and_cited() -> None:
    sets = read_gmt(pathways.PROGRAMMES)
    with (pathways.PROGRAMMES.parent / "citations.csv").open() as file:
        cited = list(csv.DictReader(file))
    assert {entry["set"] for entry in cited} == set(sets) == set(pathways.set_titles(pathways.PROGRAMMES))
    assert all(
        entry["authors"] and entry["year"].isdigit() and entry["doi"].startswith("10.") for entry in cited
    )
    for name, genes in sets.items():
        assert 10 <= len(genes) <= 40, name
        assert all(gene[0].isupper() and not gene.isupper() for gene in genes if len(gene) > 2), name


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return featured_study(tmp_path_factory.mktemp("pathways") / "study")


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_orthologs_come_before_names_and_both_are_counted(study: Study, tmp_path: Path) -> None:
    genes = study.var.index[:6].tolist()
    first, second, third = study.var["symbol"].iloc[:3]
    gmt = write(tmp_path / "human.gmt", f"S\td\tHUMAN1\t{third.upper()}\tABSENT\nSMALL\td\tHUMAN1\n")
    table = write(tmp_path / "pairs.csv", f"rat,human\n{first};{second},Human1\nGone,{third}\n")
    audit = Audit()
    settings = replace(SETTINGS, gmt=gmt, orthologs=table, min_genes=3)
    placed, matched = place_sets(study, genes, settings, audit)
    assert [(s.set, s.source, s.gene_ids) for s in placed] == [("S", "human.gmt", tuple(genes[:3]))]
    assert matched.set_index("set")["used"].to_dict() == {"S": True, "SMALL": False}
    assert [r.id for r in audit.records if r.outcome == "dropped"] == ["SMALL"]
    alone, _ = place_sets(study, genes, replace(settings, orthologs=None, min_genes=1), Audit())
    assert [s.gene_ids for s in alone] == [(genes[2],)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "rgd.txt",
            "# ORTHOLOGS\n# of RGD\nRAT_GENE_SYMBOL\tHUMAN_ORTHOLOG_SYMBOL\nCyp4a1\tCYP4A11|CYP4A22\n",
        ),
        (
            "mart.csv",
            "Gene stable ID,Gene name,Human gene name\nE1,Cyp4a1,CYP4A11\nE1,Cyp4a1,CYP4A22\nE2,,\n",
        ),
        ("mart_human.tsv", "Gene name\tRat gene name\nCYP4A11\tCyp4a1\nCYP4A22\tCyp4a1\n"),
        ("hcop.tsv.gz", "human_symbol\trat_symbol\nCYP4A11\tCyp4a1\nCYP4A22\tCyp4a1\n"),
    ],
)
def test_tables_of_orthologs_are_read_as_they_are_downloaded(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    assert read_orthologs(path, "key") == {"cyp4a11": ["Cyp4a1"], "cyp4a22": ["Cyp4a1"]}


def test_what_is_no_table_or_file_is_refused_by_its_key(tmp_path: Path) -> None:
    for text, says in (
        ("a,b\n1,2\n", r"columns \['a', 'b'\]"),
        ("rat,human\n,\n", "holds a header and no row"),
        ("rat,human\nAlb,\n", "pairs no"),
        ("", "cannot read"),
    ):
        with pytest.raises(GeneSetError, match=f"gene_sets.orthologs: .*{says}"):
            read_orthologs(Path(write(tmp_path / "t.csv", text)), "gene_sets.orthologs")
    with pytest.raises(GeneSetError, match=r"gene_sets\.gmt: cannot read"):
        replace(SETTINGS, gmt=str(tmp_path / "absent.gmt")).check()
    with pytest.raises(GeneSetError, match=r"gene_sets\.permutations=0"):
        replace(SETTINGS, permutations=0)


def test_programmes_without_a_gene_of_the_study_are_left_out_with_a_reason(
    study: Study, tmp_path: Path
) -> None:
    audit = Audit()
    ranking = pd.DataFrame({"gene_id": study.var.index, "symbol": study.var["symbol"], "integrated": 1.0})
    settings = {"top_k": 5, "seed": 0, "audit": audit}
    pathways.explain_pathways(
        {"dili": ranking}, study, tmp_path, replace(SETTINGS, programmes=True), **settings
    )
    assert [r.id for r in audit.records] == [pathways.SHIPPED]
    pathways.explain_pathways({}, study, tmp_path, SETTINGS, **settings)
    assert audit.records[-1].reason == "no gene ranking"
    assert not list(tmp_path.iterdir())


def test_a_folder_of_pathways_has_its_columns(study: Study, tmp_path: Path) -> None:
    symbols = study.var["symbol"].tolist()
    gmt = write(
        tmp_path / "s.gmt", "\n".join(f"S{i}\td\t" + "\t".join(symbols[5 * i : 5 * i + 5]) for i in range(4))
    )
    scores = np.linspace(3, -3, len(symbols))
    ranking = pd.DataFrame({"gene_id": study.var.index, "symbol": symbols, "integrated": scores})
    flat = ranking.assign(integrated=0.0)
    audit = Audit()
    pathways.explain_pathways(
        {"dili": ranking, "lesion:<b>": ranking, "injury": flat}, study, tmp_path / "out",
        replace(SETTINGS, gmt=[gmt]), top_k=5, seed=0, audit=audit,
    )  # fmt: skip
    assert [r.id for r in audit.records if r.kind == "pathways"] == ["injury"]
    gsea = pd.read_csv(tmp_path / "out" / "gsea.csv")
    assert list(gsea) == ["task", "set", "name", "source", "size", "es", "nes", "p", "fdr", "leading_genes"]
    assert gsea["set"].iloc[0] == "S0"
    assert set(gsea["leading_genes"].iloc[0].split(";")) <= set(symbols[:5])
    over = pd.read_csv(tmp_path / "out" / "over_representation.csv")
    assert list(over) == [
        *("task", "set", "name", "source", "overlap", "size", "background"),
        *("odds_ratio", "p", "fdr", "genes"),
    ]
    assert over["overlap"].iloc[0] == 5
    assert len(pd.read_csv(tmp_path / "out" / "null.csv")) == 4
    assert (tmp_path / "out" / "enrichment.png").is_file()
