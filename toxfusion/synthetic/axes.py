"""The fourteen injury axes: slide phenotypes, zones, time courses and expression programmes of rat genes.

Sizes and courses follow the reference tables that docs/explanation/virtual_study.md describes. Numbers of compounds,
doses and animals live in `cohort`; how lesions are drawn, in `parenchyma` and `lesions`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

COURSE_TIMES_H: tuple[float, ...] = (3.0, 6.0, 9.0, 24.0, 96.0, 192.0, 360.0, 696.0)
"""Hours of the eight sacrifices (single dose 3 to 24 h; repeated dose 4, 8, 15 and 29 days)."""

Course = tuple[float, float, float, float, float, float, float, float]
ABSENT: Course = (0, 0, 0, 0, 0, 0, 0, 0)


def at_time(course: Course, time_h: np.ndarray) -> np.ndarray:
    """Relative size of an effect at times (hours, any shape), linear in log time and flat beyond the ends."""
    return np.interp(np.log(time_h), np.log(COURSE_TIMES_H), course)


@dataclass(frozen=True)
class SlideEffect:
    """A phenotype that an axis shows in the slide.

    Args:
        phenotype: of `slide_spec.PHENOTYPES`.
        weight: phenotype severity for each unit of the axis' severity.
        offset: axis severity at which the phenotype starts.
        course: relative size over `COURSE_TIMES_H`.
    """

    phenotype: str
    weight: float = 1.0
    offset: float = 0.0
    course: Course = (1, 1, 1, 1, 1, 1, 1, 1)


@dataclass(frozen=True)
class Axis:
    """One axis of injury or adaptation.

    Args:
        name: A1 to A14; title: in words.
        share: proportion of visibly active compounds that load on it, before partners are drawn.
        zones: where its lesions lie, with probabilities over compounds.
        slide, expression: visibility 0 (none) to 3; expression visibility scales the programme.
        slide_course, expression_course: relative size at `COURSE_TIMES_H`.
        effects: what it shows in the slide.
        programme: log2 fold change at a high dose, by rat gene symbol.
        focal: extent differs between pieces of the liver, so that slide and RNA disagree more.
        coupling: share of the expression change that follows the lesion in the RNA piece and not the drive.
    """

    name: str
    title: str
    share: float
    zones: tuple[tuple[str, float], ...]
    slide: float
    expression: float
    slide_course: Course
    expression_course: Course
    effects: tuple[SlideEffect, ...]
    programme: dict[str, float]
    focal: bool = False
    coupling: float = 0.0


def genes(text: str) -> dict[str, float]:
    """Read 'Symbol+1.5 Symbol-2' into a mapping."""
    pairs = (
        (item[:position], float(item[position:]))
        for item in text.split()
        if (position := max(item.rfind("+"), item.rfind("-")))
    )
    return dict(pairs)


AXES: tuple[Axis, ...] = (
    Axis(
        "A1", "CAR/PXR induction", 0.50, (("centrilobular", 0.9), ("diffuse", 0.1)), 1.5, 3.0,
        (0, 0, 0.08, 0.3, 0.7, 0.85, 1, 1), (0.3, 0.6, 0.7, 0.9, 1, 1, 1, 1),
        (SlideEffect("hypertrophy"),),
        genes(
            "Abcc3+4.9 Aldh1a1+5.3 Aldh1a7+4.5 Cyp3a2+3.5 Ces2c+3.4 Ephx1+3.0 Akr7a3+2.9 Ces2a+2.8 Gsta3+6.5 "
            "Gsta5+2.4 Gadd45b+2.3 Gstm1+1.9 Ugt2b17+3.5 Por+0.8 Alas1+0.5 Cyp2b1+5 Cyp2b2+4 Cyp3a23/3a1+3 "
            "Scd-3.4 Car3-2.5 Cyp7a1-2.6 Stac3-3.8 Asns+0.8 Psat1+0.8 Phgdh+0.8 Gpx2+1.5 Nqo1+0.8"
        ),
    ),
    Axis(
        "A2", "PPARalpha activation", 0.08, (("diffuse", 0.8), ("centrilobular", 0.2)), 2.0, 3.0,
        (0.1, 0.25, 0.4, 0.6, 0.8, 0.9, 1, 1), (0.4, 0.7, 0.9, 1, 1, 1, 1, 1),
        (
            SlideEffect("eosinophilic_change"),
            SlideEffect("hypertrophy", 0.8),
            SlideEffect("glycogen_loss", 0.5),
            SlideEffect("mitosis", 0.7, 0.0, (0, 0, 0.2, 1, 1, 0.3, 0, 0)),
        ),
        genes(
            "Acot1+10.4 Aqp3+9.5 Fabp3+6.2 Hdc+5.3 Ehhadh+5.2 Vnn1+4.9 Cyp4a1+4.3 Cpt1b+4.3 Aig1+4.0 Eci1+3.6 "
            "Acaa1a+3.4 Me1+3.0 Ech1+2.9 Acox1+2.8 Decr1+2.5 Acot2+2.2 Hadhb+2.0 Pex11a+1.6 Hmgcs2+1.1 Pdk4+1.5 "
            "Cd36+3.3 Fgf21+2.7 Stac3-1.9 Lox-2.5 Apoc3-1.9 Cyp3a9-2.8 Asns+0.8 Psat1+0.8 Phgdh+0.8 Gpx2+1.5"
        ),
    ),
    Axis(
        "A3", "AhR activation", 0.10, (("centrilobular", 1.0),), 0.6, 3.0,
        (0, 0, 0.05, 0.2, 0.5, 0.7, 0.9, 1), (0.7, 0.9, 1, 1, 1, 1, 1, 1),
        (SlideEffect("hypertrophy", 0.6),),
        genes(
            "Cyp1a1+5 Cyp1a2+2.5 Cyp1b1+3 Nqo1+1.9 Tiparp+1.5 Ahrr+1.5 Ugt1a6+2 Aldh3a1+3 Gsta2+1 Ugt1a7c+1.5 "
            "Exoc3+0.7 Xdh+0.7 Nfe2l2+0.5 Cyp2s1+1 Cyp2c11-1.5"
        ),
    ),
    Axis(
        "A4", "Steatosis", 0.11, (("centrilobular", 0.4), ("periportal", 0.3), ("diffuse", 0.3)), 3.0, 1.5,
        (0.15, 0.3, 0.45, 0.65, 0.85, 0.95, 1, 1), (0.2, 0.5, 0.7, 1, 0.9, 0.9, 0.9, 0.9),
        (SlideEffect("vacuolization"),),
        genes(
            "Plin2+1.5 Cidec+2 Plin4+2 Fabp4+2 Cidea+2.5 G0s2+1 Angptl4+1.5 Mogat1+1.5 Scd+1.5 Fasn+1 Srebf1+1 "
            "Acly+0.8 Pnpla3+1 Mttp-0.6 Apob-0.4 Cyp2e1-0.7"
        ),
        coupling=0.3,
    ),
    Axis(
        "A5", "Necrosis", 0.30, (("centrilobular", 0.5), ("periportal", 0.15), ("random", 0.35)), 3.0, 2.5,
        (0.2, 0.45, 0.7, 1, 0.8, 0.65, 0.6, 0.65), (0.5, 0.9, 1, 0.9, 0.7, 0.6, 0.5, 0.5),
        (
            SlideEffect("necrosis"),
            SlideEffect("single_cell_necrosis", 1.0, 0.0, (1, 1, 1, 1, 0.9, 0.7, 0.6, 0.6)),
            SlideEffect("hemorrhage", 0.8, 1.2),
        ),
        genes(
            "Hmox1+2.5 Atf3+3 Myc+2 Jun+1.5 Fos+2.5 Egr1+2.5 Gdf15+2 Krt8+1 Krt18+1 Tnfrsf12a+2.5 Anxa2+2 "
            "S100a11+1.2 Lgals3+2 Spp1+2.5 Cyp2e1-1.5 Cyp1a2-1.5 Glul-1 Cyp2c11-2"
        ),
        focal=True, coupling=0.5,
    ),
    Axis(
        "A6", "Inflammation", 0.16, (("periportal", 0.45), ("portal", 0.25), ("random", 0.3)), 2.0, 2.0,
        (0.1, 0.2, 0.35, 0.7, 0.8, 0.9, 0.95, 1), (0.2, 0.5, 0.8, 1, 0.9, 0.8, 0.8, 0.8),
        (SlideEffect("infiltration"),),
        genes(
            "Lcn2+4 A2m+4 Ccl2+3 Cxcl1+3 Cxcl10+2 Il1b+1.5 Icam1+1 Saa4+1 Orm1+1.5 Hp+1 Cd68+1 Lyz2+1 Ptprc+1 "
            "Cd74+0.8 C3+0.5 Hamp+1.5 Timp1+2"
        ),
        focal=True, coupling=0.5,
    ),
    Axis(
        "A7", "Cholestasis and ductular reaction", 0.11, (("portal", 1.0),), 3.0, 2.0,
        (0.3, 0.5, 0.7, 0.9, 0.95, 1, 1, 1), (0.3, 0.6, 0.8, 1, 1, 1, 1, 1),
        (
            SlideEffect("bile_duct_proliferation", 1.0, 0.0, (0, 0, 0, 0.1, 0.55, 0.8, 0.95, 1)),
            SlideEffect("edema", 0.9, 0.6, (0.3, 0.5, 0.8, 1, 0.6, 0.3, 0.2, 0.2)),
        ),
        genes(
            "Krt19+2 Krt7+2 Sox9+1.5 Epcam+1.5 Spp1+3 Cldn4+2 Cldn7+1.5 Mmp7+1.5 Abcc4+2 Abcb1b+2.5 Slc51b+2.5 "
            "Nr0b2+1 Ggt1+1.5 Cyp7a1-2 Cyp8b1-2 Slc10a1-1"
        ),
        coupling=0.4,
    ),
    Axis(
        "A8", "Fibrosis", 0.05, (("centrilobular", 0.55), ("periportal", 0.45)), 2.0, 2.0,
        (0, 0, 0, 0.02, 0.2, 0.45, 0.75, 1), (0, 0, 0.05, 0.1, 0.4, 0.7, 0.9, 1),
        (SlideEffect("fibrosis"),),
        genes(
            "Col1a1+3 Col1a2+2.5 Col3a1+2.5 Acta2+1.5 Timp1+2.5 Lum+1.5 Dcn+1 Lox+2 Loxl2+1 Tgfb1+1 Pdgfrb+1 "
            "Des+1 Vim+1 Thbs2+1.5 Mmp2+1.5 Ccn2+1.5"
        ),
        focal=True, coupling=0.4,
    ),
    Axis(
        "A9", "Nrf2 and oxidative stress", 0.30, (("centrilobular", 1.0),), 0.5, 3.0,
        (0.4, 0.6, 0.8, 0.9, 0.9, 0.9, 1, 1), (0.7, 1, 1, 0.8, 0.7, 0.7, 0.7, 0.7),
        (SlideEffect("eosinophilic_change", 1.0, 0.8),),
        genes(
            "Nqo1+2.5 Hmox1+2 Gclc+1.2 Gclm+1.2 Srxn1+2 Txnrd1+1.5 G6pd+1.5 Gsr+1 Gsta2+1.5 Gstp1+2 Akr1b8+3 "
            "Akr7a3+2.5 Abcc2+1 Abcc4+1.5 Slc7a11+2 Gpx2+2 Mt1a+3 Osgin1+1.5"
        ),
    ),
    Axis(
        "A10", "DNA damage and p53", 0.09, (("periportal", 0.5), ("midzonal", 0.5)), 1.5, 3.0,
        (0, 0, 0.02, 0.2, 0.45, 0.65, 0.85, 1), (0.3, 0.7, 0.9, 1, 0.9, 0.9, 0.9, 0.9),
        (SlideEffect("anisonucleosis"), SlideEffect("single_cell_necrosis", 0.6, 0.8)),
        genes(
            "Cdkn1a+2.5 Mdm2+1.5 Ccng1+2 Phlda3+1.8 Bax+1 Aen+1.5 Btg2+1.2 Gdf15+1.5 Tp53inp1+1 Ddit4+0.8 "
            "Sesn1+1 Zmat3+1 Plk2+1 Rrm2b+0.7 Mgmt+1 Fas+0.7 Top2a-1"
        ),
    ),
    Axis(
        "A11", "Endoplasmic reticulum stress and integrated stress response", 0.24, (("centrilobular", 1.0),),
        0.0, 3.0, ABSENT, (0.6, 0.9, 1, 1, 0.7, 0.6, 0.6, 0.6), (),
        genes(
            "Asns+2.4 Ddit3+2 Atf3+2 Atf4+0.7 Trib3+3 Chac1+2 Sesn2+1.5 Nupr1+3 Psat1+2 Phgdh+2 Herpud1+1 "
            "Hspa5+1 Dnajb9+1 Sdf2l1+1.5 Pdia4+0.8 Vldlr+1.5 Fgf21+2.5"
        ),
    ),
    Axis(
        "A12", "Phospholipidosis", 0.04, (("periportal", 0.5), ("diffuse", 0.5)), 1.5, 2.0,
        (0, 0, 0, 0.15, 0.45, 0.7, 0.9, 1), (0.1, 0.2, 0.3, 0.5, 0.8, 0.9, 1, 1),
        (SlideEffect("phospholipidosis"),),
        genes(
            "Npc1+0.6 Lpcat3+0.5 Lss+1 Sqle+1.5 Hmgcs1+1.2 Hmgcr+1 Idi1+1.5 Ldlr+0.8 Insig1+1 Stard4+1 Lamp2+0.4 "
            "Ctsd+0.4 Gla+0.4 Gpnmb+1.5 Abcg1+0.5 Pla2g15+0.5"
        ),
    ),
    Axis(
        "A13", "Glycogen change", 0.14, (("periportal", 0.7), ("diffuse", 0.3)), 1.5, 1.0,
        (0.5, 0.7, 0.9, 1, 0.8, 0.7, 0.7, 0.7), (0.5, 0.8, 0.9, 1, 0.8, 0.7, 0.7, 0.7),
        (SlideEffect("glycogen_gain"), SlideEffect("glycogen_loss")),
        genes(
            "Pck1+1.5 G6pc1+1 Igfbp1+2.5 Ppargc1a+1.5 Pdk4+2 Cpt1a+1 Hmgcs2+0.8 Angptl4+1.5 Sds+2 Tat+1 Gck-2.5 "
            "Srebf1-1.5 Fasn-1.5 Scd-2 Thrsp-2 Gys2-0.4"
        ),
    ),
    Axis(
        "A14", "Mitosis", 0.22, (("periportal", 0.5), ("midzonal", 0.5)), 2.0, 3.0,
        (0, 0.1, 0.3, 1, 1, 0.7, 0.5, 0.4), (0.1, 0.2, 0.4, 1, 0.9, 0.5, 0.3, 0.2),
        (SlideEffect("mitosis"),),
        genes(
            "Top2a+1.0 Cdk1+1.3 Ccnb1+1.3 Mki67+2 Ccna2+2 Ccnb2+2 Cdc20+2 Aurka+1 Birc5+1.5 Ube2c+1.5 Rrm2+2 "
            "Mcm5+1 Mcm6+1 Tyms+1 Pcna+0.7"
        ),
    ),
)  # fmt: skip

AXIS_NAMES: tuple[str, ...] = tuple(axis.name for axis in AXES)
INDEX: dict[str, int] = {name: position for position, name in enumerate(AXIS_NAMES)}

AFFINITY: dict[tuple[str, str], float] = {
    ("A5", "A6"): 5.0, ("A5", "A14"): 3.0, ("A5", "A9"): 2.5, ("A5", "A11"): 2.0, ("A7", "A6"): 3.0,
    ("A7", "A8"): 4.0, ("A7", "A11"): 3.0, ("A8", "A6"): 5.0, ("A8", "A4"): 3.0, ("A1", "A4"): 2.0,
    ("A1", "A9"): 2.0, ("A1", "A3"): 2.0, ("A2", "A14"): 3.0, ("A10", "A5"): 2.0,
}  # fmt: skip
"""How much likelier than chance two axes meet in one compound, after the co-occurrence of findings."""


def affinity(first: int, second: int) -> float:
    """Factor on the chance that axis ``second`` joins axis ``first`` in a compound (positions in `AXES`)."""
    a, b = AXIS_NAMES[first], AXIS_NAMES[second]
    return AFFINITY.get((a, b), AFFINITY.get((b, a), 1.0))
