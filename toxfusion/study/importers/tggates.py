"""Open TG-GATEs: attributes, pathology, expression of any of its arrays, and FDA labels of compounds.

One sample is one rat with an arrayed liver (in vivo). What each column becomes is said at the function
that makes it; docs/howto/open_tggates.md walks through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from toxfusion.study.audit import Audit
from toxfusion.study.importers.counts import refuse_no_log2
from toxfusion.study.importers.genes import GeneIds
from toxfusion.study.importers.symbols import normalised_compound
from toxfusion.study.importers.tables import STAGE, ImportTableError, read_slide_table
from toxfusion.study.names import strangers
from toxfusion.study.number_columns import numbers
from toxfusion.study.study import Study, write_study
from toxfusion.study.tables import read_table, read_values

ENCODING = "cp932"
ANIMAL = ["EXP_ID", "GROUP_ID", "INDIVIDUAL_ID"]
#: grades of the pathology table; P is "present", not graded: the lowest grade, each one audited
GRADES = {"minimal": 1.0, "slight": 2.0, "moderate": 3.0, "severe": 4.0, "P": 1.0}
#: animals of a group of five with a treatment-related finding that make the group injured
INJURED_ANIMALS = 2
#: a row that says that the animal died, not what its liver looked like
DEAD = "DEAD"
CHEMISTRY = {
    "ALT": "ALT(IU/L)",
    "AST": "AST(IU/L)",
    "ALP": "ALP(IU/L)",
    "TBIL": "TBIL(mg/dL)",
    "DBIL": "DBIL(mg/dL)",
    "GTP": "GTP(IU/L)",
    "LDH": "LDH(IU/L)",
    "TG": "TG(mg/dL)",
    "TC": "TC(mg/dL)",
    "PL": "PL(mg/dL)",
    "ALB": "RALB(g/dL)",
    "TP": "TP(g/dL)",
    "GLC": "GLC(mg/dL)",
    "BUN": "BUN(mg/dL)",
    "CRE": "CRE(mg/dL)",
}
HOURS = {"hr": 1.0, "day": 24.0}
MG_PER_KG = {"mg/kg": 1.0, "μg/kg": 1e-3}
#: label -> its FDA table, and what the classes of the table become; an ambiguous compound has no label
DILI_LABELS = {
    "dilirank": ("dilirank", {"vMost-DILI-Concern": 1.0, "vLess-DILI-Concern": 1.0, "vNo-DILI-Concern": 0.0}),
    "most": ("dilirank", {"vMost-DILI-Concern": 1.0, "vLess-DILI-Concern": 0.0, "vNo-DILI-Concern": 0.0}),
    "dilist": ("dilist", {"1": 1.0, "0": 0.0}),
}
AMBIGUOUS = "Ambiguous DILI-concern"


def import_tggates(
    root: Path | str,
    *,
    attributes: str,
    pathology: str,
    expression: str | None,
    pheno: str | None,
    slides: str | None,
    dilirank: str | None,
    dilist: str | None,
    dili: Literal["dilirank", "most", "dilist"] = "dilirank",
    samples: Literal["profiled", "all"] = "profiled",
    median_centre: bool = True,
    gene_ids: GeneIds = GeneIds(),  # noqa: B008  frozen
    name: str = "tggates",
) -> Study:
    """Join the tables and write a study.

    Args:
        attributes: Open-tggates_AllAttribute, .zip or text, cp932.
        pathology: open_tggates_pathology.csv, cp932.
        expression: genes x arrays, log2; column names are barcodes, with or without ``ID_``.
        pheno: SAMPLEID, DOSE, SACRIFICE_PERIOD (days) of the arrays: checked against the attributes.
        slides: slide_id, sample_id (barcode), path.
        dilirank, dilist: FDA tables of compounds; ``dili`` says which gives the label. dilirank: most and
            less concern are 1, no concern 0, ambiguous NaN; most (of DILIrank): most concern is 1, less and
            no concern 0, ambiguous NaN.
        samples: the animals of the expression table, or all of the attribute table (those without a
            profile have an empty row).
        median_centre: shift each array to the median of the table; removes an array's own offset.
        gene_ids: what the rows of the expression table (symbols, or probe sets) become.

    Raises:
        ImportTableError: a table lacks a column, two tables disagree, no array joins, or ``dili`` is no label.
    """
    if dili not in DILI_LABELS:
        raise ImportTableError(f"source.dili={dili}: is none of {', '.join(DILI_LABELS)}")
    audit = Audit()
    animals = read_attributes(attributes)
    arrays = rat_liver_arrays(animals, attributes, audit)
    lesions = read_pathology(pathology, audit)
    _refuse_strangers(lesions, pathology, arrays, animals, attributes)
    profiles, named = (None, {}) if expression is None else _read_profiles(expression, gene_ids, audit)
    chosen = _choose(arrays, profiles, samples, expression, audit)
    if pheno is not None:
        _check_pheno(chosen, pheno)
    obs = _obs(chosen, attributes, audit)
    examined = _examined(chosen, lesions, audit)
    obs["injury"] = _injury(chosen, lesions).where(examined)
    obs["died"] = _has_row(chosen, lesions[lesions["FINDING_TYPE"] == DEAD])
    obs = obs.join(hazard_labels(obs["compound"], dilirank, dilist, audit))
    obs["dili"] = obs[f"{dili}_label"]
    grades, spontaneous = _findings(chosen, lesions, examined, audit)
    matrix = _matrix(profiles, obs.index, median_centre)
    symbols = matrix.columns.tolist()
    return write_study(
        root,
        obs=obs,
        var=pd.DataFrame({"symbol": symbols}, index=pd.Index(symbols, name="gene_id", dtype=object)),
        expression=matrix.to_numpy(np.float32),
        findings=grades,
        spontaneous=spontaneous,
        chemistry=_chemistry(chosen, attributes),
        slides=read_slide_table(slides, obs.index, audit),
        provenance={
            "source": "Open TG-GATEs",
            "tables": [Path(p).name for p in (attributes, pathology, expression, dilirank, dilist) if p],
            "dili": dili,
            "median_centre": median_centre,
            "gene_ids": named,
        },
        name=name,
        species="Rattus norvegicus",
        virtual=False,
        audit=audit,
    )


def read_attributes(path: Path | str) -> pd.DataFrame:
    """The attribute table as text, one row an array or an animal without one."""
    columns = [
        "BARCODE",
        *ANIMAL,
        "ORGAN_ID",
        "COMPOUND_NAME",
        "SPECIES",
        "TEST_TYPE",
        "SACRI_PERIOD",
        "DOSE",
    ]
    columns += ["DOSE_UNIT", "DOSE_LEVEL", "LIVER(g)", "TERMINAL_BW(g)", *CHEMISTRY.values()]
    return read_table(path, required=columns, encoding=ENCODING)


def read_pathology(path: Path | str, audit: Audit) -> pd.DataFrame:
    """The liver findings as text, one row a finding; those of other organs are audited.

    Raises:
        ImportTableError: a column is missing, a grade or a flag is unknown, or no row is of the liver.
    """
    required = [*ANIMAL, "ORGAN", "FINDING_TYPE", "GRADE_TYPE", "SP_FLG"]
    table = read_table(path, required=required, encoding=ENCODING)
    unknown = table["GRADE_TYPE"][~table["GRADE_TYPE"].isin(GRADES)]
    if len(unknown):
        raise ImportTableError(
            f"{path}, column 'GRADE_TYPE', value {unknown.iloc[0]!r}: is none of {list(GRADES)}"
        )
    flags = table["SP_FLG"].dropna()
    if not flags.isin(["t", "f"]).all():
        raise ImportTableError(
            f"{path}, column 'SP_FLG', value {flags[~flags.isin(['t', 'f'])].iloc[0]!r}: write t for a spontaneous "
            "finding and f for another"
        )
    if not (table["ORGAN"] == "Liver").any():
        raise ImportTableError(
            f"{path}, column 'ORGAN': no row is of 'Liver': {strangers(table['ORGAN'].dropna(), ['Liver']).all_told()}"
        )
    for organ, findings in table[table["ORGAN"] != "Liver"].groupby("ORGAN", dropna=False):
        audit.drop(STAGE, "finding rows", str(organ), f"{len(findings)} rows: not of the liver")
    return table[table["ORGAN"] == "Liver"]


def _refuse_strangers(
    lesions: pd.DataFrame,
    pathology: Path | str,
    arrays: pd.DataFrame,
    animals: pd.DataFrame,
    attributes: Path | str,
) -> None:
    """Findings that are of no group, or of no animal, of the attributes (ids without their zeros, numbers with a
    decimal) would leave every rat sound."""
    ours, theirs = _ids(arrays, ANIMAL[:2]), _ids(lesions, ANIMAL[:2])
    shared = set(ours).intersection(theirs)
    _refuse_none_of(shared, ours, theirs, "groups", ANIMAL[:2], pathology, attributes)
    there = lesions[[group in shared for group in _joined_ids(lesions, ANIMAL[:2])]]
    of_groups = animals[[group in shared for group in _joined_ids(animals, ANIMAL[:2])]]
    ours, theirs = _ids(of_groups, ANIMAL), _ids(there, ANIMAL)
    _refuse_none_of(set(ours).intersection(theirs), ours, theirs, "animals", ANIMAL, pathology, attributes)


def _joined_ids(table: pd.DataFrame, columns: list[str]) -> list[str]:
    return list(map("-".join, table[columns].astype(str).to_numpy()))


def _ids(table: pd.DataFrame, columns: list[str]) -> list[str]:
    return list(dict.fromkeys(_joined_ids(table, columns)))


def _refuse_none_of(
    shared: set[str],
    ours: list[str],
    theirs: list[str],
    what: str,
    columns: list[str],
    pathology: Path | str,
    attributes: Path | str,
) -> None:
    if ours and not shared:
        raise ImportTableError(
            f"{pathology}: none of its {len(theirs)} {what} ({'-'.join(columns)}) is of an arrayed rat liver in "
            f"{attributes}: {', '.join(map(repr, theirs[:3]))} there, {', '.join(map(repr, ours[:3]))} here; use the "
            "same ids in both"
        )


def rat_liver_arrays(attributes: pd.DataFrame, path: Path | str, audit: Audit) -> pd.DataFrame:
    """Rows of arrayed rat livers in vivo, indexed by barcode; the others are audited by what they are."""
    wanted = (
        (attributes["SPECIES"] == "Rat")
        & (attributes["TEST_TYPE"] == "in vivo")
        & (attributes["ORGAN_ID"] == "Liver")
    )
    kinds = attributes[~wanted].fillna({"ORGAN_ID": "no array"}).groupby(["SPECIES", "TEST_TYPE", "ORGAN_ID"])
    for kind, others in kinds:
        audit.drop(
            STAGE, "attribute rows", "/".join(map(str, kind)), f"{len(others)} rows: not an arrayed rat liver"
        )
    arrays = attributes[wanted].set_index("BARCODE")
    twice = arrays.index[arrays.index.duplicated()]
    if len(twice):
        raise ImportTableError(f"{path}, column 'BARCODE', value {twice[0]!r}: appears twice; keep one row")
    return arrays


def _read_profiles(path: str, gene_ids: GeneIds, audit: Audit) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Arrays x genes; barcodes without ID_, genes named and collapsed, and how."""
    table = read_values(path)
    barcodes = [str(c).removeprefix("ID_") for c in table.columns]
    twice = pd.Index(barcodes)[pd.Index(barcodes).duplicated()]
    if len(twice):
        raise ImportTableError(f"{path}: array {twice[0]!r} has two columns; keep one")
    values = pd.DataFrame(table.to_numpy(np.float64).T, index=barcodes, columns=table.index)
    refuse_no_log2(values, path, "a table of log2 values")
    return gene_ids.named(values, audit, path=path, counts=False)


