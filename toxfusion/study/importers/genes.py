"""What the genes of a table are called: kinds of ids, a table that maps them, orthologs, ids of one gene collapsed.

Every importer passes its expression through `GeneIds.named`, so that one place recovers symbols that became dates,
drops the summary rows of counting tools, and audits each id that is not one gene of the study.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from toxfusion.study.audit import Audit
from toxfusion.study.doubts import alike
from toxfusion.study.importers.symbols import recover_symbols
from toxfusion.study.importers.tables import STAGE, ImportTableError
from toxfusion.study.names import NEAR
from toxfusion.study.number_columns import MISSING_MARKS
from toxfusion.study.rules import CONTRACT_COLUMNS
from toxfusion.study.tables import read_table

Collapse = Literal["mean", "max_mean", "sum"]
COLLAPSES = ("mean", "max_mean", "sum")
MANY_ORTHOLOGS = ("drop", "collapse")
#: kind of id -> its form; what fits none is a symbol
KINDS = {
    "ensembl": re.compile(r"^ENS[A-Z]*[GTP]\d{11}(\.\d+)?(_PAR_Y)?$"),
    "entrez": re.compile(r"^\d+(\.0)?$"),
    "refseq": re.compile(r"^[NX][MR]_\d+(\.\d+)?$"),
    "probe": re.compile(r"^(.+_at|ILMN_\d+|A_\d+_P\d+|TC\d+\.\w+\.\d)$"),
}
#: names of the column of symbols in annotations of BioMart, NetAffx, GEO, RGD and GTF, as `_plain` writes them
SYMBOL_COLUMNS = (
    "symbol",
    "genesymbol",
    "genename",
    "externalgenename",
    "rgdsymbol",
    "mgisymbol",
    "hgncsymbol",
)

_VERSION = re.compile(r"^(ENS[A-Z]*[GTP]\d{11}|[NX][MR]_\d+)\.\d+(_PAR_Y)?$")
#: rows of htseq-count and STAR that count reads of no gene
_SUMMARY = re.compile(
    r"^(__(no_feature|ambiguous|too_low_aQual|not_aligned|alignment_not_unique)"
    r"|N_(unmapped|multimapping|noFeature|ambiguous))$"
)
#: rows and columns that a spreadsheet or R adds to a table: totals and means, in the words of people
_SUMS = re.compile(
    r"^(grand[ _]?)?(total|sum|mean|average|median|std|st\.? ?dev|summe|gesamt|mittelwert|somme|moyenne)s?$",
    re.IGNORECASE,
)
#: numbers of rows, as pandas calls them when it reads a table that it has written
ROW_NUMBERS = re.compile(r"^Unnamed: \d+$")
#: an id of digits and one E, after a spreadsheet (2310009E13 -> 2.31E+19): the id is lost
_BECAME_NUMBER = re.compile(r"^\d(\.\d+)?E\+\d+$")
_GTF = (".gtf", ".gtf.gz", ".gff", ".gff.gz")
_GTF_PAIR = re.compile(r'(\w+) "([^"]*)"')
#: several genes of one id in one cell: NetAffx and GEO write "Cyp2b1 /// Cyp2b2"
_SEVERAL = re.compile(r"\s*(?:///|;)\s*")
#: what annotations and tables write where there is no gene
_NO_GENE = frozenset((*MISSING_MARKS, "-", "--", "---"))
_COMMENTS = "#!^"


@dataclass(frozen=True)
class GeneIds:
    """How the ids of an expression table become the genes of a study.

    Attributes:
        map: table of ids and genes (CSV, TSV, .gz, .xlsx, GTF, or an annotation of GEO or NetAffx), or None. An id
            that the table lacks is dropped, as is one with several genes.
        map_from: its column of ids; None takes the one that holds most of the ids.
        map_to: its column of genes; None takes the one that is called as symbols usually are.
        orthologs: table of genes of two species, applied after ``map``, or None. Genes without an ortholog are dropped.
        orthologs_from, orthologs_to: its columns of the table's own and the other species' genes; as above.
        many_orthologs: what becomes of genes that are not one to one in the table. ``drop``: they are dropped.
            ``collapse``: the genes of one ortholog are collapsed; a gene of several keeps the one of its own name,
            letter case aside, and is dropped where there is none.
        collapse: several ids of one gene become their ``mean``, their ``sum``, or the one of the highest mean over
            all samples of the table (``max_mean``); None sums counts and averages logarithms.

    Raises:
        ImportTableError: a rule is none of these.
    """

    map: str | None = None
    map_from: str | None = None
    map_to: str | None = None
    orthologs: str | None = None
    orthologs_from: str | None = None
    orthologs_to: str | None = None
    many_orthologs: str = "drop"
    collapse: str | None = None

    def __post_init__(self) -> None:
        for key, known in (("many_orthologs", MANY_ORTHOLOGS), ("collapse", (None, *COLLAPSES))):
            if getattr(self, key) not in known:
                raise ImportTableError(
                    f"source.gene_ids.{key}={getattr(self, key)}: is none of {', '.join(map(str, known))}"
                )

    def named(
        self, values: pd.DataFrame, audit: Audit, *, path: Path | str, counts: bool
    ) -> tuple[pd.DataFrame, dict[str, Any]]:
        """Samples x genes from samples x ids; a value of each gene is that of its ids, by the rules of this.

        Args:
            values: float [n_samples, n_ids], the columns named by id, several of one name allowed.
            path: of the table, for messages.
            counts: the values are raw counts.

        Returns:
            The genes in the order of their first id, and plain numbers for the provenance: how many ids of which
            kind were given, unmapped, ambiguous, without ortholog or collapsed into the id beside them, and the
            genes; given is the sum of the others.

        Raises:
            ImportTableError: the ids are row numbers, a table lacks a column, or none of the ids is in it.
        """
        if self.collapse == "sum" and not counts:
            raise ImportTableError(
                "source.gene_ids.collapse=sum: sums of logarithms mean nothing; use mean or max_mean"
            )
        ids = normalised_ids(recover_symbols(values.columns.tolist(), audit))
        _refuse_row_numbers(ids, path)
        kinds = id_kinds(ids)
        if len(kinds) > 1:
            shares = ", ".join(f"{n} {kind} ({_first_of(ids, kind)} ...)" for kind, n in kinds.items())
            audit.change(STAGE, "gene ids", Path(path).name, f"of several kinds: {shares}")
        strange = [_no_gene(i) for i in ids]
        genes: list[str | None] = [None if why else i for i, why in zip(ids, strange, strict=True)]
        for gene_id, why in sorted({(i, why) for i, why in zip(ids, strange, strict=True) if why}):
            audit.drop(STAGE, "gene", gene_id, why)
        unnamed = [gene in _NO_GENE for gene in genes]
        if any(unnamed):
            shown = ", ".join(sorted({repr(g) for g in genes if g in _NO_GENE}))
            audit.drop(STAGE, "genes", shown, f"{sum(unnamed)} of {Path(path).name}: no gene has this name")
            genes = [None if without else gene for gene, without in zip(genes, unnamed, strict=True)]
        if ids and not any(genes):
            raise ImportTableError(
                f"{path}: none of its {len(ids)} ids is a gene; give a table that names its genes"
            )
        _refuse_sums(values, [gene is not None for gene in genes], path)
        _ask_of_case([gene for gene in genes if gene is not None], path, audit)
        tally: dict[str, Any] = {
            "kinds": kinds,
            "given": len(ids),
            "summary": genes.count(None) - sum(unnamed),
            "unnamed": sum(unnamed),
            "unmapped": 0,
            "ambiguous": 0,
            "orthologs": 0,
        }
        if self.map is not None:
            pairs = _pairs(
                self.map, self.map_from, self.map_to, [g for g in genes if g is not None], "map", audit
            )
            genes = _mapped(genes, pairs, self.map, path, tally, audit)
        if self.orthologs is not None:
            present = [g for g in genes if g is not None]
            pairs = _pairs(
                self.orthologs, self.orthologs_from, self.orthologs_to, present, "orthologs", audit
            )
            genes = _to_orthologs(genes, ids, pairs, self.orthologs, self.many_orthologs, path, tally, audit)
        kept = np.array([g is not None for g in genes], dtype=bool)
        named = values.loc[:, kept].set_axis([g for g in genes if g is not None], axis=1)
        how = self.collapse or ("sum" if counts else "mean")
        named = collapse_genes(named, audit, how=how, ids=[i for i, k in zip(ids, kept, strict=True) if k])
        tally |= {"collapsed": int(kept.sum()) - named.shape[1], "genes": named.shape[1], "collapse": how}
        return named, tally


def normalised_ids(ids: Sequence[object]) -> list[str]:
    """Ids as text without blanks; Ensembl and RefSeq ids without their version, numbers without a decimal."""
    texts = (str(i).strip() for i in ids)
    return [
        _VERSION.sub(r"\1\2", text).removesuffix(".0" if KINDS["entrez"].match(text) else "")
        for text in texts
    ]


def id_kinds(ids: Sequence[str]) -> dict[str, int]:
    """Number of ids of each kind, the most frequent first."""
    return dict(Counter(_kind(i) for i in ids).most_common())


def _kind(gene_id: str) -> str:
    return next((kind for kind, form in KINDS.items() if form.match(gene_id)), "symbol")


def _first_of(ids: Sequence[str], kind: str) -> str:
    return next(i for i in ids if _kind(i) == kind)


def _no_gene(gene_id: str) -> str:
    """Why a row or column of a table is no gene; "" for a gene."""
    if _SUMMARY.match(gene_id):
        return "a summary row of the counting tool, no gene"
    if _SUMS.match(gene_id):
        return "a total or a mean by its name, no gene"
    if ROW_NUMBERS.match(gene_id):
        return "numbers of rows, no gene"
    if gene_id in CONTRACT_COLUMNS:
        return "a column of the sample table by its name, no gene"
    if _BECAME_NUMBER.match(gene_id):
        return "a number that a spreadsheet made of an id: which gene it was cannot be told"
    return ""


def _refuse_sums(values: pd.DataFrame, of_genes: Sequence[bool], path: Path | str) -> None:
    """Refuse a gene that is the sum of all others in every sample: a row of totals under another name."""
    table = values.to_numpy(np.float64)[:, np.array(of_genes, dtype=bool)]
    if min(table.shape) < 2 or table.shape[1] < 3:
        return
    total = table.sum(axis=1)
    largest = table[np.argmax(total)].argmax()
    if total.max() > 0 and np.array_equal(2 * table[:, largest], total):
        name = values.columns[np.flatnonzero(of_genes)[largest]]
        raise ImportTableError(
            f"{path}, gene {str(name)!r}: is the sum of all other genes in every sample; remove the totals"
        )


def _ask_of_case(genes: Sequence[str], path: Path | str, audit: Audit) -> None:
    """Tell of genes whose names differ in letter case alone, as in a table of two species."""
    if len({gene.casefold() for gene in genes}) == len(set(genes)):
        return
    if pairs := list(alike(genes)):
        shown = ", ".join(f"{name} and {known}" for name, known in pairs[:3])
        audit.change(
            STAGE, "genes", Path(path).name,
            f"{len(pairs)} differ from another in letter case alone ({shown}) and are genes of their own; {NEAR} one "
            "gene, or is the table of two species?",
        )  # fmt: skip


def _refuse_row_numbers(ids: Sequence[str], path: Path | str) -> None:
    if len(ids) > 9 and list(ids) in ([str(i) for i in range(s, s + len(ids))] for s in (0, 1)):
        raise ImportTableError(
            f"{path}: its genes are called {', '.join(ids[:3])} ...: these are row numbers; save the table with the "
            "gene ids as its first column"
        )


def collapse_genes(
    values: pd.DataFrame,
    audit: Audit,
    *,
    how: str = "mean",
    ids: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Join the columns of one gene by ``mean``, ``sum`` or ``max_mean``, in place of the first; each id is audited.

    Args:
        values: samples x genes, several columns of one name allowed.
        ids: what the columns were called before; None = as they are.
    """
    genes = values.columns
    names = [str(g) for g in genes]
    labels = names if ids is None else list(ids)
    if not genes.has_duplicates:
        return values
    n_of = Counter(names)
    id_times = Counter(zip(labels, names, strict=True))
    for (gene_id, gene), times in id_times.items():
        if times > 1:
            audit.change(STAGE, "gene", gene_id, f"appears {times} times: collapsed to the {how}")
        if times < n_of[gene]:
            audit.change(
                STAGE, "gene", f"{gene_id} -> {gene}", f"one of several ids of a gene: collapsed to the {how}"
            )
    if how == "max_mean":
        # The first of each gene by mean, then by id, then by content: the order of the table decides nothing.
        means = values.mean().to_numpy()
        columns = sorted(
            range(len(names)),
            key=lambda i: (
                -means[i],
                labels[i],
                values.iloc[:, i].to_numpy().tobytes() if id_times[labels[i], names[i]] > 1 else b"",
            ),
        )
        best = {names[i]: i for i in reversed(columns)}
        return values.iloc[:, [best[gene] for gene in dict.fromkeys(names)]]
    grouped = values.T.groupby(level=0, sort=False)
    return (grouped.sum() if how == "sum" else grouped.mean()).T[genes.drop_duplicates()]


