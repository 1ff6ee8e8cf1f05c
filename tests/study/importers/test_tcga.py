"""TCGA cohorts: cases of barcodes, the censorship flag, folds, gene sets, refusals; and counts on the real tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest

from toxfusion.data.gene_sets import read_gene_sets
from toxfusion.study.audit import Audit
from toxfusion.study.importers.tables import ImportTableError
from toxfusion.study.importers.tcga import import_tcga
from toxfusion.study.rules import AUDIT_FILE
from toxfusion.study.split import SplitError
from toxfusion.study.splits import GroupKFold, Predefined
from toxfusion.study.study import Study
from toxfusion.train import main as train

REAL = Path(__file__).parents[4] / "shared" / "data" / "tcga"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="../shared/data/tcga is not there")


def case(i: int) -> str:
    return f"TCGA-{'AB' if i % 2 else 'CD'}-{i:04d}"


def clinical(n: int = 12) -> pd.DataFrame:
    """n cases, case 0 with two slides; every third censored, case 2 without and case 3 with a time of 0 months."""
    ids = [0, *range(n)]
    table = pd.DataFrame(
        {
            "case_id": [case(i) for i in ids],
            "slide_id": [f"{case(i)}-01Z-00-DX{1 + (k == 0)}.x.svs" for k, i in enumerate(ids)],
            "age": [50 + i for i in ids],
            "survival_months": 1.0,
            "survival_months_dss": [10.0 + i for i in ids],
            "censorship_dss": [float(i % 3 == 0) for i in ids],
            "oncotree_code": ["HCC" if i else "FLC" for i in ids],
            "train": 1.0,
        }
    )
    table.loc[table["case_id"] == case(2), "survival_months_dss"] = np.nan
    table.loc[table["case_id"] == case(3), "survival_months_dss"] = 0.0
    return table


def profiles(n: int = 12) -> pd.DataFrame:
    values = np.random.default_rng(0).normal(5, 2, (n, 6))
    return pd.DataFrame(values, [case(i) for i in range(n)], ["TP53", "ALB", "1-Mar", "FMO2", "EGFR", "KRAS"])


@pytest.fixture
def source(tmp_path: Path) -> dict[str, Any]:
    """The settings of an import, its tables on disk."""
    clinical().to_csv(tmp_path / "cases.csv")
    profiles().to_csv(tmp_path / "rna.csv.gz")
    sets = pd.DataFrame({"One": ["TP53", "ALB", "1-Mar"], "Two": ["EGFR", "NOT", None], "None": [None] * 3})
    sets.to_csv(tmp_path / "sets.csv", index=False)
    (tmp_path / "folds").mkdir()
    for fold, tested in enumerate(([0, 1, 2], [3, 4, 5])):
        trained = [case(i) for i in range(12) if i not in tested]
        columns = {"train": pd.Series(trained), "val": pd.Series([case(i) for i in tested])}
        pd.DataFrame(columns).to_csv(tmp_path / "folds" / f"splits_{fold}.csv")
    names = {"cases": "cases.csv", "rna": "rna.csv.gz", "signatures": "sets.csv", "folds": "folds"}
    return {key: str(tmp_path / name) for key, name in names.items()}


def reasons(study: Study) -> list[str]:
    return [f"{r.kind} {r.id}: {r.reason}" for r in Audit.read(study.root / AUDIT_FILE).records]


def test_a_cohort_by_hand(tmp_path: Path, source: dict[str, Any]) -> None:
    study = import_tcga(tmp_path / "study", **source)
    obs = study.obs
    assert obs.index.tolist() == [case(i) for i in range(12)]
    assert (obs[["animal_id", "compound", "group_id"]].to_numpy() == obs.index.to_numpy()[:, None]).all()
    assert obs.loc[case(1), ["study", "subtype", "age", "survival_time", "event"]].tolist() == [
        "AB",
        "HCC",
        51,
        11,
        1,
    ]
    assert obs.loc[case(6), ["survival_time", "event"]].tolist() == [16, 0]  # 1 = censored
    assert obs.index[obs["event"].isna()].tolist() == [case(2), case(3)]
    assert obs.index[obs["survival_time"].isna()].tolist() == [case(2), case(3)]
    assert not {"train", "survival_months", "censorship_dss", "case_id"} & set(obs.columns)
    assert study.var.index.tolist() == ["TP53", "ALB", "Marchf1", "FMO2", "EGFR", "KRAS"]
    assert study.expression == pytest.approx(profiles().to_numpy())
    assert study.slides.empty
    told = reasons(study)
    for wanted in (
        f"survival label {case(2)}: its time is missing or not positive; the case is kept",
        f"case {case(0)}: 2 rows in cases.csv that agree",
        "slides slide_id: 13 slides of cases.csv: source.slides names no folder",
        "gene set None: names no gene",
        "gene set Two: 1 of 2 genes are not in the study",
    ):
        assert any(r.startswith(wanted) for r in told), wanted


def test_gene_sets_and_folds_are_what_training_reads(tmp_path: Path, source: dict[str, Any]) -> None:
    study = import_tcga(tmp_path / "study", **source)
    sets = read_gene_sets(study.root / "gene_sets" / "sets.gmt", study.var)
    assert {s.name: s.gene_ids for s in sets} == {"One": ("TP53", "ALB", "Marchf1"), "Two": ("EGFR",)}
    split = Predefined(path=str(study.root / "splits" / "published.csv"), fold=1)(study)
    assert split.test == [case(3), case(4), case(5)]
    assert len(split.train) + len(split.valid) == 9
    assert split.manifest["valid_drawn"] is True
    by_site = GroupKFold(n_folds=2)(study)
    assert study.obs.loc[by_site.test, "study"].nunique() == 1


def test_folds_with_a_test_part_keep_their_own(tmp_path: Path, source: dict[str, Any]) -> None:
    table = pd.DataFrame(
        {"train": [case(0), case(1)], "val": [case(2), None], "test": [case(3), case(4) + "-01Z"]}
    )
    table.to_csv(Path(source["folds"]) / "splits_0.csv")
    study = import_tcga(tmp_path / "study", **source)
    split = Predefined(path=str(study.root / "splits" / "published.csv"))(study)
    assert (split.train, split.valid, split.test) == ([case(0), case(1)], [case(2)], [case(3), case(4)])
    assert split.manifest["valid_drawn"] is False
    assert f"fold row 0 {case(9)}: in no part of splits_0.csv: left out of that fold" in reasons(study)


def test_profiles_in_the_clinical_table(tmp_path: Path) -> None:
    table = clinical(4)
    for i, gene in enumerate(("ALB_rnaseq", "ALB_rnaseq.1", "TP53_rnaseq")):
        table[gene] = 3000.0 + i
    table.loc[table["case_id"] == case(1), ["ALB_rnaseq", "ALB_rnaseq.1", "TP53_rnaseq"]] = np.nan
    table = table.assign(TP53_mut=1, ALB_cnv=0)
    table.to_csv(tmp_path / "all.csv.zip", index=False)
    study = import_tcga(tmp_path / "study", cases=str(tmp_path / "all.csv.zip"), kind="zscore")
    assert study.sample_ids == [case(0), case(2), case(3)]
    assert study.var.index.tolist() == ["ALB", "TP53"]
    assert study.expression[0].tolist() == [3000.5, 3002.0]
    told = reasons(study)
    assert f"sample {case(1)}: neither an expression profile nor a slide" in told
    assert "columns _cnv: 1 columns of all.csv.zip: not expression" in told
    assert "gene ALB: appears 2 times: collapsed to the mean" in told
    with pytest.raises(ImportTableError, match=r"source\.kind=zscore"):
        import_tcga(tmp_path / "study", cases=str(tmp_path / "all.csv.zip"))


def test_only_slides_that_are_there_are_listed(tmp_path: Path, source: dict[str, Any]) -> None:
    folder = tmp_path / "slides" / "uuid"
    folder.mkdir(parents=True)
    (folder / f"{case(0)}-01Z-00-DX1.x.svs").touch()
    study = import_tcga(tmp_path / "study", **source, slides=str(tmp_path / "slides"))
    assert study.slides_of(case(0)) == [f"{case(0)}-01Z-00-DX1.x"]
    assert study.slide_path(f"{case(0)}-01Z-00-DX1.x").is_file()
    assert f"slide {case(1)}-01Z-00-DX1.x.svs: no such file in the folder of slides" in reasons(study)
    with pytest.raises(ImportTableError, match="holds none of the 13 slides"):
        import_tcga(tmp_path / "study", **source, slides=source["folds"])


def test_normal_tissue_and_unknown_cases_are_no_profile(tmp_path: Path, source: dict[str, Any]) -> None:
    table = profiles(2)
    table.index = [f"{case(0)}-01A", f"{case(0)}-11A"]
    table.loc["TCGA-ZZ-0000-01A"] = 1.0
    table.to_csv(source["rna"])
    study = import_tcga(tmp_path / "study", **{**source, "folds": None})
    assert study.sample_ids == [case(0)]
    assert f"profile {case(0)}-11A: of rna.csv.gz: normal tissue of a case" in reasons(study)
    assert "profile TCGA-ZZ-0000: not in the clinical table" in reasons(study)


def spoil_cases(column: str, value: Any) -> Any:
    def spoil(source: dict[str, Any]) -> None:
        table = clinical()
        table[column] = table[column].astype(object)
        table.loc[0, column] = value
        table.to_csv(source["cases"])

    return spoil


def spoil_fold(text: str) -> Any:
    return lambda source: (Path(source["folds"]) / "splits_0.csv").write_text(text)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_cases("age", 99), rf"'age', case '{case(0)}': the values 99 and 50 contradict"),
        (
            spoil_cases("case_id", "patient 1"),
            r"cases\.csv, column 'case_id', value 'patient 1': is no TCGA barcode",
        ),
        (
            spoil_fold(f"train,val\n{case(0)},TCGA-ZZ-0000\n"),
            r"splits_0\.csv, column 'test', value 'TCGA-ZZ-0000'",
        ),
        (spoil_fold("train\nx\n"), r"splits_0\.csv: column 'val' is missing"),
        (
            lambda s: s.update(time_column="survival_months_os"),
            "'survival_months_os' is missing; there are .*_dss",
        ),
        (lambda s: s.update(time_column=None), "give both or neither"),
        (lambda s: s.update(folds=str(Path(s["cases"]).parent)), r"holds no file splits_<k>\.csv"),
        (lambda s: Path(s["signatures"]).write_text("One,One\nTP53,ALB\n"), "'One': is there twice"),
        (lambda s: Path(s["signatures"]).write_text("One\nENSG1\n"), "none of its 1 sets names a gene"),
    ],
)
def test_refusals_name_file_column_and_value(
    tmp_path: Path, source: dict[str, Any], spoil: Any, message: str
) -> None:
    spoil(source)
    with pytest.raises(ImportTableError, match=message):
        import_tcga(tmp_path / "study", **source)
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("censorship_dss", 2.0, rf"'censorship_dss', value 2: of case '{case(1)}' is no flag"),
        ("censorship_dss", "dead", "'censorship_dss', value 'dead': is no number"),
        ("survival_months_dss", 4000.0, "'survival_months_dss', value 4000: .* no time in months"),
    ],
)
def test_refusals_of_survival(
    tmp_path: Path, source: dict[str, Any], column: str, value: Any, message: str
) -> None:
    table = clinical()
    table[column] = table[column].astype(object)
    table.loc[table["case_id"] == case(1), column] = value
    table.to_csv(source["cases"])
    with pytest.raises(ImportTableError, match=message):
        import_tcga(tmp_path / "study", **source)


def second_cohort(folder: Path) -> str:
    """Cases 20 to 25, of the sites of the first cohort; one gene is missing, one is new."""
    ids = [case(i) for i in range(20, 26)]
    table = pd.DataFrame({"case_id": ids, "slide_id": [f"{i}-01Z-00-DX1.svs" for i in ids], "age": "old"})
    table = table.assign(survival_months_dss=5.0, censorship_dss=1.0, oncotree_code="LUAD")
    for i, gene in enumerate(("ALB", "TP53", "FMO2", "EGFR", "KRAS", "MYC")):
        table[f"{gene}_rnaseq"] = np.arange(6.0) + i
    table.to_csv(folder / "tcga_luad_all_clean.csv", index=False)
    return str(folder / "tcga_luad_all_clean.csv")


@pytest.mark.parametrize("form", ["list", "mapping"])
def test_two_cohorts_are_one_study(tmp_path: Path, source: dict[str, Any], form: str) -> None:
    """Sites are studies that both cohorts share, cohorts are batches; a label may be known in one of them alone."""
    second = second_cohort(tmp_path)
    labels = pd.DataFrame(
        {"patient": [case(i) for i in range(20, 24)] + ["TCGA-ZZ-9999"], "stage": [1, 2, 3, 1, 2]}
    )
    labels["fibrosis"] = ["None", "Mild", "[Unknown]", "None", "Mild"]
    labels["age"] = 7
    labels.to_csv(tmp_path / "labels.csv", index=False)
    names = ("cases", "luad")
    settings: dict[str, Any] = {
        "cases": [source["cases"], second],
        "rna": {"cases": source["rna"]},
        "folds": {"cases": source["folds"]},
    }
    if form == "mapping":
        settings["cases"] = dict(zip(names, settings["cases"], strict=True))
    study = import_tcga(
        tmp_path / "study", **settings, labels=[str(tmp_path / "labels.csv")], slides="listed"
    )
    obs = study.obs
    assert obs["batch"].value_counts().to_dict() == {"cases": 12, "luad": 6}
    assert obs.groupby("study")["batch"].nunique().tolist() == [2, 2]
    assert obs["organ"].unique().tolist() == ["cases", "lung"]
    assert study.var.index.tolist() == ["TP53", "ALB", "FMO2", "EGFR", "KRAS"]
    assert study.expression[12].tolist() == [1.0, 0.0, 2.0, 3.0, 4.0]
    assert obs["fibrosis"].tolist() == [""] * 12 + ["None", "Mild", "", "None", "", ""]
    assert obs["stage"].dropna().tolist() == [1.0, 2.0, 3.0, 1.0]
    assert study.provenance["labels"] == {"stage": {"luad": 4}, "fibrosis": {"luad": 3}}
    assert study.provenance["cohorts"] == {"cases": 12, "luad": 6}
    assert len(study.slides_of(case(0))) == 2
    told = reasons(study)
    assert "genes cases: 1 of 6 genes are not in every cohort" in told
    assert "column age: of labels.csv: the study has a column of that name" in told
    assert "label row TCGA-ZZ-9999: not in the study" in told
    for fold in range(2):
        split = GroupKFold(n_folds=2, fold=fold)(study)
        assert not set(obs.loc[split.test, "study"]) & set(obs.loc[[*split.train, *split.valid], "study"])
        assert set(obs.loc[split.test, "batch"]) == set(names)


def test_genes_that_a_cohort_lacks_are_missing_there(tmp_path: Path, source: dict[str, Any]) -> None:
    settings = {"cases": [source["cases"], second_cohort(tmp_path)], "rna": {"cases": source["rna"]}}
    study = import_tcga(tmp_path / "study", **settings, genes="all")
    assert study.var.index.tolist() == ["TP53", "ALB", "Marchf1", "FMO2", "EGFR", "KRAS", "MYC"]
    assert np.isnan(study.expression[:12, 6]).all()
    assert np.isnan(study.expression[12:, 2]).all()
    assert study.has_expression.all()
    assert "genes luad: 1 of 7 genes are not in its table: missing there" in reasons(study)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cases": ["a/tcga_luad.csv", "b/tcga_luad_all_clean.csv"]}, "two tables are of a cohort 'luad'"),
        ({"rna": ["one.csv"]}, r"source\.rna: 1 paths for 2 cohorts"),
        ({"folds": {"lusc": "x"}}, "'lusc' is no cohort of source.cases"),
        ({"genes": "some"}, "source.genes=some: is none of common, all"),
        ({"cases": "twice"}, f"case '{case(0)}' is in the cohorts 'a' and 'b'"),
    ],
)
def test_refusals_of_several_cohorts(
    tmp_path: Path, source: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    settings: dict[str, Any] = {
        "cases": [source["cases"], second_cohort(tmp_path)],
        "rna": {"cases": source["rna"]},
    }
    if change.get("cases") == "twice":
        change = {"cases": dict.fromkeys("ab", source["cases"]), "rna": dict.fromkeys("ab", source["rna"])}
    with pytest.raises(ImportTableError, match=message):
        import_tcga(tmp_path / "study", **settings | change)


def test_pretraining_on_expression_alone_with_published_folds(tmp_path: Path, source: dict[str, Any]) -> None:
    """The folds as they were published, a patient in both parts: audited, refused, and repeated when asked for."""
    first = Path(source["folds"]) / "splits_0.csv"
    first.write_text(first.read_text() + f",{case(0)},\n")
    study = import_tcga(tmp_path / "study", **source)
    assert f"fold row 0 {case(0)}: in several parts of splits_0.csv" in " ".join(reasons(study))
    with pytest.raises(SplitError, match=rf"in train and in test of fold 0 \({case(0)}\)"):
        Predefined(path=f"{study.root}/splits/published.csv")(study)
    train(
        [
            "split.allow_overlap=true",
            "data=cohort", f"data.root={study.root}", f"paths.outputs={tmp_path / 'runs'}", "modality=omics",
            "tile_features=none", "task=none", "split=predefined", f"split.path={study.root}/splits/published.csv",
            "expression=pathways", f"expression.gene_sets.gmt={study.root}/gene_sets/sets.gmt",
            "expression.gene_sets.min_genes=1", "size=demo", "size.width=16", "size.shared_dim=8",
            "size.private_dim=8", "size.gene_latents=4", "size.pretrain_steps=2", "size.pretrain_batch=4",
            "trainer.progress=false",
        ]
    )  # fmt: skip
    (done,) = (tmp_path / "runs").rglob("done.json")
    split = json.loads((done.parent / "split.json").read_text())
    assert split["test"] == [case(0), case(1), case(2)]
    assert case(0) in split["train"]
    assert done.parent.parent.name.endswith("_overlap")
    embedded = anndata.read_h5ad(done.parent / "embeddings.h5ad").obs
    assert embedded.index.is_unique
    assert embedded.at[case(0), "part"] == "test"


@needs_real
def test_the_real_bladder_cohort(tmp_path: Path) -> None:
    folder = REAL / "survpath_blca"
    study = import_tcga(
        tmp_path / "study",
        cases=str(folder / "tcga_blca.csv"),
        rna=str(folder / "rna_clean.csv.gz"),
        signatures=str(folder / "xena_signatures.csv"),
        folds=str(folder / "splits"),
    )
    assert study.expression.shape == (359, 1577)
    assert study.has_expression.all()
    assert study.obs["event"].sum() == 113
    assert study.obs["event"].notna().all()
    assert "profile TCGA-C4-A0F6: not in the clinical table" in reasons(study)
    assert len(read_gene_sets(study.root / "gene_sets" / "xena_signatures.gmt", study.var)) == 281
    path = study.root / "splits" / "published.csv"
    tests = [Predefined(path=str(path), fold=k)(study).test for k in range(5)]
    assert [len(t) for t in tests] == [70, 72, 75, 71, 71]
    assert sorted(s for t in tests for s in t) == sorted(study.sample_ids)


@needs_real
def test_the_real_liver_cohort(tmp_path: Path) -> None:
    study = import_tcga(
        tmp_path / "study",
        cases=str(REAL / "tcga_lihc_all_clean.csv.zip"),
        kind="zscore",
        time_column="survival_months",
        censorship_column="censorship",
    )
    assert study.expression.shape == (333, 1550)
    assert study.obs["event"].sum() == 115
    assert study.obs["subtype"].value_counts().to_dict() == {"HCC": 323, "HCCIHCH": 7, "FLC": 3}
    assert study.obs["study"].nunique() == 33
    tested = [GroupKFold(column="animal_id", fold=k)(study).test for k in range(5)]
    assert sorted(s for t in tested for s in t) == sorted(study.sample_ids)
