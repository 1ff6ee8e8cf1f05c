"""Genes: integrated gradients against matched vehicle controls, attention over pathways, ranks over folds and seeds."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor, nn

from toxfusion.data.batch import Batch
from toxfusion.explanation.attribution import gene_gradients, integrate_genes
from toxfusion.models.attention import SelfAttentionBlock
from toxfusion.models.expression import ExpressionEncoder, MaskedGeneEncoder, PathwayTokens
from toxfusion.runs.loaded import LoadedRun

OTHERS = "(genes of no set)"


@dataclass(frozen=True)
class GeneAttributions:
    """What each gene adds to one task's number, sample by sample.

    Attributes:
        integrated: float32 [n, G], integrated gradients; index sample_id, columns gene_id.
        gradient: float32 [n, G], the gradient at the sample.
        change: float32 [n, G], standardised expression minus that of matched controls: of the data, not of the model.
        checks: one row a sample with value, baseline, difference, error, steps, converged.
    """

    integrated: pd.DataFrame
    gradient: pd.DataFrame
    change: pd.DataFrame
    checks: pd.DataFrame


def attribute_genes(
    run: LoadedRun, sample_ids: Sequence[str], task: str, *, steps: int = 32
) -> GeneAttributions:
    """Integrated gradients of a task's number by the genes of samples with expression.

    Args:
        steps: points of the integral to begin with.
    """
    transform = run.fold.expression
    assert transform is not None, "samples have expression where the fold has a transform"
    batch = run.batch(sample_ids)
    control = transform.control_profiles(run.fold.study, sample_ids)
    attributions = integrate_genes(run, batch, task, control, steps=steps)

    def table(values: np.ndarray) -> pd.DataFrame:
        index = pd.Index(list(sample_ids), name="sample_id")
        return pd.DataFrame(values, index=index, columns=pd.Index(transform.gene_ids, name="gene_id"))

    return GeneAttributions(
        table(attributions.values),
        table(gene_gradients(run, batch, task).float().cpu().numpy()),
        table(batch.expression.float().cpu().numpy() - control),
        attributions.checks(sample_ids),
    )


def ranking(attributions: GeneAttributions, symbols: Sequence[str]) -> pd.DataFrame:
    """Genes by the length of their mean integrated gradient over samples, the largest first.

    Returns:
        gene_id, symbol, rank from 1, integrated (mean, signed: above 0 raises the task's number), absolute (mean of
        absolute values), gradient (mean, signed), change (mean against matched controls, standardised units).
    """
    table = pd.DataFrame(
        {
            "symbol": list(symbols),
            "integrated": attributions.integrated.mean(),
            "absolute": attributions.integrated.abs().mean(),
            "gradient": attributions.gradient.mean(),
            "change": attributions.change.mean(),
        }
    )
    table["rank"] = table["integrated"].abs().rank(ascending=False, method="first").astype(int)
    return table.rename_axis("gene_id").reset_index().sort_values("rank", ignore_index=True)


def pathway_table(run: LoadedRun, attributions: GeneAttributions, attention: pd.DataFrame) -> pd.DataFrame:
    """Gene sets of a network with pathway tokens, by what their genes add; empty for other networks.

    Args:
        attention: of `pathway_attention`.

    Returns:
        pathway, n_genes, integrated (mean over samples of the sum over its genes; a gene of two sets counts in both),
        attention (mean over samples).
    """
    names, sets = _sets(run)
    if not names:
        return pd.DataFrame(columns=["pathway", "n_genes", "integrated", "attention"])
    of_gene = attributions.integrated.mean().to_numpy()
    received = attention.mean()
    pathways = [
        {
            "pathway": n,
            "n_genes": len(genes),
            "integrated": float(of_gene[genes].sum()),
            "attention": received[n],
        }
        for n, genes in zip(names, sets, strict=True)
    ]
    return pd.DataFrame(pathways).sort_values("integrated", key=np.abs, ascending=False, ignore_index=True)


@torch.no_grad()
def pathway_attention(run: LoadedRun, sample_ids: Sequence[str]) -> pd.DataFrame:
    """Self-attention that each pathway token receives, the mean over blocks, heads and asking tokens.

    Returns:
        float [n, P], index sample_id, rows sum to 1; without columns where the encoder has no pathway tokens or no
        block.
    """
    encoder = run.network.expression
    index = pd.Index(list(sample_ids), name="sample_id")
    if not isinstance(encoder, PathwayTokens) or not len(encoder.blocks):
        return pd.DataFrame(index=index)
    weights: list[Tensor] = []
    hooks = [
        block.attention.register_forward_hook(lambda _m, _i, out: weights.append(out[1]))
        for block in encoder.blocks
        if isinstance(block, SelfAttentionBlock)
    ]
    try:
        encoder(run.batch(sample_ids).expression)
    finally:
        for hook in hooks:
            hook.remove()
    received = torch.stack(weights).mean(dim=(0, 2, 3))
    return pd.DataFrame(received.float().cpu().numpy(), index=index, columns=_sets(run)[0])


@torch.no_grad()
def gene_attention(run: LoadedRun, batch: Batch) -> np.ndarray | None:
    """float32 [B, G]: share of each gene in what the latents of a masked-gene encoder read; None for other encoders."""
    encoder = run.network.expression
    if not isinstance(encoder, MaskedGeneEncoder):
        return None
    return encoder.read_weights(batch.expression).mean(1).float().cpu().numpy()


def expression_token_names(run: LoadedRun) -> list[str]:
    """The tokens of the expression encoder: pathways, latents, or the one profile; the two the network adds last."""
    encoder: ExpressionEncoder | nn.Module | None = run.network.expression
    assert isinstance(encoder, ExpressionEncoder), "asked of a network that reads expression"
    if isinstance(encoder, PathwayTokens):
        names = _sets(run)[0]
    elif isinstance(encoder, MaskedGeneEncoder):
        names = [f"latent {i}" for i in range(encoder.n_tokens - 1)] + ["profile"]
    else:
        names = ["profile"] if encoder.n_tokens == 1 else [f"token {i}" for i in range(encoder.n_tokens)]
    return [*names, "shared", "private"]


def _sets(run: LoadedRun) -> tuple[list[str], list[np.ndarray]]:
    """Names and gene positions of the pathway tokens, in the order of the tokens."""
    encoder, placed = run.network.expression, run.contract["gene_sets"]
    if not isinstance(encoder, PathwayTokens) or placed is None:
        return [], []
    parts = encoder.index.split(encoder.sizes)
    names = [*placed, *([OTHERS] if len(parts) > len(placed) else [])]
    return names, [part.cpu().numpy() for part in parts]


def kendall_w(ranks: np.ndarray) -> float:
    """Agreement of m rankings of n things, 0 to 1 (Kendall and Babington Smith, 1939), with the correction for ties:

        W = 12 S / (m^2 (n^3 - n) - m sum_j (t_j^3 - t_j)),   S = sum_i (R_i - mean R)^2

    Args:
        ranks: float [m, n], ties at their mean rank.

    Returns:
        NaN for fewer than two rankings or things, or where a ranking tells nothing apart.
    """
    m, n = ranks.shape
    if m < 2 or n < 2:
        return float("nan")
    total = ranks.sum(0)
    spread = ((total - total.mean()) ** 2).sum()
    ties = sum(
        float((c**3 - c).sum()) for ranked in ranks for c in [np.unique(ranked, return_counts=True)[1]]
    )
    most = m**2 * (n**3 - n) - m * ties
    return float(12 * spread / most) if most > 0 else float("nan")


def aggregate(rankings: dict[str, pd.DataFrame], top_k: int) -> tuple[pd.DataFrame, dict[str, float]]:
    """Mean rank of each gene over runs, and how far the runs agree.

    Args:
        rankings: run -> table of `ranking`, of one task.
        top_k: genes at the head of each ranking whose overlap is measured.

    Returns:
        Genes that every run reads, by rising mean rank, with rank_sd, integrated (mean over runs), same_sign (share
        of runs with the sign of that mean) and in_top (share of runs with the gene among their first ``top_k``); and
        n_runs, n_genes, left_out (genes that some run does not read), kendall_w, top_k, top_overlap (mean over pairs
        of runs of the share of top genes in common) and top_overlap_chance.
    """
    by_gene = {run: t.set_index("gene_id") for run, t in rankings.items()}
    tables = list(by_gene.values())
    common = tables[0].index
    for table in tables[1:]:
        common = common.intersection(table.index)
    everything = pd.Index(sorted(set().union(*(t.index for t in tables))))
    strength = np.stack([t.loc[common, "integrated"].abs().to_numpy() for t in tables])
    signed = np.stack([t.loc[common, "integrated"].to_numpy() for t in tables])
    ranks = stats.rankdata(-strength, axis=1)
    k = min(top_k, len(common))
    tops = [set(np.argsort(-of_run, kind="stable")[:k].tolist()) for of_run in strength]
    mean = signed.mean(0)
    overlaps = [len(a & b) / k for a, b in itertools.combinations(tops, 2)]
    genes = pd.DataFrame(
        {
            "gene_id": common,
            "symbol": tables[0].loc[common, "symbol"].to_numpy(),
            "mean_rank": ranks.mean(0),
            "rank_sd": ranks.std(0),
            "integrated": mean,
            "same_sign": (np.sign(signed) == np.sign(mean)).mean(0),
            "in_top": np.mean([[i in top for i in range(len(common))] for top in tops], axis=0),
        }
    ).sort_values("mean_rank", kind="stable", ignore_index=True)
    stability = {
        "n_runs": len(tables),
        "n_genes": len(common),
        "left_out": len(everything) - len(common),
        "kendall_w": kendall_w(ranks),
        "top_k": k,
        "top_overlap": float(np.mean(overlaps)) if overlaps else float("nan"),
        "top_overlap_chance": k / len(common),
    }
    return genes, stability