# -------------------------------------------------------------------------------- tables of ids


def read_annotation(path: str) -> pd.DataFrame:
    """A table of ids as text: leading comment lines are skipped, a GTF gives its attributes, one row a gene.

    Raises:
        ImportTableError: it cannot be read.
    """
    if not path.lower().endswith(_GTF):
        return read_table(path, comments=_COMMENTS, marks=(), short_rows=True)
    lines = read_table(path, comments=_COMMENTS, header=False, delimiter="\t", quoted=False)
    if lines.shape[1] < 9:
        raise ImportTableError(
            f"{path}: has {lines.shape[1]} columns, and a GTF nine; give another format its own name"
        )
    lines = lines[lines[2] == "gene"] if (lines[2] == "gene").any() else lines
    return pd.DataFrame([dict(_GTF_PAIR.findall(str(a))) for a in lines[8]]).fillna("").drop_duplicates()


def _plain(column: object) -> str:
    return re.sub(r"[^a-z0-9]", "", str(column).lower())


def _pairs(
    path: str, source: str | None, target: str | None, ids: Sequence[str], key: str, audit: Audit
) -> pd.DataFrame:
    """Distinct rows (id, gene) of a table, several genes of a cell one a row, without empty cells.

    Symbols that a spreadsheet turned into dates are recovered.
    """
    table = read_annotation(path)
    names = list(map(str, table.columns))
    for column, end in ((source, "from"), (target, "to")):
        if column is not None and column not in names:
            raise ImportTableError(
                f"{path}: column {column!r} of source.gene_ids.{key}_{end} is missing; there are {names[:12]}"
            )
    if target is None:
        columns = [c for c in names if _plain(c) in SYMBOL_COLUMNS and c != source]
        if key != "map" or len(columns) != 1:
            raise ImportTableError(
                f"{path}: name its column of genes by source.gene_ids.{key}_to; there are {names[:12]}"
            )
        target = columns[0]
    if source is None:
        wanted = set(ids)
        hits = {c: len(wanted.intersection(normalised_ids(table[c].tolist()))) for c in names if c != target}
        if not hits:
            raise ImportTableError(f"{path}: has the column {target!r} alone; give ids and genes")
        source = max(hits, key=lambda c: hits[c])
    several = [[g for g in _SEVERAL.split(str(cell).strip()) if g not in _NO_GENE] for cell in table[target]]
    pairs = pd.DataFrame({"id": normalised_ids(table[source].tolist()), "gene": several}).explode("gene")
    pairs = pairs[pairs["gene"].notna() & ~pairs["id"].isin(_NO_GENE)]
    genes = list(dict.fromkeys(pairs["gene"]))
    recovered = dict(zip(genes, normalised_ids(recover_symbols(genes, audit)), strict=True))
    return pairs.assign(gene=pairs["gene"].map(recovered)).drop_duplicates()


