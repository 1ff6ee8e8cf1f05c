"""Pathways: which gene sets stand at the head of a task's gene ranking, and how many would do so by chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import gseapy
import numpy as np
import pandas as pd
from scipy import stats

from toxfusion.data.gene_sets import GeneSetError, place_gene_sets, read_gene_sets, read_gmt, read_orthologs
from toxfusion.explanation import figures
from toxfusion.study.audit import Audit
from toxfusion.study.draws import generator
from toxfusion.study.study import Study

KEY = "gene_sets"
PROGRAMMES = Path(__file__).parent / "programmes" / "hepatotoxicity.gmt"
"""Hepatotoxicity programmes that come with the project, rat symbols; citations.csv beside it has their sources."""
SHIPPED = "toxfusion programmes"
FDR = 0.05
STAGE = "explain"


@dataclass(frozen=True)
class GeneSetSettings:
    """Which gene sets a ranking is compared with, and how.

    Attributes:
        programmes: also with the hepatotoxicity programmes of the project.
        gmt: further GMT files.
        orthologs: table of rat and human symbols for sets of human genes; None for names as they are.
        min_genes, max_genes: genes of a set that the model reads; other sets are left out.
        permutations: of the genes, for each enrichment score.
        null_draws: shuffled rankings that count sets below an FDR of 5 % by chance.
    """

    programmes: bool
    gmt: Sequence[str] | str
    orthologs: str | None
    min_genes: int
    max_genes: int
    permutations: int
    null_draws: int

    def __post_init__(self) -> None:
        if self.permutations < 1 or self.null_draws < 0:
            raise GeneSetError(
                f"{KEY}.permutations={self.permutations} and {KEY}.null_draws={self.null_draws}: at least one "
                "permutation, and no fewer than 0 draws"
            )

    @property
    def files(self) -> list[Path]:
        """The GMT files, that of the project first."""
        paths = [self.gmt] if isinstance(self.gmt, str) else list(self.gmt)
        return [*([PROGRAMMES] if self.programmes else []), *map(Path, paths)]

    def check(self) -> None:
        """Read every file, so that a wrong one is refused before any work.

        Raises:
            GeneSetError: a file that cannot be read.
        """
        for path in self.files:
            read_gmt(path, KEY)
        if self.orthologs is not None:
            read_orthologs(Path(self.orthologs), f"{KEY}.orthologs")


@dataclass(frozen=True)
class PlacedSet:
    """A gene set on the genes that a model reads.

    Attributes:
        set, name, source: as in its file, in words, and the file.
        gene_ids: of the genes that the model reads.
    """

    set: str
    name: str
    source: str
    gene_ids: tuple[str, ...]


def place_sets(
    study: Study, gene_ids: Sequence[str], settings: GeneSetSettings, audit: Audit
) -> tuple[list[PlacedSet], pd.DataFrame]:
    """The sets of all files on the genes that a model reads.

    Args:
        gene_ids: those genes.
        audit: takes sets that are left out, sets that lost genes, and a file without a gene of the study.

    Returns:
        The sets, and one row a set of the files: set, source, size (names in the file), in_study (genes of the study
        that they name), in_model, matched (share of the file's names with a gene, at most 1), used.

    Raises:
        GeneSetError: a file that cannot be read, or a file named in the config without a usable set.
    """
    orthologs = (
        None if settings.orthologs is None else read_orthologs(Path(settings.orthologs), f"{KEY}.orthologs")
    )
    placed: list[PlacedSet] = []
    coverage: list[dict[str, object]] = []
    read = set(gene_ids)
    for path in settings.files:
        own = path == PROGRAMMES
        source = SHIPPED if own else path.name
        try:
            named = read_gene_sets(path, study.var, orthologs=None if own else orthologs, key=KEY)
            kept = place_gene_sets(
                named,
                gene_ids,
                min_genes=settings.min_genes,
                max_genes=settings.max_genes,
                audit=audit,
                key=KEY,
            )
        except GeneSetError as error:
            if not own:
                raise
            # Nobody asked for these: a study of other genes is explained without them.
            audit.drop(STAGE, "gene_sets", SHIPPED, str(error))
            continue
        titles = set_titles(path) if own else {}
        for each in named:
            coverage.append(
                {
                    "set": each.name,
                    "source": source,
                    "size": each.size,
                    "in_study": len(each.gene_ids),
                    "in_model": len(read.intersection(each.gene_ids)),
                    "matched": min(1.0, len(each.gene_ids) / each.size),
                    "used": each.name in kept,
                }
            )
        for name, positions in kept.items():
            genes = tuple(gene_ids[i] for i in positions)
            placed.append(PlacedSet(name, titles.get(name, name), source, genes))
    columns = ["set", "source", "size", "in_study", "in_model", "matched", "used"]
    return placed, pd.DataFrame(coverage, columns=columns)


def set_titles(path: Path) -> dict[str, str]:
    """Set -> its description, the second field of a GMT file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return {name: title for name, title, *_ in (line.split("\t") for line in lines if line.strip())}


def enrichment(scores: pd.Series, sets: Sequence[PlacedSet], *, permutations: int, seed: int) -> pd.DataFrame:
    """Pre-ranked gene set enrichment (Subramanian et al., PNAS 2005), by gseapy, genes permuted.

    Args:
        scores: signed, index gene_id; the highest comes first.
        permutations: of the genes.

    Returns:
        set, name, source, size, es, nes, p, fdr, leading_genes (gene_ids, those of the leading edge), by falling |nes|.
        p is nominal and at least 1 / permutations, which is all that so many permutations can say; fdr is gseapy's,
        over all sets. nes is NaN where no permutation has a score of this sign.
    """
    ranked = scores.sort_values(ascending=False, kind="stable")
    by_key = {str(i): list(each.gene_ids) for i, each in enumerate(sets)}
    enriched = gseapy.prerank(
        rnk=pd.DataFrame({"gene": ranked.index, "score": ranked.to_numpy(np.float64)}),
        gene_sets=by_key,
        min_size=1,
        max_size=len(ranked),
        permutation_num=permutations,
        weight=1.0,
        threads=1,
        seed=seed,
        outdir=None,
        no_plot=True,
        verbose=False,
    ).res2d
    records = []
    for result in enriched.to_dict("records"):
        each = sets[int(result["Term"])]
        records.append(
            {
                "set": each.set,
                "name": each.name,
                "source": each.source,
                "size": len(each.gene_ids),
                "es": float(result["ES"]),
                "nes": float(result["NES"]),
                "p": max(float(result["NOM p-val"]), 1 / permutations),
                "fdr": float(result["FDR q-val"]),
                "leading_genes": [g for g in str(result["Lead_genes"]).split(";") if g],
            }
        )
    table = pd.DataFrame(records)
    return table.sort_values("nes", key=np.abs, ascending=False, kind="stable", ignore_index=True)


def over_representation(
    top: Sequence[str], background: Sequence[str], sets: Sequence[PlacedSet]
) -> pd.DataFrame:
    """Fisher's exact test, one-sided, of each set among the top genes; Benjamini and Hochberg over the sets.

    Args:
        top: gene_ids, of ``background``.
        background: every gene that the model reads.

    Returns:
        set, name, source, overlap, size (genes of the set in the background), background, odds_ratio, p, fdr, genes
        (gene_ids in both, in the order of ``top``), by rising p.
    """
    records = []
    for each in sets:
        genes = set(each.gene_ids)
        both = [g for g in top if g in genes]
        k, n, size, total = len(both), len(top), len(genes), len(background)
        counts = [[k, n - k], [size - k, total - n - size + k]]
        odds, p = stats.fisher_exact(counts, alternative="greater")
        records.append(
            {
                "set": each.set,
                "name": each.name,
                "source": each.source,
                "overlap": k,
                "size": size,
                "background": total,
                "odds_ratio": float(odds),
                "p": float(p),
                "genes": both,
            }
        )
    table = pd.DataFrame(records)
    table.insert(8, "fdr", stats.false_discovery_control(table["p"]))
    return table.sort_values("p", kind="stable", ignore_index=True)


def passing_by_chance(
    ranking: pd.DataFrame, sets: Sequence[PlacedSet], top_k: int, settings: GeneSetSettings, seed: int
) -> dict[str, list[int]]:
    """How many sets pass an FDR of 5 % when scores are shuffled over genes, by method and draw."""
    rng = generator(seed, "shuffled genes")
    genes = ranking["gene_id"].to_numpy()
    passing: dict[str, list[int]] = {"gsea": [], "over_representation": []}
    for draw in range(settings.null_draws):
        shuffled = rng.permutation(genes)
        scores = pd.Series(ranking["integrated"].to_numpy(), index=shuffled)
        by_chance = enrichment(scores, sets, permutations=settings.permutations, seed=seed + draw + 1)
        passing["gsea"].append(int((by_chance["fdr"] < FDR).sum()))
        over = over_representation(shuffled[:top_k].tolist(), genes.tolist(), sets)
        passing["over_representation"].append(int((over["fdr"] < FDR).sum()))
    return passing


def explain_pathways(
    rankings: Mapping[str, pd.DataFrame],
    study: Study,
    place: Path,
    settings: GeneSetSettings,
    *,
    top_k: int,
    seed: int,
    audit: Audit,
) -> None:
    """Both tests of every task, with their null, into a folder; nothing where there is no ranking or no set.

    Args:
        rankings: task -> genes by rising mean rank, of `genes.aggregate`.
        study: whose gene names the sets are matched with.
        top_k: genes at the head of the ranking that are tested for over-representation.
    """
    if not rankings or not settings.files:
        audit.drop(
            STAGE,
            "view",
            "pathways",
            "no gene ranking" if not rankings else f"no gene sets: {KEY} names none",
        )
        return
    gene_ids = next(iter(rankings.values()))["gene_id"].astype(str).tolist()
    sets, matched = place_sets(study, gene_ids, settings, audit)
    if not sets:
        return
    of_method: dict[str, list[pd.DataFrame]] = {"gsea": [], "over_representation": []}
    null: list[dict[str, object]] = []
    for task, ranking in rankings.items():
        if ranking["integrated"].nunique() < 2:
            audit.drop(STAGE, "pathways", task, "every gene has the same attribution: nothing to rank")
            continue
        passing = passing_by_chance(ranking, sets, top_k, settings, seed)
        for method, table in _both_tests(ranking, sets, top_k, settings, seed).items():
            null.append({"task": task, "method": method, **_against_chance(table, passing[method])})
            table.insert(0, "task", task)
            of_method[method].append(table)
    if not null:
        return
    place.mkdir(parents=True, exist_ok=True)
    matched.to_csv(place / "gene_sets.csv", index=False)
    tables = {method: pd.concat(parts, ignore_index=True) for method, parts in of_method.items()}
    for method, table in tables.items():
        table.to_csv(place / f"{method}.csv", index=False)
    counts = pd.DataFrame(null)
    counts.to_csv(place / "null.csv", index=False)
    of_gsea = counts[counts["method"] == "gsea"]
    figures.enrichment(tables["gsea"], of_gsea, place / "enrichment.png", fdr=FDR)


def _both_tests(
    ranking: pd.DataFrame, sets: Sequence[PlacedSet], top_k: int, settings: GeneSetSettings, seed: int
) -> dict[str, pd.DataFrame]:
    """Method -> its table of one task, genes by their symbols."""
    scores = ranking.set_index("gene_id")["integrated"]
    genes = ranking["gene_id"].astype(str).tolist()
    tables = {
        "gsea": enrichment(scores, sets, permutations=settings.permutations, seed=seed),
        "over_representation": over_representation(genes[:top_k], genes, sets),
    }
    symbol = dict(zip(ranking["gene_id"], ranking["symbol"].astype(str), strict=True))
    for table, column in ((tables["gsea"], "leading_genes"), (tables["over_representation"], "genes")):
        table[column] = [";".join(symbol[g] for g in listed) for listed in table[column]]
    return tables


def _against_chance(table: pd.DataFrame, passing: Sequence[int]) -> dict[str, float]:
    """Sets below an FDR of 5 % beside those of shuffled genes."""
    return {
        "sets": len(table),
        "passing": int((table["fdr"] < FDR).sum()),
        "shuffled_mean": float(np.mean(passing)) if passing else float("nan"),
        "shuffled_most": float(max(passing)) if passing else float("nan"),
        "draws": len(passing),
    }