def _choose(
    arrays: pd.DataFrame, profiles: pd.DataFrame | None, samples: str, path: str | None, audit: Audit
) -> pd.DataFrame:
    """The arrays that become samples."""
    if profiles is None:
        if samples == "profiled":
            raise ImportTableError(
                "samples=profiled needs source.expression; give it, or set source.samples=all"
            )
        return arrays
    strange = profiles.index.difference(arrays.index)
    near = strangers(strange, arrays.index)
    for barcode in strange:
        told = near.told(str(barcode))
        audit.drop(STAGE, "array", barcode, f"not an arrayed rat liver of the attribute table{told}")
    if len(strange) == len(profiles):
        raise ImportTableError(
            f"{path}: none of its {len(profiles)} arrays ({near.all_told()}) is a BARCODE of the attribute "
            "table; name the columns by barcode"
        )
    if samples == "all":
        return arrays
    return arrays.loc[[b for b in profiles.index if b in arrays.index]]


def _check_pheno(arrays: pd.DataFrame, path: str) -> None:
    """Dose and day of the arrays in their own table must be those of the attributes."""
    pheno = read_table(path, required=("SAMPLEID", "DOSE", "SACRIFICE_PERIOD"))
    pheno = pheno.set_index(pheno["SAMPLEID"].astype(str).str.removeprefix("ID_"))
    known = arrays.reindex(pheno.index)[["DOSE", "SACRI_PERIOD"]].dropna()
    if known.empty:
        raise ImportTableError(
            f"{path}, column 'SAMPLEID': none of its {len(pheno)} arrays is a sample: "
            f"{strangers(pheno.index, arrays.index).all_told()}; the samples are {', '.join(arrays.index[:3])}, ..."
        )
    pheno = pheno.loc[known.index]
    period = pheno["SACRIFICE_PERIOD"].astype(str) + " day"
    differs = (numbers(known["DOSE"], path) != numbers(pheno["DOSE"], path)) | (
        known["SACRI_PERIOD"] != period
    )
    if differs.any():
        barcode = known.index[differs][0]
        raise ImportTableError(
            f"{path}, SAMPLEID {barcode!r}: dose {pheno.at[barcode, 'DOSE']!r} and time {period[barcode]!r} "
            f"are {known.loc[barcode].tolist()} in the attribute table; correct one of them"
        )