def _refuse_none(ids: Sequence[str], pairs: pd.DataFrame, table: str, path: Path | str) -> None:
    known = sorted(pairs["id"].unique())
    raise ImportTableError(
        f"{path}: none of its {len(ids)} genes ({', '.join(ids[:3])} ...) is among the {len(known)} of {table} "
        f"({', '.join(known[:3])} ...); give a table for these ids, or name its column of ids"
    )


def _mapped(
    genes: Sequence[str | None],
    pairs: pd.DataFrame,
    table: str,
    path: Path | str,
    tally: dict[str, Any],
    audit: Audit,
) -> list[str | None]:
    """The gene of each id, None where the table has none or several."""
    names = pairs.groupby("id")["gene"].agg(list).to_dict()
    present = [g for g in genes if g is not None]
    if not any(g in names for g in present):
        _refuse_none(present, pairs, table, path)
    file, out = Path(table).name, list[str | None]()
    for gene_id in genes:
        mapped = [] if gene_id is None else names.get(gene_id, [])
        if gene_id is not None and not mapped:
            tally["unmapped"] += 1
            audit.drop(STAGE, "gene", gene_id, f"no gene in {file}")
        elif gene_id is not None and len(mapped) > 1:
            tally["ambiguous"] += 1
            audit.drop(STAGE, "gene", gene_id, f"several genes in {file}")
        out.append(mapped[0] if len(mapped) == 1 else None)
    return out


