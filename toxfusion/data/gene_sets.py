"""Gene sets of a GMT file on the genes of a study, and on those that a fold's expression transform chose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from toxfusion.data.audit import Audit

STAGE = "gene_sets"
KEY = "expression.gene_sets"
NAME_COLUMNS = ("symbol", "human_ortholog")


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


def read_gmt(path: Path) -> dict[str, list[str]]:
    """Name -> different gene names, in the order of a GMT file: name, description, genes, separated by tabs.

    Raises:
        GeneSetError: no such file, no text, no set in it, or a line with fewer than three fields or a name that is
            empty or was there before; the line is named.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise GeneSetError(
            f"{KEY}.gmt: cannot read {path} ({error}); name a GMT file, which is plain text"
        ) from error
    sets: dict[str, list[str]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, *rest = (field.strip() for field in line.split("\t"))
        genes = list(dict.fromkeys(gene for gene in rest[1:] if gene))
        if not name or not genes:
            raise GeneSetError(
                f"{path}, line {number}: a set is a name, a description and its genes, separated by tabs; "
                f"found {line[:60]!r}"
            )
        if name in sets:
            raise GeneSetError(f"{path}, line {number}: the set {name!r} is there twice; rename or join them")
        sets[name] = genes
    if not sets:
        raise GeneSetError(f"{path}: no gene set in it; name a file with one set a line")
    return sets


def read_gene_sets(path: Path, var: pd.DataFrame) -> list[GeneSet]:
    """The sets of a GMT file on the genes of a study, names compared without regard to case.

    A name is looked up among the gene_ids, then the symbols, then the human orthologs where the study has them; the
    first of these that knows it decides, and all genes that bear it there are meant.

    Args:
        var: the study's genes, indexed by gene_id, with ``symbol`` and optionally ``human_ortholog``.

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
    sets = []
    for set_name, names in read_gmt(path).items():
        found = (
            next((known[name] for known in bearers if name in known), [])
            for name in (each.casefold() for each in names)
        )
        sets.append(GeneSet(set_name, len(names), tuple(dict.fromkeys(g for genes in found for g in genes))))
    if not any(each.gene_ids for each in sets):
        raise GeneSetError(
            f"{path}: none of its genes is in the study, whose genes are {var.index[:3].tolist()} with symbols "
            f"{var['symbol'].iloc[:3].tolist()}, ...; use a file of the same species and kind of name, or add "
            "human_ortholog to the study"
        )
    return sets


def place_gene_sets(
    sets: Sequence[GeneSet], gene_ids: Sequence[str], *, min_genes: int, max_genes: int, audit: Audit
) -> dict[str, list[int]]:
    """Name -> positions among ``gene_ids``, of the sets that keep at least min_genes and at most max_genes genes.

    Args:
        gene_ids: the genes that a fold's expression transform chose, in its order.
        audit: takes each set that is left out, and each that lost genes.

    Raises:
        GeneSetError: the limits exclude each other, or no set is left.
    """
    if not 1 <= min_genes <= max_genes:
        raise GeneSetError(
            f"{KEY}.min_genes={min_genes} and {KEY}.max_genes={max_genes}: 1 <= min_genes <= max_genes"
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
            f"reads; change {KEY}.min_genes or {KEY}.max_genes, or raise data.expression.n_genes"
        )
    return placed