def _obs(arrays: pd.DataFrame, path: str, audit: Audit) -> pd.DataFrame:
    """Columns of the contract. One experiment is a study; each of its times has its own vehicle controls."""
    period = arrays["SACRI_PERIOD"].str.split(" ", n=1, expand=True)
    unknown = arrays["SACRI_PERIOD"][~period[1].isin(HOURS)]
    if len(unknown):
        raise ImportTableError(f"{path}, column 'SACRI_PERIOD', value {unknown.iloc[0]!r}: is no hr or day")
    time = numbers(period[0], path) * period[1].map(HOURS)
    dose = numbers(arrays["DOSE"], path)
    factor = arrays["DOSE_UNIT"].map(MG_PER_KG)
    for barcode, unit in arrays["DOSE_UNIT"][factor.isna() & (dose > 0)].items():
        audit.change(STAGE, "sample", str(barcode), f"dose in {unit}, not mg/kg: dose left empty, level kept")
    group = arrays["EXP_ID"] + "-" + arrays["GROUP_ID"]
    level = arrays["DOSE_LEVEL"].str.lower()
    return pd.DataFrame(
        {
            "animal_id": group + "-" + arrays["INDIVIDUAL_ID"],
            "compound": arrays["COMPOUND_NAME"],
            "dose": (dose * factor).where(dose > 0, 0.0),
            "dose_level": level,
            "time_h": time,
            "study": arrays["EXP_ID"],
            "batch": "",
            "is_control": level == "control",
            "control_group": arrays["EXP_ID"] + "-" + time.map("{:g}h".format),
            "group_id": group,
        }
    ).rename_axis("sample_id")


