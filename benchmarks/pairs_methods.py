"""Rows of the benchmark on pairs: presets, ablations, peers, closed forms and nulls."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Method:
    """One row of the tables.

    Attributes:
        name: of the method. what: it is, in the words of the document.
        overrides: of ``toxfusion.train``, for a network; None for a closed form, which needs no seed.
        reads: what a method that is trained on labels sees of a patient ("slide", "expression" or "both"), once with
            ten labelled patients a class and once with all; "" for one that gives vectors alone.
        takes_sets: its tokens of expression are gene sets where there are any (``--gene-sets``).
        pairs: share of the training patients that it learns from; smaller shares are parts of larger ones.
        without: a cohort that it learns nothing from. Labels are not read of a method that lacks patients.
    """

    name: str
    what: str
    overrides: tuple[str, ...] | None = None
    reads: str = ""
    takes_sets: bool = False
    pairs: float = 1.0
    without: str = ""

    @property
    def whole(self) -> bool:
        """It learns from every training patient."""
        return self.pairs == 1.0 and not self.without


def _preset(name: str, what: str, *overrides: str) -> Method:
    return Method(name, what, (f"experiment={name}", *overrides))


def _ablation(name: str, what: str, *overrides: str) -> Method:
    return Method(name, what, ("experiment=full", f"name={name}", *overrides))


def _trained(name: str, what: str, reads: str, *overrides: str, takes_sets: bool = False) -> Method:
    return Method(name, what, (*overrides, f"name={name}"), reads, takes_sets)


METHODS = {
    method.name: method
    for method in (
        _preset("full", "the default"),
        _preset("ablation_noalign", "without alignment, in the loss and in the start"),
        _preset("ablation_noorth", "without orthogonality"),
        _preset("ablation_noxattn", "without cross-attention"),
        _ablation("ablation_nogenes", "without masked genes", "pretrain.weights.genes=0"),
        _ablation("ablation_nostart", "without the closed-form start", "pretrain.warm_start.kind=none"),
        _ablation(
            "ablation_notraining",
            "the closed-form start alone",
            "size.pretrain_steps=1",
            "optimizer.pretrain_lr=0",
        ),
        _ablation("ablation_nogroups", "one linear path for all organs", "paths_by=null"),
        replace(_ablation("full_half", "the default on half of the training patients"), pairs=0.5),
        replace(_ablation("full_quarter", "the default on a quarter of them"), pairs=0.25),
        replace(
            _ablation(
                "full_without_lihc", "the default on all cohorts but LIHC", "data.within.unseen=pooled"
            ),
            without="lihc",
        ),
        _preset("mirror", "MIRROR"),
        _preset("tangle", "TANGLE"),
        _preset("clip", "InfoNCE alone"),
        _preset("siglip", "SigLIP alone"),
        _trained("full_finetuned", "the default, fine-tuned on labels", "both", "experiment=full"),
        _trained(
            "slide_after_both",
            "pretrained on both, fine-tuned on slides alone",
            "slide",
            "experiment=full",
            "modality.finetune=wsi",
        ),
        _trained("slide_alone", "slides alone from the start", "slide", "experiment=ablation_wsi_only"),
        _trained("expression_alone", "expression alone", "expression", "experiment=ablation_omics_only"),
        _trained("nopretrain", "both, without pretraining", "both", "experiment=ablation_nopretrain"),
        _trained("abmil", "gated attention", "slide", "experiment=abmil"),
        _trained("clam", "gated attention with instance clustering (CLAM)", "slide", "experiment=clam"),
        _trained("mcat", "MCAT", "both", "experiment=mcat", takes_sets=True),
        _trained("survpath", "SurvPath", "both", "experiment=survpath", takes_sets=True),
        Method("ridge", "reduced-rank ridge on the pairs of all cohorts, the own weighing 3"),
        Method("ridge_own", "the same on the pairs of the own cohort alone"),
        Method("logistic", "mean and deviation of tiles; principal components of expression"),
        _preset("null_shuffled_pairs", "null: pretrained on pairs that do not belong together"),
        _trained("null_permuted_labels", "null: labels permuted", "both", "experiment=null_permuted_labels"),
        Method("null_random", "null: random vectors"),
        Method("null_site", "null: the site alone"),
    )
}
