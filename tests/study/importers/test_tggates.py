"""Open TG-GATEs: joins by animal, grades, injury of groups, labels by name; and counts on the real tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from toxfusion.study.audit import Audit
from toxfusion.study.importers.tables import ImportTableError
from toxfusion.study.importers.tggates import (
    CHEMISTRY,
    hazard_labels,
    import_tggates,
    rat_liver_arrays,
    read_attributes,
    read_pathology,
)
from toxfusion.study.splits import CompoundKFold, TransductiveLeaveGroupOut
from toxfusion.study.study import Study

REAL = Path(__file__).parents[4] / "shared" / "data" / "tggates"


def attributes() -> pd.DataFrame:
    """Experiment 1 (two groups of three arrayed rats), 2 (nothing found), and rows that are no arrayed rat liver."""
    rows = []
    for experiment, compound, group, level, dose in (
        ("0001", "drug A", "01", "Control", "0"),
        ("0001", "drug A", "02", "High", "300"),
        ("0002", "Salt-B", "01", "Control", "0"),
        ("0002", "Salt-B", "02", "Low", "20"),
    ):
        for animal in (1, 2, 3):
            rows.append(
                {
                    "BARCODE": f"{experiment}{group}{animal}", "EXP_ID": experiment, "GROUP_ID": group,
                    "INDIVIDUAL_ID": str(animal), "ORGAN_ID": "Liver", "COMPOUND_NAME": compound, "SPECIES": "Rat",
                    "TEST_TYPE": "in vivo", "SACRI_PERIOD": "4 day" if experiment == "0001" else "9 hr",
                    "DOSE": dose, "DOSE_LEVEL": level, "DOSE_UNIT": "mg/kg" if experiment == "0001" else "μg/kg",
                    "LIVER(g)": "10", "TERMINAL_BW(g)": "200", **dict.fromkeys(CHEMISTRY.values(), "1.5"),
                }
            )  # fmt: skip
    table = pd.DataFrame(rows)
    other = table.iloc[:2].assign(
        BARCODE=["No ChipData", "cell"], SPECIES=["Rat", "Human"], ORGAN_ID=[None, None]
    )
    return pd.concat([table, other], ignore_index=True)


FINDINGS = """EXP_ID,GROUP_ID,INDIVIDUAL_ID,ORGAN,FINDING_TYPE,TOPOGRAPHY_TYPE,GRADE_TYPE,SP_FLG
0001,02,1,Liver,Necrosis,Centrilobular,slight,f
0001,02,1,Liver,Necrosis,Focal,minimal,t
0001,02,5,Liver,Hypertrophy,Centrilobular,severe,f
0001,02,2,Liver,Microgranuloma,,P,t
0001,02,3,Liver,DEAD,DEAD,P,f
0001,01,1,Kidney,Cyst,,slight,f
0001,01,2,Liver,,,P,f
"""


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, Any]:
    """A copy of the released layout, in its own encoding, with an expression table of five arrays and a stranger."""
    attributes().to_csv(tmp_path / "attributes.tsv", sep="\t", index=False, encoding="cp932")
    (tmp_path / "pathology.csv").write_text(FINDINGS, encoding="cp932")
    arrays = ["0001011", "0001012", "0001021", "0001022", "0001023", "stranger"]
    expression = pd.DataFrame(
        np.arange(18.0).reshape(3, 6),
        index=["Acot1", "2001-03-01", "2008-09-01"],
        columns=[f"ID_{a}" for a in arrays],
    )
    expression.to_csv(tmp_path / "expression.csv")
    (tmp_path / "rank.csv").write_text(
        "Compound Name,vDILIConcern\nDrug-A,vLess-DILI-Concern\nsalt b,Ambiguous DILI-concern\n"
    )
    (tmp_path / "list.csv").write_text("CompoundName,DILIst Classification \ndruga,0\n")
    (tmp_path / "pheno.csv").write_text("SAMPLEID,DOSE,SACRIFICE_PERIOD\nID_0001021,300,4\n")
    return {
        "attributes": str(tmp_path / "attributes.tsv"),
        "pathology": str(tmp_path / "pathology.csv"),
        "expression": str(tmp_path / "expression.csv"),
        "pheno": str(tmp_path / "pheno.csv"),
        "slides": None,
        "dilirank": str(tmp_path / "rank.csv"),
        "dilist": str(tmp_path / "list.csv"),
    }


@pytest.fixture
def study(tmp_path: Path, tables: dict[str, Any]) -> Study:
    return import_tggates(tmp_path / "study", **tables)


def test_animals_join_by_experiment_group_and_number(study: Study) -> None:
    assert study.sample_ids == ["0001011", "0001012", "0001021", "0001022", "0001023"]
    row = study.obs.loc["0001021"]
    assert row[["animal_id", "compound", "study"]].tolist() == ["0001-02-1", "drug A", "0001"]
    assert row[["dose", "dose_level", "time_h"]].tolist() == [300.0, "high", 96.0]
    assert row[["control_group", "group_id"]].tolist() == ["0001-96h", "0001-02"]
    assert study.obs["is_control"].tolist() == [True, True, False, False, False]
    assert study.obs.loc["0001011", "control_group"] == "0001-96h"


def test_grades_are_the_highest_of_a_term_and_spontaneous_only_when_all_rows_are(study: Study) -> None:
    assert study.findings.columns.tolist() == ["Microgranuloma", "Necrosis"]
    assert study.findings["Necrosis"].tolist() == [0, 0, 2, 0, 0]
    assert study.findings["Microgranuloma"].tolist() == [0, 0, 0, 1, 0]
    assert study.spontaneous is not None
    assert study.spontaneous.loc["0001021"].tolist() == [False, False]
    assert study.spontaneous.loc["0001022"].tolist() == [True, False]
    assert study.obs["died"].tolist() == [False, False, False, False, True]


def test_a_group_is_injured_by_two_rats_arrayed_or_not(
    study: Study, tmp_path: Path, tables: dict[str, Any]
) -> None:
    # Rats 1 (necrosis) and 5 (hypertrophy, not arrayed) of group 02; death and spontaneous findings do not count.
    assert study.obs["injury"].tolist() == [0, 0, 1, 1, 1]
    Path(tables["pathology"]).write_text(
        FINDINGS.replace("0001,02,5,Liver", "0001,02,5,Kidney"), encoding="cp932"
    )
    assert import_tggates(tmp_path / "other", **tables).obs["injury"].tolist() == [0, 0, 0, 0, 0]


def test_labels_join_by_normalised_name(study: Study, tmp_path: Path, tables: dict[str, Any]) -> None:
    assert set(study.obs["dili"]) == {1.0}
    assert set(study.obs["dilist_label"]) == {0.0}
    most = import_tggates(tmp_path / "most", **tables, dili="most")
    assert set(most.obs["dili"]) == {0.0}
    other = import_tggates(tmp_path / "all", **tables, samples="all", dili="dilist")
    dili = other.obs.groupby("compound")["dili"].first()
    assert dili["drug A"] == 0.0
    assert np.isnan(dili["Salt-B"])
    reasons = {(r.kind, r.id): r.reason for r in Audit.read(other.root / "audit.json").records}
    assert "not in list.csv" in reasons["compound", "Salt-B"]
    assert reasons["compound", "drug A -> druga"] == "spelt otherwise in list.csv: joined"
    assert reasons["compound", "Salt-B -> salt b"] == "spelt otherwise in rank.csv: joined"


@pytest.mark.parametrize(
    ("table", "content", "said"),
    [
        ("dilirank", "Compound Name,vDILIConcern\nDrug-A,vMoost-DILI-Concern\n",
         r"rank\.csv, column 'vDILIConcern', value 'vMoost-DILI-Concern' of 'Drug-A': is no class; write one of "
         "vMost-DILI-Concern, .*Ambiguous DILI-concern, or leave it empty"),
        ("dilist", "CompoundName,DILIst Classification \nDrug-A,2\n",
         "value '2' of 'Drug-A': is no class; write one of 1, 0,"),
    ],
)  # fmt: skip
def test_a_class_that_is_none_is_not_taken_for_ambiguous(
    tmp_path: Path, tables: dict[str, Any], table: str, content: str, said: str
) -> None:
    Path(tables[table]).write_text(content)
    with pytest.raises(ImportTableError, match=said):
        import_tggates(tmp_path / "s", **tables)


def test_all_animals_and_experiments_that_were_not_read(tmp_path: Path, tables: dict[str, Any]) -> None:
    study = import_tggates(tmp_path / "study", **tables, samples="all")
    assert len(study.obs) == 12
    assert study.has_expression.sum() == 5
    unread = study.obs["study"] == "0002"
    assert study.findings[unread.to_numpy()].isna().all(axis=None)
    assert study.obs.loc[unread, "injury"].isna().all()
    assert study.findings[~unread.to_numpy()].notna().all(axis=None)
    # 20 ug/kg; a control stays at 0.
    assert study.obs.loc["0002021", "dose"] == pytest.approx(0.02)
    assert study.obs.loc["0002011", "dose"] == 0.0
    assert study.obs.loc["0002021", "time_h"] == 9.0


def test_a_study_without_array_or_slide(tmp_path: Path, tables: dict[str, Any]) -> None:
    """Findings, chemistry, dose and time of every rat; the study opens again, and its folds can be made."""
    tables |= {"expression": None, "pheno": None}
    study = Study.open(import_tggates(tmp_path / "study", **tables, samples="all").root)
    assert study.expression.shape == (12, 0)
    assert not study.has_expression.any()
    assert not study.has_slide.any()
    assert study.findings.loc["0001021", "Necrosis"] == 2.0
    split = CompoundKFold(n_folds=2, fold=0, valid_fraction=0.0)(study)
    assert set(study.obs.loc[split.test, "compound"]).isdisjoint(study.obs.loc[split.train, "compound"])


def test_arrays_are_shifted_to_one_median_and_symbols_recovered(study: Study) -> None:
    assert study.var.index.tolist() == ["Acot1", "Marchf1", "Septin8"]
    # Columns 0, 6, 12 and 1, 7, 13 ... have medians 6, 7, 8, 9, 10: all are shifted to 8.
    assert study.expression == pytest.approx(np.tile([2.0, 8.0, 14.0], (5, 1)))


def test_chemistry_and_relative_liver_weight(study: Study) -> None:
    assert study.chemistry is not None
    assert set(study.chemistry["ALT"]) == {1.5}
    assert set(study.chemistry["liver_weight_pct"]) == {5.0}


def test_every_loss_is_audited(study: Study) -> None:
    lost = {(r.kind, r.id): (r.outcome, r.reason) for r in Audit.read(study.root / "audit.json").records}
    assert lost["array", "stranger"][0] == "dropped"
    assert lost["finding rows", "Kidney"] == ("dropped", "1 rows: not of the liver")
    # Rat 5 of group 02 has no array.
    assert lost["finding rows", "Liver"][1].startswith("1 rows: of rats that are no sample")
    assert lost["attribute rows", "Human/in vivo/no array"][1].startswith("1 rows")
    assert lost["finding", "0001022 Microgranuloma"][0] == "changed"
    assert lost["finding", "0001012"][0] == "dropped"
    assert lost["gene", "2001-03-01 -> Marchf1"][0] == "changed"


def test_faults_are_named(tmp_path: Path, tables: dict[str, Any]) -> None:
    Path(tables["pheno"]).write_text("SAMPLEID,DOSE,SACRIFICE_PERIOD\nID_0001021,100,4\n")
    with pytest.raises(ImportTableError, match=r"pheno\.csv.*0001021.*100"):
        import_tggates(tmp_path / "s", **tables)
    tables["pheno"] = None
    strangers = tmp_path / "strangers.csv"
    strangers.write_text("gene,ID_9\nAcot1,1\n")
    with pytest.raises(ImportTableError, match=r"none of its 1 arrays \('9'"):
        import_tggates(tmp_path / "s", **{**tables, "expression": str(strangers)})
    with pytest.raises(ImportTableError, match="dili=worst: is none of dilirank, most, dilist"):
        import_tggates(tmp_path / "s", **tables, dili="worst")
    with pytest.raises(ImportTableError, match="samples=all"):
        import_tggates(tmp_path / "s", **{**tables, "expression": None})
    Path(tables["dilirank"]).write_text(
        "Compound Name,vDILIConcern\nDrug-A,vNo-DILI-Concern\ndruga,vMost-DILI-Concern\n"
    )
    with pytest.raises(ImportTableError, match=r"'druga'.*two classes"):
        import_tggates(tmp_path / "s", **tables)
    Path(tables["pathology"]).write_text(FINDINGS.replace("slight", "awful"), encoding="cp932")
    with pytest.raises(ImportTableError, match="'GRADE_TYPE', value 'awful'"):
        import_tggates(tmp_path / "s", **tables)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"needs {REAL}")
def test_real_tables_have_the_published_numbers() -> None:
    arrays = rat_liver_arrays(read_attributes(REAL / "Open-tggates_AllAttribute.zip"), "attributes", Audit())
    assert (len(arrays), arrays["COMPOUND_NAME"].nunique()) == (14143, 160)
    audit = Audit()
    assert len(read_pathology(REAL / "open_tggates_pathology.csv", audit)) == 6832
    assert [(r.id, r.reason) for r in audit.records] == [("Kidney", "6029 rows: not of the liver")]
    compounds = arrays["COMPOUND_NAME"].drop_duplicates()
    labels = hazard_labels(compounds, str(REAL / "DILIrank.csv"), str(REAL / "DILIst.csv"), Audit())
    assert labels["dilirank"].str.split("-").str[0].value_counts().to_dict() == {
        "": 59, "vMost": 47, "vLess": 39, "Ambiguous DILI": 10, "vNo": 5,
    }  # fmt: skip
    assert labels["dilirank_label"].notna().sum() == 91
    assert labels["most_label"].value_counts().to_dict() == {1.0: 47, 0.0: 44}
    assert labels["dilist_label"].notna().sum() == 111


@pytest.mark.skipif(not REAL.is_dir(), reason=f"needs {REAL}")
def test_real_arrays_of_one_compound(tmp_path: Path) -> None:
    study = import_tggates(
        tmp_path / "wy",
        attributes=str(REAL / "Open-tggates_AllAttribute.zip"),
        pathology=str(REAL / "open_tggates_pathology.csv"),
        expression=str(REAL / "WY-14643_exp.xlsx"),
        pheno=str(REAL / "WY-14643_pheno.xlsx"),
        slides=None,
        dilirank=str(REAL / "DILIrank.csv"),
        dilist=str(REAL / "DILIst.csv"),
    )
    assert study.expression.shape == (48, 11885)
    assert study.has_expression.all()
    assert (study.findings > 0).any(axis=1).sum() == 37
    assert sorted(set(study.obs["dose"])) == [0, 10, 30, 100]
    assert {"Marchf1", "Septin8", "2-Mar"} <= set(study.var.index)
    # PPARalpha agonist: Acot1 and Cyp4a1 rise in every treated group.
    treated = ~study.obs["is_control"].to_numpy()
    for gene in ("Acot1", "Cyp4a1"):
        values = study.expression[:, study.var.index.get_loc(gene)]
        assert values[treated].min() > values[~treated].mean()
    split = TransductiveLeaveGroupOut()(study)
    assert len(split.test) == 3
    assert split.manifest["transductive"]


def test_groups_without_their_zeros_are_no_sound_livers(tables: dict[str, Any], tmp_path: Path) -> None:
    bare = FINDINGS.replace("\n0001,0", "\n1,")
    (tmp_path / "pathology.csv").write_text(bare, encoding="cp932")
    with pytest.raises(
        ImportTableError, match=r"pathology\.csv: none of its 2 groups .*'1-2'.*'0001-02'.*same ids"
    ):
        import_tggates(tmp_path / "x", **tables)


def test_animals_with_a_decimal_are_no_sound_livers(tables: dict[str, Any], tmp_path: Path) -> None:
    header, *rows = FINDINGS.splitlines()
    place = header.split(",").index("INDIVIDUAL_ID")
    cells = [row.split(",") for row in rows]
    floats = [[*row[:place], f"{row[place]}.0", *row[place + 1 :]] for row in cells]
    text = "\n".join([header, *map(",".join, floats)]) + "\n"
    (tmp_path / "pathology.csv").write_text(text, encoding="cp932")
    with pytest.raises(
        ImportTableError, match=r"pathology\.csv: none of its \d animals .*'0001-02-\d\.0'.*same ids in both"
    ):
        import_tggates(tmp_path / "x", **tables)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (",f\n", ",F\n", r"column 'SP_FLG', value 'F': write t .* and f"),
        ("Liver", "liver", r"column 'ORGAN': no row is of 'Liver': 'liver' \(did you mean 'Liver'\?\)"),
    ],
)
def test_flags_and_organs_of_another_spelling_are_refused(
    tables: dict[str, Any], tmp_path: Path, before: str, after: str, message: str
) -> None:
    (tmp_path / "pathology.csv").write_text(FINDINGS.replace(before, after), encoding="cp932")
    with pytest.raises(ImportTableError, match=message):
        import_tggates(tmp_path / "x", **tables)