def _examined(arrays: pd.DataFrame, lesions: pd.DataFrame, audit: Audit) -> pd.Series:
    """bool by barcode: the experiment has any liver finding, so that its slides were read.

    An animal without a row has no finding only where slides were read; an experiment without one finding in
    some 80 animals (controls have one in 20) was most likely not.
    """
    read = arrays["EXP_ID"].isin(set(lesions["EXP_ID"]))
    for experiment in sorted(set(arrays.loc[~read, "EXP_ID"])):
        audit.change(
            STAGE,
            "experiment",
            experiment,
            "no liver finding in any animal: findings and injury left unknown",
        )
    return read


def _injury(arrays: pd.DataFrame, lesions: pd.DataFrame) -> pd.Series:
    """1.0 where ``INJURED_ANIMALS`` rats of the group, arrayed or not, have a treatment-related finding."""
    related = lesions[_is_lesion(lesions) & (lesions["SP_FLG"] == "f")]
    affected = related.drop_duplicates(ANIMAL).groupby(ANIMAL[:2]).size()
    groups = pd.MultiIndex.from_frame(arrays[ANIMAL[:2]])
    counts = affected.reindex(groups, fill_value=0).to_numpy()
    return pd.Series((counts >= INJURED_ANIMALS).astype(np.float64), index=arrays.index)


