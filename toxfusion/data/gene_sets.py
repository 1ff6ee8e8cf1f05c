"""Gene sets of a GMT file on the genes of a study, and on those that a fold's expression transform chose."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from toxfusion.study.audit import Audit
from toxfusion.study.table_files import read_content
from toxfusion.study.tables import TableError, read_table

STAGE = "gene_sets"
KEY = "expression.gene_sets"
NAME_COLUMNS = ("symbol", "human_ortholog")
RAT_COLUMNS = ("rat", "rat_symbol", "rat_gene_symbol", "rat_gene_name")
HUMAN_COLUMNS = ("human", "human_symbol", "human_ortholog_symbol", "human_gene_symbol", "human_gene_name")


class GeneSetError(ValueError):
    """A GMT file that cannot be read, or sets that do not meet the genes at hand; the message names file or key."""


@dataclass(frozen=True)
class GeneSet:
    """One set of a file.

    Attributes:
        name: as in the file.
        size: different genes that the file names.
        gene_ids: of the study's genes that bear one of these names.
    """

    name: str
    size: int
    gene_ids: tuple[str, ...]


def read_gmt(path: Path, key: str = KEY) -> dict[str, list[str]]:
    """Name -> different gene names, in the order of a GMT file: name, description, genes, separated by tabs.

    The file may be compressed, as a table may.

    Args:
        key: the config key that errors name.

    Raises:
        GeneSetError: no such file, no text, no set in it, or a line with fewer than three fields or a name that is
            empty or was there before; key, file and line are named.
    """
    try:
        lines = read_content(path).text.split("\n")
    except TableError as error:
        raise GeneSetError(
            f"{key}.gmt: cannot read {path} ({error}); name a GMT file, which is plain text"
        ) from error
    sets: dict[str, list[str]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, *rest = (field.strip() for field in line.split("\t"))
        genes = list(dict.fromkeys(gene for gene in rest[1:] if gene))
        if not name or not genes:
            raise GeneSetError(
                f"{key}.gmt: {path}, line {number}: a set is a name, a description and its genes, separated by tabs; "
                f"found {line[:60]!r}"
            )
        if name in sets:
            raise GeneSetError(
                f"{key}.gmt: {path}, line {number}: the set {name!r} is there twice; rename or join them"
            )
        sets[name] = genes
    if not sets:
        raise GeneSetError(f"{key}.gmt: {path}: no gene set in it; name a file with one set a line")
    return sets


def read_gene_sets(
    path: Path, var: pd.DataFrame, *, orthologs: Mapping[str, Sequence[str]] | None = None, key: str = KEY
) -> list[GeneSet]:
    """The sets of a GMT file on the genes of a study, names compared without regard to case.

    A name is looked up among ``orthologs``, then the gene_ids, the symbols, and the human orthologs where the study has
    them; the first of these that knows it decides, and all genes that bear it there are meant.

    Args:
        var: the study's genes, indexed by gene_id, with ``symbol`` and optionally ``human_ortholog``.
        orthologs: of `read_orthologs`; those without a gene in the study are passed over.
        key: the config key that errors name.

    Raises:
        GeneSetError: the file is malformed, or names no gene of the study.
    """
    columns = [var.index, *(var[column] for column in NAME_COLUMNS if column in var.columns)]
    bearers: list[dict[str, list[str]]] = []
    for column in columns:
        of_name: dict[str, list[str]] = {}
        for gene_id, name in zip(var.index, column, strict=True):
            of_name.setdefault(str(name).strip().casefold(), []).append(str(gene_id))
        of_name.pop("", None)
        bearers.append(of_name)
    if orthologs:
        by_symbol = bearers[1 + NAME_COLUMNS.index("symbol")]
        mapped = {
            name: [g for each in own for g in by_symbol.get(each.casefold(), [])]
            for name, own in orthologs.items()
        }
        bearers.insert(0, {name: genes for name, genes in mapped.items() if genes})
    sets = []
    for set_name, names in read_gmt(path, key).items():
        named = (
            next((known[name] for known in bearers if name in known), [])
            for name in (each.casefold() for each in names)
        )
        sets.append(GeneSet(set_name, len(names), tuple(dict.fromkeys(g for genes in named for g in genes))))
    if not any(each.gene_ids for each in sets):
        raise GeneSetError(
            f"{path}: none of its genes is in the study, whose genes are {var.index[:3].tolist()} with symbols "
            f"{var['symbol'].iloc[:3].tolist()}, ...; use a file of the same species and kind of name, or add "
            "human_ortholog to the study"
        )
    return sets


def read_orthologs(path: Path, key: str) -> dict[str, list[str]]:
    """Human symbol, casefolded -> rat symbols, of a table of orthologs.

    Columns as the downloads of RGD (RAT_GENE_SYMBOL, HUMAN_ORTHOLOG_SYMBOL), Ensembl BioMart (Gene name with Human gene
    name, or with Rat gene name) and HCOP (rat_symbol, human_symbol) have, or ``rat`` and ``human``; names of columns
    without regard to case. Lines at the head that begin with # are skipped; | or ; separates several symbols of one
    cell.

    Args:
        key: the config key that errors name.

    Raises:
        GeneSetError: the file cannot be read, or lacks one of the two columns, or has no pair.
    """
    try:
        table = read_table(path, comments="#", marks=(), short_rows=True)
    except TableError as error:
        raise GeneSetError(
            f"{key}: cannot read {path} ({error}); name a table of rat and human symbols"
        ) from error
    named = {re.sub(r"[^a-z0-9]+", "_", str(c).strip().lower()): c for c in table.columns}
    rat = next((named[c] for c in RAT_COLUMNS if c in named), None)
    human = next((named[c] for c in HUMAN_COLUMNS if c in named), None)
    if "gene_name" in named:  # BioMart calls the gene of the species that was asked so
        rat, human = (rat or named["gene_name"], human) if human else (rat, named["gene_name"])
    if rat is None or human is None:
        raise GeneSetError(
            f"{key}: {path} has the columns {list(table.columns)[:12]}; a table of orthologs has one of "
            f"{', '.join(RAT_COLUMNS)} and one of {', '.join(HUMAN_COLUMNS)}"
        )
    pairs: dict[str, list[str]] = {}
    for own, others in zip(table[rat], table[human], strict=True):
        for name in re.split(r"[|;]", others):
            for symbol in re.split(r"[|;]", own):
                if name.strip() and symbol.strip():
                    pairs.setdefault(name.strip().casefold(), []).append(symbol.strip())
    if not pairs:
        raise GeneSetError(f"{key}: {path} pairs no {rat!r} with a {human!r}; is it the right table?")
    return {name: list(dict.fromkeys(symbols)) for name, symbols in pairs.items()}


def place_gene_sets(
    sets: Sequence[GeneSet],
    gene_ids: Sequence[str],
    *,
    min_genes: int,
    max_genes: int,
    audit: Audit,
    key: str = KEY,
) -> dict[str, list[int]]:
    """Name -> positions among ``gene_ids``, of the sets that keep at least min_genes and at most max_genes genes.

    Args:
        gene_ids: the genes that a fold's expression transform chose, in its order.
        audit: takes each set that is left out, and each that lost genes.
        key: the config key that errors name.

    Raises:
        GeneSetError: the limits exclude each other, or no set is left.
    """
    if not 1 <= min_genes <= max_genes:
        raise GeneSetError(
            f"{key}.min_genes={min_genes} and {key}.max_genes={max_genes}: 1 <= min_genes <= max_genes"
        )
    position = {gene_id: i for i, gene_id in enumerate(gene_ids)}
    placed: dict[str, list[int]] = {}
    for each in sets:
        positions = sorted(position[g] for g in each.gene_ids if g in position)
        state = (
            f"of {each.size} genes in the file, {len(each.gene_ids)} are in the study and {len(positions)} among the "
            f"{len(gene_ids)} that the model reads"
        )
        if len(positions) < min_genes:
            audit.drop(STAGE, "gene_set", each.name, f"{state}: fewer than min_genes={min_genes}")
        elif len(positions) > max_genes:
            audit.drop(STAGE, "gene_set", each.name, f"{state}: more than max_genes={max_genes}")
        else:
            placed[each.name] = positions
            if len(positions) < max(each.size, len(each.gene_ids)):
                audit.change(STAGE, "gene_set", each.name, state)
    if not placed:
        raise GeneSetError(
            f"none of {len(sets)} gene sets has {min_genes} to {max_genes} of the {len(gene_ids)} genes that the model "
            f"reads; change {key}.min_genes or {key}.max_genes, or raise data.expression.n_genes"
        )
    return placed
