"""A user's own tables become a study; what is filled in is audited, what cannot be is an error."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest

from toxfusion.study.audit import Audit
from toxfusion.study.importers.matrix import import_matrix
from toxfusion.study.importers.samples import complete_samples
from toxfusion.study.importers.tables import ImportTableError
from toxfusion.study.study import Study, StudyError

GENES = ["Alb", "Cyp1a1", "Hmox1"]
SAMPLES = """sample_id,compound,dose,time_h
v1,drug,0,24
v2,drug,0,24
l1,drug,10,24
h1,drug,30,24
bare,drug,30,24
"""
COUNTS = pd.DataFrame(
    {"v1": [8, 1, 1], "v2": [6, 2, 2], "l1": [5, 4, 1], "h1": [0, 0, 0], "other": [1, 1, 1]}, index=GENES
)


def write(folder: Path, *, counts: pd.DataFrame = COUNTS, samples: str = SAMPLES) -> dict[str, Any]:
    counts.to_csv(folder / "counts.csv")
    (folder / "samples.csv").write_text(samples)
    return {
        "expression": str(folder / "counts.csv"),
        "samples": str(folder / "samples.csv"),
        "kind": "counts",
    }


def records(root: Path) -> dict[str, list[str]]:
    kinds: dict[str, list[str]] = {}
    for record in Audit.read(root / "audit.json").records:
        kinds.setdefault(record.kind, []).append(record.id)
    return kinds


def test_counts_become_log2_cpm_and_stay_as_a_layer(tmp_path: Path) -> None:
    study = import_matrix(tmp_path / "study", **write(tmp_path))
    assert study.sample_ids == ["v1", "v2", "l1", "h1", "bare"]
    assert study.has_expression.tolist() == [True, True, True, False, False]
    assert study.expression[0] == pytest.approx(np.log2(1 + np.array([0.8, 0.1, 0.1]) * 1e6))
    layer = anndata.read_h5ad(study.root / "expression.h5ad").layers["counts"]
    assert layer[:3].tolist() == [[8, 1, 1], [6, 2, 2], [5, 4, 1]]
    found = records(study.root)
    assert found["profile"] == ["other", "h1"]
    assert found["sample"] == ["bare", "h1"]


def test_what_the_sample_table_leaves_out_is_filled_in(tmp_path: Path) -> None:
    study = import_matrix(tmp_path / "study", **write(tmp_path))
    obs = study.obs
    assert obs["dose_level"].tolist() == ["control", "control", "low", "high", "high"]
    assert obs["is_control"].tolist() == [True, True, False, False, False]
    assert set(obs["control_group"]) == {"study_24h"}
    assert obs["group_id"].nunique() == 3
    assert obs["dili"].isna().all()
    filled = records(study.root)["column"]
    assert {"is_control", "dose_level", "study", "group_id", "control_group", "animal_id"} <= set(filled)
    assert "time_h" not in filled


@pytest.mark.parametrize(
    ("column", "written"),
    [("control_group", "controls"), ("time_h", "Time_H"), ("injury", "injured"), ("dili", "DILI")],
)
def test_a_column_with_another_spelling_is_asked_for(tmp_path: Path, column: str, written: str) -> None:
    samples = pd.read_csv(io.StringIO(SAMPLES)).drop(columns="time_h").assign(**{written: 1, "weight": 2})
    study = import_matrix(tmp_path / "study", **write(tmp_path, samples=samples.to_csv(index=False)))
    said = {r.id: r.reason for r in Audit.read(study.root / "audit.json").records if r.kind == "column"}
    assert said[column].startswith(f"not in the sample table, unless {written!r} is meant: ")
    assert "meant" not in said["animal_id"]


def test_what_the_sample_table_says_is_kept(tmp_path: Path) -> None:
    samples = (
        "sample_id\tcompound\tdose\ttime_h\tis_control\tdose_level\tgroup_id\tstudy\tdili\tstrain\n"
        "v1\tdrug\t0\t24\tyes\tcontrol\tg0\tX\t1\tSD\n"
        "l1\tdrug\t10\t24\tno\tmiddle\tg1\tX\t1\tSD\n"
    )
    study = import_matrix(tmp_path / "study", **write(tmp_path, samples=samples))
    assert study.obs.loc["l1", ["dose_level", "group_id", "study", "dili", "strain"]].tolist() == [
        "middle", "g1", "X", 1.0, "SD",
    ]  # fmt: skip


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("kind", ["csv", "tsv.gz", "h5ad"])
def test_orientation_and_format_do_not_matter(tmp_path: Path, turned: bool, kind: str) -> None:
    settings = write(tmp_path)
    table = COUNTS.T if turned or kind == "h5ad" else COUNTS
    path = tmp_path / f"table.{kind}"
    if kind == "h5ad":
        anndata.AnnData(table.astype(np.float32)).write_h5ad(path)
    else:
        table.to_csv(path, sep="\t" if kind == "tsv.gz" else ",")
    study = import_matrix(tmp_path / "a", **{**settings, "expression": str(path)})
    other = import_matrix(tmp_path / "b", **settings)
    assert study.var.index.tolist() == other.var.index.tolist() == GENES
    assert np.array_equal(study.expression, other.expression, equal_nan=True)


def test_findings_chemistry_genes_and_slides(tmp_path: Path) -> None:
    settings = write(tmp_path)
    (tmp_path / "findings.csv").write_text(
        "sample_id,Necrosis,Vacuolization\nv1,0,Slight\nh1,severe,\nghost,1,1\n"
    )
    (tmp_path / "chemistry.csv").write_text("sample_id,ALT\nv1,40.5\n")
    (tmp_path / "genes.csv").write_text("gene_id,symbol,human_ortholog\nAlb,Alb,ALB\n")
    (tmp_path / "slides.csv").write_text("slide_id,sample_id,path\nx,v1,x.tif\n")
    extra = {k: str(tmp_path / f"{k}.csv") for k in ("findings", "chemistry", "genes", "slides")}
    study = import_matrix(tmp_path / "study", **settings, **extra)
    assert study.findings.loc["v1"].tolist() == [0.0, 2.0]
    assert study.findings.loc["h1", "Necrosis"] == 4.0
    assert np.isnan(study.findings.loc["h1", "Vacuolization"])
    assert study.findings.loc["l1"].isna().all()
    assert study.chemistry is not None
    assert study.chemistry.loc["v1", "ALT"] == 40.5
    assert study.var["human_ortholog"].tolist() == ["ALB", "", ""]
    assert study.slide_path("x") == tmp_path / "x.tif"
    assert records(study.root)["row"] == ["ghost"]


def test_log2_values_are_taken_as_they_are_and_counts_in_their_place_refused(tmp_path: Path) -> None:
    settings = {**write(tmp_path), "kind": "log2"}
    study: Study = import_matrix(tmp_path / "study", **settings)
    assert study.expression[0].tolist() == [8, 1, 1]
    settings = {**write(tmp_path, counts=COUNTS * 100), "kind": "log2"}
    with pytest.raises(ImportTableError, match=r"800.*source=counts"):
        import_matrix(tmp_path / "other", **settings)


def test_faults_are_named(tmp_path: Path) -> None:
    with pytest.raises(ImportTableError, match=r"samples\.csv: column 'compound' is missing"):
        import_matrix(tmp_path / "s", **write(tmp_path, samples="sample_id,dose\nv1,0\n"))
    with pytest.raises(ImportTableError, match=r"samples\.csv, column 'dose', value 'much'"):
        import_matrix(tmp_path / "s", **write(tmp_path, samples="sample_id,compound,dose\nv1,a,much\n"))
    with pytest.raises(ImportTableError, match="'v1': appears twice"):
        import_matrix(tmp_path / "s", **write(tmp_path, samples="sample_id,compound,dose\nv1,a,0\nv1,a,0\n"))
    with pytest.raises(ImportTableError, match=r"no sample_id.*'x1'.*'Alb'.*'v1'"):
        import_matrix(tmp_path / "s", **write(tmp_path, samples="sample_id,compound,dose\nx1,a,0\n"))
    with pytest.raises(ImportTableError, match="negative or missing"):
        import_matrix(tmp_path / "s", **write(tmp_path, counts=-COUNTS))
    words = COUNTS.astype(object)
    words.iloc[0, 0] = "many"
    with pytest.raises(ImportTableError, match=r"'v1'.*holds text"):
        import_matrix(tmp_path / "s", **write(tmp_path, counts=words))


@pytest.mark.parametrize("column", ["dose", "time_h"])
def test_values_below_zero_are_named_in_the_table_that_has_them(tmp_path: Path, column: str) -> None:
    samples = pd.read_csv(io.StringIO(SAMPLES)).astype(object)
    samples.loc[2, column] = -3
    settings = write(tmp_path, samples=samples.to_csv(index=False))
    with pytest.raises(
        ImportTableError, match=rf"samples\.csv, column '{column}', value '-3': is negative, in row 'l1'"
    ):
        import_matrix(tmp_path / "s", **settings)


@pytest.mark.parametrize("grade", ["5", "1.5", "-1"])
def test_what_is_no_grade_is_named_in_the_table_that_has_it(tmp_path: Path, grade: str) -> None:
    (tmp_path / "findings.csv").write_text(f"sample_id,Necrosis\nv1,0\nl1,{grade}\n")
    with pytest.raises(
        ImportTableError, match=rf"findings\.csv, column 'Necrosis', value '{grade}'.*'l1'.*0, 1, 2, 3, 4"
    ):
        import_matrix(tmp_path / "s", **write(tmp_path), findings=str(tmp_path / "findings.csv"))


@pytest.mark.parametrize("table", ["samples", "findings", "chemistry", "slides"])
def test_a_header_without_rows_is_refused(tmp_path: Path, table: str) -> None:
    settings = write(tmp_path)
    header = {"samples": "sample_id,compound,dose\n", "slides": "slide_id,sample_id,path\n"}
    file = tmp_path / f"{table}.csv"
    file.write_text(header.get(table, "sample_id,ALT\n"))
    with pytest.raises(ImportTableError, match=rf"{table}\.csv: holds a header and no row"):
        import_matrix(tmp_path / "s", **{**settings, table: str(file)})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gene,v1,l1\nAlb,5,\nMt1,1,2\n", "sample 'l1', gene 'Alb', value nan: is missing"),
        ("gene,v1,l1\nAlb,5,-2\nMt1,1,2\n", "sample 'l1', gene 'Alb', value -2: is negative"),
        ("gene,v1,l1\nAlb,5,inf\nMt1,1,2\n", "value inf: is not finite"),
        ("gene,v1,l1\nAlb,5.5,2\nMt1,1,2\n", "value 5.5: is not whole.*look like logarithms"),
        ("gene,v1,l1\nAlb,999000.5,5e5\nMt1,999.5,5e5\n", "look like TPM or CPM"),
        ("gene,v1,v1\nAlb,50,20\nMt1,1,2\n", "sample 'v1' has two profiles"),
        ("gene|v1|l1\nAlb|5|2\n", "holds 1 rows and 0 columns of values; separate columns by tab"),
        ("gene,v1,l1\n", "holds 0 rows"),
        ("", "cannot be read as a table"),
        ("gene,v1,l1\nAlb,5,many\n", "column 'l1', row 'Alb', value 'many': holds text"),
    ],
)
def test_tables_that_are_no_counts_are_refused_by_value(tmp_path: Path, text: str, message: str) -> None:
    settings = write(tmp_path)
    (tmp_path / "counts.csv").write_text(text)
    with pytest.raises(ImportTableError, match=rf"counts\.csv.*{message}"):
        import_matrix(tmp_path / "s", **settings)


def test_a_cut_gzip_is_named(tmp_path: Path) -> None:
    settings = write(tmp_path)
    whole = gzip.compress(COUNTS.to_csv().encode() * 50)
    (tmp_path / "counts.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImportTableError, match=r"counts\.csv\.gz: cannot be read"):
        import_matrix(tmp_path / "s", **{**settings, "expression": str(tmp_path / "counts.csv.gz")})


@pytest.mark.parametrize("form", ["r", "bom", "cr"])
def test_tables_of_r_and_of_spreadsheets_read_the_same(tmp_path: Path, form: str) -> None:
    settings = write(tmp_path)
    text = (tmp_path / "counts.csv").read_text()
    if form == "r":  # write.table: no name above the row names
        text = text.removeprefix(",")
    (tmp_path / "other.csv").write_bytes(
        text.replace("\n", "\r" if form == "cr" else "\n").encode("utf-8-sig" if form == "bom" else "utf-8")
    )
    one = import_matrix(tmp_path / "one", **settings)
    other = import_matrix(tmp_path / "two", **{**settings, "expression": str(tmp_path / "other.csv")})
    np.testing.assert_array_equal(one.expression, other.expression)


def test_expected_counts_are_kept_and_doubled_ids_summed(tmp_path: Path) -> None:
    settings = write(tmp_path)
    (tmp_path / "counts.csv").write_text("gene,v1,l1\nAlb,50.5,20\nMt1,1,2\nAlb,1,4\n")
    study = import_matrix(tmp_path / "s", **settings)
    layer = anndata.read_h5ad(study.root / "expression.h5ad").layers["counts"]
    assert layer[[0, 2]].tolist() == [[51.5, 1.0], [24.0, 2.0]]
    assert records(study.root)["counts"] == ["counts.csv"]
    assert study.provenance["gene_ids"] == {
        "kinds": {"symbol": 3}, "given": 3, "summary": 0, "unnamed": 0, "unmapped": 0, "ambiguous": 0, "orthologs": 0,
        "collapsed": 1, "genes": 2, "collapse": "sum",
    }  # fmt: skip


def test_doubled_genes_of_samples_by_genes_are_not_renamed(tmp_path: Path) -> None:
    settings = write(tmp_path)
    (tmp_path / "counts.csv").write_text("sample,Alb,Mt1,Alb\nv1,50,1,1\nl1,20,2,4\n")
    study = import_matrix(tmp_path / "s", **settings)
    assert study.var.index.tolist() == ["Alb", "Mt1"]
    assert records(study.root)["gene"] == ["Alb"]


def test_more_than_three_doses_need_their_levels() -> None:
    table = pd.DataFrame({"compound": "a", "dose": [1.0, 2.0, 3.0, 4.0]}, index=list("wxyz"))
    with pytest.raises(ImportTableError, match=r"4 doses.*dose_level"):
        complete_samples(table, "samples.csv", Audit())


def test_a_study_without_controls_has_no_control_groups() -> None:
    table = pd.DataFrame({"compound": ["a", "b"], "dose": [1.0, 2.0]}, index=["x", "y"])
    obs = complete_samples(table, "samples.csv", Audit())
    assert obs["control_group"].tolist() == ["", ""]
    assert obs["dose_level"].tolist() == ["high", "high"]


def test_real_counts_of_twenty_livers(tmp_path: Path) -> None:
    table = (
        Path(__file__).parents[4] / "shared" / "data" / "rat_rnaseq" / "CTox_use_case_2_gene_counts.txt.gz"
    )
    if not table.is_file():
        pytest.skip(f"needs {table}")
    names = pd.read_csv(table, sep="\t", nrows=0).columns[1:]
    arm = {"cont": "vehicle", "acet": "acetaminophen", "Clo": "clofibrate", "PB": "phenobarbital"}
    compound = [arm[n.split("_")[1]] for n in names]
    rows = pd.DataFrame(
        {"sample_id": names, "compound": compound, "dose": [float(c != "vehicle") for c in compound]}
    )
    rows.to_csv(tmp_path / "samples.csv", index=False)
    study = import_matrix(
        tmp_path / "study", expression=str(table), samples=str(tmp_path / "samples.csv"), kind="counts"
    )
    assert len(study.obs) == 20
    assert study.obs["is_control"].sum() == 5
    assert len(study.var) + len(records(study.root)["gene"]) == 32485
    assert (2.0**study.expression - 1).sum(axis=1) == pytest.approx(1e6, rel=1e-3)


def test_levels_in_capitals_and_where_the_dose_alone_is_known() -> None:
    table = pd.DataFrame(
        {
            "compound": ["a", "a", "a", "b"],
            "dose": ["0", "10", "30", None],
            "dose_level": ["", "", "", "High"],
        },
        index=["v1", "l1", "h1", "x1"],
    )
    audit = Audit()
    obs = complete_samples(table, "samples.csv", audit)
    assert obs["dose_level"].tolist() == ["control", "low", "high", "high"]
    assert obs["is_control"].tolist() == [True, False, False, False]
    assert any("empty in 3 samples" in record.reason for record in audit.records)
    capitals = table.assign(dose_level=["Control", "Low", "Middle", "High"])
    assert complete_samples(capitals, "samples.csv", Audit())["dose_level"].tolist() == [
        "control", "low", "middle", "high",
    ]  # fmt: skip
    with pytest.raises(
        ImportTableError, match=r"samples.csv, column 'dose_level', value 'middle': at sample 'h1'"
    ):
        complete_samples(table.assign(dose_level=["", "", "middle", "high"]), "samples.csv", Audit())


def test_a_rule_that_samples_break_names_the_users_table() -> None:
    table = pd.DataFrame({"compound": "a", "dose": ["10", "10"]}, index=["v1", "l1"])
    with pytest.raises(StudyError, match=r"samples.csv, column 'dose', value 10.0: control sample 'v1'"):
        complete_samples(table.assign(dose_level=["control", "low"]), "samples.csv", Audit())
    with pytest.raises(StudyError, match=r"samples.csv, column 'dili', value"):
        complete_samples(table.assign(dili=["1", "0"]), "samples.csv", Audit())


def test_units_in_column_names_are_stored_under_another_name(tmp_path: Path) -> None:
    settings = write(tmp_path)
    (tmp_path / "serum.csv").write_text("sample_id,ALT(IU/L)\nv1,50\n")
    (tmp_path / "grades.csv").write_text("sample_id,Degeneration/necrosis\nv1,0\n")
    study = import_matrix(
        tmp_path / "s",
        **settings | {"chemistry": f"{tmp_path}/serum.csv", "findings": f"{tmp_path}/grades.csv"},
    )
    assert study.chemistry is not None
    assert study.chemistry.columns.tolist() == ["ALT(IU_L)"]
    assert study.findings.columns.tolist() == ["Degeneration_necrosis"]
    assert {"ALT(IU/L)", "Degeneration/necrosis"} <= set(records(study.root)["column"])
    (tmp_path / "serum.csv").write_text("sample_id,ALT(IU/L),ALT(IU_L)\nv1,50,50\n")
    with pytest.raises(StudyError, match=r"serum.csv, column 'ALT\(IU_L\)'"):
        import_matrix(tmp_path / "s", **settings | {"chemistry": f"{tmp_path}/serum.csv"})


def test_slides_alone_are_a_study(tmp_path: Path) -> None:
    settings = write(tmp_path) | {"expression": None, "kind": "log2"}
    (tmp_path / "slides.csv").write_text("slide_id,sample_id,path\na,v1,a.svs\n")
    study = import_matrix(tmp_path / "s", **settings, slides=str(tmp_path / "slides.csv"))
    assert study.expression.shape == (5, 0)
    assert not study.has_expression.any()
    assert study.has_slide.tolist() == [True, False, False, False, False]