def _is_lesion(lesions: pd.DataFrame) -> pd.Series:
    return lesions["FINDING_TYPE"].notna() & (lesions["FINDING_TYPE"] != DEAD)


def _has_row(arrays: pd.DataFrame, lesions: pd.DataFrame) -> pd.Series:
    animals = pd.MultiIndex.from_frame(arrays[ANIMAL])
    return pd.Series(animals.isin(pd.MultiIndex.from_frame(lesions[ANIMAL])), index=arrays.index)


def _findings(
    arrays: pd.DataFrame, lesions: pd.DataFrame, examined: pd.Series, audit: Audit
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Grade and spontaneous flag, barcodes x terms seen among these animals.

    The grade of a term is the highest over its topographies; a term is spontaneous when all its rows are.
    """
    barcodes = pd.Series(arrays.index, index=pd.MultiIndex.from_frame(arrays[ANIMAL]), name="sample_id")
    findings = lesions.join(barcodes, on=ANIMAL, how="inner")
    if n_lost := len(lesions) - len(findings):
        audit.drop(
            STAGE,
            "finding rows",
            "Liver",
            f"{n_lost} rows: of rats that are no sample; they count for injury alone",
        )
    for finding in findings[findings["FINDING_TYPE"].isna()].itertuples():
        audit.drop(
            STAGE, "finding", str(finding.sample_id), f"a row without a finding, grade {finding.GRADE_TYPE}"
        )
    findings = findings[_is_lesion(findings)]
    for finding in findings[findings["GRADE_TYPE"] == "P"].itertuples():
        audit.change(
            STAGE, "finding", f"{finding.sample_id} {finding.FINDING_TYPE}", "present but not graded: grade 1"
        )
    findings = findings.assign(
        term=findings["FINDING_TYPE"].str.replace("/", " or "),
        grade=findings["GRADE_TYPE"].map(GRADES),
        spontaneous=findings["SP_FLG"] == "t",
    )
    table = findings.groupby(["sample_id", "term"]).agg(
        grade=("grade", "max"), spontaneous=("spontaneous", "all")
    )
    grades = table["grade"].unstack(fill_value=0).reindex(arrays.index, fill_value=0.0)
    grades.loc[~examined] = np.nan
    spontaneous = table["spontaneous"].unstack(fill_value=False).reindex(arrays.index, fill_value=False)
    return grades.rename_axis(columns=None), spontaneous.rename_axis(columns=None)


def _chemistry(arrays: pd.DataFrame, path: str) -> pd.DataFrame:
    """Serum chemistry in the table's units, and the liver as per cent of body weight."""
    table = pd.DataFrame({short: numbers(arrays[column], path) for short, column in CHEMISTRY.items()})
    table["liver_weight_pct"] = (
        100 * numbers(arrays["LIVER(g)"], path) / numbers(arrays["TERMINAL_BW(g)"], path)
    )
    return table


def hazard_labels(
    compounds: pd.Series, dilirank: str | None, dilist: str | None, audit: Audit
) -> pd.DataFrame:
    """Columns dilirank and dilist (class as text) and ``<label>_label``, joined by normalised name of the compound.

    Every compound that is not found, ambiguous, or spelt otherwise than by letter case is audited.

    Args:
        compounds: names, one a sample.
        dilirank, dilist: FDA tables, or None: classes are then empty and labels NaN.
    """
    table = pd.DataFrame(index=compounds.index)
    for kind, path, name_column, class_column in (
        ("dilirank", dilirank, "Compound Name", "vDILIConcern"),
        ("dilist", dilist, "CompoundName", "DILIst Classification"),
    ):
        known = [*DILI_LABELS[kind][1], *([AMBIGUOUS] if kind == "dilirank" else [])]
        classes = {} if path is None else _classes(path, name_column, class_column, known)
        named = {c: classes.get(normalised_compound(c), ("", "")) for c in compounds.unique()}
        table[kind] = compounds.map({compound: label for compound, (_, label) in named.items()})
        for name, (of, labels) in DILI_LABELS.items():
            if of == kind:
                table[f"{name}_label"] = table[kind].map(labels).astype(np.float64)
        if path is None:
            continue
        file = Path(path).name
        for compound, (spelling, label) in sorted(named.items()):
            if not label:
                audit.change(STAGE, "compound", compound, f"not in {file} by name: no {kind} label")
            elif label == AMBIGUOUS:
                audit.change(STAGE, "compound", compound, f"ambiguous in {file}: no {kind} label")
            if spelling.casefold() != compound.casefold() and label:
                audit.change(
                    STAGE, "compound", f"{compound} -> {spelling}", f"spelt otherwise in {file}: joined"
                )
    return table


def _classes(
    path: str, name_column: str, class_column: str, known: Sequence[str]
) -> dict[str, tuple[str, str]]:
    """Normalised compound name -> the table's spelling, class as text; an empty class is none.

    Raises:
        ImportTableError: two names that mean one compound have different classes, or a class is not ``known``.
    """
    hazards = read_table(path, required=(name_column, class_column))
    hazards = hazards[hazards[name_column].notna()].fillna({class_column: ""})
    classes: dict[str, tuple[str, str]] = {}
    for name, label in zip(hazards[name_column], hazards[class_column], strict=True):
        if classes.setdefault(normalised_compound(name), (name, label))[1] != label:
            raise ImportTableError(
                f"{path}, column {name_column!r}, value {name!r}: has two classes; keep one"
            )
        if label not in ("", *known):
            raise ImportTableError(
                f"{path}, column {class_column!r}, value {label!r} of {name!r}: is no class; write one of "
                f"{', '.join(known)}, or leave it empty"
            )
    return classes


def _matrix(profiles: pd.DataFrame | None, barcodes: pd.Index, centre: bool) -> pd.DataFrame:
    """Samples x genes; samples without a profile are rows of NaN."""
    if profiles is None:
        return pd.DataFrame(index=barcodes)
    used = profiles.loc[profiles.index.isin(barcodes)]
    if centre:
        offsets = used.median(axis=1)
        used = used.sub(offsets - offsets.median(), axis=0)
    return used.reindex(barcodes)
