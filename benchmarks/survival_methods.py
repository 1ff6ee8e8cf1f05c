"""Rows of the survival benchmark: networks, their linear shadow and baselines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

AGE, AGE_AND_SEX = ("age",), ("age", "is_female")


@dataclass(frozen=True)
class Method:
    """One row of the tables.

    Attributes:
        name: of the method.
        what: it is, in the words of the document.
        baseline: of ``fit_baseline``, fitted cohort by cohort; "pooled" for the shadow; "" for a network.
        clinical: columns that it reads.
        overrides: of ``toxfusion.train``, for a network.
        pretrained_as: network whose pretraining it shares; its own where empty.
    """

    name: str
    what: str
    baseline: str = ""
    clinical: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    pretrained_as: str = ""


def _networks() -> Iterator[Method]:
    reads = (("both", "slides and expression", ()), ("expression", "expression", ("modality.finetune=omics",)),
             ("slides", "slides", ("modality.finetune=wsi",)))  # fmt: skip
    for name, words, overrides in reads:
        for clinical in (AGE_AND_SEX, ()):
            yield Method(
                f"full_{name}" + ("_clinical" if clinical else ""),
                f"`experiment=survival`, reads {words}" + (", age and sex" if clinical else ""),
                clinical=clinical,
                overrides=(f"clinical=[{','.join(clinical)}]", *overrides),
                pretrained_as="full_both_clinical",
            )


METHODS = {
    method.name: method
    for method in (
        *_networks(),
        Method("pooled_cox_clinical", "linear shadow: one ridge Cox of all cohorts, age, sex", "pooled", AGE_AND_SEX),
        Method("pooled_cox", "the same without age and sex", "pooled"),
        Method("ridge_cox_clinical", "ridge Cox on 30 components and age, in each cohort", "pca_clinical_cox", AGE),
        Method("ridge_cox", "ridge Cox on 30 components, in each cohort", "pca_cox"),
        Method("coxnet_clinical", "elastic-net Cox on every gene and age", "genes_clinical_coxnet", AGE),
        Method("coxnet", "elastic-net Cox on every gene", "genes_coxnet"),
        Method("rsf_clinical", "random survival forest on every gene and age", "genes_clinical_rsf", AGE),
        Method("rsf", "random survival forest on every gene", "genes_rsf"),
        Method("age", "age alone", "clinical_cox", AGE),
        Method("age_sex", "age and sex", "clinical_cox", AGE_AND_SEX),
    )
}  # fmt: skip
