"""Genes of the virtual study: programme genes, liver and housekeeping genes, and families as background.

Symbols are those of the rat genome database; expression levels and noise of each gene are drawn here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from toxfusion.synthetic.axes import AXES
from toxfusion.synthetic.randomness import stream

FAMILIES: dict[str, str] = {
    "Mrpl": "1-4,10,12-23,27-28,30,32-55,57-58",
    "Mrps": "2,5-7,9-12,14-17,21-28,30-31,33-36",
    "Psma": "1-8",
    "Psmb": "1-11",
    "Psmc": "1-6",
    "Psmd": "1-14",
    "Ndufa": "1-13",
    "Ndufb": "2-11",
    "Ndufs": "1-8",
    "Ndufv": "1-3",
    "Ndufaf": "1-8",
    "Timm": "9-10,13,21-23,29,44,50",
    "Tomm": "5-7,20,22,34,40,70",
    "Slc25a": "1-6,10-48,51-52,54",
    "Slc22a": "1-3,5-8,12-13,15,17-18,20,22-23,25",
    "Slc2a": "1-10,12-13",
    "Slc7a": "1-15",
    "Slc6a": "1-9,11-20",
    "Slc16a": "1-8,10-14",
    "Slc38a": "1-11",
    "Slc39a": "1-14",
    "Slc30a": "1-10",
    "Slc35f": "1-6",
    "Abca": "1-9,12-17",
    "Abcd": "1-4",
    "Cct": "2-5,7-8",
    "Usp": "1-5,7-8,10-16,18-22,24-26,28-40,42-51,53-54",
    "Rab": "10,12-15,17-21,23-26,28-32,34-38,42-44",
    "Tmem": (
        "9,11,17-19,25-26,33,37,40,42-44,47,51-54,59-60,62,64-65,67-72,74,79-82,88-89,"
        "91,95,97-98,100-102,104,107-110,114-117,119,121,123,125,127-131,134-135,138-141,"
        "143-145,147,154,156,158-160,163-165,168-169,171,174-175,177,179,181-182,186,"
        "189-190,192,196,198-199,201-205,207-223,225,230-237,240-243,245,247-248,250-254,"
        "256,259-260,262-263,266-270,273"
    ),
    "Wdr": "1,3-7,11-13,17-20,24-27,31,33-38,41,43-49,53-55,59-64,66,70,72-78,81-83,86,88-93,95,97",
    "Ttc": "1,3-5,8-9,12-14,16-17,19,22-29,32-34,36-38",
    "Ankrd": "1-2,6-7,9-12,16-17,22-24,26-29,33,35,37,39-40,42,44,46,49-50,52-55,61,63,65-66",
    "Klhl": "1-15,17-18,20-26,28-36,38,40-42",
    "Fbxo": "2-11,15-17,21-22,24-25,28,30-34,36,38-48",
    "Fbxl": "2-8,12-13,15-22",
    "Trim": "2-3,5-11,13-17,21,23-29,31-37,39-42,44-47,50,52,54-55,58-59,62-63,65-69,71-72,80",
    "Arhgap": "1,4-6,8-10,12,15,17-33,35-36,39-40,42,44-45",
    "Arhgef": "1-7,9-12,15-19,25-26,28,33,37,39-40",
    "Dnajc": "1-19,21-22,24-25,27-28,30",
    "Dnaja": "1-4",
    "Med": "1,4,6-31",
    "Lrrc": "1-4,6-7,9-10,14-15,17-20,23-32,34,38-43,45-47,49,51-52,55-59,61,63,66,69,71-73",
    "Lsm": "1-8,10-12",
    "Cops": "2-6,8-9",
    "Exosc": "1-10",
    "Gtf2h": "1-5",
    "Vps": "8,11,16,18,25,28-29,35-36,39,41,45,50,52-54,72",
    "Snx": "1-22,24-25,27,29-33",
    "Itga": "1-11",
    "Itgb": "1-8",
    "Serpina": "1,4-7,9-12,16",
    "Agpat": "1-5",
    "Acot": "1-9,11-13",
    "Aldh1a": "1-3,7",
    "Ugt2b": "10,15,17,35,37",
    "Gstm": "1-7",
    "Gsta": "1-6",
    "Gstt": "1-4",
    "Fads": "1-3,6",
    "Elovl": "1-7",
    "Nudt": "1-19,21-22",
    "Prdx": "1-6",
    "Hspb": "1-3,6-9,11",
    "Cyp2c": "7,11-13,22-24",
    "Cyp2d": "1-5",
    "Cyp2j": "4,10,16",
    "Cyp4f": "1,4-6,17-18,37,39-40",
    "Cyp2a": "1-3",
    "Cyp2b": "1-3,12,15,21",
    "Cyp3a": "2,9,18,62",
    "Cyp4a": "1-3,8",
}
"""Numbered members of gene families, as ranges."""

_RIBOSOMAL = (
    "Rpl10 Rpl10a Rpl10l Rpl11 Rpl12 Rpl13 Rpl13a Rpl14 Rpl15 Rpl17 Rpl18 Rpl18a Rpl19 Rpl21 Rpl22 "
    "Rpl22l1 Rpl23 Rpl23a Rpl24 Rpl26 Rpl27 Rpl27a Rpl28 Rpl29 Rpl3 Rpl30 Rpl30l1 Rpl31 Rpl32 Rpl34 Rpl35 "
    "Rpl35a Rpl36 Rpl36a Rpl37 Rpl37a Rpl38 Rpl39 Rpl39l Rpl3l Rpl4 Rpl41 Rpl5 Rpl6 Rpl7 Rpl7a Rpl7l1 "
    "Rpl8 Rpl9 Rplp0 Rplp0l1 Rplp1 Rplp2 Rps10 Rps10l1 Rps11 Rps12 Rps13 Rps14 Rps15 Rps15a Rps16 Rps17 "
    "Rps18 Rps18l1 Rps19 Rps19l2 Rps2 Rps20 Rps21 Rps23 Rps24 Rps25 Rps27 Rps27a Rps27l Rps28 Rps29 Rps3 "
    "Rps3a Rps4x Rps4y2 Rps5 Rps6 Rps7 Rps8 Rps9 Rps9l1 "
)
RIBOSOMAL: tuple[str, ...] = tuple(_RIBOSOMAL.split())
_LIVER = (
    "Alb Apoa1 Apoa2 Apoa4 Apoa5 Apob Apoc1 Apoc2 Apoc4 Apoe Apoh Apom Tf Ttr Fga Fgb Fgg F2 F5 F7 F9 F10 "
    "F11 F12 Plg Serpinc1 Serpind1 Serpinf1 Serpinf2 Serping1 Fetub Hpx Kng1 Itih1 Itih2 Itih3 Itih4 C1s "
    "C2 C4a C5 C6 C8a C8b C8g C9 Cfb Cfh Cfi Masp1 Masp2 Mbl1 Mbl2 Rbp4 Gc Vtn Proc Pros1 Hrg Azgp1 Ambp "
    "Tat Hpd Fah Pah Hgd Gnmt Mat1a Bhmt Bhmt2 Cbs Cth Ahcy Ass1 Asl Arg1 Cps1 Otc Nags Glud1 Gls2 Gpt "
    "Got1 Got2 Sds Tdo2 Kmo Haao Kynu Aldob Fbp1 Pck2 Pklr Gapdh Pgk1 Eno1 Tpi1 Ldha Pgm1 Gys2 Pygl Gbe1 "
    "Agl Ugp2 Acss2 Acaca Acacb Elovl6 Gpam Dgat1 Dgat2 Lpin1 Lpin2 Pparg Ppara Rxra Nr1h3 Nr1h4 Nr1i2 "
    "Nr1i3 Hnf1a Hnf4a Foxa1 Foxa2 Foxa3 Cebpa Cebpb Onecut1 Onecut2 Prox1 Cyp27a1 Cyp7b1 Cyp51 Cyp1a2 "
    "Cyp2e1 Akr1c14 Hsd11b1 Hsd17b6 Hsd17b13 Hsd3b5 Dio1 Thrsp Igf1 Igfals Igfbp2 Igfbp3 Igfbp4 Ghr Prlr "
    "Lifr Socs2 Socs3 Cish Bcl6 Stat5b Nr1d1 Nr1d2 Noct Usp2 Per1 Per2 Per3 Dbp Tef Hlf Arntl Clock Npas2 "
    "Cry1 Cry2 Bhlhe40 Ciart Irs1 Irs2 Insr Slco1a1 Slco1a4 Slco1b2 Slco2b1 Slc10a1 Slc10a2 Abcb11 Abcb4 "
    "Abcb1a Abcc6 Abcg5 Abcg8 Actb B2m Hprt1 Ppia Tbp Ywhaz Sdha Ubc Tuba1a Tuba1b Eef1a1 Eef2 Hspa8 "
    "Hsp90ab1 Cat Sod1 Sod2 Gpx1 Gpx4 Ftl1 Fth1 Tfrc Slc40a1 "
)
LIVER: tuple[str, ...] = tuple(_LIVER.split())

FACTOR_LEADERS: dict[str, str] = {
    "growth_hormone": "Cish Socs2 Onecut1 Myc Igf1 Igfals Cyp2c11 Hsd3b5",
    "clock": "Nr1d1 Nr1d2 Noct Usp2 Per1 Per2 Per3 Dbp Tef Arntl Npas2 Bhlhe40 Ciart",
    "feeding": "Igfbp1 Irs2 Gck Pnpla3 Pck1 Srebf1 Fasn Scd Thrsp Sds Tat",
    "bile_acid": "Cyp7a1 Nr0b2 Cyp8b1 Slc10a1 Slc51b Cyp7b1",
    "stress": "Lcn2 Hp Orm1 Mt1a Fkbp5 Tat A2m",
}
"""The five factors in which control animals differ, and the genes that lead each of them."""
FACTORS: tuple[str, ...] = tuple(FACTOR_LEADERS)

MEAN_LEVEL, SD_LEVEL, LEVEL_RANGE = 6.5, 2.3, (2.5, 14.5)
FACTOR_SHARE = 0.40
MEDIAN_SD = 0.16
_ABUNDANT = "Alb Apoa1 Apoa2 Apoe Tf Ttr Fga Fgb Fgg Serpinc1 Hpx Rbp4 Aldob Eef1a1 Ftl1 Fth1"
_CATALOGUE_SEED = 20_250_313


@dataclass(frozen=True)
class GeneCatalogue:
    """The genes of the array and how they vary between control animals; one catalogue for all studies.

    Attributes:
        symbols: [G], unique.
        level: [G] mean log2 intensity of controls.
        sd: [G] residual SD of one animal, log2.
        factor_loadings: [G, 5] of the animal factors; their squares sum to `FACTOR_SHARE` of ``sd`` squared on
            average.
        programme: [A, G] log2 fold change at high dose on the array's scale, before visibility.
    """

    symbols: tuple[str, ...]
    level: np.ndarray
    sd: np.ndarray
    factor_loadings: np.ndarray
    programme: np.ndarray

    def __len__(self) -> int:
        return len(self.symbols)


def family_members(prefix: str, ranges: str) -> list[str]:
    """Symbols of a family: 'Psma', '1-3,5' gives Psma1, Psma2, Psma3, Psma5."""
    members = []
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        members += [f"{prefix}{number}" for number in range(int(first), int(last or first) + 1)]
    return members


def gene_symbols() -> list[str]:
    """All symbols, programme genes first, in a fixed order without repeats."""
    named = [symbol for axis in AXES for symbol in axis.programme]
    named += [symbol for leaders in FACTOR_LEADERS.values() for symbol in leaders.split()]
    background = [symbol for prefix, ranges in FAMILIES.items() for symbol in family_members(prefix, ranges)]
    return list(dict.fromkeys([*named, *LIVER, *RIBOSOMAL, *background]))


def compressed(log2fc: np.ndarray | float) -> np.ndarray:
    """Fold changes as an array shows them: x / (1 + |x| / 6), so that +10.4 in counts reads +3.8."""
    x = np.asarray(log2fc, dtype=np.float64)
    return x / (1 + np.abs(x) / 6)


@cache
def gene_catalogue() -> GeneCatalogue:
    """The catalogue; drawn from a seed of its own, so that every study measures the same array."""
    symbols = gene_symbols()
    n = len(symbols)
    position = {symbol: index for index, symbol in enumerate(symbols)}
    rng = stream(_CATALOGUE_SEED, "genes")
    level = np.clip(rng.normal(MEAN_LEVEL, SD_LEVEL, n), 3.0, 13.5)
    for symbol in (*_ABUNDANT.split(), *RIBOSOMAL):
        level[position[symbol]] = rng.uniform(11.5, 13.8)
    # Low intensities are noisier; the spread between genes follows the counts of control rats.
    sd = MEDIAN_SD * np.exp(rng.normal(0, 0.35, n)) * (1 + 0.5 * np.clip((5.5 - level) / 2.5, 0, 1))
    loadings = rng.normal(0, 1, (n, len(FACTORS)))
    for factor, leaders in enumerate(FACTOR_LEADERS.values()):
        for symbol in leaders.split():
            loadings[position[symbol], factor] = rng.choice([-1.0, 1.0]) * rng.uniform(2.5, 4.0)
            sd[position[symbol]] = max(sd[position[symbol]], 0.3)
    loadings *= (sd * np.sqrt(FACTOR_SHARE / len(FACTORS)))[:, None]
    programme = np.zeros((len(AXES), n))
    for place, axis in enumerate(AXES):
        for symbol, change in axis.programme.items():
            programme[place, position[symbol]] = compressed(change)
    return GeneCatalogue(tuple(symbols), level, sd, loadings, programme)