def _to_orthologs(
    genes: Sequence[str | None],
    ids: Sequence[str],
    pairs: pd.DataFrame,
    table: str,
    many: str,
    path: Path | str,
    tally: dict[str, Any],
    audit: Audit,
) -> list[str | None]:
    """The ortholog of each gene, None where there is none or the rule drops it."""
    orthologs = pairs.groupby("id")["gene"].agg(list).to_dict()
    sharing = Counter(pairs["gene"])
    present = [g for g in genes if g is not None]
    if not any(g in orthologs for g in present):
        _refuse_none(present, pairs, table, path)
    file, out = Path(table).name, list[str | None]()
    for gene_id, gene in zip(ids, genes, strict=True):
        if gene is None:
            out.append(None)
            continue
        candidates, reason = orthologs.get(gene, []), ""
        if len(candidates) > 1 and many == "collapse":
            candidates = [o for o in candidates if o.casefold() == gene.casefold()] or candidates
        if not candidates:
            reason = f"no ortholog in {file}"
        elif len(candidates) > 1:
            reason = f"several orthologs in {file}"
        elif many == "drop" and sharing[candidates[0]] > 1:
            reason = f"shares its ortholog in {file} with other genes"
        if reason:
            tally["orthologs"] += 1
            audit.drop(STAGE, "gene", gene_id if gene_id == gene else f"{gene_id} -> {gene}", reason)
        out.append(None if reason else candidates[0])
    return out
