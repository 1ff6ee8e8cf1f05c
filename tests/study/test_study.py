"""The study contract: what is written is read back; a broken rule names file, column and value."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from toxfusion.study.audit import Audit
from toxfusion.study.study import Study, StudyError, write_study

Tables = dict[str, Any]


def test_round_trip(tmp_path: Path, study_tables: Tables) -> None:
    study_tables["audit"].drop("prepare", "sample", "lost", "no animal")
    write_study(tmp_path, **study_tables)
    study = Study.open(tmp_path)
    for name in ("obs", "findings", "spontaneous", "chemistry", "slides", "var"):
        pd.testing.assert_frame_equal(
            getattr(study, name),
            study_tables[name],
            check_dtype=False,
            check_index_type=False,
            check_names=False,
        )
    assert study.expression.dtype == np.float32
    assert np.array_equal(study.expression, study_tables["expression"], equal_nan=True)
    assert (study.name, study.species, study.virtual) == ("tiny", "Rattus norvegicus", True)
    assert study.provenance == study_tables["provenance"]
    assert [r.id for r in Audit.read(tmp_path / "audit.json").records] == ["lost"]


def test_missing_modalities_are_seen(tiny_study: Study) -> None:
    assert not tiny_study.has_expression[3]
    assert (~tiny_study.has_expression).sum() == 5
    assert not tiny_study.has_slide[2]
    assert tiny_study.slides_of(tiny_study.sample_ids[2]) == []
    first = tiny_study.sample_ids[0]
    assert tiny_study.slides_of(first) == [f"{first}.0", f"{first}.1"]
    assert tiny_study.slide_path(f"{first}.1") == tiny_study.root / "slides" / f"{first}.1.tif"
    with pytest.raises(KeyError, match="nobody"):
        tiny_study.slides_of("nobody")


def test_positions_follow_the_order_asked(tiny_study: Study) -> None:
    ids = tiny_study.sample_ids
    assert tiny_study.positions([ids[4], ids[0]]).tolist() == [4, 0]
    with pytest.raises(KeyError, match="nobody"):
        tiny_study.positions([ids[0], "nobody"])


def test_an_absolute_slide_path_is_kept(tmp_path: Path, study_tables: Tables) -> None:
    study_tables["slides"]["path"] = "/images/a.svs"
    study = write_study(tmp_path, **study_tables)
    assert study.slide_path(study.slides.index[0]) == Path("/images/a.svs")


def test_a_store_that_is_not_there_is_named_with_what_is(own_tiny_study: Study) -> None:
    (own_tiny_study.root / "features" / "resnet18").mkdir(parents=True)
    with pytest.raises(
        StudyError, match=r"no features 'uni'; there are resnet18. Take tile_features.name=resnet18, or run"
    ):
        own_tiny_study.features("uni")


def test_writing_again_leaves_other_folders_alone(own_tiny_study: Study, study_tables: Tables) -> None:
    kept = own_tiny_study.root / "features" / "resnet18" / "store.json"
    kept.parent.mkdir(parents=True)
    kept.write_text("{}")
    study_tables["name"] = "second"
    write_study(own_tiny_study.root, **study_tables)
    assert Study.open(own_tiny_study.root).name == "second"
    assert kept.read_text() == "{}"
    files = {p.name for p in own_tiny_study.root.iterdir()}
    assert files == {"expression.h5ad", "slides.parquet", "audit.json", "features"}


def test_an_interrupted_write_leaves_the_former_study(
    own_tiny_study: Study, study_tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*args: object, **kwargs: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", no_space)
    study_tables["name"] = "second"
    with pytest.raises(OSError, match="no space"):
        write_study(own_tiny_study.root, **study_tables)
    assert Study.open(own_tiny_study.root).name == "tiny"
    assert {p.name for p in own_tiny_study.root.iterdir()} == {
        "expression.h5ad",
        "slides.parquet",
        "audit.json",
    }


def put(table: str, column: str, value: object, row: int = 0) -> Callable[[Tables], None]:
    def change(tables: Tables) -> None:
        frame = tables[table].astype({column: object}) if isinstance(value, str) else tables[table]
        frame.iloc[row, frame.columns.get_loc(column)] = value
        tables[table] = frame

    return change


def double_sample(tables: Tables) -> None:
    names = tables["obs"].index.tolist()
    tables["obs"].index = pd.Index([names[1], *names[1:]])


def partial_row(tables: Tables) -> None:
    tables["expression"][1, 7] = np.nan


def infinite(tables: Tables) -> None:
    tables["expression"][1, 7] = np.inf


def without(table: str, column: str) -> Callable[[Tables], None]:
    def change(tables: Tables) -> None:
        tables[table] = tables[table].drop(columns=column)

    return change


def double_gene(tables: Tables) -> None:
    names = tables["var"].index.tolist()
    tables["var"].index = pd.Index([names[1], *names[1:]])


def finding_with_slash(tables: Tables) -> None:
    for name in ("findings", "spontaneous"):
        tables[name] = tables[name].rename(columns={"Necrosis": "Necrosis/apoptosis"})


def no_rows(tables: Tables) -> None:
    tables["findings"] = tables["findings"].iloc[1:]


HIGH = 3  # a treated high-dose sample of alphamide

FAULTS: dict[str, tuple[Callable[[Tables], None], str]] = {
    "duplicate sample": (double_sample, r"expression\.h5ad.*'sample_id'.*more than once"),
    "duplicate gene": (double_gene, r"'gene_id'.*ENSRNOG00000000001.*more than once"),
    "slide without sample": (put("slides", "sample_id", "ghost"), r"slides\.parquet.*'sample_id'.*'ghost'"),
    "slide without path": (put("slides", "path", " "), r"slides\.parquet.*'path'"),
    "mpp of zero": (put("slides", "mpp_override", 0.0), r"slides\.parquet.*'mpp_override'.*0\.0"),
    "mpp in words": (put("slides", "mpp_override", "fine"), r"slides\.parquet.*'mpp_override'.*'fine'"),
    "half a region": (put("slides", "x", 5.0), r"slides\.parquet.*all four or none"),
    "partial profile": (partial_row, r"'X'.*alphamide_24h_low_0.*lacks 1 of 50 genes.*ENSRNOG00000000007"),
    "infinite profile": (infinite, r"'X', value inf.*ENSRNOG00000000007"),
    "unknown dose level": (put("obs", "dose_level", "medium", 1), r"'dose_level', value 'medium'.*Map"),
    "missing column": (without("obs", "group_id"), r"'group_id'.*missing"),
    "missing slide column": (without("slides", "width"), r"slides\.parquet.*'width'.*missing"),
    "dili of 2": (put("obs", "dili", 2.0), r"'dili', value 2\.0"),
    "injury of minus one": (put("obs", "injury", -1.0), r"'injury', value -1\.0"),
    "dili varies in compound": (put("obs", "dili", 0.0, HIGH), r"'dili'.*throughout compound 'alphamide'"),
    "dili lost in compound": (put("obs", "dili", np.nan, HIGH), r"'dili'.*throughout compound 'alphamide'"),
    "dili of a control differs": (put("obs", "dili", 0.0, 0), r"'dili'.*throughout compound 'alphamide'"),
    "injury varies in group": (put("obs", "injury", 0.0, HIGH), r"'injury'.*group_id 'alphamide_24h_high'"),
    "control with a dose level": (put("obs", "dose_level", "low", 0), r"'is_control', value True.*'low'"),
    "control with a dose": (put("obs", "dose", 5.0, 0), r"'dose', value 5\.0.*control"),
    "treated without a dose": (put("obs", "dose", 0.0, 1), r"'dose', value 0\.0.*control"),
    "negative time": (put("obs", "time_h", -1.0), r"'time_h', value -1\.0"),
    "flag in words": (put("obs", "is_control", "yes"), r"'is_control', value 'yes'"),
    "nameless compound": (put("obs", "compound", ""), r"'compound', value ''"),
    "no batch": (put("obs", "batch", None), r"'batch', value None"),
    "grade of 5": (put("findings", "Necrosis", 5.0), r"findings.*'Necrosis', value 5\.0"),
    "grade between": (put("findings", "Necrosis", 1.5), r"findings.*'Necrosis', value 1\.5"),
    "term with a slash": (finding_with_slash, r"'Necrosis/apoptosis'"),
    "findings of fewer samples": (no_rows, r"findings.*'alphamide_24h_control_0'"),
    "infinite ALT": (put("chemistry", "ALT", np.inf), r"chemistry.*'ALT', value inf"),
    "other spontaneous terms": (without("spontaneous", "Necrosis"), r"spontaneous.*Necrosis"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_broken_rule_is_named_and_nothing_is_written(
    fault: str, tmp_path: Path, study_tables: Tables
) -> None:
    change, message = FAULTS[fault]
    change(study_tables)
    with pytest.raises(StudyError, match=message):
        write_study(tmp_path / "study", **study_tables)
    assert not (tmp_path / "study").exists()


def test_a_control_may_carry_no_label_of_its_compound(tmp_path: Path, study_tables: Tables) -> None:
    study_tables["obs"].loc[study_tables["obs"]["is_control"], "dili"] = np.nan
    assert write_study(tmp_path, **study_tables).obs["dili"].isna().any()


def test_open_checks_what_others_wrote(own_tiny_study: Study) -> None:
    slides = pd.read_parquet(own_tiny_study.root / "slides.parquet")
    slides.loc[0, "sample_id"] = "ghost"
    slides.to_parquet(own_tiny_study.root / "slides.parquet")
    with pytest.raises(StudyError, match="ghost"):
        Study.open(own_tiny_study.root)


@pytest.mark.parametrize("file", ["expression.h5ad", "slides.parquet"])
def test_missing_and_broken_files_are_named(own_tiny_study: Study, file: str) -> None:
    path = own_tiny_study.root / file
    path.write_bytes(b"not a table")
    with pytest.raises(StudyError, match=file.replace(".", r"\.")):
        Study.open(own_tiny_study.root)
    path.unlink()
    with pytest.raises(StudyError, match=rf"{file} is missing"):
        Study.open(own_tiny_study.root)


def test_another_schema_is_refused(own_tiny_study: Study) -> None:
    import anndata

    path = own_tiny_study.root / "expression.h5ad"
    adata = anndata.read_h5ad(path)
    adata.uns["toxfusion"]["schema"] = 99
    adata.write_h5ad(path)
    with pytest.raises(StudyError, match=r"value 99.*schema 1"):
        Study.open(own_tiny_study.root)


def test_counts_are_kept_as_a_layer(tmp_path: Path, study_tables: Tables) -> None:
    import anndata

    counts = np.round(np.nan_to_num(study_tables["expression"]) * 10)
    write_study(tmp_path, **study_tables, counts=counts)
    assert np.array_equal(anndata.read_h5ad(tmp_path / "expression.h5ad").layers["counts"], counts)
    with pytest.raises(StudyError, match="counts has shape"):
        write_study(tmp_path, **study_tables, counts=counts[:, 1:])


def test_opening_a_study_imports_neither_scanpy_nor_tiatoolbox(own_tiny_study: Study) -> None:
    code = (
        "import sys; from toxfusion.study.study import Study; "
        f"Study.open({str(own_tiny_study.root)!r}); "
        "print(sorted({'scanpy', 'tiatoolbox', 'torch'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_features_of_a_slide_are_found_through_the_study(study_with_features: Study) -> None:
    store = study_with_features.features("random")
    slide = study_with_features.slides_of(study_with_features.sample_ids[0])[1]
    assert store.rows(slide).shape == (4, 8)
    assert store.spec.provenance["encoder"] == "random"


def test_a_gene_that_a_batch_lacks_may_be_missing_in_all_its_profiles(
    tmp_path: Path, study_tables: Tables
) -> None:
    in_b = (study_tables["obs"]["batch"] == "B").to_numpy()
    study_tables["expression"][in_b, 3] = np.nan
    study = write_study(tmp_path / "study", **study_tables)
    assert study.has_expression.sum() == (~np.isnan(study_tables["expression"]).all(axis=1)).sum()
    row = np.flatnonzero(in_b & study.has_expression)[0]
    study_tables["expression"][row, 3] = 1.0
    with pytest.raises(StudyError, match="lacks 1 of 50 genes"):
        write_study(tmp_path / "other", **study_tables)


def test_a_virtual_study_is_named_with_how_hard_it_is() -> None:
    from toxfusion.study.study import virtual_setting

    said = virtual_setting({"setting": "control", "generator_version": 3})
    assert said == "setting=control (a positive control, made to be seen), generator 3"
    assert virtual_setting({}) == "setting=unknown, generator unknown"
